"""How a policy's distribution becomes actions: one class a file."""

from rlrun.core.exploration.base import Exploration
from rlrun.core.exploration.epsilon_greedy import EpsilonGreedy
from rlrun.core.exploration.gaussian_noise import GaussianNoise
from rlrun.core.exploration.ornstein_uhlenbeck_noise import OrnsteinUhlenbeckNoise
from rlrun.core.exploration.per_worker import (
    PerWorkerEpsilonGreedy,
    PerWorkerGaussianNoise,
    PerWorkerOrnsteinUhlenbeckNoise,
)
from rlrun.core.exploration.soft_q import SoftQ
from rlrun.core.exploration.stochastic_sampling import StochasticSampling
from rlrun.core.exploration.uniformly_random import Random

__all__ = [
    "EpsilonGreedy",
    "Exploration",
    "GaussianNoise",
    "OrnsteinUhlenbeckNoise",
    "PerWorkerEpsilonGreedy",
    "PerWorkerGaussianNoise",
    "PerWorkerOrnsteinUhlenbeckNoise",
    "Random",
    "SoftQ",
    "StochasticSampling",
]
