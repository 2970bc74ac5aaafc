"""What a curriculum is: a callback that deals tasks out to all envs, once an iteration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlrun.core.callbacks import Callbacks
from rlrun.core.errors import ConfigError, WorkerDiedError, WorkerError

KEY = "curriculum"
"""The group, for errors."""


class Curriculum(Callbacks):
    """Chooses tasks from results; subclass it with `first_tasks` and `next_tasks`.

    Decides in the driver, after each iteration and the run's callbacks. Each env plays its new task
    from its next reset on. Every result has the task with which it came as `env_task`, a list where
    envs have several, and what `stats` gives as `curriculum`.
    """

    tasks_key = KEY
    """The setting that tasks come from, for errors."""

    @property
    def result_keys(self) -> Mapping[str, str]:
        """The result keys that it looks at, by the setting that names each."""
        return {}

    def all_tasks(self) -> Sequence[Any]:
        """The tasks that are known beforehand: envs are given each before the run starts, so that
        one that they refuse does not end it on the way."""
        return []

    def first_tasks(self, trainer: Any) -> Sequence[Any]:
        """The tasks to begin with: one for all envs, or several that are dealt out in turn."""
        raise NotImplementedError

    def next_tasks(self, trainer: Any, result: dict[str, Any]) -> Sequence[Any]:
        """The tasks to go on with after `result`; the present ones are `trainer.workers.tasks`."""
        raise NotImplementedError

    def stats(self) -> dict[str, Any]:
        """Numbers of its own for each result."""
        return {}

    def on_trainer_init(self, *, trainer: Any, **kwargs: Any) -> None:
        require_tasks(trainer)
        for task in self.all_tasks():
            self._deal(trainer, [task])
        self._deal(trainer, self.first_tasks(trainer))

    def on_train_result(self, *, trainer: Any, result: dict[str, Any], **kwargs: Any) -> None:
        result["env_task"] = shown(trainer.env_tasks)
        tasks = self.next_tasks(trainer, result)
        if stats := self.stats():
            result["curriculum"] = stats
        self._deal(trainer, tasks)

    def _deal(self, trainer: Any, tasks: Sequence[Any]) -> None:
        try:
            trainer.workers.set_tasks(tasks)
        except WorkerDiedError:
            raise
        except (TypeError, WorkerError) as error:
            raise ConfigError(f"{self.tasks_key}={shown(tasks)!r}: {error}") from error


def require_tasks(trainer: Any) -> None:
    """Raise ConfigError if the envs of the run cannot play tasks."""
    if not trainer.workers.plays_tasks:
        raise ConfigError(
            f"{KEY} needs envs that play tasks, and {trainer.config.worker.env.id!r} has no "
            f"get_task() and set_task(task): see rlrun.TaskSettableEnv. Use {KEY}=none."
        )


def shown(tasks: Sequence[Any]) -> Any:
    """Tasks as a result has them: the one that all envs play, or a list."""
    first = tasks[0] if tasks else None
    return first if all(str(task) == str(first) for task in tasks) else list(tasks)
