"""The corridor: all that there is to be found lies at its far end."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class Corridor(gym.Env):
    """A row of places, with the one reward at the last of them.

    Observations: Discrete(corridor_length + 1), the place. Actions: Discrete(2), a step back (at
    the start: none) or ahead. The end gives 1, and ends the episode. An episode is truncated after
    twice the steps that the way takes, in which a random walk gets as far as the square root of
    these: with 40 places it comes to the end in one of 100,000 episodes. The optimal return is 1.
    With `scrambled` each place has its own of the two actions that goes ahead, so that no policy
    that prefers one of them by chance gets far.
    """

    def __init__(self, corridor_length: int = 40, scrambled: bool = False) -> None:
        if corridor_length < 1:
            raise ValueError(f"corridor_length={corridor_length} must be at least 1.")
        self.observation_space = spaces.Discrete(corridor_length + 1)
        self.action_space = spaces.Discrete(2)
        self.corridor_length = corridor_length
        self.ahead = np.ones(corridor_length, np.int64)
        """The action that goes ahead, for each place."""
        if scrambled:
            self.ahead = np.random.default_rng(0).integers(2, size=corridor_length)
        self.place = 0
        self.num_steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.num_steps = 0
        return self.place, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.num_steps += 1
        self.place = max(self.place + (1 if int(action) == self.ahead[self.place] else -1), 0)
        is_at_end = self.place == self.corridor_length
        truncated = not is_at_end and self.num_steps >= 2 * self.corridor_length
        return self.place, float(is_at_end), is_at_end, truncated, {}
