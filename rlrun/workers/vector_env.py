"""The envs of one worker: stepped in turn in this process, or in a process each."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from multiprocessing.reduction import ForkingPickler
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import CloudpickleWrapper, concatenate, create_empty_array

from rlrun.core import processes, seeding
from rlrun.core.errors import RlrunError, WorkerError
from rlrun.core.nested import row_of
from rlrun.workers import shared
from rlrun.workers.base_vector_env import StepResult, VectorEnv, results_of
from rlrun.workers.envs import EnvConfig, make_env, make_native_vector_env
from rlrun.workers.native_env import NativeVectorEnv
from rlrun.workers.sub_env import SubEnv

CLOSE_TIMEOUT_S = 5.0
"""How long envs in processes of their own may take to finish a step when they are closed."""

SIGTERM_GRACE_S = 60
"""How long envs in processes of their own outlive a SIGTERM, if their parent does not end them."""

Purpose = Literal["rollout", "evaluation"]


class SyncVectorEnv(VectorEnv):
    """Envs stepped in turn in this process.

    Leaner than gymnasium's class of that name, which spends 40 us of each step on bookkeeping of
    infos and autoresets: as long as two CartPole steps.
    """

    def __init__(self, envs: list[SubEnv], env_id: str) -> None:
        self.envs = envs
        self.env_id = env_id
        self.num_envs = len(envs)
        self.observation_space = envs[0].observation_space
        self.action_space = envs[0].action_space
        self._has_structured_actions = isinstance(
            self.action_space, gym.spaces.Dict | gym.spaces.Tuple
        )
        self._observations: list[Any] = [None] * self.num_envs
        self._infos: list[dict[str, Any]] = [{}] * self.num_envs
        self._memory: Any = create_empty_array(self.observation_space, self.num_envs)
        self._is_array = isinstance(self._memory, np.ndarray)
        self._rewards = np.zeros(self.num_envs)
        self._terminated = np.zeros(self.num_envs, bool)
        self._truncated = np.zeros(self.num_envs, bool)

    def reset(self, seeds: list[int]) -> Any:
        for i, env in enumerate(self.envs):
            self._observations[i], self._infos[i] = env.reset(seed=seeds[i])
        return self._batch()

    def step(self, actions: Any) -> StepResult:
        if self._has_structured_actions:
            actions = [row_of(actions, i) for i in range(self.num_envs)]
        observations, rewards, infos = self._observations, self._rewards, self._infos
        terminated, truncated = self._terminated, self._truncated
        for i, env in enumerate(self.envs):
            observations[i], rewards[i], terminated[i], truncated[i], infos[i] = env.step(
                actions[i]
            )
        return self._batch(), rewards, terminated, truncated

    def reset_done(self, done: np.ndarray) -> Any:
        for i in np.flatnonzero(done):
            self._observations[i], self._infos[i] = self.envs[i].reset()
        return self._batch()

    def infos(self) -> list[dict[str, Any]]:
        return list(self._infos)

    def get_sub_environments(self) -> list[gym.Env]:
        return list(self.envs)

    def frame(self) -> Any:
        return self.envs[0].frame()

    @property
    def frames_per_second(self) -> float | None:
        return self.envs[0].metadata.get("render_fps")

    @property
    def plays_tasks(self) -> bool:
        return self.envs[0].plays_tasks

    def call_each(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        found = [env.call_own(name, arguments) for env in self.envs]
        return results_of(found, name, self.env_id)

    def foreach(self, function: Callable[[Any, int], Any]) -> list[Any]:
        return [env.apply(function) for env in self.envs]

    def episode_starts(self) -> list[dict[str, Any]]:
        return [env.save_episode() for env in self.envs]

    def restore_starts(self, saved: list[dict[str, Any]], actions: Sequence[Any]) -> Any:
        for i, env in enumerate(self.envs):
            env.pending_restore = {**saved[i], "actions": actions[i]}
            self._observations[i] = env.restore_start()
        return self._batch()

    def restore_courses(self) -> list[Any]:
        return [env.restore_course() for env in self.envs]

    def close(self) -> None:
        for env in self.envs:
            env.close()

    def _batch(self) -> Any:
        if self._is_array:
            for i, observation in enumerate(self._observations):
                self._memory[i] = observation
            return self._memory
        return concatenate(self.observation_space, self._observations, self._memory)


class AsyncVectorEnv(VectorEnv):
    """Envs in a process each, by gymnasium's class of that name."""

    def __init__(
        self, vector_env: gym.vector.AsyncVectorEnv, env_id: str, worker_index: int
    ) -> None:
        self.vector_env = vector_env
        self.env_id = env_id
        self.num_envs = vector_env.num_envs
        self.observation_space = vector_env.single_observation_space
        self.action_space = vector_env.single_action_space
        self.worker_index = worker_index
        self._infos: list[dict[str, Any]] = [{}] * self.num_envs
        self._is_broken = False
        for process in vector_env.processes:
            # They do not end at once at a SIGTERM, which multiprocessing sends at exit.
            process._popen.terminate = process._popen.kill  # type: ignore[attr-defined]

    def reset(self, seeds: list[int]) -> Any:
        with self._watched():
            observations, infos = self.vector_env.reset(seed=list(seeds))
        self._infos = list(infos.values())
        return observations

    def step(self, actions: Any) -> StepResult:
        with self._watched():
            *given, infos = self.vector_env.step(actions)
        self._infos = list(infos.values())
        return tuple(given)  # type: ignore[return-value]

    def reset_done(self, done: np.ndarray) -> Any:
        with self._watched():
            observations, infos = self.vector_env.reset(options={"reset_mask": done})
        for i, info in enumerate(infos.values()):
            if done[i]:
                self._infos[i] = info
        return observations

    def infos(self) -> list[dict[str, Any]]:
        return list(self._infos)

    def frame(self) -> Any:
        with self._watched():
            return self.vector_env.call("frame_of_first")[0]

    @property
    def frames_per_second(self) -> float | None:
        return self.vector_env.metadata.get("render_fps")

    @cached_property
    def plays_tasks(self) -> bool:  # type: ignore[override]
        with self._watched():
            return all(self.vector_env.call("plays_tasks"))

    def call_each(self, name: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        with self._watched():
            found = self.vector_env.call("call_own", name, arguments)
        return results_of(found, name, self.env_id)

    def foreach(self, function: Callable[[Any, int], Any]) -> list[Any]:
        sent = CloudpickleWrapper(function)  # type: ignore[arg-type]
        try:
            ForkingPickler.dumps(sent)  # As each pipe does, where nobody could say what failed.
        except Exception as error:
            raise WorkerError(
                f"Worker {self.worker_index} has something that cannot be sent to its envs of "
                f"{self.env_id!r}, which live in processes of their own: {type(error).__name__}: "
                f"{error}. With env.vectorization=sync it need not be."
            ) from error
        with self._watched():
            return [found.fn for found in self.vector_env.call("apply_sent", sent)]

    def episode_starts(self) -> list[dict[str, Any]]:
        with self._watched():
            return list(self.vector_env.call("save_episode"))

    def restore_starts(self, saved: list[dict[str, Any]], actions: Sequence[Any]) -> Any:
        pending = [{**start, "actions": taken} for start, taken in zip(saved, actions, strict=True)]
        with self._watched():
            self.vector_env.set_attr("pending_restore", pending)
            first = self.vector_env.call("restore_start")
        memory: Any = create_empty_array(self.observation_space, self.num_envs)
        return concatenate(self.observation_space, first, memory)

    def restore_courses(self) -> list[Any]:
        with self._watched():
            return list(self.vector_env.call("restore_course"))

    def close(self) -> None:
        # What does not answer any more cannot be asked to close.
        self.vector_env.close(timeout=CLOSE_TIMEOUT_S, terminate=self._is_broken)

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """An env's process that has died is named as that. Raises WorkerError."""
        try:
            yield
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            self._is_broken = True
            raise WorkerError(
                f"Worker {self.worker_index} failed: the process of one of its {self.num_envs} "
                f"envs of {self.env_id!r} died ({type(error).__name__}). "
                f"With env.vectorization=sync its error would show here."
            ) from error
        except RlrunError:
            self._is_broken = True
            raise
        except (TypeError, ValueError) as error:
            self._is_broken = True
            raise WorkerError(
                f"Worker {self.worker_index} failed: one of its {self.num_envs} envs of "
                f"{self.env_id!r} gave what does not fit its spaces: {error}. "
                f"With env.vectorization=sync it would be named here."
            ) from error


class _AsyncVectorEnv(gym.vector.AsyncVectorEnv):
    """Keeps the infos of each env as they are, which gymnasium would merge into arrays, with loss
    and by half of the time of a step."""

    def _add_info(
        self, vector_infos: dict[Any, Any], env_info: dict[str, Any], env_num: int
    ) -> dict[Any, Any]:
        vector_infos[env_num] = env_info
        return vector_infos


def make_vector_env(
    config: EnvConfig,
    num_envs: int,
    worker_index: int,
    *,
    seed: int = 0,
    purpose: Purpose = "rollout",
    is_filmed: bool = False,
) -> VectorEnv:
    """The envs of one worker, made with streams of their own from the seed tree. `is_filmed`:
    whether the first of them gives pictures, by `frame`.

    Raises ConfigError, MissingExtraError, WorkerError.
    """
    with seeding.process_streams(seed, purpose, worker_index, "make"):
        if config.vectorization == "native":
            return NativeVectorEnv(
                make_native_vector_env(config, num_envs, is_filmed), config.id, worker_index
            )
        if config.vectorization == "sync":
            envs = [
                SubEnv(make_env(config, **_shown(is_filmed, index)), config.id, worker_index, index)
                for index in range(num_envs)
            ]
            _check_same_spaces(envs, config.id)
            return SyncVectorEnv(envs, config.id)
        return _make_async(config, num_envs, (seed, purpose, worker_index), is_filmed)


def env_seeds(seed: int, worker_index: int, num_envs: int) -> list[int]:
    """The seed of each env's first reset, from the seed tree."""
    return [seeding.integer_seed(seed, "env", worker_index, index) for index in range(num_envs)]


def _check_same_spaces(envs: list[SubEnv], env_id: str) -> None:
    for env in envs[1:]:
        for name in ("observation_space", "action_space"):
            first, other = getattr(envs[0], name), getattr(env, name)
            if first != other:
                raise WorkerError(
                    f"The envs of worker {env.worker_index} ({env_id!r}) do not have the same "
                    f"spaces, which envs of one worker must have: the {name} of env 0 is {first}, "
                    f"that of env {env.env_index} is {other}."
                )


def _shown(is_filmed: bool, index: int) -> dict[str, Any]:
    """How an env is made that gives pictures, or does not."""
    return {"render_mode": "rgb_array"} if is_filmed and index == 0 else {}


def _make_async(
    config: EnvConfig, num_envs: int, seed_path: tuple[int, Purpose, int], is_filmed: bool
) -> AsyncVectorEnv:
    worker_index = seed_path[-1]
    parent = (os.getpid(), shared.listen(), gc.isenabled())
    makers = [
        partial(
            _make_env_of_a_process,
            config,
            (*seed_path, index),
            parent,
            _shown(is_filmed, index),
        )
        for index in range(num_envs)
    ]
    try:
        with _no_collection():
            vector_env = _AsyncVectorEnv(
                makers, autoreset_mode=AutoresetMode.DISABLED, copy=False, observation_mode="same"
            )
    except RlrunError:
        raise
    except RuntimeError as error:
        raise WorkerError(
            f"The envs of worker {worker_index} ({config.id!r}) do not have the same spaces, which "
            f"envs of one worker must have: {error}"
        ) from error
    return AsyncVectorEnv(vector_env, config.id, worker_index)


@contextmanager
def _no_collection() -> Iterator[None]:
    """For a fork: what this process left for its collector is not for its children to destroy.
    Objects with threads, such as ALE's vector envs, would bring them down. A child is to freeze
    what it has from here before it collects again."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _make_env_of_a_process(
    config: EnvConfig,
    seed_path: tuple[int, Purpose, int, int],
    parent: tuple[int, Any, bool],
    shown: dict[str, Any],
) -> SubEnv:
    """An env in a child process of its own (gymnasium makes one in the parent as well)."""
    process_id, address, collects = parent
    owns_process = os.getpid() != process_id
    if owns_process:
        shared.speak_to(address)
        gc.freeze()
        if collects:
            gc.enable()
        # Signals to all processes of a run are for the parent: it needs its envs for the last
        # iteration and the checkpoint, and then closes them.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SIGTERM_GRACE_S))
        # A fork has the generators of its parent, which are those of its siblings.
        seeding.seed_process(*seed_path)
        processes.answer_as(_name_of_process(*seed_path[1:]))
    _, _, worker_index, env_index = seed_path
    env = make_env(config, **shown)
    return SubEnv(env, config.id, worker_index, env_index, owns_process=owns_process)


def _name_of_process(purpose: Purpose, worker_index: int, env_index: int) -> str:
    kind = "env" if purpose == "rollout" else "evaluation_env"
    return f"{kind}_{worker_index}_{env_index}"
