"""Actions drawn from the policy's own distribution."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlrun.core.distributions import Distribution
from rlrun.core.errors import ConfigError
from rlrun.core.exploration.base import Exploration


@dataclass(kw_only=True)
class StochasticSampling(Exploration):
    """Samples the distribution; its mode when not exploring."""

    random_timesteps: int = 0
    """Env steps at the start of training with uniformly random actions instead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.random_timesteps < 0:
            raise ConfigError(
                f"exploration.random_timesteps={self.random_timesteps} must be at least 0."
            )

    def get_exploration_action(
        self, action_dist: Distribution, timestep: int, explore: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        if not explore:
            actions = action_dist.mode()
            return actions, action_dist.log_prob(actions)
        if timestep < self.random_timesteps:
            actions = random_actions(self.action_space, len(action_dist.inputs), self.rng)
            return actions, action_dist.log_prob(actions)
        return action_dist.sample(self.rng)


def random_actions(action_space: object, num_rows: int, rng: np.random.Generator) -> np.ndarray:
    """Uniformly random actions [num_rows, ...] in the policy's terms (Box: within [-1, 1])."""
    from gymnasium import spaces

    if isinstance(action_space, spaces.Discrete):
        return rng.integers(action_space.n, size=num_rows)
    if isinstance(action_space, spaces.MultiDiscrete):
        return rng.integers(action_space.nvec, size=(num_rows, *action_space.nvec.shape))
    assert isinstance(action_space, spaces.Box)
    shape = (num_rows, *action_space.shape)
    return rng.uniform(-1.0, 1.0, shape).astype(np.float32)
