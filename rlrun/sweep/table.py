"""A sweep at a glance: a live table in a terminal, a line per change where there is none."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rlrun.loggers.base import lookup
from rlrun.loggers.terminal import (
    discard_stdout,
    duration,
    from_here,
    is_stdout_closed,
    is_terminal,
    number,
    print_line,
    steady_console,
)
from rlrun.sweep.names import describe, short_names, value_text
from rlrun.sweep.observer import SweepObserver
from rlrun.sweep.progress import SweepProgress
from rlrun.sweep.trial import Status, Trial

if TYPE_CHECKING:
    from rich.console import Group

    from rlrun.sweep.driver import SweepDriver

MAX_NOTES = 3
"""Lines under the table that tell what went wrong."""

COLORS = {
    Status.RUNNING: "cyan",
    Status.PAUSED: "blue",
    Status.FINISHED: "green",
    Status.PRUNED: "yellow",
    Status.INTERRUPTED: "yellow",
    Status.FAILED: "red",
}

DROPPED_FIRST = ("iter", "steps/s", "time", "GPU", "steps")
"""Columns that a narrow window goes without, in this order."""

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class SweepTable(SweepObserver):
    """Shows the trials of a sweep, its resources, its best trial and when it will end.

    If the output goes away (a closed pipe or terminal), the table goes quiet and the sweep goes on.
    """

    refresh_interval_s: float = 1.0
    """Seconds between two drawings of the table, at least."""
    plain_interval_s: float = 30.0
    """Seconds between two lines about the sweep as a whole, where there is no terminal."""
    _history: _History = field(default_factory=lambda: _History(), init=False)

    def on_start(self, driver: SweepDriver) -> None:
        self._history.update(driver)
        self._view: _View = (
            _LiveView(self.refresh_interval_s)
            if is_terminal()
            else _PlainView(self.plain_interval_s)
        )
        self._safely(lambda: self._view.open(driver, self._history))

    def on_change(self, driver: SweepDriver) -> None:
        self._history.update(driver)
        self._safely(lambda: self._view.show(driver, self._history))

    def on_tick(self, driver: SweepDriver) -> None:
        self.on_change(driver)  # Trials have started, and time goes by.

    def on_end(self, driver: SweepDriver) -> None:
        self._history.update(driver)
        self._safely(lambda: self._view.close(driver, self._history))

    def _safely(self, write: Callable[[], None]) -> None:
        try:
            write()
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and not is_stdout_closed():
                raise  # no fault of the output's
            self._view = _View()
            discard_stdout()
            _log.warning("The sweep's table went quiet (%s); the sweep goes on.", error)


class _History:
    """What the table knows beyond what the driver does: how far it is, and what changed last."""

    def __init__(self) -> None:
        self.progress = SweepProgress()
        self.changed: list[Trial] = []
        """Trials whose status changed in the last update."""
        self._statuses: dict[int, Status] = {}
        self._ended: dict[int, None] = {}
        """Trials that have ended, in that order."""

    def update(self, driver: SweepDriver) -> None:
        self.progress.update(driver)
        self.changed = []
        for trial in driver.trials:
            if self._statuses.get(trial.number, Status.WAITING) is not trial.status:
                self.changed.append(trial)
                self._ended.pop(trial.number, None)
                if trial.status is not Status.RUNNING and trial.status is not Status.WAITING:
                    self._ended[trial.number] = None
            self._statuses[trial.number] = trial.status

    def rows(self, driver: SweepDriver) -> list[Trial]:
        """The trials that are worth showing: running ones, then paused ones, then those that ended
        last."""
        by_number = {trial.number: trial for trial in driver.trials}
        ended = [by_number[each] for each in reversed(self._ended)]
        return [
            *(trial for trial in driver.trials if trial.status is Status.RUNNING),
            *(trial for trial in ended if trial.status is Status.PAUSED),
            *(trial for trial in ended if trial.status is not Status.PAUSED),
        ]

    def mishaps(self, driver: SweepDriver) -> list[Trial]:
        """Trials with an error, those that ended last first."""
        failed = [trial for trial in driver.trials if trial.error]
        order = {each: place for place, each in enumerate(self._ended)}
        return sorted(failed, key=lambda trial: -order.get(trial.number, -1))


# What there is to say


def counts_text(driver: SweepDriver) -> str:
    """`12 trials: 2 running, 9 finished, 1 failed`."""
    counts = Counter(trial.status for trial in driver.trials)
    total = driver.num_trials
    if total is not None and total > len(driver.trials):
        counts[Status.WAITING] += total - len(driver.trials)
    trials = f"{len(driver.trials)} trials so far" if total is None else f"{total} trials"
    known = [f"{counts[status]} {status}" for status in Status if counts[status]]
    return f"{trials}: {', '.join(known)}" if known else trials


def resources_text(driver: SweepDriver) -> str:
    """`CPU 3/4  GPU 0.45/1`: what is used of what there is."""
    return "  ".join(
        f"{name} {driver.used.get(name, 0):.4g}/{total:.4g}"
        for name, total in driver.total.items()
        if total
    )


def best_text(driver: SweepDriver) -> str:
    """The best trial so far, or "" before there is one."""
    best = driver.best
    if best is None:
        return ""
    value = number(driver.value_of(best.result))
    return f"best {driver.metric} {value}: trial {best.number} {describe(best.params)}".rstrip()


def time_text(driver: SweepDriver, progress: SweepProgress) -> str:
    """How much is done, since when, and how long it will take."""
    elapsed = duration(time.time() - driver.started_at)
    done = f"{progress.part_done(driver):.0%}"
    return f"{done} done  elapsed {elapsed}  eta {duration(progress.eta_s(driver))}"


def trial_text(driver: SweepDriver, trial: Trial) -> str:
    """One line about a trial whose status has changed."""
    parts = [f"trial {trial.number} {trial.status}", describe(trial.params)]
    if trial.status is not Status.RUNNING and trial.result:
        value = number(driver.value_of(trial.result))
        parts.append(f"{driver.metric} {value}")
        parts.append(f"steps {number(lookup(trial.result, 'timesteps_total'), 'd')}")
        parts.append(duration(_value(trial, "time_total_s")))
    if trial.error and trial.status is not Status.RUNNING:
        parts.append(trial.error)
    return "  ".join(part for part in parts if part)


class _View:
    """Where a sweep is shown; this one is nowhere."""

    def open(self, driver: SweepDriver, history: _History) -> None: ...

    def show(self, driver: SweepDriver, history: _History) -> None: ...

    def close(self, driver: SweepDriver, history: _History) -> None: ...


class _PlainView(_View):
    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._next_s = time.monotonic() + interval_s

    def open(self, driver: SweepDriver, history: _History) -> None:
        what = f"Sweep in {from_here(driver.folder)}: {counts_text(driver)}"
        print_line(f"{what}  ({resources_text(driver)})")

    def show(self, driver: SweepDriver, history: _History) -> None:
        for trial in history.changed:
            print_line(trial_text(driver, trial))
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + self._interval_s
            about = (counts_text(driver), time_text(driver, history.progress), best_text(driver))
            print_line("  ".join(part for part in about if part))

    def close(self, driver: SweepDriver, history: _History) -> None:
        for trial in history.changed:
            print_line(trial_text(driver, trial))
        elapsed = duration(time.time() - driver.started_at)
        print_line(f"{counts_text(driver)}  elapsed {elapsed}")


class _LiveView(_View):
    def __init__(self, interval_s: float) -> None:
        from rich.live import Live

        self._interval_s = interval_s
        self._next_s = -math.inf
        self._live = Live(console=steady_console(), auto_refresh=False)

    def open(self, driver: SweepDriver, history: _History) -> None:
        self._live.start()
        self.show(driver, history)

    def show(self, driver: SweepDriver, history: _History) -> None:
        if time.monotonic() >= self._next_s:
            self._draw(driver, history)
            self._next_s = time.monotonic() + self._interval_s

    def close(self, driver: SweepDriver, history: _History) -> None:
        self._draw(driver, history)
        with suppress(OSError, ValueError):
            self._live.stop()

    def _draw(self, driver: SweepDriver, history: _History) -> None:
        width, height = self._live.console.size
        self._live.update(picture(driver, history, width, height), refresh=True)


def picture(driver: SweepDriver, history: _History, width: int, height: int) -> Group:
    """All that a terminal of this size shows of a sweep; one line is left for the cursor."""
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    def line(text: str, style: str = "") -> Text:
        return Text(text, style, no_wrap=True, overflow="ellipsis")

    bar = Table.grid(padding=(0, 2))
    times = time_text(driver, history.progress)
    part = history.progress.part_done(driver)
    bar.add_row(ProgressBar(1.0, part, width=max(4, min(30, width - len(times) - 2))), line(times))
    top: list[Any] = [
        line(f"{from_here(driver.folder)}  {resources_text(driver)}", "bold"),
        line(counts_text(driver)),
        bar,
    ]
    if best := best_text(driver):
        top.append(line(best, "green"))
    notes = [line(text, style) for text, style in _notes(driver, history)]
    rows, room = history.rows(driver), max(0, height - len(top) - len(notes) - 3)
    shown = rows[:room]
    # A whole window of paused and ended trials says nothing of those that are to come.
    left_out = Counter(trial.status for trial in driver.trials)
    left_out.subtract(Counter(trial.status for trial in shown))
    rest = ", ".join(f"{left_out[status]} {status}" for status in Status if left_out[status] > 0)
    table = [_table(driver, shown, history.progress, width)] if shown else []
    return Group(*top, *table, *([line(f"and {rest}", "dim")] if rest else []), *notes)


def _table(driver: SweepDriver, rows: list[Trial], progress: SweepProgress, width: int) -> Any:
    from rich.table import Table
    from rich.text import Text

    columns = _columns(driver, rows, progress)
    widths = {name: max(map(len, (name, *cells))) for name, cells in columns.items()}
    for name in DROPPED_FIRST:
        if sum(widths.values()) + 2 * (len(widths) - 1) > width:
            columns.pop(name, None)
            widths.pop(name, None)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    for name in columns:
        justify: Any = "right" if name in NUMERIC or name == _metric_heading(driver) else "left"
        table.add_column(name, justify=justify, no_wrap=True, overflow="ellipsis")
    for row, trial in enumerate(rows):
        cells = [
            Text(cells[row], COLORS.get(trial.status, "") if name == "state" else "")
            for name, cells in columns.items()
        ]
        table.add_row(*cells)
    return table


NUMERIC = ("#", "iter", "steps", "steps/s", "time", "GPU")


def _columns(
    driver: SweepDriver, rows: list[Trial], progress: SweepProgress
) -> dict[str, list[str]]:
    """The cells of each column by its heading, for a window of any width."""
    keys = dict.fromkeys(key for trial in rows for key in trial.params)
    columns = {"#": [str(trial.number) for trial in rows]}
    for key, name in short_names(keys).items():
        columns[name] = [value_text(trial.params.get(key, "-"), digits=4) for trial in rows]
    columns["state"] = [str(trial.status) for trial in rows]
    columns["iter"] = [number(_value(trial, "training_iteration"), "d") for trial in rows]
    columns["steps"] = [number(_value(trial, "timesteps_total"), "d") for trial in rows]
    columns[_metric_heading(driver)] = [number(driver.value_of(trial.result)) for trial in rows]
    columns["steps/s"] = [number(progress.steps_per_s(trial), "d") for trial in rows]
    columns["time"] = [duration(_value(trial, "time_total_s")) for trial in rows]
    if any(trial.resources.gpus for trial in driver.trials):
        columns["GPU"] = [f"{trial.resources.gpus:.3g}" for trial in rows]
    return columns


def _metric_heading(driver: SweepDriver) -> str:
    return "reward" if driver.metric == "episode_reward_mean" else driver.metric.split("/")[-1]


def _notes(driver: SweepDriver, history: _History) -> list[tuple[str, str]]:
    """What went wrong, and why the next trial does not run yet, each with its style."""
    notes = [
        (f"trial {trial.number} {trial.status}: {trial.error}", "red")
        for trial in history.mishaps(driver)[:MAX_NOTES]
    ]
    waiting = (trial for trial in driver.trials if trial.status is Status.WAITING)
    following = next((trial for trial in waiting if trial.waits_for), None)
    if following is not None:
        notes.append((f"trial {following.number} waits: {following.waits_for}", "dim"))
    return notes


def _value(trial: Trial, key: str) -> float:
    value = lookup(trial.result, key)
    return float(value) if isinstance(value, int | float) else math.nan
