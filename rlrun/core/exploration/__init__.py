"""How a policy's distribution becomes actions: one class a file."""

from rlrun.core.exploration.base import Exploration
from rlrun.core.exploration.curiosity import Curiosity
from rlrun.core.exploration.epsilon_greedy import EpsilonGreedy
from rlrun.core.exploration.gaussian_noise import GaussianNoise
from rlrun.core.exploration.ornstein_uhlenbeck_noise import OrnsteinUhlenbeckNoise
from rlrun.core.exploration.parameter_noise import ParameterNoise
from rlrun.core.exploration.per_worker import (
    PerWorkerEpsilonGreedy,
    PerWorkerGaussianNoise,
    PerWorkerOrnsteinUhlenbeckNoise,
)
from rlrun.core.exploration.re3 import RE3
from rlrun.core.exploration.rnd import RND
from rlrun.core.exploration.soft_q import SoftQ
from rlrun.core.exploration.stochastic_sampling import StochasticSampling
from rlrun.core.exploration.uniformly_random import Random

__all__ = [
    "RE3",
    "RND",
    "Curiosity",
    "EpsilonGreedy",
    "Exploration",
    "GaussianNoise",
    "OrnsteinUhlenbeckNoise",
    "ParameterNoise",
    "PerWorkerEpsilonGreedy",
    "PerWorkerGaussianNoise",
    "PerWorkerOrnsteinUhlenbeckNoise",
    "Random",
    "SoftQ",
    "StochasticSampling",
]
