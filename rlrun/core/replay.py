"""Replay buffers: rings of transitions or sequences, sampled uniformly or by priority."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlrun.core.batch import Batch
from rlrun.core.segment_trees import MinTree, SumTree
from rlrun.core.storage import Storage


class ReplayBuffer:
    """The last `capacity` rows, sampled uniformly with replacement.

    They lie in its storage (None: plain arrays in memory). Lives in the learner's process; its
    generator is its own.
    """

    def __init__(
        self, capacity: int, rng: np.random.Generator, storage: Storage | None = None
    ) -> None:
        self.capacity = capacity
        self.rng = rng
        self.storage = storage or Storage(capacity)
        self.size = 0
        self.position = 0
        self.num_added = 0

    def add(self, batch: Mapping[str, np.ndarray]) -> np.ndarray:
        """Append rows, overwriting the oldest; returns the slots that they took, [N]. A batch
        without columns, as a round of short fragments may give, has none."""
        if not batch:
            return np.zeros(0, np.int64)
        num_rows = len(next(iter(batch.values())))
        if num_rows > self.capacity:
            batch = {name: column[-self.capacity :] for name, column in batch.items()}
            self.num_added += num_rows - self.capacity
            num_rows = self.capacity
        end = self.position + num_rows
        slots = np.arange(self.position, end)
        if end <= self.capacity:
            self.storage.write(slice(self.position, end), batch)
        else:
            slots %= self.capacity
            self.storage.write(slots, batch)
        self.position = end % self.capacity
        self.size = min(self.size + num_rows, self.capacity)
        self.num_added += num_rows
        return slots

    def sample(self, num_rows: int) -> Batch:
        """`num_rows` rows as a Batch of fresh arrays."""
        return self.storage.read(self.rng.integers(self.size, size=num_rows))

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The columns of its storage, by slot."""
        return self.storage.columns

    def stats(self) -> dict[str, Any]:
        """Sizes, for the result."""
        return {
            "num_entries": self.size,
            "added_count": self.num_added,
            "est_size_bytes": self.storage.num_bytes,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything, rows included (views of the filled part)."""
        return {
            **self.storage.state_dict(self.size),
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
        self.storage.load_state_dict(state, self.size)


class PrioritizedReplayBuffer(ReplayBuffer):
    """Rows sampled in proportion to priority ** alpha (Schaul et al., 2016, arXiv:1511.05952).

    New rows get the highest priority seen so far. Sampled batches carry `batch_indexes` and the
    importance weights (N P(i)) ** -beta, scaled so that the largest possible one is 1 (sec. 3.4).
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
        super().__init__(capacity, rng, storage)
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
        batch = self.storage.read(slots)
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
