"""What a user changes while it trains reaches learner, workers, results and checkpoints."""

from __future__ import annotations

import numpy as np
import pytest

from rlrun.algos import apex, cql, dqn, marwil, r2d2, sac, td3
from rlrun.core.errors import ConfigError
from rlrun.run import make_trainer

PPO = [
    "algo.train_batch_size=64",
    "algo.minibatch_size=32",
    "algo.num_epochs=1",
    "algo.num_envs_per_worker=2",
    "algo.timesteps_per_iteration=0",
]
DQN = [
    "algo.train_batch_size=8",
    "algo.learning_starts=8",
    "algo.rollout_fragment_length=4",
    "algo.num_envs_per_worker=1",
    "algo.timesteps_per_iteration=16",
    "algo.buffer_size=100",
    "algo.n_step=1",
]


def learner_stats(result: dict) -> dict:
    return result["info"]["learner"]["default_policy"]["learner_stats"]


@pytest.mark.parametrize("name", ["lr", "clip_range", "gamma", "num_epochs"])
def test_plain_assignment_is_refused_and_names_the_setter(name):
    with make_trainer("ppo", env="CartPole-v1", overrides=PPO, seed=1) as trainer:
        algorithm = trainer.algorithms["default_policy"]
        with pytest.raises(AttributeError, match=rf"use|Use trainer\.set_hyperparameters\({name}="):
            setattr(algorithm, name, 0.5)


def test_a_new_step_size_and_clip_range_count_from_the_next_update_on():
    with make_trainer("ppo", env="CartPole-v1", overrides=PPO, seed=1) as trainer:
        trainer.train()
        trainer.set_hyperparameters(lr=0.0, clip_range=[[0, 0.5], [128, 0.25]])
        before = trainer.get_weights()["default_policy"]
        result = trainer.train()
        after = trainer.get_weights()["default_policy"]
    assert learner_stats(result)["cur_lr"] == 0.0
    assert learner_stats(result)["cur_clip_range"] == 0.25
    assert result["config"]["algo"]["lr"] == 0.0
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_new_discount_reaches_what_workers_compute(num_workers, ray_cluster):
    overrides = [
        *PPO,
        f"resources.num_workers={num_workers}",
        "resources.num_cpus_per_worker=0.5",
        "env.env_config.rewards=steps",
    ]
    with make_trainer("ppo", env="toy_envs.CountingEnv", overrides=overrides, seed=1) as trainer:
        trainer.set_hyperparameters(gamma=0.0)
        rows = trainer.workers.sample()["default_policy"]
    # Without a discounted future a return is the reward alone: the number of the step.
    np.testing.assert_allclose(rows["value_targets"], rows["obs"][:, 1] + 1, rtol=1e-4)


def test_parts_that_a_learner_holds_follow():
    with make_trainer("dqn", env="CartPole-v1", overrides=DQN, seed=1) as trainer:
        trainer.set_hyperparameters(
            train_batch_size=32, learning_starts=0, target_network_update_freq=7, tau=0.5
        )
        algorithm = trainer.algorithms["default_policy"]
        assert (algorithm.target.interval, algorithm.target.tau) == (7, 0.5)
        trained = trainer.train()["num_env_steps_trained"]
        assert trained == 4 * 32


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"lr": -1.0}, r"algo\.lr=-1\.0 must be at least 0"),
        ({"num_envs_per_worker": 4}, r"algo\.num_envs_per_worker is built in"),
        ({"learning_rate": 1e-3}, r"algo\.learning_rate does not exist.*lr"),
        ({"minibatch_size": 1000}, r"minibatch_size=1000 exceeds"),
        ({"kl_coeff": 0.5, "use_kl_loss": True}, r"algo\.kl_coeff is built in"),
        ({"use_kl_loss": True}, r"algo\.use_kl_loss is built in"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(values, words):
    with make_trainer("ppo", env="CartPole-v1", overrides=PPO, seed=1) as trainer:
        before = trainer.algorithms["default_policy"].lr
        with pytest.raises(ConfigError, match=words):
            trainer.set_hyperparameters(**values)
        assert trainer.algorithms["default_policy"].lr == before
        assert trainer.algorithms["default_policy"].changes == {}


@pytest.mark.parametrize(("algo", "name"), [("pg", "use_baseline"), ("appo", "kl_coeff")])
def test_what_decides_on_columns_or_where_adapting_begins_is_built_in(algo, name):
    with (
        make_trainer(algo, env="CartPole-v1", overrides=["tuned=none"], seed=1) as trainer,
        pytest.raises(ConfigError, match=rf"algo\.{name} is built in"),
    ):
        trainer.set_hyperparameters(**{name: 1})


@pytest.mark.parametrize("kind", [dqn.DQN, sac.SAC, td3.TD3, cql.CQL, apex.Apex, marwil.MARWIL])
def test_the_discount_of_replayed_rows_is_built_in(kind):
    with pytest.raises(ConfigError, match=r"algo\.gamma is built in"):
        kind().set_hyperparameters(gamma=0.5)


def test_the_discount_of_replayed_sequences_may_change():
    algorithm = r2d2.R2D2()
    algorithm.set_hyperparameters(gamma=0.5)
    assert algorithm.gamma == 0.5


def test_a_restored_trainer_goes_on_with_what_was_changed(tmp_path):
    with make_trainer("ppo", env="CartPole-v1", overrides=PPO, seed=1) as trainer:
        trainer.train()
        trainer.set_hyperparameters(lr=0.01, gamma=0.5)
        folder = trainer.save(tmp_path)
        expected = trainer.train()
    with make_trainer("ppo", env="CartPole-v1", overrides=PPO, seed=1) as resumed:
        resumed.restore(folder)
        found = resumed.train()
    assert learner_stats(found) == learner_stats(expected)
    assert learner_stats(found)["cur_lr"] == 0.01
    assert found["config"]["algo"]["gamma"] == 0.5
    with make_trainer("ppo", env="CartPole-v1", overrides=PPO, seed=1) as resumed:
        resumed.restore(folder, keep=["lr"])
        assert resumed.algorithms["default_policy"].gamma == 0.5
        assert learner_stats(resumed.train())["cur_lr"] != 0.01


def test_weights_that_the_user_sets_reach_the_target_network():
    with make_trainer("dqn", env="CartPole-v1", overrides=DQN, seed=1) as trainer:
        weights = trainer.get_weights()["default_policy"]
        trainer.set_weights(
            {"default_policy": {name: array + 1 for name, array in weights.items()}}
        )
        target = trainer.algorithms["default_policy"].target.network.get_weights()
    for name, array in weights.items():
        np.testing.assert_array_equal(target[name], array + 1)


def test_the_result_of_many_updates_is_their_mean():
    losses = []
    with make_trainer("dqn", env="CartPole-v1", overrides=DQN, seed=1) as trainer:
        algorithm = trainer.algorithms["default_policy"]
        learn = algorithm.learn

        def noting(rows):
            metrics = learn(rows)
            losses.append({name: np.array(metrics[name]) for name in ("total_loss", "td_error")})
            return metrics

        object.__setattr__(algorithm, "learn", noting)
        stats = learner_stats(trainer.train())
    assert len(losses) == 3  # from step 8 on, in 16 steps: one update per 4
    errors = np.concatenate([each["td_error"] for each in losses])
    assert stats["total_loss"] == pytest.approx(np.mean([each["total_loss"] for each in losses]))
    assert stats["mean_td_error"] == pytest.approx(errors.mean(), abs=1e-6)
    assert (stats["min_td_error"], stats["max_td_error"]) == (errors.min(), errors.max())


def test_timers_tell_sampling_from_learning():
    with make_trainer("ppo", env="CartPole-v1", overrides=PPO, seed=1) as trainer:
        timers = trainer.train()["timers"]
    parts = [timers[f"{phase}_time_ms"] for phase in ("sample", "learn", "sync_weights")]
    assert all(part > 0 for part in parts)
    assert sum(parts) <= timers["training_iteration_time_ms"]
