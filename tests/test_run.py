"""One run from its first to its last iteration: its folder, its results, and what ends it."""

from __future__ import annotations

import csv
import json
import logging
import math
import shutil
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest
from helpers_cli import config, lasting, results_of, tiny_dqn, tiny_ppo

from rlrun import run_folder
from rlrun.core import checkpoint
from rlrun.core.callbacks import Callbacks
from rlrun.core.errors import ConfigError, RlrunError, WorkerError
from rlrun.key_watch import RESULT_KEYS
from rlrun.loggers.base import Logger, RunInfo, flatten, lookup
from rlrun.parts import with_seed
from rlrun.run import Run, make_trainer

COUNTING = ("env=gym", "env.id=toy_envs.CountingEnv", "env.env_config.terminates_at=5")
"""Episodes of five steps with a return of 1 + 2 + 3 + 4 + 5 = 15."""

FIFTEEN = 15.0


def execute(folder: Path, plain: dict[str, Any]) -> Run:
    run = Run(plain, folder)
    run.execute()
    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The folder of a run of two iterations with a drawn seed and a checkpoint after each."""
    folder = tmp_path_factory.mktemp("run") / "mine"
    execute(folder, tiny_ppo(seed=None, stop__training_iteration=2, checkpoint_freq=1))
    return folder


# The folder


def test_a_run_leaves_its_config_results_versions_log_and_checkpoints(finished):
    assert {path.name for path in finished.iterdir()} == {
        ".lock",
        "params.json",
        "result.json",
        "progress.csv",
        "versions.json",
        "rlrun.log",
        "logs",
        "checkpoint_000001",
        "checkpoint_000002",
    }


def test_params_are_the_composed_config_with_the_drawn_seed(finished):
    params = json.loads((finished / "params.json").read_text())
    assert isinstance(params["seed"], int)
    given = tiny_ppo(stop__training_iteration=2, checkpoint_freq=1)
    assert params == {**given, "seed": params["seed"]}


def test_a_run_of_the_recorded_params_gives_the_same_results(finished, tmp_path):
    params = json.loads((finished / "params.json").read_text())
    execute(tmp_path / "again", params)
    again, before = results_of(tmp_path / "again"), results_of(finished)
    assert [lasting(result) for result in again] == [lasting(result) for result in before]


def test_seeds_that_nobody_gave_differ_from_run_to_run():
    plain = tiny_ppo(seed=None)
    assert with_seed(plain)["seed"] != with_seed(plain)["seed"]
    assert plain["seed"] is None


def test_runs_of_different_seeds_differ(tmp_path):
    results = []
    for seed in (1, 2):
        execute(tmp_path / str(seed), tiny_ppo(stop__training_iteration=1, seed=seed))
        results.append(results_of(tmp_path / str(seed))[0]["hist_stats"])
    assert results[0] != results[1]


def test_every_iteration_is_one_line_of_json_and_one_row_of_csv(finished):
    results = results_of(finished)
    rows = list(csv.DictReader((finished / "progress.csv").open()))
    assert [result["training_iteration"] for result in results] == [1, 2]
    assert [int(row["training_iteration"]) for row in rows] == [1, 2]
    assert [result["done"] for result in results] == [False, True]
    loss = "info/learner/default_policy/learner_stats/policy_loss"
    for result, row in zip(results, rows, strict=True):
        assert float(row[loss]) == lookup(result, loss)
        assert row["episode_reward_mean"] == str(result["episode_reward_mean"])


def test_versions_name_packages_python_and_command(finished):
    versions = json.loads((finished / "versions.json").read_text())
    for package in ("rlrun", "torch", "numpy", "gymnasium", "hydra-core", "ray"):
        assert versions["packages"][package][0].isdigit()
    assert {"python", "platform", "command", "started"} <= versions.keys()


def test_versions_have_the_commit_and_the_changes_of_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.py").write_text("first = 1\n")
    identity = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "First"]):
        subprocess.run(["git", *command], check=True)
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    (tmp_path / "code.py").write_text("first = 2\n")
    execute(tmp_path / "run", tiny_ppo(stop__training_iteration=1))
    versions = json.loads((tmp_path / "run" / "versions.json").read_text())
    assert versions["git_commit"] == head.stdout.strip()
    assert "M code.py" in versions["git_changes"]
    diff = (tmp_path / "run" / "git_diff.patch").read_text()
    assert "-first = 1\n+first = 2\n" in diff
    undone = subprocess.run(["git", "apply", "-R", "run/git_diff.patch"], check=False)
    assert undone.returncode == 0
    assert (tmp_path / "code.py").read_text() == "first = 1\n"


def test_a_large_diff_is_cut_and_says_so_and_new_files_are_not_in_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "code.py").write_text("")
    identity = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "First"]):
        subprocess.run(["git", *command], check=True)
    (tmp_path / "code.py").write_text("line\n" * 1000)
    (tmp_path / "secret.txt").write_text("a secret")
    monkeypatch.setattr(run_folder, "LARGEST_DIFF", 500)
    run_folder.write_git_diff(tmp_path)
    diff = (tmp_path / "git_diff.patch").read_text()
    assert len(diff) < 600
    assert "bytes are missing." in diff.splitlines()[-1]
    assert "a secret" not in diff
    (tmp_path / "code.py").write_text("")
    run_folder.write_git_diff(tmp_path)
    assert not (tmp_path / "git_diff.patch").exists()


def test_versions_have_no_commit_where_there_is_no_repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    execute(tmp_path / "run", tiny_ppo(stop__training_iteration=1))
    assert json.loads((tmp_path / "run" / "versions.json").read_text())["git_commit"] is None


class Chatty(Logger):
    """Says something through `logging` in each iteration."""

    def log_result(self, result: dict[str, Any]) -> None:
        logging.getLogger("chatty").info("iteration %d is over", result["training_iteration"])


class Witness(Logger):
    """Remembers how it was called, in all runs of a test."""

    calls: list[Any]

    def start(self, run: RunInfo) -> None:
        self.calls.append(("start", run.folder.name, run.start_iteration, run.stop))

    def log_result(self, result: dict[str, Any]) -> None:
        self.calls.append(result["training_iteration"])

    def close(self, status: str) -> None:
        self.calls.append(status)


def with_logger(logger: type[Logger], plain: dict[str, Any]) -> dict[str, Any]:
    return {**plain, "logger": {"mine": {"_target_": f"{__name__}.{logger.__name__}"}}}


def test_the_log_file_has_what_was_said_during_the_run_and_nothing_after_it(tmp_path):
    handlers = list(logging.getLogger().handlers)
    execute(tmp_path / "run", with_logger(Chatty, tiny_ppo(stop__training_iteration=2)))
    log = (tmp_path / "run" / "rlrun.log").read_text()
    assert "INFO chatty: iteration 1 is over\n" in log
    assert "INFO chatty: iteration 2 is over\n" in log
    logging.getLogger("chatty").error("too late")
    assert (tmp_path / "run" / "rlrun.log").read_text() == log
    assert logging.getLogger().handlers == handlers


def test_loggers_are_told_of_start_results_and_end(tmp_path, monkeypatch):
    monkeypatch.setattr(Witness, "calls", [], raising=False)
    execute(tmp_path / "run", with_logger(Witness, tiny_ppo(stop__training_iteration=2)))
    assert Witness.calls == [("start", "run", 0, {"training_iteration": 2.0}), 1, 2, "finished"]


def test_loggers_are_told_of_a_failure_and_the_results_so_far_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(Witness, "calls", [], raising=False)
    plain = tiny_ppo(
        "env=gym",
        "env.id=toy_envs.EnvThatRaises",
        env__env_config={"terminates_at": 5, "raises_after": 70},
        stop__training_iteration=10,
    )
    run = Run(with_logger(Witness, plain), tmp_path / "run")
    with pytest.raises(WorkerError, match="the toy env broke"):
        run.execute()
    assert Witness.calls[1:] == [1, 2, "failed"]
    assert len(results_of(tmp_path / "run")) == 2


# Results

COUNTERS = [
    f"num_env_steps_{kind}{suffix}"
    for kind in ("sampled", "trained")
    for suffix in ("", "_this_iter")
]

CLASSIC_KEYS = [
    "episode_reward_max",
    "episode_reward_min",
    "episode_reward_mean",
    "episode_len_mean",
    "episode_media",
    "episodes_this_iter",
    "custom_metrics",
    "hist_stats/episode_reward",
    "hist_stats/episode_lengths",
    "sampler_perf/mean_raw_obs_processing_ms",
    "sampler_perf/mean_inference_ms",
    "sampler_perf/mean_action_processing_ms",
    "sampler_perf/mean_env_wait_ms",
    "sampler_perf/mean_env_render_ms",
    "timesteps_total",
    "timesteps_this_iter",
    *COUNTERS,
    "timers/training_iteration_time_ms",
    "counters/num_env_steps_sampled",
    "counters/num_env_steps_trained",
    "info/learner/default_policy/learner_stats",
    "info/learner/default_policy/custom_metrics",
    "done",
    "training_iteration",
    "trial_id",
    "experiment_id",
    "experiment_tag",
    "episodes_total",
    "date",
    "timestamp",
    "time_this_iter_s",
    "time_total_s",
    "time_since_restore",
    "iterations_since_restore",
    "timesteps_since_restore",
    "pid",
    "hostname",
    "node_ip",
    "warmup_time",
    "perf/cpu_util_percent",
    "perf/ram_util_percent",
]
"""The keys of a classic result, in its order: what the trainer adds, then what the tuner does.

Left out: sampler_results (the first block once more), keys of single algorithms and of GPUs, and
`config`, which stands in params.json.
"""


@pytest.mark.parametrize("key", CLASSIC_KEYS)
def test_a_classic_key_is_there_from_the_first_iteration_on(finished, key):
    for result in results_of(finished):
        assert lookup(result, key) is not None


def test_the_config_is_in_the_result_but_not_in_its_line(tmp_path):
    run = execute(tmp_path / "run", tiny_ppo(stop__training_iteration=1))
    assert run.result["config"] == json.loads((tmp_path / "run" / "params.json").read_text())
    assert "config" not in results_of(tmp_path / "run")[0]


def test_counts_add_up(finished):
    first, second = results_of(finished)
    assert first["timesteps_total"] == first["timesteps_this_iter"] == 64
    assert second["timesteps_total"] == 128
    assert second["num_env_steps_trained"] == 128
    assert second["episodes_total"] == first["episodes_total"] + second["episodes_this_iter"]
    assert second["iterations_since_restore"] == 2
    assert second["timesteps_since_restore"] == 128


def test_rewards_are_unknown_and_not_missing_before_an_episode_has_ended(tmp_path):
    plain = tiny_ppo(*COUNTING[:2], stop__training_iteration=1)
    result = execute(tmp_path / "run", plain).result
    for key in ("episode_reward_mean", "episode_reward_max", "episode_len_mean"):
        assert math.isnan(result[key])
    assert math.isnan(results_of(tmp_path / "run")[0]["episode_reward_mean"])


def test_a_known_env_gives_its_known_returns(tmp_path):
    result = execute(tmp_path / "run", tiny_ppo(*COUNTING, stop__training_iteration=1)).result
    assert result["episode_reward_mean"] == FIFTEEN
    assert result["episode_len_mean"] == 5
    # Two envs, 32 steps each: six whole episodes of five steps in either.
    assert result["episodes_this_iter"] == 12


# What ends a run


@pytest.mark.parametrize(
    ("stop", "last_iteration"),
    [
        ({"training_iteration": 3}, 3),
        ({"timesteps_total": 128}, 2),
        ({"timesteps_total": 129}, 3),
        ({"episode_reward_mean": 15}, 1),
        ({"episode_reward_mean": 1000, "training_iteration": 2}, 2),
        ({"episodes_total": 24}, 2),
        ({"counters/num_env_steps_trained": 128}, 2),
        ({"counters.num_env_steps_trained": 128}, 2),
        ({"counters": {"num_env_steps_trained": 128}}, 2),
        ({"info/learner/default_policy/learner_stats/cur_lr": 3e-4}, 1),
        ({"evaluation/episode_reward_mean": 15}, 2),
        ({"evaluation": {"episode_reward_mean": 15}}, 2),
    ],
    ids=str,
)
def test_a_run_ends_with_the_first_result_that_meets_a_stop_rule(tmp_path, stop, last_iteration):
    plain = tiny_ppo(*COUNTING, evaluation__interval=2, evaluation__duration=1)
    run = execute(tmp_path / "run", {**plain, "stop": stop, "checkpoint_at_end": False})
    assert run.status == "finished"
    results = results_of(tmp_path / "run")
    assert len(results) == run.result["training_iteration"] == last_iteration
    assert [result["done"] for result in results] == [False] * (last_iteration - 1) + [True]


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("stop.episode_reward_men", "Did you mean episode_reward_mean"),
        ("pass_mark.timestep_total", "Did you mean timesteps_total"),
        ("objective", "Keys: "),
        ("checkpoint_score_attr", "Keys: "),
    ],
)
def test_a_key_that_nobody_could_bring_is_refused_before_training(tmp_path, key, meant):
    plain = tiny_ppo(**{key.replace(".", "__"): 475 if "." in key else "my_eval"})
    with pytest.raises(ConfigError) as refused:
        Run(plain, tmp_path / "run")
    name = key.rpartition(".")[2] if "." in key else "my_eval"
    assert f"{key} names the result key {name!r}, which no result has" in str(refused.value)
    assert meant in str(refused.value)


class LateKeys(Callbacks):
    """Brings a result key, and a custom metric, in the tenth iteration."""

    def on_train_result(self, *, result: dict[str, Any], **kwargs: Any) -> None:
        if result["training_iteration"] >= 10:
            result["my_eval"] = 2 * result["training_iteration"]
            result["custom_metrics"]["x_mean"] = 0.5


def with_late_keys(**values: Any) -> dict[str, Any]:
    plain = tiny_ppo(*COUNTING, **values)
    return {**plain, "callbacks": {"mine": {"_target_": f"{__name__}.LateKeys"}}}


@pytest.mark.parametrize(
    ("stop", "last_iteration"),
    [({"my_eval": 24}, 12), ({"custom_metrics/x_mean": 0.5}, 10)],
    ids=str,
)
def test_a_key_that_a_callback_brings_late_is_waited_for(tmp_path, caplog, stop, last_iteration):
    run = execute(tmp_path / "run", {**with_late_keys(), "stop": stop})
    assert run.result["training_iteration"] == last_iteration
    told = [each.getMessage() for each in caplog.records if "the result key" in each.getMessage()]
    assert len(told) == 1
    assert "The run ends if it does not come within 100 iterations" in told[0]
    assert "key_patience_iterations" in told[0]


def test_a_late_key_may_rank_checkpoints_and_be_the_objective(tmp_path):
    values = {"checkpoint_score_attr": "my_eval", "objective": "my_eval", "checkpoint_freq": 1}
    plain = with_late_keys(stop__training_iteration=12, keep_checkpoints_num=1, **values)
    assert execute(tmp_path / "run", plain).objective == 24
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path / "run")] == [
        "checkpoint_000012"
    ]


def test_the_user_says_how_long_a_key_is_waited_for(tmp_path):
    plain = {**with_late_keys(key_patience_iterations=6), "stop": {"my_eval": 24}}
    run = Run(plain, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"'my_eval', which no result has had \(6 iterations\)"):
        run.execute()
    assert len(checkpoint.list_checkpoints(tmp_path / "run")) == 1


def test_a_misspelt_key_ends_a_run_at_once_even_if_a_callback_brings_others(tmp_path):
    with pytest.raises(ConfigError, match="Did you mean episode_reward_mean"):
        Run({**with_late_keys(), "stop": {"episode_reward_men": 1}}, tmp_path / "run")
    stop = {"info/learner/default_policy/learner_stats/cur_lrr": 1}
    run = Run({**with_late_keys(), "stop": stop}, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"\(1 iterations\).*Did you mean info/learner"):
        run.execute()
    plain = {**with_late_keys(key_patience_iterations=2), "stop": {"episode_reward_men": 1}}
    run = Run(plain, tmp_path / "other")  # as a callback may bring it, and the user says so
    with pytest.raises(ConfigError, match=r"\(2 iterations\)"):
        run.execute()


def test_every_key_of_a_result_is_known_before_training(finished):
    for result in results_of(finished):
        assert set(result) <= RESULT_KEYS


def test_a_stop_key_of_evaluation_has_time_until_the_first_evaluation(tmp_path):
    plain = tiny_ppo(*COUNTING, evaluation__interval=5, evaluation__duration=1)
    run = execute(tmp_path / "fine", {**plain, "stop": {"evaluation/episode_reward_mean": 1}})
    assert run.result["training_iteration"] == 5
    run = Run({**plain, "stop": {"evaluation/episode_reward_men": 1}}, tmp_path / "wrong")
    with pytest.raises(ConfigError, match=r"5 iterations.*Did you mean evaluation/epis"):
        run.execute()


def test_a_stop_key_of_the_learner_has_time_until_learning_starts(tmp_path):
    stop = {"info/learner/default_policy/learner_stats/cur_lr": 0.0}
    run = execute(tmp_path / "run", {**tiny_dqn(algo__learning_starts=300), "stop": stop})
    assert run.result["training_iteration"] == 5


@pytest.mark.parametrize(("key", "value"), [("hostname", "text"), ("done", "False")])
def test_a_stop_key_whose_value_is_no_number_is_an_error_at_once(tmp_path, key, value):
    run = Run({**tiny_ppo(), "stop": {key: 1}}, tmp_path / "run")
    with pytest.raises(ConfigError, match=rf"^stop\.{key}: the result's '{key}' is .*not a number"):
        run.execute()
    assert len(results_of(tmp_path / "run")) <= 1


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("episode_reward_mean", FIFTEEN),
        ("counters/num_env_steps_trained", 128.0),
        ("counters.num_env_steps_trained", 128.0),
        ("hostname", None),
        ("custom_metrics/nothing", None),
    ],
)
def test_the_objective_is_a_number_of_the_last_result_or_none(tmp_path, key, value):
    plain = tiny_ppo(*COUNTING, stop__training_iteration=2, objective=key)
    assert execute(tmp_path / "run", plain).objective == value


def test_an_objective_that_the_last_result_lacks_is_the_last_known_one(tmp_path):
    plain = tiny_ppo(*COUNTING, evaluation__interval=3, evaluation__duration=1)
    plain |= {"objective": "evaluation/episode_reward_mean", "stop": {"training_iteration": 4}}
    run = execute(tmp_path / "run", plain)
    assert "evaluation" not in run.result
    assert run.objective == FIFTEEN
    again = Run.resume(tmp_path / "run", {"stop.training_iteration": 5})
    again.execute()
    assert again.objective == FIFTEEN


def test_a_pass_mark_counts_once_it_was_reached(tmp_path):
    plain = tiny_ppo(
        *COUNTING[:2], env__env_config={"terminates_at": [5, 1]}, stop__training_iteration=4
    )
    run = execute(tmp_path / "run", {**plain, "pass_mark": {"episode_reward_mean": 8}})
    assert (run.reached_pass_mark, run.exit_status) == (True, 0)
    run = execute(tmp_path / "other", {**plain, "pass_mark": {"episode_reward_mean": 100}})
    assert (run.reached_pass_mark, run.exit_status) == (False, 1)


def test_all_pass_marks_must_be_reached_in_one_result(tmp_path):
    plain = tiny_ppo(*COUNTING, stop__training_iteration=1)
    marks = {"episode_reward_mean": FIFTEEN, "timesteps_total": 64}
    assert execute(tmp_path / "both", {**plain, "pass_mark": marks}).exit_status == 0
    marks = {"episode_reward_mean": FIFTEEN, "timesteps_total": 65}
    assert execute(tmp_path / "one", {**plain, "pass_mark": marks}).exit_status == 1


# Where a run may go


def test_a_folder_that_holds_a_run_is_refused(tmp_path):
    execute(tmp_path / "run", tiny_ppo(stop__training_iteration=1))
    before = (tmp_path / "run" / "result.json").read_text()
    with pytest.raises(ConfigError, match="holds a run already"):
        Run(tiny_ppo(stop__training_iteration=1), tmp_path / "run").execute()
    assert (tmp_path / "run" / "result.json").read_text() == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    run = Run(tiny_ppo(stop__training_iteration=1), tmp_path / "file" / "run")
    with pytest.raises(RlrunError, match=r"The run's folder .*file/run cannot be written"):
        run.execute()


def test_a_bad_config_is_refused_before_there_is_a_folder(tmp_path):
    with pytest.raises(ConfigError, match=r"algo\.gamma=2"):
        Run(config(algo__gamma=2), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_in_another_thread_leaves_signals_alone(tmp_path):
    outcome: list[Run] = []
    plain = tiny_ppo(stop__training_iteration=1)
    thread = threading.Thread(target=lambda: outcome.append(execute(tmp_path / "run", plain)))
    thread.start()
    thread.join()
    assert outcome[0].status == "finished"


def test_signals_mean_after_a_run_what_they_meant_before(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    execute(tmp_path / "run", tiny_ppo(stop__training_iteration=1))
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_config_that_was_given_stays_as_it_is(tmp_path):
    plain = tiny_ppo(stop__training_iteration=1, seed=None)
    before = json.dumps(plain)
    execute(tmp_path / "run", plain)
    assert json.dumps(plain) == before


# When checkpoints are written


@pytest.mark.parametrize(
    ("freq", "at_end", "iterations"),
    [
        (0, True, [5]),
        (0, False, []),
        (2, True, [2, 4, 5]),
        (2, False, [2, 4]),
        (5, True, [5]),
        (1, True, [1, 2, 3, 4, 5]),
    ],
)
def test_checkpoints_come_every_so_often_and_at_the_end(tmp_path, freq, at_end, iterations):
    plain = tiny_ppo(stop__training_iteration=5, checkpoint_freq=freq, checkpoint_at_end=at_end)
    execute(tmp_path / "run", plain)
    found = [
        checkpoint.iteration_of(path) for path in checkpoint.list_checkpoints(tmp_path / "run")
    ]
    assert found == iterations


def test_results_are_flat_in_the_csv_even_where_a_key_comes_later(tmp_path):
    plain = tiny_ppo(*COUNTING, evaluation__interval=2, evaluation__duration=1)
    execute(tmp_path / "run", {**plain, "stop": {"training_iteration": 3}})
    rows = list(csv.DictReader((tmp_path / "run" / "progress.csv").open()))
    assert [row["evaluation/episode_reward_mean"] for row in rows] == ["", "15.0", ""]
    numbers = flatten(results_of(tmp_path / "run")[0])
    assert {"timesteps_total", "counters/num_env_steps_trained"} <= numbers.keys() & rows[0].keys()


def test_learner_statistics_have_their_names_before_the_first_update():
    overrides = ["algo.learning_starts=250", "algo.timesteps_per_iteration=200"]
    with make_trainer("dqn", env="cartpole", overrides=overrides, seed=1) as trainer:
        before, after = (
            trainer.train()["info"]["learner"]["default_policy"]["learner_stats"] for _ in range(2)
        )
    assert before.keys() == after.keys()
    assert all(math.isnan(value) for value in before.values())
    assert not any(math.isnan(value) for value in after.values())


def test_a_refused_run_leaves_another_runs_files_alone(tmp_path, monkeypatch):
    from rlrun import train

    first = Run(tiny_ppo(stop={"training_iteration": 1}), tmp_path / "run")
    first.execute()
    (tmp_path / "run" / "result.json").write_text("")
    for folder in (tmp_path / "run").glob("checkpoint_*"):
        shutil.rmtree(folder)
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    with pytest.raises(ConfigError, match="holds a run already"):
        train.execute(Run(tiny_ppo(), tmp_path / "run"))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == before


def test_a_run_ends_with_an_evaluation_of_its_last_weights_if_asked(tmp_path):
    plain = tiny_ppo("env=gym", "env.id=toy_envs.CountingEnv")
    plain["env"]["env_config"] = {"terminates_at": 3}
    plain |= {"stop": {"training_iteration": 3}, "objective": "evaluation/episode_reward_mean"}
    plain["evaluation"] |= {"at_end": True, "duration": 2}
    run = Run(plain, tmp_path / "run")
    run.execute()
    results = results_of(tmp_path / "run")
    assert ["evaluation" in result for result in results] == [False, False, True]
    assert results[-1]["evaluation"]["training_iteration"] == 3
    assert results[-1]["evaluation"]["episodes_this_iter"] == 2
    assert run.objective == 1.0 + 2.0 + 3.0
    # One that is due then is not done twice.
    plain["evaluation"]["interval"] = 3
    Run(plain, tmp_path / "other").execute()
    assert results_of(tmp_path / "other")[-1]["evaluation"]["training_iteration"] == 3


def test_a_stop_rule_about_an_evaluation_at_the_end_alone_is_refused():
    plain = tiny_ppo("env=gym", "env.id=toy_envs.CountingEnv")
    plain["evaluation"] |= {"at_end": True}
    plain["stop"] = {"evaluation/episode_reward_mean": 5}
    with pytest.raises(ConfigError, match=r"stop\.evaluation/.* and no evaluation runs"):
        Run(plain, "run")
