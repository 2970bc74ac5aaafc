"""Starting and resuming sweeps: from what was typed to a driver that has run all trials."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, chdir, closing, contextmanager
from pathlib import Path
from typing import Any

from rlrun import run_folder
from rlrun.config import build
from rlrun.core.errors import ConfigError
from rlrun.core.resources import Resources
from rlrun.overrides import as_text
from rlrun.sweep.driver import SweepDriver
from rlrun.sweep.dry_run import listing
from rlrun.sweep.executor import Executor
from rlrun.sweep.leaderboard import Leaderboard
from rlrun.sweep.listed_jobs import with_jobs
from rlrun.sweep.local_executor import LocalExecutor
from rlrun.sweep.observer import SweepObserver
from rlrun.sweep.packing import Room, cpus_of_machine, gpus_of_machine
from rlrun.sweep.plan import SweepPlan
from rlrun.sweep.ray_executor import ClusterExecutor, SharedRayExecutor
from rlrun.sweep.request import plan_sweep
from rlrun.sweep.request_file import read_request, refuse_taken_sweep, write_request
from rlrun.sweep.table import SweepTable

CHANGEABLE = ("sweep.max_concurrent", "sweep.max_failures", "sweep.fail_fast")
"""Keys that a resumed sweep may be given other values of: the others say which trials there are."""

RETRY_FAILED = "sweep.retry_failed"
"""Whether a resumed sweep lets trials that have failed go on, too."""


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
    with machine_for(plan) as (executor, room), run_folder.lock(plan.folder):
        refuse_taken_sweep(plan.folder)  # Two may be started at once.
        write_request(plan, arguments)
        return _drive(plan, executor, room)


def run_jobs(jobs: list[list[str]], arguments: list[str]) -> SweepDriver:
    """Run jobs that a sweeper of Hydra's has chosen, each a list of overrides, as trials of the
    sweep that `rlrun -m <arguments>` asks for; those that have run before stay as they are."""
    plan = with_jobs(plan_sweep(arguments), jobs)
    with machine_for(plan) as (executor, room), run_folder.lock(plan.folder):
        write_request(plan, arguments, jobs)
        return _drive(plan, executor, room)


def resume(folder: Path, overrides: dict[str, Any]) -> SweepDriver:
    """Go on with the sweep in a folder. Raises ConfigError."""
    folder = folder.absolute()
    asked = read_request(folder)
    retry_failed = overrides.get(RETRY_FAILED, False)
    if not isinstance(retry_failed, bool):
        raise ConfigError(f"{RETRY_FAILED}={retry_failed} must be true or false.")
    overrides = {key: value for key, value in overrides.items() if key != RETRY_FAILED}
    if unknown := [key for key in overrides if key not in CHANGEABLE]:
        raise ConfigError(
            f"{unknown[0]}={overrides[unknown[0]]}: a resumed sweep keeps the trials that it was "
            f"started with. What can change: {', '.join((*CHANGEABLE, RETRY_FAILED))}."
        )
    changed = [f"{key}={as_text(value)}" for key, value in overrides.items()]
    with _where_started(asked), run_folder.lock(folder):
        plan = plan_sweep([*asked["arguments"], *changed], folder)
        if asked.get("jobs"):
            plan = with_jobs(plan, asked["jobs"])
        with machine_for(plan) as (executor, room):
            return _drive(plan, executor, room, retry_failed=retry_failed)


def observers() -> Sequence[SweepObserver]:
    """Who watches a sweep."""
    return [SweepTable(), Leaderboard()]


def room_for(plan: SweepPlan) -> Room:
    """What this machine has for the trials of a plan, as far as they need it."""
    resources = _resources(plan)
    cpus = resources.ray_num_cpus or cpus_of_machine()
    if resources.fake_gpus:
        return Room(cpus, map(str, range(int(resources.fake_gpus))))
    return Room(cpus, gpus_of_machine())


@contextmanager
def machine_for(plan: SweepPlan) -> Iterator[tuple[Executor, Room]]:
    """Where the trials of a plan run, and what there is to give to them; the plan is checked.

    Raises ConfigError or ResourceError if a trial can never run.
    """
    resources = _resources(plan)
    if resources.ray_address is not None:
        trials = plan.check()
        with closing(ClusterExecutor(resources)) as cluster:
            room = cluster.room()
            room.refuse_impossible(trials)
            yield cluster, room
        return
    uses_ray = resources.num_workers > 0
    with ExitStack() as stack:
        executor: Executor | None = None
        if not uses_ray:  # It makes itself ready while trials are checked.
            executor = stack.enter_context(closing(LocalExecutor()))
        trials, room = plan.check(), room_for(plan)
        room.refuse_impossible(trials)
        if executor is None or any(trial.resources.needs_ray for trial in trials):
            stack.close()
            shared = SharedRayExecutor(int(room.total["CPU"]))
            executor = stack.enter_context(closing(shared))
        yield executor, room


@contextmanager
def _where_started(asked: dict[str, Any]) -> Iterator[None]:
    """Be where a sweep was started: there relative paths begin, and lie modules of the user's own.

    Raises ConfigError if that directory has gone.
    """
    directory = asked["working_directory"]
    if not os.path.isdir(directory):
        raise ConfigError(f"This sweep was started in {directory}, which is not there any more.")
    if directory not in sys.path:
        sys.path.append(directory)
    with chdir(directory):
        yield


def _drive(
    plan: SweepPlan, executor: Executor, room: Room, *, retry_failed: bool = False
) -> SweepDriver:
    driver = SweepDriver(plan, executor, room, observers=observers(), retry_failed=retry_failed)
    driver.run()
    return driver


def _resources(plan: SweepPlan) -> Resources:
    """Those that no trial has otherwise, as far as the sweep as a whole is concerned."""
    return build(plan.configs.plain({})["resources"], "resources", target=Resources)
