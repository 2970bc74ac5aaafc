"""Experiment files of the classic RLlib: all of them translate, and run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_cli import command_line

from rlrun.compose import compose, plain_config
from rlrun.core.errors import ConfigError
from rlrun.parts import read_config, with_seed
from rlrun.rllib_import.files import experiments_of

FILES = {
    file.stem: file for file in sorted((Path(__file__).parents[1] / "data" / "rllib").glob("*"))
}

REFUSED = {
    "halfcheetah-pybullet-ddpg": "PyBullet's envs are not made for gymnasium",
    "pendulum-transformed-actions-ppo": "TransformedActionPendulum: an env of RLlib's tests",
    "pong-rainbow": "config.gpu: the classic RLlib has no such key",
    "recomm-sys001-ppo": "envs of recommender systems are not there",
    "two-step-game-qmix": "run: QMIX: rlrun has no such algorithm: multi-agent envs",
}
"""Files that cannot be run, and why. (RLlib itself refuses pong-rainbow.)"""

TINY = (
    *("stop.training_iteration=2", "stop.episode_reward_mean=null", "logger=none"),
    *("resources.num_workers=0", "hydra.run.dir=run"),
)

SMALLER: dict[str, tuple[str, ...]] = {
    "A2C": ("algo.timesteps_per_iteration=0",),
    "A3C": ("algo.timesteps_per_iteration=0",),
    "PG": ("algo.timesteps_per_iteration=0",),
    "PPO": ("algo.train_batch_size=200", "algo.num_epochs=1", "algo.minibatch_size=100"),
    "DDPPO": (
        "algo.rollout_fragment_length=20",
        "algo.train_batch_size=100",
        "algo.minibatch_size=50",
        "algo.num_epochs=1",
        "algo.entropy_coeff=0",
    ),
    "APPO": ("algo.timesteps_per_iteration=0", "algo.train_batch_size=100"),
    "IMPALA": ("algo.timesteps_per_iteration=0", "algo.train_batch_size=100"),
    "ES": ("algo.episodes_per_batch=4", "algo.train_batch_size=10", "algo.noise_size=100000"),
    "ARS": ("algo.num_rollouts=4", "algo.rollouts_used=2", "algo.noise_size=100000"),
    **dict.fromkeys(
        ("SimpleQ", "DQN", "APEX", "DDPG", "TD3", "APEX_DDPG", "SAC", "R2D2"),
        (
            *("algo.timesteps_per_iteration=50", "algo.learning_starts=60"),
            *("algo.buffer_size=1000", "algo.train_batch_size=16"),
        ),
    ),
    "BC": ("input=tuned_examples/data/cartpole", "algo.timesteps_per_iteration=0"),
    "MARWIL": ("input=tuned_examples/data/cartpole", "algo.timesteps_per_iteration=0"),
    "CQL": (
        "input=tuned_examples/data/pendulum",
        "actions_in_input_normalized=false",
        "algo.timesteps_per_iteration=0",
        "algo.train_batch_size=20",
    ),
}
"""What makes two iterations of each algorithm cheap."""

OF_FILES: dict[str, tuple[str, ...]] = {
    "cartpole-ppo-hyperband": ("sweep.seeds=null",),
    "pendulum-appo": ("algo.minibatch_buffer_size=2", "algo.num_sgd_iter=2"),
    "pendulum-apex-ddpg": ("evaluation.interval=null",),
    **dict.fromkeys(
        ("cartpole-bc", "cartpole-marwil", "pendulum-cql"),
        (
            *("evaluation.num_workers=0", "evaluation.duration=1"),
            "evaluation.parallel_to_training=false",
        ),
    ),
}
"""What else is made smaller for a file."""


def algorithm_of(name: str) -> str:
    return next(line.split()[-1] for line in FILES[name].read_text().splitlines() if "run:" in line)


def is_heavy(name: str) -> bool:
    text = FILES[name].read_text()
    return "NoFrameskip" in text or "Deterministic" in text or "-v2" in text


RUNNABLE = [name for name in FILES if name not in REFUSED and not is_heavy(name)]


def first_of_each_grid(arguments: list[str]) -> list[str]:
    """The overrides of a run, the first one of a sweep."""
    overrides = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and not key.startswith("sweep."):
            is_grid = value[0] not in '["{'
            overrides.append(f"{key}={value.split(',')[0] if is_grid else value}")
    return overrides


@pytest.mark.parametrize(
    "name",
    [
        # What runs below builds.
        pytest.param(name, marks=pytest.mark.slow if name in RUNNABLE else ())
        for name in sorted(FILES.keys() - REFUSED.keys())
    ],
)
def test_every_file_translates_into_a_config_that_builds(name: str) -> None:
    data = [each for each in SMALLER[algorithm_of(name)] if each.startswith(("input=", "actions"))]
    experiments = experiments_of(FILES[name], data)
    assert experiments
    for experiment in experiments:
        config = compose(first_of_each_grid(experiment.arguments))
        read_config(with_seed(plain_config(config)))


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_run_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        experiments_of(FILES[name])
    assert REFUSED[name] in str(refusal.value)


@pytest.fixture
def rlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with command_line(tmp_path, monkeypatch) as run:
        yield run


# Runs on pretended GPUs do the same again.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(each, marks=pytest.mark.slow if "fake-gpus" in each else ())
        for each in RUNNABLE
    ],
)
def test_each_file_of_an_algorithm_that_is_there_runs_two_iterations(
    name: str, rlrun: Any, tmp_path: Path
) -> None:
    smaller = {each.partition("=")[0]: each for each in SMALLER[algorithm_of(name)]}
    smaller |= {each.partition("=")[0]: each for each in OF_FILES.get(name, ())}
    outcome = rlrun("-f", str(FILES[name]), *TINY, *smaller.values())
    assert outcome.status in (0, 1), outcome.stderr
    results = [json.loads(line) for line in (tmp_path / "run/result.json").open()]
    assert [result["training_iteration"] for result in results] == [1, 2], outcome.stderr


def test_print_overrides_shows_the_command_and_what_is_left_out_and_does_nothing(
    rlrun: Any, tmp_path: Path
) -> None:
    outcome = rlrun("-f", str(FILES["cartpole-ppo"]), "--print-overrides")
    assert outcome.status == 0
    heading, command, *notes = outcome.stdout.splitlines()
    assert heading == "# cartpole-ppo"
    assert command.startswith("rlrun algo=ppo env=cartpole tuned=none ")
    for override in (
        *("algo.num_epochs=6", "algo.vf_coeff=0.01", "env.observation_filter=MeanStdFilter"),
        *("stop.timesteps_total=100000", "pass_mark.episode_reward_mean=150"),
        *("algo.clip_range=0.3", "algo.train_batch_size=4000"),  # RLlib's own, where none is given
    ):
        assert f" {override}" in command
    assert notes == [
        "# env: CartPole-v0 is CartPole-v1 with episodes of 200 steps, which is what v0 was",
        "# config.framework is left out: rlrun is torch",
    ]
    assert list(tmp_path.iterdir()) == []


def test_what_is_left_out_is_said_before_a_run(rlrun: Any, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "mine: {run: PG, env: CartPole-v1, stop: {training_iteration: 1},"
        " config: {log_sys_usage: true, num_workers: 0}, sync_config: {upload_dir: s3}}"
    )
    outcome = rlrun("-f", "mine.yaml", "logger=none", "hydra.run.dir=run")
    assert outcome.status == 0
    assert "rlrun: mine: config.log_sys_usage is left out: the machine is not" in outcome.stderr
    assert "rlrun: mine: sync_config is left out: runs stay where they are" in outcome.stderr


def test_a_pass_mark_gives_a_verdict(rlrun: Any, tmp_path: Path) -> None:
    for mark, verdict, status in ((1, "PASSED", 0), (499, "FAILED", 1)):
        (tmp_path / "mine.yaml").write_text(
            f"mine: {{run: PG, env: CartPole-v1, config: {{num_workers: 0}},"
            f" stop: {{episode_reward_mean: {mark}, timesteps_total: 1000}}}}"
        )
        outcome = rlrun("-f", "mine.yaml", "logger=none", f"hydra.run.dir=run{mark}")
        assert outcome.status == status
        assert outcome.stdout.startswith(f"{verdict}: episode_reward_mean {mark}")


def test_several_experiments_run_one_after_the_other(rlrun: Any, tmp_path: Path) -> None:
    (tmp_path / "two.yaml").write_text(
        "one: {run: PG, env: CartPole-v1, local_dir: out, stop: {training_iteration: 1}}\n"
        "two: {run: A2C, env: CartPole-v1, local_dir: out, stop: {training_iteration: 1}}\n"
    )
    outcome = rlrun("-f", "two.yaml", "logger=none", "resources.num_workers=0")
    assert outcome.status == 0, outcome.stderr
    params = sorted(tmp_path.glob("out/*/*/params.json"))
    assert [path.parts[-3] for path in params] == ["one", "two"]
    targets = [json.loads(path.read_text())["algo"]["_target_"] for path in params]
    assert targets == ["rlrun.algos.pg.PG", "rlrun.algos.a2c.A2C"]


def test_files_of_our_own_are_none_of_rllibs(rlrun: Any, tmp_path: Path) -> None:
    (tmp_path / "ours.yaml").write_text(
        "# @package _global_\ndefaults: [{override /algo: pg}]\nstop: {training_iteration: 1}\n"
    )
    assert experiments_of(tmp_path / "ours.yaml") == []
    outcome = rlrun("-f", "ours.yaml", "--print-overrides")
    assert outcome.status == 2
    assert "--print-overrides shows what becomes of an experiment file" in outcome.stderr


def test_what_is_typed_takes_the_place_of_what_the_file_says(tmp_path: Path) -> None:
    file = tmp_path / "grid.yaml"
    file.write_text("a: {run: PPO, env: CartPole-v1, config: {lr: {grid_search: [0.1, 0.2]}}}")
    (swept,) = experiments_of(file)
    assert swept.arguments[0] == "-m"
    assert "algo.lr=0.1,0.2" in swept.arguments
    (single,) = experiments_of(file, ["algo.lr=0.3", "-v"])
    assert single.arguments[0] == "algo=ppo"
    assert single.arguments[-2:] == ["algo.lr=0.3", "-v"]
    assert sum(each.startswith("algo.lr=") for each in single.arguments) == 1
