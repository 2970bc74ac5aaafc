"""Remote workers: Ray actors, and what becomes of what they are told."""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from rlrun.core.errors import (
    PeerLostError,
    ResourceError,
    RlrunError,
    WorkerDiedError,
    WorkerError,
)
from rlrun.core.process import keep_freed_memory, set_matmul_precision
from rlrun.core.processes import Place, enter, place_for_others
from rlrun.core.resources import Resources
from rlrun.workers import shared
from rlrun.workers.ray_connection import check_capacity, connect, reserved_place
from rlrun.workers.task import Task, do

logger = logging.getLogger("rlrun.workers")

CREATION_TIMEOUT_S = 300.0
"""How long a worker may wait for its resources before that is an error."""

LOOK_INTERVAL_S = 1.0
"""How long a stream waits for results before it asks whether it is over."""

STOP_TIMEOUT_S = 10.0
"""How long workers may take to close their envs before they are killed."""

PEER_GRACE_S = 20.0
"""How long to wait, once a worker has lost one that it learns with, for what became of that one."""


class RemotePool:
    """`num_workers` Ray actors, each made by `make(worker_index, generation)` in its own process.

    An actor does what it is told in the order of the telling.
    """

    def __init__(
        self,
        make: Callable[[int, int], Any],
        num_workers: int,
        resources: Resources,
        num_other_workers: int = 0,
        num_shards: int = 0,
        name: str = "Worker",
    ) -> None:
        ray = connect(resources)
        self._ray = ray
        self._name = name
        check_capacity(ray, num_workers + num_other_workers, num_shards, resources)
        self._actor_class = ray.remote(
            num_cpus=resources.num_cpus_per_worker,
            num_gpus=0 if resources.fake_gpus else resources.num_gpus_per_worker,
            resources=resources.custom_resources_per_worker or None,
            scheduling_strategy=reserved_place(ray),
        )(_Actor)
        self._make = ray.cloudpickle.dumps(make)
        self._threads = max(int(resources.num_cpus_per_worker), 1)
        self._matmul_precision = resources.matmul_precision
        self._unconfirmed: list[tuple[int, Any]] = []
        self._streams: dict[Task, _Stream] = {}
        self._unheard: list[Any] = []
        """What was under way when another worker failed; Ray prints errors that nobody looks at."""
        self._generations = [0] * num_workers
        self._dead: set[int] = set()
        self.actors = [self._start(position) for position in range(num_workers)]
        try:
            self._finish_start(range(num_workers))
        except BaseException:
            # Actors that were made would keep their CPUs.
            for actor in self.actors:
                ray.kill(actor)
            raise
        _living.add(self)

    def map(self, task: Task, *args: Any, to: Iterable[int] | None = None) -> list[Any]:
        """`task` of every worker, or of those at the positions `to`, at once; their results in
        order. Raises WorkerError."""
        positions = range(len(self.actors)) if to is None else to
        return self._confirmed([(at, self.actors[at].call.remote(task, *args)) for at in positions])

    def map_each(self, task: Task, arguments: list[tuple[Any, ...]]) -> list[Any]:
        """`task` of the i-th worker with `arguments[i]`, at once; their results in order."""
        refs = [
            actor.call.remote(task, *args)
            for actor, args in zip(self.actors, arguments, strict=True)
        ]
        return self._confirmed(list(enumerate(refs)))

    def call(self, position: int, task: Task, *args: Any) -> Any:
        """`task` of one worker."""
        return self._confirmed([(position, self.actors[position].call.remote(task, *args))])[0]

    def stream(
        self,
        task: Task,
        *args: Any,
        in_flight: int = 1,
        is_over: Callable[[], bool] = lambda: False,
        leaves_second: bool = False,
    ) -> Iterator[tuple[int, Any]]:
        """(position, result) as workers finish; each goes on with the same task, of which it has
        `in_flight` calls before it, when the caller asks for more. Ends when `is_over` says so,
        which is asked before each result and every second. What is still under way when the caller
        stops comes first the next time. `leaves_second`: the task gives a pair, whose second part
        stays in the object store; the result has its reference."""
        stream = self._streams.setdefault(task, _Stream())
        while not is_over():
            self._confirm_what_is_done()
            if stream.arrived:
                # Before its worker goes on: the caller may send it new weights.
                yield stream.arrived.popleft()
                continue
            for position, actor in enumerate(self.actors):
                for _ in range(in_flight - stream.num_under_way(position)):
                    call = actor.call.options(num_returns=2) if leaves_second else actor.call
                    stream.note(position, call.remote(task, *args))
            refs = list(stream.under_way)
            ready, _ = self._ray.wait(refs, num_returns=1, timeout=LOOK_INTERVAL_S)
            for ref in ready:
                # Of several that are ready Ray may name a later one first.
                position = stream.under_way[ref]
                oldest = next(each for each, at in stream.under_way.items() if at == position)
                del stream.under_way[oldest]
                self._arrive(stream, position, oldest)

    def settle(self, task: Task) -> deque[tuple[int, Any]]:
        """Wait for what is under way of a stream's task; all results that its caller has not had
        yet, in the order of their calls. The stream goes on with those that are left in it."""
        stream = self._streams.setdefault(task, _Stream())
        while stream.under_way:
            ref = next(iter(stream.under_way))
            position = stream.under_way.pop(ref)
            self._arrive(stream, position, ref)
        return stream.arrived

    def _arrive(self, stream: _Stream, position: int, ref: Any) -> None:
        second = stream.seconds.pop(ref, None)
        found = self._get([(position, ref)])[0]
        stream.arrived.append((position, found if second is None else (found, second)))

    def ask(self, position: int, task: Task, *args: Any) -> Any:
        """Tell one worker without waiting; gives what `ready` and `result` take. References among
        the arguments stand for what they refer to."""
        return self.actors[position].call.remote(task, *args)

    def result(self, position: int, ref: Any) -> Any:
        """What came out of `ask`, once it is there."""
        return self._get([(position, ref)])[0]

    def ready(self, refs: Iterable[Any], timeout_s: float) -> list[Any]:
        """Those that are done, in order; if none is, the one that is within `timeout_s`."""
        refs = list(refs)
        if not refs:
            return []
        done = self._ray.wait(refs, num_returns=len(refs), timeout=0.0)[0]
        done = done or self._ray.wait(refs, num_returns=1, timeout=timeout_s)[0]
        return [ref for ref in refs if ref in done]

    def send(self, position: int, task: Task, *args: Any) -> None:
        """Tell one worker without waiting. If it fails in that, the next call says so."""
        self._unconfirmed.append((position, self.actors[position].call.remote(task, *args)))

    def send_all(self, task: Task, *args: Any) -> None:
        """Tell every worker without waiting; large arguments travel once."""
        shared = [self._ray.put(arg) for arg in args]
        for position in range(len(self.actors)):
            self.send(position, task, *shared)

    def replace(self, position: int) -> None:
        """Put a new worker in the place of one, which is ended if it still lives."""
        self._ray.kill(self.actors[position])
        self._unconfirmed = [each for each in self._unconfirmed if each[0] != position]
        for stream in self._streams.values():
            stream.forget(position)
        self._generations[position] += 1
        self._dead.discard(position)
        self.actors[position] = self._start(position)
        self._finish_start([position])

    def map_living(self, task: Task, *args: Any) -> list[Any]:
        """`task` of every worker at once; None in the place of one that `leave_dead` found dead."""
        living = [at for at in range(len(self.actors)) if at not in self._dead]
        found = dict(zip(living, self.map(task, *args, to=living), strict=True))
        return [found.get(position) for position in range(len(self.actors))]

    def leave_dead(self) -> set[int]:
        """Expect nothing more of the workers that have died; returns their positions."""
        asked = {actor.answer.remote(): at for at, actor in enumerate(self.actors)}
        answered, late = self._ray.wait(list(asked), num_returns=len(asked), timeout=STOP_TIMEOUT_S)
        failed = {ref for ref in answered if self._failure(asked[ref], ref) is not None}
        # Those that do not answer in time hang, and would hang a checkpoint.
        for position in (asked[ref] for ref in (*failed, *late)):
            self._dead.add(position)
            for stream in self._streams.values():
                stream.forget(position)
        self._unconfirmed = [each for each in self._unconfirmed if each[0] not in self._dead]
        return self._dead

    def _start(self, position: int) -> Any:
        return self._actor_class.remote(
            self._make,
            position + 1,
            self._generations[position],
            _driver_path(),
            self._threads,
            self._matmul_precision,
            place_for_others(),
            f"{self._name.lower().replace(' ', '_')}_{position + 1}",
        )

    def _finish_start(self, positions: Iterable[int]) -> None:
        made = [(position, self.actors[position].make_worker.remote()) for position in positions]
        self._get(made, CREATION_TIMEOUT_S)

    def stop(self) -> None:
        """Close the workers and end their processes."""
        stopped = [actor.stop.remote() for actor in self.actors]
        # All at once: those that hang, as they wait for one that died, cost that time once.
        self._ray.wait(stopped, num_returns=len(stopped), timeout=STOP_TIMEOUT_S)
        for ref in (*stopped, *self._unheard):
            try:
                self._ray.get(ref, timeout=0)
            except (self._ray.exceptions.RayError, TimeoutError) as error:
                logger.debug("A worker could not be closed in order: %s", error)
        for actor in self.actors:
            self._ray.kill(actor)
        self.actors = []
        _living.discard(self)
        if not _living:
            shared.bring_home()

    def _confirmed(self, calls: list[tuple[int, Any]]) -> list[Any]:
        """The results of `calls`, if all that was sent before was done."""
        sent, self._unconfirmed = self._unconfirmed, []
        return self._get([*sent, *calls])[len(sent) :]

    def _confirm_what_is_done(self) -> None:
        """Raise what failed of what was sent, and forget what did not."""
        refs = [ref for _, ref in self._unconfirmed]
        if refs:
            done = set(self._ray.wait(refs, num_returns=len(refs), timeout=0.0)[0])
            self._get([each for each in self._unconfirmed if each[1] in done])
            self._unconfirmed = [each for each in self._unconfirmed if each[1] not in done]

    def _get(self, calls: list[tuple[int, Any]], timeout_s: float | None = None) -> list[Any]:
        """Results of (position of the worker, reference). Raises WorkerError, ResourceError."""
        refs = [ref for _, ref in calls]
        try:
            # All in one call: it ends at the first failure, whatever the others are waiting for.
            return list(self._ray.get(refs, timeout=timeout_s))
        except self._ray.exceptions.GetTimeoutError as error:
            _, late = self._ray.wait(refs, num_returns=len(refs), timeout=0)
            position = next(position for position, ref in calls if ref in late)
            raise ResourceError(
                f"{self._name} {position + 1} did not start within {timeout_s:.0f} s: Ray has no "
                f"free resources for it. Lower resources.num_workers, or see `ray status`."
            ) from error
        except self._ray.exceptions.RayError:
            failure = self._first_failure(calls, 0.0)
            if isinstance(failure, PeerLostError):
                failure = self._first_failure(calls, PEER_GRACE_S)
            if failure is None:
                raise
            raise failure from failure.__cause__

    def _first_failure(self, calls: list[tuple[int, Any]], grace_s: float) -> RlrunError | None:
        """What went wrong within `grace_s`; if possible not that a worker has lost another."""
        refs = [ref for _, ref in calls]
        done, self._unheard = self._ray.wait(refs, num_returns=len(refs), timeout=grace_s)
        found = [self._failure(position, ref) for position, ref in calls if ref in done]
        failures = [failure for failure in found if failure is not None]
        failures.sort(key=lambda failure: isinstance(failure, PeerLostError))
        return failures[0] if failures else None

    def _failure(self, position: int, ref: Any) -> RlrunError | None:
        """How a call that is done failed, or None."""
        try:
            self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            return _as_worker_error(error, f"{self._name} {position + 1}")
        except self._ray.exceptions.RayActorError as error:
            failure = WorkerDiedError(
                f"{self._name} {position + 1} died: {str(error).splitlines()[0]} The run ends; "
                f"`rlrun resume` goes on from the newest checkpoint."
            )
            failure.__cause__ = error
            failure.kind, failure.index = self._name, position + 1
            return failure
        return None


@dataclass
class _Stream:
    """What has been asked for, and has not come to the caller yet."""

    under_way: dict[Any, int] = field(default_factory=dict)
    """Positions of workers by reference, in the order of the calls."""
    arrived: deque[tuple[int, Any]] = field(default_factory=deque)
    """(position, result)."""
    seconds: dict[Any, Any] = field(default_factory=dict)
    """References of what stays in the object store, by those that are under way."""

    def note(self, position: int, refs: Any) -> None:
        """One worker was asked for something, or for a pair."""
        ref = refs
        if isinstance(refs, list):
            ref, self.seconds[refs[0]] = refs
        self.under_way[ref] = position

    def num_under_way(self, position: int) -> int:
        """How many calls one worker has before it."""
        return sum(place == position for place in self.under_way.values())

    def forget(self, position: int) -> None:
        """One worker will not answer any more."""
        self.under_way = {ref: at for ref, at in self.under_way.items() if at != position}
        self.seconds = {ref: self.seconds[ref] for ref in self.under_way if ref in self.seconds}


class _Actor:
    """Holds one worker in a process of its own."""

    def __init__(
        self,
        make: bytes,
        index: int,
        generation: int,
        import_path: list[str],
        num_threads: int,
        matmul_precision: str | None,
        place: Place | None,
        name: str,
    ) -> None:
        from rlrun.core.denormals import set_num_threads

        enter(place, name)
        sys.path.extend(path for path in import_path if path not in sys.path)
        keep_freed_memory()
        # More threads than cores make small policies slow each other down.
        set_num_threads(num_threads)
        set_matmul_precision(matmul_precision)
        self.make = make
        self.index = index
        self.generation = generation
        self.worker: Any = None

    def make_worker(self) -> None:
        import ray

        # Only now: the user's classes are found by the import path that was set above.
        self.worker = ray.cloudpickle.loads(self.make)(self.index, self.generation)

    def answer(self) -> None:
        """Nothing: whoever answers is there."""

    def call(self, task: Task, *args: Any) -> Any:
        return do(self.worker, task, args)

    def stop(self) -> None:
        if hasattr(self.worker, "stop"):
            self.worker.stop()


def _driver_path() -> list[str]:
    """Where this process finds modules, so that the user's own are found there too."""
    return [path for path in (os.getcwd(), *sys.path) if path]


_living: set[RemotePool] = set()
"""Pools of this process whose workers have not been stopped."""


def _as_worker_error(error: Any, name: str) -> RlrunError:
    """The worker's own error, with its traceback as it happened there."""
    cause = error.cause
    text = str(error).strip()
    if isinstance(cause, RlrunError):
        renewed = type(cause)(str(cause))
        renewed.__cause__ = RemoteTracebackError(text)
        return renewed
    failure = WorkerError(f"{name} failed: {type(cause).__name__}: {cause}")
    failure.__cause__ = RemoteTracebackError(text)
    return failure


class RemoteTracebackError(Exception):
    """Carries the traceback text of another process into this one's."""

    def __str__(self) -> str:
        return "\n" + str(self.args[0])
