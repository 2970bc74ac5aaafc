"""What curricula that choose among tasks learn of the episodes of each, as custom metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rlrun.core.errors import ConfigError
from rlrun.core.metrics import NAN
from rlrun.curriculum.base import KEY

TASK = "env_task"
"""The entry of an episode's user_data with the task that it is played with."""


def note_task(worker: Any, episode: Any, env_index: int) -> None:
    """In on_episode_start: keep the task with which the episode begins."""
    if tasks := worker.get_tasks():  # Evaluation may have an env without.
        episode.user_data[TASK] = tasks[env_index % len(tasks)]


def note_number(episode: Any, name: str, number: float) -> None:
    """Report a number of this name for the episode's task."""
    if TASK in episode.user_data:
        episode.custom_metrics[_metric(name, episode.user_data[TASK])] = number


def mean_of(result: dict[str, Any], name: str, task: Any) -> float:
    """Its mean over the episodes of a task that ended in the result's iteration; nan: none did."""
    mean: float = result["custom_metrics"].get(f"{_metric(name, task)}_mean", NAN)
    return mean


def _metric(name: str, task: Any) -> str:
    return f"{name}_of_task_{task}"


def refuse_equal(tasks: Sequence[Any] | None) -> None:
    """Raise ConfigError for tasks of which there are none, or two of one name."""
    if tasks == []:
        raise ConfigError(f"{KEY}.tasks=[] must have one task at least, or be null.")
    names = [str(task) for task in tasks or ()]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ConfigError(f"{KEY}.tasks={list(tasks or ())} names {twice} twice. Leave one out.")


def sampled(trainer: Any, num_tasks: int) -> list[Any]:
    """Tasks that the env's sample_tasks gives, each once: results know them by their names."""
    found = trainer.workers.sample_tasks(num_tasks)
    return list({str(task): task for task in found}.values())
