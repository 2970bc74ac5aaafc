"""Vector envs of an env's own making, whatever their kind of autoreset."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from rlrun.core.errors import WorkerError
from rlrun.core.membership import misfit
from rlrun.workers.base_vector_env import StepResult, VectorEnv, infos_by_env, results_of

FINAL = ("final_obs", "final_info")
"""What of infos is of the last step of episodes that ended, where envs reset on that step."""


class NativeVectorEnv(VectorEnv):
    """An env's own vector implementation, which resets by itself, on the same or the next step, or
    (autoreset disabled) when it is told to."""

    can_replay = False

    def __init__(
        self, vector_env: gym.vector.VectorEnv, env_id: str, worker_index: int = 0
    ) -> None:
        self.vector_env = vector_env
        self.env_id = env_id
        self.worker_index = worker_index
        self.num_envs = vector_env.num_envs
        self.observation_space = vector_env.single_observation_space
        self.action_space = vector_env.single_action_space
        self.autoreset = _autoreset_mode(vector_env, env_id)
        self.skips_reset_rows = self.autoreset == AutoresetMode.NEXT_STEP
        self._observations: Any = None
        self._infos: dict[str, Any] = {}
        self._other_infos: tuple[np.ndarray, dict[str, Any]] | None = None
        """(mask [B], infos of these envs, which take the place of those in `_infos`)."""
        space = self.observation_space
        is_box = isinstance(space, gym.spaces.Box)
        self._dtype = space.dtype if is_box else None
        self._shape = (self.num_envs, *space.shape) if is_box else None  # type: ignore[misc]

    def reset(self, seeds: list[int]) -> Any:
        # One generator serves all envs, so one seed does.
        observations, self._infos = self.vector_env.reset(seed=seeds[0])
        self._other_infos = None
        self._observations = self._checked("reset", observations)
        return self._observations

    def step(self, actions: Any) -> StepResult:
        """Step all envs; checks what they give, and finds the real last observations."""
        observations, rewards, terminated, truncated, infos = self.vector_env.step(actions)
        self._infos, self._other_infos = infos, None
        self._observations = self._checked("step", observations)
        for name, given in (
            ("rewards", rewards),
            ("terminated", terminated),
            ("truncated", truncated),
        ):
            if np.shape(given) != (self.num_envs,):
                raise self._failure(
                    "step", f"{name} must have the shape ({self.num_envs},), not {np.shape(given)}."
                )
        if self.autoreset == AutoresetMode.SAME_STEP:
            done = terminated | truncated
            if done.any():
                observations = self._with_final(observations, infos, done)
                self._other_infos = done, infos.get("final_info", {})
        return observations, rewards, terminated, truncated

    def reset_done(self, done: np.ndarray) -> Any:
        """Reset the envs of the mask, where they do not do that by themselves."""
        self._other_infos = None
        if self.autoreset == AutoresetMode.DISABLED:
            running = [leaf[~done].copy() for leaf in _leaves(self._observations)]
            given, infos = self.vector_env.reset(options={"reset_mask": done.copy()})
            self._other_infos = done.copy(), infos
            self._observations = self._checked("reset", given)
            for before, leaf in zip(running, _leaves(given), strict=True):
                if not np.array_equal(before, leaf[~done]):
                    raise self._failure(
                        "reset",
                        "it changed envs whose episode goes on. With autoreset_mode=DISABLED, "
                        "reset(options={'reset_mask': mask}) must reset those of the mask alone.",
                    )
        return self._observations

    def infos(self) -> list[dict[str, Any]]:
        own = {key: v for key, v in self._infos.items() if key.lstrip("_") not in FINAL}
        found = infos_by_env(own, self.num_envs)
        if self._other_infos is not None:
            mask, infos = self._other_infos
            others = infos_by_env(infos, self.num_envs)
            for i in np.flatnonzero(mask):
                found[i] = others[i]
        return found

    def _with_final(self, observations: Any, infos: dict[str, Any], done: np.ndarray) -> Any:
        """`observations` with the last ones of the episodes that ended, which infos hold."""
        if infos.get("final_obs") is None:
            raise self._failure(
                "step",
                f"episodes ended in the envs {np.flatnonzero(done).tolist()}, and the infos have "
                f"no 'final_obs' with their last observations, which autoreset_mode=SAME_STEP "
                f"needs (gymnasium 1.1 and later). Add it, or set the env's "
                f"metadata['autoreset_mode'] to what it does.",
            )
        complete = copy.deepcopy(observations)
        for i in np.flatnonzero(done):
            final = _final_of(self.observation_space, infos["final_obs"], int(i))
            reason = misfit(self.observation_space, final, name=f"'final_obs' of env {i}")
            if reason is not None:
                raise self._failure("step", f"{reason}.")
            _put_row(complete, int(i), final)
        return complete

    def frame(self) -> Any:
        return self.vector_env.screen  # type: ignore[attr-defined]

    @property
    def frames_per_second(self) -> float | None:
        return getattr(self.vector_env, "steps_per_second", None)

    @property
    def num_callees(self) -> int:
        return 1

    @property
    def plays_tasks(self) -> bool:
        return all(hasattr(self.vector_env, name) for name in ("get_task", "set_task"))

    def call_each(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        method = getattr(self.vector_env, name, None)
        if method is None:
            return results_of([(False, None)], name, self.env_id)
        try:
            return [method(*arguments[0])]
        except Exception as error:
            raise self._failure(name, f"{type(error).__name__}: {error}") from error

    def foreach(self, function: Callable[[Any, int], Any]) -> list[Any]:
        return [function(self.vector_env, 0)]

    def close(self) -> None:
        self.vector_env.close()

    def _checked(self, verb: str, observations: Any) -> Any:
        """The same observations. Raises WorkerError if they are not of the env's space."""
        if (
            type(observations) is np.ndarray
            and observations.dtype is self._dtype
            and observations.shape == self._shape
        ):
            return observations
        reason = misfit(
            self.observation_space,
            observations,
            lead=(self.num_envs,),
            name="the batch of observations",
        )
        if reason is not None:
            raise self._failure(verb, f"{reason}.")
        return observations

    def _failure(self, verb: str, what: str) -> WorkerError:
        return WorkerError(
            f"Worker {self.worker_index} failed in {verb} of the vector env {self.env_id!r}: {what}"
        )


def _autoreset_mode(vector_env: gym.vector.VectorEnv, env_id: str) -> AutoresetMode:
    mode = vector_env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        allowed = ", ".join(f"AutoresetMode.{known.name}" for known in AutoresetMode)
        raise WorkerError(
            f"The vector env {env_id!r} has metadata['autoreset_mode']={mode!r}; it must be one of "
            f"{allowed}."
        ) from error


def _leaves(observations: Any) -> Iterator[np.ndarray]:
    """The arrays [B, ...] of raw batched observations."""
    if isinstance(observations, dict | tuple):
        parts = observations.values() if isinstance(observations, dict) else observations
        for part in parts:
            yield from _leaves(part)
    else:
        yield np.asarray(observations)


def _final_of(space: gym.Space, final_obs: Any, index: int) -> Any:
    """One env's last observation: gymnasium merges dicts key by key, and lists all else by env."""
    if isinstance(space, gym.spaces.Dict) and isinstance(final_obs, dict):
        return {
            key: _final_of(part, final_obs.get(key), index) for key, part in space.spaces.items()
        }
    return None if final_obs is None else final_obs[index]


def _put_row(observations: Any, index: int, row: Any) -> None:
    if isinstance(observations, dict | tuple):
        keys = observations if isinstance(observations, dict) else range(len(observations))
        for key in keys:
            _put_row(observations[key], index, row[key])
    else:
        observations[index] = row
