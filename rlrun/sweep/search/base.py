"""What a search is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class Search(ABC):
    """Gives the points of a sweep one by one, and hears how each ended; no batches.

    Its state is what it was asked and told: a resumed sweep asks and tells all of it again, in the
    order of the journal, and has to get the same points. So chance comes from the sweep's seed.
    """

    @property
    @abstractmethod
    def num_points(self) -> int | None:
        """How many there will be; None if that is not known beforehand."""

    @abstractmethod
    def ask(self) -> dict[str, Any] | None:
        """The next point: value by override key, as Hydra's command line takes it ("algo.lr",
        "env", "+algo.x"); None if there is none (left)."""

    def tell(self, point: int, objective: float | None) -> None:
        """How the point of that number (from 0, as asked) ended, over all of its seeds; None: no
        objective is known, as all of its trials failed."""

    def report(self, point: int, time: float, objective: float) -> None:
        """An intermediate value of a running point."""
