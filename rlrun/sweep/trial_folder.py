"""What a sweep does with the folder of a trial: who writes there, what is left, what it said."""

from __future__ import annotations

import fcntl
import json
import shutil
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlrun.core import checkpoint
from rlrun.core.errors import RlrunError
from rlrun.loggers.files import json_lines
from rlrun.run_folder import LOCK, PARAMS, RESULTS
from rlrun.sweep.trial_process import OUTPUT

SET_ASIDE = ".set_aside"
"""Where, in the sweep's folder, what a trial did goes that has to begin anew."""

COPIED = ".copied"
"""Where, in a trial's folder, another's checkpoint lies until its process has ended."""

END_OF_LOG_BYTES = 1 << 14


def owner_of(folder: Path) -> str | None:
    """The process that writes in a trial's folder; None if there is none."""
    try:
        with (folder / LOCK).open("r+") as file:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                return file.read().strip()
    except FileNotFoundError:
        pass
    return None


def make_ready(folder: Path) -> bool:
    """Whether the trial goes on from a checkpoint; if it does not, its folder is empty now.

    What it did is set aside where it has to begin anew.
    """
    copied = folder / COPIED
    if copied.exists():
        _take_over(folder, copied)
    if (folder / PARAMS).exists() and checkpoint.list_checkpoints(folder):
        return True
    if (folder / RESULTS).exists() or (folder / PARAMS).exists():
        aside = folder.parent / SET_ASIDE / f"{folder.name}_{time.time_ns()}"
        aside.parent.mkdir(exist_ok=True)
        folder.replace(aside)
    return False


def results_of(folder: Path) -> Iterator[dict[str, Any]]:
    """The results that its newest checkpoint knows of."""
    newest = checkpoint.list_checkpoints(folder)[-1]
    for line in json_lines(folder / RESULTS, checkpoint.iteration_of(newest)):
        yield json.loads(line)


def copy_checkpoint(source: Path, target: Path, iteration: int | None = None) -> int | None:
    """Copy the checkpoint of one trial that is of `iteration`, or else its newest one, for another,
    whose process takes it over when it starts again; returns the iteration of what was copied, or
    None if there is none. Raises RlrunError."""
    half_done, copied = target / f"{COPIED}.tmp", target / COPIED
    # The source may be running: a newer checkpoint takes the place of the one that is copied.
    while checkpoints := checkpoint.complete_checkpoints(source):
        wanted = [path for path in checkpoints if checkpoint.iteration_of(path) == iteration]
        chosen = (wanted or checkpoints)[-1]
        try:
            for path in (half_done, copied):
                shutil.rmtree(path, ignore_errors=True)
            half_done.mkdir()
            shutil.copytree(chosen, half_done / chosen.name)
            half_done.replace(copied)
        except OSError as error:
            if not (chosen / checkpoint.MANIFEST).exists():
                continue
            raise RlrunError(f"{chosen} cannot be copied to {target}: {error}") from error
        return checkpoint.iteration_of(chosen)
    return None


def forget_copy(folder: Path) -> None:
    """Remove a copied checkpoint of which no decision was written down."""
    shutil.rmtree(folder / COPIED, ignore_errors=True)


def assignments(values: Mapping[str, Any]) -> list[str]:
    """Values by dotted key as they would be typed."""
    return [f"{key}={json.dumps(value)}" for key, value in values.items()]


def last_words(folder: Path, exit_status: int) -> str:
    """Why a trial's process ended, in a line."""
    if exit_status < 0:
        known = {each.value: each.name for each in signal.Signals}
        return f"killed by {known.get(-exit_status, f'signal {-exit_status}')}"
    try:
        with (folder / OUTPUT).open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - END_OF_LOG_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    said = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return said.removeprefix("rlrun: ") or f"ended with status {exit_status}"


def _take_over(folder: Path, copied: Path) -> None:
    """Put another's checkpoint in the place of a trial's own ones."""
    new = list(copied.glob("checkpoint_*"))
    # A kill may have come when all was done but the last line.
    for own in checkpoint.list_checkpoints(folder) if new else ():
        own.replace(own.with_name(f"superseded_{time.time_ns()}_{own.name}"))
    for path in new:
        path.replace(folder / path.name)
    copied.rmdir()
