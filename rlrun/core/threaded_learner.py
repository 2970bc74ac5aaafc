"""A learner that learns in a thread of its own while the driver gathers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from rlrun.core.algorithm import Algorithm
from rlrun.core.batch import Batch
from rlrun.core.filters import RunningMoments
from rlrun.core.intake import Intake
from rlrun.core.learner_thread import LearnerInTurn, LearnerThread
from rlrun.core.policy import Policy
from rlrun.core.snapshot import Snapshot

if TYPE_CHECKING:
    _Base = Algorithm
else:
    # As a base of dataclasses Algorithm would bring its values of fields before those of others.
    _Base = object


class ThreadedLearner(_Base):
    """What stands before the base of an algorithm that learns in a thread: from an `intake`, which
    its `setup` makes, or from what its own `learner_thread` and `learner_in_turn` know.

    The thread runs only inside the loop, `at_work`: between two rounds it rests, so that whoever
    reads or changes the learner need not know of it. Inside the loop others see a snapshot. With
    num_workers=0 there is no thread.
    """

    def setup(self, policy: Policy, device: torch.device, seed: int) -> None:
        super().setup(policy, device, seed)
        self.intake: Intake
        self._snapshot: Snapshot | None = None
        self._is_at_work = False
        self._idle_s = self._at_work_s = 0.0

    def learner_in_turn(self) -> Any:
        """What learns where there are no remote workers."""
        return LearnerInTurn(self.intake, self.learn_on_batch)

    def learner_thread(
        self, learn: Callable[[Batch], None], is_interrupted: Callable[[], bool]
    ) -> LearnerThread:
        """What learns beside remote workers."""
        return LearnerThread(self.intake, learn, is_interrupted)

    @contextmanager
    def at_work(self, workers: Any) -> Iterator[Any]:
        """Within the block the learner learns from what is given to its `add`."""
        if workers.num_workers == 0:
            yield self.learner_in_turn()
            return
        started = time.perf_counter()
        self._snapshot = self._snapshot or Snapshot(self.policy)
        self.renew_snapshot()

        def learn(rows: Batch) -> None:
            self.learn_on_batch(rows)
            self.renew_snapshot()

        thread = self.learner_thread(learn, lambda: workers.is_interrupted)
        self._is_at_work = True
        try:
            with thread:
                yield thread
        finally:
            self._is_at_work = False
            self.renew_snapshot()  # What filters gathered since the last update.
            self._idle_s += thread.idle_s
            self._at_work_s += time.perf_counter() - started
            self.timers.count("learner_idle", thread.idle_s)
            self.timers.add("learner_at_work", started)

    def renew_snapshot(self) -> None:
        """Between two updates: show others what the learner is by now."""
        assert self._snapshot is not None
        self._snapshot.renew(self.num_updates)

    @property
    def num_updates_to_give(self) -> int:
        return self._shown.num_updates if self._shown else super().num_updates_to_give

    def give_weights(self, policy: Policy) -> int:
        return self._shown.give_weights(policy) if self._shown else super().give_weights(policy)

    def count(self, gathered: RunningMoments) -> None:
        if self._shown:
            self._shown.count(gathered)
        else:
            super().count(gathered)

    @property
    def _shown(self) -> Snapshot | None:
        """What others see in place of the learner."""
        return self._snapshot if self._is_at_work else None

    def stats(self) -> dict[str, Any]:
        share = self._idle_s / self._at_work_s if self._at_work_s else 0.0
        self._idle_s = self._at_work_s = 0.0
        return {**super().stats(), "learner_idle_share": share}
