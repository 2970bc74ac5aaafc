"""The corridor: all that is worth having lies at its far end."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium import spaces


class Corridor(gym.Env):
    """A row of places with the reward at the last one, and a lure at the first (after the chain of
    Strehl & Littman, 2008, "RiverSwim", with steps that never fail).

    Observations: Discrete(corridor_length + 1), the place. Actions: Discrete(2), a step back or
    ahead. The end gives 1, and ends the episode. A step back at the start goes nowhere and gives
    `lure`. An episode is truncated after twice the steps that the way takes: a random walk gets
    about as far as their square root, to the end of 40 places in one of 100,000 episodes. The
    optimal return is 1; whoever stays with the lure gets 2 * corridor_length * lure.
    """

    def __init__(self, corridor_length: int = 40, lure: float = 0.001) -> None:
        if corridor_length < 1:
            raise ValueError(f"corridor_length={corridor_length} must be at least 1.")
        self.observation_space = spaces.Discrete(corridor_length + 1)
        self.action_space = spaces.Discrete(2)
        self.corridor_length = corridor_length
        self.lure = lure
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
        is_ahead = bool(int(action))
        reward = self.lure if self.place == 0 and not is_ahead else 0.0
        self.place = max(self.place + (1 if is_ahead else -1), 0)
        is_at_end = self.place == self.corridor_length
        truncated = not is_at_end and self.num_steps >= 2 * self.corridor_length
        return self.place, 1.0 if is_at_end else reward, is_at_end, truncated, {}
