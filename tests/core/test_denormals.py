"""Learners take denormals for zeros; nobody else does."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from rlrun.core.denormals import denormals_flushed, is_flushing
from rlrun.core.exploration.intrinsic import Learned
from rlrun.core.optim import FlatAdam
from rlrun.run import make_trainer

SMALL = ["tuned=none", "env=cartpole", "algo.timesteps_per_iteration=32"]
PPO = [*SMALL, "algo.train_batch_size=32", "algo.minibatch_size=32"]
FROM_REPLAY = [
    *("env=pendulum", "tuned=none", "algo.learning_starts=8", "algo.train_batch_size=8"),
    "algo.timesteps_per_iteration=10",
]
DENORMAL = 1e-40


@pytest.fixture(autouse=True)
def no_flush() -> Iterator[None]:
    assert not is_flushing()
    yield
    torch.set_flush_denormal(False)


def fill_with_denormals(optimizer: FlatAdam) -> None:
    """The first moments of a unit that has been dead for long."""
    optimizer.exp_avg.fill_(DENORMAL)
    optimizer.exp_avg_sq.fill_(DENORMAL)


def num_denormals(optimizer: FlatAdam) -> int:
    least = torch.finfo(torch.float32).tiny
    moments = torch.cat([optimizer.exp_avg, optimizer.exp_avg_sq])
    return int(((moments != 0.0) & (moments.abs() < least)).sum())


@pytest.mark.parametrize(
    ("algo", "overrides"),
    [
        ("ppo", PPO),
        ("a3c", [*SMALL, "algo.rollout_fragment_length=8"]),
        ("sac", FROM_REPLAY),
    ],
)
def test_moments_of_adam_do_not_stay_denormal(algo: str, overrides: list[str]):
    with make_trainer(algo, overrides=overrides, seed=1) as trainer:
        learner = trainer.algorithms["default_policy"]
        with torch.no_grad():  # So that most gradients are 0.
            learner.policy.flat.values.zero_()
        fill_with_denormals(learner.optimizer)
        trainer.train()
        assert learner.num_updates > 0
        assert num_denormals(learner.optimizer) == 0
        assert not is_flushing()


def test_nor_those_of_what_an_exploration_learns():
    learned = Learned(nn.Linear(4, 4), lr=0.0)
    fill_with_denormals(learned.optimizer)
    learned.learn(
        lambda index: 0.0 * learned.module(torch.ones(4)).sum(), 4, 4, np.random.default_rng(1)
    )
    assert num_denormals(learned.optimizer) == 0
    assert not is_flushing()


def test_envs_and_callbacks_keep_them():
    seen = []
    with make_trainer("ppo", overrides=PPO, seed=1) as trainer:
        learner = trainer.algorithms["default_policy"]
        learner.on_learn_on_batch = lambda **_: seen.append(is_flushing())
        trainer.train()
    assert seen == [False]


def test_who_flushed_before_flushes_on():
    torch.set_flush_denormal(True)
    with denormals_flushed():
        assert is_flushing()
    assert is_flushing()


def test_an_error_ends_it_too():
    with pytest.raises(KeyError), denormals_flushed():
        raise KeyError
    assert not is_flushing()


def test_threads_of_torch_flush_with_the_learner():
    code = """if True:
        import torch
        from rlrun.core.denormals import denormals_flushed, set_num_threads
        set_num_threads(2)
        torch.ones(1 << 20).mul_(2.0)
        with denormals_flushed():
            halves = torch.full((1 << 20,), 2e-38) * 0.25
        print(int((halves != 0.0).sum()))
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"
