"""The processes of a run, as others find them in its folder: what each is, its log, its stacks.

`logs/<name>.json` says which process it is, `logs/<name>.log` has what a remote worker prints and
logs, and `logs/<name>.stack` the stacks that it writes down when it gets STACK_SIGNAL. Names are
driver, worker_1, evaluation_worker_1, replay_shard_1 and env_<worker>_<number>.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

LOGS = "logs"
DRIVER = "driver"
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"

STACK_SIGNAL = signal.SIGUSR1
"""Makes a process write its stacks down, in C, so that one that hangs does it too."""

_name = f"the {DRIVER}"
_home: Path | None = None
"""The folder `logs` of the run that this process belongs to."""


@dataclass(frozen=True)
class Process:
    """One process of a run."""

    name: str
    pid: int
    host: str
    created: float
    """When it began, which tells it from a later process with the same number."""

    @property
    def is_here(self) -> bool:
        """Whether it runs on this machine."""
        return self.host == platform.node()

    @property
    def is_alive(self) -> bool:
        """Whether it still runs, where that can be told: on its own machine."""
        return self.is_here and _created(self.pid) == self.created


@dataclass(frozen=True)
class Place:
    """Where a new process of this run is to log; travels to it."""

    folder: str
    level: int


def process_name() -> str:
    """What this process is called in messages."""
    return _name


def list_processes(run: Path) -> list[Process]:
    """Every process that ever made itself known in the run's folder, under its last number."""
    found = []
    for path in sorted((run / LOGS).glob("*.json")):
        with suppress(OSError, ValueError, TypeError):  # It is being written.
            found.append(Process(**json.loads(path.read_text())))
    return found


def remove_logs(run: Path) -> None:
    """Take back all that processes wrote into the run's folder."""
    for kind in ("json", "log", "stack"):
        for path in (run / LOGS).glob(f"*.{kind}"):
            path.unlink(missing_ok=True)
    with suppress(OSError):  # It holds files of somebody else's.
        (run / LOGS).rmdir()


@contextmanager
def driver_of(run: Path) -> Iterator[None]:
    """Within, this process is the driver of the run in that folder, and can be found as that."""
    global _home
    before, _home = _home, run / LOGS
    _home.mkdir(exist_ok=True)
    with (_home / f"{DRIVER}.stack").open("a") as stacks:
        _answer(stacks, DRIVER)
        try:
            yield
        finally:
            (_home / f"{DRIVER}.json").unlink(missing_ok=True)
            faulthandler.unregister(STACK_SIGNAL)
            _home = before


def place_for_others() -> Place | None:
    """Where processes that this one starts are to log; None where it belongs to no run."""
    return None if _home is None else Place(str(_home), logging.getLogger().level)


def enter(place: Place | None, name: str) -> None:
    """In a new process: write what it prints and logs into the run's folder, for its whole life.

    On another machine that has no such folder everything stays where it would go.
    """
    global _home, _name
    _name = name.replace("_", " ")
    if place is None or not os.path.isdir(place.folder):
        return
    _home = Path(place.folder)
    log = (_home / f"{name}.log").open("a", buffering=1)
    for descriptor in (1, 2):
        os.dup2(log.fileno(), descriptor)
    sys.stdout = sys.stderr = log
    handler = logging.StreamHandler(log)
    handler.setFormatter(logging.Formatter(LOG_FORMAT))
    logging.getLogger().addHandler(handler)
    logging.getLogger().setLevel(place.level)
    faulthandler.enable(log)
    answer_as(name)


def answer_as(name: str) -> None:
    """In a child process of one of a run: be found by a name of its own."""
    if _home is not None:
        _answer((_home / f"{name}.stack").open("a"), name)


def _answer(stacks: Any, name: str) -> None:
    # Somebody else's handler, such as a cluster's for requeueing, is called as well.
    is_taken = callable(signal.getsignal(STACK_SIGNAL))
    faulthandler.register(STACK_SIGNAL, file=stacks, all_threads=True, chain=is_taken)
    # Known only from now on: without a handler the signal would end the process.
    assert _home is not None
    process = Process(name, os.getpid(), platform.node(), _created(os.getpid()))
    path = _home / f"{name}.json"
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_text(json.dumps(asdict(process)))
    temporary.replace(path)


def _created(pid: int) -> float:
    """When the process of that number began; 0 if there is none."""
    import psutil

    try:
        process = psutil.Process(pid)
        return 0.0 if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return 0.0
