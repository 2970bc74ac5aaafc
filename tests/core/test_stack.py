import copy
import pickle

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from rlrun.core.actor_critic import ActorCritic
from rlrun.core.batch import Batch
from rlrun.core.dense import NARROW
from rlrun.core.flat import FlatParameters
from rlrun.core.networks import MLP, NoisyLinear, mlp
from rlrun.core.optim import FlatAdam
from rlrun.core.stack import MAX_NUMPY_WIDTH, Stack


def modules(kind: str) -> list[nn.Module]:
    torch.manual_seed(3)
    wide = MAX_NUMPY_WIDTH + 1
    return {
        "tanh": [mlp(4, [8, 5], "tanh"), nn.Linear(5, 2)],
        "relu": [mlp(4, [8], "relu"), nn.Linear(8, 2)],
        "linear": [mlp(4, [8], "linear"), nn.Linear(8, 2)],
        "no layer": [mlp(4, [], "tanh")],
        "activation last": [mlp(4, [8], "relu")],
        "activation first": [nn.Tanh(), nn.Linear(4, 2)],
        "two activations": [nn.Linear(4, 3), nn.Tanh(), nn.ReLU()],
        "silu": [mlp(4, [8], "silu"), nn.Linear(8, 2)],
        "no bias": [nn.Linear(4, 2, bias=False)],
        "wide": [mlp(4, [wide], "tanh"), nn.Linear(wide, 2)],
        "noisy": [mlp(4, [8], "relu"), NoisyLinear(8, 2, 0.5)],
        "own class": [Doubling(4, 2)],
        "twice": [*2 * [nn.Linear(4, 4), nn.Tanh()]],
        "one bias": with_one_bias(nn.Linear(4, 4), nn.Linear(4, 4)),
    }[kind]


KINDS = [
    "tanh",
    "relu",
    "linear",
    "no layer",
    "activation last",
    "activation first",
    "two activations",
    "silu",
    "no bias",
    "wide",
    "noisy",
    "own class",
    "twice",
    "one bias",
]


def with_one_bias(first: nn.Linear, second: nn.Linear) -> list[nn.Module]:
    second.bias = first.bias
    return [first, nn.ReLU(), second]


class Doubling(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2.0 * super().forward(x)


def stacked(row: list[nn.Module]) -> Stack:
    """The stack of an owner that holds the modules."""
    owner = nn.Module()
    for index, module in enumerate(row):
        owner.add_module(f"part{index}", module)
    return Stack(owner, *owner._modules)


def by_hand(row: list[nn.Module], x: torch.Tensor) -> torch.Tensor:
    return nn.Sequential(*row)(x)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_gives_what_its_modules_give_in_torch_and_in_numpy(kind):
    row = modules(kind)
    obs = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    before = obs.copy()
    with torch.no_grad():
        expected = by_hand(row, torch.from_numpy(obs.copy()))
    stack = stacked(row)
    torch.testing.assert_close(stack(torch.from_numpy(obs)), expected)
    np.testing.assert_allclose(stack.act(obs), expected.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(obs, before)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_parameters_and_input_are_those_of_the_modules(kind):
    row = modules(kind)
    x = torch.randn(6, 4, requires_grad=True)
    wanted = [x, *nn.Sequential(*row).parameters()]
    expected = torch.autograd.grad(by_hand(row, x).square().sum(), wanted)
    found = torch.autograd.grad(stacked(row)(x).square().sum(), wanted)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("width", [4, NARROW])
@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_goes_back_to_the_gradients_of_autograd(kind, width):
    row = modules(kind)
    if width != 4:
        row.insert(0, nn.Linear(width, 4))
    stack, x = stacked(row), torch.randn(6, width)
    expected = nn.Sequential(*row)(x)
    gradient = torch.randn_like(expected)
    parameters = [parameter for module in row for parameter in module.parameters()]
    wanted = torch.autograd.grad(expected, parameters, gradient) if parameters else ()
    for parameter in parameters:
        parameter.grad = torch.zeros_like(parameter)
    run = stack.run(x)
    assert run.learns == bool(parameters)
    torch.testing.assert_close(run.outputs, expected.detach())
    assert not run.outputs.requires_grad
    kept = gradient.clone()
    run.backward(gradient)
    assert torch.equal(gradient, kept), "it is the caller's"
    for parameter, other in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(parameter.grad, other)


def test_a_pass_leaves_what_is_frozen_alone():
    row = modules("relu")
    frozen = row[0][0].weight
    for module in row:
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
    frozen.requires_grad_(False)
    stacked(row).run(torch.randn(6, 4)).backward(torch.ones(6, 2))
    assert not frozen.grad.any()
    assert row[0][0].bias.grad.any()
    assert row[1].weight.grad.any()


def test_hooks_are_called_in_a_pass_on_its_way_there_and_back():
    row, called = modules("tanh"), []
    row[0].register_forward_hook(lambda *args: called.append("forward"))
    row[1].register_full_backward_hook(lambda *args: called.append("backward"))
    run = stacked(row).run(torch.randn(6, 4))
    assert called == ["forward"]
    run.backward(torch.ones(6, 2))
    assert called == ["forward", "backward"]


def test_hooks_on_parameters_have_their_say_in_a_pass():
    row, called = modules("relu"), []
    for module in row:
        for parameter in module.parameters():
            parameter.grad = torch.zeros_like(parameter)
    row[0][0].weight.register_hook(lambda gradient: 0.0 * gradient)
    row[1].bias.register_post_accumulate_grad_hook(called.append)
    stacked(row).run(torch.randn(6, 4)).backward(torch.ones(6, 2))
    assert not row[0][0].weight.grad.any()
    assert row[1].weight.grad.any()
    assert len(called) == 1


def test_a_pass_made_without_gradients_says_that_there_is_no_way_back():
    with torch.no_grad():
        run = stacked(modules("silu")).run(torch.randn(6, 4))
    with pytest.raises(RuntimeError, match="does not require grad"):
        run.backward(torch.ones(6, 2))


def test_acting_sees_new_weights_and_parameters_that_were_moved():
    row = modules("tanh")
    stack = stacked(row)
    obs = np.ones((1, 4), np.float32)

    def check() -> None:
        expected = by_hand(row, torch.from_numpy(obs)).detach().numpy()
        np.testing.assert_allclose(stack.act(obs), expected, rtol=1e-5)

    check()
    with torch.no_grad():
        row[1].bias += 1.0
    check()
    optimizer = FlatAdam(FlatParameters(nn.Sequential(*row)))
    check()
    optimizer.step(stack(torch.from_numpy(obs)).sum(), lr=0.1)
    check()


def test_a_copy_acts_on_its_own_weights():
    policy = ActorCritic(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), MLP())
    obs = np.ones((1, 4), np.float32)
    before = policy.act(obs)[1]["values"]
    for twin in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        with torch.no_grad():
            twin.vf_head.bias += 1.0
        np.testing.assert_allclose(twin.act(obs)[1]["values"], before + 1.0, rtol=1e-5)
        np.testing.assert_array_equal(policy.act(obs)[1]["values"], before)


def test_acting_follows_an_optimiser_of_the_last_layers_alone():
    policy = ActorCritic(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), MLP())
    obs = np.ones((1, 4), np.float32)
    policy.act(obs)
    policy.vf_encoder.requires_grad_(False)
    optimizer = FlatAdam(FlatParameters(policy.vf_head))
    optimizer.step(policy(Batch(obs=torch.from_numpy(obs)))[1].sum(), lr=0.1)
    expected = policy(Batch(obs=torch.from_numpy(obs)))[1].detach().numpy()
    np.testing.assert_allclose(policy.act(obs)[1]["values"], expected, rtol=1e-5)


def acted(stack: Stack, obs: np.ndarray) -> np.ndarray:
    """What the stack gives, once it is sure to have seen its modules before."""
    stack.act(obs)
    return stack.act(obs)


def test_forward_hooks_are_called_in_acting_and_in_learning_until_they_are_removed():
    row = modules("tanh")
    stack, obs = stacked(row), np.ones((2, 4), np.float32)
    before = acted(stack, obs)
    for module in (row[0], row[0][2], row[1]):
        handle = module.register_forward_hook(lambda module, inputs, output: output * 0.0)
        expected = by_hand(row, torch.from_numpy(obs)).detach()
        np.testing.assert_allclose(stack.act(obs), expected.numpy(), rtol=1e-6)
        torch.testing.assert_close(stack(torch.from_numpy(obs)), expected)
        assert (stack.act(obs) != before).any()
        handle.remove()
        np.testing.assert_array_equal(stack.act(obs), before)


@pytest.mark.parametrize("where", ["head", "inner layer", "activation", "parameter"])
def test_what_is_put_in_place_of_a_part_is_used_from_then_on(where):
    row = modules("tanh")
    stack, obs = stacked(row), np.ones((2, 4), np.float32)
    before = acted(stack, obs)
    if where == "head":
        stack.owner.part1 = row[1] = nn.Linear(5, 3)
    elif where == "inner layer":
        row[0][0] = nn.Linear(4, 8)
    elif where == "activation":
        row[0][1] = nn.Sigmoid()
    else:
        row[1].weight = nn.Parameter(torch.zeros(2, 5))
    expected = by_hand(row, torch.from_numpy(obs)).detach()
    np.testing.assert_allclose(stack.act(obs), expected.numpy(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stack(torch.from_numpy(obs)), expected)
    assert stack.act(obs).shape != before.shape or (stack.act(obs) != before).any()
