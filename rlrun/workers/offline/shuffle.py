"""The order in which the records of a source are read: each once a pass, shuffled as they come."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlrun.core import seeding
from rlrun.core.errors import ConfigError
from rlrun.workers.offline.source import Key, Place, Source

logger = logging.getLogger("rlrun.workers")


@dataclass(frozen=True)
class Share:
    """Which part of the records a worker reads."""

    position: int
    total: int


class ShuffledRecords:
    """Endless passes over a worker's share of a source.

    A record is drawn from the next `size` that were not read yet, of which only the keys are in
    memory. With size 1 they come as they stand in the source; else each pass goes through its parts
    (files) in an order of its own, the same for all workers.
    """

    def __init__(self, source: Source, *, size: int, seed: int, share: Share) -> None:
        self.source = source
        self.size = size
        self.seed = seed
        self.share = share
        self.pass_number = 0
        self._waiting: list[Key] = []
        self._place: Place = []
        self._walk = self._walk_on()

    def draw(self, rng: np.random.Generator) -> Key:
        """The key of the next record. Raises ConfigError if there is none in a whole pass."""
        self._fill()
        if not self._waiting:
            self.pass_number += 1
            self._place = []
            self._walk = self._walk_on()
            self._fill()
        if not self._waiting:
            raise ConfigError(
                f"input={self.source.name} has no episode for worker {self.share.position + 1} of "
                f"{self.share.total}: each reads a part of its own. Use fewer workers "
                f"(resources.num_workers), or more data."
            )
        index = int(rng.integers(len(self._waiting))) if self.size > 1 else 0
        self._waiting[index], self._waiting[-1] = self._waiting[-1], self._waiting[index]
        return self._waiting.pop()

    def state_dict(self) -> dict[str, Any]:
        """Where it is."""
        return {
            "parts": list(self.source.parts),
            "sizes": list(self.source.sizes),
            "is_shuffled": self.size > 1,
            "pass_number": self.pass_number,
            "place": list(self._place),
            "waiting": [list(key) for key in self._waiting],
        }

    def has_data_of(self, state: Mapping[str, Any]) -> bool:
        """Whether the data are those that a state was taken of; a warning says if not."""
        if self._are_same_data(state) and state["is_shuffled"] == (self.size > 1):
            return True
        logger.warning(
            "The files of input=%s, or their order, are not those of the checkpoint: reading "
            "begins anew.",
            self.source.name,
        )
        return False

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, of the same data (see `has_data_of`)."""
        self.pass_number = int(state["pass_number"])
        self._place = [int(number) for number in state["place"]]
        self._waiting = [[int(number) for number in key] for key in state["waiting"]]
        self._walk = self._walk_on()

    def _are_same_data(self, state: Mapping[str, Any]) -> bool:
        """Whether places in the data mean what they meant at the checkpoint."""
        if "sizes" not in state:  # It is of an older version.
            return False
        *sizes, last = state["sizes"]
        *ours, our_last = self.source.sizes
        return list(state["parts"]) == self.source.parts and sizes == ours and last <= our_last

    def _fill(self) -> None:
        while len(self._waiting) < self.size and (step := next(self._walk, None)) is not None:
            key, self._place = step
            self._waiting.append(key)

    def _walk_on(self) -> Iterator[tuple[Key, Place]]:
        """What this worker reads of the rest of the pass."""
        parts = np.arange(len(self.source.parts))
        if self.size > 1:
            parts = seeding.generator(self.seed, "input", self.pass_number).permutation(parts)
        for key, number, place in self.source.walk(parts.tolist(), self._place):
            if number % self.share.total == self.share.position:
                yield key, place
