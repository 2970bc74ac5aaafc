"""A learner's snapshot: always between two updates, however many are under way."""

from __future__ import annotations

import threading

import gymnasium as gym
import numpy as np
import pytest
import torch

from rlrun.core.actor_critic import make_actor_critic
from rlrun.core.filters import MeanStdFilter, RunningMoments
from rlrun.core.networks import MLP
from rlrun.core.policy import Policy
from rlrun.core.snapshot import Snapshot


def make_policy() -> Policy:
    space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
    policy = make_actor_critic(space, gym.spaces.Discrete(2), MLP(fcnet_hiddens=[256, 256]))
    policy.observation_filter = MeanStdFilter((4,))
    with torch.no_grad():
        policy.flat.values.fill_(0.0)
    return policy


def moments(*rows: float) -> RunningMoments:
    found = RunningMoments((4,))
    found.add(np.repeat(np.array(rows, np.float32)[:, None], 4, axis=1))
    return found


@pytest.fixture
def policy() -> Policy:
    return make_policy()


@pytest.fixture
def other() -> Policy:
    return make_policy()


def test_it_gives_the_weights_of_the_last_update_while_the_next_is_under_way(policy, other):
    snapshot = Snapshot(policy)
    policy.flat.values.fill_(1.0)
    snapshot.renew(1)
    policy.flat.values[:7].fill_(2.0)
    assert snapshot.give_weights(other) == snapshot.num_updates == 1
    assert (other.flat.values == 1.0).all()


def test_what_filters_gathered_is_counted_between_two_updates(policy, other):
    snapshot = Snapshot(policy)
    snapshot.count(moments(1.0, 3.0))
    snapshot.count(moments(5.0))
    assert policy.observation_filter.count == 0
    snapshot.renew(1)
    snapshot.give_weights(other)
    for each in (policy, other):
        assert each.observation_filter.count == 3
        assert each.observation_filter.mean.tolist() == [3.0] * 4
    snapshot.renew(2)
    assert policy.observation_filter.count == 3


def test_no_read_is_torn_by_the_learner(policy, other):
    snapshot = Snapshot(policy)
    num_updates, num_gathered = 500, 100

    def learn() -> None:
        for update in range(1, num_updates + 1):
            for part in policy.flat.values.chunk(16):
                part.fill_(float(update))
            snapshot.renew(update)

    learner = threading.Thread(target=learn)
    learner.start()
    seen = []
    for _ in range(num_gathered):
        snapshot.count(moments(1.0))
        number = snapshot.give_weights(other)
        seen.append((number, float(other.flat.values.min()), float(other.flat.values.max())))
    learner.join()
    snapshot.renew(num_updates)
    assert all(number == low == high for number, low, high in seen)
    assert policy.observation_filter.count == num_gathered
