"""`rlrun stack`: what every process of a run is doing at the moment."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rlrun.core.errors import ConfigError, RlrunError
from rlrun.core.processes import DRIVER, LOGS, STACK_SIGNAL, Process, list_processes
from rlrun.run_folder import PARAMS

ANSWER_TIMEOUT_S = 5.0
"""How long a process may take to write its stacks down."""

SETTLED_S = 0.1
"""Stacks that have not grown for so long are whole."""


def print_stacks(path: Path) -> None:
    """Print the Python stacks of all threads of all processes of the run in the folder `path`, or
    of all runs below it that are going on. Raises ConfigError where there is none."""
    for run in _running(path):
        if run != path:
            print(f"# {run}")
        for process in list_processes(run):
            if process.is_alive:
                print(f"== {process.name} (process {process.pid}) ==")
                print(_stacks_of(process, run / LOGS / f"{process.name}.stack"))
            elif not process.is_here:
                print(f"== {process.name} is on {process.host}: run `rlrun stack` there ==\n")


def _running(path: Path) -> list[Path]:
    if not path.is_dir():
        raise ConfigError(f"{path}: there is no such folder of a run.")
    runs = [path] if (path / PARAMS).is_file() else [p.parent for p in path.glob(f"*/{PARAMS}")]
    if not runs:
        raise ConfigError(f"{path} is not the folder of a run: it has no {PARAMS}.")
    processes = [(run, process) for run in runs for process in list_processes(run)]
    running = {run for run, process in processes if process.is_alive}
    if running:
        return sorted(running)
    drivers = [process for _, process in processes if process.name == DRIVER]
    elsewhere = sorted({process.host for process in drivers if not process.is_here})
    if elsewhere:
        raise ConfigError(
            f"The run in {path} was started on {', '.join(elsewhere)}: run `rlrun stack` there."
        )
    raise ConfigError(f"The run in {path} is not running: none of its processes is alive.")


def _stacks_of(process: Process, file: Path) -> str:
    """What the process appends to `file` when it is asked to. Raises RlrunError."""
    before = file.stat().st_size
    try:
        os.kill(process.pid, STACK_SIGNAL)
    except ProcessLookupError:
        return "It has just ended.\n"
    except PermissionError as error:
        whose = f"{process.name} (process {process.pid}) belongs to another user."
        raise RlrunError(whose) from error
    end = time.monotonic() + ANSWER_TIMEOUT_S
    size, settled_at = before, 0.0
    while time.monotonic() < end:
        time.sleep(SETTLED_S / 5)
        now = file.stat().st_size
        if now != size:
            size, settled_at = now, time.monotonic() + SETTLED_S
        elif size > before and time.monotonic() > settled_at:
            break
    with file.open() as stacks:
        stacks.seek(before)
        return stacks.read() or f"No answer within {ANSWER_TIMEOUT_S:g} s: it may be stopped.\n"
