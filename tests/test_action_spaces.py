"""PPO acts, learns, is evaluated, saved and resumed in every kind of action space."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from space_envs import ACTION_SPACES, MatchEnv

from rlrun.algos.ppo import PPO
from rlrun.core.actions import ActionConverter
from rlrun.core.actor_critic import ActorCritic
from rlrun.core.callbacks import Callbacks
from rlrun.core.errors import ConfigError, SpaceError
from rlrun.core.nested import row_of
from rlrun.python_api import make_trainer
from rlrun.trainer import Trainer
from rlrun.workers.native_env import NativeVectorEnv

SMALL_PPO = [
    "tuned=none",
    "algo.lr=0.02",
    "algo.gamma=0",
    "algo.train_batch_size=512",
    "algo.minibatch_size=128",
    "algo.num_envs_per_worker=8",
    "algo.num_epochs=4",
    "model.fcnet_hiddens=[32]",
]

CHOICES = {"bounded": "beta"}
"""What model.action_distribution is set to, by the name of the space."""

LEARNED = {
    # A random policy gets 2 to 5 of 8, one that always hits 8.
    "multi binary": 7.5,
    "multi discrete": 7.5,
    "counts": 7.5,
    "tuple of choices": 7.5,
    "box": 4.0,
    "bounded": 5.2,
    "simplex": 6.7,
    "tuple": 5.5,
    "dict": 6.5,
}


def ppo(actions: str, *overrides: str) -> Trainer:
    distribution = CHOICES.get(actions, "auto")
    return make_trainer(
        "ppo",
        env="space_envs.MatchEnv",
        overrides=[
            *SMALL_PPO,
            f"env.env_config.actions={actions}",
            f"model.action_distribution={distribution}",
            *overrides,
        ],
        seed=1,
    )


@pytest.mark.parametrize("actions", LEARNED)
def test_ppo_learns_to_match_a_target_in_every_kind_of_space(actions):
    with ppo(actions) as trainer:
        first = trainer.train()["episode_reward_mean"]
        for _ in range(7):
            result = trainer.train()
        assert result["episode_reward_mean"] > max(LEARNED[actions], first + 1.0)
        env = MatchEnv(actions)
        observation, _ = env.reset(seed=0)
        rewards = []
        for _ in range(20):
            action = trainer.compute_action(observation, explore=False)
            observation, reward, *_ = env.step(action)
            rewards.append(reward)
        assert np.mean(rewards) > 0.75


class NoteActions(Callbacks):
    """Keeps the last action of every step, by worker process."""

    seen: ClassVar[list[Any]] = []

    def on_episode_step(self, *, episode, **kwargs):
        NoteActions.seen.append(episode.last_action)


@pytest.mark.parametrize("actions", ["tuple", "dict"])
def test_callbacks_and_users_see_actions_as_the_env_takes_them(actions):
    NoteActions.seen = []
    overrides = ["callbacks.note._target_=test_action_spaces.NoteActions", "evaluation.interval=1"]
    overrides += ["evaluation.duration=2", "algo.train_batch_size=128"]
    space = ACTION_SPACES[actions]
    with ppo(actions, *overrides) as trainer:
        result = trainer.train()
        assert result["evaluation"]["episodes_this_iter"] == 2
        assert len(NoteActions.seen) > 128
        assert all(space.contains(action) for action in NoteActions.seen)
        several = [np.eye(4, dtype=np.float32)[index] for index in range(3)]
        found, _, extras = trainer.compute_actions(several, full_fetch=True)
        assert all(space.contains(action) for action in found)
        assert extras["actions"].shape == (3, 3 if actions == "tuple" else 7)
        by_agent = trainer.compute_actions(dict(zip("abc", several, strict=True)))
        assert list(by_agent) == ["a", "b", "c"]
        assert space.contains(by_agent["c"])
        # The policy's own row leads to the action that the user gets.
        converter = ActionConverter(space, normalize_actions=True, distribution="auto")
        again = row_of(converter(extras["actions"]), 1)
        for one, other in zip(_flat(again), _flat(found[1]), strict=True):
            np.testing.assert_array_equal(one, other)


def _flat(action: Any) -> list[Any]:
    if isinstance(action, dict | tuple):
        parts = action.values() if isinstance(action, dict) else action
        return [leaf for part in parts for leaf in _flat(part)]
    return [action]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("actions", ["dict", "tuple of choices"])
def test_a_run_goes_on_as_if_never_stopped(actions, vectorization, tmp_path, caplog):
    # 7 steps of each env: the checkpoint lies within episodes of 8 steps.
    overrides = [
        f"env.vectorization={vectorization}",
        "algo.num_envs_per_worker=2",
        "algo.train_batch_size=14",
        "algo.minibatch_size=7",
        "algo.use_kl_loss=true",
        "exploration.random_timesteps=10",
    ]

    with ppo(actions, *overrides) as trainer:
        trainer.train()
        folder = trainer.save(tmp_path)
        expected = [trainer.train() for _ in range(2)]
        weights = trainer.get_weights()["default_policy"]
    with ppo(actions, *overrides) as resumed:
        resumed.restore(folder)
        found = [resumed.train() for _ in range(2)]
        for name, array in resumed.get_weights()["default_policy"].items():
            np.testing.assert_array_equal(array, weights[name])
    for one, other in zip(found, expected, strict=True):
        assert one["hist_stats"] == other["hist_stats"]
        assert one["info"] == other["info"]
    assert "did not reproduce" not in caplog.text


class LooksBack(ActorCritic):
    """Is told of the previous action, and keeps the last that it was told."""

    uses_previous = True

    def act(self, obs, state=None, previous=None, explore=True):
        self.told = previous
        return super().act(obs, state, previous, explore)


class LooksBackPPO(PPO):
    """PPO with such a policy."""

    def make_policy(self, obs_space, action_space, model):
        return LooksBack(obs_space, action_space, model)


def test_previous_actions_are_flat_rows_whoever_gives_them():
    overrides = ["algo._target_=test_action_spaces.LooksBackPPO", "algo.num_envs_per_worker=2"]
    with ppo("dict", *overrides) as trainer:
        worker = trainer.workers.local_worker()
        columns = worker.input.sample(20, 0, explore=True)
        starts = columns["truncated"][:-1]
        expected = np.where(starts[..., None], 0.0, columns["actions"][:-1])
        np.testing.assert_array_equal(columns["prev_actions"][1:], expected)
        assert not columns["prev_actions"][0].any()
        action = ACTION_SPACES["dict"].sample()
        observation = np.eye(4, dtype=np.float32)[0]
        trainer.compute_action(observation, prev_action=action, prev_reward=0.5)
        actor = worker.actors["default_policy"]
        given = row_of(actor.converter(actor.policy.told.actions), 0)
        for one, other in zip(_flat(given), _flat(action), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        trainer.compute_action(observation)
        assert not actor.policy.told.actions.any()


def test_native_vector_envs_get_batched_actions():
    env = NativeVectorEnv(
        gym.vector.SyncVectorEnv([lambda: MatchEnv("dict")] * 3), "toy", worker_index=0
    )
    env.reset([1, 2, 3])
    converter = ActionConverter(env.action_space, normalize_actions=True)
    rows = [env.action_space.sample() for _ in range(3)]
    _, rewards, _, _ = env.step(converter(converter.invert(rows)))
    assert np.isfinite(rewards).all()
    env.close()


def test_a_box_of_weights_is_learned_on_the_simplex_if_the_user_says_so():
    with ppo("weights", "model.action_distribution=dirichlet") as trainer:
        first = trainer.train()["episode_reward_mean"]
        for _ in range(4):
            result = trainer.train()
        assert result["episode_reward_mean"] > first + 0.7
        action = trainer.compute_action(np.eye(4, dtype=np.float32)[0])
        assert action.sum() == pytest.approx(1.0, abs=1e-5)


def test_remote_workers_act_in_structured_spaces(ray_cluster):
    with ppo("dict", "resources.num_workers=1", "algo.train_batch_size=128") as trainer:
        assert trainer.train()["num_env_steps_sampled"] == 128


@pytest.mark.parametrize(
    ("actions", "overrides", "error", "message"),
    [
        ("discrete", ["model.action_distribution=beta"], SpaceError, "draws Boxes of floats"),
        ("unbounded", ["model.action_distribution=beta"], SpaceError, "two bounds"),
        ("box", ["model.action_distribution=dirichlet"], SpaceError, "sum to 1"),
        ("discrete", ["model.log_std_init=0.5"], ConfigError, r"model\.log_std_init=0\.5 has no"),
        ("tuple of choices", ["model.free_log_std=false"], ConfigError, "no part of the actions"),
        ("bounded", ["model.log_std_init=0.5"], ConfigError, "no part of the actions"),
        (
            "box",
            ["model.log_std_init=0.5", "model.free_log_std=false"],
            ConfigError,
            "makes it a network output",
        ),
    ],
)
def test_settings_that_the_action_space_cannot_use_are_refused(actions, overrides, error, message):
    with pytest.raises(error, match=message):
        ppo(actions, *overrides)


def test_dqn_names_what_it_needs_where_actions_are_structured():
    with pytest.raises(SpaceError, match="algo=dqn needs a Discrete action space"):
        make_trainer("dqn", env="space_envs.MatchEnv")


def test_free_log_stds_count_the_gaussian_parts_alone():
    with ppo("tuple", "model.log_std_init=-1.0") as trainer:
        policy = trainer.get_policy()
        torch.testing.assert_close(policy.log_std.detach(), torch.full((2,), -1.0))
        # 3 choices and 2 means.
        assert policy.pi_head.out_features == 5
    with ppo("tuple", "model.free_log_std=false") as trainer:
        assert trainer.get_policy().log_std is None
        assert trainer.get_policy().pi_head.out_features == 7


def test_policies_for_other_structures_do_not_fit():
    with ppo("tuple") as trainer:
        actor = trainer.workers.local_worker().actors["default_policy"]
        with ppo("dict") as other, pytest.raises(SpaceError, match="The policy is for"):
            actor.check_fit(other.get_policy(), "toy")
        with ppo("tuple") as same:
            actor.check_fit(same.get_policy(), "toy")
    assert isinstance(actor.policy.action_space, spaces.Tuple)
