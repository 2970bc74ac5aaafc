"""Acting: on weights of its own, in evaluation mode, with streams of its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rlrun.algos.dqn import DQN
from rlrun.core.exploration import EpsilonGreedy
from rlrun.run import make_trainer


class DropAndNormalize(nn.Module):
    """A network with dropout and batch normalisation."""

    def __init__(self, obs_space: Any) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(obs_space.shape[0], 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.5)
        )
        self.output_size = 16

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.layers(obs)


def test_dropout_and_batch_norm_act_in_evaluation_mode_and_learn_in_training_mode():
    overrides = ["model=custom", "model.module=test_actor.DropAndNormalize"]
    overrides += ["algo.train_batch_size=64", "algo.minibatch_size=32", "algo.lr=0.0"]
    overrides += ["algo.timesteps_per_iteration=0"]
    with make_trainer("ppo", env="CartPole-v1", overrides=overrides, seed=1) as trainer:
        acting = trainer.workers.local_worker().get_policy()
        norm, learned = acting.pi_encoder.layers[1], trainer.get_policy().pi_encoder.layers[1]
        obs = np.ones((3, 4), np.float32)
        first = acting.act(obs)[1]["values"]
        trainer.workers.sample()
        np.testing.assert_array_equal(acting.act(obs)[1]["values"], first)
        assert int(norm.num_batches_tracked) == int(learned.num_batches_tracked) == 0
        trainer.train()
        # Two encoders see two minibatches in each epoch; the workers get what came of it.
        assert (
            int(learned.num_batches_tracked) == 2 * trainer.algorithms["default_policy"].num_epochs
        )
        torch.testing.assert_close(norm.running_mean, learned.running_mean)
        assert trainer.get_policy().training
        assert not acting.training


def test_looking_at_actions_does_not_change_training():
    results = []
    for looks in (False, True):
        with make_trainer("ppo", env="CartPole-v1", seed=3) as trainer:
            for _ in range(2):
                if looks:
                    trainer.compute_action(np.zeros(4, np.float32), explore=True)
                result = trainer.train()
            results.append((result["hist_stats"], result["info"]))
    assert results[0] == results[1]


def test_what_is_explored_for_the_user_is_drawn_anew_each_time():
    with make_trainer("ppo", env="CartPole-v1", seed=3) as trainer:
        obs = [np.zeros(4, np.float32)] * 64
        first, second = (trainer.compute_actions(obs, explore=True) for _ in range(2))
        assert (first != second).any()


def test_a_previous_action_is_refused_where_no_policy_looks_at_it():
    with (
        make_trainer("ppo", env="CartPole-v1", seed=3) as trainer,
        pytest.raises(ValueError, match="ActorCritic does not look at the previous action"),
    ):
        trainer.compute_action(np.zeros(4, np.float32), prev_action=1)


def noisy_worker(make_worker: Any, **settings: Any) -> Any:
    algorithm = DQN(noisy=True, hiddens=[8], num_envs_per_worker=3, rollout_fragment_length=4)
    greedy = EpsilonGreedy(initial_epsilon=0.0, final_epsilon=0.0)
    return make_worker("CartPole-v1", algorithm=algorithm, exploration=greedy, **settings)


def test_noisy_layers_draw_noise_for_each_step_and_each_env(make_worker):
    actor = noisy_worker(make_worker).actors["default_policy"]
    obs = np.ones((3, 4), np.float32)
    q_values = []
    for _ in range(2):
        actor.act(obs, {}, None, 0, True)
        q_values.append(actor.policy.act(obs)[0].inputs)
    rows = np.concatenate(q_values)
    assert len(np.unique(rows.round(6), axis=0)) == 6


def test_noisy_layers_are_their_means_where_nothing_is_explored(make_worker):
    actor = noisy_worker(make_worker).actors["default_policy"]
    obs = np.ones((3, 4), np.float32)
    actor.act(obs, {}, None, 0, False)
    q_values = actor.policy.act(obs)[0].inputs
    for layer in actor.policy.noisy_layers:
        layer.sigma_weight.data.zero_()
        layer.sigma_bias.data.zero_()
    np.testing.assert_allclose(actor.policy.act(obs)[0].inputs, q_values, rtol=1e-6)
