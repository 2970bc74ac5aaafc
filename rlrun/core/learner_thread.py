"""Learning while the driver gathers, in a thread of its own, or in turns with it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import torch

from rlrun.core.batch import Batch
from rlrun.core.denormals import set_num_threads
from rlrun.core.intake import Intake


class LearnerInTurn:
    """Learns from all that there is at once; as a context it does nothing."""

    error: BaseException | None = None
    """Errors are raised where they happen."""

    def __init__(self, intake: Intake, learn: Callable[[Batch], None]) -> None:
        self.intake = intake
        self.learn = learn

    def __enter__(self) -> LearnerInTurn:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def add(self, fragment: Batch) -> None:
        """Take a fragment in, and learn."""
        self.intake.add(fragment)
        while (rows := self.intake.take()) is not None:
            self.learn(rows)


class LearnerThread:
    """Learns from what `intake` holds, as a context: the thread ends with it, after the update that
    is under way. What was not learned from by then stays in the intake.

    An error of the thread is raised by `add`, or where the context ends, with its own traceback.
    """

    def __init__(
        self,
        intake: Any,
        learn: Callable[[Batch], None],
        is_interrupted: Callable[[], bool],
    ) -> None:
        self.intake = intake
        self.learn = learn
        self.is_interrupted = is_interrupted
        self.idle_s = 0.0
        """Seconds that the thread has waited for rows."""
        self.error: BaseException | None = None
        """What ended the thread before its time."""
        self._changed = threading.Condition()
        self._is_learning = False
        self._is_over = False
        self._num_torch_threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._run, name="rlrun learner", daemon=True)

    def __enter__(self) -> LearnerThread:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._changed:
            self._is_over = True
            self._changed.notify_all()
        self._thread.join()
        if error is None:
            self._raise_error()

    def add(self, fragment: Batch) -> None:
        """Hand a fragment over; waits while the line is full, until an interrupt comes."""
        with self._changed:
            while self.intake.is_full and not self.intake.drops_when_full:
                self._raise_error()
                if self.is_interrupted():
                    break
                self._changed.wait(0.1)  # Signals are heard between two waits.
            self.intake.add(fragment)
            self._changed.notify_all()
        self._raise_error()

    def _run(self) -> None:
        # Its own in each thread.
        set_num_threads(self._num_torch_threads)
        try:
            while (rows := self._next()) is not None:
                self.learn(rows)
        except BaseException as error:  # The driver raises it again.
            self.error = error
        finally:
            with self._changed:
                self._is_learning = False
                self._changed.notify_all()

    def _next(self) -> Batch | None:
        """The rows of the next update, once there are any; None at the end."""
        started = time.perf_counter()
        with self._changed:
            self._is_learning = False
            self._changed.notify_all()
            while not self._is_over:
                rows = self.intake.take()
                if rows is not None:
                    self._is_learning = True
                    self._changed.notify_all()
                    self.idle_s += time.perf_counter() - started
                    return rows
                self._changed.wait()
            self.idle_s += time.perf_counter() - started
        return None

    def _raise_error(self) -> None:
        if self.error is not None:
            raise self.error
