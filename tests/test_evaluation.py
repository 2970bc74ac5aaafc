from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import toy_envs
from helpers_cli import results_of, tiny_ppo

from rlrun.core import seeding
from rlrun.core.callbacks import Callbacks
from rlrun.core.errors import ConfigError, Interrupted
from rlrun.run import Run, make_trainer
from rlrun.trainer import Trainer
from rlrun.workers.evaluate import Amount
from rlrun.workers.vector_env import env_seeds

COUNTING = "toy_envs.CountingEnv"
OF_TRAINING = [
    "training_iteration",
    "timesteps_total",
    "episodes_total",
    "episodes_this_iter",
    "episode_reward_mean",
    "episode_reward_min",
    "episode_reward_max",
    "episode_len_mean",
    "hist_stats",
    "custom_metrics",
    "counters",
    "info",
]
"""Keys of a result that an evaluation has no part in."""


def make(*overrides: str, env: str = COUNTING, algo: str = "ppo", **settings: Any) -> Trainer:
    """Three envs, 24 env steps an iteration."""
    ppo = ["algo.train_batch_size=24", "algo.minibatch_size=12", "algo.num_epochs=1"]
    return make_trainer(
        algo,
        env=env,
        overrides=[
            *(ppo if algo == "ppo" else []),
            "algo.num_envs_per_worker=3",
            "algo.timesteps_per_iteration=0",
            *overrides,
        ],
        **{"seed": 5, **settings},
    )


def evaluation_worker(trainer: Trainer) -> Any:
    return trainer.evaluation.workers(trainer.algorithms).local_worker()


# When


def test_the_interval_counts_training_iterations():
    with make(
        "evaluation.interval=3", "evaluation.duration=1", "env.env_config.terminates_at=2"
    ) as trainer:
        has = ["evaluation" in trainer.train() for _ in range(7)]
        assert trainer.evaluation.num_rounds == 2
    assert has == [False, False, True, False, False, True, False]


def test_without_an_interval_only_the_user_evaluates():
    with make("evaluation.duration=1", "env.env_config.terminates_at=2") as trainer:
        assert "evaluation" not in trainer.train()
        assert trainer.evaluate()["evaluation"]["episodes_this_iter"] == 1
        assert trainer.iteration == 1


def test_the_last_evaluation_is_attached_always_if_asked_and_nan_before_the_first():
    with make(
        "evaluation.interval=2",
        "evaluation.duration=1",
        "evaluation.always_attach_results=true",
        "env.env_config.terminates_at=2",
    ) as trainer:
        results = [trainer.train()["evaluation"] for _ in range(4)]
    assert math.isnan(results[0]["episode_reward_mean"])
    assert results[0].keys() == results[1].keys()
    assert [r["episode_reward_mean"] for r in results[1:]] == [3.0] * 3
    assert results[2] is results[1]
    assert results[3] is not results[1]


# How long


@pytest.mark.parametrize("duration", [1, 2, 3, 7])
def test_episodes_are_counted_exactly_over_several_envs(duration):
    with make(f"evaluation.duration={duration}", "env.env_config.length_range=[1,9]") as trainer:
        metrics = trainer.evaluate()["evaluation"]
    lengths = metrics["hist_stats"]["episode_lengths"]
    assert metrics["episodes_this_iter"] == len(lengths) == duration
    assert metrics["episode_len_mean"] == pytest.approx(np.mean(lengths))
    assert metrics["hist_stats"]["episode_reward"] == [n * (n + 1) / 2 for n in lengths]
    assert metrics["timesteps_this_iter"] == sum(lengths)


def test_each_env_plays_its_share_so_that_short_episodes_are_not_favoured():
    with make("evaluation.duration=7", "env.env_config.length_range=[1,9]") as trainer:
        lengths = sorted(trainer.evaluate()["evaluation"]["hist_stats"]["episode_lengths"])
        expected = []
        seed = seeding.integer_seed(5, "evaluation", 0)
        for env_seed, share in zip(env_seeds(seed, 0, 3), (3, 2, 2), strict=True):
            env = toy_envs.CountingEnv(length_range=[1, 9])
            for episode in range(share):
                env.reset(seed=env_seed if episode == 0 else None)
                expected.append(env.random_length)
    assert lengths == sorted(expected)


@pytest.mark.parametrize("duration", [1, 3, 17])
def test_timesteps_are_counted_exactly_over_several_envs(duration):
    # Every step is an episode, so that the steps that count can be counted.
    with make(
        f"evaluation.duration={duration}",
        "evaluation.duration_unit=timesteps",
        "env.env_config.terminates_at=1",
    ) as trainer:
        metrics = trainer.evaluate()["evaluation"]
    assert metrics["timesteps_this_iter"] == metrics["episodes_this_iter"] == duration


def test_timesteps_of_native_envs_are_those_of_real_steps():
    with make(
        "env.vectorization=native",
        "env.horizon=1",
        "evaluation.duration=12",
        "evaluation.duration_unit=timesteps",
        env="CartPole-v1",
    ) as trainer:
        metrics = trainer.evaluate()["evaluation"]
    assert metrics["timesteps_this_iter"] == metrics["episodes_this_iter"] == 12


def test_remote_workers_share_the_duration_exactly_and_evaluate_the_newest_policy(ray_cluster):
    with make(
        "evaluation.num_workers=2",
        "resources.num_cpus_per_worker=0.5",
        "evaluation.duration=7",
        "evaluation.interval=1",
        "env.env_config.length_range=[1,9]",
        "env.observation_filter=MeanStdFilter",
    ) as trainer:
        metrics = trainer.train()["evaluation"]
        lengths = metrics["hist_stats"]["episode_lengths"]
        assert metrics["episodes_this_iter"] == len(lengths) == 7
        assert metrics["timesteps_this_iter"] == sum(lengths)
        workers = trainer.evaluation.workers(trainer.algorithms)
        trained = trainer.get_weights()["default_policy"]
        assert trained["observation_filter.count"] == 24
        found = workers.foreach_worker(lambda worker: worker.get_weights()["default_policy"])
        assert len(found) == 3
        for weights in found:
            for name, array in weights.items():
                np.testing.assert_array_equal(array, trained[name], err_msg=name)
        seeds = workers.foreach_worker(
            lambda worker: [] if worker.env is None else [env.seed for env in worker.env.envs]
        )
        root = seeding.integer_seed(5, "evaluation", 0)
        assert seeds == [[], env_seeds(root, 1, 3), env_seeds(root, 2, 3)]
        # Steps, and fewer episodes than workers, are dealt out exactly as well.
        assert workers.run_evaluation(1, Amount("timesteps", 17)).env_steps == 17
        sample = workers.run_evaluation(2, Amount("episodes", 1))
        assert sample.env_steps == sample.episodes[0].length
        assert len(sample.episodes) == 1


# On what


def test_the_config_of_evaluation_lies_over_that_of_the_run():
    with make(
        "env.env_config.terminates_at=2",
        "env.observation_filter=MeanStdFilter",
        "evaluation.config.env.env_config.terminates_at=5",
        "evaluation.duration=2",
        "evaluation.interval=1",
    ) as trainer:
        result = trainer.train()
        assert evaluation_worker(trainer).config.env.observation_filter == "MeanStdFilter"
    assert result["episode_len_mean"] == 2.0
    assert result["evaluation"]["episode_len_mean"] == 5.0


def test_evaluation_may_use_another_number_of_envs():
    with make(
        "env.env_config.terminates_at=2",
        "evaluation.config.algo.num_envs_per_worker=1",
        "evaluation.duration=4",
    ) as trainer:
        metrics = trainer.evaluate()["evaluation"]
        assert evaluation_worker(trainer).env.num_envs == 1
    assert (metrics["episodes_this_iter"], metrics["timesteps_this_iter"]) == (4, 8)


@pytest.mark.parametrize("explore", [False, True])
def test_evaluation_acts_greedily_unless_it_is_to_explore(explore):
    with make(
        f"evaluation.config.explore={explore}", "evaluation.duration=3", env="toy_envs.BoxActionEnv"
    ) as trainer:
        worker = evaluation_worker(trainer)
        worker.input.restart([1, 2, 3])
        columns = worker.input.sample(5, 0, worker.config.explore)
        means = [trainer.get_policy().act(obs)[0].mode() for obs in columns["obs"]]
        assert trainer.config.worker.explore
        assert np.array_equal(columns["actions"], np.stack(means)) is not explore


def test_a_wrong_key_of_the_evaluation_config_is_named():
    with pytest.raises(ConfigError, match=r"evaluation\.config: .*exploration\.epsilonn"):
        make("evaluation.config.exploration.epsilonn=0")


def test_evaluation_has_seeds_of_its_own_that_change_with_each_round():
    with make("env.env_config.length_range=[1,9]", "evaluation.duration=6") as trainer:

        def seeds(worker: Any) -> list[int]:
            return [env.seed for env in worker.env.get_sub_environments()]

        trainer.train()
        found = [seeds(trainer.workers.local_worker())]
        metrics = []
        for _ in range(2):
            metrics.append(trainer.evaluate()["evaluation"])
            found.append(seeds(evaluation_worker(trainer)))
    assert len({seed for round_seeds in found for seed in round_seeds}) == 9
    lengths = [each["hist_stats"]["episode_lengths"] for each in metrics]
    assert lengths[0] != lengths[1]


def test_an_evaluation_repeats_with_the_seed_whatever_came_before():
    def evaluated(num_iterations: int) -> Any:
        with make(
            "env.env_config.length_range=[1,9]", "evaluation.duration=6", "algo.lr=0.0"
        ) as trainer:
            for _ in range(num_iterations):
                trainer.train()
            return trainer.evaluate()["evaluation"]

    first, later = evaluated(0), evaluated(3)
    assert (first.pop("training_iteration"), later.pop("training_iteration")) == (0, 3)
    assert first == later


def test_a_restored_trainer_evaluates_as_the_first_would_have(tmp_path):
    def trainer() -> Trainer:
        return make(
            "evaluation.interval=2",
            "evaluation.always_attach_results=true",
            "evaluation.duration=4",
            env="CartPole-v1",
        )

    with trainer() as first:
        for _ in range(3):
            result = first.train()
        checkpoint = first.save(tmp_path)
        expected = first.train()["evaluation"]
    with trainer() as second:
        second.restore(checkpoint)
        assert second.evaluation_metrics == result["evaluation"]
        assert second.train()["evaluation"] == expected


# Filters


def test_filters_are_copied_and_not_updated():
    with make(
        "evaluation.duration=5", "env.observation_filter=MeanStdFilter", env="CartPole-v1"
    ) as trainer:
        for num_iterations in (1, 2):
            trainer.train()
            before = trainer.get_weights()["default_policy"]
            trainer.evaluate()
            after = trainer.get_weights()["default_policy"]
            copied = evaluation_worker(trainer).get_weights()["default_policy"]
            assert before["observation_filter.count"] == 24 * num_iterations
            for state in (after, copied):
                np.testing.assert_equal(state, before)


# What it leaves alone


@pytest.mark.parametrize(
    ("algo", "overrides"),
    [
        ("ppo", ["evaluation.config.explore=true", "env.observation_filter=MeanStdFilter"]),
        ("rainbow", ["algo.learning_starts=8", "algo.train_batch_size=16", "algo.buffer_size=99"]),
    ],
)
def test_evaluation_changes_nothing_in_training(algo, overrides):
    def train(*evaluation: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        with make(*overrides, *evaluation, algo=algo, env="CartPole-v1") as trainer:
            results = [trainer.train() for _ in range(8)]
            return results, trainer.get_weights()["default_policy"]

    plain, weights = train()
    evaluated, other_weights = train("evaluation.interval=1", "evaluation.duration=2")
    for result, other in zip(plain, evaluated, strict=True):
        assert other["evaluation"]["episodes_this_iter"] == 2
        for key in OF_TRAINING:
            np.testing.assert_equal(other[key], result[key], err_msg=key)
    for name, array in weights.items():
        np.testing.assert_array_equal(other_weights[name], array, err_msg=name)


# Functions of the user


def count_rows(trainer: Trainer, workers: Any) -> dict[str, Any]:
    rows = workers.sample()["default_policy"]
    explore = workers.local_worker().config.explore
    return {"rows": rows.num_rows, "iteration": trainer.iteration, "explore": explore}


def give_nothing(trainer: Trainer, workers: Any) -> None:
    """Forgets to return its metrics."""


def test_a_function_of_the_user_replaces_the_built_in_one():
    with make(
        f"evaluation.custom_eval_function={__name__}.count_rows", "evaluation.interval=2"
    ) as trainer:
        trainer.train()
        expected = {"rows": 24, "iteration": 2, "explore": False, "training_iteration": 2}
        assert trainer.train()["evaluation"] == expected
        assert trainer.evaluation.num_rounds == 1


def test_a_function_of_the_user_must_return_a_dict():
    name = f"{__name__}.give_nothing"
    with (
        make(f"evaluation.custom_eval_function={name}") as trainer,
        pytest.raises(
            ConfigError,
            match=rf"custom_eval_function={name} returned NoneType; it must return a dict",
        ),
    ):
        trainer.evaluate()


def test_a_function_that_is_not_there_is_refused_before_training():
    with pytest.raises(ConfigError, match=r"evaluation\.custom_eval_function='test_evaluation\.n'"):
        make("evaluation.custom_eval_function=test_evaluation.n")


@pytest.mark.parametrize(
    "override",
    ["interval=0", "duration=0", "duration_unit=hours", "num_workers=-1", "durations=3"],
)
def test_settings_out_of_range_are_refused_by_their_key(override):
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"evaluation\.{key}"):
        make(f"evaluation.{override}")


# A known answer


def test_evaluation_finds_the_optimal_value_that_training_has_learned():
    with make(
        "algo.train_batch_size=96",
        "algo.minibatch_size=96",
        "algo.num_epochs=10",
        "algo.lr=0.01",
        "algo.gamma=0.9",
        "evaluation.duration=6",
        env="toy_envs.TwoStepMdp",
    ) as trainer:
        for _ in range(25):
            trainer.train()
        metrics = trainer.evaluate()["evaluation"]
        first_state = np.eye(2, dtype=np.float32)[:1]
        value = trainer.get_policy().values(first_state)[0]
    # Waiting is worth 0.9 * 3 = 2.7, more than the 1 at once; its return is 3.
    assert metrics["hist_stats"]["episode_reward"] == [3.0] * 6
    assert value == pytest.approx(toy_envs.TwoStepMdp().optimal_value(gamma=0.9), abs=0.25)


def test_the_global_worker_is_the_one_that_samples_now():
    from rlrun.workers.rollout_worker import get_global_worker

    with make(
        "evaluation.interval=1", "evaluation.duration=1", "env.env_config.terminates_at=2"
    ) as t:
        t.train()
        assert get_global_worker() is evaluation_worker(t)
        t.workers.sample()
        assert get_global_worker() is t.workers.local_worker()


def test_noisy_layers_draw_noise_for_each_step_of_an_evaluation_that_explores():
    explores = "evaluation.config.explore=true"
    overrides = ["evaluation.duration=6", "evaluation.duration_unit=timesteps", explores]
    with make(*overrides, algo="rainbow") as trainer:
        policy, seen = evaluation_worker(trainer).get_policy(), []
        act = policy.act

        def record(obs, *args):
            found = act(np.zeros_like(obs), *args)
            seen.append(found[0].inputs[0].copy())
            return found

        policy.act = record
        trainer.evaluate()
    assert len(np.unique(seen, axis=0)) == len(seen) > 1


def test_an_interrupted_evaluation_begins_anew_in_the_next_call():
    ends = "env.env_config.terminates_at=4"
    with make("evaluation.interval=1", "evaluation.duration=3", ends) as trainer:
        trainer.evaluation.workers(trainer.algorithms).is_interrupted = True
        trainer.evaluation.config.duration = 10**9
        with pytest.raises(Interrupted):
            trainer.train()
        assert trainer.iteration == 0
        trainer.evaluation.config.duration = 3
        result = trainer.train()
    assert (result["training_iteration"], result["timesteps_total"]) == (1, 24)
    assert result["evaluation"]["episodes_this_iter"] == 3


def test_a_run_goes_on_from_its_end_as_if_it_had_not_been_evaluated_there(tmp_path):
    plain = tiny_ppo("evaluation.interval=2", "evaluation.duration=2", "evaluation.at_end=true")
    Run({**plain, "stop": {"training_iteration": 3}}, tmp_path / "a").execute()
    Run.resume(tmp_path / "a", {"stop.training_iteration": 4}).execute()
    Run({**plain, "stop": {"training_iteration": 4}}, tmp_path / "b").execute()
    *_, resumed = results_of(tmp_path / "a")
    *_, straight = results_of(tmp_path / "b")
    assert resumed["evaluation"] == straight["evaluation"]


# Beside training


def beside(*overrides: str, **settings: Any) -> Trainer:
    """An evaluation on one remote worker beside each iteration."""
    return make(
        "evaluation.interval=1",
        "evaluation.parallel_to_training=true",
        "evaluation.num_workers=1",
        "resources.num_cpus_per_worker=0.5",
        *overrides,
        **settings,
    )


def test_an_evaluation_beside_training_is_of_the_weights_that_the_iteration_began_with(ray_cluster):
    overrides = ["evaluation.duration=5", "algo.lr=0.05", "algo.num_epochs=4"]
    remote = ["evaluation.num_workers=1", "resources.num_cpus_per_worker=0.5"]
    with beside(*overrides, env="CartPole-v1") as trainer:
        results = [trainer.train() for _ in range(3)]
    evaluations = [result["evaluation"] for result in results]
    assert [each["training_iteration"] for each in evaluations] == [0, 1, 2]
    assert [each["episodes_this_iter"] for each in evaluations] == [5, 5, 5]
    with make(*remote, *overrides, env="CartPole-v1") as trainer:
        expected = [trainer.evaluate()["evaluation"]]
        for _ in range(2):
            trainer.train()
            expected.append(trainer.evaluate()["evaluation"])
    assert evaluations == expected


def test_training_sees_nothing_of_an_evaluation_beside_it(ray_cluster):
    with make(env="CartPole-v1") as plain, beside("evaluation.duration=3", env="CartPole-v1") as t:
        for _ in range(3):
            result, other = plain.train(), t.train()
            for key in OF_TRAINING:
                np.testing.assert_equal(other[key], result[key], err_msg=key)


def test_an_automatic_duration_ends_with_the_train_step(ray_cluster):
    ends = "env.env_config.terminates_at=4"
    with beside("evaluation.duration=auto", "evaluation.duration_unit=timesteps", ends) as trainer:
        found = [trainer.train()["evaluation"] for _ in range(2)]
    for metrics in found:
        # Three envs step alike, and only whole steps count.
        assert metrics["timesteps_this_iter"] % 3 == 0
        num_steps = metrics["timesteps_this_iter"] // 3
        assert num_steps >= 1
        assert metrics["episodes_this_iter"] == 3 * (num_steps // 4)


def test_an_automatic_duration_ends_where_no_train_step_does(ray_cluster):
    with beside(
        "evaluation.duration=auto", "evaluation.at_end=true", "env.env_config.terminates_at=2"
    ) as trainer:
        assert trainer.evaluate()["evaluation"]["episodes_this_iter"] == 10


def test_an_automatic_duration_counts_every_episode_that_has_begun(ray_cluster):
    ends = "env.env_config.terminates_at=[1,2,3,50]"
    with beside("evaluation.duration=auto", ends) as trainer:
        metrics = trainer.train()["evaluation"]
    lengths = metrics["hist_stats"]["episode_lengths"]
    assert len(lengths) % 3 == 0
    assert metrics["timesteps_this_iter"] == sum(lengths)


def test_what_is_open_ends_with_the_episodes_that_run():
    with make("env.env_config.terminates_at=[2,5]") as trainer:
        trainer.evaluate()
        worker = evaluation_worker(trainer)
        worker.begin_evaluation(0, Amount("episodes", None))
        for _ in range(3):
            found, is_over = worker.go_on_evaluating(0.0)
            assert not is_over
        found, is_over = worker.go_on_evaluating(10.0, is_enough=True)
        assert is_over
        assert [report.length for report in found.episodes] == [5, 5, 5]
        assert found.env_steps == 3 * (5 - 1)
        for unit, counted in (("episodes", [2, 2, 2]), ("timesteps", [])):
            worker.begin_evaluation(0, Amount(unit, None))
            found, is_over = worker.go_on_evaluating(10.0, is_enough=True)
            assert is_over, "each env does one at least"
            assert [report.length for report in found.episodes] == counted


def test_an_interrupted_iteration_drops_the_evaluation_beside_it(ray_cluster):
    overrides = ["evaluation.duration=2", "algo.train_batch_size=96", "algo.minibatch_size=96"]
    with beside(*overrides, "algo.rollout_fragment_length=8", env="CartPole-v1") as trainer:
        trainer.evaluation.config.duration = 10**9
        trainer.interrupt()
        with pytest.raises(Interrupted):
            trainer.train()
        assert (trainer.iteration, trainer.evaluation.num_rounds) == (0, 0)
        trainer.evaluation.config.duration = 2
        result = trainer.train()
    assert (result["training_iteration"], result["timesteps_total"]) == (1, 96)
    assert result["evaluation"]["episodes_this_iter"] == 2


def test_a_resumed_iteration_is_evaluated_as_it_began(tmp_path, ray_cluster):
    def trainer() -> Trainer:
        return beside("evaluation.duration=5", env="CartPole-v1")

    def change_weights_and_end(trainer: Trainer) -> None:
        weights = trainer.get_weights()["default_policy"]
        trainer.set_weights({"default_policy": {name: -part for name, part in weights.items()}})
        raise Interrupted("in the middle of the iteration")

    with trainer() as first:
        with pytest.raises(Interrupted), first.evaluation.beside(first):
            change_weights_and_end(first)
        folder = first.save(tmp_path)
    with trainer() as resumed:
        resumed.restore(folder)
        found = [resumed.train()["evaluation"] for _ in range(2)]
    with trainer() as straight:
        assert straight.train()["evaluation"] == found[0]
    assert found[0] != found[1]


def test_a_function_of_the_user_may_evaluate_beside_training(ray_cluster):
    with beside(f"evaluation.custom_eval_function={__name__}.count_rows") as trainer:
        evaluation = trainer.train()["evaluation"]
    assert (evaluation["rows"], evaluation["training_iteration"]) == (24, 0)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (
            ["evaluation.parallel_to_training=true", "evaluation.interval=1"],
            r"evaluation\.num_workers=0\. Use evaluation\.num_workers=1",
        ),
        (
            ["evaluation.parallel_to_training=true", "evaluation.num_workers=1"],
            r"evaluation\.parallel_to_training=true has no effect with evaluation\.interval=null",
        ),
        (["evaluation.duration=auto"], r"evaluation\.parallel_to_training=false"),
        (["evaluation.duration=soon"], r"evaluation\.duration=soon must be a whole number or one"),
        (
            [
                "evaluation.duration=auto",
                "evaluation.interval=1",
                "evaluation.num_workers=1",
                "evaluation.parallel_to_training=true",
                f"evaluation.custom_eval_function={__name__}.count_rows",
            ],
            r"evaluation\.duration=auto has no effect with evaluation\.custom_eval_function",
        ),
        (["evaluation.config.algo.lr=1"], r"evaluation\.config\.algo\.lr has no effect"),
        (
            ["evaluation.config.algo.batch_mode=complete_episodes"],
            r"evaluation\.config\.algo\.batch_mode matters only to a function of yours",
        ),
        (["evaluation.config.model.fcnet_hiddens=[8]"], r"evaluation\.config\.model has no effect"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_whole_key(overrides, words):
    with pytest.raises(ConfigError, match=words):
        make(*overrides)


# What evaluation workers may have otherwise


def test_evaluation_may_have_another_seed_exploration_and_callbacks():
    path = f"{__name__}.NoteEpisodes"
    with make(
        "evaluation.config.seed=77",
        "evaluation.config.explore=true",
        "evaluation.config.exploration._target_=rlrun.core.exploration.Random",
        f"evaluation.config.callbacks.mine._target_={path}",
        "evaluation.duration=4",
        "env.env_config.terminates_at=2",
    ) as trainer:
        assert "noted_mean" not in trainer.train()["custom_metrics"]
        metrics = trainer.evaluate()["evaluation"]
        seeds = [env.seed for env in evaluation_worker(trainer).env.get_sub_environments()]
    assert metrics["custom_metrics"]["noted_mean"] == 2.0
    assert seeds == env_seeds(seeding.integer_seed(77, "evaluation", 0), 0, 3)


class NoteEpisodes(Callbacks):
    def on_episode_end(self, *, episode, worker, **kwargs):
        assert worker.config.in_evaluation
        episode.custom_metrics["noted"] = episode.length


def test_a_function_of_the_user_may_have_fragments_of_its_own():
    with make(
        f"evaluation.custom_eval_function={__name__}.count_rows",
        "evaluation.config.algo.rollout_fragment_length=5",
    ) as trainer:
        assert trainer.evaluate()["evaluation"]["rows"] == 15
