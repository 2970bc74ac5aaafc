"""Sweeps as they are typed: trials in processes of their own, their ends, and their resumes."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.helpers_cli import Child, command_line, lasting, num_lines, python_process, results_of

SMALL = (
    *("algo.num_envs_per_worker=2", "algo.train_batch_size=64", "algo.minibatch_size=32"),
    *("algo.num_epochs=2", "algo.timesteps_per_iteration=0", "logger=none"),
)
SWEEP = ("-m", "hydra.sweep.dir=sweep", *SMALL)

OWN = """
import os
import signal
import time

def train(config, report):
    mode, number = config["task_config"]["mode"], 0
    if report.checkpoint is not None:
        number = int((report.checkpoint / "number").read_text())
    print(f"{mode} begins at {number}")
    while number < 4:
        number += 1
        if mode == "raises":
            raise ZeroDivisionError("no luck")
        if mode == "dies" and number == 3 and report.checkpoint is None:
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "waits":
            time.sleep(0.05)
        report(
            {"number": number, "gpus": os.environ["CUDA_VISIBLE_DEVICES"]},
            save=lambda folder: (folder / "number").write_text(str(number)),
        )
"""
OWN_TASK = ("task=own.train", "objective=number", "hydra.sweep.dir=sweep", "logger=none", "-m")


@pytest.fixture
def rlrun(tmp_path, monkeypatch):
    with command_line(tmp_path, monkeypatch) as run:
        yield run


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def ends(folder: Path) -> dict[int, str]:
    """The last status of each trial that has one."""
    return {each["number"]: each["status"] for each in events(folder) if each["event"] == "end"}


def test_trials_leave_what_a_run_leaves_and_a_log_of_their_own(rlrun, tmp_path):
    outcome = rlrun(*SWEEP, "algo.lr=1e-3,1e-4", "seed=5", "stop.training_iteration=2")
    assert outcome.status == 0
    folder = tmp_path / "sweep"
    assert ends(folder) == {0: "finished", 1: "finished"}
    alone = rlrun(
        *SMALL, "algo.lr=1e-4", "seed=5", "stop.training_iteration=2", "hydra.run.dir=run"
    )
    assert alone.status == 0
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {path.name for path in (folder / "1").iterdir()} == {*names, "trial.log"}
    assert [lasting(each) for each in results_of(folder / "1")] == [
        lasting(each) for each in results_of(tmp_path / "run")
    ]
    params = [
        json.loads((path / "params.json").read_text()) for path in (folder / "1", tmp_path / "run")
    ]
    assert params[0] == params[1]
    pids = {results_of(folder / trial)[0]["pid"] for trial in "01"}
    assert len(pids - {os.getpid()}) == 2


def test_a_trial_that_fails_or_is_killed_ends_no_other_and_may_begin_again(rlrun, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    outcome = rlrun(
        *OWN_TASK,
        "task_config.mode=raises,dies,counts",
        "checkpoint_freq=1",
        "sweep.max_failures=1",
    )
    folder = tmp_path / "sweep"
    assert outcome.status == 1
    assert ends(folder) == {0: "failed", 1: "finished", 2: "finished"}
    log = (folder / "0" / "trial.log").read_text()
    assert log.count("ZeroDivisionError: no luck\n") == 2
    assert "dies begins at 0\n" in (folder / "1" / "trial.log").read_text()
    assert "dies begins at 2\n" in (folder / "1" / "trial.log").read_text()
    assert [each["number"] for each in results_of(folder / "1")] == [1, 2, 3, 4]
    of_second = [each for each in events(folder) if each.get("number") == 1]
    assert "killed by SIGKILL" in [each.get("error") for each in of_second]


def test_trials_share_a_pretended_gpu_and_see_only_their_own(rlrun, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    gpus = ("resources.fake_gpus=2", "resources.num_gpus=0.6")
    outcome = rlrun(
        *OWN_TASK, *gpus, "seed=0,1,2", "task_config.mode=waits", "resources.ray_num_cpus=8"
    )
    assert outcome.status == 0
    seen = [results_of(tmp_path / "sweep" / trial)[0]["gpus"] for trial in "012"]
    assert sorted(seen[:2]) == ["0", "1"]
    order = [
        each["event"] for each in events(tmp_path / "sweep") if each["event"] in ("start", "end")
    ]
    assert order[:3] == ["start", "start", "end"]


def test_what_can_never_run_is_refused_before_anything_starts(rlrun, tmp_path):
    outcome = rlrun(*SWEEP, "seed=0,1", "resources.num_gpus=0.5,1", "resources.fake_gpus=0")
    assert outcome.status == 2
    assert "can never run here: it needs 0.5 GPU; there is none" in outcome.stderr
    assert not (tmp_path / "sweep").exists()


def test_ctrl_c_ends_all_trials_with_a_checkpoint_and_a_resume_goes_on(rlrun, tmp_path):
    plain = (*SMALL, "seed=0,1", "stop.training_iteration=60")
    child = Child(tmp_path, "-m", "hydra.sweep.dir=sweep", *plain)
    child.wait_for_result(tmp_path / "sweep" / "0", 2)
    child.signal(signal.SIGINT)
    outcome = child.wait()
    assert outcome.status == 130
    assert "Interrupted. Go on with: rlrun resume sweep\n" in outcome.stdout
    assert list((tmp_path / "sweep" / "0").glob("checkpoint_*"))
    assert rlrun("resume", "sweep", "sweep.max_concurrent=1").status == 0
    assert rlrun("-m", "hydra.sweep.dir=whole", *plain).status == 0
    for trial in "01":
        resumed, whole = (results_of(tmp_path / name / trial) for name in ("sweep", "whole"))
        assert [lasting(each) for each in resumed] == [lasting(each) for each in whole]


@pytest.mark.parametrize("is_group", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_killed_sweep_goes_on_and_its_orphans_end_by_themselves(rlrun, tmp_path, is_group):
    (tmp_path / "own.py").write_text(OWN)
    child = Child(
        tmp_path, *OWN_TASK, "task_config.mode=waits", "seed=range(3)", "checkpoint_freq=1"
    )
    for trial in "01":
        child.wait_for_result(tmp_path / "sweep" / trial, 1)
    pids = {results_of(tmp_path / "sweep" / trial)[0]["pid"] for trial in "01"}
    if is_group:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    child.signal(signal.SIGKILL)
    child.wait()
    deadline = time.monotonic() + 60
    while any(is_alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert rlrun("resume", "sweep").status == 0
    assert ends(tmp_path / "sweep") == dict.fromkeys(range(3), "finished")
    for trial in range(3):
        assert [each["number"] for each in results_of(tmp_path / "sweep" / str(trial))] == [
            1,
            2,
            3,
            4,
        ]


def is_alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def test_a_sweep_that_goes_on_cannot_be_started_twice(rlrun, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    child = Child(tmp_path, *OWN_TASK, "task_config.mode=waits", "seed=range(40)")
    child.wait_for_result(tmp_path / "sweep" / "0", 1)
    again = rlrun(*OWN_TASK, "task_config.mode=waits", "seed=0,1")
    assert again.status == 2
    assert "hydra.sweep.dir=" in again.stderr
    resumed = rlrun("resume", "sweep")
    assert resumed.status == 2
    assert "is still going on" in resumed.stderr
    child.signal(signal.SIGTERM)
    child.wait()
    assert num_lines(tmp_path / "sweep" / "0" / "result.json") >= 1


def test_a_resumed_sweep_keeps_its_trials(rlrun, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    assert rlrun(*OWN_TASK, "task_config.mode=counts", "seed=0,1").status == 0
    refused = rlrun("resume", "sweep", "algo.lr=1")
    assert refused.status == 2
    assert "algo.lr=1: a resumed sweep keeps the trials that it was started with" in refused.stderr
    before = (tmp_path / "sweep" / "0" / "result.json").stat().st_mtime_ns
    assert rlrun("resume", "sweep").status == 0
    assert (tmp_path / "sweep" / "0" / "result.json").stat().st_mtime_ns == before


def test_a_resume_from_elsewhere_finds_own_modules_and_retries_what_failed(rlrun, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    modes = ("task_config.mode=dies,counts", "checkpoint_freq=1")
    assert rlrun(*OWN_TASK, *modes).status == 1
    folder = tmp_path / "sweep"
    assert ends(folder) == {0: "failed", 1: "finished"}
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.chdir(elsewhere)
    refused = rlrun("resume", str(folder), "sweep.retry_failed=2")
    assert (refused.status, "must be true or false" in refused.stderr) == (2, True)
    before = (folder / "1" / "result.json").stat().st_mtime_ns
    assert rlrun("resume", str(folder), "sweep.retry_failed=true").status == 0
    assert ends(folder) == {0: "finished", 1: "finished"}
    assert [each["number"] for each in results_of(folder / "0")] == [1, 2, 3, 4]
    assert (folder / "1" / "result.json").stat().st_mtime_ns == before


def test_a_sweep_whose_directory_has_gone_is_not_resumed(rlrun, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    assert rlrun(*OWN_TASK, "task_config.mode=counts").status == 0
    request = tmp_path / "sweep" / "sweep.json"
    request.write_text(request.read_text().replace(f'"{tmp_path}"', '"/no/where"'))
    refused = rlrun("resume", "sweep")
    assert refused.status == 2
    assert "was started in /no/where, which is not there any more" in refused.stderr


FOREIGN = """
from hydra.plugins.sweeper import Sweeper

class Halving(Sweeper):
    def setup(self, *, hydra_context, task_function, config):
        from hydra.core.plugins import Plugins
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments):
        seed = 8
        for number in range(0, 4, 2):
            jobs = [[*arguments, f"seed={seed}"], [*arguments, f"seed={seed + 1}"]]
            done = self.launcher.launch(jobs, initial_job_idx=number)
            print("objectives", [each.return_value for each in done])
            seed += 2

from dataclasses import dataclass
from hydra.core.config_store import ConfigStore

@dataclass
class Conf:
    _target_: str = "hydra_plugins.halving.Halving"

ConfigStore.instance().store(group="hydra/sweeper", name="halving", node=Conf)
"""


@pytest.mark.slow
def test_a_sweeper_of_hydras_has_its_jobs_run_as_trials(tmp_path):
    (tmp_path / "hydra_plugins").mkdir()
    (tmp_path / "hydra_plugins" / "halving.py").write_text(FOREIGN)
    (tmp_path / "own.py").write_text(OWN)
    choice = ("hydra/sweeper=halving", "task_config.mode=counts")
    outcome = python_process(tmp_path, "-m", "rlrun", *OWN_TASK, *choice)
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.count("objectives [4.0, 4.0]") == 2
    seeds = [
        json.loads((tmp_path / "sweep" / t / "params.json").read_text())["seed"] for t in "0123"
    ]
    assert seeds == [8, 9, 10, 11]
