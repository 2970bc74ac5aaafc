"""Points that chance gives."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Literal

from rlrun.sweep.search.base import Point, Search, required_samples
from rlrun.sweep.search.space import Space


@dataclass(kw_only=True)
class RandomSearch(Search):
    """Each point is drawn anew, each key by itself (Bergstra & Bengio, 2012)."""

    _space: Space = field(default_factory=dict, init=False)
    _num_left: int = field(default=0, init=False)
    _num_points: int = field(default=0, init=False)
    _generator: random.Random = field(default_factory=random.Random, init=False)

    def start(
        self, space: Space, *, num_samples: int | None, seed: int, mode: Literal["max", "min"]
    ) -> None:
        self._space = space
        self._num_left = self._num_points = required_samples(num_samples, "random")
        self._generator = random.Random(seed)

    @property
    def num_points(self) -> int:
        return self._num_points

    def ask(self) -> Point | None:
        if not self._num_left:
            return None
        self._num_left -= 1
        return {key: domain.draw(self._generator) for key, domain in self._space.items()}
