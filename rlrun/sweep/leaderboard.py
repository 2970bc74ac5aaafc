"""How the trials of a sweep did: a row per trial, and a leaderboard of points over their seeds."""

from __future__ import annotations

import csv
import io
import logging
import math
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlrun.core.statistics import Estimate, estimate
from rlrun.loggers.base import without
from rlrun.loggers.files import replace_file
from rlrun.loggers.terminal import number
from rlrun.records import RunRecord, number_in, records_of
from rlrun.sweep.names import short_names, value_text
from rlrun.sweep.observer import SweepObserver

if TYPE_CHECKING:
    from rlrun.sweep.driver import SweepDriver

CSV = "sweep_results.csv"
MARKDOWN = "leaderboard.md"
MAX_ROWS_SHOWN = 20
"""Of the leaderboard that ends a sweep in the terminal; the file has them all."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Standing:
    """How one point did, over all of its seeds."""

    point: int
    params: dict[str, Any]
    """Of the point: without the seed."""
    runs: list[RunRecord]
    estimate: Estimate | None
    """The last value of the metric over the seeds; None if no run has one."""
    best: float | None
    """The best value that any of its runs ever had."""

    @property
    def center(self) -> float:
        """What points are ranked by; nan if there is nothing to rank it by."""
        return math.nan if self.estimate is None else float(self.estimate.center)

    @property
    def steps(self) -> float:
        """Env steps of all of its runs."""
        return sum(number_in(run.last_result, "timesteps_total") or 0.0 for run in self.runs)


@dataclass(kw_only=True)
class Leaderboard(SweepObserver):
    """Writes `sweep_results.csv` and `leaderboard.md` when a sweep ends, and prints the latter."""

    def on_end(self, driver: SweepDriver) -> None:
        runs, mode = records_of(driver.trials), driver.settings.mode
        ranked = standings(runs, driver.metric, mode)
        try:
            with replace_file(driver.folder / CSV) as file:
                file.write(results_csv(runs, driver.metric, mode, driver.folder))
            with replace_file(driver.folder / MARKDOWN) as file:
                file.write(markdown(driver.folder.name, ranked, driver.metric, mode))
        except OSError as error:
            _log.error("The results of the sweep cannot be written: %s", error)
        with suppress(OSError, ValueError):  # A terminal that has gone is no fault of the sweep.
            print(text(ranked, driver.metric), flush=True)
            print(f"All trials: {driver.folder / CSV}", flush=True)


def standings(runs: Iterable[RunRecord], metric: str, mode: str) -> list[Standing]:
    """The points of some runs, best first; those without a value come last."""
    points: dict[int, list[RunRecord]] = {}
    for run in runs:
        points.setdefault(run.point, []).append(run)
    better = max if mode == "max" else min
    found = []
    for point, of_point in points.items():
        values = [each for run in of_point if (each := run.values(metric))]
        last = np.array([each[-1] for each in values])
        found.append(
            Standing(
                point=point,
                params=without(of_point[0].params, "seed"),
                runs=of_point,
                estimate=estimate(last) if len(last) else None,
                best=better((better(each) for each in values), default=None),
            )
        )
    sign = -1.0 if mode == "max" else 1.0
    return sorted(found, key=lambda each: (math.isnan(each.center), sign * each.center))


def results_csv(runs: Sequence[RunRecord], metric: str, mode: str, home: Path) -> str:
    """A row per run; parameters have a column each, by their whole keys, folders as seen from
    `home`."""
    keys = dict.fromkeys(key for run in runs for key in without(run.params, "seed"))
    better = max if mode == "max" else min
    file = io.StringIO()
    columns = ("number", "point", *keys, "seed", "status", metric, f"{metric}_best")
    rest = ("training_iteration", "timesteps_total", "time_total_s")
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow((*columns, *rest, "folder", "error"))
    for run in runs:
        values = run.values(metric)
        scores = (values[-1], better(values)) if values else ("", "")
        params = (_cell(run.params.get(key)) for key in keys)
        progress = (run.last_result.get(key, "") for key in rest)
        found = (run.number, run.point, *params, _cell(run.seed), str(run.status), *scores)
        writer.writerow((*found, *progress, os.path.relpath(run.folder, home), run.error))
    return file.getvalue()


def text(ranked: Sequence[Standing], metric: str) -> str:
    """The leaderboard as lines for a terminal, the first `MAX_ROWS_SHOWN` points of it."""
    rows = [_headings(ranked, metric), *_rows(ranked[:MAX_ROWS_SHOWN])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    if (left_out := len(ranked) - MAX_ROWS_SHOWN) > 0:
        lines.append(f"and {left_out} more in {MARKDOWN}")
    return "\n".join(lines)


def markdown(title: str, ranked: Sequence[Standing], metric: str, mode: str) -> str:
    """The leaderboard as a page of markdown, with what went wrong below it."""
    headings = _headings(ranked, metric)
    lines = [f"# {title}", "", f"By the last {metric}, {mode}imum first. {EXPLANATION}", ""]
    lines += [_markdown_row(headings), _markdown_row(["---"] * len(headings))]
    lines += [_markdown_row(row) for row in _rows(ranked)]
    if failed := [run for each in ranked for run in each.runs if run.error]:
        lines += ["", "## Failures", ""]
        lines += [f"- {run.name}: {run.error}" for run in failed]
    return "\n".join(lines) + "\n"


EXPLANATION = (
    "Over the seeds of a point: their interquartile mean (of fewer than four seeds, the mean), "
    "with a 95 % bootstrap interval."
)


def interval_text(found: Estimate | None) -> str:
    """`475 (460 to 490)`; without the interval where there is a single run."""
    if found is None:
        return "-"
    center = number(float(found.center))
    if found.num_runs < 2:
        return center
    return f"{center} ({number(float(found.low))} to {number(float(found.high))})"


def status_text(runs: Iterable[RunRecord]) -> str:
    """`finished`, or `2 finished, 1 failed` where runs ended in different ways."""
    counts: dict[str, int] = {}
    for run in runs:
        counts[str(run.status)] = counts.get(str(run.status), 0) + 1
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _headings(ranked: Sequence[Standing], metric: str) -> list[str]:
    keys = dict.fromkeys(key for each in ranked for key in each.params)
    return ["rank", *short_names(keys).values(), metric, "best", "seeds", "steps", "status"]


def _rows(ranked: Sequence[Standing]) -> list[list[str]]:
    keys = dict.fromkeys(key for each in ranked for key in each.params)
    return [
        [
            str(rank),
            *(value_text(each.params.get(key, "-")) for key in keys),
            interval_text(each.estimate),
            number(each.best),
            str(len(each.runs)),
            f"{each.steps:,.0f}",
            status_text(each.runs),
        ]
        for rank, each in enumerate(ranked, start=1)
    ]


def _markdown_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cell(value: Any) -> str:
    return "" if value is None else str(value)
