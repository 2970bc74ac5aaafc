"""How a sweep was asked for: `sweep.json` in its folder, from which it can go on."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlrun import run_folder
from rlrun.core import checkpoint
from rlrun.core.errors import ConfigError

if TYPE_CHECKING:
    from rlrun.sweep.plan import SweepPlan

SWEEP = "sweep.json"


def is_sweep(folder: Path) -> bool:
    """Whether a sweep was started in a folder."""
    return (folder / SWEEP).is_file()


def read_request(folder: Path) -> dict[str, Any]:
    """How the sweep in a folder was asked for. Raises ConfigError."""
    try:
        return dict(json.loads((folder / SWEEP).read_text()))
    except (OSError, *checkpoint.UNEXPECTED_CONTENT) as error:
        raise ConfigError(
            f"{folder / SWEEP} cannot be read, so it cannot go on: {error}"
        ) from error


def refuse_taken_sweep(folder: Path) -> None:
    """Raise ConfigError if the folder of a sweep holds runs already, or cannot be one."""
    run_folder.refuse_taken_folder(folder, "hydra.sweep.dir")
    taken = sorted(path.parent.name for path in folder.glob("*/" + run_folder.PARAMS))
    if taken or is_sweep(folder):
        raise ConfigError(
            f"hydra.sweep.dir={folder} holds {len(taken)} run(s) already ({', '.join(taken[:5])}). "
            f"Choose another folder, or go on with it: rlrun resume {shlex.quote(str(folder))}"
        )


def write_request(
    plan: SweepPlan, arguments: list[str], jobs: list[list[str]] | None = None
) -> None:
    """Write down how a sweep was asked for, by what its trials are compared, and the jobs that
    somebody else has chosen."""
    facts = {
        "metric": plan.metric,
        "mode": plan.settings.mode,
        "arguments": arguments,
        "jobs": jobs or [],
        "command": sys.argv,
        "working_directory": os.getcwd(),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    checkpoint.write_json(plan.folder / SWEEP, facts)
