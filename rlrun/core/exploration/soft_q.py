"""Discrete actions drawn by how much better their values are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from rlrun.core.distributions import Categorical, Distribution, MultiCategorical
from rlrun.core.errors import ConfigError, SpaceError
from rlrun.core.exploration.base import Exploration
from rlrun.core.exploration.random_actions import random_actions
from rlrun.core.ranges import check_not_negative


@dataclass(kw_only=True)
class SoftQ(Exploration):
    """Samples softmax(Q / temperature) (Sutton & Barto, 2018, sec. 2.8); the best action when not
    exploring. For a policy with probabilities it sharpens or flattens these."""

    temperature: float = 1.0
    """High ones draw all actions alike, low ones the best."""

    random_timesteps: int = 0
    """Env steps at the start of training with random actions instead (see `random_actions`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "random_timesteps")
        if not self.temperature > 0.0:
            raise ConfigError(f"exploration.temperature={self.temperature} must be above 0.")

    def check_space(self) -> None:
        if not isinstance(self.action_space, spaces.Discrete | spaces.MultiDiscrete):
            raise SpaceError(
                f"exploration=soft_q needs a Discrete or MultiDiscrete action space, this env has "
                f"{self.action_space}. Try exploration=stochastic_sampling."
            )

    def get_exploration_action(
        self, action_dist: Distribution, timestep: int, explore: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        if not explore:
            actions = action_dist.mode()
            return actions, np.zeros(len(actions), np.float32)
        if timestep < self.random_timesteps:
            return random_actions(self.action_space, action_dist, self.rng)
        return self._softened(action_dist).sample(self.rng)

    def _softened(self, dist: Distribution) -> Distribution:
        with np.errstate(over="ignore"):  # Of masks: the least float becomes -inf.
            inputs = dist.inputs / np.float32(self.temperature)
        if isinstance(dist, MultiCategorical):
            return MultiCategorical(inputs, [part.inputs.shape[-1] for part in dist.parts])
        return Categorical(inputs)
