"""The schedule of values that population-based training found, run again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlrun.core.errors import ConfigError
from rlrun.sweep.schedulers.base import Continue, Decision, Exploit, Scheduler
from rlrun.sweep.schedulers.changeable import refuse_what_cannot_change
from rlrun.sweep.schedulers.pbt_log import best_trial, read_log, schedule_of
from rlrun.sweep.trial import Trial


@dataclass(kw_only=True)
class PBTReplay(Scheduler):
    """Gives each trial the values that one of a population had, at the same times.

    Where that one copied another, its schedule before that is the other's. `time_attr` must be that
    of the population.
    """

    log: str
    """The pbt.jsonl of a sweep with scheduler=pbt, or the sweep's folder."""
    trial: int | None = None
    """Number of the trial whose schedule is run; null: the one with the best last score."""

    def __post_init__(self) -> None:
        entries = read_log(Path(self.log), "scheduler.log")
        number = best_trial(entries) if self.trial is None else self.trial
        known = sorted({entry.trial for entry in entries})
        if number is None or number not in known:
            raise ConfigError(
                f"scheduler.trial={self.trial}: {self.log} has no such trial with a score. "
                f"Trials: {', '.join(map(str, known)) or 'none'}."
            )
        self.steps = schedule_of(entries, number)
        """The values by the times from which on they hold; the first from the start."""
        self._num_done: dict[int, int] = {}

    def check(self, trial: Trial, config: Mapping[str, Any]) -> None:
        keys = {key for step in self.steps[1:] for key in step.values}
        refuse_what_cannot_change(sorted(keys), config, f"scheduler.log={self.log}")

    def on_add(self, trial: Trial) -> None:
        """It begins with the first values of the schedule."""
        for key, value in self.steps[0].values.items():
            trial.params[key] = value
            override = f"{key}={json.dumps(value)}"
            if override not in trial.overrides:
                trial.overrides.append(override)

    def on_result(self, trial: Trial, result: dict[str, Any]) -> Decision:
        time = self.time_of(result)
        num_due = sum(step.time <= time for step in self.steps[1:])
        if result.get("done") or num_due <= self._num_done.get(trial.number, 0):
            return Continue()
        self._num_done[trial.number] = num_due
        step = self.steps[num_due]
        return Exploit(trial.number, dict(step.values), f"as the schedule has it at {step.time:g}")
