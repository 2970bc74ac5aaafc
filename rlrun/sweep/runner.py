"""Starting and resuming sweeps: from what was typed to a driver that has run all trials."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rlrun import run_folder
from rlrun.core.errors import ConfigError
from rlrun.overrides import as_text
from rlrun.sweep.driver import Plan, SweepDriver
from rlrun.sweep.dry_run import listing
from rlrun.sweep.executor import Executor
from rlrun.sweep.lines import Lines
from rlrun.sweep.local_executor import LocalExecutor
from rlrun.sweep.observer import SweepObserver
from rlrun.sweep.packing import Room, cpus_of_machine
from rlrun.sweep.request import plan_sweep
from rlrun.sweep.request_file import read_request, refuse_taken_sweep, write_request

CHANGEABLE = ("sweep.max_concurrent", "sweep.max_failures", "sweep.fail_fast")
"""Keys that a resumed sweep may be given other values of: the others say which trials there are."""


def run(arguments: list[str], folder: Path | None = None) -> SweepDriver | None:
    """Run the sweep that `rlrun -m <arguments>` asks for; gives its driver when all has ended, or
    None where it was only to be listed (sweep.dry_run).

    folder: of the sweep, in place of hydra.sweep.dir. Raises ConfigError or ResourceError before
    anything is started.
    """
    plan = plan_sweep(arguments, folder)
    refuse_taken_sweep(plan.folder)
    if plan.settings.dry_run:
        print(listing(plan, room_for(plan)), flush=True)
        return None
    with closing(LocalExecutor()) as executor:  # It makes itself ready while trials are checked.
        trials = plan.check()
        room = room_for(plan)
        room.refuse_impossible(trials)
        with run_folder.lock(plan.folder):
            refuse_taken_sweep(plan.folder)
            write_request(plan.folder, arguments)
            return _drive(plan, executor, room)


def resume(folder: Path, overrides: dict[str, Any]) -> SweepDriver:
    """Go on with the sweep in a folder. Raises ConfigError."""
    folder = folder.absolute()
    asked = read_request(folder)
    if unknown := [key for key in overrides if key not in CHANGEABLE]:
        raise ConfigError(
            f"{unknown[0]}={overrides[unknown[0]]}: a resumed sweep keeps the trials that it was "
            f"started with. What can change: {', '.join(CHANGEABLE)}."
        )
    os.chdir(asked["working_directory"])
    changed = [f"{key}={as_text(value)}" for key, value in overrides.items()]
    with run_folder.lock(folder), closing(LocalExecutor()) as executor:
        plan = plan_sweep([*asked["arguments"], *changed], folder)
        plan.check()
        return _drive(plan, executor, room_for(plan))


def _drive(plan: Plan, executor: Executor, room: Room) -> SweepDriver:
    driver = SweepDriver(plan, executor, room, observers=observers())
    driver.run()
    return driver


def observers() -> Sequence[SweepObserver]:
    """Who watches a sweep from the command line."""
    return [Lines()]


def room_for(plan: Plan) -> Room:
    """What this machine has for the trials of a plan."""
    return Room(cpus_of_machine())
