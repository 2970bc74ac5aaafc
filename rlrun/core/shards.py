"""Prioritised replay in several parts, whose rows come with first priorities of their own
(Horgan et al., 2018, arXiv:1803.00933)."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from rlrun.core import seeding
from rlrun.core.batch import Batch
from rlrun.core.replay import PrioritizedReplayBuffer, ReplayBuffer
from rlrun.core.replay_side import ReplaySide
from rlrun.core.storage import Storage


class ReplayShard(PrioritizedReplayBuffer):
    """One part of the memory. Rows are added with the column `priorities`, their first TD errors.

    Sampled batches carry `batch_writes`, how often their slots had been written. By it an update
    that comes after a slot was overwritten is known, and dropped: the error is another row's.
    """

    def __init__(
        self,
        capacity: int,
        rng: np.random.Generator,
        storage: Storage | None = None,
        *,
        alpha: float,
        eps: float,
    ) -> None:
        super().__init__(capacity, rng, storage, alpha=alpha, eps=eps)
        self.writes = np.zeros(capacity, np.int64)
        self.num_late = 0
        """Updates of single priorities that came too late."""

    def add(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        rows = dict(batch)
        errors = rows.pop("priorities")
        slots = ReplayBuffer.add(self, rows)
        self.writes[slots] += 1
        self.update_priorities(slots, errors[-len(slots) :])
        return slots

    def sample(self, num_rows: int, beta: float = 1.0) -> Batch:
        batch = super().sample(num_rows, beta)
        batch["batch_writes"] = self.writes[batch["batch_indexes"]]
        return batch

    def update_present(self, slots: np.ndarray, writes: np.ndarray, errors: np.ndarray) -> None:
        """Set the priorities of those rows that are still there; `writes` as they were sampled."""
        is_there = self.writes[slots] == writes
        self.num_late += int(np.count_nonzero(~is_there))
        if is_there.any():
            self.update_priorities(slots[is_there], errors[is_there])

    def machine(self) -> str:
        """Where its memory is."""
        return platform.node()

    def check_room_for(self, num_rows: int) -> None:
        """Look whether there is room for so many rows when the first ones come."""
        self.storage.num_rows_to_check = num_rows

    def stats(self) -> dict[str, Any]:
        return {**super().stats(), "num_late_priorities": self.num_late}

    def state_dict(self) -> dict[str, Any]:
        writes = self.writes[: self.size]
        return {**super().state_dict(), "writes": writes, "num_late": self.num_late}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.writes[: self.size] = state["writes"]
        self.num_late = int(state["num_late"])


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """How a memory of `capacity` rows is parted; it travels to where the shards live."""

    num_shards: int
    capacity: int
    alpha: float
    eps: float
    seed: int
    make_storage: Callable[[int], Storage] = Storage
    """What makes room for the rows of a shard."""

    @cached_property
    def first_indexes(self) -> np.ndarray:
        """Where the slots of each shard begin, if all are counted through; the end behind them,
        [num_shards + 1]."""
        return self.capacity * np.arange(self.num_shards + 1) // self.num_shards

    def make(self, number: int) -> ReplayShard:
        """The shard of that number, from 0."""
        capacity = int(np.diff(self.first_indexes)[number])
        return ReplayShard(
            capacity,
            seeding.generator(self.seed, "shard", number),
            self.make_storage(capacity),
            alpha=self.alpha,
            eps=self.eps,
        )

    def rows_to_check(self, machines: list[str]) -> list[int]:
        """For how many rows each shard is to look whether there is room: the first one on each of
        the `machines`, where they are, for all that are there."""
        capacities = np.diff(self.first_indexes)
        return [
            sum(int(c) for c, there in zip(capacities, machines, strict=True) if there == machine)
            if machine not in machines[:number]
            else 0
            for number, machine in enumerate(machines)
        ]

    def shard_of(self, index: int) -> int:
        """The number of the shard that has the slot `index`."""
        return int(np.searchsorted(self.first_indexes, index, side="right")) - 1


class Shards:
    """All shards, in this process. Fragments go to them in turn, and each batch comes from the next
    one that has rows; importance weights are scaled within it. `batch_indexes` count the slots of
    all shards through."""

    num_waiting = 0
    """Batches that are ready to be learned from: none, as each is sampled when it is wanted."""

    def __init__(self, plan: ShardPlan) -> None:
        self.plan = plan
        self.shards = [plan.make(number) for number in range(plan.num_shards)]
        machines = [shard.machine() for shard in self.shards]
        for shard, num_rows in zip(self.shards, plan.rows_to_check(machines), strict=True):
            shard.check_room_for(num_rows)
        self.next_to_add = 0
        self.next_to_sample = 0

    @property
    def size(self) -> int:
        """Rows in all shards."""
        return sum(shard.size for shard in self.shards)

    @property
    def num_added(self) -> int:
        """Rows that were ever added."""
        return sum(shard.num_added for shard in self.shards)

    def add(self, batch: Batch) -> None:
        """Put the rows of a fragment into the next shard."""
        self.shards[self.next_to_add].add(batch)
        self.next_to_add = (self.next_to_add + 1) % len(self.shards)

    def sample(self, num_rows: int, beta: float) -> Batch:
        """`num_rows` rows of the next shard that has any."""
        while not self.shards[self.next_to_sample].size:
            self.next_to_sample = (self.next_to_sample + 1) % len(self.shards)
        number = self.next_to_sample
        batch = self.shards[number].sample(num_rows, beta)
        batch["batch_indexes"] += self.plan.first_indexes[number]
        self.next_to_sample = (number + 1) % len(self.shards)
        return batch

    def update_present(self, indexes: np.ndarray, writes: np.ndarray, errors: np.ndarray) -> None:
        """Set the priorities of the rows of one batch that are still there."""
        number = self.plan.shard_of(indexes[0])
        slots = indexes - self.plan.first_indexes[number]
        self.shards[number].update_present(slots, writes, errors)

    def stats(self) -> dict[str, Any]:
        """Sizes, for the result."""
        return joined_stats([shard.stats() for shard in self.shards])

    def state_dict(self) -> dict[str, Any]:
        """Everything, rows included."""
        return {
            "shards": [shard.state_dict() for shard in self.shards],
            "next_to_add": self.next_to_add,
            "next_to_sample": self.next_to_sample,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave; a shard that was lost stays empty. Raises ValueError if
        there were more or fewer, or others."""
        for shard, of_shard in zip(self.shards, states_of(state, self.plan), strict=True):
            if of_shard is not None:
                shard.load_state_dict(of_shard)
        self.next_to_add = int(state["next_to_add"])
        self.next_to_sample = int(state["next_to_sample"])


class ShardedReplaySide(ReplaySide):
    """A replay side whose buffer are shards, here or in other processes."""

    buffer: Any

    def sample(self, timestep: int) -> Any:
        """Rows to learn from next; None if shards in other processes have none ready yet."""
        return self.buffer.sample(self.train_batch_size, self.beta(timestep))

    def update_priorities(self, rows: Batch, errors: Any) -> None:
        columns = (rows["batch_indexes"], rows["batch_writes"], errors.detach())
        self.buffer.update_present(*(column.cpu().numpy() for column in columns))


def joined_stats(stats: list[dict[str, Any]]) -> dict[str, Any]:
    """The sums over all shards, and how many rows each of them holds, by its number from 1."""
    sizes = {str(number): each["num_entries"] for number, each in enumerate(stats, start=1)}
    sums = {name: sum(each[name] for each in stats) for name in stats[0]}
    return {**sums, "num_entries_of_shard": sizes}


def states_of(state: dict[str, Any], plan: ShardPlan) -> list[dict[str, Any] | None]:
    """What each shard is to put back. Raises ValueError if there were more or fewer."""
    states: list[dict[str, Any] | None] = state["shards"]
    if len(states) != plan.num_shards:
        raise ValueError(f"it was saved with algo.num_replay_buffer_shards={len(states)}.")
    return states
