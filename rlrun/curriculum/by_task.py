"""What curricula that choose among tasks learn of the episodes of each, as custom metrics."""

from __future__ import annotations

from typing import Any

from rlrun.core.metrics import NAN

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
