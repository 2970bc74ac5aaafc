"""Points that are listed: all combinations, or lists in step."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

from rlrun.core.errors import ConfigError
from rlrun.sweep.search.base import Point, Search, listed, refuse_samples
from rlrun.sweep.search.space import Choice, Space


@dataclass(kw_only=True)
class Grid(Search):
    """All combinations of the values; those of the last key change fastest."""

    lists_all = True

    _values: dict[str, list[Any]] = field(default_factory=dict, init=False)
    _rest: Iterator[tuple[Any, ...]] = field(default_factory=lambda: iter(()), init=False)

    def start(
        self, space: Space, *, num_samples: int | None, seed: int, mode: Literal["max", "min"]
    ) -> None:
        refuse_samples(num_samples, "grid")
        self._values = _in_order(listed(space, "grid"), seed)
        self._rest = itertools.product(*self._values.values())

    @property
    def num_points(self) -> int:
        return math.prod(map(len, self._values.values()))

    def ask(self) -> Point | None:
        values = next(self._rest, None)
        return None if values is None else dict(zip(self._values, values, strict=True))


@dataclass(kw_only=True)
class Zip(Search):
    """The first values of all keys, then the second ones, and so on; all lists are of one length.

    A key with a single value has it in all points.
    """

    lists_all = True

    _points: list[Point] = field(default_factory=list, init=False)
    _num_asked: int = field(default=0, init=False)

    def start(
        self, space: Space, *, num_samples: int | None, seed: int, mode: Literal["max", "min"]
    ) -> None:
        refuse_samples(num_samples, "zip")
        values = _in_order(listed(space, "zip"), seed)
        lengths = {key: len(each) for key, each in values.items() if len(each) > 1}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{key} has {count}" for key, count in lengths.items())
            raise ConfigError(
                f"search=zip pairs lists of one length, and {counts} values. For all combinations: "
                f"search=grid"
            )
        num_points = max(lengths.values(), default=1)
        self._points = [
            {key: each[index % len(each)] for key, each in values.items()}
            for index in range(num_points)
        ]
        self._num_asked = 0

    @property
    def num_points(self) -> int:
        return len(self._points)

    def ask(self) -> Point | None:
        if self._num_asked == len(self._points):
            return None
        self._num_asked += 1
        return self._points[self._num_asked - 1]


def _in_order(domains: dict[str, Choice], seed: int) -> dict[str, list[Any]]:
    """The values of each key, shuffled where the user wants that."""
    values = {key: list(domain.values) for key, domain in domains.items()}
    for key, domain in domains.items():
        if domain.is_shuffled:
            random.Random(f"{seed}/{key}").shuffle(values[key])
    return values
