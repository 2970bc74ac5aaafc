"""Hyperband: successive halving with several trade-offs of number and length of trials."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rlrun.sweep.schedulers.base import Continue, Decision, Pause, Scheduler, Stop, at_least
from rlrun.sweep.trial import Trial


@dataclass
class Bracket:
    """Trials that are halved together: at each rung the best 1/reduction_factor go on."""

    size: int
    """Trials that it is for: the paper's n."""
    milestones: list[float]
    """The times of its rungs; the last is the end of a trial."""
    reduction_factor: int
    members: list[int] = field(default_factory=list)
    """Numbers of the trials that are still in it."""
    arrived: dict[int, tuple[float, float]] = field(default_factory=dict)
    """(score, time) of those that wait at the rung."""
    level: int = 0
    """Which rung is the next."""
    lost: dict[int, Stop] = field(default_factory=dict)
    """Those that did not go on, and why."""
    is_full: bool = False
    """Whether it takes no more trials."""

    def add(self, number: int) -> None:
        """A new trial begins in it."""
        self.members.append(number)
        self.is_full = len(self.members) >= self.size

    @property
    def milestone(self) -> float:
        """The time of the next rung."""
        return self.milestones[self.level]

    @property
    def is_complete(self) -> bool:
        """Whether all of its trials wait at the rung."""
        return len(self.arrived) == len(self.members) > 0

    @property
    def winners(self) -> list[int]:
        """Those of the present ones at the rung that go on; one at least."""
        ranked = sorted(self.arrived, key=lambda number: self.arrived[number][0], reverse=True)
        return ranked[: max(1, len(ranked) // self.reduction_factor)]

    def halve(self) -> None:
        """Close the rung: the best go on to the next, the others never do."""
        winners = self.winners
        reason = Stop(
            f"not among the best {len(winners)} of {len(self.arrived)} at {self.milestone:g}"
        )
        losers = {number: reason for number in self.arrived if number not in winners}
        self.lost |= losers
        self.members = [number for number in self.members if number not in losers]
        self.arrived, self.is_full = {}, True
        self.level += 1


@dataclass(kw_only=True)
class HyperBand(Scheduler):
    """Hyperband (Li et al., 2018, JMLR 18(185), algorithm 1).

    Trials fill brackets in the order in which they are planned, those of many short trials first,
    and pause at each rung until all of their bracket are there. A sweep should be as large as some
    brackets are together: 143 trials fill all five with the default values. The last one, if it is
    not full, is halved with those that it has once no other trial can start.
    """

    max_t: float = 81
    """Where trials end, in units of `time_attr`: the paper's R."""
    reduction_factor: int = 3
    """One of so many goes on at each rung: the paper's eta."""

    def __post_init__(self) -> None:
        at_least(2, reduction_factor=self.reduction_factor)
        at_least(self.reduction_factor, max_t=self.max_t)
        self._brackets: list[Bracket] = []
        self._bracket_of: dict[int, Bracket] = {}

    def on_add(self, trial: Trial) -> None:
        if not self._brackets or self._brackets[-1].is_full:
            self._brackets.append(self._bracket(len(self._brackets)))
        self._brackets[-1].add(trial.number)
        self._bracket_of[trial.number] = self._brackets[-1]

    def on_result(self, trial: Trial, result: dict[str, Any]) -> Decision:
        time, score = self.time_of(result), self.score_of(result)
        number, bracket = trial.number, self._bracket_of[trial.number]
        if time >= self.max_t:
            return Stop(f"{self.time_attr} is {self.max_t:g}")
        if number in bracket.lost:
            return bracket.lost[number]
        if not bracket.is_full and time > bracket.arrived.get(number, (0, math.inf))[1]:
            bracket.halve()  # `choose` had it go on, as no other trial could join the bracket.
        if time < bracket.milestone:
            return Continue()
        bracket.arrived[number] = (-math.inf if score is None else score, time)
        if bracket.is_full and bracket.is_complete:
            bracket.halve()
            return bracket.lost.get(number, Continue())
        return Pause(f"waits for the others at {self.time_attr}={bracket.milestone:g}")

    def on_end(self, trial: Trial) -> None:
        bracket = self._bracket_of[trial.number]
        if trial.status.is_final and trial.number in bracket.members:
            bracket.members.remove(trial.number)
            bracket.arrived.pop(trial.number, None)
            if bracket.is_full and bracket.is_complete:
                bracket.halve()

    def choose(self, startable: Sequence[Trial]) -> Trial | None:
        """Who need not wait; of a bracket that is not full, its best, once nobody else can start
        who might join it."""
        for trial in startable:
            bracket = self._bracket_of[trial.number]
            if trial.number in bracket.members and trial.number not in bracket.arrived:
                return trial
        for trial in startable:
            bracket = self._bracket_of[trial.number]
            if bracket.is_complete and trial.number in bracket.winners:
                return trial
        return None

    def gives_up(self, paused: Sequence[Trial]) -> Sequence[Trial]:
        return [each for each in paused if each.number in self._bracket_of[each.number].lost]

    def _bracket(self, index: int) -> Bracket:
        """The one of that index: those of algorithm 1, s = s_max, ..., 0, over and over."""
        eta, s_max = self.reduction_factor, 0
        while eta ** (s_max + 1) <= self.max_t:
            s_max += 1
        s = s_max - index % (s_max + 1)
        return Bracket(
            size=math.ceil((s_max + 1) * eta**s / (s + 1)),
            milestones=[self.max_t / eta ** (s - i) for i in range(s + 1)],
            reduction_factor=eta,
        )
