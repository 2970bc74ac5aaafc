"""What loops tell workers to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Task = str | Callable[..., Any]
"""A worker's method by name, or function(worker, *args)."""


def do(worker: Any, task: Task, args: tuple[Any, ...]) -> Any:
    """The result of a task, by a worker of this process."""
    return task(worker, *args) if callable(task) else getattr(worker, task)(*args)
