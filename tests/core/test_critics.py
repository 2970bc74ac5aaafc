"""Passes of critics with and without an encoder, against autograd through the same modules."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun.core.critics import ChosenValues, Critics
from rlrun.core.ensemble import Ensemble
from rlrun.core.networks import CNN, MLP, Model

VECTOR = spaces.Box(-1.0, 1.0, (4,), np.float32)
IMAGE = spaces.Box(0, 255, (10, 10, 1), np.uint8)
MODELS: dict[str, tuple[Model, spaces.Box]] = {
    "no encoder": (MLP(fcnet_hiddens=[]), VECTOR),
    "dense": (MLP(fcnet_hiddens=[6, 5], fcnet_activation="tanh"), VECTOR),
    "by autograd": (MLP(fcnet_hiddens=[6], fcnet_activation="silu"), VECTOR),
    "images": (CNN(post_fcnet_hiddens=[5]), IMAGE),
}


@pytest.fixture(autouse=True)
def own_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def critics_of(kind: str, action_width: int = 2, num_outputs: int = 1) -> Critics:
    model, obs_space = MODELS[kind]
    critics = Critics(
        model.encoder(obs_space),
        action_width=action_width,
        num_outputs=num_outputs,
        hiddens=[7, 6],
        num_critics=2,
    )
    for parameter in critics.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return critics


def observations(kind: str, num_rows: int) -> torch.Tensor:
    space = MODELS[kind][1]
    space.seed(0)
    return torch.from_numpy(np.stack([space.sample() for _ in range(num_rows)]))


def assert_gradients(critics: Critics, total: torch.Tensor) -> None:
    parameters = list(critics.parameters())
    for parameter, expected in zip(parameters, torch.autograd.grad(total, parameters), strict=True):
        torch.testing.assert_close(parameter.grad, expected)


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_of_one_action_a_row(kind):
    critics, obs, actions = critics_of(kind), observations(kind, 9), torch.rand(9, 2)
    run, expected = critics.run(obs, actions), critics(obs, actions)
    torch.testing.assert_close(run.values, expected.detach())
    gradient = torch.randn(2, 9)
    run.backward(gradient)
    assert_gradients(critics, (expected * gradient).sum())


def assert_least(critics: Critics, obs: torch.Tensor, num_critics: int | None) -> None:
    """Those of a pass over some actions are those of autograd, and no parameter gets a gradient."""
    actions = torch.rand(len(obs), 2, requires_grad=True)
    expected = critics(obs, actions)[:num_critics].amin(0)
    (by_actions,) = torch.autograd.grad(expected.sum(), [actions])
    before = [parameter.grad.clone() for parameter in critics.parameters()]
    with torch.no_grad():
        least, found = critics.run(obs, actions.detach(), num_critics).least()
    torch.testing.assert_close(least, expected.detach())
    torch.testing.assert_close(found, by_actions)
    for parameter, grad in zip(critics.parameters(), before, strict=True):
        assert torch.equal(parameter.grad, grad)


@pytest.mark.parametrize("num_critics", [None, 1])
@pytest.mark.parametrize("kind", MODELS)
def test_the_least_value_of_a_row_and_its_gradient_by_the_action(kind, num_critics):
    assert_least(critics_of(kind), observations(kind, 9), num_critics)


@pytest.mark.parametrize("num_actions", [1, 3])
@pytest.mark.parametrize("kind", MODELS)
def test_gradients_of_several_actions_a_row(kind, num_actions):
    critics, obs = critics_of(kind), observations(kind, 9)
    actions = torch.rand(9, num_actions, 2)
    run = critics.run(obs, actions)
    expected = torch.stack([critics(obs, actions[:, i]) for i in range(num_actions)], -1)
    assert expected.shape == (2, 9, num_actions)
    torch.testing.assert_close(run.values, expected.detach())
    gradient = torch.randn_like(expected)
    run.backward(gradient)
    assert_gradients(critics, (expected * gradient).sum())


@pytest.mark.parametrize("kind", MODELS)
def test_gradients_of_the_chosen_among_all_actions(kind):
    critics, obs = critics_of(kind, action_width=0, num_outputs=3), observations(kind, 9)
    actions = torch.arange(9) % 3
    run = ChosenValues(critics.run(obs), actions)
    expected = critics(obs)[:, torch.arange(9), actions]
    torch.testing.assert_close(run.values, expected.detach())
    gradient = torch.randn(2, 9)
    run.backward(gradient)
    assert_gradients(critics, (expected * gradient).sum())


def test_under_no_grad_there_is_a_way_to_actions_alone():
    critics, obs = critics_of("images"), observations("images", 9)
    actions = torch.rand(9, 2, requires_grad=True)
    (expected,) = torch.autograd.grad(critics(obs, actions).amin(0).sum(), [actions])
    with torch.no_grad():
        run = critics.run(obs, actions)
    torch.testing.assert_close(run.least()[1], expected)
    with pytest.raises(RuntimeError, match="does not require grad"):
        run.backward(torch.ones(2, 9))


class TwiceAsHigh(Ensemble):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return 2.0 * super().forward(inputs)


def make_layers_of_its_own(critics: Critics) -> None:
    critics.layers.__class__ = TwiceAsHigh


def halve_values(critics: Critics) -> None:
    critics.register_forward_hook(lambda module, given, values: 0.5 * values)


def halve_gradients(critics: Critics) -> None:
    critics.layers.weights[0].register_hook(lambda gradient: 0.5 * gradient)


@pytest.mark.parametrize("change", [make_layers_of_its_own, halve_values, halve_gradients])
@pytest.mark.parametrize("kind", MODELS)
def test_what_user_code_does_to_critics_counts(kind, change):
    critics, obs, actions = critics_of(kind), observations(kind, 9), torch.rand(9, 2)
    before = critics.run(obs, actions).values
    change(critics)
    run, expected = critics.run(obs, actions), critics(obs, actions)
    torch.testing.assert_close(run.values, expected.detach())
    assert before.shape == run.values.shape
    gradient = torch.randn(2, 9)
    run.backward(gradient)
    assert_gradients(critics, (expected * gradient).sum())
    assert_least(critics, obs, None)
    assert_least(critics, obs, 1)
