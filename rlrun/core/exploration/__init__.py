"""How a policy's distribution becomes actions: one class a file."""

from rlrun.core.exploration.base import Exploration
from rlrun.core.exploration.epsilon_greedy import EpsilonGreedy
from rlrun.core.exploration.stochastic_sampling import StochasticSampling

__all__ = ["EpsilonGreedy", "Exploration", "StochasticSampling"]
