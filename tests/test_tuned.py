"""Tuned values: which file a run takes, what they yield to, and how it says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box
from helpers_cli import ALGORITHMS, TINY, Outcome, command_line
from omegaconf import OmegaConf

from rlrun.compose import compose, plain_config
from rlrun.config import conf_dir
from rlrun.core.errors import ConfigError
from rlrun.parts import read_config

TUNED = conf_dir() / "tuned"
FILES = sorted(path.relative_to(TUNED).with_suffix("").as_posix() for path in TUNED.rglob("*.yaml"))
ENVS = {path.stem for path in (conf_dir() / "env").glob("*.yaml")}
DATA = {
    f"{algo}/{env}": [f"input=tuned_examples/data/{env}"]
    for algo in ("bc", "cql", "marwil")
    for env in ("cartpole", "pendulum")
}
"""What of the tuned values is of no use without data."""
OF_ONE_ENV = [name for name in FILES if "/" in name and name.rpartition("/")[2] in ENVS]

Rlrun = Callable[..., Outcome]


@pytest.fixture
def rlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rlrun]:
    with command_line(tmp_path, monkeypatch) as run:
        yield run


def composed(*overrides: str) -> dict[str, Any]:
    return plain_config(compose([*overrides, "seed=1"]))


def params_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "params.json").read_text())


def write_tuned(folder: Path, name: str, text: str) -> None:
    path = folder / "tuned" / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# @package _global_\n{text}")


# The shipped files


def one_of_each_algorithm(names: list[str]) -> list[Any]:
    """All names, but those after the first of their algorithm for slow tests."""
    firsts = {name.rpartition("/")[0]: name for name in reversed(names)}
    return [
        pytest.param(name, marks=() if name in firsts.values() else pytest.mark.slow)
        for name in names
    ]


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_tuned_values_is_laid_over_the_whole_config(name):
    assert (TUNED / f"{name}.yaml").read_text().startswith("# @package _global_\n")


@pytest.mark.parametrize("name", one_of_each_algorithm(OF_ONE_ENV))
def test_a_file_of_tuned_values_is_found_by_algorithm_and_env_and_builds(name):
    algo, _, env = name.rpartition("/")
    plain = composed(f"algo={algo}", f"env={env}", *DATA.get(name, []))
    assert plain["tuned"] == name
    read_config(plain)
    general = composed(f"algo={algo}", f"env={env}", "tuned=none")
    assert general["tuned"] is None
    groups = ("algo", "env", "exploration", "model")
    assert any(plain[group] != general[group] for group in groups), "it changes nothing"


@pytest.mark.parametrize("env", ["bipedalwalker", "lunarlander_continuous"])
def test_noise_of_ddpg_on_box2d_stays_as_it_is(env):
    exploration = read_config(composed("algo=ddpg", f"env={env}")).trainer.worker.exploration
    exploration.action_space = Box(-1.0, 1.0, (4,), np.float32)
    assert [exploration.scale(timestep, 1) for timestep in (0, 10_000, 300_000)] == [1.0] * 3
    assert exploration.stddev == pytest.approx(0.1)


@pytest.mark.parametrize("algo", sorted({*ALGORITHMS} - {"apex_ddpg", "cql", "ddpg", "td3"}))
def test_cartpole_is_tuned_for_every_algorithm_that_suits(algo):
    assert composed(f"algo={algo}")["tuned"] == f"{algo}/cartpole"


# Which file


def test_an_env_without_a_file_gets_the_general_values():
    plain = composed("env=gym", "env.id=CartPole-v1")
    assert plain["tuned"] is None
    assert plain["algo"] == composed("tuned=none")["algo"]


@pytest.mark.parametrize("nothing", ["none", "null"])
@pytest.mark.parametrize("algo", ["ppo", "dqn", "rainbow", "pg", "a2c", "a3c"])
def test_tuned_values_can_be_left_out(algo, nothing):
    plain = composed(f"algo={algo}", f"tuned={nothing}")
    assert plain["tuned"] is None
    in_gym = composed(f"algo={algo}", "env=gym", "env.id=CartPole-v1")
    assert plain == {**in_gym, "env": plain["env"]}


def test_another_file_may_be_named():
    plain = composed("algo=dqn", "env=mountaincar", "tuned=dqn/cartpole")
    assert plain["tuned"] == "dqn/cartpole"
    assert plain["algo"] == composed("algo=dqn")["algo"]


@pytest.mark.parametrize("name", ["dqn/cartpol", "dqn/nowhere_at_all", "cartpole"])
def test_a_file_that_is_named_and_not_there_is_refused(rlrun, tmp_path, name):
    outcome = rlrun("algo=dqn", f"tuned={name}", *TINY)
    assert outcome.status == 2
    assert outcome.stderr.startswith(f"rlrun: tuned={name}: there is no such choice.")
    assert "dqn/cartpole" in outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_mistyped_file_is_answered_with_the_nearest_one():
    with pytest.raises(ConfigError, match="Did you mean dqn/cartpole"):
        compose(["algo=dqn", "tuned=dqn/cartpol"])


def test_the_file_that_would_come_by_itself_must_be_there_when_it_is_named():
    with pytest.raises(ConfigError, match="tuned=ppo/gym: there is no such choice"):
        compose(["env=gym", "env.id=CartPole-v1", "tuned=ppo/gym"])


def test_a_tuned_example_that_chooses_algorithm_and_env_gets_their_file():
    assert composed("tuned_examples=dqn/cartpole-dqn")["tuned"] == "dqn/cartpole"
    own = OmegaConf.load(TUNED / "dqn" / "cartpole.yaml")
    assert composed("tuned_examples=dqn/cartpole-dqn")["algo"]["n_step"] == own.algo.n_step


@pytest.mark.slow
def test_each_job_of_a_sweep_takes_its_own_file(rlrun, tmp_path):
    run = ["hydra.sweep.dir=sweep", "stop.training_iteration=1"]
    outcome = rlrun("-m", "algo=dqn,rainbow", *run, *TINY)
    assert outcome.status == 0, outcome.stderr
    for job, name in enumerate(["dqn/cartpole", "rainbow/cartpole"]):
        params = params_of(tmp_path / "sweep" / str(job))
        assert params["tuned"] == name
        assert params["algo"]["n_step"] == composed(f"algo={name.split('/')[0]}")["algo"]["n_step"]


def test_a_folder_of_ones_own_may_bring_tuned_values(rlrun, tmp_path):
    write_tuned(tmp_path / "mine", "a2c/mountaincar", "algo: {gamma: 0.5}\n")
    run = ("hydra.run.dir=run", "stop.training_iteration=1", *TINY)
    given = ("algo=a2c", "env=mountaincar", *run)
    assert rlrun("--config-dir", "mine", *given).status == 0
    params = params_of(tmp_path / "run")
    assert (params["tuned"], params["algo"]["gamma"]) == ("a2c/mountaincar", 0.5)
    outcome = rlrun("--config-dir", "mine", "algo=a2c", "tuned=a2c/mountainca")
    assert "Did you mean a2c/mountaincar" in outcome.stderr


def test_a_family_of_envs_may_share_a_file(rlrun, tmp_path):
    write_tuned(tmp_path / "mine", "a2c/lakes", "algo: {gamma: 0.5, gae_lambda: 0.5}\n")
    write_tuned(tmp_path / "mine", "a2c/mountaincar", "defaults: [a2c/lakes]\n")
    own = "defaults: [a2c/lakes, _self_]\nalgo: {gamma: 0.6}\n"
    write_tuned(tmp_path / "mine", "a2c/lunarlander_continuous", own)
    search = f"hydra.searchpath=[file://{tmp_path / 'mine'}]"
    for env, gamma in (("mountaincar", 0.5), ("lunarlander_continuous", 0.6)):
        plain = composed(search, "algo=a2c", f"env={env}")
        assert plain["tuned"] == f"a2c/{env}"
        assert (plain["algo"]["gamma"], plain["algo"]["gae_lambda"]) == (gamma, 0.5)


# What they win over, and what they lose to


def test_tuned_values_win_over_an_env_and_lose_to_an_example_and_to_the_user(tmp_path):
    arcade = tmp_path / "mine" / "env" / "arcade.yaml"
    arcade.parent.mkdir(parents=True)
    arcade.write_text("defaults: [atari, _self_]\nid: ALE/Pong-v5\n")
    write_tuned(
        tmp_path / "mine",
        "ppo/arcade",
        "algo: {gamma: 0.1, gae_lambda: 0.1, vf_coeff: 0.1}\n"
        "env: {clip_rewards: 3.0}\nmodel: {post_fcnet_hiddens: [7]}\n",
    )
    example = tmp_path / "mine" / "tuned_examples" / "pong.yaml"
    example.parent.mkdir()
    example.write_text(
        "# @package _global_\ndefaults: [override /env: arcade]\n"
        "algo: {gae_lambda: 0.2, gamma: 0.2}\n"
    )
    search = f"hydra.searchpath=[file://{tmp_path / 'mine'}]"
    plain = composed(search, "tuned_examples=pong", "algo.gamma=0.3")
    assert plain["env"]["clip_rewards"] == 3.0
    assert plain["model"]["post_fcnet_hiddens"] == [7]
    values = [plain["algo"][key] for key in ("vf_coeff", "gae_lambda", "gamma")]
    assert values == [0.1, 0.2, 0.3]


def test_values_tuned_for_one_exploration_are_not_laid_over_another():
    general = composed("exploration=greedy")["exploration"]
    assert composed("algo=dqn", "exploration=greedy")["exploration"] == general
    tuned = composed("algo=dqn")
    assert composed("algo=dqn", "exploration=greedy")["algo"] == tuned["algo"]
    assert composed("algo=dqn", "exploration=epsilon_greedy") == tuned
    assert tuned["exploration"] != composed("algo=dqn", "tuned=none")["exploration"]


def test_what_the_user_gives_beside_another_exploration_stays():
    plain = composed("algo=dqn", "exploration=greedy", "exploration.final_epsilon=0.2")
    assert plain["exploration"]["final_epsilon"] == 0.2
    assert plain["exploration"]["epsilon_timesteps"] == 0


def test_values_tuned_for_one_model_are_not_laid_over_another(tmp_path):
    write_tuned(tmp_path / "mine", "a2c/mountaincar", "model: {fcnet_hiddens: [7]}\n")
    search = f"hydra.searchpath=[file://{tmp_path / 'mine'}]"
    assert composed(search, "algo=a2c", "env=mountaincar")["model"]["fcnet_hiddens"] == [7]
    plain = composed(search, "algo=a2c", "env=mountaincar", "model=mlp_relu")
    assert plain["model"] == composed("algo=a2c", "model=mlp_relu")["model"]
    assert plain["tuned"] == "a2c/mountaincar"


def test_an_env_that_is_not_the_files_gets_no_tuned_values():
    plain = composed("algo=dqn", "env=cartpole", "env.id=Acrobot-v1")
    assert plain["tuned"] is None
    general = composed("algo=dqn", "env=acrobot", "tuned=none")
    assert plain == general
    named = composed("algo=dqn", "env=cartpole", "env.id=Acrobot-v1", "tuned=dqn/cartpole")
    assert named["algo"] == composed("algo=dqn")["algo"]
    assert composed("algo=dqn", "env.id=CartPole-v1")["tuned"] == "dqn/cartpole"


# How it is said


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "Values: tuned, of tuned=ppo/cartpole (tuned=none: the general ones)"),
        (["tuned=none"], "Values: the general ones, without a file of conf/tuned"),
    ],
)
def test_a_run_says_in_one_line_which_values_it_has(rlrun, tmp_path, arguments, line):
    small = ["algo.train_batch_size=64", "algo.minibatch_size=64", "logger=console"]
    stop = ["stop.training_iteration=1", "hydra.run.dir=run"]
    outcome = rlrun(*arguments, *TINY, *small, *stop)
    assert outcome.stdout.splitlines()[0] == line
    assert outcome.stdout.count("Values: ") == 1
    assert line in (tmp_path / "run" / "rlrun.log").read_text()


def test_a_run_that_exists_takes_no_other_tuned_values(rlrun, tmp_path):
    small = ["algo.train_batch_size=64", "algo.minibatch_size=64"]
    rlrun(*TINY, *small, "stop.training_iteration=1", "hydra.run.dir=run")
    outcome = rlrun("resume", "run", "tuned=ppo/cartpole")
    assert outcome.status == 2
    assert "laid over the others where a run is composed" in outcome.stderr


def test_values_for_an_env_that_has_its_id_from_another_file_are_kept(tmp_path):
    (tmp_path / "env").mkdir()
    (tmp_path / "env" / "my_cart.yaml").write_text("defaults: [cartpole]\n")
    (tmp_path / "tuned" / "ppo").mkdir(parents=True)
    of_algo = "# @package _global_\nalgo: {gamma: 0.5}\n"
    (tmp_path / "tuned" / "ppo" / "my_cart.yaml").write_text(of_algo)
    own = [f"hydra.searchpath=[file://{tmp_path}]", "algo=ppo", "env=my_cart"]
    assert compose([*own, "env.id=CartPole-v1"]).algo.gamma == 0.5
    assert compose([*own, "env.id=Acrobot-v1"]).algo.gamma != 0.5
