"""Each algorithm learns: seconds on small envs here, the tuned examples among the slow tests."""

from pathlib import Path

import pytest

from rlrun.compose import conf_dir
from rlrun.run import make_trainer

TUNED_EXAMPLES = sorted((conf_dir() / "tuned_examples").rglob("*.yaml"))


def best_mean_reward(trainer, num_iterations):
    with trainer:
        return max(trainer.train()["episode_reward_mean"] for _ in range(num_iterations))


def test_ppo_learns_to_balance_the_pole_for_longer():
    # A random policy lasts for about 22 steps.
    trainer = make_trainer("ppo", env="cartpole", seed=1)
    assert best_mean_reward(trainer, 20) > 120


def test_ppo_learns_a_continuous_action():
    # Pendulum's random policy gets about -1200, and a tuned one -170.
    trainer = make_trainer(
        "ppo",
        env="pendulum",
        overrides=[
            "tuned=none",
            "algo.lr=1e-3",
            "algo.gamma=0.9",
            "algo.num_envs_per_worker=4",
        ],
        seed=1,
    )
    assert best_mean_reward(trainer, 16) > -1000


@pytest.mark.parametrize(
    ("algo", "overrides"),
    [
        pytest.param("pg", ["algo.use_baseline=false", "algo.normalize_advantages=true"], id="pg"),
        pytest.param("pg", ["algo.use_baseline=true"], id="pg-baseline"),
        pytest.param("a2c", ["algo.train_batch_size=40"], id="a2c"),
        pytest.param("a3c", ["algo.rollout_fragment_length=5"], id="a3c"),
    ],
)
def test_policy_gradients_learn_to_balance_the_pole_for_longer(algo, overrides):
    # A random policy lasts for about 22 steps.
    common = ["tuned=none", "algo.lr=3e-3", "algo.num_envs_per_worker=8"]
    trainer = make_trainer(algo, env="cartpole", overrides=[*common, *overrides], seed=1)
    assert best_mean_reward(trainer, 12) > 60


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["algo.double_q=false", "algo.dueling=false"], id="plain"),
        pytest.param(
            ["algo.double_q=true", "algo.dueling=true"], id="double-dueling", marks=pytest.mark.slow
        ),
        pytest.param(["algo.prioritized_replay=true"], id="prioritized", marks=pytest.mark.slow),
        pytest.param(
            ["algo.num_atoms=21", "algo.v_min=0", "algo.v_max=2"], id="c51", marks=pytest.mark.slow
        ),
        pytest.param(["algo.num_quantiles=11"], id="quantiles", marks=pytest.mark.slow),
        pytest.param(["algo.noisy=true", "exploration=greedy"], id="noisy", marks=pytest.mark.slow),
        pytest.param(["algo.n_step=3"], id="n-step", marks=pytest.mark.slow),
    ],
)
def test_dqn_crosses_the_frozen_lake_that_is_not_slippery(overrides):
    # A random walk reaches the goal in 1 of 70 episodes; a learned one in every.
    trainer = make_trainer(
        "dqn",
        env="frozenlake",
        overrides=[
            "tuned=none",
            "env.env_config.is_slippery=false",
            "exploration.epsilon_timesteps=4000",
            "algo.learning_starts=300",
            "algo.gamma=0.9",
            "algo.lr=1e-3",
            "algo.train_batch_size=64",
            "algo.rollout_fragment_length=4",
            "algo.target_network_update_freq=100",
            *overrides,
        ],
        seed=1,
    )
    assert best_mean_reward(trainer, 8) > 0.5


def test_r2d2_remembers_what_was_shown_two_steps_ago():
    # Without memory the mean is 0; the best is 98.
    trainer = make_trainer(
        "r2d2",
        env="repeat_after_me",
        overrides=[
            "tuned=none",
            "model.fcnet_hiddens=[32]",
            "model.lstm_cell_size=32",
            "model.max_seq_len=16",
            "algo.hiddens=[]",
            "algo.burn_in=4",
            "algo.sequence_overlap=0",
            "algo.gamma=0.5",
            "algo.n_step=1",
            "algo.lr=3e-3",
            "algo.learning_starts=500",
            "algo.train_batch_size=32",
            "algo.rollout_fragment_length=16",
            "algo.target_network_update_freq=400",
            "exploration.epsilon_timesteps=3000",
        ],
        seed=1,
    )
    assert best_mean_reward(trainer, 5) > 30


MATCH_ENV = ["env=gym", "env.id=space_envs.MatchEnv"]


@pytest.mark.parametrize(
    ("algo", "overrides"),
    [
        pytest.param("sac", ["env.env_config.actions=box"], id="sac"),
        pytest.param("sac", ["env.env_config.actions=discrete"], id="sac-discrete"),
        pytest.param("td3", ["env.env_config.actions=box"], id="td3"),
        pytest.param(
            "ddpg", ["env.env_config.actions=box", "algo.actor_lr=1e-3", "algo.l2_reg=0"], id="ddpg"
        ),
    ],
)
def test_actor_critics_from_replay_learn_to_do_what_they_are_shown(algo, overrides):
    # Random actions get 3 to 4 of the 8 that an episode pays.
    common = [
        "tuned=none",
        "algo.gamma=0.0",
        "algo.critic_lr=1e-2",
        "algo.actor_lr=3e-3",
        "algo.actor_hiddens=[32]",
        "algo.critic_hiddens=[32]",
        "algo.learning_starts=200",
        "algo.train_batch_size=64",
        "algo.rollout_fragment_length=2",
        "algo.timesteps_per_iteration=400",
    ]
    alpha = ["algo.initial_alpha=0.01", "algo.entropy_lr=0"]
    common += alpha if algo == "sac" else ["exploration.random_timesteps=200"]
    trainer = make_trainer(algo, overrides=[*MATCH_ENV, *common, *overrides], seed=1)
    assert best_mean_reward(trainer, 5) > 5.5


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sac_swings_the_pendulum_up_within_a_few_thousand_steps():
    evaluation = ["evaluation.interval=1", "evaluation.duration=10"]
    with make_trainer("sac", env="pendulum", overrides=evaluation, seed=1) as trainer:
        results = [trainer.train() for _ in range(7)]
    assert results[-1]["timesteps_total"] == 7000
    # Between two that swing it up, a policy may fail for a thousand steps.
    assert max(result["evaluation"]["episode_reward_mean"] for result in results) > -200


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("path", TUNED_EXAMPLES, ids=lambda path: path.stem)
def test_tuned_example_reaches_its_pass_mark(path: Path, tmp_path, monkeypatch):
    from rlrun.cli import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["-f", str(path), "seed=1", "logger=none"])
    assert exit_.value.code == 0
