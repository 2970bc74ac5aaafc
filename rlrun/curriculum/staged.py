"""Curricula that are known beforehand: stages by what was reached or by the time, and a ramp."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlrun.core.errors import ConfigError
from rlrun.core.schedules import LinearSchedule
from rlrun.curriculum.base import KEY, Curriculum
from rlrun.loggers.base import lookup


@dataclass(kw_only=True)
class ByReward(Curriculum):
    """The next task when a result key has reached the present task's threshold, and the one before
    when it has fallen below another.

    Whenever the task changes, `episode_reward_mean` and the other means over the last 100 episodes
    begin anew, so that they speak of the present task.
    """

    tasks: list[Any]
    """In the order in which they are played."""
    threshold: float | list[float]
    """What `metric` must reach: for all tasks alike, or for each (the last may be left out)."""
    metric: str = "episode_reward_mean"
    """The result key that is looked at; with "min-" in front, lower is better."""
    patience: int = 1
    """Results in a row that must be beyond a threshold."""
    min_episodes: int = 20
    """Episodes that must have ended since the last change before anything counts."""
    back_threshold: float | list[float] | None = None
    """What `metric` must not fall below, or the task before comes again: for all tasks alike, or
    for each but the first; null: never back."""

    tasks_key = f"{KEY}.tasks"

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError(f"{KEY}.tasks=[] must have one task at least.")
        for name, least in (("patience", 1), ("min_episodes", 0)):
            if getattr(self, name) < least:
                raise ConfigError(f"{KEY}.{name}={getattr(self, name)} must be at least {least}.")
        self._sign = -1.0 if self.metric.startswith("min-") else 1.0
        last = len(self.tasks) - 1
        up = self._of_each("threshold", self.threshold, last + 1)
        back = [] if self.back_threshold is None else self.back_threshold
        back = self._of_each("back_threshold", back, last)
        self._up = [*up, *[math.inf] * (last + 1 - len(up))]
        """By stage, as higher is better."""
        self._back = [-math.inf, *(back or [-math.inf] * last)]
        for task, low, high in zip(self.tasks, self._back, self._up, strict=True):
            if low >= high:
                raise ConfigError(
                    f"{KEY}.back_threshold={self._sign * low:g} of the task {task!r} must be worse "
                    f"than its {KEY}.threshold={self._sign * high:g}."
                )
        self.stage = 0
        self.is_complete = False
        """Whether the threshold of the last task has been reached."""
        self._num_reached = self._num_fallen = self._num_episodes = 0

    def _of_each(self, name: str, given: float | list[float], length: int) -> list[float]:
        """Thresholds as higher is better, for `length` tasks."""
        numbers = given if isinstance(given, list) else [given] * length
        can_lack_one = name == "threshold" and len(numbers) == length - 1
        if numbers and len(numbers) != length and not can_lack_one:
            raise ConfigError(
                f"{KEY}.{name}={given} has {len(numbers)} numbers; for {len(self.tasks)} tasks it "
                f"must have {length}, or be one number for all."
            )
        return [self._sign * number for number in numbers]

    @property
    def result_keys(self) -> Mapping[str, str]:
        return {f"{KEY}.metric": self.metric.removeprefix("min-")}

    def all_tasks(self) -> Sequence[Any]:
        return self.tasks

    def first_tasks(self, trainer: Any) -> Sequence[Any]:
        return [self.tasks[self.stage]]

    def next_tasks(self, trainer: Any, result: dict[str, Any]) -> Sequence[Any]:
        before = self.stage
        self._num_episodes += result["episodes_this_iter"]
        value = self._news(trainer, result)
        is_known = isinstance(value, int | float) and not math.isnan(value)
        if is_known and self._num_episodes >= self.min_episodes:
            self._judge(self._sign * value)
        if self.stage != before:
            self._num_reached = self._num_fallen = self._num_episodes = 0
            trainer.episodes.forget()
        return [self.tasks[self.stage]]

    def _news(self, trainer: Any, result: dict[str, Any]) -> Any:
        """What the metric has become in this result."""
        key = self.metric.removeprefix("min-")
        is_of_evaluation = key.startswith("evaluation/")
        if is_of_evaluation and not trainer.config.evaluation.is_due(result["training_iteration"]):
            return None  # An evaluation of before, maybe of another task, is attached again.
        return lookup(result, key)

    def _judge(self, value: float) -> None:
        """Count a value (higher is better), and change the stage if that is due."""
        self._num_reached = self._num_reached + 1 if value >= self._up[self.stage] else 0
        self._num_fallen = self._num_fallen + 1 if value < self._back[self.stage] else 0
        if self._num_reached >= self.patience:
            self.is_complete = self.stage == len(self.tasks) - 1
            self.stage = min(self.stage + 1, len(self.tasks) - 1)
        elif self._num_fallen >= self.patience:
            self.is_complete = False
            self.stage -= 1

    def stats(self) -> dict[str, Any]:
        return {"stages_passed": self.stage + self.is_complete}

    def state_dict(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "is_complete": self.is_complete,
            "num_reached": self._num_reached,
            "num_fallen": self._num_fallen,
            "num_episodes": self._num_episodes,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stage = min(int(state["stage"]), len(self.tasks) - 1)
        self.is_complete = bool(state["is_complete"])
        self._num_reached = int(state["num_reached"])
        self._num_fallen = int(state["num_fallen"])
        self._num_episodes = int(state["num_episodes"])


@dataclass(kw_only=True)
class ByTimestep(Curriculum):
    """Each task from a count of env steps on. The means over the last 100 episodes begin anew
    whenever it changes."""

    schedule: list[list[Any]]
    """[timestep, task] with rising timesteps from 0 on."""

    tasks_key = f"{KEY}.schedule"

    def __post_init__(self) -> None:
        starts = [point[0] for point in self.schedule if len(point) == 2]
        are_counts = all(isinstance(start, int | float) and start % 1 == 0 for start in starts)
        is_complete = len(starts) == len(self.schedule) and starts[:1] == [0]
        if not (are_counts and is_complete and starts == sorted(set(starts))):
            raise ConfigError(
                f"{KEY}.schedule={self.schedule} must be a list of [timestep, task] with rising "
                f"timesteps, whole numbers, the first one 0."
            )
        self._starts = starts

    def all_tasks(self) -> Sequence[Any]:
        return [task for _, task in self.schedule]

    def first_tasks(self, trainer: Any) -> Sequence[Any]:
        return [self.schedule[0][1]]

    def next_tasks(self, trainer: Any, result: dict[str, Any]) -> Sequence[Any]:
        now = result["timesteps_total"]
        stage = self._stage(now)
        if stage != self._stage(now - result["timesteps_this_iter"]):
            trainer.episodes.forget()
        return [self.schedule[stage][1]]

    def _stage(self, timestep: int) -> int:
        return bisect_right(self._starts, timestep) - 1


@dataclass(kw_only=True)
class Linear(Curriculum):
    """A number that moves from one bound to the other with the env steps, and stays there."""

    initial: float
    """The task at the first step."""
    final: float
    """The task from `timesteps` on."""
    timesteps: int
    """Env steps that the way takes."""
    step: float | None = None
    """The number moves in steps of this size, 1 for whole numbers; null: continuously."""

    def __post_init__(self) -> None:
        if self.timesteps < 1:
            raise ConfigError(f"{KEY}.timesteps={self.timesteps} must be at least 1.")
        if self.step is not None and self.step <= 0:
            raise ConfigError(f"{KEY}.step={self.step:g} must be above 0, or null.")
        self._ramp = LinearSchedule(
            initial=self.initial, final=self.final, timesteps=self.timesteps
        )

    def all_tasks(self) -> Sequence[Any]:
        return [self._task(0), self._task(self.timesteps)]

    def first_tasks(self, trainer: Any) -> Sequence[Any]:
        return [self._task(0)]

    def next_tasks(self, trainer: Any, result: dict[str, Any]) -> Sequence[Any]:
        return [self._task(result["timesteps_total"])]

    def _task(self, timestep: int) -> float:
        number = self._ramp(timestep)
        if self.step is None or timestep >= self.timesteps:
            return self._whole(number)
        steps = math.floor(abs(number - self.initial) / self.step + 1e-9)
        return self._whole(self.initial + math.copysign(steps * self.step, number - self.initial))

    def _whole(self, number: float) -> float:
        """A whole number as an int, where all tasks are; envs may use it as an index."""
        bounds = (self.initial, self.final, self.step)
        are_whole = all(each is not None and float(each).is_integer() for each in bounds)
        return int(number) if are_whole else number
