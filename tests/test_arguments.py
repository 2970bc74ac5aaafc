"""What people type that is not key=value: files, options, slips of the fingers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_cli import (
    TINY,
    Outcome,
    command_line,
    lasting,
    results_of,
    top_folders,
)

Rlrun = Callable[..., Outcome]

SMALL = ("algo.train_batch_size=64", "algo.minibatch_size=64", *TINY)
ONE = ("stop.training_iteration=1", "hydra.run.dir=run", *SMALL)


@pytest.fixture
def rlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rlrun]:
    with command_line(tmp_path, monkeypatch) as run:
        yield run


def assert_refused(outcome: Outcome, *words: str) -> None:
    """Status 2 and one line for people, that has all the words."""
    assert outcome.status == 2, outcome.stderr
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("rlrun: ")
    assert outcome.stderr.count("\n") == 1
    for word in words:
        assert word in outcome.stderr


def params_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "params.json").read_text())


# Options


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--algo=ppo"], ["no option --algo", "Keys have no dashes: algo=ppo"]),
        (["--algo", "ppo"], ["no option --algo", "Keys have no dashes: algo=ppo"]),
        (["--lr=3", "env=cartpole"], ["Keys have no dashes: lr=3"]),
        (["-x"], ["no option -x", "rlrun --help"]),
        (["--foo", "algo=ppo"], ["no option --foo", "keys are set as key=value"]),
        (["-vvv"], ["-vvv: -v says more, and -vv all that there is"]),
        (["--config-dir"], ["--config-dir needs a value"]),
        (["--experimental-rerun", "x"], ["--experimental-rerun", "rlrun -f RUN_DIR/params.json"]),
        (["--config-path", "x"], ["--config-path", "--config-dir DIR"]),
        (["--config-name", "nothing"], ["--config-name nothing", "--config-dir DIR"]),
        (["algo.lr=1e-3,1e-4"], ["algo.lr=1e-3,1e-4 names several", "rlrun -m algo.lr=1e-3,1e-4"]),
        (["seed=range(1,4)"], ["seed=range(1,4) names several values", "with -m"]),
        (["env.env_config.a=b=c"], ["'env.env_config.a=b=c' cannot be read", "\"'b=c'\""]),
        (["hydra/launcher=joblib", "-m"], ["hydra/launcher=joblib", "hydra-joblib-launcher"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_an_option_that_does_not_exist_is_answered_with_what_is_meant(
    rlrun, tmp_path, arguments, words
):
    assert_refused(rlrun(*arguments), *words)
    assert top_folders(tmp_path) == set()


def test_train_is_a_word_for_what_rlrun_does_anyway(rlrun, tmp_path):
    assert rlrun("train", *ONE).status == 0
    assert params_of(tmp_path / "run")["stop"] == {"training_iteration": 1}


def test_options_may_stand_anywhere(rlrun, tmp_path):
    outcome = rlrun("algo.gamma=0.9", "-m", "seed=1,2", *SMALL[:4], "stop.training_iteration=1")
    assert outcome.status == 0, outcome.stderr
    assert "2 trials: 2 finished" in outcome.stdout


def test_levels_may_be_written_small(rlrun, tmp_path):
    assert rlrun("log_level=info", *ONE).status == 0
    assert params_of(tmp_path / "run")["log_level"] == "INFO"
    resumed = rlrun("resume", "run", "log_level=error", "stop.training_iteration=2")
    assert resumed.status == 0
    assert params_of(tmp_path / "run")["log_level"] == "ERROR"


def test_a_sweep_over_algorithms_may_set_keys_of_one_kind(rlrun, tmp_path):
    common = ("stop.training_iteration=1", *TINY)
    keys = ("algo.learning_starts=7", "hydra.sweep.dir=sweep")
    outcome = rlrun("-m", "algo=dqn,rainbow", *keys, *common)
    assert outcome.status == 0, outcome.stderr
    starts = [params_of(tmp_path / "sweep" / job)["algo"]["learning_starts"] for job in "01"]
    assert starts == [7, 7]
    outcome = rlrun("-m", "algo=dqn,rainbow", "algo.learning_start=7", *common)
    assert_refused(outcome, "algo.learning_start", "Did you mean algo.learning_starts")


def test_the_config_that_is_shown_is_the_one_that_runs(rlrun, tmp_path):
    shown = rlrun("algo=dqn", "exploration=greedy", "--cfg", "job").stdout
    assert "tuned: dqn/cartpole" in shown
    assert "final_epsilon: 0.0\n" in shown
    assert "hydra" not in shown


# Groups of one's own


def test_a_primary_config_of_ones_own_may_build_on_ours(rlrun, tmp_path):
    (tmp_path / "mine").mkdir()
    text = "defaults: [config, _self_]\nalgo: {gamma: 0.5}\n"
    (tmp_path / "mine" / "exp.yaml").write_text(text)
    assert rlrun("--config-dir", "mine", "--config-name", "exp", *ONE).status == 0
    assert params_of(tmp_path / "run")["algo"]["gamma"] == 0.5


def test_a_primary_config_that_composes_no_run_is_refused(rlrun, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "exp.yaml").write_text("algo: {gamma: 0.5}\n")
    outcome = rlrun("--config-dir", "mine", "--config-name", "exp", *ONE)
    assert_refused(outcome, "defaults: [config, _self_]", "rlrun -f mine/exp.yaml")


# -f


@pytest.mark.parametrize(
    "form", [["-f", "{}"], ["-f{}"], ["-f={}"], ["--file={}"], ["--file", "{}"]]
)
@pytest.mark.parametrize("name", ["mine.yaml", "my äöü file.yaml", "a=b.yaml"])
def test_a_file_may_have_any_name_and_the_option_any_form(rlrun, tmp_path, form, name):
    (tmp_path / name).write_text("algo: {gamma: 0.5}\n")
    assert rlrun(*(each.format(name) for each in form), *ONE).status == 0
    assert params_of(tmp_path / "run")["algo"]["gamma"] == 0.5


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"# nothing but words\n", "sets nothing"),
        (b"{}", "sets nothing"),
        (b"\xff\xfe\x00binary", "is not text in UTF-8"),
        (b"- 1\n", "must hold a mapping"),
        (b"a: [", "is not valid YAML"),
    ],
)
def test_a_file_that_can_set_nothing_is_refused(rlrun, tmp_path, content, words):
    (tmp_path / "mine.yaml").write_bytes(content)
    outcome = rlrun("-f", "mine.yaml")
    assert outcome.status == 2
    assert outcome.stderr.startswith("rlrun: -f mine.yaml ")
    assert words in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert top_folders(tmp_path) == {"mine.yaml"}


def test_a_file_without_its_option_is_told_how(rlrun, tmp_path):
    assert_refused(rlrun("mine/exp.yaml"), "mine/exp.yaml is a file", "rlrun -f mine/exp.yaml")


@pytest.mark.parametrize(
    "example", [["-f", "ppo/pendulum-ppo"], ["tuned_examples=ppo/pendulum-ppo"]]
)
def test_an_example_of_another_algorithm_is_named_as_such(rlrun, example):
    outcome = rlrun(*example, "algo=dqn", "env=cartpole")
    assert_refused(outcome, f"{' '.join(example)} is for algo=ppo, not dqn", "algo.gae_lambda")


def test_tuned_values_of_another_algorithm_are_named_as_such(rlrun):
    outcome = rlrun("tuned=dqn/cartpole")
    assert_refused(outcome, "tuned=dqn/cartpole is for algo=dqn, not ppo", "There is no key 'algo.")


def test_a_key_that_the_user_mistyped_is_not_blamed_on_the_example(rlrun):
    outcome = rlrun("-f", "ppo/pendulum-ppo", "+algo.gae_lambdaa=1")
    assert outcome.stderr.startswith("rlrun: There is no key 'algo.gae_lambdaa'")


@pytest.mark.parametrize(
    "arguments",
    [
        [*SMALL, "algo.gamma=0.9"],
        ["algo=dqn", "env=acrobot", "algo.learning_starts=50", "logger=none", "seed=7"],
        ["env=pendulum", "exploration.random_timesteps=10", *SMALL, "pass_mark.timesteps_total=1"],
    ],
    ids=["ppo", "dqn", "continuous"],
)
def test_the_params_of_a_run_replay_that_very_run(rlrun, tmp_path, arguments):
    first = rlrun(*arguments, "stop.training_iteration=2", "hydra.run.dir=run")
    again = rlrun("-f", "run/params.json", "hydra.run.dir=again")
    assert (again.status, again.stdout) == (first.status, first.stdout)
    assert params_of(tmp_path / "again") == params_of(tmp_path / "run")
    results = [[lasting(each) for each in results_of(tmp_path / name)] for name in ("run", "again")]
    assert results[0] == results[1]


def test_keys_of_a_replayed_run_may_be_set_and_swept(rlrun, tmp_path):
    rlrun(*ONE)
    assert rlrun("-f", "run/params.json", "algo.gamma=0.5", "stop.episodes_total=1").status == 0
    (folder,) = (tmp_path / "results" / "ppo_cartpole").iterdir()
    assert params_of(folder) == {
        **params_of(tmp_path / "run"),
        "algo": {**params_of(tmp_path / "run")["algo"], "gamma": 0.5},
        "stop": {"training_iteration": 1, "episodes_total": 1},
    }
    outcome = rlrun("-m", "-f", "run/params.json", "algo.gamma=0.5,0.6", "hydra.sweep.dir=sweep")
    assert outcome.status == 0, outcome.stderr
    assert params_of(tmp_path / "sweep" / "1")["algo"]["gamma"] == 0.6


def test_a_replayed_run_may_log_elsewhere_but_what_it_is_is_settled(rlrun, tmp_path):
    rlrun(*ONE)
    again = ("-f", "run/params.json", "hydra.run.dir=again")
    assert rlrun(*again, "logger=console").status == 0
    assert list(params_of(tmp_path / "again")["logger"]) == ["console"]
    assert_refused(rlrun(*again, "algo=dqn"), "algo=dqn", "whole config of a run")
    assert_refused(rlrun(*again, "algo.gama=1"), "algo.gama", "Did you mean algo.gamma")


def test_a_sweep_is_not_begun_by_hydras_mode(rlrun, tmp_path):
    assert_refused(rlrun("hydra.mode=MULTIRUN"), "hydra.mode=MULTIRUN", "rlrun -m key=value,value")
    (tmp_path / "conf" / "exp").mkdir(parents=True)
    (tmp_path / "conf" / "exp" / "many.yaml").write_text(
        "# @package _global_\nhydra: {mode: MULTIRUN}\n"
    )
    outcome = rlrun("--config-dir", "conf", "+exp=many")
    assert_refused(outcome, "A file sets hydra.mode: MULTIRUN", "rlrun -m key=value,value")
    assert rlrun("hydra.mode=RUN", *SMALL, "stop.training_iteration=1").status == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--resolve",), "--resolve is for what --cfg job shows"),
        (("--run", "-m"), "--run and -m do not go together"),
        (("--cfg", "job", "-m"), "--cfg and -m do not go together"),
        (("-m", "--hydra-help"), "-m and --hydra-help do not go together"),
        (("--help", "--bogus"), "There is no option --bogus"),
    ],
)
def test_options_that_would_be_ignored_are_refused(rlrun, options, message):
    assert_refused(rlrun(*options, *SMALL), message)


def test_the_version_is_told_whatever_else_is_typed(rlrun):
    outcome = rlrun(*SMALL, "--version")
    assert (outcome.status, outcome.stdout.split()[0]) == (0, "rlrun")


# A folder of one's own


@pytest.mark.parametrize(
    ("arguments", "env_id"),
    [
        (["env=mine"], "Acrobot-v1"),
        (["env=mine", "--config-name", "whole"], "Acrobot-v1"),
        (["env=mine", "hydra.searchpath=[file://{other}]"], "Acrobot-v1"),
        (["env=yours", "hydra.searchpath=[file://{other}]"], "Pendulum-v1"),
        (["env=yours", "--config-name", "whole"], "Pendulum-v1"),
        (["env=cartpole"], "CartPole-v1"),
        (["env=cartpole", "--config-name", "whole"], "CartPole-v1"),
    ],
)
def test_a_folder_adds_to_our_groups_and_takes_nothing_away(rlrun, tmp_path, arguments, env_id):
    own, other = tmp_path / "it's mine, (all) of it", tmp_path / "other"
    for folder, choice, its_id in ((own, "mine", "Acrobot-v1"), (other, "yours", "Pendulum-v1")):
        (folder / "env").mkdir(parents=True)
        text = f"defaults: [gym, _self_]\nid: {its_id}\n"
        (folder / "env" / f"{choice}.yaml").write_text(text)
    (own / "config.yaml").write_text("nothing: 1\n")
    (own / "env" / "cartpole.yaml").write_text("id: Acrobot-v1\n")
    whole = f"defaults: [config, _self_]\nhydra: {{searchpath: ['file://{other}']}}\n"
    (own / "whole.yaml").write_text(whole)
    arguments = ["--config-dir", own.name, *(each.format(other=other) for each in arguments)]
    outcome = rlrun(*arguments, *ONE)
    assert outcome.status == 0, outcome.stderr
    assert json.loads((tmp_path / "run" / "params.json").read_text())["env"]["id"] == env_id
    sweep = rlrun("-m", *arguments, *SMALL, "algo.gamma=0.8,0.9", "sweep.dry_run=true")
    assert sweep.status == 0, sweep.stderr
    assert_refused(rlrun(*arguments, "algo.lrr=1"), "There is no key 'algo.lrr'", "algo.lr")


# Folders


@pytest.mark.parametrize("folder", ["file", "file/run"])
def test_a_folder_that_is_a_file_is_named(rlrun, tmp_path, folder):
    (tmp_path / "file").write_text("")
    outcome = rlrun(f"hydra.run.dir={folder}", *SMALL, "stop.training_iteration=1")
    assert_refused(outcome, f"hydra.run.dir={folder} must name a folder", "file is a file")
    outcome = rlrun("-m", f"hydra.sweep.dir={folder}", *SMALL, "stop.training_iteration=1")
    assert_refused(outcome, "hydra.sweep.dir=", f"{folder} must name a folder", "file is a file")
    assert_refused(rlrun("resume", folder), "is not the folder of a run")
    for rest in ((), ("-m", "algo.gamma=0.8,0.9"), ("--cfg", "job")):
        outcome = rlrun("--config-dir", folder, *rest)
        assert_refused(outcome, f"--config-dir {folder}: there is no such folder")


def test_a_sweep_into_a_folder_that_holds_runs_is_refused_before_its_first_job(rlrun, tmp_path):
    sweep = ("-m", "hydra.sweep.dir=sweep", *SMALL, "stop.training_iteration=1")
    assert rlrun(*sweep, "algo.gamma=0.8,0.9").status == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("*")}
    outcome = rlrun(*sweep, "algo.gamma=0.8,0.9")
    assert_refused(outcome, "sweep holds 2 run(s) already (0, 1)")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "sweep").rglob("*")} == before


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["env.id=Pendulum-v1"], "ppo_Pendulum-v1"),
        (["env=cartpole", "env.id=Pendulum-v1"], "ppo_Pendulum-v1"),
        (["env.id=CartPole-v1"], "ppo_cartpole"),
        (["env=gym", "env.id=CartPole-v1"], "ppo_CartPole-v1"),
        (["env=pendulum"], "ppo_pendulum"),
    ],
)
def test_results_are_filed_under_the_env_that_ran(rlrun, tmp_path, arguments, name):
    assert rlrun(*arguments, *SMALL, "stop.training_iteration=1").status == 0
    assert [path.name for path in (tmp_path / "results").iterdir()] == [name]
