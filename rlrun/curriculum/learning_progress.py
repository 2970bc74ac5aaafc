"""A curriculum that chooses its own tasks: those on which the return changes fastest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlrun.core import seeding
from rlrun.core.metrics import NAN
from rlrun.core.ranges import check_range
from rlrun.curriculum.base import KEY, Curriculum
from rlrun.curriculum.by_task import mean_of, note_number, note_task, refuse_equal, sampled
from rlrun.workers.task_state import pack, unpack


@dataclass(kw_only=True)
class LearningProgress(Curriculum):
    """Teacher-student curriculum learning (Matiisen et al., 2017, arXiv:1707.00183, the online
    algorithm).

    A task's score is the mean return of its episodes in an iteration, its progress an average of
    how the score changes from one to the next, which falls as well where a task is forgotten. After
    each iteration every env draws its next task in proportion to the absolute progress. The paper
    draws by epsilon-greedy or Boltzmann's distribution; each task comes once before any is drawn.
    """

    tasks: list[Any] | None = None
    """The tasks to choose among; null: `num_tasks` that the env's sample_tasks gives."""
    num_tasks: int = 10
    """How many tasks to sample where none are given, of which equal ones are one."""
    smoothing: float = 0.1
    """The weight of the newest change in the average, the paper's alpha."""
    uniform_share: float = 0.1
    """The share of draws in which all tasks are alike, the paper's epsilon."""

    tasks_key = f"{KEY}.tasks"

    def __post_init__(self) -> None:
        refuse_equal(self.tasks)
        check_range("num_tasks", self.num_tasks, low=1, key=KEY)
        for name in ("smoothing", "uniform_share"):
            check_range(name, getattr(self, name), low=0.0, high=1.0, key=KEY)
        self._choices = list(self.tasks or [])
        self._scores = self._progress = np.zeros(0)
        self._waiting: list[int] = []
        """Tasks that no env has been given yet."""
        self._num_envs = 1
        self._rng = np.random.default_rng(0)

    # In the workers

    def on_episode_start(self, *, worker: Any, episode: Any, env_index: int, **kwargs: Any) -> None:
        note_task(worker, episode, env_index)

    def on_episode_end(self, *, episode: Any, **kwargs: Any) -> None:
        note_number(episode, "return", episode.total_reward)

    # In the driver

    def all_tasks(self) -> Sequence[Any]:
        return self.tasks or []

    def first_tasks(self, trainer: Any) -> Sequence[Any]:
        self._choices = self._choices or sampled(trainer, self.num_tasks)
        self._scores = np.full(len(self._choices), NAN)
        self._progress = np.zeros(len(self._choices))
        self._waiting = list(range(len(self._choices)))
        self._num_envs = len(trainer.workers.get_tasks())
        self._rng = seeding.generator(trainer.config.worker.seed, "curriculum")
        return self._draw()

    def next_tasks(self, trainer: Any, result: dict[str, Any]) -> Sequence[Any]:
        found = [mean_of(result, "return", task) for task in self._choices]
        changes = np.array(found) - self._scores
        is_known = ~np.isnan(changes)
        self._progress[is_known] += self.smoothing * (changes - self._progress)[is_known]
        self._scores = np.where(np.isnan(found), self._scores, found)
        return self._draw()

    def _draw(self) -> list[Any]:
        """The next task of each env."""
        num_new = min(self._num_envs, len(self._waiting))
        new, self._waiting = self._waiting[:num_new], self._waiting[num_new:]
        drawn = self._rng.choice(
            len(self._choices), self._num_envs - num_new, p=self._probabilities()
        )
        return [self._choices[index] for index in (*new, *drawn)]

    def _probabilities(self) -> np.ndarray:
        uniform = np.full(len(self._choices), 1.0 / len(self._choices))
        total = np.abs(self._progress).sum()
        by_progress = np.abs(self._progress) / total if total else uniform
        return self.uniform_share * uniform + (1.0 - self.uniform_share) * by_progress

    def stats(self) -> dict[str, Any]:
        chances = self._probabilities()
        return {
            "probability": {
                str(task): float(p) for task, p in zip(self._choices, chances, strict=True)
            }
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "tasks": [pack(task) for task in self._choices],
            "scores": self._scores.copy(),
            "progress": self._progress.copy(),
            "waiting": list(self._waiting),
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._choices = [unpack(task) for task in state["tasks"]]
        self._scores = np.array(state["scores"])
        self._progress = np.array(state["progress"])
        self._waiting = [int(index) for index in state["waiting"]]
        self._rng.bit_generator.state = state["rng"]
