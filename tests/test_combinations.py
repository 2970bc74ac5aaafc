"""Every algorithm with every memory and every kind of space: what one part does to another."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlrun.run import make_trainer

SIZES = {
    "pg": ["algo.train_batch_size=32", "algo.num_envs_per_worker=2"],
    "a2c": ["algo.train_batch_size=20", "algo.num_envs_per_worker=2", "algo.microbatch_size=8"],
    "a3c": ["algo.rollout_fragment_length=10", "algo.num_envs_per_worker=2"],
    "ppo": [
        "algo.train_batch_size=32",
        "algo.minibatch_size=16",
        "algo.num_envs_per_worker=2",
        "algo.num_epochs=2",
        "algo.use_kl_loss=true",
    ],
    "ddppo": [
        "algo.train_batch_size=32",
        "algo.minibatch_size=16",
        "algo.num_envs_per_worker=2",
    ],
    "impala": [
        "algo.train_batch_size=40",
        "algo.rollout_fragment_length=10",
        "algo.num_envs_per_worker=2",
        "algo.broadcast_interval=2",
        "algo.replay_proportion=0.5",
        "algo.replay_buffer_num_slots=4",
    ],
    "appo": [
        "algo.train_batch_size=40",
        "algo.rollout_fragment_length=10",
        "algo.num_envs_per_worker=2",
        "algo.num_sgd_iter=2",
        "algo.use_kl_loss=true",
    ],
    "r2d2": [
        "algo.hiddens=[8]",
        "algo.burn_in=2",
        "algo.sequence_overlap=1",
        "algo.learning_starts=50",
        "algo.train_batch_size=8",
        "algo.buffer_size=40",
        "algo.target_network_update_freq=40",
        "algo.num_envs_per_worker=2",
    ],
    "es": ["algo.episodes_per_batch=6", "algo.train_batch_size=1", "algo.noise_size=100000"],
    "ars": ["algo.num_rollouts=3", "algo.rollouts_used=2", "algo.noise_size=100000"],
}
MODELS = {
    "mlp": ["model.fcnet_hiddens=[8]"],
    "lstm": ["model.fcnet_hiddens=[8]", "model.use_lstm=true", "model.lstm_cell_size=8"],
    "gtrxl": [
        "model=gtrxl",
        "model.fcnet_hiddens=[8]",
        "model.attention_dim=8",
        "model.attention_head_dim=8",
        "model.attention_memory_inference=4",
        "model.attention_memory_training=4",
    ],
}
LEARN_FROM_NO_SEQUENCES = {"es", "ars"}
MEMORY_SIZE = {"mlp": [], "lstm": ["model.max_seq_len=4"], "gtrxl": ["model.max_seq_len=4"]}
ENVS: dict[str, list[str]] = {
    "cartpole": ["env=cartpole"],
    "dict actions": ["env=gym", "env.id=space_envs.MatchEnv"],
    "masked": ["env=gym", "env.id=space_envs.MaskedEnv", "model.mask_actions=true"],
}


REFUSED = {("r2d2", "mlp"), ("r2d2", "dict actions")}
"""What an algorithm cannot learn with: its own tests say in which words."""
FROM_REPLAY = [
    "algo.actor_hiddens=[8]",
    "algo.critic_hiddens=[8]",
    "algo.train_batch_size=16",
    "algo.buffer_size=100",
    "algo.learning_starts=30",
    "algo.num_envs_per_worker=2",
]
BOX_ACTIONS = ["env=gym", "env.id=space_envs.MatchEnv", "env.env_config.actions=box"]
IMAGES = [
    "env=gym",
    "env.id=space_envs.NestedImageEnv",
    "model=cnn",
    "model.conv_filters=[[2,3,2]]",
    "model.post_fcnet_hiddens=[8]",
]
FILTERED = ["env=pendulum", "env.horizon=20", "env.observation_filter=MeanStdFilter"]
TD3_SIZES = ["exploration.random_timesteps=20"]
ACTOR_CRITICS = {
    "sac box": ("sac", BOX_ACTIONS),
    "sac filtered, prioritised, 3 steps": (
        "sac",
        [*FILTERED, "algo.prioritized_replay=true", "algo.n_step=3"],
    ),
    "sac discrete, more updates than steps": (
        "sac",
        ["env=cartpole", "algo.training_intensity=40"],
    ),
    "sac dict observations": (
        "sac",
        ["env=gym", "env.id=toy_envs.DictObsEnv", "algo.twin_q=false"],
    ),
    "sac images, one encoder": ("sac", IMAGES),
    "sac images, two encoders": ("sac", [*IMAGES, "model.vf_share_layers=false"]),
    "td3 box": ("td3", [*BOX_ACTIONS, *TD3_SIZES]),
    "td3 filtered, whole episodes": (
        "td3",
        [*FILTERED, *TD3_SIZES, "algo.batch_mode=complete_episodes"],
    ),
    "td3 images": (
        "td3",
        [
            *IMAGES,
            *TD3_SIZES,
            "env.id=toy_envs.ImageAndForceEnv",
        ],
    ),
    "ddpg box": ("ddpg", [*BOX_ACTIONS, *TD3_SIZES, "algo.prioritized_replay=true"]),
}


def settings(algo: str, model: str, env: str) -> dict[str, Any]:
    overrides = [*ENVS[env], *SIZES[algo], *MODELS[model]]
    if algo not in LEARN_FROM_NO_SEQUENCES:
        overrides += MEMORY_SIZE[model]
    overrides += ["tuned=none", "algo.timesteps_per_iteration=60"]
    return {"algo": algo, "overrides": overrides, "seed": 1}


PAIRS = [("mlp", "dict actions"), ("mlp", "masked")]
PAIRS += [(model, env) for model in ("lstm", "gtrxl") for env in ENVS]


@pytest.mark.parametrize(
    ("algo", "model", "env"),
    [
        pytest.param(
            *(algo, model, env),
            # What an env gives is the same for both memories.
            marks=pytest.mark.slow if model == "gtrxl" and env != next(iter(ENVS)) else (),
        )
        for algo in SIZES
        for model, env in PAIRS
        if not {(algo, model), (algo, env)} & REFUSED
    ],
)
def test_it_learns_and_goes_on_where_it_was(algo, model, env, tmp_path):
    assert_learns_and_goes_on(settings(algo, model, env), tmp_path)


@pytest.mark.parametrize("case", ACTOR_CRITICS)
def test_actor_critics_from_replay_learn_and_go_on_where_they_were(case, tmp_path):
    algo, overrides = ACTOR_CRITICS[case]
    common = ["tuned=none", "algo.timesteps_per_iteration=30", *FROM_REPLAY]
    given = {"algo": algo, "overrides": [*common, *overrides], "seed": 1}
    assert_learns_and_goes_on(given, tmp_path)


def assert_learns_and_goes_on(given: dict[str, Any], tmp_path: Any) -> None:
    def make():
        return make_trainer(**given)

    with make() as trainer:
        before = trainer.get_weights()["default_policy"]
        trainer.train()
        folder = trainer.save(tmp_path)
        expected = [trainer.train() for _ in range(2)]
        after = trainer.get_weights()["default_policy"]
        assert all(np.isfinite(array).all() for array in after.values())
        assert any((after[name] != before[name]).any() for name in before)
    with make() as resumed:
        resumed.restore(folder)
        found = [resumed.train() for _ in range(2)]
    for one, other in zip(found, expected, strict=True):
        assert one["hist_stats"] == other["hist_stats"]
        assert one["info"] == other["info"]
