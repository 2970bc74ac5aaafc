from __future__ import annotations

import io
import json
import logging
import re
import sys

import pytest
from rich.console import Console
from sweep_folders import FakeDriver, make_result

from rlrun.sweep import progress, table
from rlrun.sweep.progress import SweepProgress
from rlrun.sweep.table import SweepTable, _History, picture
from rlrun.sweep.trial import Status, TrialResources


@pytest.fixture
def driver(tmp_path):
    """A hundred trials: 4 running, 20 finished, one of them failed, the rest waiting."""
    driver, history = FakeDriver(tmp_path, 100), _History()
    for trial in driver.trials[:24]:
        trial.folder.mkdir()
        (trial.folder / "params.json").write_text(json.dumps({"stop": {"timesteps_total": 1000}}))
        trial.status, trial.result = Status.RUNNING, make_result(5, float(trial.number))
    history.update(driver)
    for trial in driver.trials[:20]:
        trial.status = Status.FINISHED
        history.update(driver)
    driver.trials[7].status, driver.trials[7].error = Status.FAILED, "ValueError: " + "loss " * 40
    driver.trials[24].waits_for = "needs 0.4 GPU; 0.2 free on GPU 0"
    history.update(driver)
    driver.history = history
    return driver


def drawn(driver, width: int, height: int) -> list[str]:
    console = Console(width=width, height=height, file=io.StringIO(), force_terminal=False)
    console.print(picture(driver, driver.history, width, height))
    return console.file.getvalue().splitlines()


def test_running_trials_come_first_then_those_that_ended_last(driver):
    lines = drawn(driver, 80, 24)
    numbers = [int(line.split()[0]) for line in lines if re.match(r" ?\d+  ", line)]
    assert numbers[:7] == [20, 21, 22, 23, 7, 19, 18]
    assert f"and 76 waiting, {24 - len(numbers)} finished" in lines
    assert lines[1] == "100 trials: 76 waiting, 4 running, 19 finished, 1 failed"


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 12), (200, 50), (80, 8)])
def test_a_hundred_trials_fit_into_any_window(driver, width, height):
    lines = drawn(driver, width, height)
    assert len(lines) < height
    assert max(map(len, lines)) <= width


def test_a_narrow_window_keeps_parameters_state_and_reward(driver):
    heading = next(line for line in drawn(driver, 40, 24) if line.lstrip().startswith("#"))
    assert heading.split() == ["#", "lr", "seed", "state", "reward"]
    wide = next(line for line in drawn(driver, 120, 24) if line.lstrip().startswith("#"))
    assert wide.split() == [
        *("#", "lr", "seed", "state", "iter", "steps", "reward", "steps/s", "time"),
    ]


def test_failures_and_what_is_waited_for_are_told_below(driver):
    *_, failed, waits = drawn(driver, 80, 24)
    assert failed.startswith("trial 7 failed: ValueError: loss loss")
    assert waits == "trial 24 waits: needs 0.4 GPU; 0.2 free on GPU 0"


def test_gpu_shares_and_resources_are_shown_where_there_are_some(driver):
    driver.trials[20].resources = TrialResources(cpus=1, driver_gpus=0.15)
    driver.total, driver.used = {"CPU": 16, "GPU": 1}, {"CPU": 4, "GPU": 0.6}
    lines = drawn(driver, 120, 24)
    assert lines[0].endswith("CPU 4/16  GPU 0.6/1")
    assert next(line for line in lines if line.startswith("20 ")).split()[-1] == "0.15"


def test_the_best_trial_is_named(driver):
    assert "best episode_reward_mean 23: trial 23 lr=0.0001 seed=1" in drawn(driver, 80, 24)


def test_progress_counts_ended_trials_and_parts_of_running_ones(driver, monkeypatch):
    # 20 have ended, and 4 are at 500 of 1000 steps: 22 of 100.
    found = SweepProgress()
    assert found.part_done(driver) == pytest.approx(0.22)
    assert found.part_of(driver.trials[30]) == 0.0


def test_the_end_is_foreseen_by_what_was_done_since_this_start(driver, monkeypatch):
    found = SweepProgress()
    found.update(driver)  # 0.22 was done before, as in a resumed sweep
    monkeypatch.setattr(progress.time, "time", lambda: driver.started_at + 60)
    for trial in driver.trials[20:24]:
        trial.result = make_result(10, 1.0)
    # 0.02 in 60 s; 0.76 to go.
    assert found.eta_s(driver) == pytest.approx(60 * 0.76 / 0.02)


def test_without_a_known_number_of_trials_no_end_is_foreseen(driver):
    driver.num_trials = None
    assert any("eta -" in line for line in drawn(driver, 80, 24))
    assert drawn(driver, 80, 24)[1].startswith("100 trials so far: ")


def test_steps_per_second_are_those_of_late_and_begin_anew_after_an_exploit(driver):
    found, trial = SweepProgress(), driver.trials[20]
    for iteration in (1, 2, 3):
        trial.result = make_result(iteration, 1.0)
        found.update(driver)
    assert found.steps_per_s(trial) == pytest.approx(200.0)  # 100 steps in half a second
    trial.result = make_result(1, 1.0, timesteps_this_iter=100, time_this_iter_s=0.25)
    found.update(driver)
    assert found.steps_per_s(trial) == pytest.approx(400.0)


def test_without_a_terminal_each_change_gets_one_line(tmp_path, capsys, monkeypatch):
    driver, shown = FakeDriver(tmp_path, 100), SweepTable()
    shown.on_start(driver)
    first, second = driver.trials[:2]
    first.status = second.status = Status.RUNNING
    for iteration in range(1, 50):
        first.result = make_result(iteration, 2.0)
        shown.on_change(driver)
        shown.on_tick(driver)
    first.status = Status.FINISHED
    second.status, second.error = Status.FAILED, "ValueError: no"
    shown.on_end(driver)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("100 trials: 100 waiting  (CPU 2/4)")
    assert lines[1:5] == [
        "trial 0 running  lr=0.1 seed=0",
        "trial 1 running  lr=0.01 seed=1",
        "trial 0 finished  lr=0.1 seed=0  episode_reward_mean 2  steps 4,900  0:00:24",
        "trial 1 failed  lr=0.01 seed=1  ValueError: no",
    ]
    assert lines[5].startswith("100 trials: 98 waiting, 1 finished, 1 failed  elapsed ")
    assert len(lines) == 6


def test_without_a_terminal_the_sweep_as_a_whole_is_told_of_now_and_then(tmp_path, capsys):
    driver, shown = FakeDriver(tmp_path, 4), SweepTable(plain_interval_s=0.0)
    shown.on_start(driver)
    shown.on_tick(driver)
    assert "0% done" in capsys.readouterr().out


def test_the_table_goes_quiet_with_its_output_and_the_sweep_goes_on(tmp_path, monkeypatch, caplog):
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    driver, shown = FakeDriver(tmp_path, 4), SweepTable()
    shown.on_start(driver)
    monkeypatch.setattr(sys, "stdout", Gone())
    driver.trials[0].status = Status.RUNNING
    with caplog.at_level(logging.WARNING):
        shown.on_change(driver)
        shown.on_tick(driver)
        shown.on_end(driver)
    assert caplog.text.count("went quiet") == 1


def test_the_live_table_is_redrawn_no_more_often_than_asked(driver, monkeypatch):
    count = []
    monkeypatch.setattr(table, "is_terminal", lambda: True)
    monkeypatch.setattr(table, "picture", lambda *_: count.append(1) or "drawn")
    console = Console(file=io.StringIO(), force_terminal=True)
    monkeypatch.setattr(table, "steady_console", lambda: console)
    shown = SweepTable(refresh_interval_s=1e9)
    shown.on_start(driver)
    for _ in range(20):
        shown.on_change(driver)
        shown.on_tick(driver)
    shown.on_end(driver)
    assert len(count) == 2  # at the start and at the end
