"""What a learner was after its last update, for others to read while the next is under way."""

from __future__ import annotations

import copy
import threading

from rlrun.core.filters import RunningMoments
from rlrun.core.policy import Policy


class Snapshot:
    """A copy of `policy`, whose learner renews it between two updates, in its own thread. Others
    take weights from it, and leave there what filters gathered: nobody waits for an update, and
    nothing changes or is read within one."""

    def __init__(self, policy: Policy) -> None:
        self.num_updates = 0
        """How many updates the copy has seen."""
        self._policy = policy
        self._copy = copy.deepcopy(policy)
        self._gathered: list[RunningMoments] = []
        self._lock = threading.Lock()

    def renew(self, num_updates: int) -> None:
        """By the learner, which has done that many updates: count what filters gathered, and copy
        the weights."""
        with self._lock:
            for moments in self._gathered:
                self._policy.observation_filter.merge(moments)
            self._gathered.clear()
            self._copy.copy_weights(self._policy)
            self.num_updates = num_updates

    def give_weights(self, policy: Policy) -> int:
        """Give another policy the weights; returns how many updates they have seen."""
        with self._lock:
            policy.copy_weights(self._copy)
            return self.num_updates

    def count(self, gathered: RunningMoments) -> None:
        """Leave what filters gathered to the learner."""
        with self._lock:
            self._gathered.append(gathered)
