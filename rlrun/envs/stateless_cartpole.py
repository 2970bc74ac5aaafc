"""CartPole without its velocities: one observation does not say where the pole is going."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv

POSITIONS = [0, 2]
"""Where the cart's position and the pole's angle stand in CartPole's observation."""


class StatelessCartPole(CartPoleEnv):
    """Balance a pole on a cart, seeing only the cart's position and the pole's angle.

    Observations: Box(2). Actions: Discrete(2), push to the left or to the right. Reward 1 a step;
    an episode ends when the pole falls or the cart leaves the track, and is truncated by
    env.horizon: 500 steps, which are the optimal return. The best that a policy without memory can
    do is some 60 steps. Keyword arguments are CartPole's.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        bounds = self.observation_space
        assert isinstance(bounds, spaces.Box)
        self.observation_space = spaces.Box(
            bounds.low[POSITIONS], bounds.high[POSITIONS], dtype=np.float32
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        observation, info = super().reset(seed=seed, options=options)
        return observation[POSITIONS], info

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation[POSITIONS], float(reward), terminated, truncated, info
