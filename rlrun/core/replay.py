"""Replay buffers: preallocated NumPy rings of transitions, uniform or prioritised."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import psutil

from rlrun.core.batch import Batch
from rlrun.core.errors import ResourceError

logger = logging.getLogger("rlrun")

LARGE_SHARE = 0.7
"""A buffer that will take more than this share of the free memory is worth a warning."""


class ReplayBuffer:
    """The last `capacity` rows, sampled uniformly with replacement.

    Columns and their dtypes are those of the first batch that is added. Lives in the learner's
    process; its generator is its own.
    """

    def __init__(self, capacity: int, rng: np.random.Generator) -> None:
        self.capacity = capacity
        self.rng = rng
        self.columns: dict[str, np.ndarray] = {}
        self.size = 0
        self.position = 0
        self.num_added = 0

    def add(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Append rows, overwriting the oldest; returns the slots that they took, [N]."""
        if not self.columns:
            self._allocate(batch)
        num_rows = len(next(iter(batch.values())))
        if num_rows > self.capacity:
            batch = {name: column[-self.capacity :] for name, column in batch.items()}
            self.num_added += num_rows - self.capacity
            num_rows = self.capacity
        end = self.position + num_rows
        if end <= self.capacity:
            for name, storage in self.columns.items():
                storage[self.position : end] = batch[name]
            slots = np.arange(self.position, end)
        else:
            slots = np.arange(self.position, end) % self.capacity
            for name, storage in self.columns.items():
                storage[slots] = batch[name]
        self.position = end % self.capacity
        self.size = min(self.size + num_rows, self.capacity)
        self.num_added += num_rows
        return slots

    def sample(self, num_rows: int) -> Batch:
        """`num_rows` rows as a Batch of fresh arrays."""
        return self._rows(self.rng.integers(self.size, size=num_rows))

    def stats(self) -> dict[str, Any]:
        """Sizes, for the result."""
        return {
            "num_entries": self.size,
            "added_count": self.num_added,
            "est_size_bytes": sum(column.nbytes for column in self.columns.values()),
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything, rows included (views of the filled part)."""
        return {
            "columns": {name: column[: self.size] for name, column in self.columns.items()},
            "capacity": self.capacity,
            "size": self.size,
            "position": self.position,
            "num_added": self.num_added,
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave. Raises ValueError if the capacity was another one."""
        if int(state["capacity"]) != self.capacity:
            raise ValueError(
                f"The saved replay buffer has a capacity of {state['capacity']} rows, "
                f"this one of {self.capacity}."
            )
        self.size = int(state["size"])
        self.position = int(state["position"])
        self.num_added = int(state["num_added"])
        self.rng.bit_generator.state = state["rng"]
        if self.size:
            self._allocate(state["columns"])
            for name, column in state["columns"].items():
                self.columns[name][: self.size] = column

    def _allocate(self, batch: Mapping[str, np.ndarray]) -> None:
        check_memory(self.capacity, {name: column[:1] for name, column in batch.items()})
        self.columns = {
            # Zeroed pages take no memory until they are written.
            name: np.zeros((self.capacity, *column.shape[1:]), column.dtype)
            for name, column in batch.items()
        }

    def _rows(self, slots: np.ndarray) -> Batch:
        return Batch({name: column.take(slots, 0) for name, column in self.columns.items()})


def check_memory(capacity: int, row: Mapping[str, np.ndarray]) -> None:
    """Say what `capacity` rows like `row` (columns [1, ...]) will take, before they fill up.

    Raises ResourceError if that is more than the machine has; warns if little would be left of what
    is free now.
    """
    row_bytes = sum(column.nbytes for column in row.values())
    needed, memory = capacity * row_bytes, psutil.virtual_memory()
    takes = (
        f"algo.buffer_size={capacity} rows of {row_bytes:,} bytes take {_gigabytes(needed)} when "
        f"the buffer is full; this machine has {_gigabytes(memory.total)}, of which "
        f"{_gigabytes(memory.available)} are free now."
    )
    if needed > memory.total:
        raise ResourceError(f"{takes} Lower algo.buffer_size.")
    if needed > LARGE_SHARE * memory.available:
        logger.warning("%s", takes)


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.1f} GB"


class PrioritizedReplayBuffer(ReplayBuffer):
    """Rows sampled in proportion to priority ** alpha (Schaul et al., 2016, arXiv:1511.05952).

    New rows get the highest priority seen so far. Sampled batches carry `batch_indexes` and the
    importance weights (N P(i)) ** -beta, scaled so that the largest possible one is 1 (sec. 3.4).
    """

    def __init__(
        self, capacity: int, rng: np.random.Generator, *, alpha: float, eps: float
    ) -> None:
        super().__init__(capacity, rng)
        self.alpha = alpha
        self.eps = eps
        self.max_priority = 1.0
        self.sums = SumTree(capacity)
        self.minima = MinTree(capacity)

    def add(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        slots = super().add(batch)
        self._set(slots, np.full(len(slots), self.max_priority**self.alpha))
        return slots

    def sample(self, num_rows: int, beta: float = 1.0) -> Batch:
        """Stratified: one draw from each of `num_rows` equal parts of the total priority."""
        total = self.sums.total
        strata = (np.arange(num_rows) + self.rng.random(num_rows)) * (total / num_rows)
        slots = np.minimum(self.sums.find(strata), self.size - 1)
        batch = self._rows(slots)
        smallest = self.minima.total
        batch["weights"] = (self.sums.leaves(slots) / smallest).astype(np.float32) ** -beta
        batch["batch_indexes"] = slots
        return batch

    def update_priorities(self, slots: np.ndarray, errors: np.ndarray) -> None:
        """Set priorities to |error| + eps."""
        priorities = np.abs(errors).astype(np.float64) + self.eps
        self.max_priority = max(self.max_priority, float(priorities.max()))
        self._set(slots, priorities**self.alpha)

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "priorities": self.sums.leaves(np.arange(self.size)),
            "max_priority": self.max_priority,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.max_priority = float(state["max_priority"])
        self.sums = SumTree(self.capacity)
        self.minima = MinTree(self.capacity)
        self._set(np.arange(self.size), np.asarray(state["priorities"]))

    def _set(self, slots: np.ndarray, values: np.ndarray) -> None:
        self.sums.set(slots, values)
        self.minima.set(slots, values)


class SegmentTree:
    """A complete binary tree over `capacity` leaves, changed and searched many leaves at a time."""

    empty: float

    def __init__(self, capacity: int) -> None:
        self.depth = max(int(np.ceil(np.log2(max(capacity, 1)))), 0)
        self.first_leaf = 1 << self.depth
        self.nodes = np.full(2 * self.first_leaf, self.empty, np.float64)

    @property
    def total(self) -> float:
        """The root: all leaves combined."""
        return float(self.nodes[1])

    def leaves(self, slots: np.ndarray) -> np.ndarray:
        """Values of leaves."""
        return self.nodes[self.first_leaf + slots]

    def set(self, slots: np.ndarray, values: np.ndarray) -> None:
        """Set leaves (of a repeated slot the last value counts) and everything above them."""
        nodes = self.first_leaf + slots
        self.nodes[nodes] = values
        for _ in range(self.depth):
            nodes = nodes >> 1
            self.nodes[nodes] = self.combine(self.nodes[2 * nodes], self.nodes[2 * nodes + 1])

    @staticmethod
    def combine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """What a node is of its two children."""
        raise NotImplementedError


class SumTree(SegmentTree):
    """Sums; finds the leaf in which a running total falls."""

    empty = 0.0

    @staticmethod
    def combine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return left + right

    def find(self, totals: np.ndarray) -> np.ndarray:
        """For each total in [0, self.total) the first slot whose cumulative sum exceeds it."""
        nodes = np.ones(len(totals), np.int64)
        rest = totals.astype(np.float64)
        for _ in range(self.depth):
            left = self.nodes[2 * nodes]
            goes_right = rest >= left
            rest = np.where(goes_right, rest - left, rest)
            nodes = 2 * nodes + goes_right
        return nodes - self.first_leaf


class MinTree(SegmentTree):
    """Minima."""

    empty = float("inf")

    @staticmethod
    def combine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.minimum(left, right)
