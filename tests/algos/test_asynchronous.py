"""Gathering beside learning with remote workers: nothing lost, nobody slowed, everything ended."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rlrun.core.callbacks import Callbacks
from rlrun.core.errors import CallbackError, Interrupted, WorkerError
from rlrun.run import make_trainer
from rlrun.trainer import Trainer
from rlrun.workers.rollout_worker import get_global_worker

pytestmark = pytest.mark.usefixtures("ray_cluster")

SIZES = (
    "tuned=none",
    "resources.num_workers=2",
    "resources.num_cpus_per_worker=0.5",
    "model.fcnet_hiddens=[8]",
    "algo.rollout_fragment_length=10",
    "algo.train_batch_size=20",
    "algo.timesteps_per_iteration=100",
)


def make(env: str, *overrides: str, algo: str = "impala") -> Trainer:
    return make_trainer(algo, env, [*SIZES, *overrides], seed=1)


def train_long(trainer: Trainer) -> None:
    for _ in range(20):
        trainer.train()


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "rlrun learner"]


# What is under way between two rounds


@pytest.fixture(scope="module")
def counting() -> Iterator[Trainer]:
    """Two workers whose observations count the steps of one endless episode."""
    with make("toy_envs.CountingEnv") as trainer:
        yield trainer


def steps_seen(
    trainer: Trainer, num_samples: int, *, of_each: int = 0
) -> list[tuple[int, list[int]]]:
    """(worker, its steps) of the next samples, with more under way than are taken."""
    found: list[tuple[int, list[int]]] = []

    def is_over() -> bool:
        positions = [position for position, _ in found]
        return len(found) >= num_samples and min(map(positions.count, (0, 1))) >= of_each

    stream = trainer.workers.stream("sample", in_flight=3, is_over=is_over)
    for position, sample in stream:
        trainer.workers.note(sample)
        rows = sample.batches["default_policy"]
        found.append((position, rows.real(rows["obs"])[:, 1].astype(int).tolist()))
    return found


@pytest.mark.parametrize("piece_s", [0.0, pytest.param(0.5, marks=pytest.mark.slow)])
def test_what_is_under_way_is_neither_lost_nor_doubled(counting, tmp_path, piece_s):
    counting.workers.piece_s = piece_s
    begun = counting.workers.num_env_steps_sampled
    seen = steps_seen(counting, 5)
    assert counting.workers.map("get_spaces") == [counting.workers.local_worker().spaces] * 2
    seen += steps_seen(counting, 3)
    folder = counting.save(tmp_path)
    assert counting.workers.num_env_steps_sampled == begun + 80
    # The samples that were under way come out of the checkpoint, and the workers' halves of others.
    with make("toy_envs.CountingEnv") as resumed:
        resumed.workers.piece_s = piece_s
        resumed.restore(folder)
        later_there = steps_seen(resumed, 8, of_each=4)
    for later in (steps_seen(counting, 8, of_each=4), later_there):
        for position in (0, 1):
            steps = [step for place, part in (*seen, *later) if place == position for step in part]
            assert steps == list(range(steps[0], steps[0] + len(steps)))
            assert len(steps) >= 40


def test_messages_are_confirmed_on_the_way(counting):
    for _ in range(60):
        counting.workers.sync_weights(counting.algorithms, to=0)
    pool = counting.workers._pool
    # However far behind a worker is, it gets round to all of them while others bring samples.
    for _ in range(2000):
        if pool._unconfirmed:
            steps_seen(counting, 1)
    assert pool._unconfirmed == []


# Runs


class InterruptAtUpdate(Callbacks):
    """Asks for the end, or raises, at the `at`-th update; it lives in the driver."""

    def __init__(self, at: int, raises: bool = False) -> None:
        self.at, self.raises, self.num_updates = at, raises, 0
        self.trainer: Any = None

    def on_trainer_init(self, *, trainer, **kwargs):
        self.trainer = trainer

    def on_learn_on_batch(self, *, result, **kwargs):
        self.num_updates += 1
        if self.num_updates == self.at and self.raises:
            raise FloatingPointError("in the learner's thread")
        if self.num_updates == self.at:
            self.trainer.interrupt()

    def __reduce__(self):  # Workers need no trainer.
        return InterruptAtUpdate, (self.at, self.raises)


def interrupt_at(update: int, raises: bool = False) -> list[str]:
    target = f"callbacks.x._target_={__name__}.InterruptAtUpdate"
    return [target, f"callbacks.x.at={update}", f"callbacks.x.raises={raises}"]


class FirstUpdateTakesLong(Callbacks):
    """The first update lasts until `num_steps` env steps have been gathered beside it."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps, self.is_over = num_steps, False
        self.trainer: Any = None

    def on_trainer_init(self, *, trainer, **kwargs):
        self.trainer = trainer

    def on_learn_on_batch(self, **kwargs):
        begun = time.monotonic()
        while not self.is_over:
            gathered = self.trainer.workers.num_env_steps_sampled >= self.num_steps
            self.is_over = gathered or time.monotonic() - begun > 60.0
            time.sleep(0.001)

    def __reduce__(self):  # Workers need no trainer.
        return FirstUpdateTakesLong, (self.num_steps,)


@pytest.mark.parametrize(("drops", "num_dropped"), [(True, 200), (False, 0)])
def test_gathering_goes_on_while_the_learner_learns_until_the_line_is_full(drops, num_dropped):
    # 20 steps are learned from; 3 batches of 20 wait: then those that come are dropped, or wait.
    num_steps = 300 if drops else 80
    overrides = [
        *("algo.learner_queue_size=3", f"algo.learner_queue_drops={drops}"),
        f"callbacks.x._target_={__name__}.FirstUpdateTakesLong",
        *(f"callbacks.x.num_steps={num_steps}", "algo.timesteps_per_iteration=400"),
    ]
    with make("CartPole-v1", *overrides) as trainer:
        result = trainer.train()
    learner = result["info"]["learner"]["default_policy"]
    assert learner["learner_stats"]["learner_queue_size_max"] == 3.0
    assert learner["num_rows_dropped"] >= num_dropped
    assert drops or learner["num_rows_dropped"] == 0


@pytest.mark.parametrize("algo", ["impala", pytest.param("appo", marks=pytest.mark.slow)])
def test_it_learns_beside_the_gathering_is_interrupted_and_goes_on(algo, tmp_path):
    overrides = [
        *("algo.learner_queue_size=2", "algo.num_sgd_iter=2", "algo.timesteps_per_iteration=400"),
        *("evaluation.interval=1", "evaluation.duration=1"),
    ]
    with make("CartPole-v1", *overrides, *interrupt_at(70), algo=algo) as trainer:
        before = trainer.get_weights()["default_policy"]
        result = trainer.train()
        assert own_threads() == []
        learner = result["info"]["learner"]["default_policy"]
        stats = learner["learner_stats"]
        assert stats["policy_lag_max"] >= stats["policy_lag_mean"] >= 0.0
        assert stats["policy_lag_max"] > 0.0
        assert 0.0 <= stats["learner_queue_size_max"] <= 2.0
        assert 0.0 <= learner["learner_idle_share"] <= 1.0
        assert learner["num_rows_dropped"] == 0
        trainer.set_hyperparameters(lr=1e-3)
        with pytest.raises(Interrupted):
            train_long(trainer)
        assert own_threads() == []
        sampled = trainer.workers.num_env_steps_sampled
        assert sampled < 20 * 400
        after = trainer.get_weights()["default_policy"]
        assert any((after[name] != before[name]).any() for name in before)
        intake = trainer.algorithms["default_policy"].intake
        # All that was sampled has been learned from twice, or will be.
        rest = sum(part.num_steps for part in (*intake.line, *intake._parts))
        left = sum(
            batch.num_steps * times
            for batch, times in zip(intake._buffer, intake._passes_left, strict=True)
            if batch is not None
        )
        trained = trainer.algorithms["default_policy"].num_rows_trained
        assert trained + left + 2 * rest == 2 * sampled
        folder = trainer.save(tmp_path)
    with make("CartPole-v1", *overrides, algo=algo) as resumed:
        resumed.restore(folder)
        assert resumed.workers.num_env_steps_sampled == sampled
        resumed_weights = resumed.get_weights()["default_policy"]
        assert all((resumed_weights[name] == after[name]).all() for name in after)
        result = resumed.train()
        learner_stats = result["info"]["learner"]["default_policy"]["learner_stats"]
        assert learner_stats["cur_lr"] == 1e-3
        assert resumed.algorithms["default_policy"].num_updates > 70


def test_an_error_in_the_thread_ends_the_run_as_itself():
    failure = pytest.raises(CallbackError, match="FloatingPointError: in the learner's thread")
    with make("CartPole-v1", *interrupt_at(3, raises=True)) as trainer, failure:
        train_long(trainer)
    assert own_threads() == []


# Workers that are slow, or die


class SlowUpdate(Callbacks):
    """Once others have seen an update, the next lasts until `FRAGMENTS` more have been taken in."""

    FRAGMENTS = 50

    def __init__(self) -> None:
        self.num_fragments = self.num_updates = 0
        self.in_round = 0
        self.waited: list[bool] = []
        self.has_changed = threading.Condition()

    def on_learn_on_batch(self, **kwargs: Any) -> None:
        with self.has_changed:
            self.num_updates += 1
            end = self.num_fragments + self.FRAGMENTS
            is_early = 0 < self.in_round < self.FRAGMENTS
            if self.num_updates > 1 and is_early and not self.waited:
                self.waited.append(
                    self.has_changed.wait_for(lambda: self.num_fragments >= end, timeout=20.0)
                )

    def count(self) -> None:
        with self.has_changed:
            self.num_fragments += 1
            self.in_round += 1
            self.has_changed.notify_all()

    def __reduce__(self) -> Any:  # Only the driver's own counts.
        return SlowUpdate, ()


def test_a_slow_update_does_not_slow_gathering():
    overrides = [
        *("algo.rollout_fragment_length=5", "algo.train_batch_size=1000", "algo.num_sgd_iter=100"),
        *("env.observation_filter=MeanStdFilter", f"callbacks.x._target_={__name__}.SlowUpdate"),
    ]
    with make("CartPole-v1", *overrides) as trainer:
        slow = trainer.callbacks
        assert isinstance(slow, SlowUpdate)
        stream = trainer.workers.stream

        def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
            slow.in_round = 0
            for found in stream(*args, **kwargs):
                slow.count()
                yield found

        trainer.workers.stream = counted
        for _ in range(50):
            trainer.train()
            if slow.waited:
                break
        learned = trainer.get_policy().observation_filter
        assert learned.count == trainer.workers.num_env_steps_sampled - sum(
            moments.count for moments in trainer.workers._gathered.values()
        )
    assert slow.waited == [True]


class UnevenEnv(gym.Env):
    """Takes 1 ms of CPU a step, in the first worker ten times as long; ends the process of the
    worker `dies` at its 30th step."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, dies: int = 0) -> None:
        self.dies = dies
        self.num_steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        index = get_global_worker().worker_index
        end = time.process_time() + (0.01 if index == 1 and not self.dies else 0.001)
        while time.process_time() < end:
            pass
        self.num_steps += 1
        if index == self.dies and self.num_steps == 30:
            os._exit(17)
        return np.zeros(2, np.float32), 1.0, False, False, {}


def test_a_slow_worker_slows_nobody():
    with make(f"{__name__}.UnevenEnv") as trainer:
        counts: Counter[int] = Counter()
        stream = trainer.workers.stream

        def counted(*args: Any, **kwargs: Any) -> Iterator[Any]:
            for position, sample in stream(*args, **kwargs):
                counts[position] += sample.env_steps
                yield position, sample

        trainer.workers.stream = counted
        for _ in range(10):
            trainer.train()
    assert counts[0] + counts[1] >= 1000
    # Ten times, less what both take beside the steps; equal, if one waited for the other.
    assert counts[1] > 2 * counts[0]


def test_a_dead_worker_ends_the_run_by_its_name():
    with make(f"{__name__}.UnevenEnv", "env.env_config.dies=2") as trainer:
        with pytest.raises(WorkerError, match="Worker 2 died"):
            train_long(trainer)
        assert own_threads() == []
