"""Sweeps whose points somebody else chooses: a sweeper of Hydra's."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from rlrun.overrides import read
from rlrun.sweep.plan import SweepPlan
from rlrun.sweep.search.base import Point, Search
from rlrun.sweep.search.space import Choice, Space


@dataclass(kw_only=True)
class ListedJobs(Search):
    """The points that were chosen by now."""

    points: list[Point]
    _num_asked: int = field(default=0, init=False)

    def start(
        self, space: Space, *, num_samples: int | None, seed: int, mode: Literal["max", "min"]
    ) -> None:
        self._num_asked = 0

    @property
    def num_points(self) -> int:
        return len(self.points)

    def ask(self) -> Point | None:
        if self._num_asked == len(self.points):
            return None
        self._num_asked += 1
        return self.points[self._num_asked - 1]


def with_jobs(plan: SweepPlan, jobs: list[list[str]]) -> SweepPlan:
    """The plan with these jobs, each a list of overrides, as its points. Raises ConfigError."""
    points = [
        {each.get_key_element(): each.value() for each in map(read, overrides)}
        for overrides in jobs
    ]
    common = {override.partition("=")[0] for override in plan.overrides}
    points = [{k: v for k, v in point.items() if k not in common} for point in points]
    keys = dict.fromkeys(key for point in points for key in point)
    values = {key: {str(p[key]): p[key] for p in points if key in p} for key in keys}
    space: Space = {key: Choice(tuple(values[key].values())) for key in keys}
    return replace(plan, search=ListedJobs(points=points), space=space, seeds=[None])
