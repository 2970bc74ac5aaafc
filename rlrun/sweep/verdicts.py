"""What scheduler and search hear of trials, and what was decided of them."""

from __future__ import annotations

import logging
import statistics
from dataclasses import asdict
from typing import Any

from rlrun.loggers.base import lookup
from rlrun.sweep import trial_folder
from rlrun.sweep.journal import Event, Journal
from rlrun.sweep.schedulers.base import Continue, Decision, Exploit, Pause, Scheduler, Stop
from rlrun.sweep.search.base import Search
from rlrun.sweep.trial import Status, Trial

JOURNALED = (
    *("training_iteration", "timesteps_total", "time_total_s", "episodes_total"),
    *("episode_reward_mean", "done"),
)
"""Keys of a result that the journal has, beside those that are judged."""

logger = logging.getLogger("rlrun")


class Verdicts:
    """Tells scheduler and search of results and ends, and keeps what the scheduler decides.

    `replay` puts it together again from the journal, of which nothing is told twice.
    """

    def __init__(
        self, scheduler: Scheduler, search: Search, metric: str, trials: list[Trial]
    ) -> None:
        """metric: the result key by which trials are compared. trials: all, by number; more may be
        added to the list."""
        self.pending: dict[int, Decision] = {}
        """What is being done with a trial whose process has not ended yet."""
        self.new_values: dict[int, dict[str, Any]] = {}
        """The values with which trials go on that have copied another one."""
        self._scheduler = scheduler
        self._search = search
        self._metric = metric
        self._trials = trials
        self._told: dict[int, int] = {}
        """The last iteration of each trial that scheduler and search have heard of."""
        self._told_points: set[int] = set()
        """Those of which the search has heard how they ended, which it does once."""
        self._times: dict[int, dict[int, float]] = {}
        """How far each trial was at its iterations, in units of the scheduler's `time_attr`."""
        self._judged: dict[int, int] = {}
        """The iteration of which the scheduler last wanted a trial's checkpoint."""
        self._undecided: dict[int, Decision] = {}
        """What was decided when the driver was killed, before it was written down."""

    def value_of(self, result: dict[str, Any]) -> float | None:
        """The metric in a result; None where it has none (nan is none)."""
        value = lookup(result, self._metric)
        is_known = isinstance(value, int | float) and value == value
        return float(value) if is_known else None

    def is_told(self, trial: Trial, result: dict[str, Any]) -> bool:
        """Whether this iteration of the trial was heard of before: it lives it again."""
        return bool(result["training_iteration"] <= self._told.get(trial.number, 0))

    def on_result(self, journal: Journal, trial: Trial, result: dict[str, Any]) -> Decision:
        """Tell everybody of a new result; what the scheduler decides, if it can be done."""
        judged = {self._metric, self._scheduler.metric or "", self._scheduler.time_attr}
        keys = {*JOURNALED, *judged}
        known = {key: value for key in keys if (value := lookup(result, key)) is not None}
        iteration = result["training_iteration"]
        journal.write(
            "result", in_haste=True, number=trial.number, iteration=iteration, result=known
        )
        return self._decide(journal, trial, self._hear_result(trial, result))

    def on_end(self, trial: Trial, status: Status, error: str) -> None:
        """Tell everybody that a trial has ended."""
        trial.status, trial.error = status, error
        self._scheduler.on_end(trial)
        of_point = [each for each in self._trials if each.point == trial.point]
        is_told = trial.point in self._told_points
        if status.is_final and not is_told and all(each.status.is_final for each in of_point):
            self._told_points.add(trial.point)
            good = [each for each in of_point if each.status is not Status.FAILED]
            values = [v for each in good if (v := self.value_of(each.result)) is not None]
            self._search.tell(trial.point, statistics.fmean(values) if values else None)

    def _hear_result(self, trial: Trial, result: dict[str, Any]) -> Decision:
        value = self.value_of(result)
        if value is None and (last := self.value_of(trial.result)) is not None:
            result = result | {self._metric: last}
        trial.result = result
        iteration = self._told[trial.number] = result["training_iteration"]
        time = self._scheduler.time_of(result)
        self._times.setdefault(trial.number, {})[iteration] = time
        if value is not None and trial.point not in self._told_points:
            self._search.report(trial.point, time, value)
        decision = self._scheduler.on_result(trial, result)
        if isinstance(decision, Pause) or (isinstance(decision, Continue) and decision.checkpoint):
            self._judged[trial.number] = iteration
        return decision

    def _decide(self, journal: Journal, trial: Trial, decision: Decision) -> Decision:
        """Write a decision down, if it can be done; returns what holds."""
        if isinstance(decision, Continue):
            return decision
        if trial.result.get("done"):
            return Continue()
        facts: dict[str, Any] = {"kind": type(decision).__name__.lower(), **asdict(decision)}
        if goes_on_itself(trial, decision):
            facts["iteration"] = trial.result["training_iteration"]
        elif isinstance(decision, Exploit):
            source = self._trials[decision.source]
            judged = self._judged.get(source.number)
            copied = trial_folder.copy_checkpoint(source.folder, trial.folder, judged)
            if copied is None:
                logger.warning(
                    "Trial %d does not go on from %d, which has no checkpoint.",
                    trial.number,
                    source.number,
                )
                return Continue()
            facts["iteration"] = copied
        journal.write("decision", number=trial.number, decision=facts)
        self._take_up(trial, facts)
        return decision

    def _take_up(self, trial: Trial, facts: dict[str, Any]) -> None:
        """A decision that is in the journal holds from now on."""
        if facts["kind"] != "exploit":
            return
        before = self.new_values.get(trial.number, {})
        self.new_values[trial.number] = {**before, **facts["overrides"]}
        iteration = self._told[trial.number] = facts["iteration"]
        if facts["source"] == trial.number:
            return
        # A checkpoint that nobody heard of when it was made has no time.
        known = self._times[facts["source"]].get(iteration)
        if known is not None:
            self._times[trial.number][iteration] = known
            self._scheduler.on_copied(trial, known)

    # Resuming

    def replay(self, trial: Trial, event: Event) -> None:
        """What the journal tells of a trial. What was decided and not done is `pending` then."""
        for found in (self.pending, self._undecided):
            found.pop(trial.number, None)
        match event["event"]:
            case "result":
                self._undecided[trial.number] = self._hear_result(trial, event["result"])
            case "decision":
                self._take_up(trial, event["decision"])
                self.pending[trial.number] = _decision_of(event["decision"])
            case "end" if event["status"] != Status.WAITING:
                self.on_end(trial, Status(event["status"]), event["error"])

    def decide_the_past(self, journal: Journal, trial: Trial) -> Decision | None:
        """What the driver had not done with the trial when it was killed."""
        decision = self.pending.pop(trial.number, None)
        if not isinstance(decision, Exploit):
            trial_folder.forget_copy(trial.folder)
        if decision is None and (made := self._undecided.get(trial.number)) is not None:
            decision = self._decide(journal, trial, made)
        return decision


def goes_on_itself(trial: Trial, decision: Decision) -> bool:
    """Whether a trial is to go on from where it is, with other values."""
    return isinstance(decision, Exploit) and decision.source == trial.number


def _decision_of(facts: dict[str, Any]) -> Decision:
    """A decision as the journal has it."""
    if facts["kind"] == "exploit":
        return Exploit(facts["source"], facts["overrides"], facts["reason"])
    return (Stop if facts["kind"] == "stop" else Pause)(facts["reason"])
