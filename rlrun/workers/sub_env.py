"""One env of a worker: it checks what the env gives, names it in errors, replays its episode."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy import ndarray

from rlrun.core.errors import WorkerError
from rlrun.core.membership import misfit

NUMBERS = (float, int, np.floating, np.integer, np.bool_)


class SubEnv(gym.Wrapper):
    """The outermost wrapper of each env: checks that what it gives fits its spaces, names it in
    errors, and remembers how its episode began (the state of its generator, or its seed), so that
    the episode can be replayed."""

    def __init__(self, env: gym.Env, name: str, worker_index: int, env_index: int) -> None:
        super().__init__(env)
        self.name = name
        self.worker_index = worker_index
        self.env_index = env_index
        self.seed: int | None = None
        self.episode_start: dict[str, Any] = {}
        self.pending_restore: dict[str, Any] | None = None
        self._space = env.observation_space
        is_box = isinstance(self._space, gym.spaces.Box)
        self._shape, self._dtype = (
            (self._space.shape, self._space.dtype) if is_box else (None, None)
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if seed is None:
            self.episode_start = {"rng": self.env.unwrapped.np_random.bit_generator.state}
        else:
            self.episode_start = {"seed": seed}
            self.seed = seed
        try:
            given = self.env.reset(seed=seed, options=options or None)
        except (Exception, SystemExit) as error:
            raise self.failure("reset", error) from error
        if not isinstance(given, tuple) or len(given) != 2:
            raise self._misfit("reset", f"must return (observation, info), not {_kind(given)}")
        self._check_observation("reset", given[0])
        return given

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            given = self.env.step(action)
        except (Exception, SystemExit) as error:
            raise self.failure("step", error) from error
        try:
            observation, reward, terminated, truncated, _ = given
        except (TypeError, ValueError) as error:
            raise self._misfit(
                "step",
                f"must return (observation, reward, terminated, truncated, info), not "
                f"{_kind(given)}",
            ) from error
        # Quick looks, which nearly every env passes: a hundredth of a step of CartPole.
        if not (
            type(observation) is ndarray
            and observation.dtype is self._dtype
            and observation.shape == self._shape
        ):
            self._check_observation("step", observation)
        if type(reward) is not float:
            self._check_number("reward", reward)
        if terminated is not False:
            self._check_number("terminated", terminated)
        if truncated is not False:
            self._check_number("truncated", truncated)
        return given

    def _check_observation(self, verb: str, observation: Any) -> None:
        reason = misfit(self._space, observation)
        if reason is not None:
            raise self._misfit(verb, f"{reason}.")

    def _check_number(self, name: str, value: Any) -> None:
        """Raise WorkerError if a reward or a flag is None, text, or an array of several."""
        if isinstance(value, NUMBERS):
            return
        try:
            is_number = np.asarray(value).dtype.kind in "biuf" and np.ndim(value) == 0
        except ValueError:
            is_number = False
        if not is_number:
            raise self._misfit("step", f"the {name} is {value!r}, which is no number.")

    def restore_episode(self) -> tuple[Any, float] | None:
        """Go back to the middle of an episode: `pending_restore` holds its `start` and `actions`.

        Returns the observation after the last action and the sum of rewards (whether they are the
        right ones, the caller must see), or None if the replayed episode ended early.
        """
        assert self.pending_restore is not None
        start, actions = self.pending_restore["start"], self.pending_restore["actions"]
        self.pending_restore = None
        if "seed" in start:
            observation, _ = self.reset(seed=int(start["seed"]))
        else:
            self.env.unwrapped.np_random.bit_generator.state = start["rng"]
            observation, _ = self.reset()
        total_reward = 0.0
        for action in actions:
            observation, reward, terminated, truncated, _ = self.step(action)
            total_reward += float(reward)
            if terminated or truncated:
                return None
        return observation, total_reward

    def failure(self, verb: str, error: BaseException) -> WorkerError:
        """What failed in this env's `verb`, as an error that names it."""
        return self._misfit(verb, f"{type(error).__name__}: {error}")

    def _misfit(self, verb: str, what: str) -> WorkerError:
        return WorkerError(
            f"Worker {self.worker_index} failed in env.{verb} ({self.name!r}, "
            f"env {self.env_index}, seed {self.seed}): {what}"
        )


def _kind(given: Any) -> str:
    return f"{len(given)} values" if isinstance(given, tuple) else f"a {type(given).__name__}"
