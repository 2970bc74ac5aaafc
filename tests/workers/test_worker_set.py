from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rlrun.core import seeding
from rlrun.core.callbacks import Callbacks
from rlrun.core.errors import ConfigError, ResourceError, WorkerError
from rlrun.run import make_trainer
from rlrun.workers.rollout_worker import RolloutWorker
from rlrun.workers.vector_env import env_seeds

SMALL = [
    "algo.train_batch_size=24",
    "algo.minibatch_size=12",
    "algo.num_epochs=1",
    "algo.num_envs_per_worker=2",
    "algo.timesteps_per_iteration=0",
]
TWO_WORKERS = ["resources.num_workers=2", "resources.num_cpus_per_worker=0.5"]
LOCAL = "resources.num_workers=0"

pytestmark = pytest.mark.usefixtures("ray_cluster")


def make(env: str, *overrides: str, **settings):
    return make_trainer("ppo", env=env, overrides=[*SMALL, *overrides], **{"seed": 11, **settings})


def stats_of(result: dict) -> dict:
    return result["info"]["learner"]["default_policy"]["learner_stats"]


def weights_of(trainer) -> list[dict]:
    return trainer.workers.foreach_worker(lambda worker: worker.get_weights()["default_policy"])


def assert_all_equal(trees: list[dict]) -> None:
    for tree in trees[1:]:
        assert tree.keys() == trees[0].keys()
        for name in tree:
            np.testing.assert_array_equal(tree[name], trees[0][name], err_msg=name)


@pytest.fixture(scope="module")
def trainer(ray_cluster):
    """Two remote workers of two envs each, for tests that leave them usable."""
    with make(
        "toy_envs.CountingEnv",
        *TWO_WORKERS,
        "env.env_config.length_range=[2,9]",
        "env.env_config.rewards=random",
        "env.observation_filter=MeanStdFilter",
    ) as made:
        yield made


# Who is there


def test_workers_count_from_one_and_the_local_one_is_zero(trainer):
    indices = trainer.workers.foreach_worker(lambda worker: worker.worker_index)
    assert indices == [0, 1, 2]
    assert trainer.workers.num_workers == len(trainer.workers.remote_workers()) == 2
    assert trainer.workers.local_worker().worker_index == 0


def test_local_and_remote_workers_are_of_one_class_in_processes_of_their_own(trainer):
    def describe(worker):
        import os

        return f"{type(worker).__module__}.{type(worker).__qualname__}", os.getpid()

    described = trainer.workers.foreach_worker(describe)
    assert {name for name, _ in described} == {"rlrun.workers.rollout_worker.RolloutWorker"}
    assert len({pid for _, pid in described}) == 3


def test_an_actor_handle_takes_calls_by_name(trainer, ray_cluster):
    handle = trainer.workers.remote_workers()[1]
    assert ray_cluster.get(handle.call.remote("get_weights")).keys() == {"default_policy"}


def test_each_worker_knows_itself_as_the_global_one(trainer):
    def is_the_global_one(worker):
        from rlrun.workers.rollout_worker import get_global_worker

        return get_global_worker() is worker

    # In the driver a later trainer's worker may have taken that place.
    assert trainer.workers.foreach_worker(is_the_global_one)[1:] == [True, True]


# Sampling


def test_a_sample_holds_the_rows_of_every_worker(trainer):
    before = trainer.workers.num_env_steps_sampled
    rows = trainer.workers.sample()["default_policy"]
    # The auto fragment: 24 rows over two workers of two envs are 6 steps of each env.
    assert rows.num_rows == 24
    assert trainer.workers.num_env_steps_sampled == before + 24


def test_every_env_of_every_worker_has_a_seed_of_its_own(trainer):
    def seeds(worker):
        return [] if worker.env is None else [env.seed for env in worker.env.envs]

    trainer.workers.sample()
    found = trainer.workers.foreach_worker(seeds)
    root = seeding.integer_seed(11, "rollout")
    assert found == [[], env_seeds(root, 1, 2), env_seeds(root, 2, 2)]
    assert len({*found[1], *found[2], *env_seeds(root, 0, 2)}) == 6


def test_a_remote_worker_samples_what_a_local_one_in_its_state_would(trainer):
    root = seeding.integer_seed(11, "rollout")

    def sample_from_the_start(worker):
        if worker.input is None:
            return None
        worker.input.restart(env_seeds(root, worker.worker_index, 2))  # Those that it began with.
        worker.actors["default_policy"].rng.bit_generator.state = np.random.default_rng(
            4
        ).bit_generator.state
        return dict(worker.sample().batches["default_policy"])

    trainer.train()
    here = RolloutWorker(trainer.config.worker, 2)
    here.set_weights(trainer.get_weights())
    expected = sample_from_the_start(here)
    here.stop()
    _, other, found = trainer.workers.foreach_worker(sample_from_the_start)
    assert_all_equal([expected, found])
    assert (other["obs"] != found["obs"]).any()


def test_rounds_are_repeated_until_there_are_enough_rows(trainer):
    before = trainer.workers.num_env_steps_sampled
    rows = trainer.workers.sample(min_steps=60)["default_policy"]
    assert rows.num_rows == 72
    assert trainer.workers.num_env_steps_sampled - before == 72


def test_episodes_of_all_workers_are_counted_once(trainer):
    trainer.workers.take_metrics()
    before = trainer.workers.foreach_env(lambda env: env.episode_number)
    trainer.workers.sample(min_steps=240)
    after = trainer.workers.foreach_env(lambda env: env.episode_number)
    reports = trainer.workers.take_metrics()
    assert len(reports) == sum(sum(envs) for envs in after) - sum(sum(envs) for envs in before)
    assert len(reports) > 10
    assert all(2 <= report.length <= 9 for report in reports)
    assert trainer.workers.take_metrics() == []


# Weights and filters


def test_all_workers_have_the_learners_weights_after_each_iteration(trainer):
    before = weights_of(trainer)[0]
    trainer.train()
    weights = weights_of(trainer)
    assert_all_equal(weights)
    assert any((weights[0][name] != before[name]).any() for name in before)
    timesteps = trainer.workers.foreach_worker(lambda worker: worker.timestep)
    assert timesteps == [trainer.workers.num_env_steps_sampled] * 3


def test_weights_set_by_the_user_reach_all_workers(trainer):
    weights = trainer.get_weights()
    changed = {name: array + 1 for name, array in weights["default_policy"].items()}
    trainer.set_weights({"default_policy": changed})
    found = weights_of(trainer)
    assert_all_equal([changed, *found])
    trainer.set_weights(weights)


def test_all_policies_hold_the_statistics_of_all_observations(trainer):
    def statistics(worker):
        running = worker.get_policy().observation_filter
        return {name: getattr(running, name).numpy().copy() for name in ("count", "mean", "scale")}

    trainer.train()
    before = trainer.workers.foreach_worker(statistics)
    assert_all_equal(before)
    rows = trainer.workers.sample()["default_policy"]["obs"].astype(np.float64)
    # What is gathered counts when weights are published, so that the learner sees these rows as
    # the workers did that acted on them.
    assert_all_equal([before[0], *trainer.workers.foreach_worker(statistics)])
    trainer.workers.sync_weights(trainer.algorithms)
    after = trainer.workers.foreach_worker(statistics)
    assert_all_equal(after)
    count = before[0]["count"] + len(rows)
    assert after[0]["count"] == count
    mean = (before[0]["mean"] * before[0]["count"] + rows.sum(0)) / count
    np.testing.assert_allclose(after[0]["mean"], mean)


def test_a_first_epoch_sees_the_ratios_that_the_workers_acted_with(trainer):
    trainer.train()
    learner = trainer.algorithms["default_policy"]
    rows = trainer.workers.sample()["default_policy"].to()
    with torch.no_grad():
        dist, values = learner.policy(rows)
    torch.testing.assert_close(dist.log_prob(rows["actions"]), rows["log_probs"], atol=1e-5, rtol=0)
    torch.testing.assert_close(values, rows["values"], atol=1e-5, rtol=1e-5)


# The user's functions


def test_foreach_worker_with_index_passes_the_index(trainer):
    found = trainer.workers.foreach_worker_with_index(
        lambda worker, index: (worker.worker_index, index, worker.env is None)
    )
    assert found == [(0, 0, True), (1, 1, False), (2, 2, False)]


def test_foreach_env_reaches_the_bare_envs_of_every_worker(trainer):
    found = trainer.workers.foreach_env(lambda env: type(env).__qualname__)
    assert found == [[], ["CountingEnv"] * 2, ["CountingEnv"] * 2]


def test_what_foreach_env_sets_on_an_env_stays_there(trainer):
    trainer.workers.foreach_env(lambda env: setattr(env, "mark", id(env)))
    marks = trainer.workers.foreach_env(lambda env: env.mark == id(env))
    assert marks == [[], [True, True], [True, True]]


def test_foreach_policy_reaches_the_policies_of_every_worker(trainer):
    found = trainer.workers.foreach_policy(
        lambda policy, policy_id: (policy_id, type(policy).__qualname__)
    )
    assert found == [("default_policy", "ActorCritic")] * 3


def fail_on_the_second(worker, error):
    if worker.worker_index == 2:
        raise error


def test_an_error_in_the_users_function_names_the_worker(trainer):
    with pytest.raises(WorkerError, match=r"^Worker 2 failed: KeyError: 'no such thing'$"):
        trainer.workers.foreach_worker(
            lambda worker: fail_on_the_second(worker, KeyError("no such thing"))
        )
    assert trainer.workers.foreach_worker(lambda worker: worker.worker_index) == [0, 1, 2]


def test_errors_for_the_user_keep_their_type_and_words(trainer):
    with pytest.raises(ConfigError, match=r"^algo\.x=1 is wrong\.$"):
        trainer.workers.foreach_worker(
            lambda worker: fail_on_the_second(worker, ConfigError("algo.x=1 is wrong."))
        )


@pytest.mark.parametrize("error", [KeyError("no such thing"), WorkerError("it broke")])
def test_the_traceback_of_the_other_process_is_the_cause(trainer, error):
    with pytest.raises(WorkerError) as caught:
        trainer.workers.foreach_worker(lambda worker: fail_on_the_second(worker, error))
    trace = str(caught.value.__cause__)
    assert "fail_on_the_second" in trace
    assert "test_worker_set.py" in trace


# Faults


@dataclass
class FailedRun:
    """What became of a run whose workers fail one after the other."""

    checkpoint: Path
    """After the first iteration."""
    results: list[dict[str, Any]]
    """Of the iterations after the checkpoint."""
    weights: dict[str, np.ndarray]
    env_seed: int
    errors: list[WorkerError]
    """Of an env that raised, a process that ended in an env, and one that was killed."""


def break_an_env(worker) -> int | None:
    def step(action):
        raise ZeroDivisionError("the env broke")

    if worker.worker_index != 2:
        return None
    worker.env.envs[1].unwrapped.step = step
    return worker.env.envs[1].seed


def end_the_process_in_a_step(worker) -> None:
    if worker.worker_index == 2:
        worker.env.envs[1].unwrapped.step = lambda action: os._exit(17)


CART_POLE = ("CartPole-v1", *TWO_WORKERS, "env.observation_filter=MeanStdFilter")


@pytest.fixture(scope="module")
def failed_run(ray_cluster, tmp_path_factory) -> FailedRun:
    errors = []
    with make(*CART_POLE) as first:
        first.train()
        checkpoint = first.save(tmp_path_factory.mktemp("failed_run"))
        results = [first.train() for _ in range(5)]
        weights = first.get_weights()["default_policy"]
        seed = first.workers.foreach_worker(break_an_env)[2]
        with pytest.raises(WorkerError) as caught:
            first.train()
        errors.append(caught.value)
        first.workers.foreach_worker(end_the_process_in_a_step)
        with pytest.raises(WorkerError) as caught:
            first.train()
        errors.append(caught.value)
        ray_cluster.kill(first.workers.remote_workers()[0])
        with pytest.raises(WorkerError) as caught:
            first.train()
        errors.append(caught.value)
    return FailedRun(checkpoint, results, weights, seed, errors)


def test_a_failing_env_is_named_with_its_worker(failed_run):
    assert str(failed_run.errors[0]) == (
        f"Worker 2 failed in env.step ('CartPole-v1', env 1, seed {failed_run.env_seed}): "
        f"ZeroDivisionError: the env broke"
    )


def test_a_process_that_ends_is_named(failed_run):
    assert str(failed_run.errors[1]).startswith("Worker 2 died")
    # Both are dead by then: whoever is noticed first.
    assert re.match("Worker [12] died", str(failed_run.errors[2]))


def test_a_run_whose_workers_died_goes_on_from_its_checkpoint(failed_run):
    with make(*CART_POLE, seed=99) as second:
        second.restore(failed_run.checkpoint)
        again = [second.train() for _ in range(5)]
        assert_all_equal([failed_run.weights, *weights_of(second)])
        state = second.workers.state_dict()
    for result, other in zip(again, failed_run.results, strict=True):
        assert stats_of(result) == stats_of(other)
        for key in ("timesteps_total", "episodes_total", "episode_reward_mean", "hist_stats"):
            np.testing.assert_equal(result[key], other[key], err_msg=key)
    assert again[-1]["episodes_total"] > 1
    assert state["num_env_steps_sampled"] == 6 * 24
    assert len(state["remote"]) == 2


def test_fewer_workers_take_over_what_they_can(failed_run):
    with make(*CART_POLE, LOCAL) as local:
        local.restore(failed_run.checkpoint)
        assert local.workers.num_env_steps_sampled == 24
        assert local.get_policy().observation_filter.count == 24
        assert local.train()["timesteps_total"] == 48


class WhereEpisodesEnd(Callbacks):
    def on_episode_end(self, *, worker, episode, **kwargs):
        episode.custom_metrics["worker"] = worker.worker_index


def test_callbacks_from_anywhere_on_the_drivers_path_work_in_every_process():
    with make(
        "toy_envs.CountingEnv",
        "resources.num_workers=1",
        "resources.num_cpus_per_worker=0.5",
        "env.env_config.terminates_at=2",
        callbacks={"x": {"_target_": f"{__name__}.WhereEpisodesEnd"}},
    ) as made:
        metrics = made.train()["custom_metrics"]
    assert metrics == {"worker_mean": 1.0, "worker_min": 1.0, "worker_max": 1.0}


def test_an_error_while_a_worker_is_made_says_what_it_was():
    with pytest.raises((ConfigError, WorkerError), match=r"no_such_argument"):
        make(
            "toy_envs.CountingEnv",
            "resources.num_workers=1",
            "resources.num_cpus_per_worker=0.5",
            "env.env_config.no_such_argument=1",
        )


def test_more_workers_than_the_cluster_has_cpus_are_refused_at_once():
    with pytest.raises(ResourceError, match=r"5 workers .* need 5 CPU in all.*has 4"):
        make("CartPole-v1", "resources.num_workers=5")


def test_a_message_that_nobody_waited_for_fails_the_next_call_by_the_workers_name(trainer):
    pool = trainer.workers._pool
    pool.send_all("set_weights", {"no_such_policy": {}}, None)
    with pytest.raises(WorkerError, match=r"Worker [12] failed: KeyError: 'no_such_policy'"):
        trainer.workers.sample()
    assert len(trainer.workers.sample()) == 1


def test_another_ray_than_the_one_there_is_refused():
    with pytest.raises(ResourceError, match=r"ray_num_cpus=2.*connected to Ray already"):
        make("CartPole-v1", *TWO_WORKERS, "resources.ray_num_cpus=2")


@pytest.mark.slow
def test_process_wide_generators_of_remote_workers_go_on_after_a_resume(tmp_path):
    def draw(worker):
        import random

        import torch

        return random.random(), float(np.random.rand()), float(torch.rand(1))

    with make("CartPole-v1", *TWO_WORKERS) as first:
        first.train()
        first.workers.foreach_worker(draw)
        checkpoint = first.save(tmp_path)
        expected = first.workers.foreach_worker(draw)
    with make("CartPole-v1", *TWO_WORKERS) as second:
        assert second.workers.foreach_worker(draw) != expected
        second.restore(checkpoint)
        assert second.workers.foreach_worker(draw) == expected


# Without remote workers

WITHOUT_RAY = """
import sys
sys.path.insert(0, {tests!r})
from rlrun.run import make_trainer
with make_trainer("ppo", env="toy_envs.CountingEnv", overrides={overrides!r}, seed=1) as trainer:
    assert trainer.train()["timesteps_total"] == 24
    assert "evaluation" in trainer.evaluate()
print([name for name in sys.modules if name.split(".")[0] == "ray"])
"""


def test_without_remote_workers_ray_is_never_imported():
    program = WITHOUT_RAY.format(
        tests=str(Path(__file__).parents[1]),
        overrides=[*SMALL, "env.env_config.terminates_at=3", "evaluation.duration=1"],
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_local_worker_acts_on_a_copy_if_there_are_no_others():
    with make("CartPole-v1") as local:
        assert local.workers.foreach_worker(lambda worker: worker.worker_index) == [0]
        assert local.workers.remote_workers() == []
        acting, learning = local.workers.local_worker().get_policy(), local.get_policy()
        assert acting is not learning
        with torch.no_grad():
            acting.flat.values.add_(1.0)
        assert (acting.flat.values != learning.flat.values).all()
        local.train()
        assert torch.equal(acting.flat.values, learning.flat.values)
        assert len(local.workers.foreach_env(lambda env: env)[0]) == 2


def test_foreach_env_goes_into_the_processes_of_envs():
    with make("CartPole-v1", "env.vectorization=async") as local:
        found = local.workers.foreach_env_with_context(
            lambda env, env_ctx: (type(env).__qualname__, env_ctx.vector_index, os.getpid())
        )
    (names, indices, processes) = zip(*found[0], strict=True)
    assert (names, indices) == (("CartPoleEnv",) * 2, (0, 1))
    assert len({*processes, os.getpid()}) == 3


# Verbs


def test_map_runs_a_function_on_every_sampling_worker_in_order(trainer):
    def index_and(worker, number):
        return worker.worker_index + number

    assert trainer.workers.map(index_and, 10) == [11, 12]


def test_stream_asks_a_worker_again_only_when_the_caller_wants_more(trainer):
    calls = trainer.workers.stream(count_call)
    first = [next(calls)]
    while {position for position, _ in first} != {0, 1}:
        first.append(next(calls))
    # Two are under way, or done, that nobody has asked for yet; none is lost or done twice.
    calls.close()
    again = trainer.workers.stream(count_call)
    seen = first + [next(again) for _ in range(6)]
    for position in (0, 1):
        numbers = [number for place, number in seen if place == position]
        assert numbers == list(range(1, len(numbers) + 1))


def count_call(worker):
    worker.num_calls = getattr(worker, "num_calls", 0) + 1
    return worker.num_calls


def test_what_is_sent_comes_before_what_is_asked_next(trainer):
    trainer.workers.send(1, set_mark, 7)
    assert trainer.workers.map(get_mark) == [None, 7]


def set_mark(worker, mark):
    worker.mark = mark


def get_mark(worker):
    return getattr(worker, "mark", None)


def test_a_replacement_has_the_weights_of_now_and_streams_of_its_own():
    with make("toy_envs.CountingEnv", *TWO_WORKERS, "env.env_config.rewards=random") as made:
        made.train()

        def seeds(worker):
            return worker.seed, worker.actors["default_policy"].rng.random()

        before = made.workers.map(seeds)
        made.workers.replace(1)
        after = made.workers.map(seeds)
        assert after[0][0] == before[0][0]
        assert after[1][0] != before[1][0]
        assert after[1][1] not in {number for _, number in before}
        assert_all_equal(weights_of(made))
        assert made.train()["timesteps_this_iter"] == 24
