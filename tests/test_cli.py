"""The command line: what it answers, with which exit status, and what it leaves behind."""

from __future__ import annotations

import datetime
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers_cli import (
    ALGORITHMS,
    TINY,
    Child,
    Outcome,
    command_line,
    console_script,
    python_process,
    results_of,
    top_folders,
)

ONE_ITERATION = (*TINY, "stop.training_iteration=1")

OWN_ENV = '''
import logging
import gymnasium
import numpy as np

class Env(gymnasium.Env):
    """Five steps of reward 1; raises where `raises_in` says."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, raises_in="nowhere"):
        self.raises_in = raises_in
        self._maybe_raise("init")
        logging.getLogger("my_env").info("an INFO record of mine")
        logging.getLogger("my_env").debug("a DEBUG record of mine")

    def _maybe_raise(self, place):
        if self.raises_in == place:
            raise ZeroDivisionError("no luck in " + place)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._maybe_raise("reset")
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action):
        self._maybe_raise("step")
        self.steps += 1
        return np.zeros(2, np.float32), 1.0, self.steps == 5, False, {}
'''

USE_OWN_ENV = ("env=gym", "env.id=my_env.Env")

Rlrun = Callable[..., Outcome]


@pytest.fixture
def rlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rlrun]:
    """A function that runs `rlrun <arguments>` in this process, in an empty folder."""
    with command_line(tmp_path, monkeypatch) as run:
        yield run


def assert_refused(outcome: Outcome, status: int, *words: str) -> None:
    """It left with `status` and one message, for people, that has all the words."""
    assert outcome.status == status, outcome.stderr
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("rlrun: ")
    assert outcome.stderr.count("rlrun: ") == 1
    assert "Traceback" not in outcome.stderr
    assert "Warning" not in outcome.stderr
    for word in words:
        assert word in outcome.stderr


# Errors before anything starts


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["algo=dqnn"], ["algo=dqnn", "Did you mean dqn", "ppo", "rainbow"]),
        (["algo.learning_rate=1"], ["algo.learning_rate", "Did you mean algo.lr?"]),
        (["algo.learning_rat=1"], ["algo.learning_rat", "Did you mean algo.lr?"]),
        (["+algo.typo=1"], ["algo.typo", "train_batch_size"]),
        (["algo.lr=fast"], ["algo.lr=fast", "a number"]),
        (["algo.gamma=1.5"], ["algo.gamma=1.5", "between 0 and 1"]),
        (["algo.lr=inf"], ["algo.lr=inf", "at least 0, and finite"]),
        (["algo.vf_coeff=inf"], ["algo.vf_coeff=inf", "at least 0, and finite"]),
        (["resources.num_cpus_for_driver=100000000"], ["between 1 and 1024"]),
        (["algo=null"], ["Config group override must be a string"]),
        (["hydra.run.dir="], ["hydra.run.dir= must name a folder"]),
        (["logger.wandb.mode=offline"], ["logger.wandb is not part of this run", "logger=wandb"]),
        (["stop=[]"], ["stop=[]"]),
        (["stop.evaluation/episode_reward_mean=1"], ["Set evaluation.interval"]),
        (
            ["algo.minibatch_size=512", "algo.train_batch_size=256"],
            ["algo.minibatch_size=512", "algo.train_batch_size=256", "Lower it"],
        ),
        (["env=gym"], ["env.id must be given"]),
        (["stop.timesteps_total=0"], ["stop.timesteps_total=0", "before anything happens"]),
        (["algo.lr=[[0,1e-3],[9,nan]]"], ["algo.lr", "nan", "[timestep, value]"]),
        (["env.clip_actions=true"], ["Did you mean env.normalize_actions"]),
        (["rollout", "nowhere"], ["nowhere: there is no such checkpoint or run"]),
        (
            ["resources.num_gpus_per_worker=1"],
            ["resources.num_gpus_per_worker=1", "resources.num_workers=0"],
        ),
        (["algo._target_=os.system"], ["algo._target_='os.system'"]),
        (["algo.lr"], ["algo.lr"]),
        (["=5"], ["'=5' is not of the form key=value"]),
        (["algo.lr=${algo.lr}"], ["Recursive interpolation"]),
        (["env=gym", "env.id=''"], ["env.id=''", "must be a gymnasium id"]),
        (["~model"], ["model"]),
        (["tuned_examples=ppo/nothing"], ["tuned_examples=ppo/nothing", "ppo/cartpole-ppo"]),
        (["-f", "nothing.yaml"], ["-f nothing.yaml", "no such file", "dqn/cartpole-dqn"]),
        (["-f"], ["-f needs a file"]),
        (["resume"], ["Usage: rlrun resume RUN_DIR"]),
        (["resume", "nothing"], ["nothing is not the folder of a run", "params.json"]),
        (["rollout"], ["Usage: rlrun rollout CHECKPOINT"]),
        (["list", "algos"], ["rlrun list algos", "no such group", "'algo'"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_bad_command_gets_status_2_one_message_and_leaves_nothing(
    rlrun, tmp_path, arguments, words
):
    command = arguments if arguments[0] in ("resume", "rollout", "list", "-f") else None
    outcome = rlrun(*(command or [*arguments, *ONE_ITERATION]))
    assert_refused(outcome, 2, *words)
    assert top_folders(tmp_path) == set()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stop: [", ["is not valid YAML"]),
        ("- 1\n- 2\n", ["must hold a mapping"]),
        ("algo:\n  lrr: 3\n", ["algo.lrr", "Did you mean algo.lr"]),
        ("defaults:\n  - override /algo: dqnn\n", ["algo=dqnn", "Did you mean dqn"]),
        ("stop:\n  timesteps_total: soon\n", ["stop.timesteps_total='soon'", "a number"]),
    ],
)
def test_a_bad_file_of_ones_own_is_refused(rlrun, tmp_path, text, words):
    (tmp_path / "mine.yaml").write_text(text)
    assert_refused(rlrun("-f", "mine.yaml", *ONE_ITERATION[:2]), 2, *words)
    assert top_folders(tmp_path) == {"mine.yaml"}


def test_the_users_variable_gives_the_traceback_of_a_config_error(tmp_path):
    outcome = console_script(tmp_path, "algo.gamma=2", HYDRA_FULL_ERROR="1")
    assert outcome.status == 2
    assert "Traceback" in outcome.stderr
    assert outcome.stderr.endswith("rlrun: algo.gamma=2.0 must be between 0 and 1.\n")
    assert top_folders(tmp_path) == set()


# Errors when a run starts


def test_an_algorithm_that_cannot_act_in_the_env_leaves_no_run_folder(rlrun, tmp_path):
    outcome = rlrun("algo=dqn", "env=pendulum", *ONE_ITERATION)
    assert_refused(outcome, 2, "algo=dqn needs a Discrete action space", "Pendulum-v1", "Box")
    assert list(tmp_path.rglob("params.json")) == []
    assert top_folders(tmp_path) <= {"results"}
    assert list((tmp_path / "results").rglob("*")) == []


@pytest.mark.parametrize("amount", ["0.2", "1"])
def test_a_missing_gpu_gives_status_1_and_says_what_was_asked_and_what_is_there(
    rlrun, tmp_path, monkeypatch, amount
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    outcome = rlrun(f"resources.num_gpus={amount}", *ONE_ITERATION)
    assert_refused(
        outcome, 2, f"num_gpus={amount} was asked for", "finds 0 GPUs", "resources.num_gpus=0"
    )
    assert list(tmp_path.rglob("params.json")) == []


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("CartPoll-v1", ["env.id='CartPoll-v1'", "CartPole"]),
        ("LunarLander-v2", ["env.id='LunarLander-v2'", "LunarLander-v3"]),
        ("nowhere_at_all.Env", ["env.id='nowhere_at_all.Env'", "no module 'nowhere_at_all'"]),
    ],
)
def test_an_env_that_does_not_exist_is_named_with_a_suggestion(rlrun, tmp_path, env_id, words):
    outcome = rlrun("env=gym", f"env.id={env_id}", *ONE_ITERATION)
    assert_refused(outcome, 2, *words)
    assert list(tmp_path.rglob("params.json")) == []


@pytest.mark.parametrize(
    "place",
    ["init", "reset", "step"],
)
def test_an_env_that_raises_is_named_and_its_own_traceback_shown(rlrun, tmp_path, place):
    (tmp_path / "my_env.py").write_text(OWN_ENV)
    outcome = rlrun(*USE_OWN_ENV, f"env.env_config.raises_in={place}", *ONE_ITERATION)
    assert outcome.status == 1
    assert 'my_env.py", line' in outcome.stderr
    last = outcome.stderr.splitlines()[-1]
    assert last.startswith("rlrun: ")
    assert "my_env.Env" in last
    if place != "init":
        assert f"Worker 0 failed in env.{place}" in last
        assert "env 0" in last
    assert last.endswith(f"ZeroDivisionError: no luck in {place}")


def test_a_refused_run_takes_nothing_of_the_users_away(rlrun, tmp_path):
    own = tmp_path / "mine" / "thesis.txt"
    own.parent.mkdir()
    own.write_text("years of work")
    outcome = rlrun("algo=dqn", "env=pendulum", "hydra.run.dir=mine", *ONE_ITERATION)
    assert_refused(outcome, 2, "Discrete")
    assert own.read_text() == "years of work"


def test_a_refused_run_leaves_the_current_folder_where_it_is(rlrun, tmp_path):
    rlrun("algo=dqn", "env=pendulum", "hydra.run.dir=out", *ONE_ITERATION)
    assert tmp_path.is_dir()


# Runs


def test_an_env_class_of_ones_own_is_found_in_the_current_folder(rlrun, tmp_path):
    (tmp_path / "my_env.py").write_text(OWN_ENV)
    outcome = rlrun(*USE_OWN_ENV, "hydra.run.dir=run", *ONE_ITERATION)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert results_of(tmp_path / "run")[0]["episode_len_mean"] == 5


def test_a_plain_run_lands_in_results_by_algorithm_and_env(rlrun, tmp_path):
    assert rlrun(*ONE_ITERATION).status == 0
    (folder,) = (tmp_path / "results" / "ppo_cartpole").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d_[0-9a-f]{6}", folder.name)
    assert (folder / "params.json").is_file()


def test_two_runs_of_the_same_second_have_folders_of_their_own(rlrun, tmp_path, monkeypatch):
    class StoppedClock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            return cls(2024, 2, 29, 12, 0, 0)

    monkeypatch.setattr("hydra.core.utils.datetime", StoppedClock)
    for _ in range(2):
        assert rlrun(*USE_OWN_ENV[:1], "env.id=CartPole-v1", *ONE_ITERATION).status == 0
    folders = sorted((tmp_path / "results" / "ppo_CartPole-v1").iterdir())
    assert len(folders) == 2
    assert {folder.name[:-7] for folder in folders} == {"2024-02-29_12-00-00"}


def test_a_folder_that_holds_a_run_is_refused_and_left_as_it_is(rlrun, tmp_path):
    assert rlrun("hydra.run.dir=mine", *ONE_ITERATION).status == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").rglob("*")}
    outcome = rlrun("hydra.run.dir=mine", *ONE_ITERATION)
    assert_refused(outcome, 2, "hydra.run.dir=mine", "holds a run already", "rlrun resume mine")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "mine").rglob("*")} == before


@pytest.mark.parametrize(
    ("flags", "level", "shown"),
    [([], "WARN", []), (["-v"], "INFO", ["INFO"]), (["-vv"], "DEBUG", ["INFO", "DEBUG"])],
)
def test_more_is_said_with_v_and_everything_with_vv(tmp_path, flags, level, shown):
    (tmp_path / "my_env.py").write_text(OWN_ENV)
    outcome = Child(tmp_path, *flags, *USE_OWN_ENV, "hydra.run.dir=run", *ONE_ITERATION).wait()
    assert outcome.status == 0
    said = [line for line in outcome.stderr.splitlines() if "record of mine" in line]
    assert {line.split()[0] for line in said} == set(shown)
    assert outcome.stdout == ""
    assert json.loads((tmp_path / "run" / "params.json").read_text())["log_level"] == level
    assert "an INFO record of mine" in (tmp_path / "run" / "rlrun.log").read_text()


def test_an_algorithm_of_ones_own_needs_only_a_class_and_a_yaml_file(rlrun, tmp_path):
    write_own_algorithm(tmp_path)
    outcome = rlrun(
        "--config-dir", "my_conf", "algo=mine", "algo.bonus=7", "hydra.run.dir=run", *ONE_ITERATION
    )
    assert (outcome.status, outcome.stderr) == (0, "")
    stats = results_of(tmp_path / "run")[0]["info"]["learner"]["default_policy"]["learner_stats"]
    assert stats["bonus"] == 7.0
    params = json.loads((tmp_path / "run" / "params.json").read_text())
    assert params["algo"]["_target_"] == "my_algo.Mine"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("algo.bonnus=7", ["algo.bonnus", "Did you mean algo.bonus"]),
        ("algo.bonus=much", ["algo.bonus=much", "a number"]),
        ("algo.bonus=-1", ["algo.bonus=-1.0", "at least 0"]),
    ],
)
def test_keys_of_an_algorithm_of_ones_own_are_checked_like_any_other(
    rlrun, tmp_path, override, words
):
    write_own_algorithm(tmp_path)
    assert_refused(rlrun("--config-dir", "my_conf", "algo=mine", override), 2, *words)


def write_own_algorithm(folder: Path) -> None:
    (folder / "my_conf" / "algo").mkdir(parents=True)
    (folder / "my_conf" / "algo" / "mine.yaml").write_text(
        "defaults:\n  - ppo\n  - _self_\n_target_: my_algo.Mine\nbonus: 2\n"
    )
    (folder / "my_algo.py").write_text(
        "from dataclasses import dataclass\n"
        "from rlrun import PPO\n"
        "from rlrun.core.errors import ConfigError\n"
        "@dataclass(kw_only=True)\n"
        "class Mine(PPO):\n"
        "    bonus: float = 1.0\n"
        "    def __post_init__(self):\n"
        "        super().__post_init__()\n"
        "        if self.bonus < 0:\n"
        "            raise ConfigError(f'algo.bonus={self.bonus} must be at least 0.')\n"
        "    def learn(self, batch):\n"
        "        return {**super().learn(batch), 'bonus': self.bonus}\n"
    )


# Tuned examples


@pytest.mark.parametrize(("mark", "verdict", "status"), [(5, "PASSED", 0), (400, "FAILED", 1)])
def test_a_file_with_a_pass_mark_ends_with_a_verdict(rlrun, tmp_path, mark, verdict, status):
    (tmp_path / "mine.yaml").write_text(
        "defaults:\n  - override /algo: ppo\n  - override /env: cartpole\n"
        f"stop:\n  training_iteration: 1\npass_mark:\n  episode_reward_mean: {mark}\n"
    )
    outcome = rlrun("-f", "mine.yaml", "hydra.run.dir=run", *TINY)
    assert outcome.status == status
    assert outcome.stdout.startswith(f"{verdict}: episode_reward_mean {mark}")
    assert len(outcome.stdout.splitlines()) == 1
    assert len(results_of(tmp_path / "run")) == 1
    assert outcome.stderr == ""


def test_a_pass_mark_gets_its_verdict_where_the_objective_is_not_in_the_result(rlrun, tmp_path):
    outcome = rlrun("pass_mark.episodes_total=1", "objective=custom_metrics/x", *ONE_ITERATION)
    assert outcome.status == 0
    assert outcome.stdout.startswith("PASSED: episodes_total 1")


@pytest.mark.parametrize(
    "arguments",
    [
        ["-f", "tuned_examples/ppo/cartpole-ppo.yaml"],
        ["tuned_examples=ppo/cartpole-ppo"],
    ],
    ids=lambda arguments: arguments[-1],
)
def test_a_shipped_example_is_replayed_by_its_path_or_as_a_choice(rlrun, tmp_path, arguments):
    outcome = rlrun(*arguments, "hydra.run.dir=run", *ONE_ITERATION)
    assert outcome.stdout.startswith("FAILED: episode_reward_mean 475")
    assert outcome.status == 1
    params = json.loads((tmp_path / "run" / "params.json").read_text())
    assert params["stop"] == {
        "episode_reward_mean": 475,
        "timesteps_total": 80_000,
        "training_iteration": 1,
    }


def test_the_recorded_command_can_be_given_again(rlrun, tmp_path):
    (tmp_path / "mine.yaml").write_text("stop:\n  training_iteration: 1\n")
    command = ["-f", "mine.yaml", "-v", "hydra.run.dir=run", *TINY, "stop.episodes_total=1000"]
    assert rlrun(*command).status == 0
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert versions["command"][1:] == command


# Sweeps

SPY = """
import json
from pathlib import Path
from hydra.experimental.callback import Callback

class Spy(Callback):
    def on_job_end(self, config, job_return, **kwargs):
        with open("objectives.jsonl", "a") as file:
            file.write(json.dumps(job_return.return_value) + "\\n")
"""


def test_a_sweep_runs_all_combinations_and_returns_their_objectives(rlrun, tmp_path):
    (tmp_path / "spy.py").write_text(SPY)
    outcome = rlrun(
        "-m",
        "algo.lr=1e-3,1e-4",
        "seed=1,2",
        "objective=timers/training_iteration_time_ms",
        "hydra.sweep.dir=sweep",
        "+hydra.callbacks.spy._target_=spy.Spy",
        "algo.timesteps_per_iteration=0",
        "logger=none",
        "stop.training_iteration=1",
    )
    assert outcome.status == 0
    jobs = sorted(path for path in (tmp_path / "sweep").iterdir() if path.is_dir())
    assert [path.name for path in jobs] == ["0", "1", "2", "3"]
    configs = [json.loads((path / "params.json").read_text()) for path in jobs]
    given = [(config["algo"]["lr"], config["seed"]) for config in configs]
    assert given == [(1e-3, 1), (1e-3, 2), (1e-4, 1), (1e-4, 2)]
    objectives = [json.loads(line) for line in (tmp_path / "objectives.jsonl").open()]
    measured = [results_of(path)[-1]["timers"]["training_iteration_time_ms"] for path in jobs]
    assert sorted(objectives) == sorted(measured)


def test_a_failing_job_does_not_end_the_others(rlrun, tmp_path):
    (tmp_path / "my_env.py").write_text(OWN_ENV)
    (tmp_path / "spy.py").write_text(SPY)
    outcome = rlrun(
        "-m",
        *USE_OWN_ENV,
        "env.env_config.raises_in=init,nowhere",
        "algo.gamma=0.8,0.9",
        "hydra.sweep.dir=sweep",
        "+hydra.callbacks.spy._target_=spy.Spy",
        *ONE_ITERATION,
    )
    assert outcome.status == 1
    objectives = [json.loads(line) for line in (tmp_path / "objectives.jsonl").open()]
    assert sorted(objectives, key=str) == [5.0, 5.0, None, None]
    folder = tmp_path / "sweep"
    logs = [(folder / trial / "trial.log").read_text() for trial in "0123"]
    said = ["ZeroDivisionError: no luck in init\n" in log for log in logs]
    assert said == [True, True, False, False]
    assert len(results_of(folder / "3")) == 1
    assert "2 finished, 2 failed" in outcome.stdout


FAULTS = {
    "nan reward": "env 0 of 'toy_envs.FaultyEnv' gave nan as reward",
    "infinite reward": "gave -inf as reward",
    "nan observation": "gave nan as observation",
    "infinite observation": "gave inf as observation",
    "no reward": "the reward is None, which is no number",
    "text as reward": "the reward is 'x', which is no number",
    "four values": "must return (observation, reward, terminated, truncated, info), not 4 values",
    "nothing": "must return (observation, reward, terminated, truncated, info), not a NoneType",
    "other shape": "the observation has the shape (3,), and its space",
    "one number as observation": "the observation has the shape (), and its space",
    "nan observation in reset": "gave nan as observation",
    "reset without info": "must return (observation, info), not a ndarray",
    "reset returns nothing": "must return (observation, info), not a NoneType",
    "other shape in reset": "the observation has the shape (1,), and its space",
    "exit": "SystemExit: 0",
}


@pytest.mark.parametrize(
    ("fault", "vectorization"),
    [(fault, "sync") for fault in FAULTS]
    + [(fault, "async") for fault in ("nan reward", "nothing", "exit", "text as reward")],
)
def test_what_is_wrong_with_an_env_is_said_with_its_name(rlrun, fault, vectorization):
    faulty = (
        "env=gym",
        "env.id=toy_envs.FaultyEnv",
        f"env.env_config.fault='{fault}'",
        f"env.vectorization={vectorization}",
    )
    outcome = rlrun(*faulty, "hydra.run.dir=run", *ONE_ITERATION)
    assert outcome.status == 1
    last = outcome.stderr.splitlines()[-1]
    assert last.startswith("rlrun: Worker 0 failed")
    assert "toy_envs.FaultyEnv" in last
    assert FAULTS[fault] in last
    assert outcome.stderr.count("\n") < 40


def test_an_env_that_leaves_when_it_is_made_is_named(rlrun, tmp_path):
    (tmp_path / "leaving.py").write_text(
        "import sys\nimport gymnasium\n\n"
        "class Env(gymnasium.Env):\n    def __init__(self):\n        sys.exit(5)\n"
    )
    outcome = rlrun("env=gym", "env.id=leaving.Env", *ONE_ITERATION)
    assert outcome.status == 1
    last = "rlrun: The env 'leaving.Env' could not be made: SystemExit: 5\n"
    assert outcome.stderr.endswith(last)


def test_an_env_without_a_space_is_refused(rlrun):
    outcome = rlrun("env=gym", "env.id=toy_envs.FaultyEnv", "env.env_config.fault='no space'")
    assert_refused(outcome, 2, "env.id='toy_envs.FaultyEnv'", "has no observation_space")


def test_results_that_do_not_fit_on_the_disk_are_one_message(tmp_path):
    script = Path(sys.executable).with_name("rlrun")
    command = [str(script), "hydra.run.dir=run", *TINY, "stop.training_iteration=1000"]
    limited = f"ulimit -f 30; exec {shlex.join(command)}"  # kilobytes
    done = subprocess.run(
        ["bash", "-c", limited], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 1
    assert f"rlrun: The results in {tmp_path / 'run'} cannot be written (" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_error_of_a_hook_comes_with_its_traceback_and_no_more(rlrun, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from rlrun.core.callbacks import Callbacks\n\n"
        "class Mine(Callbacks):\n"
        "    def on_train_result(self, *, trainer, result, **kwargs):\n"
        "        result['no such key']\n"
    )
    outcome = rlrun("callbacks.mine._target_=mine.Mine", "hydra.run.dir=run", *ONE_ITERATION)
    assert outcome.status == 1
    assert "result['no such key']" in outcome.stderr
    last_line = "rlrun: mine.Mine failed in on_train_result (the driver): KeyError: 'no such key'"
    assert outcome.stderr.splitlines()[-1] == last_line
    assert "hydra" not in outcome.stderr


def test_a_method_that_looks_like_a_hook_and_is_none_is_refused(rlrun, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from rlrun.core.callbacks import Callbacks\n\n"
        "class Mine(Callbacks):\n"
        "    def on_episode_ended(self, **kwargs):\n"
        "        pass\n"
    )
    outcome = rlrun("callbacks.mine._target_=mine.Mine", *ONE_ITERATION)
    assert_refused(outcome, 2, "no hook 'on_episode_ended'", "Did you mean on_episode_end?")


def test_evaluation_in_an_env_with_other_spaces_is_refused_before_training(rlrun, tmp_path):
    outcome = rlrun(
        "evaluation.interval=100", "evaluation.config.env.id=Acrobot-v1", *ONE_ITERATION
    )
    assert_refused(outcome, 2, "(4,)", "'Acrobot-v1' gives (6,)", "evaluation.config.env")
    assert list(tmp_path.glob("results/*")) == []


def test_a_loss_that_is_no_number_ends_the_run(rlrun):
    outcome = rlrun("algo.lr=1e30", *TINY, "stop.training_iteration=100", "hydra.run.dir=run")
    assert outcome.status == 1
    assert "The loss of default_policy is nan" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_an_env_is_not_blamed_for_weights_that_are_lost(rlrun):
    outcome = rlrun(
        "algo.lr=1e30",
        "env=pendulum",
        "algo.train_batch_size=64",
        "algo.minibatch_size=64",
        "algo.timesteps_per_iteration=1000",
        "logger=none",
        "seed=1",
        "stop.training_iteration=100",
        "hydra.run.dir=run",
    )
    assert outcome.status == 1
    assert "learning has diverged" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_version_and_help_of_commands(rlrun):
    assert rlrun("--version").stdout == f"rlrun {metadata.version('rlrun')}\n"
    for command in ("resume", "rollout", "list"):
        outcome = rlrun(command, "--help")
        assert outcome.status == 0
        assert outcome.stdout.startswith(f"rlrun {command} ")


def test_a_folder_with_an_equals_sign_can_be_resumed_and_rolled_out(rlrun, tmp_path):
    assert rlrun("hydra.run.dir='a=b'", *ONE_ITERATION).status == 0
    assert rlrun("resume", "a=b", "stop.training_iteration=2").status == 0
    assert rlrun("rollout", "a=b", "episodes=1").status == 0


def test_a_tuned_example_is_found_by_its_name_alone_and_a_typo_is_noticed(rlrun):
    assert rlrun("-f", "cartpole-ppo", "hydra.run.dir=run", *ONE_ITERATION).status == 1
    assert_refused(rlrun("-f", "mine/cartpole-ppo"), 2, "Did you mean ppo/cartpole-ppo")
    assert_refused(rlrun("-f", "."), 2, "there is no such file")
    outcome = rlrun("-f", "dqn/cartpol-dqn")
    assert_refused(outcome, 2, "Did you mean dqn/cartpole-dqn")


def test_a_sweep_may_use_groups_of_ones_own_and_a_glob(rlrun, tmp_path):
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    (tmp_path / "mine" / "algo" / "my_ppo.yaml").write_text("defaults: [ppo]\ngamma: 0.5\n")
    search = f"hydra.searchpath=[file://{tmp_path / 'mine'}]"
    mine = ("algo=my_ppo", "algo.gae_lambda=0.8,0.9", "hydra.sweep.dir=sweep", *ONE_ITERATION)
    outcome = rlrun("-m", search, *mine)
    assert outcome.status == 0
    assert (
        json.loads((tmp_path / "sweep" / "1" / "params.json").read_text())["algo"]["gamma"] == 0.5
    )
    other = ("hydra.sweep.dir=other", *ONE_ITERATION)
    outcome = rlrun("-m", "algo=glob(ppo*)", "algo.gamma=2", *other)
    assert_refused(outcome, 2, "algo.gamma=2.0 must be between 0 and 1.")


def test_a_sweep_with_one_wrong_value_is_refused_before_its_first_job(rlrun, tmp_path):
    outcome = rlrun("-m", "algo.gamma=0.9,2", "hydra.sweep.dir=sweep", *ONE_ITERATION)
    assert_refused(outcome, 2, "algo.gamma=2.0 must be between 0 and 1.")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_key_in_a_sweep_is_answered_before_the_first_job(rlrun, tmp_path):
    outcome = rlrun("-m", "algo.learning_rate=1,2", "hydra.sweep.dir=sweep", *ONE_ITERATION)
    assert_refused(outcome, 2, "algo.learning_rate", "Did you mean algo.lr?")
    assert list(tmp_path.rglob("params.json")) == []


# Looking without running

LOOK = """
import sys
from rlrun.cli import main
try:
    main(sys.argv[1:])
except SystemExit as leaving:
    assert leaving.code == 0, leaving.code
heavy = {"torch", "gymnasium", "ray", "wandb", "rich", "msgspec"} & set(sys.modules)
print("LOADED", sorted(heavy))
"""


REFUSED = """
import sys
from rlrun.cli import main
try:
    main(sys.argv[1:])
except SystemExit as leaving:
    print("STATUS", leaving.code, "TORCH" if "torch" in sys.modules else "NO TORCH")
"""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["log_level=loud"], "log_level=LOUD must be one of"),
        (["seed=-1"], "seed=-1 must be at least 0"),
        (["stop.episode_reward_meen=1"], "Did you mean episode_reward_mean"),
        (["pass_mark.episode_reward_meen=1"], "Did you mean episode_reward_mean"),
        (["resources.num_workers=-1"], "resources.num_workers=-1"),
        (["hydra.run.dir=file"], "must name a folder"),
        (["-m", "hydra.sweep.dir=file", "seed=1,2"], "must name a folder"),
        (["-f", "nowhere"], "nowhere"),
        (["-f", "ppo/pendulum-ppo", "algo=dqn"], "-f ppo/pendulum-ppo is for algo=ppo, not dqn"),
        (["--algo=ppo"], "algo=ppo"),
        (["algo.lr=1e-3,1e-4"], "rlrun -m algo.lr=1e-3,1e-4"),
        (["algo.minibatch_size=9999"], "exceeds algo.train_batch_size=512"),
        (["algo=dqn", "algo.v_min=3"], "algo.v_min=3.0 has no effect: algo.num_atoms=1"),
        (["algo=bc"], "input must be given, as the algorithm (MARWIL) learns from data alone"),
        (["env.id=Cartpol-v1"], "Did you mean: `CartPole`?"),
        (["env.id=nowhere.MyEnv"], "there is no module 'nowhere'"),
        (["env.env_config.lenth=1"], "env.env_config.lenth=1: CartPole-v1 takes no such argument"),
        (
            ["evaluation.interval=1", "evaluation.config.env.id=Cartpol-v1"],
            "evaluation.config: env.id='Cartpol-v1'",
        ),
        (["evaluation.config.foo=1"], "evaluation.config.foo has no effect"),
        (["exploration._target_=nowhere.Sticky"], "there is no module 'nowhere'"),
        (["callbacks._target_=rlrun.core.callbacks.Non"], "has no 'Non'"),
        (["resume", "nowhere"], "is not the folder of a run"),
        (["resume", "file"], "is not the folder of a run"),
        (["rollout", "nowhere"], "there is no such checkpoint or run"),
        (["rollout", ".", "episodes=0"], "episodes=0 must be a whole number"),
    ],
    ids=str,
)
def test_what_needs_no_torch_is_refused_without_it(tmp_path, arguments, words):
    (tmp_path / "file").touch()
    outcome = python_process(tmp_path, "-c", REFUSED, *arguments)
    assert words in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert outcome.stdout == "STATUS 2 NO TORCH\n"


def test_the_defaults_are_shown_without_loading_anything_heavy(tmp_path):
    outcome = python_process(tmp_path, "-c", LOOK, "--info", "defaults")
    assert (outcome.status, outcome.stderr) == (0, "")
    for word in ("algo/ppo", "exploration/stochastic_sampling", "LOADED []"):
        assert word in outcome.stdout
    assert top_folders(tmp_path) == set()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rlrun algo=", [f"algo={name}" for name in ALGORITHMS]),
        ("rlrun algo=dqn algo.dou", ["algo.double_q="]),
    ],
)
def test_the_shell_completes_choices_and_keys_without_torch(tmp_path, line, expected):
    outcome = python_process(
        tmp_path,
        *("-c", LOOK, "-sc", "query=bash"),
        COMP_LINE=line,
        COMP_POINT=str(len(line)),
    )
    assert (outcome.status, outcome.stderr) == (0, "")
    *completions, loaded = outcome.stdout.splitlines()
    assert " ".join(completions).split() == expected
    assert loaded == "LOADED []"


def test_help_shows_commands_and_keys(rlrun, tmp_path):
    outcome = rlrun("--help")
    assert (outcome.status, outcome.stderr) == (0, "")
    for word in (
        "rlrun resume RUN_DIR",
        "rlrun list",
        f"algo: {', '.join(ALGORITHMS)}\n",
        "train_batch_size: ",
    ):
        assert word in outcome.stdout
    assert top_folders(tmp_path) == set()


def test_help_shows_the_keys_of_what_was_chosen(rlrun):
    assert "target_network_update_freq: " in rlrun("algo=dqn", "--help").stdout


@pytest.mark.parametrize(
    ("command", "words"),
    [("resum", "Did you mean resume?"), ("start", "Commands: resume, rollout, export, list")],
)
def test_an_unknown_command_is_refused_with_those_that_there_are(rlrun, command, words):
    assert_refused(rlrun(command, "results/x"), 2, f"no command '{command}'", words)


def test_list_shows_the_users_own_choices_and_groups(rlrun, tmp_path):
    (tmp_path / "mine" / "algo").mkdir(parents=True)
    (tmp_path / "mine" / "algo" / "awr.yaml").write_text("# My algorithm. More.\nlr: 1\n")
    lines = rlrun("list", "algo", "--config-dir", "mine").stdout.splitlines()
    assert {line.split()[0] for line in lines[1:]} >= {"awr", "a2c", "ppo", "rainbow"}
    assert "  awr                        My algorithm" in lines
    assert rlrun("--config-dir", "mine", "list", "algo").stdout.splitlines() == lines
    assert_refused(rlrun("list", "--config-dir", "nowhere"), 2, "needs a folder")


def test_a_run_without_a_stop_rule_says_so(rlrun, monkeypatch):
    from rlrun.trainer import Trainer

    def interrupted(self, is_over=None):
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainer, "train", interrupted)
    outcome = rlrun()
    assert outcome.status == 130
    assert "No stop rule: this run goes on until Ctrl-C" in outcome.stderr


def test_list_of_one_group_shows_its_choices_with_a_sentence_each(rlrun):
    lines = rlrun("list", "exploration").stdout.splitlines()
    assert lines[0] == "exploration:"
    of_noise = ("gaussian_noise", "ornstein_uhlenbeck_noise")
    assert [line.split()[0] for line in lines[1:]] == [
        *("constant_gaussian_noise", "curiosity", "epsilon_greedy", "gaussian_noise", "greedy"),
        *("ornstein_uhlenbeck_noise", "parameter_noise", "per_worker_epsilon_greedy"),
        *(f"per_worker_{name}" for name in of_noise),
        *("random", "re3", "rnd", "soft_q", "stochastic_sampling"),
    ]
    assert "Always the best action" in lines[5]


def test_the_module_is_the_command(tmp_path):
    outcome = python_process(tmp_path, "-m", "rlrun", "list", "algo")
    assert (outcome.status, outcome.stderr) == (0, "")
    assert outcome.stdout == console_script(tmp_path, "list", "algo").stdout
    assert outcome.stdout.startswith("algo:\n  a2c ")


def test_the_config_of_a_run_is_built_once(rlrun, monkeypatch):
    from rlrun import parts, run

    built: list[Any] = []

    def counted(plain: Any) -> Any:
        built.append(original(plain))
        return built[-1]

    original = parts.read_config
    monkeypatch.setattr(parts, "read_config", counted)
    monkeypatch.setattr(run, "read_config", counted)
    assert rlrun("hydra.run.dir=run", *ONE_ITERATION).status == 0
    assert len(built) == 1
