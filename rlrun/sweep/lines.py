"""A line for each trial that ends, and a table when all have."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rlrun.sweep.driver import SweepDriver
from rlrun.sweep.observer import SweepObserver
from rlrun.sweep.trial import Status, Trial


class Lines(SweepObserver):
    """Tells of a sweep where there is no live table."""

    def __init__(self) -> None:
        self._told: dict[int, Status] = {}

    def on_change(self, driver: SweepDriver) -> None:
        for trial in driver.trials:
            if trial.status.is_final and self._told.get(trial.number) is not trial.status:
                self._told[trial.number] = trial.status
                print(f"Trial {trial.number} {_end_of(trial)}: {_text(trial)}", flush=True)

    def on_end(self, driver: SweepDriver) -> None:
        print(summary(driver), flush=True)
        if driver.is_interrupted:
            print(f"Interrupted. Go on with: {driver.resume_line()}", flush=True)


def summary(driver: SweepDriver) -> str:
    """A line per trial: number, what is special about it, its metric and status."""
    rows = [("trial", "overrides", driver.metric, "status")]
    for trial in driver.trials:
        value = driver.value_of(trial.result)
        shown = "-" if value is None else f"{value:.6g}"
        rows.append((str(trial.number), _text(trial) or "-", shown, _end_of(trial)))
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [_joined(row, widths) for row in rows]
    return "\n".join([f"Sweep of {len(driver.trials)} trials in {driver.folder}", *lines])


def _text(trial: Trial) -> str:
    return " ".join(f"{key}={value}" for key, value in trial.params.items())


def _end_of(trial: Trial) -> str:
    status = "not run" if trial.status is Status.WAITING else trial.status.value
    return f"{status} ({trial.error})" if trial.error else status


def _joined(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
    return "  ".join([*cells, row[3]])
