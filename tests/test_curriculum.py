"""Curricula: which task envs play when, in every kind of env and worker, and after a resume."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from helpers_cli import command_line, results_of, tiny_ppo
from test_resume import assert_resumed_equals_uninterrupted

from rlrun.core.callbacks import Callbacks
from rlrun.core.checkpoint import checkpoint_name
from rlrun.core.errors import ConfigError
from rlrun.curriculum.learning_progress import LearningProgress
from rlrun.curriculum.prioritized_levels import (
    PrioritizedLevels,
    level_probabilities,
    rank_probabilities,
    staleness_probabilities,
)
from rlrun.curriculum.staged import ByReward, ByTimestep, Linear
from rlrun.python_api import make_workers
from rlrun.run import Run, make_trainer
from rlrun.trainer import Trainer

TASK_ENV = "toy_envs.TaskEnv"
"""The reward of each step is the task with which the episode began; an episode has two steps."""

TWO_WORKERS = ["resources.num_workers=2", "resources.num_cpus_per_worker=0.5"]

VECTORIZATIONS = {
    "sync": ["env.vectorization=sync"],
    "async": ["env.vectorization=async"],
    "native": ["env.id=toy_envs:toy/Tasks-v0", "env.vectorization=native"],
}
KINDS = {
    **VECTORIZATIONS,
    "sync, remote": ["env.vectorization=sync", *TWO_WORKERS],
    "async, remote": ["env.vectorization=async", *TWO_WORKERS],
    "native, remote": [*VECTORIZATIONS["native"], *TWO_WORKERS],
}
"""Every kind of env, in this process and in workers'."""

DEAR = ("sync, remote", "native, remote")
"""Kinds that differ from others by where envs are alone; workers take seconds to start."""

BY_REWARD = ["curriculum=by_reward", "curriculum.min_episodes=0"]


def make(*overrides: str, env: str = TASK_ENV, **settings: Any) -> Trainer:
    """Two envs in each worker, two episodes of each in an iteration of 8 (or 16) env steps."""
    remote = any("num_workers=2" in override for override in overrides)
    return make_trainer(
        "ppo",
        env=env,
        overrides=[
            f"algo.train_batch_size={16 if remote else 8}",
            "algo.minibatch_size=8",
            "algo.num_epochs=1",
            "algo.num_envs_per_worker=2",
            "algo.timesteps_per_iteration=0",
            *(["env.env_config.terminates_at=2"] if env == TASK_ENV else []),
            *overrides,
        ],
        **{"seed": 5, **settings},
    )


@pytest.fixture(
    params=[pytest.param(kind, marks=pytest.mark.slow) if kind in DEAR else kind for kind in KINDS]
)
def kind(request: pytest.FixtureRequest) -> list[str]:
    if "remote" in request.param:
        request.getfixturevalue("ray_cluster")
    return KINDS[request.param]


def times_set(trainer: Trainer) -> list[int]:
    """How often each env of the sampling workers was given a task."""
    found = trainer.workers.foreach_env(lambda env: env.tasks_set)
    return [times for of_worker in found for times in of_worker]


def num_envs(kind: list[str]) -> int:
    """Those that tasks are given to: of a native vector env it is one."""
    of_worker = 1 if "env.vectorization=native" in kind else 2
    return of_worker * (2 if kind[-1] == TWO_WORKERS[-1] else 1)


# Each form, in each kind of env


def test_the_next_task_reaches_every_env_exactly_once(kind):
    with make(*BY_REWARD, "curriculum.tasks=[1,5]", "curriculum.threshold=[2]", *kind) as trainer:
        before = times_set(trainer)
        first = trainer.train()
        assert [after - was for after, was in zip(times_set(trainer), before, strict=True)] == (
            [1] * num_envs(kind)
        )
        second = trainer.train()
        assert times_set(trainer) == [times + 1 for times in before]
    assert (first["env_task"], first["episode_reward_mean"]) == (1, 2.0)
    assert (first["curriculum"], second["curriculum"]) == (
        {"stages_passed": 1},
        {"stages_passed": 1},
    )
    assert (second["env_task"], second["episode_reward_max"]) == (5, 10.0)


def test_a_function_chooses_the_task_of_each_env(kind):
    with make(
        "curriculum=env_task_fn", "curriculum.env_task_fn=toy_envs.one_more", *kind
    ) as trainer:
        results = [trainer.train() for _ in range(3)]
        assert trainer.workers.get_tasks() == [3.0] * num_envs(kind)
        assert times_set(trainer) == [3] * num_envs(kind)
    assert [result["env_task"] for result in results] == [0.0, 1.0, 2.0]


def test_the_two_ways_of_ones_own_reach_every_env(kind):
    class Setter(Callbacks):
        def on_train_result(self, *, trainer: Any, result: Any, **kwargs: Any) -> None:
            trainer.workers.foreach_worker(lambda ev: ev.foreach_env(lambda env: env.set_task(7)))

    with make(*kind) as trainer:
        trainer.train()
        trainer.workers.foreach_worker(lambda ev: ev.foreach_env(lambda env: env.set_task(4)))
        trainer.train()
        assert trainer.workers.get_tasks() == [4] * num_envs(kind)
        Setter().on_train_result(trainer=trainer, result={})
        assert trainer.workers.get_tasks() == [7] * num_envs(kind)


def test_a_task_that_a_user_sets_in_between_is_known():
    stages = ["curriculum=by_timestep", "curriculum.schedule=[[0,a],[99,b]]"]
    with make(*stages, env=ANY) as trainer:
        assert trainer.train()["env_task"] == "a"
        trainer.workers.foreach_env(lambda env: env.set_task("mine"))
        assert trainer.workers.tasks == ["mine", "mine"]
        assert trainer.train()["env_task"] == "mine"
        assert trainer.workers.get_tasks() == ["a", "a"], "the curriculum's turn again"
        assert trainer.train()["env_task"] == "a"


class SetsTasks(Callbacks):
    def on_train_result(self, *, trainer: Any, **kwargs: Any) -> None:
        trainer.workers.foreach_env(lambda env: env.set_task("mine"))


def test_a_curriculum_has_the_last_word_after_callbacks():
    stages = ["curriculum=by_timestep", "curriculum.schedule=[[0,a],[99,b]]"]
    setter = {"x": {"_target_": f"{__name__}.SetsTasks"}}
    with make(*stages, env=ANY, callbacks=setter) as trainer:
        assert trainer.train()["env_task"] == "a", "no episode had the other one"
        assert trainer.workers.get_tasks() == ["a", "a"]


def test_tasks_that_a_user_has_set_are_known_after_a_resume(tmp_path):
    stages = ["curriculum=by_timestep", "curriculum.schedule=[[0,a],[99,b]]"]
    with make(*stages, env=ANY) as trainer:
        trainer.train()
        trainer.workers.local_worker().env.call_each("set_task", [("a",), ("mine",)])
        folder = trainer.save(tmp_path)
    with make(*stages, env=ANY) as trainer:
        trainer.restore(folder)
        assert trainer.train()["env_task"] == ["a", "mine"]


def test_a_wrapper_may_be_what_has_the_tasks():
    wrapped = "env.wrappers=[{_target_: toy_envs.ScaledRewards}]"
    with make(
        *BY_REWARD,
        *("curriculum.tasks=[2,3]", "curriculum.threshold=[100]", wrapped),
        "env.id=toy_envs.CountingEnv",
    ) as trainer:
        assert trainer.train()["episode_reward_mean"] == 2 * (1 + 2)
        assert trainer.workers.local_worker().get_tasks() == [2, 2]


def test_tasks_by_timestep():
    with make(
        "curriculum=by_timestep", "curriculum.schedule=[[0,a],[9.0,b],[16,c]]", env=ANY
    ) as made:
        results = [made.train() for _ in range(4)]
    # After 8 and 16 steps; an iteration is played with the task that was due when it began.
    assert [result["env_task"] for result in results] == ["a", "a", "c", "c"]


@pytest.mark.parametrize(
    ("bounds", "tasks"),
    [
        (["initial=0", "final=1", "timesteps=32"], [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]),
        (["initial=10", "final=5", "timesteps=32", "step=1"], [10, 9, 8, 7, 5, 5]),
        (["initial=0", "final=1", "timesteps=32", "step=0.5"], [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]),
    ],
)
def test_a_number_moves_between_its_bounds(bounds, tasks):
    with make("curriculum=linear", *(f"curriculum.{each}" for each in bounds)) as trainer:
        found = [trainer.train()["env_task"] for _ in tasks]
    assert found == tasks
    assert [type(task) for task in found] == [type(task) for task in tasks]


ANY = "toy_envs.AnyTaskEnv"


def test_learning_progress_prefers_the_task_whose_return_changes():
    plan = LearningProgress(tasks=["flat", "rising"], uniform_share=0.2, smoothing=0.5)
    with make(env=ANY) as trainer:
        assert sorted(plan.first_tasks(trainer)) == ["flat", "rising"], "each comes once"
        for score in (0.0, 1.0, 2.0):
            means = {"return_of_task_flat_mean": 4.0, "return_of_task_rising_mean": score}
            tasks = plan.next_tasks(trainer, {"custom_metrics": means})
    assert len(tasks) == 2
    assert plan.stats() == {"probability": {"flat": pytest.approx(0.1), "rising": 0.9}}


def test_learning_progress_deals_out_sampled_tasks_and_knows_their_returns():
    with make("curriculum=learning_progress", "curriculum.num_tasks=3") as trainer:
        result = trainer.train()
    first, second = result["env_task"]
    returns = {task: result["custom_metrics"][f"return_of_task_{task}_mean"] for task in (0.0, 1.0)}
    assert (first, second) == (0.0, 1.0)
    assert returns == {0.0: 0.0, 1.0: 2.0}
    assert result["curriculum"]["probability"].keys() == {"0.0", "1.0", "2.0"}


@pytest.mark.parametrize("form", ["learning_progress", "prioritized_levels"])
def test_tasks_that_are_sampled_twice_are_one(form):
    score = ["curriculum.score=return_gap"] if form == "prioritized_levels" else []
    chosen = [f"curriculum={form}", "curriculum.num_tasks=50", *score]
    with make(*chosen, env="corridor") as trainer:
        result = trainer.train()
    # A corridor has 20 lengths.
    probability = result["curriculum"]["probability"]
    assert 10 < len(probability) <= 20
    assert sum(probability.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("curriculum", [LearningProgress, PrioritizedLevels])
def test_tasks_that_are_given_twice_are_refused(curriculum):
    with pytest.raises(ConfigError, match=r"curriculum\.tasks=\[1, 2, 1\] names 1 twice"):
        curriculum(tasks=[1, 2, 1])


# Prioritized levels


def test_ranks_of_scores_become_probabilities_by_the_temperature():
    # Ranks 3, 1, 2: 1/9, 1 and 1/4 at a temperature of 1/2.
    found = rank_probabilities(np.array([0.0, 5.0, 2.0]), temperature=0.5)
    assert found == pytest.approx(np.array([4.0, 36.0, 9.0]) / 49)


def test_staleness_counts_in_proportion():
    assert staleness_probabilities(np.array([0, 3, 1])).tolist() == [0.0, 0.75, 0.25]
    assert staleness_probabilities(np.array([0, 0])).tolist() == [0.5, 0.5]


def test_levels_are_replayed_as_often_as_there_are_seen_ones():
    nan = float("nan")
    # Of five levels two are seen, one waits for its score, two are new: replay with 2/5.
    # P_S = [2/3, 1/3] at temperature 1, P_C = [1/4, 3/4], rho = 0.2.
    chances = level_probabilities(
        np.array([9.0, nan, 4.0, nan, nan]),
        np.array([1, 0, 3, 7, 7]),
        np.array([False, False, False, True, True]),
        temperature=1.0,
        staleness_coeff=0.2,
    )
    replayed = [0.8 * 2 / 3 + 0.2 / 4, 0.8 / 3 + 0.2 * 3 / 4]
    assert chances == pytest.approx([0.4 * replayed[0], 0.0, 0.4 * replayed[1], 0.3, 0.3])
    assert sum(replayed) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("scores", "is_new", "expected"),
    [
        ([float("nan")] * 2, [True, True], [0.5, 0.5]),
        ([float("nan")] * 2, [False, False], [0.5, 0.5]),
        ([float("nan"), 3.0], [False, False], [0.0, 1.0]),
    ],
    ids=["all are new", "all wait", "nothing is new"],
)
def test_there_is_always_a_level_to_play(scores, is_new, expected):
    of_ranks = {"temperature": 1.0, "staleness_coeff": 0.0}
    found = level_probabilities(np.array(scores), np.ones(2), np.array(is_new), **of_ranks)
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("score", "expected"),
    [("return_change", {"a": 3.0, "b": 1.0}), ("return_gap", {"a": 3.0, "b": 0.0})],
)
def test_levels_are_scored_by_returns(score, expected):
    plan = PrioritizedLevels(tasks=["a", "b", "c"], score=score)
    with make(env=ANY) as trainer:
        first = plan.first_tasks(trainer)
        assert len(set(first)) == 2, "each new one comes once"
        for a, b in ((5.0, 1.0), (2.0, 2.0)):
            means = {"return_of_task_a_mean": a, "return_of_task_b_mean": b}
            plan.next_tasks(trainer, {"custom_metrics": means})
    assert plan.stats()["score"] == expected
    assert plan.stats()["levels_seen"] == 2


def test_an_env_keeps_its_level_until_an_episode_of_it_has_ended():
    plan = PrioritizedLevels(tasks=["a", "b", "c", "d"], score="return_gap")
    with make(env=ANY) as trainer:
        first = plan.first_tasks(trainer)
        assert plan.next_tasks(trainer, {"custom_metrics": {}}) == first
        ended = {"custom_metrics": {f"return_of_task_{first[0]}_mean": 1.0}}
        second = plan.next_tasks(trainer, ended)
    assert second[1] == first[1]
    assert second[0] != first[1], "that waits for its score already"


class KnowsLosses(Callbacks):
    """Puts value losses in place of the real ones: the tens are the env, and the ones the step."""

    def on_postprocess_trajectory(self, *, postprocessed_batch: Any, **kwargs: Any) -> None:
        values = postprocessed_batch["values"]
        steps = np.arange(len(values), dtype=np.float32)[:, None]
        targets = values + (-1) ** steps * (10 * np.arange(values.shape[1]) + steps)
        postprocessed_batch["value_targets"] = targets


LEVELS = ["curriculum=prioritized_levels", "curriculum.tasks=[1,5]"]


def test_value_losses_of_an_episode_count_over_the_seams_of_fragments():
    known = {"x": {"_target_": f"{__name__}.KnowsLosses"}}
    lengths = "env.env_config.terminates_at=[3,9]"
    with make(*LEVELS, lengths, callbacks=known) as trainer:
        # Two envs, fragments of 4 steps: an episode of 3, then one whose steps are 3 and 0, 1 ...
        first, second = trainer.workers.tasks
        found = trainer.train()["custom_metrics"]
        assert found[f"value_loss_of_task_{first}_mean"] == pytest.approx((0 + 1 + 2) / 3)
        assert found[f"value_loss_of_task_{second}_mean"] == pytest.approx((10 + 11 + 12) / 3)
        trainer.train()
        (running, _) = trainer.workers.local_worker().episodes
        assert running.user_data["value_losses"] == [pytest.approx(3 + 0 + 1 + 2 + 3), 5]


def test_value_losses_are_the_same_in_whole_episodes():
    means = []
    for mode in ("truncate_episodes", "complete_episodes"):
        with make(*LEVELS, f"algo.batch_mode={mode}") as trainer:
            found = trainer.train()
            levels = [f"value_loss_of_task_{task}_mean" for task in (1, 5)]
            means.append([found["custom_metrics"][name] for name in levels])
            assert found["curriculum"]["levels_seen"] == 2
            assert sum(found["curriculum"]["probability"].values()) == pytest.approx(1.0)
    assert means[0] == pytest.approx(means[1], rel=1e-5)
    assert min(means[0]) > 0.0


@pytest.mark.parametrize(
    ("algo", "overrides", "message"),
    [
        ("dqn", [], r"curriculum\.score=value_loss needs an algorithm .* which DQN does not"),
        ("ppo", VECTORIZATIONS["native"], r"curriculum\.score=value_loss .*vectorization=native"),
    ],
)
def test_value_losses_that_nobody_computes_are_refused(algo, overrides, message):
    with pytest.raises(ConfigError, match=message):
        make_trainer(
            algo,
            env=TASK_ENV,
            overrides=[*LEVELS, "env.env_config.terminates_at=2", *overrides],
        )


# Rules of stages


class FakeTrainer:
    """Counts how often the means began anew."""

    num_forgotten = 0

    @property
    def episodes(self) -> FakeTrainer:
        return self

    def forget(self) -> None:
        self.num_forgotten += 1


def played(curriculum: ByReward, values: list[float | None], trainer: Any = None) -> list[Any]:
    """The tasks after results with these values, of one episode each; None: it is missing."""
    trainer = trainer or FakeTrainer()
    return [
        curriculum.next_tasks(trainer, {"episodes_this_iter": 1, "a": {"b": value}})[0]
        for value in values
    ]


def by_reward(**fields: Any) -> ByReward:
    return ByReward(**{"tasks": [1, 2, 3], "metric": "a/b", "min_episodes": 0, **fields})


def test_a_stage_needs_results_in_a_row():
    curriculum = by_reward(threshold=5, patience=2)
    assert played(curriculum, [5, 4, 5, 6, 6, 6]) == [1, 1, 1, 2, 2, 3]


def test_each_task_may_have_its_own_threshold():
    trainer = FakeTrainer()
    curriculum = by_reward(threshold=[5, 1, 9])
    assert played(curriculum, [4, 5, 1, 8, 9, 0], trainer) == [1, 2, 3, 3, 3, 3]
    assert trainer.num_forgotten == 2
    assert curriculum.stats() == {"stages_passed": 3}


def test_it_steps_back_below_another_threshold():
    curriculum = by_reward(threshold=5, back_threshold=[1, 3], patience=2)
    assert played(curriculum, [5, 5, 2, 2, 1, 0, 0, 0]) == [1, 2, 2, 2, 2, 2, 1, 1]
    assert played(curriculum, [0, 0, 0]) == [1, 1, 1], "there is nothing before the first"


def test_results_without_the_key_or_with_nan_say_nothing():
    curriculum = by_reward(threshold=5, patience=2, back_threshold=1)
    assert played(curriculum, [5, None, float("nan"), 5]) == [1, 1, 1, 2]


def test_nothing_counts_before_enough_episodes_have_ended():
    curriculum = by_reward(threshold=5, min_episodes=3)
    assert played(curriculum, [5, 5, 5, 5, 5, 5]) == [1, 1, 2, 2, 2, 3]


def test_lower_may_be_better():
    curriculum = by_reward(threshold=[-1, 2], metric="min-a/b", back_threshold=7)
    assert played(curriculum, [0, -1, 7, 8, -1, 2]) == [1, 2, 2, 1, 2, 3]


def test_the_last_task_may_be_lost_and_won_again():
    curriculum = by_reward(tasks=[1, 2], threshold=5, back_threshold=2)
    assert played(curriculum, [5, 5]) == [2, 2]
    assert curriculum.stats() == {"stages_passed": 2}
    assert played(curriculum, [1]) == [1]
    assert curriculum.stats() == {"stages_passed": 0}


# What is refused, by its full key


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: by_reward(tasks=[], threshold=1), r"curriculum\.tasks=\[\] must have one task"),
        (lambda: by_reward(threshold=[1]), r"curriculum\.threshold=\[1\] has 1 .* must have 3"),
        (lambda: by_reward(threshold=1, patience=0), r"curriculum\.patience=0 must be at least 1"),
        (
            lambda: by_reward(threshold=1, min_episodes=-1),
            r"curriculum\.min_episodes=-1 must be at least 0",
        ),
        (
            lambda: by_reward(threshold=1, back_threshold=1),
            r"curriculum\.back_threshold=1 of the task 2 must be worse than .*threshold=1",
        ),
        (
            lambda: by_reward(threshold=1, back_threshold=[0, 0, 0]),
            r"curriculum\.back_threshold=.* has 3 numbers; for 3 tasks it must have 2",
        ),
        (lambda: ByTimestep(schedule=[]), r"curriculum\.schedule=\[\] must be a list"),
        (lambda: ByTimestep(schedule=[[5, 1]]), r"curriculum\.schedule.*the first one 0"),
        (lambda: ByTimestep(schedule=[[0, 1], [0, 2]]), r"curriculum\.schedule.*rising"),
        (lambda: ByTimestep(schedule=[[0]]), r"curriculum\.schedule.*\[timestep, task\]"),
        (lambda: Linear(initial=0, final=1, timesteps=0), r"curriculum\.timesteps=0 must be"),
        (lambda: Linear(initial=0, final=1, timesteps=9, step=0), r"curriculum\.step=0 must be"),
        (lambda: LearningProgress(tasks=[]), r"curriculum\.tasks=\[\] must have one"),
        (lambda: LearningProgress(num_tasks=0), r"curriculum\.num_tasks=0 must be at least 1"),
        (
            lambda: PrioritizedLevels(temperature=0.0),
            r"curriculum\.temperature=0.0 must be at least 0.001",
        ),
        (
            lambda: PrioritizedLevels(staleness_coeff=1.5),
            r"curriculum\.staleness_coeff=1.5 must be between 0 and 1",
        ),
        (lambda: LearningProgress(smoothing=2), r"curriculum\.smoothing=2 must be between 0 and 1"),
    ],
)
def test_values_that_cannot_be_are_refused_by_their_key(build: Callable[[], Any], message):
    with pytest.raises(ConfigError, match=message):
        build()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["curriculum=by_reward"], r"curriculum\.tasks must be given"),
        (
            [*BY_REWARD, "curriculum.tasks=[1]", "curriculum.threshold=x"],
            r"curriculum\.threshold=x must be a number or a list",
        ),
        (
            [*BY_REWARD, "curriculum.tasks=[1]", "curriculum.threshold=1", "curriculum.metric=nix"],
            r"curriculum\.metric names the result key 'nix', which no result has",
        ),
        (
            [
                *BY_REWARD,
                *("curriculum.tasks=[1]", "curriculum.threshold=1"),
                "curriculum.metric=evaluation/episode_reward_mean",
            ],
            r"curriculum\.metric .*no evaluation runs. Set evaluation\.interval",
        ),
        (
            [*BY_REWARD, "curriculum.tasks=[1,impossible]", "curriculum.threshold=1"],
            r"curriculum\.tasks='impossible': .*env\.set_task.*no such task",
        ),
        (
            ["curriculum=by_timestep", "curriculum.schedule=[[0,impossible]]"],
            r"curriculum\.schedule='impossible': .*env\.set_task.*no such task",
        ),
        (
            ["curriculum=env_task_fn", "curriculum.env_task_fn=toy_envs.no_such_function"],
            r"curriculum\.env_task_fn='toy_envs.no_such_function': .* has no 'no_such_function'",
        ),
        (
            ["curriculum=env_task_fn", "curriculum.env_task_fn=toy_envs.TaskEnv"],
            r"curriculum\.env_task_fn=toy_envs\.TaskEnv must be a function of \(train_results, "
            r"task_settable_env, env_ctx\)",
        ),
        (
            ["curriculum=env_task_fn", "curriculum.env_task_fn=toy_envs.one_more", "env=cartpole"],
            r"curriculum needs envs that play tasks, and 'CartPole-v1' has no get_task\(\)",
        ),
    ],
)
def test_what_cannot_be_played_is_refused_before_training(overrides, message):
    with pytest.raises(ConfigError, match=message):
        make(*overrides, env="corridor" if "env=cartpole" in overrides else TASK_ENV)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.filterwarnings("ignore:.*ERROR")
def test_a_function_that_fails_is_named_with_its_env(kind):
    function = "curriculum.env_task_fn=toy_envs.wrong_task"
    with (
        make("curriculum=env_task_fn", function, *VECTORIZATIONS[kind]) as trainer,
        pytest.raises(
            ConfigError, match=r"curriculum\.env_task_fn=toy_envs\.wrong_task: .*env [01].*KeyError"
        ),
    ):
        trainer.train()


def test_the_keys_of_a_curriculum_may_be_named_only_where_there_is_one():
    make("+stop.env_task=3", *BY_REWARD, "curriculum.tasks=[1]", "curriculum.threshold=1").stop()
    with pytest.raises(ConfigError, match=r"stop\.env_task names .*no result has"):
        make("+stop.env_task=3")


# Over a whole run


def corridor(*choices: str) -> dict[str, Any]:
    """Runs of a corridor that change the task before the third iteration, and after it."""
    return tiny_ppo("env=corridor", "tuned=none", *choices, algo__rollout_fragment_length=10)


FORMS = {
    "by_reward": [
        *BY_REWARD,
        "curriculum.tasks=[2,3,4,5]",
        "curriculum.threshold=0.1",
        "curriculum.patience=2",
    ],
    "linear": [
        "curriculum=linear",
        *("curriculum.initial=2", "curriculum.final=8", "curriculum.timesteps=300"),
        "curriculum.step=1",
    ],
    "env_task_fn": ["curriculum=env_task_fn", "curriculum.env_task_fn=toy_envs.one_less"],
    "learning_progress": ["curriculum=learning_progress", "curriculum.num_tasks=4"],
    "prioritized_levels": ["curriculum=prioritized_levels", "curriculum.num_tasks=6"],
}


CHOOSING = ["learning_progress", "prioritized_levels"]
"""Those that choose among tasks."""


@pytest.mark.parametrize("form", FORMS)
def test_a_run_that_is_resumed_in_mid_stage_equals_an_uninterrupted_one(tmp_path, form):
    plain = corridor(*FORMS[form])
    assert_resumed_equals_uninterrupted(tmp_path, plain)
    tasks = [str(result["env_task"]) for result in results_of(tmp_path / "whole")]
    assert len(set(tasks)) > 2


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize("form", ["by_reward", *CHOOSING])
def test_the_same_holds_with_two_workers(tmp_path, form):
    plain = corridor(*FORMS[form], *TWO_WORKERS)
    assert_resumed_equals_uninterrupted(tmp_path, plain)


@pytest.mark.usefixtures("ray_cluster")
def test_workers_that_come_later_get_the_task_too(tmp_path):
    stages = [*BY_REWARD, "curriculum.tasks=[1,5]", "curriculum.threshold=[2]"]
    with make(*stages, "resources.num_workers=1") as trainer:
        trainer.train()
        trainer.workers.replace(0)
        assert trainer.workers.get_tasks() == [5] * 2
        folder = trainer.save(tmp_path)
    with make(*stages, *TWO_WORKERS) as trainer:
        trainer.restore(folder)
        assert trainer.workers.get_tasks() == [5] * 4


def test_native_envs_have_their_task_again_after_a_resume(tmp_path):
    native = [*BY_REWARD, "curriculum.tasks=[1,5]", "curriculum.threshold=[2]"]
    native += VECTORIZATIONS["native"]
    with make(*native) as trainer:
        trainer.train()
        folder = trainer.save(tmp_path)
    with make(*native) as trainer:
        trainer.restore(folder)
        assert trainer.workers.get_tasks() == [5]
        result = trainer.train()
    assert (result["env_task"], result["episode_reward_mean"]) == (5, 10.0)


def test_evaluation_plays_the_task_of_training_or_its_own():
    stages = [*BY_REWARD, "curriculum.tasks=[1,5]", "curriculum.threshold=[2]"]
    evaluation = ["evaluation.interval=1", "evaluation.duration=2"]
    with make(*stages, *evaluation) as trainer:
        rewards = [trainer.train()["evaluation"]["episode_reward_mean"] for _ in range(2)]
    assert rewards == [2.0, 10.0]
    with make(*stages, *evaluation, "evaluation.env_task=3") as trainer:
        rewards = [trainer.train()["evaluation"]["episode_reward_mean"] for _ in range(2)]
    assert rewards == [6.0, 6.0]


def test_an_evaluation_says_which_task_it_played():
    stages = [*BY_REWARD, "curriculum.tasks=[1,5]", "curriculum.threshold=[2]"]
    with make(*stages, "evaluation.duration=2") as trainer:
        assert trainer.train()["env_task"] == 1
        assert trainer.evaluate()["evaluation"]["env_task"] == 5
    with make("evaluation.duration=2", "evaluation.env_task=3") as trainer:
        assert trainer.evaluate()["evaluation"]["env_task"] == 3


def test_evaluation_may_have_an_env_without_tasks():
    tasks = ["curriculum=learning_progress", "curriculum.tasks=[1,5]"]
    evaluation = ["evaluation.interval=1", "evaluation.duration=2"]
    other = ["evaluation.config.env.id=toy_envs.CountingEnv"]
    with make(*tasks, *evaluation, *other) as trainer:
        assert trainer.train()["evaluation"]["episode_reward_mean"] == 3.0


def test_a_task_that_evaluation_cannot_play_is_refused_before_training():
    evaluation = ["evaluation.interval=1", "evaluation.duration=2", "evaluation.env_task=2"]
    with pytest.raises(ConfigError, match=r"evaluation.env_task=2: The env .* has no method"):
        make(*evaluation, env="CartPole-v1")


def test_an_evaluation_that_is_attached_again_promotes_nobody():
    overrides = [*BY_REWARD, "curriculum.tasks=[1,2,3]", "curriculum.threshold=2"]
    overrides += ["curriculum.metric=evaluation/episode_reward_mean", "evaluation.interval=3"]
    overrides += ["evaluation.duration=2", "evaluation.always_attach_results=true"]
    with make(*overrides) as trainer:
        assert [trainer.train()["env_task"] for _ in range(7)] == [1, 1, 1, 2, 2, 2, 3]


TO_FIVE = {"initial": 1, "final": 5, "timesteps": 1, "step": 1}


def test_a_rollout_plays_the_task_of_the_checkpoint(tmp_path, monkeypatch):
    plain = tiny_ppo("env=gym", f"env.id={TASK_ENV}", "env.env_config={terminates_at: 2}")
    plain |= {"curriculum": {"_target_": f"{Linear.__module__}.Linear", **TO_FIVE}}
    Run({**plain, "stop": {"training_iteration": 2}}, tmp_path / "run").execute()
    with command_line(tmp_path, monkeypatch) as rlrun:
        outcome = rlrun("rollout", str(tmp_path / "run" / checkpoint_name(2)), "episodes=1")
    assert "episode 1: reward 10, length 2" in outcome.stdout


def test_a_misspelt_metric_ends_a_run_with_its_key(tmp_path):
    plain = corridor(*FORMS["by_reward"], "curriculum.metric=custom_metrics/lenght_mean")
    plain["key_patience_iterations"] = 2
    run = Run({**plain, "stop": {"training_iteration": 9}}, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"curriculum\.metric names .*custom_metrics/lenght_mean"):
        run.execute()


def test_workers_alone_refuse_a_curriculum_that_nobody_would_follow():
    ramp = ["initial=1", "final=5", "timesteps=9"]
    overrides = ["curriculum=linear", *(f"curriculum.{each}" for each in ramp)]
    with pytest.raises(ConfigError, match="curriculum is for trainers, and make_workers makes"):
        make_workers("ppo", env=TASK_ENV, overrides=overrides)
