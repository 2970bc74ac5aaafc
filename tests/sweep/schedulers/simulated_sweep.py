"""A sweep in memory: what a scheduler decides is done to toy trials, one iteration at a time."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlrun.sweep.schedulers.base import Continue, Exploit, Pause, Scheduler, Stop
from rlrun.sweep.trial import Status, Trial

Learn = Callable[[Any, int, dict[str, Any]], Any]
"""Learn(state, iteration, values) gives the state after one more iteration."""


@dataclass
class Learner:
    """What a real trial has in its process, and in its newest checkpoint."""

    values: dict[str, Any]
    state: Any = 0.0
    iteration: int = 0
    saved: tuple[Any, int] | None = None


@dataclass
class SimulatedSweep:
    """Runs trials to `max_iterations` as the scheduler has it, `max_concurrent` at once."""

    scheduler: Scheduler
    learn: Learn
    params: list[dict[str, Any]]
    folder: Path = Path("/nonexistent")
    max_concurrent: int = 4
    max_iterations: int = 100
    trials: list[Trial] = field(init=False, default_factory=list)
    learners: list[Learner] = field(init=False, default_factory=list)
    told: list[tuple[Any, ...]] = field(init=False, default_factory=list)
    """All that the scheduler was told, as the journal has it."""
    decisions: list[Any] = field(init=False, default_factory=list)
    history: dict[int, list[tuple[int, dict[str, Any]]]] = field(init=False, default_factory=dict)
    """(iteration, the values that it was run with) of each trial, as it came about."""

    def run(self) -> SimulatedSweep:
        set_up(self.scheduler, self.folder)
        for number, params in enumerate(self.params):
            trial = make_trial(number, params, self.folder)
            self.trials.append(trial)
            self.told.append(("add", number, copy.deepcopy(trial.params)))
            self.scheduler.on_add(trial)
            self.learners.append(Learner(dict(trial.params)))
        while self._fill() or self._running:
            for trial in self._running:
                self._step(trial)
        for trial in self.trials:
            if not trial.status.is_final:
                self._end(trial, Status.PRUNED)
        return self

    @property
    def num_steps(self) -> int:
        return sum(kind == "result" for kind, *_ in self.told)

    @property
    def best(self) -> Trial:
        known = [trial for trial in self.trials if trial.result]
        return max(known, key=lambda trial: trial.result["reward"])

    @property
    def _running(self) -> list[Trial]:
        return [trial for trial in self.trials if trial.status is Status.RUNNING]

    def _fill(self) -> bool:
        is_any = False
        while len(self._running) < self.max_concurrent:
            startable = [t for t in self.trials if t.status in (Status.WAITING, Status.PAUSED)]
            trial = self.scheduler.choose(startable)
            if trial is None:
                return is_any
            assert trial in startable
            trial.status, is_any = Status.RUNNING, True
        return is_any

    def _step(self, trial: Trial) -> None:
        learner = self.learners[trial.number]
        learner.state = self.learn(learner.state, learner.iteration, learner.values)
        self.history.setdefault(trial.number, []).append((learner.iteration, dict(learner.values)))
        learner.iteration += 1
        score = self.learn.score(learner.state) if hasattr(self.learn, "score") else learner.state
        done = learner.iteration >= self.max_iterations
        trial.result = {"training_iteration": learner.iteration, "reward": score, "done": done}
        self.told.append(("result", trial.number, trial.result))
        decision = self.scheduler.on_result(trial, trial.result)
        self.decisions.append((trial.number, learner.iteration, decision))
        if done:
            self._end(trial, Status.FINISHED)
        else:
            self._obey(trial, learner, decision)
        paused = [each for each in self.trials if each.status is Status.PAUSED]
        for each in self.scheduler.gives_up(paused):
            self._end(each, Status.PRUNED)

    def _obey(self, trial: Trial, learner: Learner, decision: Any) -> None:
        if isinstance(decision, Stop):
            self._end(trial, Status.PRUNED)
        elif isinstance(decision, Pause):
            learner.saved, trial.status = (learner.state, learner.iteration), Status.PAUSED
        elif isinstance(decision, Exploit):
            if decision.source == trial.number:
                learner.saved = (learner.state, learner.iteration)
            saved = self.learners[decision.source].saved
            assert saved is not None, "it has to go on from a checkpoint that is there"
            learner.saved = saved
            learner.state, learner.iteration = saved
            learner.values |= decision.overrides
        elif isinstance(decision, Continue) and decision.checkpoint:
            learner.saved = (learner.state, learner.iteration)

    def _end(self, trial: Trial, status: Status) -> None:
        trial.status = status
        self.told.append(("end", trial.number, status))
        self.scheduler.on_end(trial)


def set_up(scheduler: Scheduler, folder: Path = Path("/nonexistent")) -> None:
    """What a driver does with a scheduler before the first trial."""
    scheduler.folder = folder
    scheduler.metric, scheduler.mode = scheduler.metric or "reward", scheduler.mode or "max"
    scheduler.seed = 7


def make_trial(number: int, params: dict[str, Any], folder: Path = Path("/nonexistent")) -> Trial:
    return Trial(
        number=number,
        overrides=[f"{key}={value}" for key, value in params.items()],
        params=dict(params),
        folder=folder / str(number),
        point=number,
    )


def replayed(told: list[tuple[Any, ...]], scheduler: Scheduler, folder: Path) -> Scheduler:
    """A new scheduler that was told the same again, as a resumed sweep does."""
    set_up(scheduler, folder)
    trials: dict[int, Trial] = {}
    for kind, number, what in told:
        if kind == "add":
            trials[number] = make_trial(number, what, folder)
            scheduler.on_add(trials[number])
        elif kind == "result":
            trials[number].result = what
            scheduler.on_result(trials[number], what)
        else:
            trials[number].status = what
            scheduler.on_end(trials[number])
    return scheduler
