"""The log of population-based training: who copied whom, with which values."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from rlrun.core.errors import ConfigError

FILE = "pbt.jsonl"
"""Its name in the sweep's folder."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the log."""

    event: Literal["start", "score", "exploit"]
    trial: int
    time: float = 0.0
    """Of the trial, in units of `time_attr`."""
    score: float | None = None
    """The judged value, so that more is better."""
    source: int | None = None
    """Whose checkpoint it goes on from."""
    source_time: float | None = None
    """The time of that checkpoint."""
    values: dict[str, Any] = field(default_factory=dict)
    """The mutated keys, as it goes on."""


@dataclass(frozen=True)
class Step:
    """Values that hold from a time on."""

    time: float
    values: dict[str, Any]


@dataclass
class Log:
    """The log as it is written. A resumed sweep, which hears all of it again, writes it anew."""

    entries: list[Entry] = field(default_factory=list)
    num_written: int = 0

    def add(self, entry: Entry) -> None:
        """To be written with the next `write`."""
        self.entries.append(entry)

    def correct(self, trial: int, source_time: float) -> None:
        """What a trial copied last is of that time; the next `write` writes all anew."""
        index = max(
            at
            for at, entry in enumerate(self.entries)
            if entry.event == "exploit" and entry.trial == trial
        )
        self.entries[index] = replace(self.entries[index], source_time=source_time)
        self.num_written = 0

    def write(self, folder: Path) -> None:
        """Add what is new to the file in the sweep's folder, which the first call begins."""
        with (folder / FILE).open("a" if self.num_written else "w") as file:
            for entry in self.entries[self.num_written :]:
                file.write(json.dumps(asdict(entry)) + "\n")
        self.num_written = len(self.entries)


def read_log(path: Path, key: str) -> list[Entry]:
    """The entries of a log, or of the one in the folder `path`. Raises ConfigError, which names
    `key`."""
    file = path / FILE if path.is_dir() else path
    try:
        lines = file.read_text().splitlines()
        return [Entry(**json.loads(line)) for line in lines if line.strip()]
    except OSError as error:
        raise ConfigError(
            f"{key}={path} cannot be read: {error}. It is the {FILE} of a sweep with scheduler=pbt."
        ) from error
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{key}={path} is no log of scheduler=pbt: {error}") from error


def best_trial(entries: list[Entry]) -> int | None:
    """The trial whose last score is the best; None if there is none."""
    last = {entry.trial: entry.score for entry in entries if entry.score is not None}
    return max(last, key=lambda number: last[number], default=None)


def schedule_of(entries: list[Entry], trial: int) -> list[Step]:
    """The values under which the last state of `trial` came about, through all whom it copied.

    The first step has the values that the first of them began with.
    """
    steps: list[Step] = []
    for entry in reversed(entries):
        if entry.trial != trial:
            continue
        if entry.event == "exploit":
            assert entry.source is not None
            assert entry.source_time is not None
            steps.append(Step(entry.source_time, entry.values))
            trial = entry.source
        elif entry.event == "start":
            steps.append(Step(0.0, entry.values))
    return steps[::-1]
