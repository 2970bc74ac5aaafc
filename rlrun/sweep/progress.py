"""How far a sweep is: the part that is done of each trial and of all, and when it will end."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rlrun.loggers.base import lookup
from rlrun.run_folder import PARAMS
from rlrun.sweep.trial import Status, Trial

if TYPE_CHECKING:
    from rlrun.sweep.driver import SweepDriver

GROWING = ("training_iteration", "timesteps_total", "episodes_total", "time_total_s")
"""Keys that only grow, so that their stop rules tell how far a run is."""

_PACE_RESULTS = 10
"""Over how many results a trial's pace is taken, at least."""


class SweepProgress:
    """What the results of a sweep's trials say together; it is shown them by `update`."""

    def __init__(self) -> None:
        self._stop: dict[int, dict[str, float]] = {}
        self._points: dict[int, list[tuple[float, float, float]]] = {}
        self._done_at_start: float | None = None

    def update(self, driver: SweepDriver) -> None:
        """Take in what has come."""
        for trial in driver.trials:
            if trial.result and trial.status is Status.RUNNING:
                self._add(trial)
        if self._done_at_start is None:
            self._done_at_start = self.part_done(driver)

    def steps_per_s(self, trial: Trial) -> float:
        """Its env steps per second of late; nan before that is known."""
        points = self._points.get(trial.number, [])
        if len(points) < 2:
            steps, seconds = (
                _number(trial, "timesteps_this_iter"),
                _number(trial, "time_this_iter_s"),
            )
            return steps / seconds if seconds else math.nan
        (_, first_steps, first_s), (_, last_steps, last_s) = points[0], points[-1]
        return (last_steps - first_steps) / (last_s - first_s) if last_s > first_s else math.nan

    def part_of(self, trial: Trial) -> float:
        """How much of a trial is done, from 0 to 1, as its nearest stop rule tells."""
        if trial.status.is_final:
            return 1.0
        if not trial.result:
            return 0.0
        rules = self._rules_of(trial)
        parts = (_number(trial, key) / target for key, target in rules.items())
        return min(1.0, max((part for part in parts if part >= 0), default=0.0))

    def part_done(self, driver: SweepDriver) -> float:
        """How much of the whole sweep is done, from 0 to 1."""
        total = driver.num_trials or len(driver.trials)
        return min(1.0, sum(map(self.part_of, driver.trials)) / total) if total else 0.0

    def eta_s(self, driver: SweepDriver) -> float:
        """Seconds until the sweep ends if it goes on at its present pace; nan if nobody knows."""
        done, before = self.part_done(driver), self._done_at_start
        if before is None or done <= before or driver.num_trials is None:
            return math.nan
        return (time.time() - driver.started_at) * (1.0 - done) / (done - before)

    def _add(self, trial: Trial) -> None:
        points = self._points.setdefault(trial.number, [])
        iteration = _number(trial, "training_iteration")
        if points and iteration == points[-1][0]:
            return
        if points and iteration < points[-1][0]:  # It goes on from an earlier checkpoint.
            points.clear()
        points.append(
            (iteration, _number(trial, "timesteps_total"), _number(trial, "time_total_s"))
        )
        del points[:-_PACE_RESULTS]

    def _rules_of(self, trial: Trial) -> dict[str, float]:
        if trial.number not in self._stop:
            try:
                rules = json.loads((trial.folder / PARAMS).read_text())["stop"]
            except (OSError, ValueError, KeyError, TypeError):
                return {}
            self._stop[trial.number] = _positive(rules)
        return self._stop[trial.number]


def _positive(rules: Mapping[str, Any]) -> dict[str, float]:
    known = {key: rules.get(key) for key in GROWING}
    return {
        key: float(value)
        for key, value in known.items()
        if isinstance(value, int | float) and value > 0
    }


def _number(trial: Trial, key: str) -> float:
    value = lookup(trial.result, key)
    return float(value) if isinstance(value, int | float) else math.nan
