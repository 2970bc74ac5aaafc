"""Actions that have nothing to do with the policy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlrun.core.distributions import Distribution
from rlrun.core.exploration.base import Exploration
from rlrun.core.exploration.random_actions import random_actions


@dataclass(kw_only=True)
class Random(Exploration):
    """Random actions (see `random_actions`); the policy's mode when not exploring."""

    def get_exploration_action(
        self, action_dist: Distribution, timestep: int, explore: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        if explore:
            return random_actions(self.action_space, action_dist, self.rng)
        actions = action_dist.mode()
        return actions, np.zeros(len(actions), np.float32)
