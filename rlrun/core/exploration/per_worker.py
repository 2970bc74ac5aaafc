"""Explorations that are constant in time and differ from env to env, so that together they cover
all degrees (Horgan et al., 2018, arXiv:1803.00933, sec. 4.1)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from rlrun.core.distributions import Distribution
from rlrun.core.exploration.base import Exploration
from rlrun.core.exploration.epsilon_greedy import EpsilonGreedy, draw_epsilon_greedily
from rlrun.core.exploration.gaussian_noise import GaussianNoise
from rlrun.core.exploration.ornstein_uhlenbeck_noise import OrnsteinUhlenbeckNoise
from rlrun.core.schedules import ScheduleLike

BASE, ALPHA = 0.4, 7.0
"""Those of the paper."""


def degrees(exploration: Exploration, num_rows: int) -> np.ndarray:
    """0.4 ** (1 + 7 i / (N - 1)) for each env of a worker, [num_rows], where it is number i of the
    N envs of all workers; 0.4 if it is alone."""
    number = max(exploration.worker_index - 1, 0) * num_rows + np.arange(num_rows)
    total = max(exploration.num_workers, 1) * num_rows
    return BASE ** (1.0 + ALPHA * number / max(total - 1, 1))


@dataclass(kw_only=True)
class PerWorkerEpsilonGreedy(EpsilonGreedy):
    """Epsilon-greedy with a constant epsilon for each env of each worker, see `degrees`."""

    initial_epsilon: float = field(init=False, default=BASE)
    final_epsilon: float = field(init=False, default=BASE)
    warmup_timesteps: int = field(init=False, default=0)
    epsilon_timesteps: int = field(init=False, default=0)
    epsilon_schedule: ScheduleLike | None = field(init=False, default=None)

    def get_exploration_action(
        self, action_dist: Distribution, timestep: int, explore: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        num_rows = len(action_dist.inputs)
        epsilons = degrees(self, num_rows) if explore else 0.0
        return draw_epsilon_greedily(action_dist, epsilons, self.rng)


@dataclass(kw_only=True)
class PerWorkerGaussianNoise(GaussianNoise):
    """Gaussian noise whose scale is constant for each env of each worker, see `degrees`."""

    initial_scale: float = field(init=False, default=1.0)
    final_scale: float = field(init=False, default=1.0)
    scale_timesteps: int = field(init=False, default=0)
    scale_schedule: ScheduleLike | None = field(init=False, default=None)

    def scale(self, timestep: int, num_rows: int) -> np.ndarray:
        return degrees(self, num_rows).astype(np.float32)[:, None]


@dataclass(kw_only=True)
class PerWorkerOrnsteinUhlenbeckNoise(OrnsteinUhlenbeckNoise):
    """Ornstein-Uhlenbeck noise whose scale is constant for each env of each worker, see
    `degrees`."""

    initial_scale: float = field(init=False, default=1.0)
    final_scale: float = field(init=False, default=1.0)
    scale_timesteps: int = field(init=False, default=0)
    scale_schedule: ScheduleLike | None = field(init=False, default=None)

    def scale(self, timestep: int, num_rows: int) -> np.ndarray:
        return degrees(self, num_rows).astype(np.float32)[:, None]
