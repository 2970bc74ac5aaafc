"""The one message that a sampling worker sends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlrun.core.batch import Batch
from rlrun.core.episode import EpisodeReport
from rlrun.core.filters import RunningMoments
from rlrun.core.gradients import Gradient
from rlrun.workers.task_state import pack_entries, unpack_entries


@dataclass
class Sample:
    """What a worker has to say after it sampled."""

    batches: dict[str, Any]
    """Rows by policy id, postprocessed, as Batch or RowsElsewhere; none where no trajectory was
    complete yet."""
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
    exploration: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Numbers that the exploration reports, by policy id."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        batches = {
            policy_id: dict(rows.fetch() if isinstance(rows, RowsElsewhere) else rows)
            for policy_id, rows in self.batches.items()
        }
        return {
            **vars(self),
            "batches": batches,
            "episodes": [report_state(report) for report in self.episodes],
            "gathered": moments_state(self.gathered),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Sample:
        """What `state_dict` was of."""
        return cls(
            **{
                **state,
                "batches": {id_: Batch(batch) for id_, batch in state["batches"].items()},
                "episodes": [report_of(report) for report in state["episodes"]],
                "gathered": moments_of(state["gathered"]),
            }
        )


@dataclass(frozen=True)
class RowsElsewhere:
    """Rows that have stayed in the object store, so that they need not pass through this process on
    their way to another."""

    ref: Any
    """Stands for all rows of a fragment by policy id, wherever it is an argument of a call."""
    policy_id: str
    num_rows: int
    num_steps: int
    fetch_all: Callable[[], dict[str, Batch]]

    def fetch(self) -> Batch:
        """The rows themselves."""
        return self.fetch_all()[self.policy_id]


def without_rows(sample: Sample) -> tuple[Sample, dict[str, Batch]]:
    """A sample whose batches are only (number of rows, number of steps), and the rows."""
    batches = sample.batches
    sample.batches = {id_: (each.num_rows, each.num_steps) for id_, each in batches.items()}
    return sample, batches


def report_state(report: EpisodeReport) -> dict[str, Any]:
    """What a checkpoint holds of a report, which may have media of any kind."""
    return {**vars(report), "media": pack_entries(report.media)[0]}


def report_of(state: Mapping[str, Any]) -> EpisodeReport:
    """What `report_state` was of."""
    return EpisodeReport(**{**state, "media": unpack_entries(state["media"])})


def moments_state(gathered: Mapping[str, RunningMoments]) -> dict[str, Any]:
    """What a checkpoint holds of what filters gathered, by policy id."""
    return {policy_id: moments.state_dict() for policy_id, moments in gathered.items()}


def moments_of(state: Mapping[str, Any]) -> dict[str, RunningMoments]:
    """What `moments_state` was of."""
    found = {policy_id: RunningMoments(each["mean"].shape) for policy_id, each in state.items()}
    for policy_id, moments in found.items():
        moments.load_state_dict(state[policy_id])
    return found
