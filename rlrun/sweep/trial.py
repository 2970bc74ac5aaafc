"""A trial: one run of a sweep, as the sweep's driver knows it."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class Status(enum.StrEnum):
    """What a trial is doing."""

    WAITING = "waiting"
    """It has not begun, or is to begin again after a failure."""
    RUNNING = "running"
    PAUSED = "paused"
    """A scheduler took it off with a checkpoint; it may go on."""
    FINISHED = "finished"
    """A stop rule of its own was met."""
    PRUNED = "pruned"
    """A scheduler ended it."""
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """The sweep was interrupted, and it left a checkpoint."""

    @property
    def is_final(self) -> bool:
        """Whether a resumed sweep leaves it as it is."""
        return self in (Status.FINISHED, Status.PRUNED, Status.FAILED)


@dataclass(frozen=True, kw_only=True)
class TrialResources:
    """What a trial asks for as a whole: driver, rollout workers, evaluation workers and shards.

    CPUs and GPUs may be fractions. `driver_gpus` has to fit on one GPU; so has each of
    `worker_gpus`.
    """

    cpus: float
    driver_cpus: float = 1.0
    """How many of these are its driver's, which can do with less where it has workers: it mostly
    waits for them."""
    driver_gpus: float = 0.0
    worker_gpus: tuple[float, ...] = ()
    custom: dict[str, float] = field(default_factory=dict)
    bundles: tuple[dict[str, float], ...] = ()
    """What each of its workers and shards asks Ray for: CPU, GPU and custom resources, by name."""

    @property
    def needs_ray(self) -> bool:
        """Whether it has Ray workers of its own."""
        return bool(self.bundles)

    @property
    def gpus(self) -> float:
        """All GPU fractions together."""
        return self.driver_gpus + sum(self.worker_gpus)


@dataclass(kw_only=True)
class Trial:
    """One point of the search, with one seed."""

    number: int
    overrides: list[str]
    """All that is typed for it, without keys of the sweep itself."""
    params: dict[str, Any]
    """What differs between trials: value by key (the seed among them if there are several)."""
    folder: Path
    """Of its run, as `rlrun` alone would leave it."""
    point: int
    """Trials of one point differ in nothing but their seed."""
    resources: TrialResources = field(default_factory=lambda: TrialResources(cpus=1))
    status: Status = Status.WAITING
    result: dict[str, Any] = field(default_factory=dict)
    """Its last one; empty before the first."""
    num_failures: int = 0
    error: str = ""
    """The last line of its last failure."""
    waits_for: str = ""
    """Why it does not run yet: "needs 0.4 GPU; 0.2 free on GPU 0"."""
