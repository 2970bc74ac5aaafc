"""Asynchronous successive halving."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from rlrun.core.errors import ConfigError
from rlrun.sweep.schedulers.base import Continue, Decision, Scheduler, Stop, at_least
from rlrun.sweep.trial import Trial


@dataclass
class Rung:
    """A time at which trials are compared with those that came there before them."""

    milestone: float
    scores: dict[int, float] = field(default_factory=dict)
    """By trial number, in the order in which they came."""

    def is_passed_by(self, number: int, reduction_factor: float) -> bool:
        """Whether that trial is among the best 1/reduction_factor; one always is."""
        num_passing = max(1, int(len(self.scores) / reduction_factor))
        better = sum(score > self.scores[number] for score in self.scores.values())
        return better < num_passing


@dataclass(kw_only=True)
class ASHA(Scheduler):
    """Asynchronous successive halving (Li et al., 2020, arXiv:1810.05934).

    A trial that comes to a rung goes on if it is among the best 1/reduction_factor of those that
    came there so far. Unlike the paper's, which pauses the others and may promote them later, it
    stops them, as Tune does: a run of reinforcement learning is dear to take up again.
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

    def on_result(self, trial: Trial, result: dict[str, Any]) -> Decision:
        time, score = self.time_of(result), self.score_of(result)
        if time >= self.max_t:
            return Stop(f"{self.time_attr} is {self.max_t:g}")
        reached = [rung for rung in self._rungs_of(trial) if rung.milestone <= time]
        if not reached or score is None or trial.number in reached[-1].scores:
            return Continue()
        rung = reached[-1]
        rung.scores[trial.number] = score
        if rung.is_passed_by(trial.number, self.reduction_factor):
            return Continue()
        return Stop(
            f"not among the best 1/{self.reduction_factor:g} of {len(rung.scores)} at "
            f"{self.time_attr}={rung.milestone:g}"
        )

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
        chance = random.Random(f"{self.seed} {trial.number}")
        sizes = [len(rungs) for rungs in self._brackets]
        weights = [self.reduction_factor**size / (size + 1) for size in sizes]
        return chance.choices(self._brackets, weights)[0]
