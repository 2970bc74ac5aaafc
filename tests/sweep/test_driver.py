"""The driver of a sweep, with trials that live in this process and do as they are told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rlrun.core.errors import ConfigError
from rlrun.sweep import trial_folder
from rlrun.sweep.driver import SweepDriver
from rlrun.sweep.executor import Executor, Heard
from rlrun.sweep.journal import JOURNAL, read_journal
from rlrun.sweep.listed_jobs import ListedJobs
from rlrun.sweep.packing import Place, Room
from rlrun.sweep.schedulers.base import Continue, Decision, Exploit, Pause, Scheduler, Stop
from rlrun.sweep.settings import SweepSettings
from rlrun.sweep.trial import Status, Trial, TrialResources
from rlrun.sweep.trial_process import Start

LENGTH = 4
"""Iterations of a trial."""


class Killed(BaseException):
    """The driver dies."""


@dataclass(kw_only=True)
class FakePlan:
    folder: Path
    scheduler: Scheduler
    num_trials: int = 3
    settings: SweepSettings = field(default_factory=SweepSettings)
    metric: str = "score"
    seed: int = 0
    sources: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.search = ListedJobs(points=[{"number": n} for n in range(self.num_trials)])

    def trials_of(self, number: int, point: dict[str, Any]) -> list[Trial]:
        return [
            Trial(
                number=number,
                overrides=[f"x={number}"],
                params={"x": number},
                folder=self.folder / str(number),
                point=number,
                resources=TrialResources(cpus=1),
            )
        ]


class FakeExecutor(Executor):
    """A result of each running trial at a time, in their order.

    checkpoint_freq: as in a run. fails: (number, iteration) before which a trial dies, once;
    is_lost: through no fault of its own. kill_driver_after: so many results.
    """

    def __init__(
        self,
        folder: Path,
        checkpoint_freq: int = 0,
        fails: Sequence[tuple[int, int]] = (),
        kill_driver_after: int | None = None,
        is_lost: bool = False,
    ) -> None:
        self.folder, self.checkpoint_freq = folder, checkpoint_freq
        self.fails = list(fails)
        self.is_lost = is_lost
        self.kill_driver_after = kill_driver_after
        self.starts: list[Start] = []
        self.results: list[tuple[int, int]] = []
        self.running: dict[int, int] = {}
        self.orders: dict[int, str] = {}
        self.interrupted: list[int] = []
        self.most_at_once = 0

    def start(self, start: Start, place: Place) -> None:
        self.starts.append(start)
        folder = Path(start.folder)
        folder.mkdir(exist_ok=True, parents=True)
        assert start.resumes or not (folder / "params.json").exists()
        (folder / "params.json").write_text("{}")
        reached = max((int(path.name[-6:]) for path in folder.glob("checkpoint_*")), default=0)
        lines = (folder / "result.json").read_text().splitlines() if start.resumes else []
        kept = [line for line in lines if json.loads(line)["training_iteration"] <= reached]
        (folder / "result.json").write_text("".join(f"{line}\n" for line in kept))
        self.running[start.number] = reached
        self.most_at_once = max(self.most_at_once, len(self.running))

    def hear(self, timeout_s: float) -> list[Heard]:
        heard: list[Heard] = []
        for number, reached in list(self.running.items()):
            order = self.orders.pop(number, "continue")
            if order in ("checkpoint", "stop", "pause", "interrupt"):
                self._save(number, reached)
            ends = {"stop": "stopped", "pause": "paused", "leave": "left"}
            if order in (*ends, "interrupt"):
                heard += self._end(number, ends.get(order, "interrupted"))
            elif reached == LENGTH:
                self._save(number, reached)
                heard += self._end(number, "finished")
            elif (number, reached + 1) in self.fails:
                self.fails.remove((number, reached + 1))
                heard += self._end(number, None)
            else:
                heard.append(self._result(number, reached + 1))
        return heard

    def answer(self, number: int, message: dict[str, Any]) -> None:
        self.orders.setdefault(number, message["answer"])

    def interrupt(self, number: int) -> None:
        self.interrupted.append(number)
        self.orders[number] = "interrupt"

    def kill(self, number: int) -> None: ...

    def close(self) -> None: ...

    def _result(self, number: int, iteration: int) -> Heard:
        if self.kill_driver_after is not None and len(self.results) == self.kill_driver_after:
            raise Killed
        self.results.append((number, iteration))
        score = number * 10 + iteration
        result = {"training_iteration": iteration, "score": score, "done": iteration == LENGTH}
        with (self.folder / str(number) / "result.json").open("a") as file:
            file.write(json.dumps(result) + "\n")
        self.running[number] = iteration
        if self.checkpoint_freq and iteration % self.checkpoint_freq == 0:
            self._save(number, iteration)
        return Heard(number, {"kind": "result", "result": result})

    def _save(self, number: int, iteration: int) -> None:
        folder = self.folder / str(number) / f"checkpoint_{iteration:06d}"
        folder.mkdir(exist_ok=True)
        (folder / "manifest.json").write_text("{}")

    def _end(self, number: int, status: str | None) -> list[Heard]:
        del self.running[number]
        ended = Heard(number, {"kind": "ended", "status": 0 if status else 1})
        if status is None:
            (self.folder / str(number) / "trial.log").write_text("Traceback\nrlrun: no luck\n")
            ended.message["is_lost"] = self.is_lost
            return [ended]
        return [Heard(number, {"kind": "end", "status": status, "passed": True}), ended]


class Scripted(Scheduler):
    """Decides as a function of the trial's number and iteration says, the first time that it hears
    of them, and notes what it hears."""

    def __init__(self, decide: Callable[[int, int], Decision] | None = None) -> None:
        super().__init__()
        self.decide = decide or (lambda number, iteration: Continue())
        self.heard: list[tuple[Any, ...]] = []

    def on_add(self, trial: Trial) -> None:
        self.heard.append(("add", trial.number))

    def on_result(self, trial: Trial, result: dict[str, Any]) -> Decision:
        place = (trial.number, result["training_iteration"])
        self.heard.append(place)
        return self.decide(*place) if self.heard.count(place) == 1 else Continue()

    def on_end(self, trial: Trial) -> None:
        self.heard.append(("end", trial.number, trial.status.value))


class Deaf(Scripted):
    """Does not care for ends."""

    on_end = Scheduler.on_end


@dataclass
class Sweep:
    """A sweep that may be killed and started again."""

    folder: Path
    decide: Callable[[int, int], Decision] | None = None
    settings: SweepSettings = field(default_factory=SweepSettings)
    num_trials: int = 3
    cpus: int = 2
    retry_failed: bool = False

    def run(self, **executor: Any) -> tuple[SweepDriver, FakeExecutor]:
        self.folder.mkdir(exist_ok=True)
        fake = FakeExecutor(self.folder, **executor)
        plan = FakePlan(
            folder=self.folder,
            scheduler=Deaf(self.decide) if self.retry_failed else Scripted(self.decide),
            settings=self.settings,
            num_trials=self.num_trials,
        )
        driver = SweepDriver(plan, fake, Room(self.cpus), retry_failed=self.retry_failed)
        try:
            driver.run()
        except Killed:
            driver._journal.close()
        return driver, fake


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path / "sweep")


def statuses(driver: SweepDriver) -> list[str]:
    return [trial.status.value for trial in driver.trials]


def heard(driver: SweepDriver) -> list[tuple[Any, ...]]:
    assert isinstance(driver.scheduler, Scripted)
    return driver.scheduler.heard


def own_results(folder: Path) -> list[int]:
    lines = (folder / "result.json").read_text().splitlines()
    return [json.loads(line)["training_iteration"] for line in lines]


def test_all_trials_run_as_far_as_there_is_room(sweep):
    driver, fake = sweep.run()
    assert statuses(driver) == ["finished"] * 3
    assert fake.most_at_once == 2
    assert driver.exit_status == 0
    assert driver.best is driver.trials[2]
    assert driver.used["CPU"] == 0


def test_max_concurrent_limits_how_many_run(sweep):
    sweep.settings = SweepSettings(max_concurrent=1)
    driver, fake = sweep.run()
    assert (fake.most_at_once, statuses(driver)) == (1, ["finished"] * 3)


def test_a_failed_trial_ends_nothing_else(sweep):
    driver, _ = sweep.run(fails=[(1, 3)])
    assert statuses(driver) == ["finished", "failed", "finished"]
    assert driver.trials[1].error == "no luck"
    assert driver.exit_status == 1


def test_a_trial_whose_process_was_lost_goes_on_from_its_checkpoint_without_a_failure(sweep):
    driver, fake = sweep.run(fails=[(1, 1), (2, 3)], checkpoint_freq=1, is_lost=True)
    assert statuses(driver) == ["finished"] * 3
    assert [trial.num_failures for trial in driver.trials] == [0, 0, 0]
    assert driver.exit_status == 0
    assert [each.resumes for each in fake.starts if each.number == 2] == [False, True]
    assert [place for place in fake.results if place[0] == 2] == [(2, n) for n in (1, 2, 3, 4)]
    resumed, _ = sweep.run()  # All is over, and no failure is counted then either.
    assert [trial.num_failures for trial in resumed.trials] == [0, 0, 0]


def test_a_failed_trial_begins_again_from_its_checkpoint(sweep):
    sweep.settings = SweepSettings(max_failures=1)
    driver, fake = sweep.run(fails=[(1, 4)], checkpoint_freq=2)
    assert statuses(driver) == ["finished"] * 3
    assert [each.resumes for each in fake.starts if each.number == 1] == [False, True]
    assert own_results(sweep.folder / "1") == [1, 2, 3, 4]
    # What it lived again, it told once.
    assert [each for each in heard(driver) if each[0] == 1] == [(1, 1), (1, 2), (1, 3), (1, 4)]


def test_a_failed_trial_without_a_checkpoint_begins_anew_and_its_results_are_set_aside(sweep):
    sweep.settings = SweepSettings(max_failures=1)
    driver, fake = sweep.run(fails=[(1, 3)])
    assert statuses(driver) == ["finished"] * 3
    assert [each.resumes for each in fake.starts if each.number == 1] == [False, False]
    aside = list((sweep.folder / ".set_aside").iterdir())
    assert [own_results(path) for path in aside] == [[1, 2]]


def test_a_trial_that_fails_too_often_has_failed(sweep):
    sweep.settings = SweepSettings(max_failures=1)
    driver, _ = sweep.run(fails=[(0, 2), (0, 2)])
    assert statuses(driver) == ["failed", "finished", "finished"]


def test_fail_fast_ends_the_others_with_a_checkpoint(sweep):
    sweep.settings = SweepSettings(fail_fast=True)
    driver, _ = sweep.run(fails=[(0, 2)])
    assert statuses(driver) == ["failed", "interrupted", "waiting"]
    assert driver.exit_status == 1


def test_a_scheduler_stops_trials(sweep):
    sweep.decide = lambda number, iteration: Stop("bad") if iteration == 2 else Continue()
    driver, _ = sweep.run()
    assert statuses(driver) == ["pruned"] * 3
    assert ("end", 0, "pruned") in heard(driver)


def test_a_trial_that_is_done_is_not_stopped(sweep):
    sweep.decide = lambda number, iteration: Stop("late") if iteration == LENGTH else Continue()
    driver, _ = sweep.run()
    assert statuses(driver) == ["finished"] * 3


def test_paused_trials_give_their_place_to_others_and_go_on(sweep):
    sweep.cpus = 1
    sweep.decide = pauses
    driver, fake = sweep.run()
    assert statuses(driver) == ["finished"] * 3
    assert fake.results[:4] == [(0, 1), (0, 2), (0, 3), (0, 4)]
    assert [each.resumes for each in fake.starts] == [False, True, False, True, False, True]


def pauses(number: int, iteration: int) -> Decision:
    """Every trial at its second iteration."""
    return Pause("rung") if iteration == 2 else Continue()


def exploits(number: int, iteration: int) -> Decision:
    """Trial 0 goes on from trial 1 after its third iteration."""
    if iteration == 2:
        return Continue(checkpoint=True)
    if (number, iteration) == (0, 3):
        return Exploit(1, {"algo.lr": 0.5}, "is worse")
    return Continue()


def test_a_trial_goes_on_from_the_checkpoint_of_another_with_other_values(sweep):
    sweep.decide, sweep.num_trials = exploits, 2
    driver, fake = sweep.run()
    assert statuses(driver) == ["finished"] * 2
    last = fake.starts[-1]
    assert (last.number, last.resumes, last.arguments) == (0, True, ["algo.lr=0.5"])
    # It lives the third iteration again, as another, and tells it.
    told = [each[1] for each in heard(driver) if each[0] == 0]
    assert told == [1, 2, 3, 3, 4]
    assert [path.name for path in (sweep.folder / "0").glob("superseded_*")] != []


def exploits_the_first(number: int, iteration: int) -> Decision:
    """Trial 0 goes on from trial 1, which was judged at its first iteration, after its third."""
    if iteration == 1:
        return Continue(checkpoint=True)
    return Exploit(1, {}, "is worse") if (number, iteration) == (0, 3) else Continue()


def test_the_checkpoint_of_the_judged_iteration_is_copied_though_there_are_newer_ones(sweep):
    sweep.decide, sweep.num_trials = exploits_the_first, 2
    driver, _ = sweep.run(checkpoint_freq=1)
    assert [each[1] for each in heard(driver) if each[0] == 0] == [1, 2, 3, 2, 3, 4]


@pytest.mark.parametrize("checkpoint_freq", [0, 1, 2])
@pytest.mark.parametrize("decide", [None, exploits, pauses])
def test_a_sweep_killed_after_any_result_ends_as_if_it_had_not_been(
    tmp_path, checkpoint_freq, decide
):
    undisturbed = Sweep(tmp_path / "undisturbed", decide)
    driver, fake = undisturbed.run(checkpoint_freq=checkpoint_freq)
    for moment in range(len(fake.results) + 1):
        again = Sweep(tmp_path / f"killed_{moment}", decide)
        again.run(checkpoint_freq=checkpoint_freq, kill_driver_after=moment)
        finished = finished_by(again.folder)
        resumed, second = again.run(checkpoint_freq=checkpoint_freq)
        assert statuses(resumed) == statuses(driver)
        assert not finished & {each.number for each in second.starts}
        for number in range(3):
            assert own_results(again.folder / str(number))[-1] == LENGTH
            if decide is not exploits:  # What it copies depends on how far the other one is.
                told = [event for event in heard(resumed) if event[0] == number]
                assert told == [event for event in heard(driver) if event[0] == number]
        shutil.rmtree(again.folder)


def finished_by(folder: Path) -> set[int]:
    events = list(read_journal(folder))
    return {each["number"] for each in events if each.get("status") == Status.FINISHED}


@pytest.mark.parametrize("moment", range(1, 9))
def test_what_was_decided_of_a_trial_that_had_paused_before_outlives_a_kill(sweep, moment):
    decisions = {(0, 2): Pause("later"), (1, 2): Pause("later"), (0, 3): Stop("enough")}
    sweep.decide = lambda *place: decisions.get(place, Continue())
    sweep.run(kill_driver_after=moment)
    driver, _ = sweep.run()
    assert statuses(driver) == ["pruned", "finished", "finished"]
    assert own_results(driver.trials[0].folder)[-1] == 3


def test_a_stop_that_was_decided_when_the_driver_died_holds(sweep):
    sweep.decide = lambda number, iteration: Stop("bad") if iteration == 2 else Continue()
    sweep.run(kill_driver_after=2)
    path = sweep.folder / JOURNAL
    lines = path.read_text().splitlines(keepends=True)
    result = {"event": "result", "number": 0, "iteration": 2}
    result["result"] = {"training_iteration": 2, "score": 2}
    path.write_text("".join([*lines, json.dumps(result) + "\n"]))
    driver, fake = sweep.run()
    assert statuses(driver) == ["pruned"] * 3
    assert 0 not in {each.number for each in fake.starts}


def test_a_resumed_sweep_whose_search_gives_other_points_is_refused(sweep):
    sweep.run(kill_driver_after=2)
    sweep.num_trials = 2
    with pytest.raises(Exception, match="this sweep cannot go on"):
        sweep.run()


def test_failed_trials_go_on_if_a_resume_is_to_retry_them(sweep):
    fails = [(0, 3), (1, 1)]
    driver, _ = sweep.run(checkpoint_freq=1, fails=fails)
    assert statuses(driver) == ["failed", "failed", "finished"]
    driver, fake = sweep.run(checkpoint_freq=1)
    assert (statuses(driver), fake.starts) == (["failed", "failed", "finished"], [])
    sweep.settings = SweepSettings(max_failures=1)
    sweep.retry_failed = True
    driver, fake = sweep.run(checkpoint_freq=1, fails=[(0, 4)])
    assert statuses(driver) == ["finished"] * 3
    assert sorted(fake.results) == [(0, 3), (0, 4), (1, 1), (1, 2), (1, 3), (1, 4)]
    assert driver.exit_status == 0
    sweep.retry_failed = False
    driver, fake = sweep.run()
    assert (statuses(driver), fake.starts) == (["finished"] * 3, [])


def test_failed_trials_are_not_retried_under_a_scheduler_that_has_let_go_of_them(sweep, tmp_path):
    plan = FakePlan(folder=tmp_path, scheduler=Scripted())
    with pytest.raises(ConfigError, match="Scripted has let go of trials that failed"):
        SweepDriver(plan, FakeExecutor(tmp_path), Room(1), retry_failed=True)


def test_a_search_hears_once_how_a_point_ended(sweep, monkeypatch):
    told: list[tuple[int, float | None]] = []
    monkeypatch.setattr(ListedJobs, "tell", lambda self, point, value: told.append((point, value)))
    sweep.run(fails=[(0, 2)])
    told.clear()
    sweep.retry_failed = True
    sweep.run()
    assert sorted(point for point, _ in told) == [0, 1, 2]


def test_two_failures_at_once_interrupt_the_others_once(sweep):
    sweep.settings = SweepSettings(fail_fast=True)
    sweep.cpus = 3
    driver, fake = sweep.run(fails=[(0, 2), (1, 2)])
    assert statuses(driver) == ["failed", "failed", "interrupted"]
    assert fake.interrupted == [1, 2]  # Each once: a second time ends it without a checkpoint.


def test_trials_of_an_interrupted_sweep_end_though_they_missed_the_signal(sweep, monkeypatch):
    sweep.settings = SweepSettings(fail_fast=True)
    monkeypatch.setattr(FakeExecutor, "interrupt", lambda self, number: None)
    driver, _ = sweep.run(fails=[(0, 2)])
    assert statuses(driver) == ["failed", "interrupted", "waiting"]


def test_a_trial_whose_process_of_before_has_just_ended_is_not_given_up(sweep, monkeypatch):
    owners = iter(["12 on here"] * 3)
    monkeypatch.setattr(trial_folder, "owner_of", lambda folder: next(owners, None))
    driver, _ = sweep.run()
    assert statuses(driver) == ["finished"] * 3


def test_points_that_json_does_not_keep_are_resumed(sweep, monkeypatch):
    points = [{"x": {1: 2}}, {"x": float("nan")}, {"x": (1, 2)}]
    ask, asked = ListedJobs.ask, []

    def ask_for_another(self: ListedJobs) -> dict[str, Any] | None:
        point = ask(self)
        return None if point is None else points[point["number"]]

    def trials_of(self: FakePlan, number: int, point: dict[str, Any]) -> list[Trial]:
        asked.append(point)
        return of_number(self, number, point)

    of_number = FakePlan.trials_of
    monkeypatch.setattr(ListedJobs, "ask", ask_for_another)
    monkeypatch.setattr(FakePlan, "trials_of", trials_of)
    sweep.run(kill_driver_after=2)
    driver, _ = sweep.run()
    assert statuses(driver) == ["finished"] * 3
    assert asked == points * 2
