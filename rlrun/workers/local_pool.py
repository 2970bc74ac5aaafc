"""The worker of this process, told what remote ones are told by `RemotePool`."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from rlrun.workers.task import Task, do


class LocalPool:
    """One worker, at position 0, that does what it is told at once."""

    def __init__(self, worker: Any) -> None:
        self.worker = worker

    def map(self, task: Task, *args: Any, to: list[int] | None = None) -> list[Any]:
        """Its result; `to` can name nobody else."""
        return [do(self.worker, task, args)]

    def map_each(self, task: Task, arguments: list[tuple[Any, ...]]) -> list[Any]:
        """Its result, with the first arguments."""
        return [do(self.worker, task, arguments[0])]

    def stream(
        self, task: Task, *args: Any, in_flight: int, is_over: Callable[[], bool]
    ) -> Iterator[tuple[int, Any]]:
        """(0, its result), again and again until `is_over`."""
        while not is_over():
            yield 0, do(self.worker, task, args)

    def send(self, position: int, task: Task, *args: Any) -> None:
        """It has done that when this returns."""
        do(self.worker, task, args)

    def settle(self, task: Task) -> deque[tuple[int, Any]]:
        """Nothing is ever under way."""
        return deque()
