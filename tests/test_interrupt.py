"""Ctrl-C and unreachable clusters: nobody waits for minutes."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers_cli import TINY, Child, Outcome, command_line, console_script, results_of

Rlrun = Callable[..., Outcome]

LONG_ITERATION = ("algo=dqn", "algo.timesteps_per_iteration=1000000000", "logger=none", "seed=1")

ENV = """
from pathlib import Path
import gymnasium

class Env(gymnasium.Wrapper):
    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))
        self.num_steps = 0

    def step(self, action):
        self.num_steps += 1
        if self.num_steps == 400:
            Path("learning").touch()
        return super().step(action)
"""


@pytest.fixture
def rlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rlrun]:
    with command_line(tmp_path, monkeypatch) as run:
        yield run


def test_an_interrupted_run_ends_after_the_round_of_an_iteration_that_lasts(rlrun, tmp_path):
    (tmp_path / "my_env.py").write_text(ENV)
    own = ("env=gym", "env.id=my_env.Env", "algo.learning_starts=100", "hydra.run.dir=run")
    child = Child(tmp_path, *LONG_ITERATION, *own)
    child.wait_for_file(tmp_path / "learning")
    child.signal(signal.SIGINT)
    outcome = child.wait()
    assert outcome.status == 128 + signal.SIGINT, outcome.stderr
    assert "rlrun resume run" in outcome.stdout
    # The iteration has no result yet: the run that goes on finishes it.
    assert not list(results_of(tmp_path / "run"))
    small = f"algo.timesteps_per_iteration={8}"
    assert rlrun("resume", "run", small, "stop.training_iteration=2").status == 0
    first, second = results_of(tmp_path / "run")
    assert first["timesteps_this_iter"] == first["timesteps_total"] >= 400
    assert second["timesteps_total"] == first["timesteps_total"] + 8


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:1",
        pytest.param("foo.invalid:1", marks=pytest.mark.slow),
        pytest.param("ray://127.0.0.1:1", marks=pytest.mark.slow),
    ],
)
def test_a_cluster_that_does_not_answer_is_named_within_seconds(tmp_path, address):
    started = time.monotonic()
    remote = (f"resources.ray_address={address}", "resources.num_workers=1")
    # A process of its own: this one may be connected to Ray already.
    outcome = console_script(tmp_path, *remote, *TINY, "stop.training_iteration=1")
    assert outcome.status == 2
    # Ray itself would try for minutes.
    assert time.monotonic() - started < 60.0
    assert f"rlrun: resources.ray_address={address}: no Ray cluster answers there" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_home_that_cannot_be_written_is_one_line(tmp_path):
    remote = ("resources.num_workers=1", "stop.training_iteration=1", *TINY)
    outcome = console_script(tmp_path, *remote, HOME="/proc/nowhere")
    assert outcome.status == 2
    assert "Traceback" not in outcome.stderr
    assert "Set HOME to a folder that can" in outcome.stderr


DYING_ENV = """
import os
from pathlib import Path
import gymnasium

class Env(gymnasium.Wrapper):
    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))
        self.num_steps = 0

    def step(self, action):
        self.num_steps += 1
        if self.num_steps == 150 and not Path(__file__).with_name("has_died").exists():
            Path(__file__).with_name("has_died").touch()
            os._exit(17)
        return super().step(action)
"""


def test_what_was_learned_outlives_a_worker(tmp_path, ray_cluster, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    (tmp_path / "dying_env.py").write_text(DYING_ENV)
    remote = ("resources.num_workers=1", "resources.num_cpus_per_worker=0.5")
    own = ("env=gym", "env.id=dying_env.Env", "hydra.run.dir=run", "stop.training_iteration=5")
    sizes = ("algo.train_batch_size=64", "algo.minibatch_size=64", "algo.num_epochs=1")
    with command_line(tmp_path, monkeypatch) as rlrun:
        outcome = rlrun(*own, *sizes, *remote, *TINY)
        assert outcome.status == 1
        assert "Worker 1 died" in outcome.stderr
        before = list(results_of(tmp_path / "run"))
        assert rlrun("resume", "run").status == 0
    after = list(results_of(tmp_path / "run"))
    assert after[: len(before)] == before
    assert [result["training_iteration"] for result in after] == list(range(1, 6))


def test_the_first_ctrl_c_ends_a_run_that_is_still_starting(tmp_path):
    (tmp_path / "slow_env.py").write_text(
        "import time\nfrom pathlib import Path\nimport gymnasium\n\n"
        "class Env(gymnasium.Wrapper):\n"
        "    def __init__(self):\n"
        "        super().__init__(gymnasium.make('CartPole-v1'))\n"
        "        Path('starting').touch()\n"
        "        time.sleep(600.0)\n"
    )
    child = Child(tmp_path, "env=gym", "env.id=slow_env.Env", "hydra.run.dir=run")
    child.wait_for_file(tmp_path / "starting")
    child.signal(signal.SIGINT)
    outcome = child.wait()
    assert outcome.status == 130
    assert outcome.stderr.endswith("rlrun: interrupted at once, without a checkpoint.\n")
    assert not (tmp_path / "run").exists()
