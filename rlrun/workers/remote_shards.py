"""Replay shards in processes of their own: rows reach them from workers through the object store,
and what the learner will ask for next is ready before it asks."""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import replace
from typing import Any

import numpy as np

from rlrun.core.batch import Batch
from rlrun.core.resources import Resources
from rlrun.core.shards import ReplayShard, ShardPlan, joined_stats, states_of
from rlrun.workers.pool import RemotePool
from rlrun.workers.sample import RowsElsewhere

logger = logging.getLogger("rlrun.workers")

WAIT_S = 0.1
"""How long the learner waits for a batch before it looks whether it is to end."""

MAX_UNCONFIRMED = 64
"""Fragments, and updates of priorities, that may be on their way to the shards; then whoever sends
more waits for the oldest."""


class RemoteShards:
    """What `core.shards.Shards` is in one process, over Ray actors.

    `add` and everything about states is for the thread that gathers, with the learner at rest where
    it says so; `sample` and `update_present` are for the thread that learns.
    """

    def __init__(self, plan: ShardPlan, resources: Resources, queue_size: int) -> None:
        self.plan = plan
        self.num_waiting = 0
        """Batches that were ready when the learner took one."""
        self._pool = RemotePool(
            _MakeShard(plan), plan.num_shards, _of_shards(resources), name="Replay shard"
        )
        to_check = plan.rows_to_check(self._pool.map("machine"))
        self._pool.map_each("check_room_for", [(num_rows,) for num_rows in to_check])
        self._asked_of_each = -(-queue_size // plan.num_shards)
        self._asked: dict[Any, int] = {}
        """Shards by the references of batches that they get ready."""
        self._unconfirmed: dict[str, deque[tuple[int, Any]]] = {"add": deque(), "update": deque()}
        self._num_added = [0] * plan.num_shards
        self._next_to_add = 0

    @property
    def size(self) -> int:
        """Rows in all shards, once what is on its way has arrived."""
        capacities = np.diff(self.plan.first_indexes)
        return int(np.minimum(self._num_added, capacities).sum())

    @property
    def num_added(self) -> int:
        """Rows that were ever sent to a shard."""
        return sum(self._num_added)

    # Gathering

    def add(self, rows: Batch | RowsElsewhere) -> None:
        """Send the rows of a fragment to the next shard. Raises WorkerDiedError if one is gone."""
        number = self._next_to_add
        if isinstance(rows, RowsElsewhere):
            self._send("add", number, _add_part, rows.ref, rows.policy_id)
        else:
            self._send("add", number, "add", rows)
        # Only now may the learner ask that shard for rows: it does what comes first.
        self._num_added[number] += rows.num_rows
        self._next_to_add = (number + 1) % self.plan.num_shards

    # Learning

    def sample(self, num_rows: int, beta: float) -> Batch | None:
        """A batch that some shard has ready; None if there is none for a while."""
        for number in range(self.plan.num_shards):
            self._ask(number, num_rows, beta)
        ready = self._pool.ready(self._asked, WAIT_S)
        self.num_waiting = len(ready)
        if not ready:
            return None
        number = self._asked.pop(ready[0])
        batch = Batch(self._pool.result(number, ready[0]))
        self._ask(number, num_rows, beta)
        # A new array: what comes out of the object store cannot be written to.
        batch["batch_indexes"] = batch["batch_indexes"] + self.plan.first_indexes[number]
        return batch

    def update_present(self, indexes: np.ndarray, writes: np.ndarray, errors: np.ndarray) -> None:
        """Tell the shard of a batch the new priorities of those rows that it still has."""
        number = self.plan.shard_of(indexes[0])
        slots = indexes - self.plan.first_indexes[number]
        self._send("update", number, "update_present", slots, writes, errors)

    def _ask(self, number: int, num_rows: int, beta: float) -> None:
        if self._num_added[number]:
            under_way = Counter(self._asked.values())[number]
            for _ in range(self._asked_of_each - under_way):
                ref = self._pool.ask(number, "sample", num_rows, beta)
                self._asked[ref] = number

    def _send(self, what: str, number: int, *call: Any) -> None:
        unconfirmed = self._unconfirmed[what]
        unconfirmed.append((number, self._pool.ask(number, *call)))
        while len(unconfirmed) > MAX_UNCONFIRMED:
            self._pool.result(*unconfirmed.popleft())

    # Between two rounds: the learner is at rest

    def stats(self) -> dict[str, Any]:
        """Sizes, for the result."""
        return joined_stats(self._pool.map("stats"))

    def state_dict(self) -> dict[str, Any]:
        """Everything, rows included; None of a shard that `leave_dead` found dead."""
        return {
            "shards": self._pool.map_living("state_dict"),
            "next_to_add": self._next_to_add,
            "next_to_sample": 0,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave, here or in one process; a shard that was lost begins
        empty. Raises ValueError if there were more or fewer, or others."""
        self._asked = {}
        for number, of_shard in enumerate(states_of(state, self.plan)):
            if of_shard is None:
                of_shard = self.plan.make(number).state_dict()
                logger.warning("Replay shard %d had died: it begins empty.", number + 1)
            self._pool.call(number, "load_state_dict", of_shard)
            self._num_added[number] = int(of_shard["num_added"])
        self._next_to_add = int(state["next_to_add"])

    def leave_dead(self) -> None:
        """A state that is taken from now on says nothing of shards that have died."""
        for number in self._pool.leave_dead():
            logger.error("The rows of replay shard %d are lost with it.", number + 1)

    def stop(self) -> None:
        """End the processes."""
        self._asked = {}
        self._pool.stop()


class _MakeShard:
    """Makes the shards of a plan in their processes, which count from 1."""

    def __init__(self, plan: ShardPlan) -> None:
        self.plan = plan

    def __call__(self, index: int, generation: int) -> ReplayShard:
        return self.plan.make(index - 1)


def _add_part(shard: ReplayShard, rows: dict[str, Batch], policy_id: str) -> None:
    shard.add(rows[policy_id])


def _of_shards(resources: Resources) -> Resources:
    """What a shard takes, in the words of a worker."""
    return replace(
        resources,
        num_cpus_per_worker=resources.num_cpus_per_replay_shard,
        num_gpus_per_worker=0.0,
        custom_resources_per_worker={},
    )
