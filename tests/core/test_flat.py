"""Weights as one vector, whatever user code does to a network in between."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from rlrun.algos.ppo import PPO
from rlrun.core.actor_critic import ActorCritic
from rlrun.core.errors import RlrunError
from rlrun.core.flat import FlatParameters
from rlrun.core.networks import MLP
from rlrun.core.optim import FlatAdam

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def loss_of(net: nn.Module) -> torch.Tensor:
    inputs = torch.linspace(-1, 1, 12).view(3, 4)
    return (net(inputs) - 1.0).square().sum()


def zero_the_gradients(net: nn.Module) -> None:
    net.zero_grad()


def assign_other_weights(net: nn.Module) -> None:
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.load_state_dict(state, assign=True)


def put_another_layer_in_place(net: nn.Module) -> None:
    layer = nn.Linear(8, 2)
    layer.load_state_dict(net[2].state_dict())
    net[2] = layer


def give_a_parameter_other_memory(net: nn.Module) -> None:
    net[0].weight.data = net[0].weight.data.clone()


@pytest.mark.parametrize(
    "meddle",
    [
        zero_the_gradients,
        assign_other_weights,
        put_another_layer_in_place,
        give_a_parameter_other_memory,
    ],
)
def test_learning_goes_on_whatever_user_code_does_between_two_steps(meddle):
    net = network()
    reference = copy.deepcopy(net)
    ours = FlatAdam(FlatParameters(net))
    theirs = torch.optim.Adam(reference.parameters(), lr=0.1)
    for _ in range(4):
        ours.step(loss_of(net), 0.1)
        theirs.zero_grad()
        loss_of(reference).backward()
        theirs.step()
        meddle(net)
    for one, other in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_weights_that_were_assigned_are_those_that_learning_starts_from():
    net, other = network(), network()
    optimizer = FlatAdam(FlatParameters(net))
    optimizer.step(loss_of(net), 0.1)
    net.load_state_dict(other.state_dict(), assign=True)
    optimizer.step(loss_of(net), 0.0)
    for one, theirs in zip(net.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, theirs)
    assert torch.equal(
        optimizer.flat.values, torch.cat([p.detach().reshape(-1) for p in other.parameters()])
    )


def test_what_is_frozen_stands_still_at_once_and_moves_again_when_it_is_not():
    net = network()
    optimizer = FlatAdam(FlatParameters(net))
    for _ in range(3):
        optimizer.step(loss_of(net), 0.1)
    net[0].requires_grad_(False)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    for _ in range(3):
        optimizer.step(loss_of(net), 0.1)
    moved = [not torch.equal(p, b) for p, b in zip(net.parameters(), before, strict=True)]
    assert moved == [False, False, True, True]
    net[0].requires_grad_(True)
    optimizer.step(loss_of(net), 0.1)
    assert not torch.equal(net[0].weight, before[0])


def test_a_network_of_another_shape_is_refused():
    net = network()
    optimizer = FlatAdam(FlatParameters(net))
    net[2] = nn.Linear(8, 3)
    with pytest.raises(RlrunError, match="other layers than when its learner was made"):
        optimizer.step((net(torch.zeros(1, 4))).sum(), 0.1)


def test_a_hook_that_zeroes_gradients_does_not_stop_a_learner():
    policy = ActorCritic(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), MLP(fcnet_hiddens=[4]))
    algorithm = PPO(train_batch_size=8, minibatch_size=8, num_epochs=1, lr=0.1)
    algorithm.setup(policy, CPU, 0)
    algorithm.on_learn_on_batch = lambda *, policy, **kwargs: policy.zero_grad()
    before = policy.get_weights()
    rng = np.random.default_rng(0)
    from rlrun.core.batch import Batch

    algorithm.learn_on_batch(
        Batch(
            obs=rng.normal(size=(8, 3)).astype(np.float32),
            actions=rng.integers(0, 2, 8),
            log_probs=np.full(8, np.log(0.5), np.float32),
            values=np.zeros(8, np.float32),
            advantages=rng.normal(size=8).astype(np.float32),
            value_targets=np.ones(8, np.float32),
        )
    )
    after = policy.get_weights()
    assert all((after[name] != before[name]).any() for name in before if "filter" not in name)


def test_polyak_averaging_is_one_operation_on_the_vectors():
    one, other = FlatParameters(network()), FlatParameters(network())
    expected = 0.9 * one.values + 0.1 * other.values
    one.values.lerp_(other.values, 0.1)
    torch.testing.assert_close(
        torch.cat([p.detach().reshape(-1) for p in one.module.parameters()]), expected
    )


def test_a_copied_policy_has_vectors_of_its_own():
    policy = ActorCritic(spaces.Box(-1, 1, (3,)), spaces.Discrete(2), MLP(fcnet_hiddens=[4]))
    policy.flat.values.fill_(1.0)
    twin = copy.deepcopy(policy)
    twin.flat.values.add_(1.0)
    assert set(policy.flat.values.tolist()) == {1.0}
    assert set(twin.flat.values.tolist()) == {2.0}
    assert float(twin.pi_head.weight[0, 0]) == 2.0
    policy.copy_weights(twin)
    assert float(policy.pi_head.weight[0, 0]) == 2.0
