"""`make_trainer` and `Algorithm.build`: composed and tuned as the command line does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from helpers_cli import python_process

import rlrun
from rlrun.algos.dqn import DQN
from rlrun.algos.ppo import PPO
from rlrun.compose import compose, env_overrides, plain_config
from rlrun.core.errors import ConfigError
from rlrun.core.exploration import EpsilonGreedy
from rlrun.core.networks import MLP
from rlrun.core.schedules import LinearSchedule
from rlrun.trainer import Trainer


@dataclass(kw_only=True)
class MyDQN(DQN):
    """A subclass with a hyperparameter of its own, and another default."""

    bonus: float = 2.0
    gamma: float = 0.7


class UndecoratedDQN(rlrun.DQN):
    """As someone writes it who only changes a method."""


def composed(*overrides: str) -> dict[str, Any]:
    return plain_config(compose([*overrides, "seed=1"]))


def plain_of(trainer: Trainer) -> dict[str, Any]:
    with trainer:
        return trainer.config.plain


# Envs


@pytest.mark.parametrize(
    ("env", "overrides"),
    [
        ("CartPole-v1", ["env=cartpole"]),
        ("cartpole", ["env=cartpole"]),
        ("Pendulum-v1", ["env=pendulum"]),
        ("LunarLander-v3", ["env=lunarlander"]),
        ("ALE/Pong-v5", ["env=pong"]),
        ("CartPole-v0", ["env=gym", "env.id='CartPole-v0'"]),
        ("my_package.MyEnv", ["env=gym", "env.id='my_package.MyEnv'"]),
        (None, []),
    ],
)
def test_an_id_that_a_choice_stands_for_means_that_choice(env, overrides):
    assert env_overrides(env) == overrides


@pytest.mark.parametrize("algo", ["ppo", "dqn", "rainbow"])
def test_a_trainer_in_python_is_tuned_like_one_of_the_command_line(algo):
    trainer = rlrun.make_trainer(algo, env="CartPole-v1", seed=1)
    assert plain_of(trainer) == composed(f"algo={algo}", "env=cartpole")
    assert trainer.config.plain["tuned"] == f"{algo}/cartpole"


# build


@pytest.mark.parametrize("kind", [PPO, DQN])
def test_fields_that_nobody_gave_are_tuned(kind):
    plain = plain_of(kind().build(env="CartPole-v1", seed=1))
    assert plain == composed(f"algo={kind.__name__.lower()}")


def test_fields_that_were_given_win_over_tuned_ones():
    plain = plain_of(DQN(lr=5e-4, n_step=2).build(env="CartPole-v1", seed=1))
    tuned = composed("algo=dqn")
    assert plain["algo"] == {**tuned["algo"], "lr": 5e-4, "n_step": 2}
    assert plain["exploration"] == tuned["exploration"]


def test_overrides_of_an_algorithm_win_over_both():
    trainer = DQN(lr=5e-4).build("CartPole-v1", ["algo.lr=1e-5", "algo.n_step=4"], seed=1)
    assert (
        plain_of(trainer)["algo"] == composed("algo=dqn", "algo.lr=1e-5", "algo.n_step=4")["algo"]
    )


def test_without_tuned_values_the_fields_are_the_classs_own():
    plain = plain_of(DQN().build("CartPole-v1", ["tuned=none", "algo.buffer_size=100"], seed=1))
    general = composed("algo=dqn", "tuned=none", "algo.buffer_size=100")
    assert plain == general


def test_a_schedule_that_was_given_as_an_object_is_kept():
    lr = LinearSchedule(initial=1e-3, final=0.0, timesteps=100)
    with PPO(lr=lr).build(env="CartPole-v1", seed=1) as trainer:
        assert trainer.config.worker.algorithm.lr == lr


@pytest.mark.parametrize("kind", [MyDQN, UndecoratedDQN])
def test_a_subclass_is_composed_as_its_base(kind):
    with kind(n_step=2).build(env="CartPole-v1", seed=1) as trainer:
        worker = trainer.config.worker
    assert type(worker.algorithm) is kind
    assert isinstance(worker.exploration, EpsilonGreedy)
    assert worker.model == MLP(fcnet_hiddens=[256], fcnet_activation="relu")
    assert worker.algorithm.n_step == 2
    tuned = composed("algo=dqn")
    assert worker.algorithm.train_batch_size == tuned["algo"]["train_batch_size"]
    assert trainer.config.plain["exploration"] == tuned["exploration"]
    assert trainer.config.plain["tuned"] == "dqn/cartpole"


def test_defaults_of_a_subclass_count_as_given():
    with MyDQN().build("CartPole-v1", ["algo.bonus=3"], seed=1) as trainer:
        algorithm = trainer.config.worker.algorithm
    assert (algorithm.gamma, algorithm.bonus) == (0.7, 3.0)


def test_values_that_do_not_fit_the_tuned_ones_are_refused_with_what_is_tuned():
    with pytest.raises(ConfigError, match=r"algo\.minibatch_size=128.*tuned=ppo/cartpole"):
        PPO(train_batch_size=64).build(env="CartPole-v1")


BUILD_FROM_BELOW = """
from rlrun.algos.dqn import DQN
try:
    DQN().build(env="CartPole-v1")
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_class_from_below_says_what_build_needs(tmp_path):
    outcome = python_process(tmp_path, "-c", BUILD_FROM_BELOW)
    assert outcome.stdout.startswith("RlrunError DQN.build needs rlrun.python_api")
    assert "Import it" in outcome.stdout


def test_a_class_from_the_package_can_build(tmp_path):
    code = "import rlrun; rlrun.DQN().build(env='CartPole-v1').stop(); print('built')"
    assert python_process(tmp_path, "-c", code).stdout == "built\n"
