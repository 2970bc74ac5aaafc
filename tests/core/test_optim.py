from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from rlrun.core.flat import FlatParameters
from rlrun.core.optim import FlatAdam, FlatOptimizer, FlatRMSProp


@pytest.fixture(autouse=True)
def own_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def module_of(*parameters: nn.Parameter) -> nn.Module:
    return nn.ParameterList(parameters)


def loss_of(net: nn.Module, step: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(step)
    inputs = torch.randn(16, 4, generator=generator)
    return ((net(inputs) - inputs[:, :2].sin() * 3) ** 2).sum()


@pytest.mark.parametrize("grad_clip", [None, 1.0, 30.0])
@pytest.mark.parametrize(("eps", "betas"), [(1e-8, (0.9, 0.999)), (1e-3, (0.5, 0.9))])
def test_twenty_steps_equal_torch_adam_behind_clip_grad_norm(grad_clip, eps, betas):
    net = network()
    reference = copy.deepcopy(net)
    flat_adam = FlatAdam(FlatParameters(net), eps=eps, betas=betas)
    adam = torch.optim.Adam(reference.parameters(), eps=eps, betas=betas)
    for step in range(20):
        lr = 0.02 / (1 + step)
        norm = flat_adam.step(loss_of(net, step), lr, grad_clip)
        adam.param_groups[0]["lr"] = lr
        adam.zero_grad()
        loss_of(reference, step).backward()
        largest = float("inf") if grad_clip is None else grad_clip
        expected_norm = nn.utils.clip_grad_norm_(reference.parameters(), largest)
        adam.step()
        torch.testing.assert_close(norm.detach(), expected_norm, rtol=1e-4, atol=1e-6)
    for ours, theirs in zip(net.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-6)


def test_the_first_step_is_worked_out_by_hand():
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    norm = FlatAdam(FlatParameters(module_of(weight)), eps=0.5).step(
        (weight * torch.tensor([3.0, -4.0])).sum(), 0.1
    )
    # g = (3, -4); both moments are corrected to g and g^2: the step is lr g / (|g| + eps).
    assert float(norm) == pytest.approx(5.0)
    expected = torch.tensor([1.0 - 0.1 * 3 / 3.5, -2.0 + 0.1 * 4 / 4.5])
    torch.testing.assert_close(weight.detach(), expected)


def test_clipping_scales_the_whole_gradient_and_reports_the_norm_before():
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = FlatAdam(FlatParameters(module_of(weight)), eps=0.5)
    norm = optimizer.step((weight * torch.tensor([3.0, -4.0])).sum(), 0.1, 1.0)
    assert float(norm) == pytest.approx(5.0)
    # g = (0.6, -0.8) of norm 1.
    expected = torch.tensor([1.0 - 0.1 * 0.6 / 1.1, -2.0 + 0.1 * 0.8 / 1.3])
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-5, atol=1e-6)


def test_a_gradient_below_the_limit_is_not_scaled_up():
    results = []
    for grad_clip in (None, 100.0):
        weight = nn.Parameter(torch.tensor([1.0, -2.0]))
        FlatAdam(FlatParameters(module_of(weight)), eps=0.5).step(
            (weight * 2).sum(), 0.1, grad_clip
        )
        results.append(weight.detach())
    torch.testing.assert_close(*results, rtol=0, atol=0)


def test_parameters_keep_their_numbers_and_become_views_of_the_flat_tensor():
    net = network()
    before = [parameter.detach().clone() for parameter in net.parameters()]
    optimizer = FlatAdam(FlatParameters(net))
    assert optimizer.flat.values.shape == (sum(numbers.numel() for numbers in before),)
    for parameter, numbers in zip(net.parameters(), before, strict=True):
        torch.testing.assert_close(parameter.detach(), numbers, rtol=0, atol=0)
    with torch.no_grad():
        optimizer.flat.values.copy_(
            torch.arange(optimizer.flat.values.numel(), dtype=torch.float32)
        )
    start = 0
    for parameter, numbers in zip(net.parameters(), before, strict=True):
        end = start + numbers.numel()
        expected = torch.arange(start, end, dtype=torch.float32).view_as(numbers)
        torch.testing.assert_close(parameter.detach(), expected)
        start = end
    net[0].weight.data[0, 0] = 77.0
    assert optimizer.flat.values[0] == 77.0


def test_a_parameter_that_the_loss_does_not_touch_stays_where_it_is():
    used, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))
    optimizer = FlatAdam(FlatParameters(module_of(unused, used)))
    for _ in range(3):
        optimizer.step((used**2).sum(), 0.1)
    torch.testing.assert_close(unused.detach(), torch.ones(2))
    assert (used < 1).all()


def test_gradients_do_not_pile_up_over_steps_and_backward_calls_in_between():
    weight = nn.Parameter(torch.tensor([1.0]))
    optimizer = FlatAdam(FlatParameters(module_of(weight)))
    norms = [float(optimizer.step(2 * weight.sum(), 0.0)) for _ in range(3)]
    assert norms == [2.0, 2.0, 2.0]
    (5 * weight.sum()).backward()  # somebody else's
    assert float(optimizer.step(2 * weight.sum(), 0.0)) == 2.0


def test_a_restored_optimizer_goes_on_exactly():
    net = network()
    optimizer = FlatAdam(FlatParameters(net))
    for step in range(5):
        optimizer.step(loss_of(net, step), 0.01, 1.0)
    weights, state = copy.deepcopy(net.state_dict()), copy.deepcopy(optimizer.state_dict())
    restored_net = network()
    restored = FlatAdam(FlatParameters(restored_net))
    restored_net.load_state_dict(weights)
    restored.load_state_dict(state)
    for step in range(5, 10):
        optimizer.step(loss_of(net, step), 0.01, 1.0)
        restored.step(loss_of(restored_net, step), 0.01, 1.0)
    torch.testing.assert_close(restored.flat.values, optimizer.flat.values, rtol=0, atol=0)


def test_a_loaded_state_is_not_shared_with_the_optimizer_that_it_came_from():
    net, other = network(), network()
    first, second = FlatAdam(FlatParameters(net)), FlatAdam(FlatParameters(other))
    first.step(loss_of(net, 0), 0.01)
    kept = copy.deepcopy(first.state_dict())
    second.load_state_dict(first.state_dict())
    second.step(loss_of(other, 1), 0.01)
    now = first.state_dict()
    assert set(now) == set(kept)
    for name, value in kept.items():
        torch.testing.assert_close(
            torch.as_tensor(now[name]), torch.as_tensor(value), rtol=0, atol=0
        )


# RMSProp


@pytest.mark.parametrize("grad_clip", [None, 0.5])
def test_steps_along_a_given_gradient_of_outputs_are_those_along_the_loss(grad_clip):
    net, other = network(), network()
    other.load_state_dict(net.state_dict())
    one, two = FlatAdam(FlatParameters(net)), FlatAdam(FlatParameters(other))
    inputs = torch.randn(16, 4)
    for step in range(3):
        (net(inputs).square().sum() * 7.0).backward()  # Of user code, and no part of the loss.
        outputs = net(inputs)
        loss = outputs.square().sum() / (1 + step)
        one.backward(loss.detach(), 2.0 * outputs.detach() / (1 + step), outputs.backward)
        one.move(0.01, grad_clip)
        two.step(other(inputs).square().sum() / (1 + step), 0.01, grad_clip)
    torch.testing.assert_close(one.values, two.values)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_rmsprop_is_worked_out_step_by_step(momentum):
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = FlatRMSProp(
        FlatParameters(module_of(weight)), decay=0.5, momentum=momentum, eps=0.25
    )
    expected, mean_square, velocity = [1.0, -2.0], [1.0, 1.0], [0.0, 0.0]
    for lr in (0.1, 0.2, 0.1):
        optimizer.step((weight * torch.tensor([3.0, -4.0])).sum(), lr)
        for i, grad in enumerate((3.0, -4.0)):
            mean_square[i] = 0.5 * mean_square[i] + 0.5 * grad**2
            velocity[i] = momentum * velocity[i] + lr * grad / (mean_square[i] + 0.25) ** 0.5
            expected[i] -= velocity[i]
        torch.testing.assert_close(weight.detach(), torch.tensor(expected))


def test_rmsprop_clips_as_adam_does():
    weight = nn.Parameter(torch.tensor([0.0, 0.0]))
    optimizer = FlatRMSProp(FlatParameters(module_of(weight)), eps=0.1)
    norm = optimizer.step((weight * torch.tensor([3.0, 4.0])).sum(), 0.1, grad_clip=1.0)
    assert norm.item() == pytest.approx(5.0)
    torch.testing.assert_close(optimizer.flat.grad, torch.tensor([0.6, 0.8]))


def test_a_restored_rmsprop_goes_on_exactly():
    nets = [network()]
    optimizers: list[FlatOptimizer] = [FlatRMSProp(FlatParameters(nets[0]), momentum=0.9)]
    for step in range(5):
        optimizers[0].step(loss_of(nets[0], step), 0.01)
    nets.append(copy.deepcopy(nets[0]))
    optimizers.append(FlatRMSProp(FlatParameters(nets[1]), momentum=0.9))
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for net, optimizer in zip(nets, optimizers, strict=True):
        for step in range(5, 8):
            optimizer.step(loss_of(net, step), 0.01)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_frozen_weights_stay_whatever_momentum_they_had():
    frozen, moving = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = FlatRMSProp(FlatParameters(module_of(frozen, moving)), momentum=0.9)
    optimizer.step((frozen + moving).sum(), 0.1)
    before = frozen.detach().clone(), moving.detach().clone()
    frozen.requires_grad_(False)
    optimizer.step((frozen + moving).sum(), 0.1)
    assert torch.equal(frozen.detach(), before[0])
    assert not torch.equal(moving.detach(), before[1])


def test_an_optimizer_of_a_part_moves_that_part_alone():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    twin = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    twin.load_state_dict(net.state_dict())
    inputs = torch.linspace(-1, 1, 15).view(5, 3)
    flat = FlatParameters(net)
    optimizer = FlatAdam(flat, net[2])
    reference = torch.optim.Adam(twin[2].parameters(), lr=0.1)
    first = net[0].weight.detach().clone()
    for _ in range(3):
        optimizer.step(net(inputs).square().sum(), lr=0.1)
        reference.zero_grad()
        twin(inputs).square().sum().backward()
        reference.step()
    torch.testing.assert_close(net[2].weight, twin[2].weight)
    torch.testing.assert_close(net[2].bias, twin[2].bias)
    assert torch.equal(net[0].weight, first)
    assert torch.count_nonzero(flat.grad[flat.part_of(net[0])]) == 0


def test_a_part_that_is_frozen_within_a_part_stays_also_under_weight_decay():
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = FlatAdam(FlatParameters(net), net[1])
    net[1].weight.requires_grad_(False)
    before = [parameter.detach().clone() for parameter in net.parameters()]
    optimizer.compute_gradients(net(torch.ones(1, 3)).sum())
    optimizer.add_weight_decay(0.5)
    optimizer.apply_gradients(0.1)
    moved = [
        not torch.equal(one, other) for one, other in zip(before, net.parameters(), strict=True)
    ]
    assert moved == [False, False, False, True]
