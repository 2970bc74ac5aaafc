"""Learning from replay in shards: in turns with gathering, or all the time in a thread."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rlrun.core.batch import Batch
from rlrun.core.learner_thread import LearnerThread
from rlrun.core.replay_side import ReplaySide

WAIT_S = 0.1
"""How long the thread waits before it looks again whether it may learn."""


class ReplayLearnerInTurn:
    """Learns as much as each fragment calls for, once it is in the replay; as a context it does
    nothing."""

    error: BaseException | None = None
    """Errors are raised where they happen."""

    def __init__(
        self, replay: ReplaySide, learn: Callable[[Batch], None], clock: Callable[[], int]
    ) -> None:
        self.replay = replay
        self.learn = learn
        self.clock = clock

    def add(self, rows: Batch) -> None:
        """Take a fragment in, and learn."""
        self.replay.add(rows)
        for _ in range(self.replay.num_updates_due(rows.num_steps, self.clock())):
            self.learn(self.replay.sample(self.clock()))


class ReplayLearnerThread(LearnerThread):
    """Learns from what the shards have ready, as a context: the thread ends with it, after the
    update that is under way.

    Without a `training_intensity` it learns as fast as it can. With one it waits for rows that it
    may learn from, and gathering waits while more than `max_owed` updates are owed for its rows.
    """

    def __init__(
        self,
        replay: ReplaySide,
        learn: Callable[[Batch], None],
        is_interrupted: Callable[[], bool],
        *,
        clock: Callable[[], int],
        on_idle: Callable[[], None],
        max_owed: int,
    ) -> None:
        super().__init__(replay, learn, is_interrupted)
        self.replay = replay
        self.clock = clock
        self.on_idle = on_idle
        """Called in the thread whenever it has nothing to do."""
        self.max_owed = max_owed

    def add(self, rows: Any) -> None:
        """Hand a fragment over to the shards; `rows` are a Batch or stand for one elsewhere."""
        self.replay.add(rows)
        with self._changed:
            if self._has_begun and self.replay.training_intensity is not None:
                share = self.replay.training_intensity / self.replay.train_batch_size
                self.replay.updates_owed += rows.num_steps * share
            self._changed.notify_all()
            while self._is_behind and not self.is_interrupted():
                self._raise_error()
                self._changed.wait(WAIT_S)  # Signals are heard between two waits.
        self._raise_error()

    def _next(self) -> Batch | None:
        """The rows of the next update, once there are any; None at the end."""
        started = time.perf_counter()
        rows = None
        while True:
            with self._changed:
                self._is_learning = False
                self._changed.notify_all()
                if self._is_over or rows is not None:
                    self.idle_s += time.perf_counter() - started
                    return None if self._is_over else self._taken(rows)
                may_learn = self._may_learn
                if not may_learn:
                    self._changed.wait(WAIT_S)
            # Without the lock: whoever gathers need not wait for the shards.
            if may_learn:
                rows = self.replay.sample(self.clock())
            if rows is None:
                self.on_idle()

    def _taken(self, rows: Any) -> Batch:
        self._is_learning = True
        if self.replay.training_intensity is not None:
            self.replay.updates_owed -= 1.0
        return rows

    @property
    def _is_behind(self) -> bool:
        """Whether gathering is to wait; where nothing is learned, nothing would end the wait."""
        is_counted = self.replay.training_intensity is not None and self._has_begun
        return is_counted and self.replay.updates_owed > self.max_owed

    @property
    def _has_begun(self) -> bool:
        return self.clock() >= self.replay.learning_starts and self.replay.buffer.size > 0

    @property
    def _may_learn(self) -> bool:
        is_owed = self.replay.training_intensity is None or self.replay.updates_owed >= 1.0
        return is_owed and self._has_begun
