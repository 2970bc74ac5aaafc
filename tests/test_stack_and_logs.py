"""`rlrun stack` and `rlrun logs` of real runs, of one process and of many."""

from __future__ import annotations

import json
import logging
import os
import platform
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from helpers_cli import TINY, Child, Outcome, command_line

from rlrun.core import processes
from rlrun.core.processes import Process

Rlrun = Callable[..., Outcome]

HANGING = """
import time
from pathlib import Path
import gymnasium

class Env(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, name="hangs"):
        self.name, self.num_steps = name, 0
        print("an env was made")

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.low, {}

    def step(self, action):
        self.num_steps += 1
        if self.num_steps == 3:
            self.wait_for_ever()
        return self.observation_space.low, 1.0, False, False, {}

    def wait_for_ever(self):
        Path(self.name).touch()
        while True:
            time.sleep(1.0)
"""


@pytest.fixture
def rlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rlrun]:
    (tmp_path / "my_env.py").write_text(HANGING)
    with command_line(tmp_path, monkeypatch) as run:
        yield run


@contextmanager
def hanging_run(folder: Path, *overrides: str) -> Iterator[Child]:
    own = ("env=gym", "env.id=my_env.Env", "hydra.run.dir=run", "log_level=INFO")
    child = Child(folder, *TINY, *own, *overrides)
    try:
        child.wait_for_file(folder / "hangs")
        yield child
    finally:
        child.signal(signal.SIGKILL)
        child.wait()


def test_stacks_of_a_run_that_hangs_name_the_line_of_the_env(rlrun, tmp_path):
    with hanging_run(tmp_path, "algo=ppo") as child:
        for _ in range(2):  # The run goes on, and may be asked again.
            outcome = rlrun("stack", "run")
            assert outcome.status == 0, outcome.stderr
            assert f"== driver (process {child.pid}) ==" in outcome.stdout
            assert outcome.stdout.count("in wait_for_ever") == 1
            assert "my_env.py" in outcome.stdout
            assert "in _run_loop" in outcome.stdout
    outcome = rlrun("stack", "run")
    assert outcome.status == 2
    assert "is not running: none of its processes is alive" in outcome.stderr


def test_workers_and_their_envs_have_stacks_and_logs_of_their_own(rlrun, tmp_path):
    many = ("resources.num_workers=1", "env.vectorization=async", "algo.num_envs_per_worker=2")
    with hanging_run(tmp_path, "algo=impala", *many) as child:
        stacks = rlrun("stack", "run").stdout
        logs = rlrun("logs", "run").stdout
        of_worker = rlrun("logs", "run", "--worker", "1").stdout
        os.kill(child.pid, 0)
    parts = dict(
        part.split(" (process", 1) for part in stacks.removeprefix("== ").split("\n== ") if part
    )
    assert set(parts) == {"driver", "worker_1", "env_1_0", "env_1_1"}
    assert "in wait_for_ever" in parts["env_1_0"]
    assert "in step_wait" in parts["worker_1"]
    assert "learner_thread.py" in parts["driver"]
    assert "worker_1 | an env was made" in logs
    assert "driver   | " in logs
    assert "an env was made" in of_worker.splitlines()
    assert "Run folder" not in of_worker


def test_what_is_no_run_or_runs_elsewhere_is_told(rlrun, tmp_path):
    run = tmp_path / "run"
    (run / "logs").mkdir(parents=True)
    assert "is not the folder of a run" in rlrun("stack", "run").stderr
    assert "is not the folder of a run" in rlrun("logs", "run").stderr
    (run / "params.json").write_text("{}")
    assert "is not running" in rlrun("stack", "run").stderr
    driver = {"name": "driver", "pid": 1, "host": "elsewhere", "created": 1.0}
    (run / "logs" / "driver.json").write_text(json.dumps(driver))
    outcome = rlrun("stack", "run")
    assert outcome.status == 2
    assert "was started on elsewhere: run `rlrun stack` there" in outcome.stderr


def test_a_later_process_of_the_same_number_gets_no_signal(rlrun, tmp_path):
    run = tmp_path / "run"
    (run / "logs").mkdir(parents=True)
    (run / "params.json").write_text("{}")
    stale = {"name": "driver", "pid": os.getpid(), "host": platform.node(), "created": 1.0}
    (run / "logs" / "driver.json").write_text(json.dumps(stale))
    assert "is not running" in rlrun("stack", "run").stderr


def test_logs_are_merged_by_time_and_lines_without_one_stay_where_they_are(rlrun, tmp_path):
    run = tmp_path / "run"
    (run / "logs").mkdir(parents=True)
    (run / "params.json").write_text("{}")
    (run / "rlrun.log").write_text(
        "2026-01-01 10:00:00,000 INFO rlrun: begun\n2026-01-01 10:00:02,000 INFO rlrun: over\n"
    )
    (run / "logs" / "worker_2.log").write_text(
        "2026-01-01 10:00:01,000 ERROR mine: broken\nTraceback\n  a line\n"
    )
    outcome = rlrun("logs", "run")
    assert outcome.stdout.splitlines() == [
        "driver   | 2026-01-01 10:00:00,000 INFO rlrun: begun",
        "worker_2 | 2026-01-01 10:00:01,000 ERROR mine: broken",
        "worker_2 | Traceback",
        "worker_2 |   a line",
        "driver   | 2026-01-01 10:00:02,000 INFO rlrun: over",
    ]
    alone = rlrun("logs", "run", "--worker", "2").stdout.splitlines()
    assert alone == ["2026-01-01 10:00:01,000 ERROR mine: broken", "Traceback", "  a line"]
    outcome = rlrun("logs", "run", "--worker", "1")
    assert outcome.status == 2
    assert "There are logs of: 2." in outcome.stderr
    assert "must be a number" in rlrun("logs", "run", "--worker", "x").stderr


def test_following_ends_with_the_run(rlrun, tmp_path):
    child = Child(
        tmp_path, *TINY, "algo=ppo", "stop.training_iteration=3", "hydra.run.dir=run", "-v"
    )
    child.wait_for_result(tmp_path / "run", 1)
    outcome = rlrun("logs", "run", "-f")
    assert child.wait().status == 0
    assert outcome.status == 0
    assert "Saved " in outcome.stdout.splitlines()[-1]


def test_a_driver_is_known_only_while_it_runs_and_gives_signals_back(tmp_path):
    calls = []
    before = signal.signal(processes.STACK_SIGNAL, lambda *_: calls.append(1))
    try:
        with processes.driver_of(tmp_path):
            (driver,) = processes.list_processes(tmp_path)
            assert driver.is_alive
            os.kill(os.getpid(), processes.STACK_SIGNAL)
        assert "test_stack_and_logs.py" in (tmp_path / "logs" / "driver.stack").read_text()
        assert calls == [1]  # Somebody else's handler is called as well.
        assert processes.list_processes(tmp_path) == []
        os.kill(os.getpid(), processes.STACK_SIGNAL)
        assert calls == [1, 1]
    finally:
        signal.signal(processes.STACK_SIGNAL, before)


def test_taking_logs_back_leaves_files_of_others(tmp_path):
    with processes.driver_of(tmp_path):
        (tmp_path / "logs" / "notes.txt").write_text("mine")
    processes.remove_logs(tmp_path)
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["notes.txt"]


def test_a_process_without_the_runs_folder_keeps_its_output(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "_name", processes.process_name())
    handlers = list(logging.getLogger().handlers)
    processes.enter(processes.Place(str(tmp_path / "not there"), logging.INFO), "worker_1")
    processes.enter(None, "worker_1")
    assert logging.getLogger().handlers == handlers
    assert not Process("worker_1", os.getpid(), platform.node(), 1.0).is_alive
