"""Several networks run as one, against torch's own layers and gradients."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rlrun.core.ensemble import Ensemble


@pytest.fixture(autouse=True)
def own_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def outputs_of(ensemble: Ensemble, inputs: torch.Tensor) -> torch.Tensor:
    """One member after the other, layer by layer."""
    outputs = []
    for member in range(len(ensemble.weights[0])):
        features = inputs
        for weight, bias in zip(ensemble.weights[:-1], ensemble.biases[:-1], strict=True):
            features = torch.relu(features @ weight[member] + bias[member])
        last = ensemble.biases[-1][member].flatten()
        outputs.append(features @ ensemble.weights[-1][member].T + last)
    return torch.stack(outputs)


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize("hiddens", [[], [7], [7, 6, 5]])
@pytest.mark.parametrize("num_members", [1, 2])
def test_outputs_and_gradients_are_those_of_the_members_alone(num_members, hiddens, num_outputs):
    ensemble = Ensemble([4, *hiddens, num_outputs], num_members).double()
    inputs = torch.randn(9, 4, dtype=torch.double, requires_grad=True)
    found, expected = ensemble(inputs), outputs_of(ensemble, inputs)
    assert found.shape == (num_members, 9, num_outputs)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        torch.testing.assert_close(ensemble(inputs), expected)
    wanted = [inputs, *ensemble.parameters()]
    weights = torch.randn_like(expected)
    one = torch.autograd.grad((found * weights).sum(), wanted)
    other = torch.autograd.grad((expected * weights).sum(), wanted)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


def test_judges_give_inputs_a_gradient_and_take_none():
    ensemble = Ensemble([4, 7, 1], 2)
    inputs = torch.randn(9, 4, requires_grad=True)
    ensemble(inputs, learns=False, num_members=1).sum().backward()
    (expected,) = torch.autograd.grad(outputs_of(ensemble, inputs)[0].sum(), [inputs])
    torch.testing.assert_close(inputs.grad, expected)
    assert all(parameter.grad is None for parameter in ensemble.parameters())


def test_two_passes_before_a_backward_pass_do_not_disturb_each_other():
    ensemble = Ensemble([4, 7, 1], 2)
    first, second = torch.randn(9, 4), torch.randn(9, 4)
    (ensemble(first).sum() + ensemble(second).square().sum()).backward()
    found = [parameter.grad.clone() for parameter in ensemble.parameters()]
    ensemble.zero_grad()
    loss = outputs_of(ensemble, first).sum() + outputs_of(ensemble, second).square().sum()
    loss.backward()
    for one, parameter in zip(found, ensemble.parameters(), strict=True):
        torch.testing.assert_close(one, parameter.grad)


@pytest.mark.parametrize("frozen", ["first layer", "biases"])
def test_what_is_frozen_leaves_the_others_gradients_as_they_are(frozen):
    ensemble = Ensemble([4, 7, 6, 1], 2)
    still = ensemble.biases if frozen == "biases" else [ensemble.weights[0], ensemble.biases[0]]
    for parameter in still:
        parameter.requires_grad_(False)
    learning = [parameter for parameter in ensemble.parameters() if parameter.requires_grad]
    inputs = torch.randn(9, 4)
    found = torch.autograd.grad(ensemble(inputs).square().sum(), learning)
    expected = torch.autograd.grad(outputs_of(ensemble, inputs).square().sum(), learning)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
