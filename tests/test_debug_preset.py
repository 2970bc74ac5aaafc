"""`debug=true`: one process, tiny sizes, every number checked; the user's keys count."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers_cli import ALGORITHMS, Outcome, command_line, results_of
from torch import nn

import rlrun
from rlrun.compose import compose, plain_config
from rlrun.core import finite
from rlrun.core.errors import RlrunError
from rlrun.core.flat import FlatParameters
from rlrun.parts import read_config

Rlrun = Callable[..., Outcome]

FROM_DATA = ("bc", "cql", "marwil")
CONTINUOUS = ("ddpg", "td3", "sac", "cql", "apex_ddpg")


@pytest.fixture
def rlrun_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rlrun]:
    with command_line(tmp_path, monkeypatch) as run:
        yield run


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_preset_suits_every_algorithm(algo):
    env = "env=pendulum" if algo in CONTINUOUS else "env=cartpole"
    data = ["input=nowhere"] if algo in FROM_DATA else []
    config = plain_config(compose([f"algo={algo}", env, "debug=true", "seed=1", *data]))
    read_config(config, trains=False)
    assert config["resources"]["num_workers"] == 0
    assert config["stop"]["training_iteration"] == 3
    assert config["algo"].get("train_batch_size", 0) <= 64


def test_a_run_says_what_is_changed_and_ends_soon(rlrun_command, tmp_path):
    outcome = rlrun_command("debug=true", "algo=dqn", "logger=none", "hydra.run.dir=run")
    assert outcome.status == 0, outcome.stderr
    assert "rlrun: debug=true sets " in outcome.stderr
    assert "log_level=DEBUG (WARN)" in outcome.stderr
    assert "algo.buffer_size=2000 (" in outcome.stderr
    assert len(results_of(tmp_path / "run")) == 3
    assert not finite.is_checked_everywhere
    assert not torch.is_anomaly_enabled()


def test_keys_of_the_user_count_and_others_follow_them(capsys):
    typed = ["algo.minibatch_size=100", "resources.num_workers=1", "stop.timesteps_total=9"]
    config = plain_config(compose(["algo=ppo", "debug=true", *typed, "log_level=INFO"]))
    assert config["algo"]["minibatch_size"] == 100
    assert config["algo"]["train_batch_size"] == 100  # not 64, which it would exceed
    assert config["resources"]["num_workers"] == 1
    assert config["stop"] == {"timesteps_total": 9}
    assert config["log_level"] == "INFO"
    said = capsys.readouterr().err
    assert "algo.minibatch_size" not in said
    config = plain_config(compose(["algo=ppo", "debug=true", "algo.train_batch_size=16"]))
    assert config["algo"]["minibatch_size"] == 16


def test_without_it_nothing_is_changed_or_said(capsys):
    assert plain_config(compose(["algo=ppo"]))["debug"] is False
    assert capsys.readouterr().err == ""


class NanAlgorithm(rlrun.PPO):
    """A loss that is nan."""

    def loss(self, rows):
        loss, metrics = super().loss(rows)
        return loss * torch.nan, metrics


class InfiniteColumn(rlrun.PPO):
    """Advantages that are infinite."""

    def postprocess(self, policy, trajectory):
        rows = super().postprocess(policy, trajectory)
        rows["advantages"][3] = np.inf
        return rows


class NanGradient(rlrun.PPO):
    """A finite loss whose gradient is nan."""

    def loss(self, rows):
        loss, metrics = super().loss(rows)
        dist, _ = self.policy(rows)
        return loss + (dist.inputs * 0.0).sqrt().sum(), metrics


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (NanAlgorithm, "The loss of ActorCritic is nan."),
        (InfiniteColumn, "The train batch of update 1: the column 'advantages' has inf at"),
        (NanGradient, "returned nan values"),
    ],
)
@pytest.mark.filterwarnings("ignore:Error detected")
def test_what_is_not_finite_is_named_where_it_arises(algorithm, message):
    learner = algorithm(train_batch_size=64, minibatch_size=32)
    overrides = ["debug=true", "logger=none"]
    with (
        learner.build(env="CartPole-v1", overrides=overrides) as trainer,
        pytest.raises(RuntimeError if algorithm is NanGradient else RlrunError) as raised,
    ):
        trainer.train()
    assert message in str(raised.value)
    assert not finite.is_checked_everywhere


def test_a_gradient_is_named_by_its_parameter():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    flat = FlatParameters(network)
    flat.has_learner = True
    flat.bind()
    network(torch.ones(1, 2)).sum().backward()
    finite.require_gradients(flat)
    network[1].weight.grad[0, 1] = torch.inf
    with pytest.raises(RlrunError, match=r"gradient of 1.weight is not finite in 1 of its 3 ent"):
        finite.require_gradients(flat)


def test_the_first_column_that_is_not_finite_is_named_with_its_place():
    columns = {"actions": np.zeros((2, 2), np.int64), "log_probs": np.array([[0.0, np.nan]])}
    with pytest.raises(RlrunError, match=r"Here: the column 'log_probs' has nan at \[0, 1\]"):
        finite.require_columns(columns, "Here")
