from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions as td

from rlrun.core.distributions import (
    Categorical,
    DiagGaussian,
    DistributionFamily,
    MultiCategorical,
)
from rlrun.core.errors import SpaceError

NVEC = [2, 3, 4]


class FixedGenerator(np.random.Generator):
    """A generator whose uniform numbers are all the same."""

    def __init__(self, uniform: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.uniform_value = uniform

    def random(self, size=None, dtype=np.float64, out=None):
        value = np.asarray(self.uniform_value).astype(dtype)
        if value >= 1:  # the largest float32 below 1
            value = np.nextafter(np.asarray(1, dtype), np.asarray(0, dtype))
        if out is not None:
            out[...] = value
            return out
        return np.full(size, value, dtype) if size is not None else value[()]


LARGEST_UNIFORM = float(np.nextafter(1.0, 0.0))


def normal(shape: tuple[int, ...], seed: int = 0, scale: float = 1.5) -> np.ndarray:
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


def pair(kind: str, shape: tuple[int, ...] = (6,)):
    """(ours, torch's, actions) for inputs of a kind with leading axes `shape`."""
    rng = np.random.default_rng(9)
    if kind == "categorical":
        actions = rng.integers(0, 5, shape)
        return Categorical, lambda x: td.Categorical(logits=x), (*shape, 5), actions
    if kind == "multi":
        actions = np.stack([rng.integers(0, n, shape) for n in NVEC], axis=-1)
        return lambda x: MultiCategorical(x, NVEC), None, (*shape, 9), actions
    actions = rng.normal(size=(*shape, 3)).astype(np.float32)

    def gaussian(x):
        return td.Independent(td.Normal(x[..., :3], x[..., 3:].exp()), 1)

    return DiagGaussian, gaussian, (*shape, 6), actions


def of_parts(inputs: torch.Tensor) -> list[td.Categorical]:
    return [td.Categorical(logits=part) for part in inputs.split(NVEC, dim=-1)]


def torch_numbers(kind, reference, inputs, other_inputs, actions):
    """torch's log_prob, entropy and KL."""
    inputs, other_inputs = torch.tensor(inputs), torch.tensor(other_inputs)
    actions = torch.tensor(actions)
    if kind == "multi":
        ours, others = of_parts(inputs), of_parts(other_inputs)
        return (
            sum(part.log_prob(actions[..., i]) for i, part in enumerate(ours)),
            sum(part.entropy() for part in ours),
            sum(td.kl_divergence(p, q) for p, q in zip(ours, others, strict=True)),
        )
    dist, other = reference(inputs), reference(other_inputs)
    return dist.log_prob(actions), dist.entropy(), td.kl_divergence(dist, other)


@pytest.mark.parametrize("shape", [(6,), (4, 3)])
@pytest.mark.parametrize("kind", ["categorical", "multi", "gaussian"])
def test_numpy_and_torch_sides_give_the_numbers_of_torch_distributions(kind, shape):
    make, reference, input_shape, actions = pair(kind, shape)
    inputs, other_inputs = normal(input_shape, 1), normal(input_shape, 2)
    expected = torch_numbers(kind, reference, inputs, other_inputs, actions)
    dist, other = make(inputs), make(other_inputs)
    from_numpy = dist.log_prob(actions), dist.entropy(), dist.kl(other)
    dist, other = make(torch.tensor(inputs)), make(torch.tensor(other_inputs))
    from_torch = dist.log_prob(torch.tensor(actions)), dist.entropy(), dist.kl(other)
    for want, one, two in zip(expected, from_numpy, from_torch, strict=True):
        assert isinstance(one, np.ndarray)
        assert isinstance(two, torch.Tensor)
        assert one.dtype == np.float32
        assert one.shape == tuple(two.shape) == shape
        np.testing.assert_allclose(one, want.numpy(), rtol=2e-5, atol=1e-5)
        torch.testing.assert_close(two, want, rtol=2e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["categorical", "multi", "gaussian"])
def test_gradients_of_log_prob_entropy_and_kl_are_those_of_torch_distributions(kind):
    make, reference, input_shape, actions = pair(kind)
    other_inputs = torch.tensor(normal(input_shape, 4))
    gradients = []
    for ours in (True, False):
        inputs = torch.tensor(normal(input_shape, 3), requires_grad=True)
        if ours:
            dist = make(inputs)
            parts = (
                dist.log_prob(torch.tensor(actions)),
                dist.entropy(),
                dist.kl(make(other_inputs)),
            )
        elif kind == "multi":
            parts = (
                sum(
                    p.log_prob(torch.tensor(actions[:, i])) for i, p in enumerate(of_parts(inputs))
                ),
                sum(p.entropy() for p in of_parts(inputs)),
                sum(
                    td.kl_divergence(p, q)
                    for p, q in zip(of_parts(inputs), of_parts(other_inputs), strict=True)
                ),
            )
        else:
            dist = reference(inputs)
            kl = td.kl_divergence(dist, reference(other_inputs))
            parts = dist.log_prob(torch.tensor(actions)), dist.entropy(), kl
        gradients.append(
            [torch.autograd.grad(p.sum(), inputs, retain_graph=True)[0] for p in parts]
        )
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["categorical", "multi", "gaussian"])
def test_sampled_log_probs_are_those_of_the_sampled_actions(kind):
    make, _, input_shape, actions = pair(kind, (200,))
    dist = make(normal(input_shape, 5))
    sampled, log_probs = dist.sample(np.random.default_rng(0))
    assert sampled.shape == actions.shape
    assert log_probs.shape == (200,)
    assert log_probs.dtype == np.float32
    assert np.issubdtype(sampled.dtype, np.floating if kind == "gaussian" else np.integer)
    np.testing.assert_allclose(log_probs, dist.log_prob(sampled), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["categorical", "multi", "gaussian"])
def test_the_same_generator_gives_the_same_actions(kind):
    make, _, input_shape, _ = pair(kind, (50,))
    dist = make(normal(input_shape, 5))
    first, second, third = (dist.sample(np.random.default_rng(s))[0] for s in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert (first != third).any()


@pytest.mark.parametrize("kind", ["categorical", "multi", "gaussian"])
def test_the_mode_is_the_most_likely_of_many_actions(kind):
    make, _, input_shape, actions = pair(kind, (8,))
    dist = make(normal(input_shape, 6))
    mode = dist.mode()
    assert mode.shape == actions.shape
    best = dist.log_prob(mode)
    rng = np.random.default_rng(0)
    others = [dist.log_prob(dist.sample(rng)[0]) for _ in range(50)]
    assert (best >= np.max(others, axis=0) - 1e-6).all()


def test_categorical_samples_come_as_often_as_their_probabilities_say():
    probs = np.array([0.5, 0.05, 0.3, 0.15])
    dist = Categorical(np.tile(np.log(probs) + 3, (20_000, 1)).astype(np.float32))
    actions, _ = dist.sample(np.random.default_rng(0))
    # The standard deviation of a frequency is below sqrt(0.25 / 20000) = 0.0035.
    np.testing.assert_allclose(np.bincount(actions, minlength=4) / 20_000, probs, atol=0.015)


def test_rows_of_a_batch_are_sampled_independently():
    actions, _ = Categorical(np.zeros((20_000, 2), np.float32)).sample(np.random.default_rng(0))
    agreement = (actions[:-1] == actions[1:]).mean()
    assert agreement == pytest.approx(0.5, abs=0.02)


def test_multi_categorical_dimensions_are_sampled_independently():
    probs = [np.array([0.7, 0.3]), np.array([0.2, 0.3, 0.5])]
    logits = np.log(np.concatenate(probs)).astype(np.float32)
    dist = MultiCategorical(np.tile(logits, (20_000, 1)), [2, 3])
    actions, _ = dist.sample(np.random.default_rng(0))
    joint = np.zeros((2, 3))
    np.add.at(joint, (actions[:, 0], actions[:, 1]), 1 / 20_000)
    np.testing.assert_allclose(joint, np.outer(*probs), atol=0.015)


def test_gaussian_samples_have_the_mean_and_standard_deviation_of_the_inputs():
    mean, log_std = [1.0, -2.0], [np.log(0.5), np.log(2.0)]
    dist = DiagGaussian(np.tile(np.array([*mean, *log_std], np.float32), (20_000, 1)))
    actions, _ = dist.sample(np.random.default_rng(0))
    np.testing.assert_allclose(actions.mean(axis=0), mean, atol=0.06)
    np.testing.assert_allclose(actions.std(axis=0), [0.5, 2.0], rtol=0.03)
    assert abs(np.corrcoef(actions.T)[0, 1]) < 0.03
    assert actions.dtype == np.float32


def test_gaussian_numbers_are_worked_out_by_hand():
    # N(0, 1) x N(1, 4) at (1, 1): -(1/2 + 0) - log(2) - log(2 pi).
    dist = DiagGaussian(np.array([[0.0, 1.0, 0.0, np.log(2)]], np.float32))
    log_prob = dist.log_prob(np.array([[1.0, 1.0]], np.float32))
    assert log_prob[0] == pytest.approx(-0.5 - np.log(2) - np.log(2 * np.pi))
    assert dist.entropy()[0] == pytest.approx(1 + np.log(2 * np.pi) + np.log(2), rel=1e-6)
    standard = DiagGaussian(np.zeros((1, 4), np.float32))
    # KL(N(m, s) || N(0, 1)) = (s^2 + m^2 - 1) / 2 - log s, and only the second dimension differs.
    assert dist.kl(standard)[0] == pytest.approx((4 + 1 - 1) / 2 - np.log(2), rel=1e-6)
    np.testing.assert_array_equal(dist.mode(), [[0.0, 1.0]])


def test_logits_far_from_zero_give_the_numbers_of_the_same_logits_near_zero():
    near = np.array([[0.0, 1.0, -1.0]], np.float32)
    for far in (near + 1000, near - 1000):
        np.testing.assert_allclose(
            Categorical(far).log_prob(np.array([1])),
            Categorical(near).log_prob(np.array([1])),
            rtol=1e-4,
        )
        assert Categorical(far).entropy()[0] == pytest.approx(Categorical(near).entropy()[0], 1e-4)


def test_actions_with_logit_minus_infinity_are_never_sampled():
    logits = np.tile(np.array([-np.inf, 0.0, -np.inf, 1.0, -np.inf], np.float32), (5_000, 1))
    actions, log_probs = Categorical(logits).sample(np.random.default_rng(0))
    assert set(actions) == {1, 3}
    assert np.isfinite(log_probs).all()


@pytest.mark.parametrize("uniform", [0.0, 0.5, LARGEST_UNIFORM])
@pytest.mark.parametrize("num_actions", [3, 1000])
def test_an_impossible_first_or_last_action_is_not_drawn_at_the_ends_of_the_unit_interval(
    uniform, num_actions
):
    logits = normal((64, num_actions), 7)
    logits[:, [0, -1]] = -np.inf
    actions, _ = Categorical(logits).sample(FixedGenerator(uniform))
    assert (actions > 0).all()
    assert (actions < num_actions - 1).all()
    both = np.concatenate([logits, logits], axis=-1)
    multi, _ = MultiCategorical(both, [num_actions] * 2).sample(FixedGenerator(uniform))
    assert (multi > 0).all()
    assert (multi < num_actions - 1).all()


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor])
def test_impossible_actions_add_nothing_to_entropy_and_kl(convert):
    some = convert(np.array([[-np.inf, 0.0, 1.0]], np.float32))
    fewer = convert(np.array([[0.0, 1.0]], np.float32))
    other = convert(np.array([[-np.inf, 2.0, 1.0]], np.float32))
    fewer_other = convert(np.array([[2.0, 1.0]], np.float32))
    full = convert(np.array([[0.0, 0.0, 0.0]], np.float32))
    assert float(Categorical(some).entropy()[0]) == pytest.approx(
        float(Categorical(fewer).entropy()[0]), rel=1e-5
    )
    assert float(Categorical(some).kl(Categorical(other))[0]) == pytest.approx(
        float(Categorical(fewer).kl(Categorical(fewer_other))[0]), rel=1e-5
    )
    # Against a uniform distribution over 3: log 3 - H.
    assert float(Categorical(some).kl(Categorical(full))[0]) == pytest.approx(
        np.log(3) - float(Categorical(fewer).entropy()[0]), rel=1e-5
    )
    both = convert(np.array([[-np.inf, 0.0, 1.0, 0.0, 1.0]], np.float32))
    assert float(MultiCategorical(both, [3, 2]).entropy()[0]) == pytest.approx(
        2 * float(Categorical(fewer).entropy()[0]), rel=1e-5
    )


def test_kl_is_infinite_where_the_other_excludes_a_possible_action():
    full = Categorical(np.zeros((1, 3), np.float32))
    some = Categorical(np.array([[-np.inf, 0.0, 0.0]], np.float32))
    assert full.kl(some)[0] == np.inf


@pytest.mark.parametrize("number", ["entropy", "log_prob", "kl_from_old", "kl_to_old"])
def test_gradients_are_those_without_the_actions_that_are_impossible(number):
    def gradient_of(logits, mask, old_logits):
        dist, old = Categorical(logits + mask), Categorical(old_logits)
        made = {
            "entropy": dist.entropy,
            "log_prob": lambda: dist.log_prob(torch.tensor([0])),
            "kl_from_old": lambda: old.kl(dist),
            "kl_to_old": lambda: dist.kl(old),
        }[number]()
        return torch.autograd.grad(made.sum(), logits)[0]

    masked = gradient_of(
        torch.tensor([[0.3, -0.2, 5.0]], requires_grad=True),
        torch.tensor([[0.0, 0.0, -torch.inf]]),
        torch.tensor([[1.0, 0.0, -torch.inf]]),
    )
    without = gradient_of(
        torch.tensor([[0.3, -0.2]], requires_grad=True),
        torch.zeros(1, 2),
        torch.tensor([[1.0, 0.0]]),
    )
    assert without.abs().min() > 0.01
    torch.testing.assert_close(masked, torch.nn.functional.pad(without, (0, 1)))


@pytest.mark.parametrize(
    ("space", "num_inputs", "kind"),
    [
        (spaces.Discrete(4), 4, Categorical),
        (spaces.Discrete(4, start=-2), 4, Categorical),
        (spaces.MultiDiscrete([2, 3]), 5, MultiCategorical),
        (spaces.Box(-1, 1, (3,)), 6, DiagGaussian),
        (spaces.Box(-np.inf, np.inf, (1,), np.float64), 2, DiagGaussian),
    ],
)
def test_the_family_of_a_space_knows_its_width_and_its_class(space, num_inputs, kind):
    family = DistributionFamily(space)
    assert family.num_inputs == num_inputs
    dist = family(np.zeros((3, num_inputs), np.float32))
    assert type(dist) is kind
    actions, _ = dist.sample(np.random.default_rng(0))
    assert actions.shape == (3, *space.shape)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1, 1, (2, 2)),
        spaces.Box(0, 255, (4,), np.uint8),
        spaces.Dict({"a": spaces.Discrete(2)}),
        spaces.Tuple([spaces.Tuple([spaces.Discrete(2)])]),
        spaces.Tuple([spaces.Text(3)]),
        spaces.Text(3),
    ],
)
def test_a_space_without_a_distribution_is_a_space_error(space):
    with pytest.raises(SpaceError):
        DistributionFamily(space)
