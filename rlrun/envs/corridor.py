"""The corridor: all that is worth having lies at its far end, behind doors that throw back."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

from rlrun.envs.task_settable_env import TaskSettableEnv


class Corridor(TaskSettableEnv):
    """A row of places with two doors each, of which one leads on and the other to the start, with
    the reward at the last place (after the combination lock of Osband et al., 2016, sec. 5).

    Observations: Discrete(corridor_length + 1), the place. Actions: Discrete(2), the door; which
    one leads on is drawn for each place from `doors_seed` and never changes (None: the second one,
    everywhere). The end gives 1, and ends the episode. The wrong door at the start gives `lure`. An
    episode is truncated after twice the steps that the way takes. The optimal return is 1. At
    random one attempt in 2 ** corridor_length, of two steps on average, comes to the end; the lure
    gives at most 0.04.

    A task is how many places the corridor has, from 1 to `corridor_length`, which is the one to
    begin with: the doors of a short corridor are the first ones of a longer one.
    """

    def __init__(
        self, corridor_length: int = 20, lure: float = 0.001, doors_seed: int | None = 0
    ) -> None:
        if corridor_length < 1:
            raise ValueError(f"corridor_length={corridor_length} must be at least 1.")
        self.observation_space = spaces.Discrete(corridor_length + 1)
        self.action_space = spaces.Discrete(2)
        self.corridor_length = corridor_length
        self.lure = lure
        self.doors = np.ones(corridor_length, np.int64)
        """The one that leads on, by place."""
        if doors_seed is not None:
            self.doors = np.random.default_rng(doors_seed).integers(2, size=corridor_length)
        self._task = self.length = corridor_length
        self.place = 0
        self.num_steps = 0

    def get_task(self) -> int:
        return self._task

    def set_task(self, task: int) -> None:
        if not (isinstance(task, int) and 1 <= task <= self.corridor_length):
            raise ValueError(
                f"the task {task!r} must be a whole number of places from 1 to "
                f"corridor_length={self.corridor_length}"
            )
        self._task = task

    def sample_tasks(self, n_tasks: int) -> list[int]:
        return [int(self.np_random.integers(self.corridor_length)) + 1 for _ in range(n_tasks)]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.length = self._task
        self.place = self.num_steps = 0
        return self.place, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        self.num_steps += 1
        leads_on = int(action) == self.doors[self.place]
        reward = self.lure if self.place == 0 and not leads_on else 0.0
        self.place = self.place + 1 if leads_on else 0
        is_at_end = self.place == self.length
        truncated = not is_at_end and self.num_steps >= 2 * self.length
        return self.place, 1.0 if is_at_end else reward, is_at_end, truncated, {}
