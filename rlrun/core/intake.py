"""What an asynchronous learner has got and has not learned from yet."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from rlrun.core.batch import Batch, concat


class Intake:
    """Fragments go in by `add`, the rows of each update come out by `take`.

    Fragments are put together to train batches of `train_batch_size` steps or more, of which up to
    `queue_size` wait in line. The learner goes round `buffer_size` of them, and learns `num_passes`
    times from each before it takes the next in line in its place. Of all that goes into train
    batches, the share `replay_proportion` has been there before: fragments drawn from the last
    `replay_slots` ones. Nothing is dropped, unless `drops_when_full`.
    """

    def __init__(
        self,
        *,
        train_batch_size: int,
        queue_size: int,
        drops_when_full: bool = False,
        buffer_size: int = 1,
        num_passes: int = 1,
        replay_proportion: float = 0.0,
        replay_slots: int = 0,
        rng: np.random.Generator,
    ) -> None:
        self.train_batch_size = train_batch_size
        self.queue_size = queue_size
        self.drops_when_full = drops_when_full
        self.num_passes = num_passes
        self.replay_proportion = replay_proportion
        self.rng = rng
        self.line: deque[Batch] = deque()
        """Train batches that wait."""
        self.num_rows_dropped = 0
        """Steps of train batches that were dropped, old ones among them, since the beginning."""
        self._parts: list[Batch] = []
        self._replay: deque[Batch] = deque(maxlen=replay_slots)
        self._owed = 0.0
        self._buffer: list[Batch | None] = [None] * buffer_size
        self._passes_left = [0] * buffer_size
        self._position = 0

    @property
    def is_full(self) -> bool:
        """Whether as many train batches wait as may."""
        return len(self.line) >= self.queue_size

    def add(self, fragment: Batch) -> None:
        """Take a fragment in; it counts as a part of the next train batch."""
        if not fragment.num_rows:
            return
        self._parts.append(fragment)
        if self._replay.maxlen:
            self._mix_in()
            self._replay.append(fragment)
        if sum(part.num_steps for part in self._parts) >= self.train_batch_size:
            batch, self._parts = concat(self._parts), []
            if self.is_full and self.drops_when_full:
                self.num_rows_dropped += batch.num_steps
            else:
                self.line.append(batch)

    def take(self) -> Batch | None:
        """The rows of the next update; None if those of a new train batch are due, and none is in
        line."""
        if not self._passes_left[self._position]:
            if not self.line:
                return None
            self._buffer[self._position] = self.line.popleft()
            self._passes_left[self._position] = self.num_passes
        rows = self._buffer[self._position]
        self._passes_left[self._position] -= 1
        if not self._passes_left[self._position]:
            self._buffer[self._position] = None
        self._position = (self._position + 1) % len(self._buffer)
        return rows

    def _mix_in(self) -> None:
        """As many old fragments as a new one calls for, whole ones on average."""
        self._owed += self.replay_proportion / (1.0 - self.replay_proportion)
        while self._owed >= 1.0:
            self._owed -= 1.0
            if self._replay:
                self._parts.append(self._replay[int(self.rng.integers(len(self._replay)))])

    def state_dict(self) -> dict[str, Any]:
        """All that was taken in and is still to be learned from."""
        return {
            "line": [dict(batch) for batch in self.line],
            "parts": [dict(batch) for batch in self._parts],
            "replay": [dict(batch) for batch in self._replay],
            "owed": self._owed,
            "buffer": [None if batch is None else dict(batch) for batch in self._buffer],
            "passes_left": list(self._passes_left),
            "position": self._position,
            "num_rows_dropped": self.num_rows_dropped,
            "rng": self.rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave. Raises ValueError if the buffer had another size."""
        if len(state["buffer"]) != len(self._buffer):
            size = len(state["buffer"])
            raise ValueError(f"it was saved with algo.minibatch_buffer_size={size}.")
        self.line = deque(map(Batch, state["line"]))
        self._parts = list(map(Batch, state["parts"]))
        self._replay = deque(map(Batch, state["replay"]), maxlen=self._replay.maxlen)
        self._owed = float(state["owed"])
        self._buffer = [None if batch is None else Batch(batch) for batch in state["buffer"]]
        self._passes_left = [int(left) for left in state["passes_left"]]
        self._position = int(state["position"])
        self.num_rows_dropped = int(state["num_rows_dropped"])
        self.rng.bit_generator.state = state["rng"]
