"""torch.compile and bfloat16 for learners: the same learning, nearly, and exact resumes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlrun.core.errors import ConfigError
from rlrun.python_api import make_trainer
from rlrun.trainer import Trainer

PPO = ["tuned=none", "algo.train_batch_size=64", "algo.minibatch_size=32", "algo.num_epochs=1"]
CNN = ["model=cnn", "model.post_fcnet_hiddens=[16]"]
DQN = ["tuned=none", "algo.timesteps_per_iteration=80", "algo.learning_starts=64"]
DQN += ["algo.train_batch_size=16", "algo.buffer_size=100"]

R2D2 = ["model.max_seq_len=8", "algo.burn_in=2", "algo.sequence_overlap=2"]
R2D2 += ["algo.rollout_fragment_length=20"]
GTRXL = ["model=gtrxl", "model.attention_dim=16", "model.attention_head_dim=8"]
GTRXL += ["model.attention_num_transformer_units=1", "model.attention_num_heads=2"]

LEARNERS: dict[str, tuple[str, str, list[str]]] = {
    "ppo": ("ppo", "CartPole-v1", PPO),
    "cnn": ("ppo", "toy_envs.ImageEnv", [*PPO, *CNN, "env.env_config.truncates_at=10"]),
    "lstm": ("ppo", "CartPole-v1", [*PPO, "model.use_lstm=true", "model.lstm_cell_size=16"]),
    "dqn": ("dqn", "CartPole-v1", DQN),
    "rainbow": ("rainbow", "CartPole-v1", [*DQN, "algo.n_step=1"]),
    "sac": ("sac", "Pendulum-v1", DQN),
    "gtrxl": ("ppo", "CartPole-v1", [*PPO, *GTRXL]),
    "entropy": ("ppo", "CartPole-v1", [*PPO, "algo.entropy_coeff=0.01"]),
    "gaussian": ("ppo", "Pendulum-v1", PPO),
    "pg": ("pg", "CartPole-v1", ["tuned=none", "algo.timesteps_per_iteration=0"]),
    "a2c": ("a2c", "CartPole-v1", ["tuned=none", "algo.timesteps_per_iteration=0"]),
    "a3c": ("a3c", "CartPole-v1", ["tuned=none", "algo.timesteps_per_iteration=0"]),
    "impala": ("impala", "CartPole-v1", ["tuned=none", "algo.timesteps_per_iteration=0"]),
    "appo": ("appo", "CartPole-v1", ["tuned=none", "algo.timesteps_per_iteration=0"]),
    "ddppo": ("ddppo", "CartPole-v1", PPO),
    "r2d2": ("r2d2", "CartPole-v1", [*DQN, *R2D2]),
}


def trainer_of(name: str, *overrides: str) -> Trainer:
    algo, env, own = LEARNERS[name]
    return make_trainer(algo, env=env, overrides=[*own, *overrides], seed=1)


def stats(result: dict[str, Any]) -> dict[str, float]:
    return result["info"]["learner"]["default_policy"]["learner_stats"]


def first_losses(name: str, *overrides: str) -> dict[str, float]:
    with trainer_of(name, *overrides) as trainer:
        found = stats(trainer.train())
    return {key: value for key, value in found.items() if "loss" in key}


@pytest.mark.parametrize(
    ("name", "switch"),
    [
        # Compiling takes most of a minute each.
        *(
            pytest.param(name, "compile", marks=pytest.mark.slow)
            for name in ("ppo", "cnn", "dqn", "sac", "lstm")
        ),
        *((name, "amp") for name in ("ppo", "cnn", "dqn", "rainbow", "lstm", "gtrxl", "r2d2")),
        *((name, "amp") for name in ("entropy", "a2c", "impala")),
        *(
            pytest.param(name, "amp", marks=pytest.mark.slow)
            for name in ("gaussian", "pg", "a3c", "appo", "ddppo")
        ),
    ],
)
def test_losses_stay_close_to_those_without(name, switch):
    plain, fast = first_losses(name), first_losses(name, f"model.{switch}=true")
    assert plain.keys() == fast.keys()
    assert plain
    tolerance = 1e-3 if switch == "compile" else 0.1
    for key, value in plain.items():
        assert fast[key] == pytest.approx(value, rel=tolerance, abs=tolerance), key


@pytest.mark.parametrize("switch", [pytest.param("compile", marks=pytest.mark.slow), "amp"])
def test_a_resume_stays_exact(switch, tmp_path):
    with trainer_of("ppo", f"model.{switch}=true") as trainer:
        trainer.train()
        checkpoint = trainer.save(tmp_path)
        expected = stats(trainer.train())
        weights = trainer.get_weights()["default_policy"]
    with trainer_of("ppo", f"model.{switch}=true") as trainer:
        trainer.restore(checkpoint)
        assert stats(trainer.train()) == expected
        for key, array in trainer.get_weights()["default_policy"].items():
            np.testing.assert_array_equal(array, weights[key])


@pytest.mark.parametrize(
    ("algo", "switch"), [("sac", "amp"), ("td3", "amp"), ("es", "amp"), ("es", "compile")]
)
def test_switches_that_a_learner_has_not_are_refused(algo, switch):
    env = "CartPole-v1" if algo == "es" else "Pendulum-v1"
    with pytest.raises(ConfigError, match=rf"model\.{switch}=true: \w+ cannot learn in this way"):
        make_trainer(algo, env=env, overrides=[f"model.{switch}=true"])


def test_a_missing_compiler_is_said_before_training(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"model\.compile=true needs a C\+\+ compiler"):
        trainer_of("ppo", "model.compile=true")
