"""One env of a worker: it checks what the env gives, names it in errors, replays its episode."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import CloudpickleWrapper
from numpy import ndarray

from rlrun.core import seeding
from rlrun.core.errors import RlrunError, WorkerError
from rlrun.core.membership import misfit
from rlrun.workers.task_state import is_same, pack, unpack

NUMBERS = (float, int, np.floating, np.integer, np.bool_)


class SubEnv(gym.Wrapper):
    """The outermost wrapper of each env: checks that what it gives fits its spaces, names it in
    errors, and remembers how its episode began, so that the episode can be replayed.

    An episode begins with a seed, or with the state of all generators that the env may draw from:
    its own, those of its spaces, and with `owns_process` those of the process. A seeded reset seeds
    them all, each differently.
    """

    def __init__(
        self,
        env: gym.Env,
        name: str,
        worker_index: int,
        env_index: int,
        *,
        owns_process: bool = False,
    ) -> None:
        super().__init__(env)
        self.owns_process = owns_process
        self.name = name
        self.worker_index = worker_index
        self.env_index = env_index
        self.seed: int | None = None
        self.episode_start: dict[str, Any] = {}
        self.pending_restore: dict[str, Any] | None = None
        self._spaces = _own_spaces(env)
        self.plays_tasks: bool = all(map(env.has_wrapper_attr, ("get_task", "set_task")))
        self._space = env.observation_space
        is_box = isinstance(self._space, gym.spaces.Box)
        self._shape, self._dtype = (
            (self._space.shape, self._space.dtype) if is_box else (None, None)
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Reset the env; notes how the episode starts, and checks what is given."""
        if seed is None:
            self.episode_start = {"streams": self._streams()}
        else:
            self.episode_start = {"seed": seed}
            self.seed = seed
            self._seed_streams(seed)
        if self.plays_tasks:
            self.episode_start["task"] = self._get_task()
        try:
            given = self.env.reset(seed=seed, options=options or None)
        except (Exception, SystemExit) as error:
            raise self.failure("reset", error) from error
        if not isinstance(given, tuple) or len(given) != 2:
            raise self._misfit("reset", f"must return (observation, info), not {_kind(given)}")
        self._check_observation("reset", given[0])
        return given

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step the env, and check what it gives."""
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
        self._check_observation("step", observation)
        if type(reward) is not float:
            self._check_number("reward", reward)
        if terminated is not False:
            self._check_number("terminated", terminated)
        if truncated is not False:
            self._check_number("truncated", truncated)
        return given

    def _check_observation(self, verb: str, observation: Any) -> None:
        # A quick look, which nearly every env passes: a hundredth of a step of CartPole.
        if (
            type(observation) is ndarray
            and observation.dtype is self._dtype
            and observation.shape == self._shape
        ):
            return
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

    def save_episode(self) -> dict[str, Any]:
        """What `restore_start` needs beside the actions, in plain numbers and arrays."""
        saved = {"start": self.episode_start, "streams": self._streams()}
        return {**saved, "task": self._get_task()} if self.plays_tasks else saved

    def restore_start(self) -> Any:
        """Go back to the start of an episode: `pending_restore` is what `save_episode` gave, with
        the `actions` since. Returns the first observation."""
        assert self.pending_restore is not None
        start = self.pending_restore["start"]
        if self.plays_tasks and "task" in start:
            self._set_task(start["task"], present=self._get_task())
        if "seed" in start:
            first, _ = self.reset(seed=int(start["seed"]))
        else:
            self._set_streams(start["streams"])
            first, _ = self.reset()
        self.pending_restore["first"] = first
        return first

    def restore_course(self) -> tuple[Any, float] | None:
        """Play the actions of `pending_restore` again, from the start on.

        Returns the observation that the env is at then, and the sum of rewards (whether they are
        the right ones, the caller must see), or None if the episode ended early. Either way the env
        goes on with its task and its generators, and never draws the same again.
        """
        assert self.pending_restore is not None
        saved, self.pending_restore = self.pending_restore, None
        end = self._play(saved["first"], saved["actions"])
        self._set_streams(saved["streams"])
        # A task that was set since the episode began is for the next one.
        if self.plays_tasks and "task" in saved:
            self._set_task(saved["task"], present=saved["start"].get("task"))
        return end

    def frame(self) -> Any:
        """What the env's `render` gives."""
        try:
            return self.env.render()
        except (Exception, SystemExit) as error:
            raise self.failure("render", error) from error

    def frame_of_first(self) -> Any:
        """The same of the first env of a worker, and None of all others."""
        return self.frame() if self.env_index == 0 else None

    def call_method(self, name: str, *args: Any) -> tuple[bool, Any]:
        """(True, what the method of that name gave) of the env or the wrapper that has it; (False,
        None) if none has, which is no error here: it would end the process of an env."""
        if not self.env.has_wrapper_attr(name):
            return False, None
        try:
            return True, self.env.get_wrapper_attr(name)(*args)
        except (Exception, SystemExit) as error:
            raise self.failure(name, error) from error

    def call_own(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> tuple[bool, Any]:
        """`call_method` with the arguments that stand at the place of this env."""
        return self.call_method(name, *arguments[self.env_index])

    def apply(self, function: Callable[[gym.Env, int], Any]) -> Any:
        """function(this env, its index). What it raises is named as this env's."""
        try:
            return function(self, self.env_index)
        except RlrunError:
            raise
        except Exception as error:
            raise self.failure("foreach_env", error) from error

    def apply_sent(self, sent: CloudpickleWrapper) -> CloudpickleWrapper:
        """The same with a function that comes from another process, where what it gives goes."""
        return CloudpickleWrapper(self.apply(sent.fn))  # type: ignore[arg-type]

    def _play(self, observation: Any, actions: Any) -> tuple[Any, float] | None:
        total_reward = 0.0
        for action in actions:
            observation, reward, terminated, truncated, _ = self.step(action)
            total_reward += float(reward)
            if terminated or truncated:
                return None
        return observation, total_reward

    def _get_task(self) -> dict[str, Any]:
        """The env's task, as a checkpoint holds it. Raises WorkerError if it cannot."""
        _, task = self.call_method("get_task")
        try:
            return pack(task)
        except TypeError as error:
            raise self._misfit("get_task", str(error)) from error

    def _set_task(self, task: dict[str, Any], present: dict[str, Any] | None) -> None:
        """Give the env a task that `_get_task` gave, unless it is the `present` one."""
        if present is None or not is_same(task, present):
            self.call_method("set_task", unpack(task))

    def _seed_streams(self, seed: int) -> None:
        """Seed what the env's own reset does not: its spaces, and its process."""
        for index, space in enumerate(self._spaces):
            space.seed(seeding.integer_seed(seed, "space", index))
        if self.owns_process:
            seeding.seed_process(seed)

    def _streams(self) -> dict[str, Any]:
        streams: dict[str, Any] = {
            "env": self.env.unwrapped.np_random.bit_generator.state,
            "spaces": [space.np_random.bit_generator.state for space in self._spaces],
        }
        if self.owns_process:
            streams["process"] = seeding.process_rng_state()
        return streams

    def _set_streams(self, streams: dict[str, Any]) -> None:
        self.env.unwrapped.np_random.bit_generator.state = streams["env"]
        for space, state in zip(self._spaces, streams["spaces"], strict=True):
            space.np_random.bit_generator.state = state
        if self.owns_process and "process" in streams:
            seeding.restore_process_rng_state(streams["process"])

    def failure(self, verb: str, error: BaseException) -> WorkerError:
        """What failed in this env's `verb`, as an error that names it."""
        return self._misfit(verb, f"{type(error).__name__}: {error}")

    def _misfit(self, verb: str, what: str) -> WorkerError:
        return WorkerError(
            f"Worker {self.worker_index} failed in env.{verb} ({self.name!r}, "
            f"env {self.env_index}, seed {self.seed}): {what}"
        )


def _own_spaces(env: gym.Env) -> list[gym.Space]:
    """All spaces of an env and its wrappers that hold a generator, parts of others included.

    Those that a class has for all its envs are copied, so that each env draws from its own.
    """
    found: dict[int, gym.Space] = {}

    def add(space: gym.Space) -> None:
        found[id(space)] = space
        parts = getattr(space, "spaces", ())
        for part in parts.values() if isinstance(parts, dict) else parts:
            add(part)

    layer: Any = env
    while layer is not None:
        for name in ("observation_space", "action_space"):
            if isinstance(getattr(type(layer), name, None), gym.Space):
                setattr(layer, name, copy.deepcopy(getattr(layer, name)))
            add(getattr(layer, name))
        layer = layer.env if isinstance(layer, gym.Wrapper) else None
    return list(found.values())


def _kind(given: Any) -> str:
    return f"{len(given)} values" if isinstance(given, tuple) else f"a {type(given).__name__}"
