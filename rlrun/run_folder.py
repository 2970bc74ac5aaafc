"""What stands in a run's folder beside results and checkpoints: config, versions and log."""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

from rlrun.core.errors import CheckpointError, ConfigError

PARAMS = "params.json"
RESULTS = "result.json"
VERSIONS = "versions.json"
LOG = "rlrun.log"
OWN_FILES = (PARAMS, RESULTS, VERSIONS, LOG, "progress.csv")
"""What a run writes into its folder before its first result."""

PACKAGES = ("rlrun", "torch", "numpy", "gymnasium", "hydra-core", "omegaconf", "ray")


def refuse_taken_folder(folder: Path) -> None:
    """Raise ConfigError if another run lives in `folder`."""
    if (folder / PARAMS).exists() or (folder / RESULTS).exists():
        raise ConfigError(
            f"hydra.run.dir={folder} holds a run already. Choose another folder, or go on with it: "
            f"rlrun resume {folder}"
        )


def results_until(folder: Path, iteration: int) -> list[dict[str, Any]]:
    """The logged results of all iterations up to `iteration`. Raises CheckpointError."""
    path = folder / RESULTS
    lines = path.read_text().splitlines() if path.is_file() else []
    results = []
    for number, line in enumerate(lines, start=1):
        try:
            result = json.loads(line)
            if result["training_iteration"] <= iteration:
                results.append(result)
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break  # The last line of a killed run may be cut.
            raise CheckpointError(
                f"{path} has a line that is no result: line {number}, {line[:60]!r}."
            ) from error
    return results


def versions(command: list[str]) -> dict[str, Any]:
    """The software that runs: packages, Python, the command, and the commit of the working
    directory."""
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
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_changes": _git("status", "--porcelain"),
    }


@contextmanager
def log_file(folder: Path, level: str) -> Iterator[None]:
    """Log to the folder (INFO and above) and to stderr (`level` and above) within the block."""
    root = logging.getLogger()
    terminal = logging.StreamHandler(sys.stderr)
    terminal.setLevel(level)
    terminal.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    file = logging.FileHandler(folder / LOG)
    file.setLevel(logging.INFO)
    file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
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


def _git(*arguments: str) -> str | None:
    """What git says of the working directory, or None where there is no git or no repository."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            timeout=5,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
