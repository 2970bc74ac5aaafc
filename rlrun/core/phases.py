"""Where the time of an iteration went: phases that add up to it, and the one that took most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

PHASES = (
    *("env", "inference", "reading", "postprocessing", "replay", "learning", "transfer", "idle"),
    *("evaluation", "other", "checkpoint", "logging"),
)
"""What a result tells the seconds of. The last two are those since the result before; the others
add up to the iteration.

env: steps and resets. inference: observations to actions. reading: recorded episodes.
postprocessing: fragments to rows. replay: rows into and out of it. learning: gradients and steps.
transfer: rows and weights on their way between processes or devices. idle: waiting for the slowest
worker. other: what is left, callbacks among it.
"""

_BETWEEN_ITERATIONS = ("checkpoint", "logging")

_PHASE_OF_WORK = {
    "env_wait": "env",
    "env_render": "env",
    "raw_obs_processing": "inference",
    "inference": "inference",
    "action_processing": "inference",
    "data_reading": "reading",
    "postprocessing": "postprocessing",
    "learning": "learning",
}
"""What a worker measures (`Sample.seconds`), as phases."""


@dataclass
class SamplingTime:
    """What the sampling workers did since the last result, as they report it."""

    num_workers: int
    """Those that sample at once: the remote ones, or 1."""
    is_remote: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    """Of all workers together, by the names of `Sample.seconds`."""
    vector_steps: int = 0
    slowest_s: float = 0.0
    """Of each round that was waited for, what its slowest worker took."""

    def note(self, seconds: Mapping[str, float], vector_steps: int) -> None:
        """Count what one worker's message says."""
        for name, each in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + each
        self.vector_steps += vector_steps

    def per_step_ms(self) -> dict[str, float]:
        """Milliseconds of one vector step, by the classic names (`sampler_perf`)."""
        num_steps = max(self.vector_steps, 1)
        return {f"mean_{name}_ms": 1e3 * each / num_steps for name, each in self.seconds.items()}

    def by_phase(self, waited_s: float) -> dict[str, float]:
        """How the `waited_s` seconds are accounted for that somebody waited for rows.

        Of workers that were waited for as a whole, their mean; what the wait lasted longer is due
        to the slowest of them, and to the way. Of those that go on meanwhile, their shares.
        """
        work: dict[str, float] = {}
        for name, each in self.seconds.items():
            phase = _PHASE_OF_WORK.get(name, "other")
            work[phase] = work.get(phase, 0.0) + each / self.num_workers
        mean_s = sum(work.values())
        if mean_s > waited_s:
            return {phase: each * waited_s / mean_s for phase, each in work.items()}
        rest_s = waited_s - mean_s
        if not self.is_remote:
            return {**work, "postprocessing": work.get("postprocessing", 0.0) + rest_s}
        idle_s = min(max(self.slowest_s - mean_s, 0.0), rest_s)
        return {**work, "idle": idle_s, "transfer": rest_s - idle_s}


def time_by_phase(
    total_s: float, timers: Mapping[str, float], sampling: SamplingTime
) -> dict[str, float]:
    """Seconds by phase of an iteration that took `total_s`; `timers` are the driver's, in seconds.

    Where a thread learns beside the driver, the time is the thread's: what it waited for is split
    as the workers spent theirs.
    """
    spent = {name: timers.get(name, 0.0) for name in _BETWEEN_ITERATIONS}
    spent["evaluation"] = timers.get("evaluation", 0.0)
    learn_s = timers.get("learn", 0.0)
    if at_work_s := timers.get("learner_at_work", 0.0):
        waited_s = min(timers.get("learner_idle", 0.0), at_work_s)
        learn_s = min(learn_s, at_work_s - waited_s)
        parts = {"learning": learn_s, "transfer": at_work_s - waited_s - learn_s}
    else:
        waited_s = timers.get("sample", 0.0)
        parts = {
            "learning": learn_s,
            "transfer": timers.get("sync_weights", 0.0) + timers.get("to_device", 0.0),
            "replay": timers.get("replay", 0.0),
            "idle": timers.get("wait_for_peers", 0.0),
        }
    phases = dict.fromkeys(PHASES, 0.0) | spent
    for part in (parts, sampling.by_phase(waited_s)):
        for phase, seconds in part.items():
            phases[phase] += seconds
    known_s = sum(phases.values()) - sum(spent[name] for name in _BETWEEN_ITERATIONS)
    phases["other"] += max(total_s - known_s, 0.0)
    return phases


def bottleneck(phases: Mapping[str, float]) -> str:
    """The phase that took most of the time."""
    return max(phases, key=lambda phase: phases[phase])
