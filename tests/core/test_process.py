"""What a trainer changes in the process is given back."""

from __future__ import annotations

import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from rlrun.core.errors import ConfigError
from rlrun.core.process import ProcessState
from rlrun.run import make_trainer

SMALL = ["algo.train_batch_size=64", "algo.minibatch_size=64", "algo.timesteps_per_iteration=0"]


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Two threads of torch during the test, whatever the process had."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def draws() -> list[float]:
    return [random.random(), float(np.random.random()), float(torch.rand(1))]


def seed_all() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def blas_threads() -> list[int]:
    return [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]


def test_a_trainer_that_stops_leaves_random_numbers_and_threads_as_they_were():
    seed_all()
    expected = draws()
    seed_all()
    with make_trainer("ppo", env="cartpole", overrides=SMALL, seed=3) as trainer:
        trainer.train()
        assert torch.get_num_threads() == 1
    assert draws() == expected
    assert torch.get_num_threads() == 2


def test_a_trainer_that_is_refused_leaves_them_too():
    seed_all()
    expected = draws()
    seed_all()
    with pytest.raises(ConfigError):
        make_trainer("dqn", env="pendulum", seed=3)
    assert draws() == expected
    assert torch.get_num_threads() == 2


def test_what_is_drawn_after_a_trainer_stopped_is_not_drawn_again_when_it_stops_twice():
    seed_all()
    trainer = make_trainer("ppo", env="cartpole", overrides=SMALL, seed=3)
    trainer.stop()
    first = draws()
    trainer.stop()
    assert draws() != first


def test_one_trainer_within_another_leaves_the_outer_one_its_numbers():
    def numbers(with_inner: bool) -> list[float]:
        with make_trainer("ppo", env="cartpole", overrides=SMALL, seed=3):
            if with_inner:
                make_trainer("ppo", env="cartpole", overrides=SMALL, seed=4).stop()
            return draws()

    assert numbers(True) == numbers(False)


def test_numpy_has_one_blas_thread_while_a_trainer_lives(monkeypatch):
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    with threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        state = ProcessState()
        assert set(blas_threads()) == {1}
        state.restore()
        assert blas_threads() == before


def test_threads_of_blas_that_the_user_has_set_stay(monkeypatch):
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "2")
    with threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        state = ProcessState()
        assert blas_threads() == before
        state.restore()


IN_HEAP = """
import torch
from rlrun.core.process import keep_freed_memory
keep_freed_memory()

tensor = torch.empty(5_000_000)
(heap,) = [line for line in open("/proc/self/maps") if "[heap]" in line]
start, end = (int(address, 16) for address in heap.split()[0].split("-"))
print(start < tensor.data_ptr() < end)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is another")
@pytest.mark.parametrize(
    ("tuning", "keeps"), [({}, True), ({"MALLOC_MMAP_THRESHOLD_": "100000"}, False)]
)
def test_large_tensors_lie_where_memory_is_kept_unless_the_user_has_tuned_it(tuning, keeps):
    # By default glibc gets the first ones from the system alone, and hands them back when freed.
    plain = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", IN_HEAP],
        env=plain | tuning,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == str(keeps)


def test_products_are_as_exact_as_asked_for_while_a_trainer_lives():
    overrides = [*SMALL, "resources.matmul_precision=medium"]
    with make_trainer("ppo", env="cartpole", overrides=overrides, seed=3) as trainer:
        trainer.train()
        assert torch.get_float32_matmul_precision() == "medium"
    assert torch.get_float32_matmul_precision() == "highest"


def test_ray_workers_multiply_as_the_learner_does(ray_cluster):
    overrides = [*SMALL, "resources.num_workers=1", "resources.matmul_precision=high"]
    with make_trainer("ppo", env="cartpole", overrides=overrides, seed=3) as trainer:
        found = trainer.workers.foreach_worker(lambda _: torch.get_float32_matmul_precision())
    assert found == ["high", "high"]


def test_a_precision_that_was_set_before_is_kept():
    torch.set_float32_matmul_precision("high")
    try:
        with make_trainer("ppo", env="cartpole", overrides=SMALL, seed=3):
            assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
