"""Envs whose difficulty can be set while they are trained on: what a curriculum speaks to."""

from __future__ import annotations

from typing import Any

import gymnasium as gym


class TaskSettableEnv(gym.Env):
    """An env that can play several tasks. Any env, wrapper or vector env with these methods is one;
    the class only says which.

    A task is made of numbers, text, arrays, lists, tuples and dicts. Observations and actions must
    be of the same spaces in all tasks.
    """

    def get_task(self) -> Any:
        """The task that was set last, or the one to begin with."""
        raise NotImplementedError

    def set_task(self, task: Any) -> None:
        """Play `task` from the next reset on. Raises ValueError if there is no such task.

        A running episode should go on as it is: one that changes on its way cannot be replayed, so
        that a resumed run cuts it.
        """
        raise NotImplementedError

    def sample_tasks(self, n_tasks: int) -> list[Any]:
        """`n_tasks` tasks, for curricula that choose among them and are given none."""
        raise NotImplementedError
