"""Actions drawn from the policy's own distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlrun.core.distributions import Distribution
from rlrun.core.exploration.base import Exploration
from rlrun.core.exploration.random_actions import random_actions
from rlrun.core.ranges import check_not_negative


@dataclass(kw_only=True)
class StochasticSampling(Exploration):
    """Samples the distribution; its mode when not exploring."""

    random_timesteps: int = 0
    """Env steps at the start of training with random actions instead (see `random_actions`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "random_timesteps")

    def get_exploration_action(
        self, action_dist: Distribution, timestep: int, explore: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        if not explore:
            actions = action_dist.mode()
            return actions, np.zeros(len(actions), np.float32)
        if timestep < self.random_timesteps:
            return random_actions(self.action_space, action_dist, self.rng)
        return action_dist.sample(self.rng)
