"""The median stopping rule."""

from __future__ import annotations

import statistics
from bisect import bisect_right
from dataclasses import dataclass, field
from typing import Any

from rlrun.sweep.schedulers.base import Continue, Decision, Scheduler, Stop, at_least
from rlrun.sweep.trial import Trial


@dataclass
class Curve:
    """The scores of one trial over time."""

    times: list[float] = field(default_factory=list)
    sums: list[float] = field(default_factory=list)
    """Of all scores up to each time."""
    best: float = float("-inf")

    def add(self, time: float, score: float) -> None:
        """Times that were there before, as after a failure, do not count again."""
        if not self.times or time > self.times[-1]:
            self.times.append(time)
            self.sums.append(score + (self.sums[-1] if self.sums else 0.0))
            self.best = max(self.best, score)

    def mean_until(self, time: float) -> float | None:
        """The mean of the scores up to `time`; None if it has not come that far."""
        if not self.times or self.times[-1] < time:
            return None
        count = bisect_right(self.times, time)
        return self.sums[count - 1] / count if count else None


@dataclass(kw_only=True)
class MedianStopping(Scheduler):
    """The median stopping rule (Golovin et al., 2017, Google Vizier, sec. 3.2.1).

    A trial stops if its best value so far is worse than the median, over other trials, of their
    mean up to the same time. The paper takes completed trials only; here those count that have come
    as far, so that a sweep whose trials all run at once has something to compare with.
    """

    grace_period: float = 1
    """Until when no trial is stopped, in units of `time_attr`."""
    min_samples_required: int = 3
    """How many others must have come as far."""

    def __post_init__(self) -> None:
        at_least(0, grace_period=self.grace_period)
        at_least(1, min_samples_required=self.min_samples_required)
        self._curves: dict[int, Curve] = {}

    def on_result(self, trial: Trial, result: dict[str, Any]) -> Decision:
        time, score = self.time_of(result), self.score_of(result)
        curve = self._curves.setdefault(trial.number, Curve())
        if score is not None:
            curve.add(time, score)
        if time < self.grace_period or not curve.times:
            return Continue()
        others = [other for number, other in self._curves.items() if number != trial.number]
        means = [mean for other in others if (mean := other.mean_until(time)) is not None]
        if len(means) < self.min_samples_required or curve.best >= statistics.median(means):
            return Continue()
        return Stop(
            f"its best is worse than the median of {len(means)} others at {self.time_attr}={time:g}"
        )
