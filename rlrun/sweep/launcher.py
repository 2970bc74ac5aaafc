"""Our launcher for Hydra's sweepers: their jobs are trials of ours."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, open_dict

from rlrun.core.errors import RlrunError
from rlrun.sweep.runner import run_jobs
from rlrun.sweep.trial import Status

PLUGIN_MODULE = "hydra_plugins.rlrun"
"""Hydra takes plugins only from a package of that name, which it would search at every start; so
this module goes by it where it is needed."""

BASIC_LAUNCHER = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class TrialLauncher(Launcher):
    """Runs each batch of jobs as trials, in parallel; a sweeper gets their objectives."""

    __module__ = PLUGIN_MODULE

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        command: list[str] = task_function.__self__.command  # type: ignore[attr-defined]
        self._arguments = command[1:]
        self._jobs: list[list[str]] = []

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        self._jobs += [list(filter_overrides(overrides)) for overrides in job_overrides]
        driver = run_jobs(self._jobs, self._arguments)
        returns = []
        for trial in driver.trials[initial_job_idx:]:
            done = JobReturn(overrides=trial.overrides, status=JobStatus.COMPLETED)
            done.return_value = driver.value_of(trial.result)
            if trial.status is Status.FAILED:
                done.status, done.return_value = JobStatus.FAILED, RlrunError(trial.error)
            returns.append(done)
        return returns


def take_the_place_of_hydras(config: DictConfig) -> None:
    """Let our launcher run the jobs of a sweeper that the user has chosen, unless a launcher was
    chosen as well."""
    hydra: Any = config.hydra
    is_sweeper_chosen = hydra.sweeper.get("_target_") != BASIC_SWEEPER
    if is_sweeper_chosen and hydra.launcher.get("_target_") == BASIC_LAUNCHER:
        sys.modules[PLUGIN_MODULE] = sys.modules[__name__]
        Plugins.instance().register(TrialLauncher)
        with open_dict(config):
            hydra.launcher = {"_target_": f"{PLUGIN_MODULE}.{TrialLauncher.__name__}"}
