"""Several envs stepped together, with one contract for every kind of autoreset.

`step` gives the real next observation of every env, also of one whose episode just ended;
`reset_done` then gives the observations to act on. No row of a reset ever looks like a transition.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from rlrun.core.errors import WorkerError

StepResult = tuple[Any, np.ndarray, np.ndarray, np.ndarray]
"""(raw observations, rewards [B], terminated [B], truncated [B])."""


class VectorEnv:
    """The envs of one worker. Observations are raw: batched per leaf of the env's space."""

    skips_reset_rows = False
    """Whether the step after an episode's end only resets that env, so that its row is void."""
    can_replay = True
    """Whether running episodes can be saved and restored."""

    env_id: str
    num_envs: int
    observation_space: gym.Space
    action_space: gym.Space

    def reset(self, seeds: list[int]) -> Any:
        """Start every env anew; returns raw observations."""
        raise NotImplementedError

    def step(self, actions: Any) -> StepResult:
        """One step of every env; actions are an array [B, ...], of a Dict or Tuple space a dict or
        tuple of these. What it gives may be overwritten by the next step."""
        raise NotImplementedError

    def reset_done(self, done: np.ndarray) -> Any:
        """Reset the envs of the mask `done` [B]; returns the raw observations of all."""
        raise NotImplementedError

    def infos(self) -> list[dict[str, Any]]:
        """What each env said in `info` with its newest observation."""
        raise NotImplementedError

    @property
    def num_callees(self) -> int:
        """How many envs `call` and `foreach` reach: of a native vector env, itself alone."""
        return self.num_envs

    @property
    def plays_tasks(self) -> bool:
        """Whether the envs, or wrappers of theirs, have get_task() and set_task(task)."""
        raise NotImplementedError

    def get_sub_environments(self) -> list[gym.Env]:
        """The envs, where they live in this process; empty where they do not."""
        return []

    def frame(self) -> Any:
        """What the first env's `render` gives, where it was made to be filmed."""
        raise NotImplementedError

    @property
    def frames_per_second(self) -> float | None:
        """How fast pictures of its envs are to be shown; None: they do not say."""
        return None

    def call(self, name: str, *args: Any) -> list[Any]:
        """What the method `name` of every env, or of the wrapper that has it, gives; of a native
        vector env what its own method gives, alone. The door for tasks: `call("set_task", task)`.

        Raises WorkerError if there is no such method, or if it fails.
        """
        return self.call_each(name, [args] * self.num_callees)

    def call_each(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The same, with arguments for each env."""
        raise NotImplementedError

    def foreach(self, function: Callable[[Any, int], Any]) -> list[Any]:
        """function(env, env_index) of every env with its wrappers, in the process where it lives;
        of a native vector env function(vector_env, 0), alone."""
        raise NotImplementedError

    def episode_starts(self) -> list[dict[str, Any]]:
        """How the running episode of each env began, and where it is; see SubEnv.save_episode."""
        raise NotImplementedError

    def restore_starts(self, saved: list[dict[str, Any]], actions: Sequence[Any]) -> Any:
        """Bring each env back to the start of the episode that `episode_starts` gave; `actions`
        are those since then. Returns the raw first observations."""
        raise NotImplementedError

    def restore_courses(self) -> list[Any]:
        """Then play the actions again; returns what SubEnv.restore_course does, for each env."""
        raise NotImplementedError

    def close(self) -> None:
        """Release the envs and their processes."""
        raise NotImplementedError


def infos_by_env(merged: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """The infos of each env, of which gymnasium's vector envs make one dict of arrays: that of
    `_<key>` says which envs have such an entry. What is no array of B is said of all envs."""
    found: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, values in merged.items():
        if key.startswith("_") and key[1:] in merged:
            continue
        if isinstance(values, dict):
            values = infos_by_env(values, num_envs)
        is_by_env = np.ndim(values) > 0 and len(values) == num_envs
        for i in np.flatnonzero(merged.get(f"_{key}", np.ones(num_envs, bool))):
            value = values[i] if is_by_env else values
            found[i][key] = value.item() if isinstance(value, np.generic) else value
    return found


def results_of(found: Sequence[tuple[bool, Any]], name: str, env_id: str) -> list[Any]:
    if not all(has_method for has_method, _ in found):
        raise WorkerError(
            f"The env {env_id!r} has no method {name!r}, and none of its wrappers has. Envs that "
            f"play tasks have get_task() and set_task(task)."
        )
    return [result for _, result in found]
