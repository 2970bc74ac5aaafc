"""Symbols go by, and each is to be repeated some steps later."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium import spaces


class RepeatAfterMe(gym.Env):
    """At each step a random symbol is shown; the action must be the one of `delay` steps before.

    Observations: Discrete(num_symbols), each as likely as the others. Actions: the same. Reward 1
    for the right symbol, -1 / (num_symbols - 1) for another, 0 in the first `delay` steps, which
    have nothing to repeat. An episode ends after `episode_steps` steps. The optimal return is
    episode_steps - delay; a policy without memory gets 0 on average, whatever it does.
    """

    def __init__(self, delay: int = 2, num_symbols: int = 2, episode_steps: int = 100) -> None:
        if delay < 1 or num_symbols < 2 or episode_steps <= delay:
            raise ValueError(
                f"delay={delay}, num_symbols={num_symbols}, episode_steps={episode_steps}: it "
                f"takes a delay of at least 1, two symbols, and more steps than the delay."
            )
        self.observation_space = spaces.Discrete(num_symbols)
        self.action_space = spaces.Discrete(num_symbols)
        self.num_symbols = num_symbols
        self.delay = delay
        self.episode_steps = episode_steps
        self.shown: list[int] = []

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.shown = []
        return self._show(), {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        num_steps = len(self.shown)
        reward = 0.0
        if num_steps > self.delay:
            is_right = int(action) == self.shown[-1 - self.delay]
            reward = 1.0 if is_right else -1.0 / (self.num_symbols - 1)
        return self._show(), reward, num_steps >= self.episode_steps, False, {}

    def _show(self) -> int:
        self.shown.append(int(self.np_random.integers(self.num_symbols)))
        return self.shown[-1]
