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


@pytest.mark.parametrize("num_outputs", [1, 3])
@pytest.mark.parametrize("hiddens", [[], [7], [7, 6, 5]])
@pytest.mark.parametrize("num_members", [1, 2])
def test_a_pass_goes_back_to_the_gradients_of_autograd(num_members, hiddens, num_outputs):
    ensemble = Ensemble([4, *hiddens, num_outputs], num_members).double()
    inputs = torch.randn(9, 4, dtype=torch.double, requires_grad=True)
    expected = outputs_of(ensemble, inputs)
    gradient = torch.randn_like(expected)
    wanted = [inputs, *ensemble.parameters()]
    by_inputs, *of_parameters = torch.autograd.grad(expected, wanted, gradient)
    for parameter in ensemble.parameters():
        parameter.grad = torch.zeros_like(parameter)
    run = ensemble.run(inputs.detach())
    torch.testing.assert_close(run.outputs, expected.detach())
    for go_back in (run.backward, run.backward_to_inputs):
        found = go_back(gradient)
        for parameter, other in zip(ensemble.parameters(), of_parameters, strict=True):
            torch.testing.assert_close(parameter.grad, other)
            parameter.grad.zero_()
    torch.testing.assert_close(found, by_inputs)


@pytest.mark.parametrize("hiddens", [[], [7], [7, 6, 5]])
@pytest.mark.parametrize("judges", [None, 1, 2])
def test_the_least_of_the_judges_and_its_gradient_by_the_inputs(judges, hiddens):
    ensemble = Ensemble([4, *hiddens, 1], 3)
    inputs = torch.randn(50, 4, requires_grad=True)
    with torch.no_grad():
        ensemble.biases[-1] -= outputs_of(ensemble, inputs).mean(1, keepdim=True)
    expected, lowest = outputs_of(ensemble, inputs)[:judges].squeeze(-1).min(0)
    assert len(lowest.unique()) == (judges or 3), "each is the lowest of some"
    (by_inputs,) = torch.autograd.grad(expected.sum(), [inputs])
    least, found = ensemble.run(inputs.detach(), judges).least()
    torch.testing.assert_close(least, expected.detach())
    torch.testing.assert_close(found, by_inputs)


def test_on_a_gpu_all_rows_go_through_every_member_to_the_same_gradient():
    ensemble, inputs = Ensemble([4, 7, 6, 1], 3), torch.randn(50, 4)
    run = ensemble.run(inputs)
    members = torch.randint(3, (50,))
    with torch.no_grad():
        found, other = run._by_inputs_through_all(members), run._by_inputs_of(members)
    torch.testing.assert_close(found, other)


def test_a_judge_may_be_the_lowest_of_no_row():
    ensemble, alone = Ensemble([4, 7, 1], 2), Ensemble([4, 7, 1], 1)
    inputs = torch.randn(9, 4)
    with torch.no_grad():
        ensemble.biases[-1][0] += 100.0
        for own, both in zip(alone.parameters(), ensemble.parameters(), strict=True):
            own.copy_(both[1:])
    torch.testing.assert_close(ensemble.run(inputs).least(), alone.run(inputs).least())


@pytest.mark.parametrize("frozen", ["first layer", "biases"])
def test_what_is_frozen_keeps_its_gradient_and_leaves_the_others_theirs(frozen):
    ensemble = Ensemble([4, 7, 6, 1], 2)
    still = ensemble.biases if frozen == "biases" else [ensemble.weights[0], ensemble.biases[0]]
    for parameter in ensemble.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for parameter in still:
        parameter.requires_grad_(False)
    learning = [parameter for parameter in ensemble.parameters() if parameter.requires_grad]
    inputs = torch.randn(9, 4)
    expected = outputs_of(ensemble, inputs)
    of_learning = torch.autograd.grad(expected.sum(), learning)
    ensemble.run(inputs).backward(torch.ones_like(expected))
    for parameter, other in zip(learning, of_learning, strict=True):
        torch.testing.assert_close(parameter.grad, other)
    assert not any(parameter.grad.any() for parameter in still)
