"""Policies with memory in whole runs: what only they solve, and right at every seam."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_cli import Outcome, command_line

from rlrun.algos.ppo import PPO
from rlrun.compose import compose, plain_config
from rlrun.core.actor_critic import ActorCritic
from rlrun.core.batch import Batch
from rlrun.core.checkpoint import list_checkpoints
from rlrun.core.errors import ConfigError
from rlrun.envs.t_maze import Move, Sight
from rlrun.parts import read_config
from rlrun.run import Run, make_trainer
from rlrun.trainer import Trainer

SMALL_PPO = [
    "tuned=none",
    "algo.lr=0.003",
    "algo.train_batch_size=512",
    "algo.minibatch_size=128",
    "algo.num_envs_per_worker=8",
    "algo.num_epochs=4",
    "algo.gae_lambda=0.9",
    "algo.entropy_coeff=0.01",
    "model.fcnet_hiddens=[16]",
]
MEMORIES = {
    "lstm": ["model.use_lstm=true", "model.lstm_cell_size=16"],
    "gtrxl": [
        "model=gtrxl",
        "model.attention_dim=16",
        "model.attention_head_dim=16",
        "model.attention_memory_inference=8",
        "model.attention_memory_training=8",
    ],
}
SEEING_ALL = {
    "lstm": ["model.lstm_use_prev_action=true", "model.lstm_use_prev_reward=true"],
    "gtrxl": ["model.attention_use_n_prev_actions=1", "model.attention_use_n_prev_rewards=1"],
}
SHORT_MAZE = ["env=t_maze", "env.env_config.corridor_length=3"]
TINY = ["algo.train_batch_size=96", "algo.minibatch_size=32", "model.max_seq_len=4"]
each_memory = pytest.mark.parametrize("memory", MEMORIES)

Rlrun = Callable[..., Outcome]


@pytest.fixture(scope="module", params=MEMORIES)
def solved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that learned the way through a short T-maze."""
    folder = tmp_path_factory.mktemp("memory") / "run"
    overrides = [
        *SHORT_MAZE,
        *SMALL_PPO,
        *MEMORIES[request.param],
        "logger=none",
        "seed=1",
        "stop.episode_reward_mean=0.95",
        "stop.timesteps_total=40000",
    ]
    result = Run(plain_config(compose(overrides)), folder).execute()
    assert result["episode_reward_mean"] >= 0.95
    return folder


@pytest.fixture
def restored(solved: Path) -> Iterator[Trainer]:
    plain = json.loads((solved / "params.json").read_text())
    with Trainer(read_config(plain).trainer) as trainer:
        trainer.restore(list_checkpoints(solved)[-1])
        yield trainer


@pytest.fixture
def rlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rlrun]:
    with command_line(tmp_path, monkeypatch) as run:
        yield run


def small_trainer(memory: str, *overrides: str, env: str = "cartpole") -> Trainer:
    given = [*SMALL_PPO, *MEMORIES[memory], *SEEING_ALL[memory], *TINY, *overrides]
    return make_trainer("ppo", env=env, overrides=given, seed=1)


# What only memory solves


def test_a_policy_without_memory_does_not_find_the_way():
    # It turns to either side as often to the right one as to the wrong one, whatever it learns.
    with make_trainer("ppo", env="t_maze", overrides=SMALL_PPO, seed=1) as trainer:
        for _ in range(30):
            result = trainer.train()
    assert result["episode_reward_mean"] < 0.5


def test_evaluation_remembers_within_an_episode_and_forgets_between_them(restored):
    found = restored.evaluate()["evaluation"]
    assert found["episode_reward_mean"] == pytest.approx(1.0)
    assert found["episodes_this_iter"] == 10


def test_a_rollout_remembers(rlrun, solved):
    outcome = rlrun("rollout", str(solved), "episodes=6")
    assert outcome.status == 0, outcome.stderr
    assert "6 episodes: mean reward 1.00 (min 1, max 1), mean length 4.0" in outcome.stdout


@pytest.mark.parametrize("full_fetch", [False, True])
def test_actions_are_computed_with_the_state_that_the_user_carries(restored, full_fetch):
    for sign, turn in ((Sight.LEFT_SIGN, Move.TURN_LEFT), (Sight.RIGHT_SIGN, Move.TURN_RIGHT)):
        state = None if full_fetch else restored.get_policy().get_initial_state()
        moves = []
        for sight in (sign, Sight.CORRIDOR, Sight.CORRIDOR, Sight.JUNCTION):
            action, state, _ = restored.compute_action(
                int(sight), state, explore=False, full_fetch=full_fetch
            )
            moves.append(action)
        assert moves == [Move.WALK, Move.WALK, Move.WALK, turn]
    # Without a state each call is an episode's first, and gives the action alone.
    assert restored.compute_action(int(Sight.LEFT_SIGN), explore=False) == Move.WALK


def test_actions_of_several_episodes_are_computed_at_once(restored):
    state = restored.get_policy().initial_state(2)
    for sights in ([1, 2], [0, 0], [0, 0], [3, 3]):
        actions, state, _ = restored.compute_actions(sights, state, explore=False)
    assert actions.tolist() == [Move.TURN_LEFT, Move.TURN_RIGHT]


# Rows


def assert_rows_are_what_was_acted_on(trainer: Trainer, **how: Any) -> Batch:
    """The learner's policy gives each real step of a sample what the worker's gave."""
    rows = trainer.workers.sample(**how)["default_policy"].to()
    assert rows["mask"].shape[1] == 4
    with torch.no_grad():
        dist, values = trainer.algorithms["default_policy"].policy(rows)
    log_probs = dist.log_prob(rows["actions"])
    for name, found in (("values", values), ("log_probs", log_probs)):
        torch.testing.assert_close(rows.real(found), rows.real(rows[name]), rtol=1e-3, atol=1e-4)
    return rows


@each_memory
@pytest.mark.parametrize("vectorization", ["sync", "async", "native"])
def test_a_worker_acts_as_the_learner_sees_it(memory, vectorization):
    with small_trainer(
        memory,
        f"env.vectorization={vectorization}",
        "algo.num_envs_per_worker=4",
        "env.observation_filter=MeanStdFilter",
    ) as trainer:
        for _ in range(2):  # Those after the first begin in mid-episode, with a filter that counts.
            trainer.workers.sample()
            trainer.workers.sync_weights(trainer.algorithms)
            rows = assert_rows_are_what_was_acted_on(trainer)
        lengths = rows["mask"].sum(1)
        assert lengths.min() < 4 == lengths.max()
        names = [name for name in rows if name.startswith("state_in/")]
        is_fresh = ~torch.stack(
            [rows[name].reshape(len(lengths), -1).bool().any(1) for name in names]
        ).any(0)
        assert is_fresh.any()
        assert not is_fresh.all()
        # At an episode's start there is no action and no reward before it either.
        assert not rows["prev_rewards"][is_fresh, 0].any()
        assert rows["prev_rewards"][~is_fresh, 0].all()


def test_remote_workers_send_sequences(ray_cluster):
    overrides = ["resources.num_workers=2", "resources.num_cpus_per_worker=0.5"]
    with small_trainer("lstm", "algo.num_envs_per_worker=2", *overrides) as trainer:
        result = trainer.train()
        assert result["timesteps_total"] == 96
        assert np.isfinite(result["info"]["learner"]["default_policy"]["learner_stats"]["kl"])
        assert_rows_are_what_was_acted_on(trainer)


@each_memory
def test_whole_episodes_are_cut_to_sequences(memory):
    with small_trainer(memory, "algo.batch_mode=complete_episodes") as trainer:
        rows = assert_rows_are_what_was_acted_on(trainer, min_steps=96)
        assert rows.num_steps < rows["mask"].numel()


@each_memory
def test_a_state_from_elsewhere_is_the_policys_or_is_refused(memory):
    with small_trainer(memory) as trainer:
        obs = trainer.workers.local_worker().spaces.observation_space.sample()
        state = trainer.get_policy().get_initial_state()
        expected = trainer.compute_action(obs, state, explore=False)
        through_json = json.loads(json.dumps({name: part.tolist() for name, part in state.items()}))
        found = trainer.compute_action(obs, through_json, explore=False)
        assert found[0] == expected[0]
        for name, part in expected[1].items():
            np.testing.assert_array_equal(found[1][name], part)
            assert found[1][name].dtype == part.dtype
        name, part = next(iter(state.items()))
        for wrong in ([*state.values()], {name: part}, {**state, name: np.zeros((3, 7))}):
            with pytest.raises(ValueError, match=r"state must hold arrays of these names"):
                trainer.compute_action(obs, wrong)
            with pytest.raises(ValueError, match=r"state must hold arrays of these names"):
                trainer.compute_actions([obs], wrong)


@each_memory
def test_padding_changes_nothing_that_ppo_learns_or_measures(memory):
    """Losses, normalised advantages, gradients and metrics: all the same to the last bit."""
    found = []
    for noise in (0.0, 5.0):
        with small_trainer(memory, "algo.use_kl_loss=true", "model.max_seq_len=5") as trainer:
            rows = trainer.workers.sample()["default_policy"]
            mask = rows["mask"]
            assert mask.sum(1).tolist()[:3] == [5, 5, 2]
            for column in rows.values():
                if column.shape[:2] == mask.shape and column.dtype == np.float32:
                    column[~mask] = noise
            learner = trainer.algorithms["default_policy"]
            metrics = learner.learn(rows.to())
            found.append((learner.policy.flat.values.clone(), metrics))
    assert torch.equal(found[0][0], found[1][0])
    assert {k: float(v) for k, v in found[0][1].items()} == {
        k: float(v) for k, v in found[1][1].items()
    }


# Resume


@each_memory
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_a_run_with_memory_goes_on_as_if_never_stopped(memory, vectorization, tmp_path):
    overrides = [f"env.vectorization={vectorization}", "algo.num_envs_per_worker=3"]
    with small_trainer(memory, *overrides) as trainer:
        trainer.train()
        folder = trainer.save(tmp_path)
        running = trainer.workers.local_worker().input
        assert all(part.any() for part in running.state.values())  # In mid-episode.
        expected = [trainer.train() for _ in range(2)]
        weights = trainer.get_policy().flat.values.clone()
    with small_trainer(memory, *overrides) as resumed:
        resumed.restore(folder)
        found = [resumed.train() for _ in range(2)]
        assert torch.equal(resumed.get_policy().flat.values, weights)
    for one, other in zip(found, expected, strict=True):
        assert one["hist_stats"] == other["hist_stats"]
        assert one["info"] == other["info"]


# What is refused


class ForgetfulPPO(PPO):
    """Makes a policy without asking what the model wants."""

    def make_policy(self, obs_space: Any, action_space: Any, model: Any) -> Any:
        return ActorCritic(obs_space, action_space, model)


@each_memory
def test_an_algorithm_that_would_ignore_the_memory_is_refused(memory):
    with pytest.raises(ConfigError, match="ForgetfulPPO makes policies without memory"):
        small_trainer(memory, "algo._target_=test_memory.ForgetfulPPO")


@each_memory
def test_dqn_refuses_a_memory(memory):
    overrides = [each for each in MEMORIES[memory] if "=true" in each or each == "model=gtrxl"]
    with pytest.raises(ConfigError, match="DQN learns from single steps"):
        make_trainer("dqn", env="cartpole", overrides=overrides)
