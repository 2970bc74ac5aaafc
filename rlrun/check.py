"""`rlrun check`: replay tuned examples to their pass marks, each run in a process of its own."""

from __future__ import annotations

import glob
import os
import shlex
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from rlrun.config import conf_dir, flat_numbers
from rlrun.core.errors import ConfigError, RlrunError
from rlrun.examples import find_file, load_file
from rlrun.replay_runs import Outcome, Replay, Runs

COMMAND = "rlrun check"
"""What stands before a path in messages."""

HEADINGS = ("example", "seed", "mark", "best", "reached at", "steps", "seconds", "verdict")


@dataclass(frozen=True)
class Request:
    """What was asked for."""

    paths: list[str]
    num_seeds: int
    """Runs of each example, with its own seed and those that follow."""
    num_jobs: int
    """Processes at once."""
    out: Path
    """The table as markdown; runs go into the folder of the same name."""


def read_request(arguments: list[str]) -> Request:
    """What was typed behind `rlrun check`. Raises ConfigError."""
    values: dict[str, str] = {}
    paths: list[str] = []
    rest = iter(arguments)
    for argument in rest:
        name, equals, value = argument.partition("=")
        if name in ("--seeds", "--jobs", "--out"):
            values[name] = value if equals else next(rest, "")
        elif argument.startswith("-"):
            raise ConfigError(f"{COMMAND}: there is no option {argument}. See {COMMAND} --help.")
        else:
            paths.append(argument)
    if not paths:
        raise ConfigError(f"{COMMAND} needs an example, a folder or a pattern: tuned_examples/ppo")
    out = values.get("--out", f"results/check_{time.strftime('%Y-%m-%d_%H-%M-%S')}.md")
    if not out or Path(out).is_dir() or not Path(out).suffix:
        raise ConfigError(f"--out needs the name of a file, got {out!r}: --out check.md")
    return Request(paths, _count("--seeds", values), _count("--jobs", values), Path(out))


def _count(name: str, values: dict[str, str]) -> int:
    value = values.get(name, "1")
    if not value.isdecimal() or int(value) < 1:
        raise ConfigError(f"{name} needs a whole number of at least 1, got {value!r}.")
    return int(value)


def check(request: Request) -> int:
    """Replay every example with every seed, print a line for each and a summary, and write both as
    markdown; returns the exit status: 0 if all passed, 1 if not, 128 + a signal.

    Raises ConfigError before anything runs if a path leads to no example with a pass mark, or if
    the folder of a run is there already.
    """
    replays = replays_of(request)
    _refuse_old_folders(replays)
    runs = Runs(replays, request.num_jobs)
    outcomes: list[Outcome] = []
    layout = _Layout(replays)
    print(layout.line(HEADINGS), flush=True)
    with _signals(runs):
        for outcome in runs:
            outcomes.append(outcome)
            print(layout.line(outcome.cells), flush=True)
    outcomes.sort(key=lambda outcome: replays.index(outcome.replay))
    print("\n".join(summary(outcomes, len(replays))), flush=True)
    try:
        request.out.parent.mkdir(parents=True, exist_ok=True)
        request.out.write_text(markdown(outcomes, len(replays)))
    except OSError as error:
        raise RlrunError(f"--out {request.out} cannot be written: {error}") from error
    print(f"Written to {request.out}; runs in {request.out.with_suffix('')}", flush=True)
    if runs.signal is not None:
        return 128 + runs.signal
    return 0 if all(outcome.verdict == "pass" for outcome in outcomes) else 1


def replays_of(request: Request) -> list[Replay]:
    """All runs that are asked for, in order. Raises ConfigError."""
    files = dict.fromkeys(file for path in request.paths for file in files_of(path))
    replays = []
    for file in files:
        node: Any = load_file(file, str(file), COMMAND)
        marks = flat_numbers("pass_mark", node.get("pass_mark") or {})
        if not marks:
            raise ConfigError(
                f"{COMMAND} {_shortest(file)}: it has no pass_mark, so there is nothing to check. "
                f"To run it: rlrun -f {shlex.quote(_shortest(file))}"
            )
        first = 1 if node.get("seed") is None else int(node["seed"])
        for seed in range(first, first + request.num_seeds):
            name = f"{_label(file).replace('/', '_')}_seed{seed}"
            folder = request.out.with_suffix("").absolute() / name
            replays.append(Replay(file, _label(file), seed, marks, folder))
    return replays


def _refuse_old_folders(replays: list[Replay]) -> None:
    for replay in replays:
        if replay.folder.exists():
            raise ConfigError(
                f"--out: the folder {replay.folder} of an earlier check is there already. Give "
                f"another name, or remove {replay.folder.parent}."
            )


def files_of(path: str) -> list[Path]:
    """The examples that a file, folder or pattern means, as given or among the shipped ones.

    Raises ConfigError if there are none.
    """
    shipped = conf_dir() / "tuned_examples"
    given = Path(path)
    inner = given.relative_to("tuned_examples") if given.parts[:1] == ("tuned_examples",) else given
    for candidate in (given, shipped / inner):
        if candidate.is_dir():
            found = sorted(file.absolute() for file in candidate.rglob("*.yaml"))
            if not found:
                raise ConfigError(f"{COMMAND} {path}: the folder holds no YAML files.")
            return found
        if glob.has_magic(path) and not candidate.exists():
            matches = glob.glob(str(candidate), recursive=True)
            found = sorted(Path(file).absolute() for file in matches if os.path.isfile(file))
            if found:
                return found
    if glob.has_magic(path):
        raise ConfigError(f"{COMMAND} {path}: no file matches this pattern.")
    return [find_file(path, COMMAND)]


@contextmanager
def _signals(runs: Runs) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a lost terminal end the runs; a second one at once."""

    def handle(number: int, frame: FrameType | None) -> None:
        if runs.signal is not None:
            raise KeyboardInterrupt
        runs.stop(number)

    kinds = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
        kinds.append(signal.SIGHUP)
    previous = {kind: signal.signal(kind, handle) for kind in kinds}
    try:
        yield
    finally:
        for kind, handler in previous.items():
            signal.signal(kind, handler)


# The table


class _Layout:
    """Columns as wide as they need to be, before all cells are known."""

    def __init__(self, replays: list[Replay]) -> None:
        rows = [
            Outcome(replay, "interrupted", dict.fromkeys(replay.marks, -1234.56), 10**7, 10**7, 0.0)
            for replay in replays
        ]
        table = [HEADINGS, *(row.cells for row in rows)]
        self.widths = [max(map(len, column)) for column in zip(*table, strict=True)]

    def line(self, cells: tuple[str, ...]) -> str:
        """One row; numbers are flush right."""
        padded = [
            cell.ljust(width) if heading in ("example", "mark", "verdict") else cell.rjust(width)
            for cell, width, heading in zip(cells, self.widths, HEADINGS, strict=True)
        ]
        return "  ".join(padded).rstrip()


def summary(outcomes: list[Outcome], num_asked: int) -> list[str]:
    """What went wrong, how many seeds of each example passed, and how many runs in all."""
    lines = [
        f"{each.replay.label}, seed {each.replay.seed}: {each.error} ({each.replay.output})"
        for each in outcomes
        if each.error
    ]
    for label in dict.fromkeys(outcome.replay.label for outcome in outcomes):
        verdicts = [each.verdict for each in outcomes if each.replay.label == label]
        lines.append(f"{label}: {verdicts.count('pass')} of {len(verdicts)} passed")
    num_passed = sum(outcome.verdict == "pass" for outcome in outcomes)
    return [*lines, f"{num_passed} of {num_asked} runs passed"]


def markdown(outcomes: list[Outcome], num_asked: int) -> str:
    """The table and the summary as a page."""
    rows = [HEADINGS, ("---",) * len(HEADINGS), *(outcome.cells for outcome in outcomes)]
    table = ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    when = time.strftime("%Y-%m-%d %H:%M")
    lines = ["# Tuned examples", "", f"Replayed to their marks by `{COMMAND}`, {when}.", "", *table]
    return "\n".join([*lines, "", *(f"- {line}" for line in summary(outcomes, num_asked)), ""])


def _label(file: Path) -> str:
    """A file as the user would name it: a shipped one without its folder and ending."""
    shipped = (conf_dir() / "tuned_examples").resolve()
    resolved = file.resolve()
    if resolved.is_relative_to(shipped):
        return resolved.relative_to(shipped).with_suffix("").as_posix()
    return _shortest(file.with_suffix("")).lstrip("/")


def _shortest(file: Path) -> str:
    try:
        return file.relative_to(Path.cwd()).as_posix()
    except ValueError:
        return str(file)
