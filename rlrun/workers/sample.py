"""The one message that a sampling worker sends."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from rlrun.core.batch import Batch
from rlrun.core.episode import EpisodeReport
from rlrun.core.filters import RunningMoments
from rlrun.core.gradients import Gradient


@dataclass
class Sample:
    """What a worker has to say after it sampled."""

    batches: dict[str, Batch]
    """Rows by policy id, postprocessed; none where no trajectory was complete yet."""
    env_steps: int
    """Env steps that it took."""
    void_steps: int = 0
    """Steps in which a native env only reset; they took time, and gave no rows."""
    episodes: list[EpisodeReport] = field(default_factory=list)
    """Episodes that ended."""
    gathered: dict[str, RunningMoments] = field(default_factory=dict)
    """What observation filters are to count, by policy id."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Where the time went, by phase; see `env_sampler.PHASES`."""
    vector_steps: int = 0
    """Steps of the vector of envs that took this time."""
    gradients: dict[str, Gradient] = field(default_factory=dict)
    """In place of rows, where the algorithm learns on its workers, by policy id."""
    weights_version: int = 0
    """Which publication of the weights it acted with."""
    exploration: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Numbers that the exploration reports, by policy id."""
