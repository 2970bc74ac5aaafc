"""Runs and checkpoints that a command names; what is wrong with them is found without torch."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlrun.compose import set_value
from rlrun.core import checkpoint
from rlrun.core.errors import CheckpointError, ConfigError
from rlrun.run_folder import PARAMS, lock


def config_to_resume(
    path: str | Path, overrides: Mapping[str, Any] | None
) -> tuple[Path, Path, dict[str, Any]]:
    """(path made absolute, folder of the run, its config with `overrides` by dotted key) of the run
    in the folder `path`, or of the checkpoint `path`.

    Raises ConfigError if there is no such run, CheckpointError if it has no checkpoint.
    """
    path = Path(path).absolute()
    folder = path.parent if checkpoint.FOLDER.fullmatch(path.name) else path
    params = folder / PARAMS
    try:
        plain = dict(json.loads(params.read_text()))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(
            f"{folder} is not the folder of a run: it has no {PARAMS}.{_newest_below(folder)} "
            f"(What trainer.save wrote, trainer.restore reads; `rlrun rollout` acts with it.)"
        ) from error
    except OSError as error:
        raise ConfigError(f"{params} cannot be read: {error}") from error
    except checkpoint.UNEXPECTED_CONTENT as error:
        raise ConfigError(f"{params} is damaged, so this run cannot go on: {error}") from error
    for key, value in (overrides or {}).items():
        if key == "seed" and value != plain.get("seed"):
            raise ConfigError(
                f"seed={value}: a resumed run goes on with the random numbers it began with "
                f"(seed={plain.get('seed')}). Start a new run for another seed."
            )
        set_value(plain, key, value)
    if path is folder and not checkpoint.list_checkpoints(folder):
        with lock(folder):  # Unless it is still going on, which is another matter.
            pass
        raise CheckpointError(
            f"{folder} has no complete checkpoint to resume from. Start the run anew; "
            f"checkpoint_freq=N writes one every N iterations."
        )
    return path, folder, plain


def _newest_below(folder: Path) -> str:
    """A hint at the run that was meant, where the folder holds runs."""
    found = [*folder.glob(f"*/{PARAMS}"), *folder.glob(f"*/*/{PARAMS}")]
    if not found:
        return ""
    newest = max(found, key=lambda params: params.stat().st_mtime).parent
    return f" The newest one below it: {newest}."


def find_checkpoint(path: Path) -> Path:
    """`path` itself, or the newest complete checkpoint in the run's folder `path`.

    Raises ConfigError if nothing is there, CheckpointError if it holds none.
    """
    if not (path.exists() or checkpoint.FOLDER.fullmatch(path.name)):
        raise ConfigError(f"{path}: there is no such checkpoint or run.")
    if checkpoint.FOLDER.fullmatch(path.name) or os.path.isfile(path / checkpoint.MANIFEST):
        return path
    try:
        found = checkpoint.list_checkpoints(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not found:
        raise CheckpointError(f"{path} is no checkpoint, and holds no complete one.")
    return found[-1]
