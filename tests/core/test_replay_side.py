"""What off-policy learners hold: replay with its pace, and target networks."""

from __future__ import annotations

import logging

import numpy as np
import psutil
import pytest
import torch
from gymnasium import spaces

from rlrun.core.actor_critic import ActorCritic
from rlrun.core.batch import Batch
from rlrun.core.errors import ResourceError
from rlrun.core.networks import MLP
from rlrun.core.replay import PrioritizedReplayBuffer, ReplayBuffer
from rlrun.core.replay_side import ReplaySide
from rlrun.core.schedules import make_schedule
from rlrun.core.target import Target


def rows(num_rows: int) -> Batch:
    return Batch(x=np.arange(num_rows, dtype=np.float32), weights=np.ones(num_rows, np.float32))


def side(intensity: float | None = None, starts: int = 0, prioritized: bool = False) -> ReplaySide:
    rng = np.random.default_rng(0)
    buffer = (
        PrioritizedReplayBuffer(100, rng, alpha=1.0, eps=0.5)
        if prioritized
        else ReplayBuffer(100, rng)
    )
    return ReplaySide(
        buffer,
        train_batch_size=8,
        learning_starts=starts,
        training_intensity=intensity,
        beta=make_schedule([[0, 0.0], [100, 1.0]]),
    )


def test_without_an_intensity_there_is_one_update_a_round_from_the_start_on():
    replay = side(starts=20)
    assert replay.num_updates_due(4, 100) == 0  # nothing to learn from
    replay.add(rows(10))
    assert [replay.num_updates_due(4, step) for step in (16, 20, 24)] == [0, 1, 1]


@pytest.mark.parametrize("intensity", [1.0, 3.0, 32.0])
def test_the_intensity_is_rows_learned_per_row_sampled_with_no_rest_lost(intensity):
    replay = side(intensity)
    replay.add(rows(10))
    due = [replay.num_updates_due(5, 100) for _ in range(80)]
    assert sum(due) == 80 * 5 * intensity / 8
    assert max(due) - min(due) <= 1


def test_importance_weights_follow_the_schedule_of_beta_and_priorities_the_errors():
    replay = side(prioritized=True)
    replay.add(Batch(x=np.arange(4, dtype=np.float32)))
    sampled = replay.sample(0)
    sampled["batch_indexes"] = np.arange(4)
    replay.update_priorities(sampled.to(), torch.tensor([0.5, -1.5, 0.5, 0.5]))
    # Priorities |error| + 0.5 are 1, 2, 1, 1: with beta 1 the second row weighs half.
    assert set(replay.sample(0)["weights"].tolist()) == {1.0}
    late = replay.sample(100)
    expected = np.where(late["batch_indexes"] == 1, 0.5, 1.0)
    np.testing.assert_allclose(late["weights"], expected)


def test_a_restored_side_owes_the_same_updates():
    replay, other = side(3.0), side(3.0)
    replay.add(rows(10))
    replay.num_updates_due(5, 100)
    other.load_state_dict(replay.state_dict())
    for _ in range(5):
        assert replay.num_updates_due(5, 100) == other.num_updates_due(5, 100)
        np.testing.assert_array_equal(replay.sample(0)["x"], other.sample(0)["x"])


def test_a_buffer_that_no_memory_could_hold_is_refused_with_what_it_would_take():
    with pytest.raises(
        ResourceError, match=r"buffer_size=1000000000 rows of 56,448 bytes take 56,448\.0 GB"
    ):
        ReplayBuffer(10**9, np.random.default_rng(0)).add(
            {"obs": np.zeros((1, 8, 84, 84), np.uint8)}
        )


def test_a_buffer_that_takes_most_of_the_free_memory_is_warned_of(caplog):
    capacity = int(0.9 * psutil.virtual_memory().available / 1000)
    with caplog.at_level(logging.WARNING):
        ReplayBuffer(capacity, np.random.default_rng(0)).add({"obs": np.zeros((1, 1000), np.uint8)})
    assert "when the buffer is full" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        ReplayBuffer(1000, np.random.default_rng(0)).add({"obs": np.zeros((1, 1000), np.uint8)})
    assert not caplog.text


def policy() -> ActorCritic:
    return ActorCritic(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), MLP(fcnet_hiddens=[4]))


@pytest.mark.parametrize("tau", [1.0, 0.25])
def test_a_target_follows_by_tau_each_time_its_interval_has_passed(tau):
    online = policy()
    online.flat.values.fill_(0.0)
    target = Target(online, interval=10, tau=tau)
    online.flat.values.fill_(1.0)
    seen = []
    for count in (5, 9, 10, 15, 19, 27):
        target.follow_if_due(count)
        seen.append(round(float(target.network.flat.values.mean()), 6))
    once, twice = tau, tau + (1 - tau) * tau
    assert seen == pytest.approx([0, 0, once, once, once, twice])
    assert target.num_updates == 2


def test_a_target_learns_nothing_and_acts_in_evaluation_mode():
    target = Target(policy(), interval=1, tau=1.0)
    assert not any(parameter.requires_grad for parameter in target.network.parameters())
    assert not target.network.training
