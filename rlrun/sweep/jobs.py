"""Sweeps: every job is checked before the first one runs, and a table says how they ended."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"
"""The sweeper whose jobs are known beforehand: all combinations of what is listed."""

planned: list[list[str]] = []
"""The overrides of all jobs of the sweep that runs, where they are known beforehand."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """How one job of a sweep ended."""

    number: int
    overrides: list[str]
    objective: float | None
    status: str
    folder: Path


def jobs_of(config: DictConfig) -> list[list[str]]:
    """The overrides of every job that a composed sweep will run; none for other sweepers, which
    choose as they go."""
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if config.hydra.sweeper.get("_target_") != BASIC_SWEEPER:
        return []
    given = [str(override) for override in config.hydra.overrides.task]
    params = config.hydra.sweeper.get("params") or {}
    given = [*(f"{key}={value}" for key, value in params.items()), *given]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    (batch,) = BasicSweeper.split_arguments(parser.parse_overrides(given), None)
    search_path = [o for o in config.hydra.overrides.hydra if o.startswith("hydra.searchpath")]
    return [[*search_path, *overrides] for overrides in batch]


def with_those_not_run(jobs: list[Job]) -> list[Job]:
    """The jobs that ran, and those that were planned and never began."""
    have_run = {job.number for job in jobs}
    folder = jobs[0].folder.parent
    rest = [
        Job(
            number=number,
            overrides=[each for each in overrides if not each.startswith("hydra.")],
            objective=None,
            status="not run",
            folder=folder / str(number),
        )
        for number, overrides in enumerate(planned)
        if number not in have_run
    ]
    return [*jobs, *rest]


def summary(jobs: Iterable[Job]) -> str:
    """A line per job: number, what is special about it, objective and status."""
    jobs = list(jobs)
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    rows = [
        (
            str(job.number),
            " ".join(each.lstrip("+") for each in job.overrides if each not in common) or "-",
            "-" if job.objective is None else f"{job.objective:.6g}",
            job.status,
        )
        for job in jobs
    ]
    table = [("job", "overrides", "objective", "status"), *rows]
    widths = [max(len(row[column]) for row in table) for column in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in table
    ]
    folder = os.path.commonpath([job.folder.parent for job in jobs])
    return "\n".join([f"Sweep of {len(jobs)} jobs in {folder}", *lines])


def running_job() -> dict[str, Any]:
    """Number, overrides and folder of the job that runs, if it is one of a sweep; else empty."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    hydra_config = HydraConfig.get()
    if hydra_config.mode != RunMode.MULTIRUN:
        return {}
    return {
        "number": int(hydra_config.job.num),
        "overrides": [str(override) for override in hydra_config.overrides.task],
        "folder": Path(hydra_config.runtime.output_dir),
    }
