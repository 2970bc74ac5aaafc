"""What stands in a run's folder beside results and checkpoints: config, versions and log."""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, TextIO

from rlrun.core.errors import ConfigError, RlrunError
from rlrun.core.processes import LOG_FORMAT, remove_logs
from rlrun.loggers.files import json_lines

PARAMS = "params.json"
RESULTS = "result.json"
VERSIONS = "versions.json"
LOG = "rlrun.log"
LOCK = ".lock"
VIDEOS = "videos"
GIT_DIFF = "git_diff.patch"
LARGEST_DIFF = 1_000_000
"""Bytes of it that are kept."""
OWN_FILES = (PARAMS, RESULTS, VERSIONS, GIT_DIFF, LOG, LOCK, "progress.csv")
"""What a run writes into its folder before its first result."""

logger = logging.getLogger("rlrun")

_locked_here: set[Path] = set()
"""The folders that this process has locked, which the system would let it lock once more."""

PACKAGES = ("rlrun", "torch", "numpy", "gymnasium", "hydra-core", "omegaconf", "ray")


def refuse_taken_folder(folder: Path, key: str = "hydra.run.dir") -> None:
    """Raise ConfigError if another run lives in `folder`, or a file is in its way."""
    above = [folder, *folder.parents]
    if file := next((path for path in above if path.exists() and not path.is_dir()), None):
        raise ConfigError(f"{key}={folder} must name a folder, and {file} is a file.")
    if (folder / PARAMS).exists() or (folder / RESULTS).exists():
        raise ConfigError(
            f"{key}={folder} holds a run already. Choose another folder, or go on with it: "
            f"rlrun resume {shlex.quote(str(folder))}"
        )


def remove_if_unused(folder: Path) -> None:
    """Take back what was written for a run that was refused before its first result; no more."""
    results = folder / RESULTS
    if (results.exists() and results.stat().st_size) or list(folder.glob("checkpoint_*")):
        return
    for name in OWN_FILES:
        (folder / name).unlink(missing_ok=True)
    remove_logs(folder)
    shutil.rmtree(folder / ".hydra", ignore_errors=True)
    parent = folder.parent
    for emptied in (folder, parent) if parent.parent.name == "results" else (folder,):
        if emptied.is_dir() and not any(emptied.iterdir()):
            emptied.rmdir()


def results_until(folder: Path, iteration: int) -> list[dict[str, Any]]:
    """The logged results of all iterations up to `iteration`. Raises CheckpointError."""
    return [json.loads(line) for line in json_lines(folder / RESULTS, iteration)]


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Make the folder, and be the only process that writes there within the block.

    Raises ConfigError if another process does, RlrunError if the disk refuses.
    """
    if folder in _locked_here:
        raise ConfigError(f"The run in {folder} is still going on, in this process.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+")
    except OSError as error:
        raise RlrunError(f"The run's folder {folder} cannot be written: {error}") from error
    _locked_here.add(folder)
    try:
        _lock(file, folder)
        yield
    finally:
        _locked_here.remove(folder)
        with suppress(OSError):  # The disk is full; the lock holds no data of the run.
            file.close()


def _lock(file: TextIO, folder: Path) -> None:
    try:
        # A lock of the process, not of the file: it ends with a kill, and children lack it.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(f"{os.getpid()} on {platform.node()}\n")
        file.flush()
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.seek(0)
            raise ConfigError(
                f"The run in {folder} is still going on, in process {file.read().strip()}. End it "
                f"first, with Ctrl-C or SIGTERM."
            ) from error
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise RlrunError(f"The run's folder {folder} cannot be written: {error}") from error
        logger.warning("%s has no locks (%s): do not start this run twice at once.", folder, error)


def versions(command: list[str], folder: Path) -> dict[str, Any]:
    """The software that runs: packages, Python, the command, the commit of the working directory,
    and the directory in which the run in `folder` was first started."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed as a package"
    return {
        "packages": found,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "command": command,
        "working_directory": _started_in(folder) or os.getcwd(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changes": _git("status", "--porcelain"),
    }


def write_git_diff(folder: Path) -> None:
    """Keep how the tracked files of the working directory's repository differ from its commit, if
    they do. Untracked files, which may hold secrets or data, are only named in versions.json."""
    (folder / GIT_DIFF).unlink(missing_ok=True)
    diff = _git("diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color")
    if not diff:
        return
    content = diff.encode()
    if len(content) > LARGEST_DIFF:
        kept = content[:LARGEST_DIFF]
        cut = f"\n# Cut here: {len(content) - LARGEST_DIFF} of {len(content)} bytes are missing."
        content = kept[: kept.rfind(b"\n")] + cut.encode()
    (folder / GIT_DIFF).write_bytes(content + b"\n")


@contextmanager
def modules_from_where_it_was_started(folder: Path) -> Iterator[None]:
    """Let the user's own classes be imported from where the run in `folder` was started, if they
    are not found otherwise; if that is gone, a ConfigError of the block says so."""
    started_in = _started_in(folder)
    if os.path.isdir(started_in) and started_in not in sys.path:
        sys.path.append(started_in)
    try:
        yield
    except ConfigError as error:
        if not started_in or "there is no module" not in str(error):
            raise
        raise ConfigError(f"{error} The run was started in {started_in}.") from error


@contextmanager
def log_file(folder: Path, level: str) -> Iterator[None]:
    """Log to the folder (INFO and above) and to stderr (`level` and above) within the block."""
    root = logging.getLogger()
    terminal = _TerminalHandler()
    terminal.setLevel(level)
    terminal.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    try:
        file = logging.FileHandler(folder / LOG)
    except OSError as error:
        raise RlrunError(f"{folder / LOG} cannot be written: {error}") from error
    file.setLevel(logging.INFO)
    file.setFormatter(logging.Formatter(LOG_FORMAT))
    level_before = root.level
    root.setLevel(min(logging.INFO, terminal.level))
    root.addHandler(terminal)
    root.addHandler(file)
    try:
        yield
    finally:
        root.removeHandler(terminal)
        root.removeHandler(file)
        root.setLevel(level_before)
        file.close()


def _started_in(folder: Path) -> str:
    """Where the run in `folder` was first started, or "" where nothing tells."""
    try:
        return str(json.loads((folder / VERSIONS).read_text())["working_directory"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


class _TerminalHandler(logging.StreamHandler):
    """To what stderr is when a line is written: a live display puts itself in its place."""

    @property
    def stream(self) -> Any:
        return sys.stderr

    @stream.setter
    def stream(self, value: Any) -> None: ...


def _git(*arguments: str) -> str | None:
    """What git says of the working directory, or None where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=5,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
