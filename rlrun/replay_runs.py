"""Runs of tuned examples in processes of their own, and how they ended."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlrun.core.errors import RlrunError
from rlrun.loggers.base import lookup

LOOK_INTERVAL_S = 0.1
"""Time between two looks at whether a run has ended."""

GRACE_S = 20.0
"""How long runs may take to end in order after Ctrl-C."""


@dataclass(frozen=True)
class Replay:
    """One example with one seed."""

    file: Path
    label: str
    seed: int
    marks: dict[str, float]
    folder: Path
    """Of the run, which makes it; what it prints goes to a file of that name with .txt."""

    @property
    def command(self) -> list[str]:
        """What is run."""
        quoted = "'" + str(self.folder).replace("'", r"\'") + "'"
        keys = [f"seed={self.seed}", f"hydra.run.dir={quoted}"]
        return [sys.executable, "-m", "rlrun", "-f", str(self.file), *keys]

    @property
    def output(self) -> Path:
        """Where all that it prints goes."""
        return self.folder.with_name(f"{self.folder.name}.txt")


@dataclass(frozen=True)
class Outcome:
    """How a replay ended."""

    replay: Replay
    verdict: str
    """pass, fail (below its mark), error, or interrupted."""
    best: dict[str, float]
    """The best value of each key with a pass mark."""
    reached_at: int | None
    """Env steps after which all marks were reached."""
    steps: int
    seconds: float
    error: str = ""
    """The last line that it printed, where it ended with an error, or what ended it."""

    @property
    def cells(self) -> tuple[str, ...]:
        """The row of a table: example, seed, marks, best, reached at, steps, seconds, verdict."""
        marks = self.replay.marks
        return (
            self.replay.label,
            str(self.replay.seed),
            ", ".join(f"{key} {mark:g}" for key, mark in marks.items()),
            ", ".join(f"{self.best[key]:g}" if key in self.best else "-" for key in marks),
            "-" if self.reached_at is None else f"{self.reached_at:,}",
            f"{self.steps:,}",
            f"{self.seconds:.0f}",
            self.verdict,
        )


class Runs:
    """Processes of replays, `num_jobs` at once; iterating gives outcomes as they end."""

    def __init__(self, replays: list[Replay], num_jobs: int) -> None:
        self.waiting = list(replays)
        self.num_jobs = num_jobs
        self.running: dict[subprocess.Popen[bytes], tuple[Replay, float]] = {}
        self.signal: int | None = None
        """What asked for the end."""
        self._killed_at = math.inf

    def __iter__(self) -> Iterator[Outcome]:
        try:
            while self.running or (self.waiting and self.signal is None):
                while self.waiting and len(self.running) < self.num_jobs and self.signal is None:
                    self._start(self.waiting.pop(0))
                ended = [process for process in self.running if process.poll() is not None]
                for process in ended:
                    replay, started = self.running.pop(process)
                    seconds = time.monotonic() - started
                    yield _outcome(replay, process.returncode, seconds, self.signal is not None)
                if time.monotonic() > self._killed_at:
                    self._send_all(signal.SIGKILL)
                if not ended:
                    time.sleep(LOOK_INTERVAL_S)
        finally:
            self._send_all(signal.SIGKILL)

    def stop(self, number: int) -> None:
        """Ask all for their end, which they reach with a checkpoint; safe in signal handlers."""
        self.signal = number
        self._killed_at = time.monotonic() + GRACE_S
        self._send_all(signal.SIGTERM)

    def _start(self, replay: Replay) -> None:
        try:
            replay.folder.parent.mkdir(parents=True, exist_ok=True)
            output = replay.output.open("wb")
        except OSError as error:
            raise RlrunError(f"{replay.output} cannot be written: {error}") from error
        with output:
            # In a session of its own, a terminal's Ctrl-C does not reach it but by `stop`.
            process = subprocess.Popen(
                replay.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.running[process] = replay, time.monotonic()

    def _send_all(self, number: int) -> None:
        for process in list(self.running):
            with suppress(ProcessLookupError):
                if number == signal.SIGKILL:
                    os.killpg(process.pid, number)
                else:
                    process.send_signal(number)


def _outcome(replay: Replay, status: int, seconds: float, was_asked: bool) -> Outcome:
    """How a process ended; `was_asked`: it was to end before its time."""
    best: dict[str, float] = {}
    reached_at: int | None = None
    steps = 0
    for result in _results(replay.folder / "result.json"):
        steps = int(result["timesteps_total"])
        values = {key: lookup(result, key) for key in replay.marks}
        known = {key: value for key, value in values.items() if isinstance(value, int | float)}
        for key, value in known.items():
            best[key] = max(value, best.get(key, value))
        is_reached = all(known.get(key, -math.inf) >= mark for key, mark in replay.marks.items())
        if is_reached and reached_at is None:
            reached_at = steps
    said = replay.output.read_text(errors="replace").splitlines()
    verdict, error = "error", next((line for line in reversed(said) if line.strip()), "")
    if status in (0, 1) and any(line.startswith(("PASSED:", "FAILED:")) for line in said):
        verdict, error = "pass" if status == 0 else "fail", ""
    elif was_asked and (status < 0 or status > 128):
        verdict, error = "interrupted", ""
    elif status < 0:
        error = f"It was ended by {signal.Signals(-status).name}. Is there enough memory?"
    return Outcome(replay, verdict, best, reached_at, steps, seconds, error)


def _results(path: Path) -> Iterator[dict[str, Any]]:
    """The complete lines of a result.json, if it exists; nan is no number here."""
    with suppress(FileNotFoundError):
        for line in path.read_text().splitlines(keepends=True):
            if line.endswith("\n"):
                yield json.loads(line, parse_constant=lambda name: None)
