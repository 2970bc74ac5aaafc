from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rlrun.core.losses import (
    _explained_variance,
    categorical_projection,
    clipped_surrogate,
    clipped_value_loss,
    explained_variance,
    huber,
    quantile_huber,
)


def project_by_algorithm_1(next_probs, rewards, discounts, support):
    """C51's algorithm 1, one sample and one atom at a time, in float64."""
    v_min, v_max, num_atoms = support[0], support[-1], len(support)
    spacing = (v_max - v_min) / (num_atoms - 1)
    projected = np.zeros((len(rewards), num_atoms))
    for row in range(len(rewards)):
        for atom in range(num_atoms):
            moved = min(max(rewards[row] + discounts[row] * support[atom], v_min), v_max)
            position = (moved - v_min) / spacing
            lower, upper = math.floor(position), math.ceil(position)
            if lower == upper:
                projected[row, lower] += next_probs[row, atom]
            else:
                projected[row, lower] += next_probs[row, atom] * (upper - position)
                projected[row, upper] += next_probs[row, atom] * (position - lower)
    return projected


def projected(next_probs, rewards, discounts, support):
    as_float32 = (
        torch.tensor(np.asarray(array), dtype=torch.float32)
        for array in (next_probs, rewards, discounts, support)
    )
    return categorical_projection(*as_float32).numpy()


def test_surrogate_is_equation_7_for_each_sign_of_the_advantage():
    ratios = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.1, 0.9])
    advantages = torch.tensor([2.0, 2.0, -2.0, -2.0, 1.0, -1.0])
    old = torch.tensor([-1.0, -2.0, -0.5, -0.1, -3.0, -0.7])
    loss = clipped_surrogate(old + ratios.log(), old, advantages, 0.2)
    # min(r A, clip(r) A): 1.2*2, 0.5*2, 1.5*-2, 0.8*-2 and, inside the range, r A itself.
    objective = (2.4 + 1.0 - 3.0 - 1.6 + 1.1 - 0.9) / 6
    assert float(loss) == pytest.approx(-objective, rel=1e-5)


def test_surrogate_has_no_gradient_where_the_ratio_has_moved_far_enough():
    ratios = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.1, 0.9])
    advantages = torch.tensor([2.0, 2.0, -2.0, -2.0, 1.0, -1.0])
    old = torch.zeros(6)
    log_probs = ratios.log().requires_grad_()
    loss = clipped_surrogate(log_probs, old, advantages, 0.2)
    loss.backward()
    # d(-mean(r A))/d(log pi) = -r A / N where it is not clipped, else 0.
    expected = torch.tensor([0.0, -1.0, 3.0, 0.0, -1.1, 0.9]) / 6
    torch.testing.assert_close(log_probs.grad, expected)


def test_surrogate_on_policy_is_minus_the_mean_advantage_with_the_policy_gradient():
    log_probs = torch.tensor([-0.2, -1.3, -2.0], requires_grad=True)
    advantages = torch.tensor([1.0, -2.0, 4.0])
    loss = clipped_surrogate(log_probs, log_probs.detach(), advantages, 0.2)
    loss.backward()
    assert loss.item() == pytest.approx(-1.0)
    torch.testing.assert_close(log_probs.grad, -advantages / 3)


def test_value_loss_without_a_range_is_the_mean_squared_error():
    values, targets = torch.tensor([1.0, 2.0, -1.0]), torch.tensor([0.0, 5.0, 1.0])
    loss = clipped_value_loss(values, torch.zeros(3), targets, None)
    assert float(loss) == pytest.approx((1 + 9 + 4) / 3)


def test_value_loss_takes_the_worse_of_the_moved_and_the_clipped_value():
    old = torch.zeros(4)
    values = torch.tensor([2.0, 2.0, 0.25, -2.0])
    targets = torch.tensor([3.0, -1.0, 1.0, -3.0])
    loss = clipped_value_loss(values, old, targets, 0.5)
    # Clipped values are 0.5, 0.5, 0.25, -0.5.
    worse = [max(1.0, 2.5**2), max(9.0, 1.5**2), 0.75**2, max(1.0, 2.5**2)]
    assert float(loss) == pytest.approx(sum(worse) / 4)


def test_value_loss_stops_pulling_a_value_that_moved_beyond_the_range_toward_its_target():
    values = torch.tensor([2.0, 2.0], requires_grad=True)
    loss = clipped_value_loss(values, torch.zeros(2), torch.tensor([3.0, -1.0]), 0.5)
    loss.backward()
    # Row 0 is clipped (no gradient); row 1 has left its target: 2 (V - target) / N.
    torch.testing.assert_close(values.grad, torch.tensor([0.0, 2 * 3 / 2]))


def test_projection_of_random_distributions_equals_the_papers_loop():
    rng = np.random.default_rng(0)
    support = np.linspace(-10, 10, 51)
    next_probs = rng.dirichlet(np.ones(51), size=24)
    rewards = rng.normal(scale=6, size=24)
    discounts = np.where(rng.random(24) < 0.3, 0.0, rng.uniform(0.5, 1.0, 24))
    np.testing.assert_allclose(
        projected(next_probs, rewards, discounts, support),
        project_by_algorithm_1(next_probs, rewards, discounts, support),
        atol=2e-6,
    )


def test_projection_keeps_all_mass_of_a_value_that_falls_on_an_atom():
    support = [-2.0, -1.0, 0.0, 1.0, 2.0]
    next_probs = np.tile([0.1, 0.2, 0.4, 0.2, 0.1], (3, 1))
    given = projected(next_probs, [0.0, 1.0, 0.0], [1.0, 1.0, 0.0], support)
    expected = [
        [0.1, 0.2, 0.4, 0.2, 0.1],  # nothing moves
        [0.0, 0.1, 0.2, 0.4, 0.3],  # one atom up; the last two are clamped into one
        [0.0, 0.0, 1.0, 0.0, 0.0],  # terminated with reward 0
    ]
    np.testing.assert_allclose(given, expected, atol=1e-6)


def test_projection_splits_a_value_between_atoms_by_nearness():
    given = projected([[0, 0, 1, 0, 0]], [0.25], [0.5], [-2.0, -1.0, 0.0, 1.0, 2.0])
    np.testing.assert_allclose(given, [[0, 0, 0.75, 0.25, 0]], atol=1e-6)


@pytest.mark.parametrize(("reward", "end"), [(-50.0, 0), (50.0, -1), (-3.0, 0), (3.0, -1)])
def test_projection_clamps_values_beyond_the_support_to_its_ends(reward, end):
    given = projected([[0.2, 0.3, 0.5]], [reward], [0.9], [-1.0, 0.0, 1.0])
    expected = np.zeros((1, 3))
    expected[0, end] = 1.0
    np.testing.assert_allclose(given, expected, atol=1e-6)


@pytest.mark.parametrize(("v_min", "v_max", "num_atoms"), [(-10, 10, 51), (0, 1, 11), (-3, 7, 33)])
def test_projection_loses_no_mass_to_rounding_at_the_atoms(v_min, v_max, num_atoms):
    support = np.linspace(v_min, v_max, num_atoms)
    next_probs = np.full((num_atoms, num_atoms), 1 / num_atoms)
    discounts = np.tile([0.0, 1.0], num_atoms)[:num_atoms]
    given = projected(next_probs, support, discounts, support)
    np.testing.assert_allclose(given.sum(axis=1), 1.0, atol=1e-5)
    np.testing.assert_allclose(
        given, project_by_algorithm_1(next_probs, support, discounts, support), atol=1e-5
    )


def test_projection_keeps_the_mean_where_nothing_is_clamped():
    rng = np.random.default_rng(1)
    support = np.linspace(-10, 10, 21)
    next_probs = rng.dirichlet(np.ones(21), size=8)
    rewards, discounts = rng.uniform(-2, 2, 8), rng.uniform(0, 0.8, 8)
    given = projected(next_probs, rewards, discounts, support)
    np.testing.assert_allclose(
        given @ support, rewards + discounts * (next_probs @ support), atol=1e-5
    )


on_either_device = pytest.mark.parametrize(
    "explained", [explained_variance, _explained_variance], ids=["by numpy", "by torch"]
)
"""Learners on GPUs have the second."""


@on_either_device
def test_explained_variance_is_the_share_of_the_variance_that_predictions_take_away(explained):
    targets = torch.tensor([1.0, 2.0, 3.0, 4.0])
    predictions = torch.tensor([1.0, 2.0, 3.0, 2.0])
    # Residuals 0, 0, 0, 2: variance 3/4 of 4/4; targets: 5/4.
    assert float(explained(predictions, targets)) == pytest.approx(1 - 0.75 / 1.25)
    assert float(explained(targets, targets)) == pytest.approx(1.0)
    assert float(explained(targets + 7, targets)) == pytest.approx(1.0, abs=1e-5)
    assert float(explained(torch.zeros(4), targets)) == pytest.approx(0.0, abs=1e-6)


@on_either_device
def test_explained_variance_is_never_below_minus_one(explained):
    targets = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert float(explained(-10 * targets, targets)) == -1.0


@on_either_device
@pytest.mark.parametrize("predictions", [[1.0, 2.0], [5.0, 5.0], [3.0, 3.0]])
def test_explained_variance_of_targets_that_do_not_vary_is_a_finite_number(explained, predictions):
    value = float(explained(torch.tensor(predictions), torch.tensor([3.0, 3.0])))
    assert -1.0 <= value <= 1.0


def test_huber_is_half_the_square_up_to_one_and_linear_beyond():
    predictions = torch.tensor([[1.5], [0.0], [-3.0]], requires_grad=True)
    targets = torch.tensor([[1.0], [1.0], [0.0]])
    # Errors 0.5, -1, -3: losses 0.125, 0.5, 2.5.
    loss = huber(predictions, targets)
    assert loss.item() == pytest.approx((0.125 + 0.5 + 2.5) / 3)
    (gradient,) = torch.autograd.grad(loss, predictions)
    np.testing.assert_allclose(gradient[:, 0], np.array([0.5, -1.0, -1.0]) / 3, rtol=1e-6)


def test_huber_takes_a_weight_for_each_term():
    predictions, targets = torch.tensor([[1.5], [-3.0]]), torch.tensor([[1.0], [0.0]])
    loss = huber(predictions, targets, torch.tensor([[4.0], [0.5]]))
    assert loss.item() == pytest.approx((4 * 0.125 + 0.5 * 2.5) / 2)


def test_the_quantile_huber_loss_by_hand():
    # Quantiles at 1/4 and 3/4; u = target - quantile.
    quantiles, targets = torch.tensor([[0.0, 2.0]]), torch.tensor([[0.5, 3.0]])
    # u = 0.5 and 3 for the first, -1.5 and 1 for the second.
    first = (0.25 * 0.125 + 0.25 * 2.5) / 2
    second = (0.25 * 1.0 + 0.75 * 0.5) / 2
    found = quantile_huber(quantiles, targets)
    torch.testing.assert_close(found, torch.tensor([first + second]))


def test_the_quantile_huber_loss_is_least_near_the_quantiles_of_its_targets():
    # Targets on a wide scale, where Huber's loss is the absolute error.
    targets = 1000.0 * torch.linspace(-1, 1, 401)[None] ** 3
    quantiles = torch.zeros(1, 4, requires_grad=True)
    for lr in (1000.0, 100.0, 10.0):
        for _ in range(60):
            (gradient,) = torch.autograd.grad(quantile_huber(quantiles, targets).sum(), quantiles)
            quantiles = (quantiles - lr * gradient).detach().requires_grad_()
    expected = torch.quantile(targets[0], torch.tensor([1, 3, 5, 7]) / 8)
    torch.testing.assert_close(quantiles[0].detach(), expected, rtol=0.03, atol=3.0)
