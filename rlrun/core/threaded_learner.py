"""A learner that learns in a thread of its own while the driver gathers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from rlrun.core.algorithm import Algorithm
from rlrun.core.batch import Batch
from rlrun.core.filters import RunningMoments
from rlrun.core.intake import Intake
from rlrun.core.learner_thread import LearnerInTurn, LearnerThread
from rlrun.core.policy import Policy
from rlrun.core.snapshot import Snapshot


@dataclass(kw_only=True)
class ThreadedLearner(Algorithm):
    """Part of algorithms whose updates come from an `intake`, which their `setup` makes.

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

    @contextmanager
    def at_work(self, workers: Any) -> Iterator[LearnerInTurn | LearnerThread]:
        """Within the block the learner learns from what is given to its `add`."""
        if workers.num_workers == 0:
            yield LearnerInTurn(self.intake, self.learn_on_batch)
            return
        started = time.perf_counter()
        snapshot = self._snapshot = self._snapshot or Snapshot(self.policy)
        snapshot.renew(self.num_updates)

        def learn(rows: Batch) -> None:
            self.learn_on_batch(rows)
            snapshot.renew(self.num_updates)

        thread = LearnerThread(self.intake, learn, lambda: workers.is_interrupted)
        self._is_at_work = True
        try:
            with thread:
                yield thread
        finally:
            self._is_at_work = False
            snapshot.renew(self.num_updates)  # What filters gathered since the last update.
            self._idle_s += thread.idle_s
            self._at_work_s += time.perf_counter() - started

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
