"""Asynchronous successive halving."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlrun.core.errors import ConfigError
from rlrun.sweep.schedulers.base import Continue, Decision, Pause, Scheduler, Stop, at_least
from rlrun.sweep.trial import Status, Trial


@dataclass
class Rung:
    """A time at which trials are compared with the others that have come there."""

    milestone: float
    scores: dict[int, float] = field(default_factory=dict)
    """By trial number, in the order in which they came."""


@dataclass(kw_only=True)
class ASHA(Scheduler):
    """Asynchronous successive halving (Li et al., 2020, arXiv:1810.05934, algorithm 2).

    Trials pause at each rung, and the best 1/reduction_factor of those that are there go on,
    without waiting for others that are on their way. A sweep has only so many trials, so unlike the
    paper's, which promotes first, all begin before any is promoted: a grid that is sorted from bad
    to good would promote every one otherwise. Where the search learns from how trials end, those
    that are not among the best are stopped at once (as Tune does), as it needs to hear of them.
    """

    max_t: float = 100
    """Where trials end, in units of `time_attr`: the paper's R."""
    grace_period: float = 1
    """The first rung: the paper's r."""
    reduction_factor: float = 4
    """One of so many passes a rung, and each rung is so many times as far as the one before: the
    paper's eta."""
    brackets: int = 1
    """Halvings side by side, each with one rung less at the start than the one before; a trial
    belongs to one by chance, to those with more rungs more often."""

    def __post_init__(self) -> None:
        at_least(1, brackets=self.brackets)
        at_least(0, grace_period=self.grace_period)
        if self.grace_period == 0 or self.reduction_factor <= 1:
            raise ConfigError(
                f"scheduler.grace_period={self.grace_period:g} must be above 0, and "
                f"scheduler.reduction_factor={self.reduction_factor:g} above 1."
            )
        milestones = list(self._milestones())
        if not milestones:
            raise ConfigError(
                f"scheduler.grace_period={self.grace_period:g} must be below "
                f"scheduler.max_t={self.max_t:g}, or no trial is ever compared with another."
            )
        if self.brackets > len(milestones):
            raise ConfigError(
                f"scheduler.brackets={self.brackets}: there are only {len(milestones)} rungs "
                f"between scheduler.grace_period={self.grace_period:g} and "
                f"scheduler.max_t={self.max_t:g}."
            )
        self._brackets = [
            [Rung(milestone) for milestone in milestones[first:]] for first in range(self.brackets)
        ]
        self._bracket_of: dict[int, list[Rung]] = {}
        self._trials: dict[int, Trial] = {}
        self._heard: set[int] = set()
        """Numbers of trials that have given a result."""

    def on_add(self, trial: Trial) -> None:
        self._trials[trial.number] = trial

    def on_result(self, trial: Trial, result: dict[str, Any]) -> Decision:
        self._heard.add(trial.number)
        time, score = self.time_of(result), self.score_of(result)
        if time >= self.max_t:
            return Stop(f"{self.time_attr} is {self.max_t:g}")
        reached = [rung for rung in self._rungs_of(trial) if rung.milestone <= time]
        if not reached or score is None or trial.number in reached[-1].scores:
            return Continue()
        rung = reached[-1]
        rung.scores[trial.number] = score
        where = f"{self.time_attr}={rung.milestone:g}"
        if self.search_learns:
            if trial.number in self._best(rung, at_least=1):
                return Continue()
            return Stop(f"not among the best {self._share} of {len(rung.scores)} at {where}")
        if self._have_all_begun and trial.number in self._best(rung):
            return Continue()
        return Pause(f"goes on if it is among the best {self._share} at {where}")

    def choose(self, startable: Sequence[Trial]) -> Trial | None:
        """Whoever is not paused; then the best paused one, of the last rung that has any."""
        for trial in startable:
            if trial.status is not Status.PAUSED:
                return trial
        promotable = {n for rungs in self._brackets for n in self._promotable(rungs)[0]}
        found = [trial for trial in startable if trial.number in promotable]
        return max(found, key=self._milestone_and_score, default=None)

    def gives_up(self, paused: Sequence[Trial]) -> Sequence[Trial]:
        if not self._have_all_begun:
            return ()
        found: list[Trial] = []
        for rungs in self._brackets:
            promotable, closed = self._promotable(rungs)
            found += [
                trial
                for trial in paused
                if self._rungs_of(trial) is rungs
                and _last_rung(trial.number, rungs) in closed
                and trial.number not in promotable
            ]
        return found

    @property
    def _share(self) -> str:
        return f"1/{self.reduction_factor:g}"

    @property
    def _have_all_begun(self) -> bool:
        trials = self._trials.values()
        return all(trial.number in self._heard or trial.status.is_final for trial in trials)

    def _best(self, rung: Rung, *, at_least: int = 0) -> list[int]:
        """Of those at a rung that have not failed the best 1/reduction_factor; of equals those that
        came first."""
        numbers = [n for n in rung.scores if self._trials[n].status is not Status.FAILED]
        ranked = sorted(numbers, key=lambda number: rung.scores[number], reverse=True)
        return ranked[: max(at_least, int(len(ranked) / self.reduction_factor))]

    def _promotable(self, rungs: list[Rung]) -> tuple[set[int], list[Rung]]:
        """(paused trials of a bracket that may go on, the rungs to which no other comes any more).

        At those one goes on, however few they are.
        """
        members = [trial for trial in self._trials.values() if self._rungs_of(trial) is rungs]
        under_way = {
            trial.number
            for trial in members
            if not trial.status.is_final and trial.status is not Status.PAUSED
        }
        promotable: set[int] = set()
        closed = []
        for index, rung in enumerate(rungs):
            been = {number for each in rungs[index:] for number in each.scores}
            if under_way | promotable <= been:
                closed.append(rung)
            best = self._best(rung, at_least=1 if rung in closed else 0)
            promotable |= {
                number
                for number in best
                if self._trials[number].status is Status.PAUSED
                and _last_rung(number, rungs) is rung
            }
        return promotable, closed

    def _milestone_and_score(self, trial: Trial) -> tuple[float, float]:
        rung = _last_rung(trial.number, self._rungs_of(trial))
        return rung.milestone, rung.scores[trial.number]

    def _milestones(self) -> list[float]:
        found, milestone = [], float(self.grace_period)
        while milestone < self.max_t:
            found.append(milestone)
            milestone *= self.reduction_factor
        return found

    def _rungs_of(self, trial: Trial) -> list[Rung]:
        """The rungs of the trial's bracket.

        As many trials begin in each bracket, compared with the others, as Hyperband (Li et al.,
        2018, algorithm 1) begins there: s rungs, reduction_factor**s / (s + 1).
        """
        if trial.number not in self._bracket_of:
            chance = random.Random(f"{self.seed} {trial.number}")
            sizes = [len(rungs) for rungs in self._brackets]
            weights = [self.reduction_factor**size / (size + 1) for size in sizes]
            self._bracket_of[trial.number] = chance.choices(self._brackets, weights)[0]
        return self._bracket_of[trial.number]


def _last_rung(number: int, rungs: list[Rung]) -> Rung:
    """The last one to which a paused trial has come."""
    return next(rung for rung in reversed(rungs) if number in rung.scores)
