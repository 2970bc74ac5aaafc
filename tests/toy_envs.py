"""Envs of which everything is known beforehand, for tests; importable in every process."""

from __future__ import annotations

import gc
import itertools
import math
import os
import random
import sys
import time
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

import rlrun

Reset = tuple[Any, dict[str, Any]]
Step = tuple[Any, float, bool, bool, dict[str, Any]]


class CountingEnv(gym.Env):
    """obs: [episode number, step in the episode], both from 0; a seeded reset begins at episode 0.

    terminates_at, truncates_at: the steps after which an episode ends, or a list of these that
    successive episodes go through in turns (None: never); length_range: (low, high), from which
    each reset draws the length of its episode instead, ended by termination.
    rewards: "steps" gives 1, 2, 3 ... within an episode, "random" a draw from the env's
    generator, "alternating" +3, -3, ...
    """

    def __init__(
        self,
        terminates_at: int | Sequence[int | None] | None = None,
        truncates_at: int | Sequence[int | None] | None = None,
        length_range: Sequence[int] | None = None,
        rewards: str = "steps",
        num_actions: int = 2,
    ) -> None:
        self.observation_space = spaces.Box(0.0, 1e6, (2,), np.float32)
        self.action_space = spaces.Discrete(num_actions)
        self.terminates_at = terminates_at
        self.truncates_at = truncates_at
        self.length_range = length_range
        self.rewards = rewards
        self.episode_number = -1
        self.steps = 0
        self.random_length = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        super().reset(seed=seed)
        self.episode_number = 0 if seed is not None else self.episode_number + 1
        self.steps = 0
        if self.length_range is not None:
            low, high = self.length_range
            self.random_length = int(self.np_random.integers(low, high + 1))
        return self._observation(), {}

    def step(self, action: Any) -> Step:
        self.steps += 1
        terminated = self.steps == self._this_episodes(self.terminates_at)
        if self.length_range is not None:
            terminated = self.steps == self.random_length
        truncated = self.steps == self._this_episodes(self.truncates_at)
        return self._observation(), self._reward(), terminated, truncated, {}

    def _this_episodes(self, ends: int | Sequence[int | None] | None) -> int | None:
        if ends is None or isinstance(ends, int):
            return ends
        return ends[self.episode_number % len(ends)]

    def _reward(self) -> float:
        if self.rewards == "random":
            return float(np.float32(self.np_random.random()))
        if self.rewards == "alternating":
            return 3.0 if self.steps % 2 else -3.0
        return float(self.steps)

    def _observation(self) -> np.ndarray:
        return np.array([self.episode_number, self.steps], np.float32)


class EnvThatRaises(CountingEnv):
    """Counts, and raises ZeroDivisionError in step number `raises_after` + 1 of its life, or ends
    its process in step number `exits_after` + 1. Both may be set later on the living env."""

    def __init__(
        self, raises_after: int | None = None, exits_after: int | None = None, **counting: Any
    ) -> None:
        super().__init__(**counting)
        self.raises_after = raises_after
        self.exits_after = exits_after
        self.steps_of_life = 0

    def step(self, action: Any) -> Step:
        if self.raises_after is not None and self.steps_of_life >= self.raises_after:
            raise ZeroDivisionError("the toy env broke")
        if self.exits_after is not None and self.steps_of_life >= self.exits_after:
            os._exit(17)
        self.steps_of_life += 1
        return super().step(action)


class StatefulEnv(gym.Env):
    """obs: [how many observations all StatefulEnvs of this process have given]: no episode can be
    reproduced, whatever the seed. Episodes terminate after `terminates_at` steps; rewards are 1."""

    counter = itertools.count()

    def __init__(self, terminates_at: int = 10) -> None:
        self.observation_space = spaces.Box(0.0, 1e6, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.terminates_at = terminates_at
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action: Any) -> Step:
        self.steps += 1
        return self._observation(), 1.0, self.steps == self.terminates_at, False, {}

    def _observation(self) -> np.ndarray:
        return np.array([next(self.counter)], np.float32)


class BurnCpuEnv(gym.Env):
    """Spends `loops` rounds of pure Python in each step, and counts its steps in obs [1]."""

    def __init__(self, loops: int = 1000, truncates_at: int = 100) -> None:
        self.observation_space = spaces.Box(0.0, 1e6, (1,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.loops = loops
        self.truncates_at = truncates_at
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Step:
        sum(i * i for i in range(self.loops))
        self.steps += 1
        observation = np.array([self.steps], np.float32)
        return observation, 1.0, False, self.steps == self.truncates_at, {}


class DictObsEnv(gym.Env):
    """obs at step k: {"flags": the two lowest bits of k, "phase": k modulo 3, "position": [k, -k]};
    episodes terminate after `terminates_at` steps."""

    def __init__(self, terminates_at: int = 5) -> None:
        self.observation_space = spaces.Dict(
            {
                "flags": spaces.MultiBinary(2),
                "phase": spaces.Discrete(3),
                "position": spaces.Box(-1e6, 1e6, (2,), np.float32),
            }
        )
        self.action_space = spaces.Discrete(2)
        self.terminates_at = terminates_at
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action: Any) -> Step:
        self.steps += 1
        return self._observation(), 1.0, self.steps == self.terminates_at, False, {}

    def _observation(self) -> Any:
        k = self.steps
        return {
            "flags": np.array([k % 2, k // 2 % 2], np.int8),
            "phase": k % 3,
            "position": np.array([k, -k], np.float32),
        }


class TupleObsEnv(DictObsEnv):
    """The same observations as a tuple: (flags, phase, position)."""

    def __init__(self, terminates_at: int = 5) -> None:
        super().__init__(terminates_at)
        self.observation_space = spaces.Tuple(list(self.observation_space.spaces.values()))

    def _observation(self) -> Any:
        return tuple(super()._observation().values())


class EchoActionEnv(gym.Env):
    """obs: the last action as the env got it (zeros after a reset); subclasses set action_space."""

    truncates_at = 5

    def __init__(self, action_space: spaces.Space, size: int) -> None:
        self.action_space = action_space
        self.observation_space = spaces.Box(-1e6, 1e6, (size,), np.float32)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(self.observation_space.shape, np.float32), {}

    def step(self, action: Any) -> Step:
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not in {self.action_space}")
        self.steps += 1
        observation = np.asarray(action, np.float32).reshape(self.observation_space.shape)
        return observation, 1.0, False, self.steps == self.truncates_at, {}


class BoxActionEnv(EchoActionEnv):
    """Two continuous actions: from -2 to 2, and from 0 to 10."""

    def __init__(self) -> None:
        low, high = np.array([-2, 0], np.float32), np.array([2, 10], np.float32)
        super().__init__(spaces.Box(low, high), 2)


class UnboundedActionEnv(EchoActionEnv):
    """Two continuous actions without bounds."""

    def __init__(self) -> None:
        super().__init__(spaces.Box(-np.inf, np.inf, (2,), np.float32), 2)


class ShiftedDiscreteEnv(EchoActionEnv):
    """The actions 5, 6 and 7."""

    def __init__(self) -> None:
        super().__init__(spaces.Discrete(3, start=5), 1)


class MultiDiscreteActionEnv(EchoActionEnv):
    """Three discrete actions at once, of 2, 3 and 4 choices."""

    def __init__(self) -> None:
        super().__init__(spaces.MultiDiscrete([2, 3, 4]), 3)


class TwoStepMdp(gym.Env):
    """Take 1 now, or nothing now and then the better of 0 and `late_reward`.

    States (one-hot obs [2]): in the first, action 0 ends the episode with reward 1, action 1 leads
    to the second with reward 0; there action 1 ends it with `late_reward`, action 0 with 0.
    """

    def __init__(self, late_reward: float = 3.0) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.late_reward = late_reward
        self.state = 0

    def optimal_value(self, gamma: float) -> float:
        """Value of the first state under the optimal policy."""
        return max(1.0, gamma * max(0.0, self.late_reward))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        super().reset(seed=seed)
        self.state = 0
        return self._observation(), {}

    def step(self, action: Any) -> Step:
        if self.state == 0 and action == 1:
            self.state = 1
            return self._observation(), 0.0, False, False, {}
        reward = 1.0 if self.state == 0 else self.late_reward * float(action == 1)
        return self._observation(), reward, True, False, {}

    def _observation(self) -> np.ndarray:
        return np.eye(2, dtype=np.float32)[self.state]


class ImageEnv(CountingEnv):
    """Counts, and shows 12 x 12 grey pixels as bright as the step is late."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.observation_space = spaces.Box(0, 255, (12, 12), np.uint8)

    def _observation(self) -> np.ndarray:
        return np.full((12, 12), self.steps % 256, np.uint8)


class ImageAndForceEnv(CountingEnv):
    """Counts in 8 steps an episode, shows it as 12 x 12 grey pixels, and pays the force of its one
    continuous action, from 0 to 2."""

    def __init__(self) -> None:
        super().__init__(terminates_at=8)
        self.observation_space = spaces.Box(0, 255, (12, 12), np.uint8)
        self.action_space = spaces.Box(0.0, 2.0, (1,), np.float32)

    def step(self, action: Any) -> Step:
        observation, _, terminated, truncated, info = super().step(action)
        return observation, float(action[0]), terminated, truncated, info

    def _observation(self) -> np.ndarray:
        return np.full((12, 12), min(20 * self.steps, 255), np.uint8)


class StuckEnv(CountingEnv):
    """Never comes back from its first step."""

    def step(self, action: Any) -> Step:
        while True:
            time.sleep(1.0)


class FaultyEnv(CountingEnv):
    """Counts, with one `fault` from its third step on (or in reset, or for ever)."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault
        if fault == "no space":
            del self.observation_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, info = super().reset(seed=seed)
        given = {
            "reset without info": observation,
            "reset returns nothing": None,
            "nan observation in reset": (observation * math.nan, info),
            "other shape in reset": (np.zeros(1, np.float32), info),
        }
        return given.get(self.fault, (observation, info))

    def step(self, action: Any) -> Any:
        given = super().step(action)
        observation, reward, *rest = given
        if self.fault == "one number as observation":
            return np.float32(1.0), reward, *rest
        if self.steps < 3:
            return given
        if self.fault == "exit":
            sys.exit(0)
        faulty = {
            "nan reward": (observation, math.nan, *rest),
            "infinite reward": (observation, -math.inf, *rest),
            "nan observation": (observation * math.nan, reward, *rest),
            "infinite observation": (observation + np.float32(math.inf), reward, *rest),
            "no reward": (observation, None, *rest),
            "text as reward": (observation, "x", *rest),
            "four values": given[:4],
            "nothing": None,
            "other shape": (np.zeros(3, np.float32), reward, *rest),
        }
        return faulty.get(self.fault, given)


ODD_OBSERVATIONS: dict[str, tuple[spaces.Space, Any, Any]] = {
    "fraction in an integer Box": (
        spaces.Box(0, 9, (2,), np.int64),
        np.zeros(2, np.int64),
        np.array([3.0, 0.75]),
    ),
    "300 in uint8": (
        spaces.Box(0, 255, (12, 12), np.uint8),
        np.zeros((12, 12), np.uint8),
        np.full((12, 12), 300),
    ),
    "shape (1,) for (3,)": (
        spaces.Box(-9, 9, (3,), np.float32),
        np.zeros(3, np.float32),
        np.zeros(1, np.float32),
    ),
    "text in a Box": (spaces.Box(-9, 9, (1,), np.float32), np.zeros(1, np.float32), ["7"]),
    "3 of Discrete(3)": (spaces.Discrete(3), 0, 3),
    "-1 of Discrete(3)": (spaces.Discrete(3), 0, -1),
    "4 of MultiDiscrete([2, 4])": (
        spaces.MultiDiscrete([2, 4]),
        np.array([0, 0]),
        np.array([1, 4]),
    ),
    "2 in MultiBinary": (spaces.MultiBinary(3), np.zeros(3, np.int8), np.array([0, 2, 1])),
    "missing key": (
        spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Discrete(2)}),
        {"a": 0, "b": 0},
        {"a": 1},
    ),
    "extra key": (spaces.Dict({"a": spaces.Discrete(2)}), {"a": 0}, {"a": 1, "c": 1}),
    "short tuple": (spaces.Tuple([spaces.Discrete(2)] * 2), (0, 0), (1,)),
    "2 of a nested Discrete(2)": (
        spaces.Dict({"pair": spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(1)])}),
        {"pair": (0, np.zeros(1, np.int8))},
        {"pair": (2, np.zeros(1, np.int8))},
    ),
}
"""(space, an observation of it, one that is not) by what is odd about the last one."""


class OddObservationEnv(gym.Env):
    """Gives an observation of its space, and one that is `odd` from its third step on."""

    def __init__(self, odd: str) -> None:
        self.observation_space, self.usual, self.odd = ODD_OBSERVATIONS[odd]
        self.action_space = spaces.Discrete(2)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        super().reset(seed=seed)
        return self.usual, {}

    def step(self, action: Any) -> Step:
        self.steps += 1
        return (self.odd if self.steps >= 3 else self.usual), 1.0, False, False, {}


class OtherSpacesEnv(CountingEnv):
    """Each env of this class that is made in a process has a wider space than the one before."""

    widths = itertools.count(1)

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = spaces.Box(0.0, 1e6, (next(self.widths),), np.float32)


class DrawingEnv(gym.Env):
    """obs: fresh draws of np.random, random, torch, both spaces and the env's own generator, and
    what np.random gave when the env was made. Episodes terminate after `terminates_at` steps.

    draws: which of them are drawn, the others are 0; the spaces belong to the class."""

    NAMES = ("numpy", "random", "torch", "action_space", "observation_space", "own", "made")
    observation_space = spaces.Box(-1.0, 1.0, (7,), np.float32)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self, draws: Sequence[str] = NAMES, terminates_at: int = 7) -> None:
        self.draws = draws
        self.terminates_at = terminates_at
        self.made = np.random.random()
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action: Any) -> Step:
        self.steps += 1
        return self._observation(), 1.0, self.steps == self.terminates_at, False, {}

    def _observation(self) -> np.ndarray:
        draw = {
            "numpy": np.random.random,
            "random": random.random,
            "torch": lambda: float(torch.rand(())),
            "action_space": lambda: self.action_space.sample()[0],
            "observation_space": lambda: self.observation_space.sample()[0],
            "own": self.np_random.random,
            "made": lambda: self.made,
        }
        return np.array(
            [draw[name]() if name in self.draws else 0.0 for name in self.NAMES], np.float32
        )


class TaskEnv(CountingEnv):
    """Counts; the reward is the task (a number, or its key 1) in every step of an episode that
    began with it. A task that is set is played from the next reset on."""

    def __init__(self, **counting: Any) -> None:
        super().__init__(**counting)
        self.task: Any = 0.0
        self.played = 0.0
        self.tasks_set = 0

    def get_task(self) -> Any:
        return self.task

    def set_task(self, task: Any) -> None:
        if task == "impossible":
            raise ValueError("no such task")
        self.task = task
        self.tasks_set += 1

    def sample_tasks(self, n_tasks: int) -> list[float]:
        return [float(task) for task in range(n_tasks)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        self.played = float(self.task[1][0] if isinstance(self.task, dict) else self.task)
        return super().reset(seed=seed, options=options)

    def _reward(self) -> float:
        return self.played


class AnyTaskEnv(TaskEnv):
    """Episodes of two steps in every task, whatever it is; the reward is 0."""

    def __init__(self) -> None:
        super().__init__(terminates_at=2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        self.played = 0.0
        return CountingEnv.reset(self, seed=seed, options=options)


class TasksInOne(gym.vector.SyncVectorEnv):
    """TaskEnvs as if they were an env's own vector implementation, with one task for all."""

    def __init__(self, num_envs: int, terminates_at: int) -> None:
        super().__init__([lambda: TaskEnv(terminates_at=terminates_at)] * num_envs)
        self.tasks_set = 0

    def get_task(self) -> Any:
        return self.envs[0].get_task()

    def set_task(self, task: Any) -> None:
        self.tasks_set += 1
        for env in self.envs:
            env.set_task(task)


class ScaledRewards(gym.Wrapper):
    """Multiplies rewards by its task, at once."""

    task = 1.0

    def get_task(self) -> float:
        return self.task

    def set_task(self, task: float) -> None:
        self.task = task

    def step(self, action: Any) -> Step:
        observation, reward, *rest = self.env.step(action)
        return observation, self.task * reward, *rest


def one_less(train_results: Any, task_settable_env: Any, env_ctx: Any) -> int:
    """An env_task_fn: the next task is less by one, and by two in the second env of a worker."""
    return task_settable_env.get_task() - 1 - env_ctx.vector_index


def wrong_task(train_results: Any, task_settable_env: Any, env_ctx: Any) -> Any:
    """An env_task_fn that fails."""
    return train_results["no such key"]


def one_more(train_results: Any, task_settable_env: Any, env_ctx: Any) -> float:
    """An env_task_fn: the next task is greater by one."""
    return task_settable_env.get_task() + 1


class DriftingReward(gym.Wrapper):
    """Pays as many as the steps that it has made in its life: no episode can be reproduced."""

    steps_of_life = 0

    def step(self, action: Any) -> Step:
        observation, _, *rest = self.env.step(action)
        self.steps_of_life += 1
        return observation, float(self.steps_of_life), *rest


class SelfNormalisingEnv(gym.Wrapper):
    """An env that wraps itself in running statistics."""

    def __init__(self) -> None:
        super().__init__(gym.wrappers.NormalizeObservation(CountingEnv(terminates_at=3)))


class SelfLimitingEnv(gym.Wrapper):
    """An env that wraps itself in a limit of its own."""

    def __init__(self, limit: int) -> None:
        super().__init__(gym.wrappers.TimeLimit(CountingEnv(), limit))


class EnvAroundStatistics(CountingEnv):
    """Hides an env with running statistics in itself."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [gym.wrappers.NormalizeReward(CountingEnv(terminates_at=3))]


def make_native(
    num_envs: int, env: str, autoreset_mode: str, **settings: Any
) -> gym.vector.SyncVectorEnv:
    """gymnasium's own vector env of a toy env, as if it were the env's own implementation."""
    env_class = globals()[env]
    return gym.vector.SyncVectorEnv(
        [lambda: env_class(**settings)] * num_envs, autoreset_mode=autoreset_mode
    )


class ResetsAllEnv(gym.vector.SyncVectorEnv):
    """Two counting envs that claim to reset when told to, and then reset all of them."""

    def __init__(self, num_envs: int = 2) -> None:
        lengths = [3, 5]
        super().__init__(
            [lambda n=n: CountingEnv(terminates_at=n) for n in lengths], autoreset_mode="Disabled"
        )

    def reset(self, *, seed: Any = None, options: Any = None) -> Reset:
        return super().reset(seed=seed)


gym.register("toy/Counting-v0", entry_point="toy_envs:CountingEnv")
gym.register("toy/Native-v0", vector_entry_point="toy_envs:make_native")
gym.register("toy/Tasks-v0", vector_entry_point="toy_envs:TasksInOne")
gym.register(
    "toy/Normalised-v0",
    entry_point="toy_envs:CountingEnv",
    additional_wrappers=(gym.wrappers.NormalizeObservation.wrapper_spec(),),
)


class CollectingEnv(CountingEnv):
    """Counts, and collects the garbage of its process in each step."""

    def step(self, action: Any) -> Step:
        gc.collect()
        return super().step(action)


class SharingEnv(CountingEnv):
    """Counts the steps of all envs of its run, and pays what the run's store says."""

    def step(self, action: Any) -> Step:
        rlrun.shared_counter("env steps").inc()
        return super().step(action)

    def _reward(self) -> float:
        return float(rlrun.shared_store("settings").get("pay", 1.0))


class UnreadableCreator:
    """Makes an env, and does not tell of what, as functions of C code do not."""

    @property
    def __signature__(self) -> None:
        raise ValueError

    def __call__(self, **kwargs: Any) -> gym.Env:
        return CountingEnv(**kwargs)


gym.register("toy/Unreadable-v0", entry_point=UnreadableCreator())
