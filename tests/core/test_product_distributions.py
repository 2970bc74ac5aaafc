"""The less usual distributions against torch.distributions, on both sides: NumPy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributions as td
from gymnasium import spaces

from rlrun.core.actions import Simplex
from rlrun.core.distributions import DistributionFamily
from rlrun.core.errors import SpaceError
from rlrun.core.product_distributions import Bernoulli, Beta, Dirichlet, Product

RNG = np.random.default_rng(3)
LOW, HIGH = np.array([-1.0, 0.0], np.float32), np.array([1.0, 10.0], np.float32)

BINARY, WEIGHTS = spaces.MultiBinary(3), Simplex(4)
BOUNDED = spaces.Box(LOW, HIGH)
MIXED = spaces.Tuple(
    [spaces.Discrete(3), BOUNDED, spaces.MultiDiscrete([2, 3]), BINARY, WEIGHTS, BOUNDED]
)
CHOICES = spaces.Tuple([spaces.Discrete(4), BINARY, spaces.MultiDiscrete([3, 2])])

CASES = {
    "bernoulli": (BINARY, "auto"),
    "beta": (BOUNDED, "beta"),
    "dirichlet": (WEIGHTS, "auto"),
    "product with Gaussians": (MIXED, "auto"),
    "product with Betas": (MIXED, "beta"),
    "product of choices": (CHOICES, "auto"),
}


def inputs_of(family: DistributionFamily, num_rows: int, scale: float = 1.5) -> np.ndarray:
    rng = np.random.default_rng(5)
    return (rng.normal(size=(num_rows, family.num_inputs)) * scale).astype(np.float32)


def by_torch(space: spaces.Space, x: torch.Tensor, choice: str) -> td.Distribution:
    """The distribution of one leaf, by torch's own classes."""
    if isinstance(space, spaces.Discrete):
        return td.Categorical(logits=x)
    if isinstance(space, spaces.MultiBinary):
        return td.Independent(td.Bernoulli(logits=x), 1)
    above_one = torch.nn.functional.softplus(x) + 1.0
    if isinstance(space, Simplex):
        return td.Dirichlet(above_one)
    half = x.shape[-1] // 2
    low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
    if choice == "beta":
        base = td.Beta(above_one[..., :half], above_one[..., half:])
        stretched = td.TransformedDistribution(base, td.AffineTransform(low, high - low))
        return td.Independent(stretched, 1)
    return td.Independent(td.Normal(x[..., :half], x[..., half:].exp()), 1)


def leaves_by_torch(space, inputs: torch.Tensor, choice: str):
    """[(its torch distribution, first column, end)]; MultiDiscrete as several Discretes."""
    parts = list(space.spaces) if isinstance(space, spaces.Tuple) else [space]
    flat = []
    for part in parts:
        is_multi = isinstance(part, spaces.MultiDiscrete)
        flat += [spaces.Discrete(int(n)) for n in part.nvec] if is_multi else [part]
    found, start, column = [], 0, 0
    for part in flat:
        width = int(np.prod(part.shape)) if part.shape else 1
        if isinstance(part, spaces.Discrete):
            size = int(part.n)
        else:
            size = 2 * width if type(part) is spaces.Box else width
        found.append(
            (by_torch(part, inputs[..., start : start + size], choice), column, column + width)
        )
        start, column = start + size, column + width
    assert start == inputs.shape[-1]
    return found


def own(dist: td.Distribution, actions: torch.Tensor, start: int, end: int) -> torch.Tensor:
    if isinstance(dist, td.Categorical):
        return dist.log_prob(actions[..., start])
    columns = actions[..., start:end].float()
    if isinstance(dist, td.Dirichlet):
        columns = columns / columns.sum(-1, keepdim=True)
    return dist.log_prob(columns)


def entropy(dist: td.Distribution) -> torch.Tensor:
    if isinstance(dist, td.Independent) and isinstance(dist.base_dist, td.TransformedDistribution):
        stretched = dist.base_dist
        return (stretched.base_dist.entropy() + stretched.transforms[0].scale.log()).sum(-1)
    return dist.entropy()


def divergence(one: td.Distribution, other: td.Distribution) -> torch.Tensor:
    if isinstance(one, td.Independent) and isinstance(one.base_dist, td.TransformedDistribution):
        # Stretching both alike changes nothing.
        return td.kl_divergence(one.base_dist.base_dist, other.base_dist.base_dist).sum(-1)
    return td.kl_divergence(one, other)


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_of_torchs_distributions_on_both_sides(case):
    space, choice = CASES[case]
    family = DistributionFamily(space, choice)
    inputs, others = inputs_of(family, 40), inputs_of(family, 40)[::-1].copy()
    dist = family(inputs)
    actions, log_probs = dist.sample(np.random.default_rng(0))
    assert log_probs.dtype == np.float32
    x, y, taken = (torch.from_numpy(array) for array in (inputs, others, actions))
    leaves, other_leaves = (leaves_by_torch(space, z, choice) for z in (x, y))
    expected = sum(own(leaf, taken, start, end) for leaf, start, end in leaves)
    expected_entropy = sum(entropy(leaf) for leaf, _, _ in leaves)
    expected_kl = sum(
        divergence(one, other)
        for (one, _, _), (other, _, _) in zip(leaves, other_leaves, strict=True)
    )
    close = {"rtol": 2e-3, "atol": 3e-3}
    np.testing.assert_allclose(log_probs, expected, **close)
    for found in (family(inputs), family(x)):
        given = taken if isinstance(found.inputs, torch.Tensor) else actions
        other = family(y if isinstance(found.inputs, torch.Tensor) else others)
        assert found.log_prob(given).shape == (40,)
        np.testing.assert_allclose(found.log_prob(given), expected, **close)
        np.testing.assert_allclose(found.entropy(), expected_entropy, **close)
        np.testing.assert_allclose(found.kl(other), expected_kl, **close)
    np.testing.assert_allclose(
        dist.log_prob(actions), family(x).log_prob(taken), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("case", CASES)
def test_sequences_give_the_numbers_of_their_steps(case):
    family = DistributionFamily(*CASES[case])
    inputs = inputs_of(family, 6)
    actions, _ = family(inputs).sample(np.random.default_rng(0))
    steps = family(torch.from_numpy(inputs))
    rows = family(torch.from_numpy(inputs).reshape(2, 3, -1))
    as_rows = torch.from_numpy(actions).reshape(2, 3, -1)
    torch.testing.assert_close(
        rows.log_prob(as_rows).reshape(-1), steps.log_prob(torch.from_numpy(actions))
    )
    torch.testing.assert_close(rows.entropy().reshape(-1), steps.entropy())


@pytest.mark.parametrize("case", CASES)
def test_the_mean_log_probability_of_samples_is_minus_the_entropy(case):
    # Of all that could be wrong with a sampler: drawing from another distribution than it reports.
    family = DistributionFamily(*CASES[case])
    inputs = np.repeat(inputs_of(family, 1, scale=0.7), 40_000, axis=0)
    dist = family(inputs)
    actions, log_probs = dist.sample(np.random.default_rng(1))
    spread = log_probs.std() / np.sqrt(len(log_probs))
    assert abs(-log_probs.mean() - dist.entropy()[0]) < 5 * spread + 1e-3
    assert actions.shape[0] == 40_000


def test_samples_have_the_means_of_their_distributions():
    inputs = np.repeat(np.array([[0.4, -1.0, 2.0, 0.3]], np.float32), 40_000, axis=0)
    above = np.log1p(np.exp(inputs[0])) + 1.0
    draws, _ = Beta(inputs, LOW, HIGH).sample(np.random.default_rng(0))
    expected = LOW + (HIGH - LOW) * above[:2] / (above[:2] + above[2:])
    np.testing.assert_allclose(draws.mean(0), expected, rtol=0.02)
    assert (draws > LOW).all()
    assert (draws < HIGH).all()
    weights, _ = Dirichlet(inputs).sample(np.random.default_rng(0))
    np.testing.assert_allclose(weights.mean(0), above / above.sum(), rtol=0.02)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-6)
    bits, _ = Bernoulli(inputs).sample(np.random.default_rng(0))
    np.testing.assert_allclose(bits.mean(0), 1.0 / (1.0 + np.exp(-inputs[0])), atol=0.01)


@pytest.mark.parametrize("case", CASES)
def test_no_action_nearby_is_likelier_than_the_mode(case):
    family = DistributionFamily(*CASES[case])
    dist = family(inputs_of(family, 1))
    mode = dist.mode()
    best = dist.log_prob(mode)[0]
    many = family(np.repeat(dist.inputs, 2_000, axis=0))
    actions, log_probs = many.sample(np.random.default_rng(0))
    assert actions.dtype == mode.dtype
    assert log_probs.max() <= best + 1e-4


# Not with a Gaussian, whose standard deviation would be exp(60).
@pytest.mark.parametrize("case", [case for case in CASES if "Gaussian" not in case])
def test_extreme_outputs_give_finite_numbers_and_gradients(case):
    family = DistributionFamily(*CASES[case])
    for scale in (60.0, -60.0):
        inputs = np.full((2, family.num_inputs), scale, np.float32)
        actions, log_probs = family(inputs).sample(np.random.default_rng(0))
        assert np.isfinite(log_probs).all()
        assert np.isfinite(family(inputs).mode()).all()
        x = torch.from_numpy(inputs).requires_grad_()
        dist = family(x)
        total = dist.log_prob(torch.from_numpy(actions)) + dist.entropy() + dist.kl(family(x * 0.5))
        assert torch.isfinite(torch.autograd.grad(total.sum(), x)[0]).all()


def test_a_product_with_one_free_log_std_is_the_one_with_it_in_every_row():
    family = DistributionFamily(MIXED)
    assert family.num_log_stds == 4
    inputs = inputs_of(family, 5)
    # Gaussians stand at the inputs 3..6 and at the last four.
    stds = [5, 6, family.num_inputs - 2, family.num_inputs - 1]
    log_std = np.array([0.1, -0.2, 0.3, -0.4], np.float32)
    inputs[:, stds] = log_std
    short = np.delete(inputs, stds, axis=1)
    one, other = family(short, log_std), family(inputs)
    np.testing.assert_array_equal(one.inputs, inputs)
    actions, log_probs = one.sample(np.random.default_rng(0))
    np.testing.assert_allclose(other.log_prob(actions), log_probs, rtol=1e-5)
    tensors = torch.from_numpy(short), torch.from_numpy(log_std)
    torch.testing.assert_close(family(*tensors).inputs, torch.from_numpy(inputs))


def test_flat_actions_keep_whole_numbers_only_where_all_are():
    for space, dtype in ((CHOICES, np.int64), (MIXED, np.float32)):
        family = DistributionFamily(space)
        dist = family(inputs_of(family, 3))
        assert isinstance(dist, Product)
        assert dist.sample(np.random.default_rng(0))[0].dtype == dtype
        assert dist.mode().dtype == dtype


@pytest.mark.parametrize(
    ("space", "choice", "message"),
    [
        (spaces.Discrete(2), "beta", "draws Boxes of floats"),
        (spaces.Discrete(2), "dirichlet", "draws Boxes of floats"),
        (spaces.MultiBinary(2), "beta", "draws Boxes of floats"),
        (CHOICES, "beta", "draws Boxes of floats"),
        (Simplex(3), "beta", "draws Boxes of floats"),
        (spaces.Box(-np.inf, 1.0, (2,)), "beta", "needs two bounds"),
        (spaces.Box(np.array([0, 1], np.float32), np.array([1, 1], np.float32)), "beta", "bounds"),
    ],
    ids=str,
)
def test_a_choice_that_does_not_fit_the_space_is_refused(space, choice, message):
    with pytest.raises(SpaceError, match=message):
        DistributionFamily(space, choice)
