"""ES and ARS as runs: workers that change no number, filters, resume, refusals, reports."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlrun.algos import perturbation
from rlrun.core.callbacks import Callbacks
from rlrun.core.errors import ConfigError, Interrupted, SpaceError, WorkerError
from rlrun.core.filters import RunningMoments
from rlrun.run import make_trainer
from rlrun.trainer import Trainer

ID = "default_policy"

SMALL = {
    "es": ["algo.episodes_per_batch=10", "algo.train_batch_size=150"],
    "ars": ["algo.num_rollouts=5", "algo.rollouts_used=3"],
}


def trainer_of(
    algo: str, *overrides: str, env: str = "CartPole-v1", num_workers: int = 0
) -> Trainer:
    common = ["tuned=none", "algo.noise_size=100000", "model.fcnet_hiddens=[8]"]
    common += [f"resources.num_workers={num_workers}", "resources.num_cpus_per_worker=0.5"]
    return make_trainer(algo, env=env, overrides=[*common, *SMALL[algo], *overrides], seed=3)


def stats_of(result: dict[str, Any]) -> dict[str, float]:
    return result["info"]["learner"][ID]["learner_stats"]


def story(trainer: Trainer, num_iterations: int = 3) -> tuple[list[Any], dict[str, np.ndarray]]:
    """What the results say, and the weights, filter included, after them."""
    results = [trainer.train() for _ in range(num_iterations)]
    told = [(each["hist_stats"], each["info"], each["timesteps_total"]) for each in results]
    return told, trainer.get_weights()[ID]


def assert_same(one: tuple[list[Any], Any], other: tuple[list[Any], Any]) -> None:
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    for name, array in one[1].items():
        assert array.tobytes() == other[1][name].tobytes(), name


# Workers


def test_the_number_of_workers_changes_no_number(ray_cluster):
    overrides = ["algo.action_noise_std=0.3", "env.observation_filter=MeanStdFilter"]
    overrides.append("env.horizon=30")
    with trainer_of("ars", *overrides, env="Pendulum-v1") as alone:
        expected = story(alone)
    with trainer_of("ars", *overrides, env="Pendulum-v1", num_workers=3) as three:
        assert_same(story(three), expected)


def weights_everywhere(trainer: Trainer) -> list[np.ndarray]:
    return trainer.workers.foreach_worker(lambda worker: worker.get_policy().flat.values.numpy())


def test_a_run_goes_on_with_workers_as_it_would_have_without(ray_cluster, tmp_path):
    overrides = ["env.observation_filter=MeanStdFilter"]
    with trainer_of("es", *overrides) as alone:
        story(alone, 2)
        folder = alone.save(tmp_path)
        alone.set_hyperparameters(stepsize=0.25, noise_stdev=0.5)
        expected = story(alone, 2)
    with trainer_of("es", *overrides, num_workers=2) as two:
        two.restore(folder)
        two.set_hyperparameters(stepsize=0.25, noise_stdev=0.5)
        assert_same(story(two, 2), expected)
        # Perturbations are gone.
        for found in weights_everywhere(two):
            np.testing.assert_array_equal(found, two.get_policy().flat.values.numpy())
        ray_cluster.kill(two.workers.remote_workers()[1])
        with pytest.raises(WorkerError, match="Worker 2 died"):
            two.train()
        two.workers.leave_dead()
        assert two.save(tmp_path / "after").is_dir()


# Resume


@pytest.mark.parametrize(
    ("algo", "overrides"),
    [
        ("es", ["algo.stepsize=[[0, 0.1], [2000, 0.0]]", "env.observation_filter=MeanStdFilter"]),
        ("es", ["algo.opt_type=sgd", "algo.return_proc_mode=sign"]),
        ("ars", ["algo.offset=0.5"]),
    ],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, algo, overrides):
    with trainer_of(algo, *overrides) as trainer:
        story(trainer, 2)
        folder = trainer.save(tmp_path)
        expected = story(trainer, 2)
    with trainer_of(algo, *overrides) as resumed:
        resumed.restore(folder)
        assert_same(story(resumed, 2), expected)


def test_changed_hyperparameters_are_kept_and_the_noise_table_cannot_change(tmp_path):
    with trainer_of("es") as trainer:
        trainer.set_hyperparameters(stepsize=0.25, noise_stdev=0.5)
        assert stats_of(trainer.train())["cur_stepsize"] == 0.25
        folder, expected = trainer.save(tmp_path), story(trainer, 1)
        with pytest.raises(ConfigError, match=r"algo\.noise_size is built in"):
            trainer.set_hyperparameters(noise_size=10)
    with trainer_of("es") as resumed:
        resumed.restore(folder)
        assert_same(story(resumed, 1), expected)


def test_an_interrupted_iteration_ends_after_the_round_that_runs():
    with trainer_of("es", "algo.timesteps_per_iteration=100000") as trainer:
        gather = trainer.workers.map

        def interrupting(*args: Any) -> Any:
            trainer.interrupt()
            return gather(*args)

        trainer.workers.map = interrupting  # type: ignore[method-assign]
        with pytest.raises(Interrupted, match="was interrupted"):
            trainer.train()
        assert trainer.algorithms[ID].num_updates == 1


# What is gathered and reported


class Noting(Callbacks):
    """Keeps the observations on which was acted."""

    def __init__(self) -> None:
        self.acted_on: list[np.ndarray] = []
        self.returns: list[float] = []
        self.last: np.ndarray = np.zeros(0)

    def on_episode_start(self, *, episode, **kwargs):
        self.last = episode.last_observation

    def on_episode_step(self, *, episode, **kwargs):
        self.acted_on.append(self.last)
        self.last = np.array(episode.last_observation)

    def on_episode_end(self, *, episode, **kwargs):
        self.returns.append(episode.total_reward)


def test_filters_have_the_moments_of_all_that_workers_acted_on():
    noting = f"callbacks.x._target_={__name__}.Noting"
    with trainer_of("ars", noting, "env.observation_filter=MeanStdFilter") as trainer:
        for _ in range(2):
            trainer.train()
        seen = np.array(trainer.callbacks.acted_on, np.float64)
        found = trainer.algorithms[ID].policy.observation_filter
        total = trainer.workers.num_env_steps_sampled
    assert len(seen) == total == int(found.count)
    np.testing.assert_allclose(found.mean.numpy(), seen.mean(0), rtol=1e-6)
    moments = RunningMoments((4,))
    moments.add(seen)
    np.testing.assert_allclose(found.squares.numpy(), moments.squares, rtol=1e-6)


def test_results_tell_of_unperturbed_episodes_and_statistics_of_perturbed_ones():
    noting = f"callbacks.x._target_={__name__}.Noting"
    with trainer_of("ars", noting, "algo.eval_prob=0.2") as trainer:
        result = trainer.train()
        returns = trainer.callbacks.returns
    # Five directions with two episodes each, then two with the weights as they are.
    assert len(returns) == 12
    assert result["hist_stats"]["episode_reward"] == returns[10:]
    assert result["episode_reward_mean"] == np.mean(returns[10:])
    assert (result["episodes_this_iter"], result["episodes_total"]) == (2, 2)
    assert stats_of(result)["mean_perturbed_return"] == pytest.approx(np.mean(returns[:10]))
    assert stats_of(result)["max_perturbed_return"] == max(returns[:10])
    assert result["timesteps_total"] == sum(returns)
    assert result["num_env_steps_trained"] == sum(returns[:10])
    assert result["info"]["learner"][ID]["num_perturbed_episodes"] == 10
    assert {"weights_norm", "grad_norm", "update_ratio"} <= stats_of(result).keys()


def test_es_tries_on_until_it_has_the_steps_of_a_batch():
    with trainer_of("es", "algo.train_batch_size=600") as trainer:
        result = trainer.train()
        episodes = result["info"]["learner"][ID]["num_perturbed_episodes"]
    steps = result["num_env_steps_trained"]
    assert steps >= 600
    assert episodes > 10
    assert episodes % 10 == 0
    assert result["episodes_this_iter"] == episodes / 10


class Batches(Callbacks):
    """Reports what it saw of a train batch."""

    def on_learn_on_batch(self, *, policy, train_batch, result, **kwargs):
        result["shape"] = np.array(train_batch["returns"].shape, float)


def test_hooks_see_the_directions_of_each_update():
    with trainer_of("ars", f"callbacks.x._target_={__name__}.Batches") as trainer:
        found = trainer.train()["info"]["learner"][ID]["custom_metrics"]
    assert (found["min_shape"], found["max_shape"]) == (2.0, 5.0)


def test_both_episodes_of_a_pair_begin_alike():
    noting = f"callbacks.x._target_={__name__}.Noting"
    with trainer_of("ars", noting, env="Pendulum-v1") as trainer:
        trainer.train()
        starts = trainer.callbacks.acted_on[::200]
    assert len(starts) == 11
    np.testing.assert_array_equal(starts[0:10:2], starts[1:10:2])
    assert len(np.unique(starts, axis=0)) == 6


def test_what_is_sought_is_the_return_that_the_algorithm_sees():
    with trainer_of("ars", "env.clip_rewards=0.25") as trainer:
        result = trainer.train()
    stats = stats_of(result)
    assert stats["mean_perturbed_return"] == pytest.approx(0.25 * stats["mean_perturbed_len"])
    assert result["episode_reward_mean"] == result["episode_len_mean"]


def test_users_see_the_weights_as_they_are_act_for_certain():
    with trainer_of("es", env="Pendulum-v1") as trainer:
        policy, obs = trainer.get_policy(), np.array([1.0, 0.0, 0.5], np.float32)
        mode = policy.act(obs[None], explore=False)[0].mode()[0]
        actions = [trainer.compute_action(obs, explore=False) for _ in range(3)]
        np.testing.assert_allclose(actions, [2 * mode] * 3, rtol=1e-5)
        # Exploring is noise of the general 0.01, of a range from -1 to 1.
        noisy = [trainer.compute_action(obs)[0] for _ in range(200)]
        assert np.std(noisy) == pytest.approx(2 * 0.01, rel=0.2)


def test_evaluation_may_have_several_envs():
    more = ["evaluation.interval=1", "evaluation.config.algo.num_envs_per_worker=4"]
    with trainer_of("ars", *more) as trainer:
        assert trainer.train()["evaluation"]["episodes_this_iter"] == 10


# Learning


class Target(gym.Env):
    """One step: the reward is less the further the action is from what the observation says."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.observation = self.np_random.uniform(-1, 1, 2).astype(np.float32)
        return self.observation, {}

    def step(self, action: Any) -> Any:
        wanted = 0.5 * self.observation[0] - 0.3 * self.observation[1] + 0.2
        return self.observation, -float((action[0] - wanted) ** 2), True, False, {}


@pytest.mark.parametrize(
    ("algo", "overrides"),
    [
        ("es", ["algo.episodes_per_batch=50", "algo.train_batch_size=1", "algo.stepsize=0.03"]),
        ("ars", ["algo.num_rollouts=20", "algo.rollouts_used=10", "algo.sgd_stepsize=0.05"]),
    ],
)
def test_it_finds_the_best_linear_policy(algo, overrides):
    more = ["model.fcnet_hiddens=[]", "algo.noise_stdev=0.05", "algo.eval_prob=0.1"]
    with trainer_of(algo, *more, *overrides, env=f"{__name__}.Target") as trainer:
        results = [trainer.train() for _ in range(60)]
        weights = trainer.get_weights()[ID]
    # A policy that does nothing gets -0.15.
    assert np.mean(results[-1]["hist_stats"]["episode_reward"][-10:]) > -0.01
    np.testing.assert_allclose(weights["head.weight"], [[0.5, -0.3]], atol=0.1)
    np.testing.assert_allclose(weights["head.bias"], [0.2], atol=0.1)


@pytest.mark.parametrize("algo", ["es", "ars"])
def test_it_learns_to_balance_the_pole_for_longer(algo):
    # A random policy lasts for about 22 steps.
    with make_trainer(algo, env="cartpole", seed=1) as trainer:
        results = [trainer.train() for _ in range(6)]
    assert max(stats_of(each)["mean_perturbed_return"] for each in results) > 100


# Spaces, models, faults


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["algo.num_envs_per_worker=4"], ConfigError, "one perturbation after the other"),
        (["algo.lr=0.1"], ConfigError, r"There is no key 'algo\.lr'"),
        (["algo.gamma=0.9"], ConfigError, r"There is no key 'algo\.gamma'"),
        (["algo.action_noise_std=0.5"], SpaceError, "it is for continuous actions"),
        (["model.log_std_init=1.0"], ConfigError, "neither a Gaussian nor a value function"),
        (["model.use_lstm=true", "model.max_seq_len=5"], ConfigError, "learn from no sequences"),
        (["exploration=epsilon_greedy"], ConfigError, "explores by perturbing weights"),
    ],
)
def test_what_has_no_effect_is_refused(overrides, error, message):
    with pytest.raises(error, match=message):
        trainer_of("es", *overrides)


@pytest.mark.parametrize("fault", ["nan reward", "nan observation"])
def test_an_env_that_gives_no_finite_number_is_named(fault):
    overrides = [f"env.env_config.fault={fault}", "env.horizon=5"]
    with (
        trainer_of("ars", *overrides, env="toy_envs.FaultyEnv") as trainer,
        pytest.raises(WorkerError, match=r"env 0 of 'toy_envs.FaultyEnv' gave nan as"),
    ):
        trainer.train()


def test_images_and_native_envs():
    with trainer_of("ars", "env.vectorization=native") as trainer:
        result = trainer.train()
        assert result["timesteps_total"] > result["num_env_steps_trained"] > 10 * 8
    cnn = ["model=cnn", "model.conv_filters=[[2,3,2]]", "model.post_fcnet_hiddens=[4]"]
    with make_trainer(
        "ars",
        env="toy_envs.ImageEnv",
        overrides=[
            *SMALL["ars"],
            *cnn,
            "tuned=none",
            "algo.noise_size=100000",
            "env.env_config.terminates_at=3",
        ],
        seed=1,
    ) as trainer:
        assert trainer.train()["episode_reward_mean"] > 0


# A round that is left in its middle


def begun_round(trainer: Trainer, num_steps: int) -> Any:
    """The local worker in the middle of the jobs of a round, some steps after its beginning."""
    es = trainer.algorithms[ID]
    worker = trainer.workers.local_worker()
    perturbation._begin(worker, ID, es.draw_jobs(), es.noise_seed)
    assert not any(perturbation._go_on(worker, 0.0) for _ in range(num_steps))
    return worker


def total(worker: Any) -> float:
    return sum(float(np.abs(array).sum()) for array in worker.get_weights()[ID].values())


def test_weights_that_come_in_the_middle_of_a_round_stay():
    with trainer_of("es") as trainer:
        worker = begun_round(trainer, 3)
        new = {name: np.full_like(array, 0.25) for name, array in worker.get_weights()[ID].items()}
        worker.set_weights({ID: new})
        expected = total(worker)
        assert expected == 0.25 * sum(array.size for array in new.values())
        begun_round(trainer, 1)
        worker.give_up_jobs()
        assert total(worker) == expected


def test_an_error_in_a_round_leaves_the_weights_and_what_is_drawn_as_they_were():
    own = ["env.env_config.terminates_at=20", "env.env_config.raises_after=30"]
    with trainer_of("es", *own, env="toy_envs.EnvThatRaises") as trainer:
        worker = trainer.workers.local_worker()
        before, drawn = total(worker), trainer.algorithms[ID].rng.bit_generator.state
        with pytest.raises(WorkerError, match="ZeroDivisionError"):
            trainer.train()
        assert worker.jobs is None
        assert total(worker) == before
        assert trainer.algorithms[ID].rng.bit_generator.state == drawn


def test_what_filters_saw_of_a_round_that_is_given_up_is_not_counted():
    own = ["env.observation_filter=MeanStdFilter", "env.env_config.terminates_at=1500"]
    with trainer_of("es", *own, env="toy_envs.CountingEnv") as trainer:
        worker = begun_round(trainer, 1300)
        assert worker.actors[ID].gathered.count == 1000  # Those that have been looked at.
        worker.give_up_jobs()
        assert worker.actors[ID].gathered.count == 0
