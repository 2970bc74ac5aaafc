"""DDPPO: workers that learn on their own rows, in step with each other."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Iterator
from dataclasses import fields
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from rlrun.algos.ddppo import DDPPO
from rlrun.algos.ppo import PPO
from rlrun.core.batch import Batch, concat
from rlrun.core.callbacks import Callbacks
from rlrun.core.errors import ConfigError, Interrupted, RlrunError, WorkerError
from rlrun.core.peers import Peers
from rlrun.run import make_trainer

SMALL = [
    "tuned=none",
    "algo.train_batch_size=48",
    "algo.minibatch_size=16",
    "algo.num_envs_per_worker=2",
]
TWO_WORKERS = ["resources.num_workers=2", "resources.num_cpus_per_worker=0.5"]
ID = "default_policy"


def make(*overrides: str, env: str = "CartPole-v1", **settings: Any) -> Any:
    return make_trainer("ddppo", env=env, overrides=[*SMALL, *overrides], **{"seed": 7, **settings})


def stats_of(result: dict[str, Any]) -> dict[str, float]:
    return result["info"]["learner"][ID]["learner_stats"]


def rows_of(result: dict[str, Any]) -> list[float]:
    """The least and the largest number of rows that a worker learned from."""
    found = result["info"]["learner"][ID]["custom_metrics"]
    return [found["min_rows"], found["max_rows"]]


def in_learners(trainer: Any, look: Callable[[DDPPO], Any]) -> list[Any]:
    """look(learner) in every worker."""
    return trainer.workers.map(lambda worker: look(worker.learners[ID]))


def weights_of(learner: Any) -> np.ndarray:
    return learner.policy.flat.values.numpy().copy()


def assert_all_have_the_drivers_weights(trainer: Any) -> None:
    expected = weights_of(trainer.algorithms[ID])
    acting = trainer.workers.foreach_worker(lambda worker: worker.get_policy().flat.values.numpy())
    for found in [*in_learners(trainer, weights_of), *acting]:
        np.testing.assert_array_equal(found, expected)


class CountRows(Callbacks):
    """Reports what it saw of each train batch."""

    def on_learn_on_batch(self, *, policy, train_batch, result, **kwargs):
        result["rows"] = np.array([train_batch.num_steps])


COUNT_ROWS = {"x": {"_target_": f"{__name__}.CountRows"}}


PAIR = [
    *TWO_WORKERS,
    "env.observation_filter=MeanStdFilter",
    "algo.use_kl_loss=true",
    "algo.lr=[[0, 0.01], [1000, 0.005]]",
]


def make_pair() -> Any:
    return make(*PAIR, callbacks=COUNT_ROWS)


@pytest.fixture(scope="module")
def pair(ray_cluster) -> Iterator[Any]:
    with make_pair() as made:
        yield made


# Maths


def random_rows(seed: int, num_rows: int) -> Batch:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(9, num_rows)).astype(np.float32)
    return Batch(
        obs=numbers[:4].T.copy(),
        actions=rng.integers(2, size=num_rows),
        log_probs=np.log(rng.uniform(0.3, 0.7, num_rows)).astype(np.float32),
        dist_inputs=numbers[4:6].T.copy(),
        values=numbers[6],
        advantages=numbers[7],
        value_targets=numbers[8],
        index=np.arange(num_rows),
    )


def learn_noting_steps(worker: Any, num_rows: list[int]) -> tuple[list[list[int]], np.ndarray]:
    """In a worker: the rows of each gradient step on random rows of its own, and the weights after
    them."""
    learner = worker.learners[ID]
    steps, compute_gradients = [], learner.compute_gradients

    def noting(minibatch):
        steps.append(minibatch["index"].tolist())
        return compute_gradients(minibatch)

    learner.compute_gradients = noting
    learner.learn(random_rows(learner.peers.rank, num_rows[learner.peers.rank]).to())
    del learner.compute_gradients
    return steps, weights_of(learner)


@pytest.mark.parametrize("num_rows", [[48, 48], [48, 33], [80, 2]])
def test_two_workers_equal_one_process_on_the_same_rows(pair, num_rows):
    pair.train()
    driver = pair.algorithms[ID]
    one = PPO(**{each.name: getattr(driver, each.name) for each in fields(PPO)})
    one.setup(pair.workers.local_worker().actors[ID].make_policy(), torch.device("cpu"), 0)
    one.load_state_dict(driver.state_dict())
    one.clock = driver.clock
    before = weights_of(one)
    (first_steps, first), (other_steps, other) = pair.workers.map(learn_noting_steps, num_rows)
    np.testing.assert_array_equal(first, other)
    # As many steps for both, though one of them has fewer rows; every row once in each epoch.
    num_steps = 2 * min(round(sum(num_rows) / 2 / 16), *num_rows)
    assert len(first_steps) == len(other_steps) == num_steps
    for steps, count in zip((first_steps, other_steps), num_rows, strict=True):
        assert sorted(row for step in steps for row in step) == sorted([*range(count)] * 2)
    batches = [random_rows(rank, num_rows[rank]) for rank in (0, 1)]
    for pair_of_steps in zip(first_steps, other_steps, strict=True):
        rows = [batch.take(step) for batch, step in zip(batches, pair_of_steps, strict=True)]
        one.compute_gradients(concat(rows).to())
        one.apply_gradients()
    np.testing.assert_allclose(weights_of(one), first, rtol=1e-4, atol=2e-6)
    assert np.abs(first - before).max() > 1e-3


class SaidByOthers(Peers):
    """A second peer that says always the same."""

    size = 2

    def __init__(self, says: float) -> None:
        self.says = says

    def gather(self, numbers):
        return np.stack([numbers, np.full_like(numbers, self.says)])


@pytest.mark.parametrize(("others", "coeff"), [(0.0, 0.2), (0.03, 0.4), (-0.02, 0.1)])
def test_the_kl_coefficient_follows_the_mean_kl_of_all_workers(others, coeff):
    learner = DDPPO(use_kl_loss=True, kl_coeff=0.2, kl_target=0.01)
    learner.current_kl_coeff, learner.peers = learner.kl_coeff, SaidByOthers(others)
    learner._adapt_kl_coeff(0.02)  # Means 0.01, 0.025 and 0.
    assert learner.current_kl_coeff == coeff


def test_a_worker_orders_its_rows_otherwise_than_others_and_in_each_batch(pair):
    steps = [pair.workers.map(learn_noting_steps, [48, 48]) for _ in range(2)]
    orders = {str(found) for both in steps for found, _ in both}
    assert len(orders) == 4


# A run


def test_workers_stay_alike_and_their_reports_are_one(pair):
    before = pair.workers.num_env_steps_sampled
    result = pair.train()
    assert result["timesteps_this_iter"] == result["num_env_steps_trained_this_iter"] == 2 * 48
    assert_all_have_the_drivers_weights(pair)
    driver = pair.algorithms[ID]
    for look in (
        lambda learner: learner.num_updates,
        lambda learner: learner.current_kl_coeff,
        lambda learner: learner.optimizer.exp_avg_sq.sum().item(),
        lambda learner: learner.timestep,
        lambda learner: learner.policy.observation_filter.mean.tolist(),
    ):
        assert in_learners(pair, look) == [look(driver)] * 2
    # What all have seen, counted once; schedules count the steps of all.
    assert driver.policy.observation_filter.count == before + 96
    assert stats_of(result)["cur_lr"] == pytest.approx(0.01 - 0.005 * (before + 96) / 1000)
    assert rows_of(result) == [48.0, 48.0]
    # Of the mean worker: less than the whole.
    phases = [result["timers"][f"{name}_time_ms"] for name in ("sample", "wait_for_peers", "learn")]
    assert 0.0 < sum(phases) < result["timers"]["training_iteration_time_ms"]


def test_neither_rows_nor_weights_pass_through_the_driver(pair, monkeypatch):
    sizes = []
    real = pair.workers.map

    def weighed(task, *args):
        results = real(task, *args)
        sizes.append(len(pickle.dumps((args, results))))
        return results

    monkeypatch.setattr(pair.workers, "map", weighed)
    pair.algorithms[ID].loop(pair.algorithms, pair.workers)
    assert len(sizes) >= 2  # They gather, then they learn.
    assert sum(sizes) < pair.algorithms[ID].policy.flat.values.nbytes / 4


def test_hyperparameters_and_weights_that_the_user_sets_reach_the_workers(pair):
    pair.train()
    pair.set_hyperparameters(num_epochs=3, timesteps_per_iteration=150)
    updates = pair.algorithms[ID].num_updates
    try:
        assert pair.train()["timesteps_this_iter"] == 192
        assert pair.algorithms[ID].num_updates == updates + 2 * 3 * 3
    finally:
        pair.set_hyperparameters(num_epochs=2, timesteps_per_iteration=0)
    weights = {name: 0.0 * array for name, array in pair.get_weights()[ID].items()}
    moments = pair.algorithms[ID].optimizer.exp_avg_sq.clone()
    pair.set_weights({ID: weights})
    pair.set_hyperparameters(lr=0.0)
    try:
        pair.train()
    finally:
        pair.set_hyperparameters(lr=0.01)
    assert all(not values.any() for values in in_learners(pair, weights_of))
    assert_all_have_the_drivers_weights(pair)
    assert pair.algorithms[ID].optimizer.exp_avg_sq.sum() != moments.sum() > 0


def test_an_interrupted_iteration_ends_after_its_round_and_goes_on(pair):
    pair.set_hyperparameters(timesteps_per_iteration=300)
    before = pair.workers.num_env_steps_sampled
    pair.interrupt()
    try:
        with pytest.raises(Interrupted):
            pair.train()
        assert pair.workers.num_env_steps_sampled == before + 96
        assert_all_have_the_drivers_weights(pair)
        assert pair.train()["timesteps_total"] == before + 4 * 96
    finally:
        pair.set_hyperparameters(timesteps_per_iteration=0)


def test_a_run_of_two_workers_goes_on_as_if_never_stopped(pair, tmp_path):
    pair.train()
    folder = pair.save(tmp_path)
    expected = [pair.train() for _ in range(3)]
    weights = weights_of(pair.algorithms[ID])
    with make_pair() as resumed:
        resumed.restore(folder)
        found = [resumed.train() for _ in range(3)]
        np.testing.assert_array_equal(weights_of(resumed.algorithms[ID]), weights)
        assert_all_have_the_drivers_weights(resumed)
    for one, other in zip(found, expected, strict=True):
        for key in ("info", "hist_stats", "timesteps_total", "num_env_steps_trained"):
            assert one[key] == other[key], key
    with make(*PAIR, "resources.num_workers=0") as alone:
        alone.restore(folder)
        updates = alone.algorithms[ID].num_updates
        assert alone.train()["timesteps_total"] == expected[0]["timesteps_total"] - 48
        assert alone.algorithms[ID].num_updates == updates + 2 * 3
        assert_all_have_the_drivers_weights(alone)


def test_weights_that_drift_apart_end_the_run(pair):
    def move(worker):
        if worker.worker_index == 2:
            worker.learners[ID].policy.flat.values.add_(1.0)

    pair.workers.map(move)
    with pytest.raises(RlrunError, match="drifted apart"):
        pair.train()


# Workers that fail


def break_the_env(worker: Any, how: str) -> None:
    if worker.worker_index == 2:
        env = worker.env.envs[1].unwrapped
        env.step = lambda action: os._exit(17) if how == "exit" else 1 / 0


def mend_the_env(worker: Any) -> int:
    if worker.worker_index == 2:
        del worker.env.envs[1].unwrapped.step
    return os.getpid()


def test_a_worker_that_fails_or_dies_ends_the_run_by_its_name_and_leaves_nothing(ray_cluster):
    memory = ["model.use_lstm=true", "model.lstm_cell_size=8", "algo.batch_mode=complete_episodes"]
    with make(*TWO_WORKERS, *memory, callbacks=COUNT_ROWS) as made:
        # Episodes are whole, so that the two have as many rows as it happens.
        fewer, more = rows_of(made.train())
        assert 48 <= fewer < more
        assert_all_have_the_drivers_weights(made)
        made.workers.map(break_the_env, "raise")
        started = time.monotonic()
        with pytest.raises(WorkerError, match=r"Worker 2 failed in env\.step .*ZeroDivisionError"):
            made.train()
        # All begin anew from what the driver knows.
        processes = [psutil.Process(pid) for pid in made.workers.map(mend_the_env)]
        made.train()
        assert_all_have_the_drivers_weights(made)
        made.workers.map(break_the_env, "exit")
        with pytest.raises(WorkerError, match="Worker 2 died"):
            made.train()
        # Long before a peer gives up another that lives.
        assert time.monotonic() - started < made.algorithms[ID].peer_timeout_s
        made.workers.replace(1)
        made.train()
        assert_all_have_the_drivers_weights(made)
    assert not psutil.wait_procs(processes, timeout=30)[1]


# One process


def test_without_remote_workers_it_learns_in_this_process():
    with make_trainer("ddppo", env="CartPole-v1", seed=3) as alone:
        assert alone.config.plain["tuned"] == "ddppo/cartpole"
        results = [alone.train() for _ in range(12)]
        assert_all_have_the_drivers_weights(alone)
    assert results[-1]["timesteps_total"] == 12 * 1024
    assert np.mean(results[-1]["hist_stats"]["episode_reward"][-20:]) > 100


def test_a_run_in_one_process_goes_on_as_if_never_stopped(tmp_path):
    with make() as first:
        first.train()
        folder = first.save(tmp_path)
        expected = [first.train()["info"] for _ in range(2)]
    with make() as second:
        second.restore(folder)
        assert [second.train()["info"] for _ in range(2)] == expected


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["resources.num_workers=2", "resources.num_gpus=1"], "num_gpus_per_worker"),
        (["algo.torch_distributed_backend=nccl"], "needs a GPU for each worker"),
        (["algo.torch_distributed_backend=mpi"], "torch_distributed_backend"),
        (["algo.peer_timeout_s=0"], "peer_timeout_s"),
    ],
)
def test_what_it_cannot_use_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        make(*overrides)


# What is gathered, and other numbers of workers


def test_what_workers_had_gathered_goes_to_those_that_are_left(caplog):
    with make() as one:
        worker = one.workers.local_worker()
        one.workers.piece_s = 0.0
        one.interrupt()
        with pytest.raises(Interrupted):
            one.train()
        worker.gathered = [worker.sample(), worker.sample()]
        assert worker.go_on_sampling(0.0) is None
        state = one.workers.state_dict()
    # As if two workers had made it, beside a driver that gathers nothing.
    state["remote"] = [state["local"], None, state["local"]]
    state["local"] = {**state["local"], "input": None, "gathered": []}
    with make() as alone:
        alone.workers.load_state_dict(state, alone.algorithms)
        gathered = alone.workers.local_worker().gathered
        assert len(gathered) == 4
        assert "num_workers=3, now there are 0" in caplog.text
        # A step of each of two envs, twice.
        assert "and 4 env steps of fragments that were under way are dropped" in caplog.text
        assert alone.train()["timesteps_total"] >= sum(sample.env_steps for sample in gathered)


def test_a_worker_that_comes_in_the_place_of_another_gets_a_learner(pair):
    pair.set_weights(pair.get_weights())  # Whatever a test before this has left.
    pair.set_hyperparameters(lr=0.02)
    pair.train()
    pair.workers.replace(0)
    assert stats_of(pair.train())["cur_lr"] == 0.02
    assert_all_have_the_drivers_weights(pair)
