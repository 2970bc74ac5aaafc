"""The keys of a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rlrun.core.errors import ConfigError


@dataclass(kw_only=True)
class SweepSettings:
    """The node `sweep`."""

    metric: str | None = None
    """The result key by which trials are compared; null: `objective`."""
    mode: Literal["max", "min"] = "max"
    """Whether more of it is better or less."""
    max_concurrent: int | None = None
    """Trials that run at once at most; null: as many as there is room for."""
    max_failures: int = 0
    """How often a trial that failed begins again, from its last checkpoint."""
    fail_fast: bool = False
    """Whether the first trial that fails for good ends the sweep."""
    num_samples: int | None = None
    """Points that are drawn; null: each point of a grid once."""
    seeds: int | None = None
    """Trials of each point, with the run's seed and those that follow; null: one, or those of
    seed=0,1,2."""
    dry_run: bool = False
    """Whether the trials are only listed: jobs, duplicates, folders and the resource plan."""

    def __post_init__(self) -> None:
        for name, least in (
            ("max_concurrent", 1),
            ("max_failures", 0),
            ("num_samples", 1),
            ("seeds", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"sweep.{name}={value} must be at least {least}.")
