"""Runs with every exploration: they go on where they were, and nobody sees what is not theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from helpers_cli import tiny_dqn, tiny_ppo
from test_resume import EVALUATION, assert_resumed_equals_uninterrupted

from rlrun.core.errors import ConfigError, SpaceError
from rlrun.parts import read_config
from rlrun.run import make_trainer

SMALL = {
    "curiosity": {"feature_dim": 8, "inverse_net_hiddens": [8], "forward_net_hiddens": [8]},
    "rnd": {"embed_dim": 8, "predictor_hiddens": 8},
    "re3": {"embeds_dim": 8, "k_nn": 3, "num_neighbors": 20, "random_timesteps": 100},
    "parameter_noise": {"random_timesteps": 100},
}


def small(name: str) -> dict[str, Any]:
    return {f"exploration__{key}": value for key, value in SMALL.get(name, {}).items()}


WITH_DQN = (
    "soft_q",
    "per_worker_epsilon_greedy",
    "random",
    "parameter_noise",
    "curiosity",
    "rnd",
    "re3",
)
WITH_PPO = (
    "gaussian_noise",
    "ornstein_uhlenbeck_noise",
    "per_worker_gaussian_noise",
    "per_worker_ornstein_uhlenbeck_noise",
    "random",
    "parameter_noise",
    "curiosity",
    "rnd",
    "re3",
)


@pytest.mark.parametrize("name", WITH_DQN)
def test_dqn_with_it_goes_on_where_it_was(tmp_path, name):
    plain = tiny_dqn("algo=dqn", f"exploration={name}", **small(name), algo__n_step=3, **EVALUATION)
    assert_resumed_equals_uninterrupted(tmp_path, plain)


@pytest.mark.parametrize("name", WITH_PPO)
def test_ppo_with_it_goes_on_where_it_was(tmp_path, name):
    start = {} if name in ("random", "curiosity", "rnd") else {"exploration__random_timesteps": 100}
    plain = tiny_ppo("env=pendulum", "tuned=none", f"exploration={name}", **small(name) | start)
    assert_resumed_equals_uninterrupted(tmp_path, plain)


MODELS = {
    "lstm": ["model.fcnet_hiddens=[8]", "model.use_lstm=true", "model.lstm_cell_size=8"],
    "masked": ["env=gym", "env.id=space_envs.MaskedEnv", "model.mask_actions=true"],
    "tuple actions": ["env=gym", "env.id=space_envs.MatchEnv", "env.env_config={actions: tuple}"],
    "filtered": ["env.observation_filter=MeanStdFilter"],
}
SIZES = ["algo.num_envs_per_worker=2", "algo.timesteps_per_iteration=60", "tuned=none"]
ALGOS = {
    "ppo": ["algo.train_batch_size=40", "algo.minibatch_size=20"],
    "a2c": ["algo.train_batch_size=40"],
    "a3c": ["algo.rollout_fragment_length=10"],
    "impala": ["algo.train_batch_size=40", "algo.rollout_fragment_length=10"],
}


@pytest.mark.parametrize("name", ["parameter_noise", "curiosity", "rnd", "re3"])
@pytest.mark.parametrize(
    ("algo", "model"),
    [("ppo", "tuple actions"), ("impala", "masked"), ("a2c", "filtered"), ("a3c", "lstm")],
)
def test_every_algorithm_learns_with_it(name, algo, model):
    sizes = [f"exploration.{key}={value}" for key, value in SMALL[name].items()]
    overrides = [f"exploration={name}", *sizes, *SIZES, *ALGOS[algo], *MODELS[model]]
    with make_trainer(algo=algo, overrides=overrides, seed=1) as trainer:
        for _ in range(3):
            result = trainer.train()
        weights = trainer.get_weights()["default_policy"]
    numbers = result["info"]["exploration"]["default_policy"]
    key = "parameter_noise_stddev" if name == "parameter_noise" else "intrinsic_reward_mean"
    assert numbers[key] >= 0.0
    assert all(np.isfinite(number) for number in numbers.values())
    assert all(np.isfinite(array).all() for array in weights.values())


# Who sees what


CORRIDOR = ["env=corridor", "env.env_config.lure=0", *SIZES, *ALGOS["ppo"]]


def test_policies_see_the_envs_rewards_where_others_are_learned():
    model = [*MODELS["lstm"], "model.lstm_use_prev_reward=true"]
    sizes = [f"exploration.{key}={value}" for key, value in SMALL["rnd"].items()]
    overrides = ["env=cartpole", "exploration=rnd", *sizes, *SIZES, *ALGOS["impala"], *model]
    with make_trainer(algo="impala", overrides=overrides, seed=1) as trainer:
        rows = trainer.workers.local_worker().sample().batches["default_policy"]
    assert (rows["rewards"][rows["mask"]] > 1.0).all()
    # Also in the step behind a sequence's last one.
    assert set(rows["prev_rewards"].ravel()) == {0.0, 1.0}
    assert "acting_rewards" not in rows


@pytest.mark.parametrize("name", ["curiosity", "rnd", "re3"])
def test_rewards_of_episodes_are_the_envs_own(name):
    overrides = [*CORRIDOR, f"exploration={name}", "algo.timesteps_per_iteration=200"]
    with make_trainer(algo="ppo", overrides=overrides, seed=1) as trainer:
        result = trainer.train()
        batch = trainer.workers.local_worker().sample().batches["default_policy"]
    assert result["info"]["exploration"]["default_policy"]["intrinsic_reward_mean"] > 0.0
    assert set(result["hist_stats"]["episode_reward"]) == {0.0}
    assert batch["value_targets"].any()
    assert "next_obs" not in batch


def test_nothing_is_rewarded_where_the_run_does_not_explore():
    overrides = [*CORRIDOR, "exploration=rnd", "explore=false"]
    with make_trainer(algo="ppo", overrides=overrides, seed=1) as trainer:
        assert "exploration" not in trainer.train()["info"]


def test_weights_with_noise_are_known_to_nobody_but_the_worker_that_acts():
    overrides = [*CORRIDOR, "exploration=parameter_noise", "exploration.random_timesteps=0"]
    with make_trainer(algo="ppo", overrides=overrides, seed=1) as trainer:
        trainer.train()
        worker = trainer.workers.local_worker()
        actor = worker.actors["default_policy"]
        weights = actor.policy.flat.values.clone()
        assert (weights == trainer.get_policy().flat.values).all()
        worker.sample()
        assert (weights == actor.policy.flat.values).all()
        noisy = actor.exploration._perturbed.flat.values
        expected = weights.numpy() + actor.exploration.stddev_of_noise * actor.exploration.noise
        np.testing.assert_allclose(noisy, expected, rtol=1e-5, atol=1e-6)
        dist = actor.policy.act(np.eye(21, dtype=np.float32))[0]
        found = trainer.compute_actions({i: i for i in range(21)}, explore=False)
        assert [found[i] for i in range(21)] == dist.mode().tolist()


def test_another_exploration_within_is_given_as_a_node():
    overrides = ["algo=dqn", "exploration=rnd", "+exploration@exploration.sub_exploration=soft_q"]
    sub = read_config(tiny_dqn(*overrides)).trainer.worker.exploration.sub_exploration
    assert type(sub).__name__ == "SoftQ"
    overrides[-1] = "+exploration@exploration.sub_exploration=stochastic_sampling"
    with pytest.raises(ConfigError, match="algo=dqn has values of actions"):
        read_config(tiny_dqn(*overrides))


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (["algo.noisy=true", "exploration=parameter_noise"], ConfigError, "algo.noisy=true has"),
        (
            ["exploration=curiosity", "env=gym", "env.id=space_envs.MatchEnv"],
            SpaceError,
            "shares of",
        ),
        (["exploration=gaussian_noise"], SpaceError, "adds noise to continuous actions"),
        (
            [
                "exploration=rnd",
                "exploration.feature_net_config={_target_: rlrun.core.networks.MLP,use_lstm: true}",
            ],
            ConfigError,
            "only the encoder is used",
        ),
        (["exploration=re3", "exploration.k_nn=5000"], ConfigError, "must be below"),
        (["exploration=curiosity", "exploration.beta=2"], ConfigError, "between 0 and 1"),
        (["exploration=parameter_noise", "exploration.adaptation_coeff=1"], ConfigError, "above 1"),
    ],
)
def test_what_cannot_be_explored_in_that_way_is_refused(overrides, error, words):
    algo = "ppo" if "env=gym" in overrides else "dqn"
    with pytest.raises(error, match=words):
        make_trainer(algo=algo, overrides=overrides, seed=1)
