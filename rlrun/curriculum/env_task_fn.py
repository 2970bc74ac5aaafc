"""A curriculum as a function of the user's: what the classic RLlib calls env_task_fn."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from rlrun.core.errors import ConfigError, WorkerDiedError, WorkerError
from rlrun.core.imports import import_object
from rlrun.curriculum.base import Curriculum, require_tasks, shown

NAME = "curriculum.env_task_fn"


@dataclass(kw_only=True)
class EnvTaskFn(Curriculum):
    """After each iteration, gives every env the task that a function chooses for it.

    It is called once for each env, in the process where that lives. `task_settable_env` is the env,
    or the wrapper of it that has get_task and set_task; `env_ctx` is its env_config as a dict, with
    worker_index, vector_index, num_workers and remote. set_task is called where the task is a new
    one.
    """

    env_task_fn: str
    """Import path of a function(train_results, task_settable_env, env_ctx) -> task."""

    def __post_init__(self) -> None:
        _function(self.env_task_fn)

    def on_trainer_init(self, *, trainer: Any, **kwargs: Any) -> None:
        require_tasks(trainer)
        trainer.workers.update_tasks(_present_task)

    def on_train_result(self, *, trainer: Any, result: dict[str, Any], **kwargs: Any) -> None:
        result["env_task"] = shown(trainer.env_tasks)
        try:
            trainer.workers.update_tasks(partial(_chosen_task, self.env_task_fn, dict(result)))
        except WorkerDiedError:
            raise
        except WorkerError as error:
            raise ConfigError(f"{NAME}={self.env_task_fn}: {error}") from error


def _present_task(env: Any, env_ctx: Any) -> Any:
    return env.get_task()


def _chosen_task(path: str, train_results: dict[str, Any], env: Any, env_ctx: Any) -> Any:
    return _function(path)(train_results, env, env_ctx)


def _function(path: str) -> Callable[..., Any]:
    function = import_object(path, NAME)
    try:
        inspect.signature(function).bind({}, None, {})
    except TypeError as error:
        raise ConfigError(
            f"{NAME}={path} must be a function of (train_results, task_settable_env, env_ctx) that "
            f"returns a task: {error}."
        ) from error
    return cast(Callable[..., Any], function)
