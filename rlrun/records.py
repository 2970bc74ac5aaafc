"""Runs and sweeps as they lie on disk, whole or half-written. Reading changes nothing there."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from rlrun.core import checkpoint
from rlrun.core.errors import ConfigError
from rlrun.loggers.base import flatten, lookup, without
from rlrun.run_folder import PARAMS, RESULTS
from rlrun.sweep.names import describe
from rlrun.sweep.trial import Status, Trial

JOURNAL = "journal.jsonl"
SWEEP = "sweep.json"

UNFINISHED = "unfinished"
"""The status of a run that still goes on, or was killed: its folder does not tell which."""

MAX_DEPTH = 4
"""How far below a sweep's folder its trials may lie (`hydra.sweep.subdir`)."""

NOT_COMPARED = ("seed", "logger", "log_level")
"""Settings in which the runs of one point may differ."""


@dataclass(kw_only=True)
class RunRecord:
    """One run: a trial of a sweep, or a run of its own."""

    folder: Path
    number: int
    """Of the trial; of other runs, which one it is of those that were read together."""
    point: int
    """Runs of one point differ in nothing but their seed."""
    params: dict[str, Any]
    """What differs between the runs that were read together: value by dotted key."""
    status: str
    """One of `rlrun.sweep.trial.Status`, or `UNFINISHED`."""
    error: str = ""
    """The last line of its last failure."""

    @property
    def name(self) -> str:
        """What people call it: `3 lr=0.001 seed=1`."""
        return f"{self.number} {describe(self.params)}".rstrip()

    @cached_property
    def config(self) -> dict[str, Any]:
        """Its composed settings; empty before it has written them."""
        return read_json(self.folder / PARAMS)

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """Its results, oldest first, without `hist_stats`, which is most of a file."""
        return [without(result, "hist_stats") for result in read_lines(self.folder / RESULTS)]

    @property
    def last_result(self) -> dict[str, Any]:
        """The newest; empty before the first one."""
        return self.results[-1] if self.results else {}

    @property
    def seed(self) -> int | None:
        """The number that its streams of randomness come from, once it is known."""
        return self.config.get("seed", self.params.get("seed"))

    @property
    def checkpoints(self) -> list[Path]:
        """Those that it has kept, oldest iteration first."""
        return checkpoint.complete_checkpoints(self.folder)

    def values(self, metric: str) -> list[float]:
        """What each result has of a metric, where it is a number (nan and inf are none)."""
        found = (number_in(result, metric) for result in self.results)
        return [value for value in found if value is not None]


@dataclass(kw_only=True)
class Experiment:
    """Runs that belong together: those of a sweep, or of a folder."""

    folder: Path
    runs: list[RunRecord]
    metric: str
    """The result key by which they are compared."""
    mode: str
    """Whether more of it is better or less: "max" or "min"."""


def number_in(result: dict[str, Any], key: str) -> float | None:
    """The finite number of `key` in a result, or None."""
    value = lookup(result, key)
    is_number = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if is_number else None


def read_experiment(folder: Path) -> Experiment:
    """The sweep in a folder, the run in it, or all runs below it.

    Raises ConfigError if there is none.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder.")
    asked = read_json(folder / SWEEP)
    runs = _trials_in(folder) if (folder / JOURNAL).is_file() else _runs_below(folder)
    if not runs:
        raise ConfigError(
            f"{folder} holds no run: no {PARAMS}, {RESULTS} or {JOURNAL} lies in or below it."
        )
    objectives = (run.config.get("objective") for run in runs)
    objective = next((key for key in objectives if key), "episode_reward_mean")
    return Experiment(
        folder=folder,
        runs=runs,
        metric=str(asked.get("metric") or objective),
        mode=str(asked.get("mode") or "max"),
    )


def records_of(trials: Iterable[Trial]) -> list[RunRecord]:
    """The trials of a sweep whose driver is at hand."""
    return [
        RunRecord(
            folder=trial.folder,
            number=trial.number,
            point=trial.point,
            params=trial.params,
            status=trial.status,
            error=trial.error,
        )
        for trial in trials
    ]


def trial_of_sweep(folder: Path) -> tuple[Path, RunRecord] | None:
    """(the sweep's folder, the trial) of a trial's folder; None for a run of its own."""
    for sweep in folder.parents[:MAX_DEPTH]:
        for event in read_lines(sweep / JOURNAL):
            is_trial = event.get("event") == "trial" and isinstance(event.get("number"), int)
            if is_trial and (trial := _trial(sweep, event)).folder == folder:
                return sweep, trial
    return None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The dicts of a file with one in each line; lines that are damaged or cut off are left out."""
    try:
        with path.open("rb") as file:
            for line in file:
                if isinstance(value := _parsed(line), dict):
                    yield value
    except OSError:
        return


def read_json(path: Path) -> dict[str, Any]:
    """The dict in a file; empty if there is none that is whole."""
    try:
        value = _parsed(path.read_bytes())
    except OSError:
        return {}
    return value if isinstance(value, dict) else {}


def settings_that_differ(configs: list[dict[str, Any]]) -> list[str]:
    """The dotted keys that have not the same value in all of the configs, in their order."""
    flats = [flatten(config, ".") for config in configs]
    keys = dict.fromkeys(key for flat in flats for key in flat)
    return [key for key in keys if any(flat.get(key) != flats[0].get(key) for flat in flats)]


def _trials_in(folder: Path) -> list[RunRecord]:
    runs: dict[int, RunRecord] = {}
    for event in read_lines(folder / JOURNAL):
        number, kind = event.get("number"), event.get("event")
        if not isinstance(number, int):
            continue  # a question of the search, or damaged
        if kind == "trial":
            trial = _trial(folder, event)
            runs[trial.number] = trial
        elif kind == "start" and number in runs:
            runs[number].status = UNFINISHED
        elif kind == "end" and number in runs:
            runs[number].status = str(event.get("status", UNFINISHED))
            runs[number].error = str(event.get("error") or "")
    return [runs[number] for number in sorted(runs)]


def _trial(sweep: Path, event: dict[str, Any]) -> RunRecord:
    """What a sweep's journal says of a trial when it is planned."""
    number = int(event["number"])
    return RunRecord(
        folder=sweep / str(event.get("folder", number)),
        number=number,
        point=event.get("point", number),
        params=dict(event.get("params") or {}),
        status=Status.WAITING,
    )


def _runs_below(folder: Path) -> list[RunRecord]:
    files = [path for name in (PARAMS, RESULTS) for path in folder.rglob(name)]
    folders = sorted({path.parent for path in files}, key=_natural)
    runs = [
        RunRecord(folder=each, number=number, point=number, params={}, status=UNFINISHED)
        for number, each in enumerate(folders)
    ]
    compare(runs)
    for run in runs:
        if run.last_result.get("done"):
            run.status = Status.FINISHED
    return runs


def compare(runs: list[RunRecord]) -> None:
    """Find out in what runs of their own differ, and which of them are seeds of one point.

    Runs of the same settings and the same seed are different points: something else differs.
    """
    differing = settings_that_differ([without(run.config, *NOT_COMPARED) for run in runs])
    seeds = {json.dumps(run.seed) for run in runs}
    points: dict[str, int] = {}
    taken: set[tuple[int, str]] = set()
    for number, run in enumerate(runs):
        flat = flatten(run.config, ".")
        run.params = {key: flat[key] for key in differing if key in flat}
        point = points.setdefault(json.dumps(run.params, sort_keys=True), number)
        seed = json.dumps(run.seed)
        run.point = number if (point, seed) in taken or not run.config else point
        taken.add((run.point, seed))
        if len(seeds) > 1:
            run.params["seed"] = run.seed


def _natural(path: Path) -> tuple[tuple[int, str], ...]:
    """A key that sorts 2 before 10."""
    return tuple((int(part) if part.isdecimal() else -1, part) for part in path.parts)


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
