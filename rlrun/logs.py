"""`rlrun logs`: what the processes of a run have logged, in the order of time."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rlrun.core.errors import ConfigError
from rlrun.core.processes import DRIVER, LOGS, list_processes
from rlrun.run_folder import LOG, PARAMS

LOOK_INTERVAL_S = 0.3
"""Between two looks for new lines."""

_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}")


@dataclass
class Source:
    """The log of one process, read from where the last look ended."""

    name: str
    path: Path
    offset: int = 0

    def new_lines(self) -> list[str]:
        """Whole lines that are new."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self.offset += len(whole)
        return whole.decode(errors="replace").splitlines()


def print_logs(run: Path, *, worker: int | None = None, follow: bool = False) -> None:
    """Print the logs of the run in a folder: of all processes with their names in front, or of one
    worker (0: the driver). `follow`: go on as long as the run does. Raises ConfigError."""
    if not (run / PARAMS).is_file():
        raise ConfigError(f"{run} is not the folder of a run: it has no {PARAMS}.")
    sources = _sources(run, worker)
    if not sources:
        there = [source.name.removeprefix("worker_") for source in _sources(run, None)]
        known = ", ".join(name for name in there if name.isdigit()) or "none, but 0 (the driver)"
        raise ConfigError(f"--worker {worker}: that one has no log. There are logs of: {known}.")
    while True:
        is_over = not follow or not _is_running(run)
        _print_new(sources, worker is None)
        if is_over:
            return
        time.sleep(LOOK_INTERVAL_S)
        known_paths = {source.path for source in sources}
        sources += [each for each in _sources(run, worker) if each.path not in known_paths]


def _sources(run: Path, worker: int | None) -> list[Source]:
    found = [Source(DRIVER, run / LOG)]
    found += [Source(path.stem, path) for path in sorted((run / LOGS).glob("*.log"))]
    wanted = None if worker is None else f"worker_{worker}" if worker else DRIVER
    return [each for each in found if each.path.is_file() and wanted in (None, each.name)]


def _is_running(run: Path) -> bool:
    return any(each.name == DRIVER and each.is_alive for each in list_processes(run))


def _print_new(sources: Iterable[Source], with_names: bool) -> None:
    entries = sorted(
        (entry for source in sources for entry in _entries(source)), key=lambda entry: entry[0]
    )
    width = max((len(name) for _, name, _ in entries), default=0)
    for _, name, lines in entries:
        for line in lines:
            print(f"{name:<{width}} | {line}" if with_names else line, flush=True)


def _entries(source: Source) -> Iterator[tuple[str, str, list[str]]]:
    """(time, name, lines): a line that begins with a time, and those after it that do not."""
    when, lines = "", list[str]()
    for line in source.new_lines():
        if found := _TIME.match(line):
            if lines:
                yield when, source.name, lines
            when, lines = found[0], []
        lines.append(line)
    if lines:
        yield when, source.name, lines
