"""The driver of a sweep: it starts trials, hears their results and decides what becomes of them."""

from __future__ import annotations

import json
import logging
import os
import shlex
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Protocol

from rlrun.core.errors import ConfigError, RlrunError
from rlrun.loggers.base import to_json
from rlrun.sweep import trial_folder
from rlrun.sweep.channel import Message
from rlrun.sweep.executor import Executor, Heard
from rlrun.sweep.journal import Event, Journal, read_journal
from rlrun.sweep.observer import SweepObserver
from rlrun.sweep.packing import Place, Room
from rlrun.sweep.schedulers.base import Continue, Decision, Exploit, Pause, Scheduler, Stop
from rlrun.sweep.search.base import Search
from rlrun.sweep.settings import SweepSettings
from rlrun.sweep.signals import Signals
from rlrun.sweep.trial import Status, Trial
from rlrun.sweep.trial_process import Start
from rlrun.sweep.verdicts import Verdicts, goes_on_itself

TICK_S = 0.5
"""How often observers are told that time goes by."""

GRACE_S = 10.0
"""How long trials may take to end in order after Ctrl-C."""

ANSWERS: dict[type[Decision], str] = {Stop: "stop", Pause: "pause", Exploit: "leave"}

logger = logging.getLogger("rlrun")


class Plan(Protocol):
    """What of a sweep's plan its driver needs (see `rlrun.sweep.plan.SweepPlan`)."""

    folder: Path
    settings: SweepSettings
    metric: str
    seed: int
    search: Search
    scheduler: Scheduler
    sources: list[str]

    @property
    def num_trials(self) -> int | None: ...

    def trials_of(self, number: int, point: dict[str, Any]) -> list[Trial]: ...


class SweepDriver:
    """Runs the trials of a sweep; one thread, which observers share.

    What the folder's journal has of it is taken as done.
    """

    def __init__(
        self,
        plan: Plan,
        executor: Executor,
        room: Room,
        *,
        observers: Sequence[SweepObserver] = (),
        retry_failed: bool = False,
    ) -> None:
        """retry_failed: whether trials that have failed go on too. Raises ConfigError if the
        scheduler has made what it decided depend on their failure."""
        if retry_failed and type(plan.scheduler).on_end is not Scheduler.on_end:
            name = type(plan.scheduler).__name__
            raise ConfigError(
                f"sweep.retry_failed=true: {name} has let go of trials that failed. One with "
                "a checkpoint goes on by itself: rlrun resume TRIAL_DIR"
            )
        self.plan = plan
        self.folder = plan.folder
        """Of the sweep; trials have theirs below it."""
        self.settings = plan.settings
        self.metric = plan.metric
        """The result key by which trials are compared: `sweep.metric`, or the run's `objective`."""
        self.scheduler = plan.scheduler
        self.trials: list[Trial] = []
        """All that are known by now, by number; a search may add to them."""
        self.num_trials = plan.num_trials
        """How many there will be; None where the search does not know."""
        self.started_at = time.time()
        """Seconds since the epoch; of this start, where the sweep was resumed."""
        self.is_interrupted = False
        """Whether trials are being ended."""
        self.room = room
        self._executor = executor
        self._observers = list(observers)
        self._search = plan.search
        self._num_asked = 0
        self._is_asked_out = False
        self._retries_failed = retry_failed
        self._verdicts = Verdicts(plan.scheduler, plan.search, plan.metric, self.trials)
        self._places: dict[int, Place] = {}
        self._ends: dict[int, Message] = {}
        """How runs ended in order whose process has not ended yet."""
        self._signals = Signals()
        self._kill_at: float | None = None
        self.scheduler.seed, self.scheduler.folder = plan.seed, plan.folder
        self.scheduler.search_learns = plan.search.learns
        self.scheduler.metric = self.scheduler.metric or self.metric
        self.scheduler.mode = self.scheduler.mode or self.settings.mode

    # What observers see

    @property
    def total(self) -> dict[str, float]:
        """What there is to give to trials: CPU, GPU and custom resources, by name."""
        return self.room.total

    @property
    def used(self) -> dict[str, float]:
        """What running trials hold of it."""
        return self.room.used

    @property
    def best(self) -> Trial | None:
        """The trial whose last result has the best value of the metric; None if none has any."""
        sign = 1.0 if self.settings.mode == "max" else -1.0
        known = {
            trial.number: sign * value
            for trial in self.trials
            if (value := self.value_of(trial.result)) is not None
        }
        return self.trials[max(known, key=lambda number: known[number])] if known else None

    def value_of(self, result: dict[str, Any]) -> float | None:
        """The metric in a result; None where it has none (nan is none)."""
        return self._verdicts.value_of(result)

    @property
    def exit_status(self) -> int:
        """What the process should exit with: 128 + a signal, 1 if a trial failed, else 0."""
        if self._signals.taken:
            return 128 + self._signals.taken[0]
        return (
            1 if any(trial.status is Status.FAILED or trial.error for trial in self.trials) else 0
        )

    # The loop

    def run(self) -> None:
        """Run all trials to their ends, or until the sweep is interrupted; the folder is there, and
        locked. Raises RlrunError if the disk refuses."""
        with ExitStack() as stack:
            stack.enter_context(self._signals.are_taken())
            self._replay()
            self._journal = Journal(self.folder)
            stack.callback(self._journal.close)
            if self._retries_failed:
                self._retry_failed()
            self._settle_the_past()
            self._ask()
            self._tell(SweepObserver.on_start)
            try:
                self._loop()
            finally:
                self._tell(SweepObserver.on_end)

    def _loop(self) -> None:
        next_tick = 0.0
        while True:
            self._start_trials()
            if not self._places and not self._end_those_nobody_chooses():
                return
            heard = self._executor.hear(max(0.0, next_tick - time.monotonic()))
            for each in heard:
                self._act_on(each)
            if heard:
                self._give_up()
                self._ask()
                self._tell(SweepObserver.on_change)
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + TICK_S
                self._tell(SweepObserver.on_tick)
            if self._signals.taken:
                self._interrupt()
            is_late = self._kill_at is not None and time.monotonic() > self._kill_at
            if is_late or len(self._signals.taken) > 1:
                self._kill_all()

    def _tell(self, hook: Any) -> None:
        for observer in self._observers:
            getattr(observer, hook.__name__)(self)

    # Planning

    def _ask(self) -> None:
        """Ask the search for points: for all if they do not depend on how trials end, else for one
        when a trial could start."""
        while not self._is_asked_out and not self.is_interrupted and self._is_time_to_ask():
            point = self._search.ask()
            if point is None:
                self._is_asked_out = True
                return
            self._journal.write("asked", point=self._num_asked, values=point)
            for trial in self._add(point):
                facts = {name: getattr(trial, name) for name in ("number", "point", "params")}
                facts["folder"] = os.path.relpath(trial.folder, self.folder)
                self._journal.write("trial", **facts, overrides=trial.overrides, time=time.time())
                if trial.status is Status.FAILED:
                    self._end(trial, Status.FAILED, trial.error)

    def _is_time_to_ask(self) -> bool:
        if not self._search.learns:
            return True
        waiting = [trial for trial in self.trials if trial.status is Status.WAITING]
        is_full = len(self._places) >= (self.settings.max_concurrent or len(self._places) + 1)
        is_room = not self.trials or not self.room.lacks(self.trials[-1].resources)
        return not waiting and not is_full and is_room

    def _add(self, point: dict[str, Any]) -> list[Trial]:
        trials = self.plan.trials_of(self._num_asked, point)
        self._num_asked += 1
        for trial in trials:
            self.trials.append(trial)
            self.scheduler.on_add(trial)
        self.room.refuse_impossible(trials)
        return trials

    # Starting

    def _start_trials(self) -> None:
        while not self.is_interrupted:
            startable = []
            for trial in self.trials:
                if trial.status in (Status.WAITING, Status.PAUSED):
                    trial.waits_for = self._what_is_missing(trial)
                    if not trial.waits_for:
                        startable.append(trial)
            chosen = self.scheduler.choose(startable)
            if chosen is None:
                return
            self._start(chosen)

    def _what_is_missing(self, trial: Trial) -> str:
        limit = self.settings.max_concurrent
        if limit is not None and len(self._places) >= limit:
            return f"sweep.max_concurrent={limit}"
        if lacks := self.room.lacks(trial.resources):
            return lacks
        if (owner := trial_folder.owner_of(trial.folder)) is not None:
            return f"its process of before ({owner}) to end"
        return ""

    def _start(self, trial: Trial) -> None:
        resumes = trial_folder.make_ready(trial.folder)
        if resumes and not self._catch_up(trial):
            return
        place = self._places[trial.number] = self.room.take(trial.resources)
        trial.status, trial.waits_for = Status.RUNNING, ""
        self._journal.write("start", number=trial.number, resumes=resumes)
        self._executor.start(self._how_to_start(trial, place, resumes=resumes), place)

    def _how_to_start(self, trial: Trial, place: Place, *, resumes: bool) -> Start:
        if resumes:
            arguments = trial_folder.assignments(self._verdicts.new_values.get(trial.number, {}))
        else:
            folder = str(trial.folder).replace("\\", "\\\\").replace("'", "\\'")
            arguments = [*self.plan.sources, *trial.overrides, f"hydra.run.dir='{folder}'"]
        return Start(
            number=trial.number,
            folder=str(trial.folder),
            arguments=arguments,
            resumes=resumes,
            environ={"CUDA_VISIBLE_DEVICES": self.room.visible_gpus(place)},
        )

    def _catch_up(self, trial: Trial) -> bool:
        """Act upon results that the trial wrote down before its checkpoint, of which its driver was
        not told; returns whether it still is to start."""
        for result in trial_folder.results_of(trial.folder):
            if not self._verdicts.is_told(trial, result):
                decision = self._verdicts.on_result(self._journal, trial, result)
                if not isinstance(decision, Continue):
                    self._carry_out(trial, decision)
                    return False
        return True

    # Results

    def _act_on(self, heard: Heard) -> None:
        trial, message = self.trials[heard.number], heard.message
        if message["kind"] == "result":
            answer = self._answer(trial, message["result"])
            if self.is_interrupted and answer in ("continue", "checkpoint"):
                answer = "pause"  # Its process may have been too young for the signal.
            self._executor.answer(trial.number, {"answer": answer})
        elif message["kind"] == "end":
            self._ends[trial.number] = message
        else:
            self._note_end(trial, message["status"], is_lost=message.get("is_lost", False))

    def _answer(self, trial: Trial, result: dict[str, Any]) -> str:
        if self._verdicts.is_told(trial, result):
            return "continue"  # It lives again what came after its last checkpoint.
        decision = self._verdicts.on_result(self._journal, trial, result)
        if isinstance(decision, Continue):
            return "checkpoint" if decision.checkpoint else "continue"
        self._verdicts.pending[trial.number] = decision
        return "pause" if goes_on_itself(trial, decision) else ANSWERS[type(decision)]

    # Ends

    def _note_end(self, trial: Trial, exit_status: int, *, is_lost: bool) -> None:
        """is_lost: whether its process was ended from without, through no fault of the trial."""
        self.room.give_back(self._places.pop(trial.number))
        end = self._ends.pop(trial.number, None)
        decision = self._verdicts.pending.pop(trial.number, None)
        if end is None and is_lost and not self.is_interrupted:
            self._note_loss(trial, decision)
        elif end is None:
            self._note_failure(trial, exit_status)
        elif end["status"] == "finished":
            self._end(trial, Status.FINISHED, "" if end["passed"] else "below its pass mark")
        elif decision is not None:
            self._carry_out(trial, decision)
        elif self.is_interrupted:
            self._end(trial, Status.INTERRUPTED)
        else:
            self._note_failure(trial, exit_status)

    def _carry_out(self, trial: Trial, decision: Decision) -> None:
        """Do what was decided of a trial whose process has ended."""
        if isinstance(decision, Exploit):
            trial.status = Status.WAITING
        else:
            self._end(trial, Status.PRUNED if isinstance(decision, Stop) else Status.PAUSED)

    def _note_loss(self, trial: Trial, decision: Decision | None) -> None:
        """It goes on from its checkpoint, and this is no failure."""
        if decision is not None:
            self._carry_out(trial, decision)
            return
        trial.status = Status.WAITING
        self._journal.write("lost", number=trial.number)

    def _note_failure(self, trial: Trial, exit_status: int) -> None:
        error = trial_folder.last_words(trial.folder, exit_status)
        if self.is_interrupted and not 0 <= exit_status < 128:
            self._end(trial, Status.INTERRUPTED)
            return
        trial.num_failures += 1
        can_help = exit_status != 2  # What is wrong with its config stays wrong.
        if can_help and trial.num_failures <= self.settings.max_failures:
            trial.status, trial.error = Status.WAITING, error
            self._journal.write("end", number=trial.number, status=Status.WAITING, error=error)
            return
        self._end(trial, Status.FAILED, error)

    def _end(self, trial: Trial, status: Status, error: str = "") -> None:
        self._journal.write("end", number=trial.number, status=status, error=error)
        self._verdicts.on_end(trial, status, error)
        if status is Status.FAILED and self.settings.fail_fast:
            self._interrupt()

    def _give_up(self) -> None:
        """End paused trials that the scheduler does not want any more."""
        paused = [trial for trial in self.trials if trial.status is Status.PAUSED]
        for trial in self.scheduler.gives_up(paused):
            self._end(trial, Status.PRUNED)

    def _end_those_nobody_chooses(self) -> bool:
        """Nothing runs: end the paused trials that nobody will ever choose. Returns whether
        something is still to come."""
        if self.is_interrupted:
            return False
        waiting = [t for t in self.trials if t.status in (Status.WAITING, Status.PAUSED)]
        # As it was when they were to start: whoever has lost its owner since starts next.
        if any(trial.waits_for for trial in waiting):
            return True
        for trial in waiting:
            self._end(trial, Status.PRUNED)
        self._ask()
        return any(trial.status is Status.WAITING for trial in self.trials)

    # Interruption

    def _interrupt(self) -> None:
        if self.is_interrupted:  # A second signal would end trials without a checkpoint.
            return
        self.is_interrupted = True
        self._kill_at = time.monotonic() + GRACE_S
        for number in list(self._places):
            self._executor.interrupt(number)

    def _kill_all(self) -> None:
        for number in list(self._places):
            self._executor.kill(number)

    # Resuming

    def _replay(self) -> None:
        """Put together again what the journal tells."""
        for event in read_journal(self.folder):
            if event["event"] == "asked":
                self._replay_question(event)
            elif event["event"] != "trial":
                self._replay_event(self.trials[event["number"]], event)

    def _replay_question(self, event: Event) -> None:
        point = self._search.ask()
        if point is None or json.dumps(to_json(point)) != json.dumps(event["values"]):
            raise RlrunError(
                f"The search gives {point} as point {event['point']}, and the journal of "
                f"{self.folder} has {event['values']}: this sweep cannot go on."
            )
        self._add(point)

    def _replay_event(self, trial: Trial, event: Event) -> None:
        self._verdicts.replay(trial, event)
        if event["event"] == "start":
            trial.status = Status.WAITING  # It may have been paused before.
        elif event["event"] == "end" and event["status"] == Status.WAITING:
            trial.num_failures += 1
        elif event["event"] == "retry":
            _forget_failure(trial)

    def _retry_failed(self) -> None:
        for trial in self.trials:
            if trial.status is Status.FAILED:
                self._journal.write("retry", number=trial.number)
                _forget_failure(trial)

    def _settle_the_past(self) -> None:
        """Do what was decided when the driver was killed; what ran then waits to go on."""
        for trial in self.trials:
            if trial.status.is_final or trial.status is Status.PAUSED:
                continue
            trial.status = Status.WAITING
            decision = self._verdicts.decide_the_past(self._journal, trial)
            if decision is not None and not isinstance(decision, Continue):
                self._carry_out(trial, decision)

    def resume_line(self) -> str:
        """What the user types to go on."""
        folder = self.folder
        with suppress(ValueError):
            folder = folder.relative_to(Path.cwd())
        return f"rlrun resume {shlex.quote(str(folder))}"


def _forget_failure(trial: Trial) -> None:
    trial.status, trial.error, trial.num_failures = Status.WAITING, "", 0
