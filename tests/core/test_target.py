"""What a target network knows before it has followed."""

from __future__ import annotations

import numpy as np
import torch
from gymnasium import spaces

from rlrun.algos.dqn import DQN
from rlrun.core.batch import Batch
from rlrun.core.filters import MeanStdFilter, RunningMoments
from rlrun.core.networks import MLP


def learner() -> DQN:
    algo = DQN(hiddens=[4], train_batch_size=4, buffer_size=8, target_network_update_freq=10**6)
    obs_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    policy = algo.make_policy(obs_space, spaces.Discrete(2), MLP(fcnet_hiddens=[4]))
    policy.observation_filter = MeanStdFilter((2,))
    algo.setup(policy, torch.device("cpu"), 0)
    return algo


def moments(numbers: list[list[float]]) -> RunningMoments:
    found = RunningMoments((2,))
    found.add(np.array(numbers))
    return found


def rows() -> Batch:
    obs = np.array([[100, 10], [300, 30], [200, 20], [100, 30]], np.float32)
    columns = {"rewards": np.ones(4, np.float32), "discounts": np.full(4, 0.9, np.float32)}
    return Batch(obs=obs, next_obs=obs[::-1].copy(), actions=np.array([0, 1, 1, 0]), **columns).to()


def test_a_target_that_has_not_followed_normalises_by_the_first_statistics():
    algo = learner()
    algo.count(moments([[100, 10], [300, 30]]))
    weights = algo.target.network.flat.values.clone()
    algo.learn(rows())
    seen = algo.target.network.observation_filter
    np.testing.assert_allclose(seen.mean, [200, 20])
    torch.testing.assert_close(
        seen(torch.tensor([[300.0, 10.0]])), torch.tensor([[0.5**0.5, -(0.5**0.5)]])
    )
    assert torch.equal(algo.target.network.flat.values, weights)
    # Later ones come with the weights.
    algo.count(moments([[900, 90]]))
    algo.learn(rows())
    np.testing.assert_allclose(seen.mean, [200, 20])


def test_a_restored_target_keeps_its_first_statistics():
    algo, restored = learner(), learner()
    algo.count(moments([[100, 10], [300, 30]]))
    algo.learn(rows())
    algo.count(moments([[900, 90]]))
    restored.load_state_dict(algo.state_dict())
    restored.learn(rows())
    np.testing.assert_allclose(restored.target.network.observation_filter.mean, [200, 20])
