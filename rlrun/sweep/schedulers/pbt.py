"""Population-based training."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rlrun.core.errors import ConfigError
from rlrun.core.imports import import_object
from rlrun.sweep.schedulers.base import (
    Continue,
    Decision,
    Exploit,
    Pause,
    Scheduler,
    at_least,
)
from rlrun.sweep.schedulers.changeable import refuse_what_cannot_change, values_of
from rlrun.sweep.schedulers.mutations import Range, explore, read_mutations
from rlrun.sweep.schedulers.pbt_log import Entry, Log
from rlrun.sweep.trial import Trial


@dataclass
class Member:
    """What is known of one trial of the population."""

    values: dict[str, Any]
    """The mutated keys, and whatever else differs between trials, as they are now."""
    time: float = 0.0
    """Of its last result."""
    last_perturbation: float = 0.0
    """When it was judged last."""
    score: float | None = None
    """What it had then."""
    last_score: float | None = None
    """What it has now."""
    has_checkpoint: bool = False
    """Whether it has one from then."""
    num_perturbations: int = 0
    is_waiting: bool = True
    """Whether it has not begun, or was paused and has told nothing since."""


@dataclass(kw_only=True)
class PBT(Scheduler):
    """Population-based training (Jaderberg et al., 2017, arXiv:1711.09846).

    Every `perturbation_interval` a trial is judged by its last score. One in the lower quantile
    goes on from the checkpoint of one in the upper quantile (exploit, by truncation selection),
    with values near that one's (explore); the others make a checkpoint. If trials wait for room,
    those that were judged pause, and who is least far goes on.
    """

    hyperparam_mutations: dict[str, Any] = field(default_factory=dict)
    """What is explored, by key: a list of values, a range {min, max, log} (of whole numbers, if
    both ends are: {min: 0.0, max: 1.0} has those between them, too), or null for any number, of a
    key that the sweep sets."""
    perturbation_interval: float = 10
    """Between two judgements of a trial, in units of `time_attr`."""
    burn_in_period: float = 0
    """Until when no trial is judged."""
    quantile_fraction: float = 0.25
    """The share of the population that is in the lower quantile, and in the upper one."""
    resample_probability: float = 0.25
    """How often a value is drawn anew, instead of changed."""
    perturbation_factors: list[float] = field(default_factory=lambda: [1.2, 0.8])
    """What numbers are multiplied by, one or the other."""
    custom_explore_fn: str | None = None
    """Import path of function(values) -> values, which has the last word on explored values."""

    def __post_init__(self) -> None:
        at_least(0, burn_in_period=self.burn_in_period)
        if self.perturbation_interval <= 0:
            raise ConfigError(
                f"scheduler.perturbation_interval={self.perturbation_interval:g} must be above 0."
            )
        if not 0 <= self.quantile_fraction <= 0.5:
            raise ConfigError(
                f"scheduler.quantile_fraction={self.quantile_fraction:g} must be between 0 and 0.5."
            )
        if not 0 <= self.resample_probability <= 1:
            raise ConfigError(
                f"scheduler.resample_probability={self.resample_probability:g} must be between 0 "
                f"and 1."
            )
        if not self.perturbation_factors:
            raise ConfigError("scheduler.perturbation_factors=[] needs one factor at least.")
        self._mutations = read_mutations(self.hyperparam_mutations)
        self._explore_fn: Callable[[dict[str, Any]], dict[str, Any]] | None = None
        if self.custom_explore_fn is not None:
            key = "scheduler.custom_explore_fn"
            self._explore_fn = import_object(self.custom_explore_fn, key)
        if not self._mutations and self._explore_fn is None:
            raise ConfigError(
                "scheduler=pbt needs something to explore: "
                "scheduler.hyperparam_mutations.algo.lr={min: 1e-5, max: 1e-3, log: true}"
            )
        self._members: dict[int, Member] = {}
        self._log = Log()

    def check(self, trial: Trial, config: Mapping[str, Any]) -> None:
        """Mutated keys must be such as can change, and so must those in which trials differ, for
        one goes on with what another had."""
        keys = {**self._mutations, **_without_seed(trial.params)}
        refuse_what_cannot_change(keys, config, "scheduler=pbt")
        values = trial.params | values_of(trial.overrides, self._mutations)
        for key, mutation in self._mutations.items():
            if isinstance(mutation, Range):
                mutation.refuse_beginning(key, values.get(key))

    def on_add(self, trial: Trial) -> None:
        """A mutated key that the trial does not set is drawn, as far as there is a range."""
        values = _without_seed(trial.params) | values_of(trial.overrides, self._mutations)
        chance = random.Random(f"{self.seed} {trial.number}")
        for key, mutation in self._mutations.items():
            drawn = None if key in values else mutation.draw(chance)
            if drawn is not None:
                values[key] = trial.params[key] = drawn
                trial.overrides.append(f"{key}={json.dumps(drawn)}")
        self._members[trial.number] = Member(values)
        self._log.add(Entry(event="start", trial=trial.number, values=values))

    def on_result(self, trial: Trial, result: dict[str, Any]) -> Decision:
        time, score = self.time_of(result), self.score_of(result)
        member = self._members[trial.number]
        member.time, member.is_waiting = time, False
        is_due = time - member.last_perturbation >= self.perturbation_interval
        if score is None:
            return Continue()
        member.last_score = score
        if not is_due or time < self.burn_in_period or result.get("done"):
            return Continue()
        member.score, member.last_perturbation, member.has_checkpoint = score, time, True
        member.num_perturbations += 1
        decision = self._judge(trial, member)
        self._log.write(self.folder)
        return decision

    def on_copied(self, trial: Trial, source_time: float) -> None:
        """Where the judged checkpoint was gone, the log tells of the one that was copied."""
        member = self._members[trial.number]
        if source_time != member.time:
            member.time = member.last_perturbation = source_time
            self._log.correct(trial.number, source_time)
            self._log.write(self.folder)

    def on_end(self, trial: Trial) -> None:
        """It leaves the population."""
        if trial.status.is_final and (member := self._members.pop(trial.number, None)):
            self._note_score(trial, member)
            self._log.write(self.folder)

    def choose(self, startable: Sequence[Trial]) -> Trial | None:
        """Who is least far."""
        return min(startable, key=lambda each: self._members[each.number].time, default=None)

    def _judge(self, trial: Trial, member: Member) -> Decision:
        lower, upper = self._quantiles()
        chance = random.Random(f"{self.seed} {trial.number} {member.num_perturbations}")
        sources = [number for number in upper if self._members[number].has_checkpoint]
        if trial.number in lower and sources:
            return self._exploit(trial, member, chance.choice(sources), chance)
        self._note_score(trial, member)
        if any(other.is_waiting for other in self._members.values()):
            member.is_waiting = True
            return Pause("gives its place to a trial that is less far")
        return Continue(checkpoint=True)

    def _exploit(
        self, trial: Trial, member: Member, source: int, chance: random.Random
    ) -> Decision:
        best = self._members[source]
        values = explore(
            best.values,
            self._mutations,
            self.resample_probability,
            self.perturbation_factors,
            chance,
        )
        if self._explore_fn is not None:
            values = self._explore_fn(dict(values))
        self._log.add(
            Entry(
                event="exploit",
                trial=trial.number,
                time=member.time,
                score=member.score,
                source=source,
                source_time=best.last_perturbation,
                values=values,
            )
        )
        sign = -1.0 if self.mode == "min" else 1.0
        scores = f"{sign * (member.score or 0):g}", f"{sign * (best.score or 0):g}"
        reason = f"{scores[0]} is in the lower quantile, {scores[1]} of {source} in the upper"
        member.values, member.has_checkpoint = values, False
        member.time = member.last_perturbation = best.last_perturbation
        return Exploit(source, values, reason)

    def _note_score(self, trial: Trial, member: Member) -> None:
        self._log.add(
            Entry(event="score", trial=trial.number, time=member.time, score=member.last_score)
        )

    def _quantiles(self) -> tuple[list[int], list[int]]:
        """The numbers of the worst trials and of the best ones, of those that were judged."""
        known = {n: each.score for n, each in self._members.items() if each.score is not None}
        ranked = sorted(known, key=lambda number: known[number])
        size = min(math.ceil(len(ranked) * self.quantile_fraction), len(ranked) // 2)
        return ranked[:size], ranked[len(ranked) - size :]


def _without_seed(params: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if key != "seed"}
