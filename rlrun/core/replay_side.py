"""The replay side of an off-policy learner: its buffer, and when and how much it learns from it."""

from __future__ import annotations

from typing import Any

from rlrun.core.batch import Batch, padded, trimmed
from rlrun.core.replay import PrioritizedReplayBuffer, ReplayBuffer
from rlrun.core.schedules import Schedule


class ReplaySide:
    """What DQN and its relatives hold: rows go in by `add`, train batches come out by `sample`.

    `training_intensity` is the number of rows learned per row sampled; None: one update for each
    call of `num_updates_due`. `beta` is the schedule of importance weights of prioritised replay.
    Where rows are sequences, they are padded to `num_steps`, and cut to the longest of a batch.
    """

    def __init__(
        self,
        buffer: ReplayBuffer,
        *,
        train_batch_size: int,
        learning_starts: int,
        training_intensity: float | None,
        beta: Schedule,
        num_steps: int | None = None,
    ) -> None:
        self.buffer = buffer
        self.train_batch_size = train_batch_size
        self.learning_starts = learning_starts
        self.training_intensity = training_intensity
        self.beta = beta
        self.num_steps = num_steps
        self.updates_owed = 0.0

    def add(self, batch: Batch) -> None:
        """Put fresh rows into the buffer."""
        if batch.num_rows:
            self.buffer.add(batch if self.num_steps is None else padded(batch, self.num_steps))

    def num_updates_due(self, num_new_rows: int, timestep: int) -> int:
        """How many updates `num_new_rows` fresh rows call for, after `timestep` env steps."""
        if timestep < self.learning_starts or self.buffer.size == 0:
            return 0
        if self.training_intensity is None:
            return 1
        self.updates_owed += num_new_rows * self.training_intensity / self.train_batch_size
        due = int(self.updates_owed)
        self.updates_owed -= due
        return due

    def sample(self, timestep: int) -> Batch:
        """Rows to learn from next."""
        if isinstance(self.buffer, PrioritizedReplayBuffer):
            rows = self.buffer.sample(self.train_batch_size, self.beta(timestep))
        else:
            rows = self.buffer.sample(self.train_batch_size)
        return rows if self.num_steps is None else trimmed(rows)

    def update_priorities(self, rows: Batch, errors: Any) -> None:
        """Give the sampled `rows` priorities by their errors [N], a tensor; nothing is done where
        replay is uniform."""
        if "batch_indexes" in rows and isinstance(self.buffer, PrioritizedReplayBuffer):
            slots = rows["batch_indexes"].cpu().numpy()
            self.buffer.update_priorities(slots, errors.detach().cpu().numpy())

    def state_dict(self) -> dict[str, Any]:
        """The buffer with its rows, and what is owed."""
        return {"buffer": self.buffer.state_dict(), "updates_owed": self.updates_owed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave. Raises ValueError if the capacity was another one."""
        self.buffer.load_state_dict(state["buffer"])
        self.updates_owed = float(state["updates_owed"])
