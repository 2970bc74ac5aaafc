"""Numbers of a report: results of several runs as one curve with a band."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlrun.core.statistics import Estimate, estimate
from rlrun.loggers.base import finite_scalars
from rlrun.records import RunRecord, number_in

STEPS = "timesteps_total"
SECONDS = "time_total_s"

NUM_POINTS = 120
"""Of a curve over several runs."""

NUM_RESAMPLES = 400
"""Of its band: enough for a picture."""

_PHASES = {"learn_time_ms": "learning", "sync_weights_time_ms": "transfer"}
"""The phases that timers have other names for."""

LEARNER = "info/learner/"


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A metric of one or several runs along an axis."""

    x: np.ndarray
    y: Estimate


def curve_of(runs: Sequence[RunRecord], key: str, axis: str) -> Curve | None:
    """The runs' interquartile mean (or mean) of `key` with its interval; None without numbers.

    A single run keeps its own points. Several are interpolated at common ones; one that has ended
    stays at its last value (without it the curve would jump), until more than half have.
    """
    each = [points for run in runs if len((points := points_of(run, key, axis))[0])]
    if not each:
        return None
    if len(each) == 1:
        x, y = each[0]
        return Curve(x=x, y=estimate(y[None]))
    first, last = min(x[0] for x, _ in each), float(np.median([x[-1] for x, _ in each]))
    grid = np.linspace(first, last, NUM_POINTS) if last > first else np.array([first])
    values = np.array([np.interp(grid, x, y) for x, y in each])
    return Curve(x=grid, y=estimate(values, NUM_RESAMPLES))


def points_of(run: RunRecord, key: str, axis: str) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) of the results in which both are finite numbers; x grows."""
    found = ((number_in(result, axis), number_in(result, key)) for result in run.results)
    known = sorted((x, y) for x, y in found if x is not None and y is not None)
    points = np.array(known, dtype=np.float64).reshape(-1, 2)
    return points[:, 0], points[:, 1]


def learner_keys(runs: Iterable[RunRecord]) -> dict[str, str]:
    """The numbers that learners report and that change, each with a short title."""
    values: dict[str, set[float]] = {}
    for run in runs:
        for result in run.results:
            for key, value in _numbers_below(result, "info").items():
                if key.startswith("learner/") and "/learner_stats/" in key:
                    values.setdefault(f"info/{key}", set()).add(value)
    changing = [key for key, seen in values.items() if len(seen) > 1]
    policies = {key.removeprefix(LEARNER).split("/")[0] for key in changing}
    titles = {key: key.rpartition("/learner_stats/")[2] for key in changing}
    if len(policies) > 1:
        titles = {
            key: f"{title} of {key.removeprefix(LEARNER).split('/')[0]}"
            for key, title in titles.items()
        }
    return titles


def seconds_by_phase(runs: Iterable[RunRecord]) -> dict[str, float]:
    """What the runs spent their time on, all of them together; empty if they do not tell."""
    seconds: Counter[str] = Counter()
    for run in runs:
        for result in run.results:
            phases = _numbers_below(result, "time_by_phase")
            if not phases:
                timers = _numbers_below(result, "timers")
                phases = {
                    _PHASES.get(key, key.removesuffix("_time_ms")): value / 1e3
                    for key, value in timers.items()
                    if key != "training_iteration_time_ms"
                }
            seconds.update(phases)
    return {phase: each for phase, each in seconds.most_common() if each > 0}


def _numbers_below(result: dict[str, Any], key: str) -> dict[str, float]:
    """The numbers of a group of a result; none where a training function means something else."""
    group = result.get(key)
    return finite_scalars(group) if isinstance(group, dict) else {}
