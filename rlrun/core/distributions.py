"""Action distributions, over NumPy arrays where actions are chosen and torch tensors where the
learner needs gradients: one class each, so that both sides compute the same numbers.

`inputs` is what the network gives for each row, [..., num_inputs]. `sample` is for acting (NumPy);
all else works on either kind.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from gymnasium import spaces

from rlrun.core.actions import ActionDistribution, Simplex
from rlrun.core.distribution_base import Array, Distribution, copied
from rlrun.core.errors import SpaceError
from rlrun.core.masks import LEAST_FLOAT
from rlrun.core.product_distributions import Bernoulli, Beta, Dirichlet, Leaf, Product

LOG_2PI = math.log(2.0 * math.pi)


class Categorical(Distribution):
    """One of n actions; inputs are unnormalised log-probabilities [..., n] (-inf: never)."""

    def __init__(self, inputs: Array) -> None:
        self.inputs = inputs
        self._log_probs: Array = None

    @property
    def log_probs(self) -> Array:
        """Normalised log-probabilities, [..., n]."""
        if self._log_probs is None:
            self._log_probs = _log_softmax(self.inputs)
        return self._log_probs

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        # In each step, for a few rows: the methods of arrays take half as long again.
        shifted = self.inputs - np.maximum.reduce(self.inputs, -1, keepdims=True)
        cumulative = np.add.accumulate(np.exp(shifted), -1)
        total = cumulative[..., -1]
        # Scaled by the total, so that rounding can never pick an action of probability zero.
        draws = rng.random(total.shape) * total
        actions = np.add.reduce(draws[..., None] >= cumulative[..., :-1], -1)
        return actions, _taken(shifted, actions) - np.log(total)

    def mode(self) -> Array:
        return self.inputs.argmax(-1)

    def log_prob(self, actions: Array) -> Array:
        if isinstance(actions, np.ndarray):
            return _taken(self.log_probs, actions)
        return self.log_probs.gather(-1, actions.long().unsqueeze(-1)).squeeze(-1)

    def entropy(self) -> Array:
        # Not -inf, which times the probability 0 would be nan.
        return -(_exp(self.log_probs) * self.log_probs.clip(min=LEAST_FLOAT)).sum(-1)

    def kl(self, other: Distribution) -> Array:
        assert isinstance(other, Categorical)
        with np.errstate(invalid="ignore"):  # -inf - -inf, of what neither allows.
            ratios = self.log_probs - other.log_probs
        return _weighted_by(self.log_probs, ratios)


class MultiCategorical(Distribution):
    """A Categorical for each action dimension, independent; inputs [..., sum(nvec)]."""

    def __init__(self, inputs: Array, nvec: list[int]) -> None:
        self.inputs = inputs
        ends = np.cumsum(nvec)
        self.parts = [
            Categorical(inputs[..., end - n : end]) for n, end in zip(nvec, ends, strict=True)
        ]

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        pairs = [part.sample(rng) for part in self.parts]
        actions = np.stack([actions for actions, _ in pairs], -1)
        return actions, np.sum([log_probs for _, log_probs in pairs], axis=0)

    def mode(self) -> Array:
        modes = [part.mode() for part in self.parts]
        return torch.stack(modes, -1) if isinstance(modes[0], torch.Tensor) else np.stack(modes, -1)

    def log_prob(self, actions: Array) -> Array:
        return sum(part.log_prob(actions[..., i]) for i, part in enumerate(self.parts))

    def entropy(self) -> Array:
        return sum(part.entropy() for part in self.parts)

    def kl(self, other: Distribution) -> Array:
        assert isinstance(other, MultiCategorical)
        return sum(a.kl(b) for a, b in zip(self.parts, other.parts, strict=True))


class DiagGaussian(Distribution):
    """Independent normal distributions; inputs [..., 2 d] are means, then log standard deviations.

    With `log_std` [d] given, one for all rows, inputs are the means alone. Actions are neither
    squashed nor clipped here: log-probabilities are those of the raw sample.
    """

    def __init__(self, inputs: Array, log_std: Array = None) -> None:
        half = inputs.shape[-1] if log_std is not None else inputs.shape[-1] // 2
        self.mean = inputs[..., :half]
        self.log_std = inputs[..., half:] if log_std is None else log_std
        self._inputs = inputs if log_std is None else None

    @property
    def inputs(self) -> Array:  # type: ignore[override]
        """Means and log standard deviations of every row, [..., 2 d]."""
        if self._inputs is None:
            if isinstance(self.mean, torch.Tensor):
                self._inputs = torch.cat([self.mean, self.log_std.expand_as(self.mean)], -1)
            else:
                log_std = np.broadcast_to(self.log_std, self.mean.shape)
                self._inputs = np.concatenate([self.mean, log_std], -1)
        return self._inputs

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        noise = rng.standard_normal(self.mean.shape, dtype=np.float32)
        actions = self.mean + np.exp(self.log_std) * noise
        log_probs = -0.5 * (noise * noise + LOG_2PI).sum(-1) - self.log_std.sum(-1)
        return actions, log_probs

    def mode(self) -> Array:
        return copied(self.mean)

    def log_prob(self, actions: Array) -> Array:
        scaled = (actions - self.mean) * _exp(-self.log_std)
        size = self.mean.shape[-1]
        return -0.5 * ((scaled * scaled).sum(-1) + LOG_2PI * size) - self.log_std.sum(-1)

    def entropy(self) -> Array:
        entropy = (self.log_std + 0.5 * (1.0 + LOG_2PI)).sum(-1)
        rows = self.mean.shape[:-1]
        if isinstance(entropy, torch.Tensor):
            return entropy.expand(rows)
        return np.broadcast_to(entropy, rows)

    def kl(self, other: Distribution) -> Array:
        assert isinstance(other, DiagGaussian)
        variance_ratio = _exp(2.0 * (self.log_std - other.log_std))
        distance = (self.mean - other.mean) * _exp(-other.log_std)
        return (
            other.log_std - self.log_std + 0.5 * (variance_ratio + distance * distance - 1.0)
        ).sum(-1)


class DistributionFamily:
    """Which distribution an action space takes, and how many network outputs it needs.

    The space is in the policy's terms: see ActionConverter.policy_space. `choice` is that of
    `model.action_distribution`. Raises SpaceError where it fits nothing.
    """

    def __init__(self, action_space: spaces.Space, choice: ActionDistribution = "auto") -> None:
        self.action_space = action_space
        parts = action_space.spaces if isinstance(action_space, spaces.Tuple) else [action_space]
        self.leaves = [_leaf_of(part, choice) for part in parts]
        if choice != "auto" and not any(leaf.is_chosen for leaf in self.leaves):
            raise SpaceError(
                f"model.action_distribution={choice} draws Boxes of floats, and the action space "
                f"{action_space} has none. Use model.action_distribution=auto."
            )
        self.num_inputs = sum(leaf.num_inputs for leaf in self.leaves)
        self.num_log_stds = sum(leaf.num_log_stds for leaf in self.leaves)
        """Of these, the log standard deviations, which may be parameters of their own instead."""
        self.nvec: list[int] = []
        if isinstance(action_space, spaces.MultiDiscrete):
            self.nvec = [int(n) for n in action_space.nvec]
        first = self.leaves[0]
        self._make: Callable[..., Distribution] = first.kind if first.num_log_stds else first.make
        if isinstance(action_space, spaces.Tuple):
            self._make = partial(Product, leaves=self.leaves)
        self._is_discrete = isinstance(action_space, spaces.Discrete)

    def __call__(self, inputs: Array, log_std: Array = None) -> Distribution:
        """The distribution that `inputs` [..., num_inputs] describe; with `log_std` [num_log_stds],
        for all rows, they come without these: [..., num_inputs - num_log_stds]."""
        if self._is_discrete:
            return Categorical(inputs)
        if self.nvec:
            return MultiCategorical(inputs, self.nvec)
        return self._make(inputs, log_std)


def _leaf_of(space: spaces.Space, choice: ActionDistribution) -> Leaf:
    """How a space that is no Tuple is drawn from."""
    if isinstance(space, spaces.Discrete):
        return Leaf(Categorical, int(space.n), is_discrete=True, is_number=True)
    width = space.shape[0] if space.shape is not None and len(space.shape) == 1 else 0
    if isinstance(space, spaces.MultiDiscrete) and width:
        nvec = [int(n) for n in space.nvec]
        return Leaf(MultiCategorical, sum(nvec), (nvec,), width=width, is_discrete=True)
    if isinstance(space, spaces.MultiBinary) and width:
        return Leaf(Bernoulli, width, width=width, is_discrete=True)
    if isinstance(space, Simplex):
        return Leaf(Dirichlet, width, width=width, is_chosen=choice == "dirichlet")
    if not (isinstance(space, spaces.Box) and is_float_vector(space)) or choice == "dirichlet":
        raise SpaceError(
            f"No action distribution for {space}. A policy's action space is Discrete, or a "
            f"MultiDiscrete, MultiBinary, Simplex or Box of floats with one axis, or a Tuple of "
            f"these, as ActionConverter.policy_space gives it for any env."
        )
    if choice == "auto":
        return Leaf(DiagGaussian, 2 * width, num_log_stds=width, width=width)
    if not np.isfinite([space.low, space.high]).all() or np.any(space.low >= space.high):
        raise SpaceError(
            f"model.action_distribution=beta needs two bounds in every dimension, and the action "
            f"space (in the policy's terms) is {space}. Use model.action_distribution=auto."
        )
    bounds = space.low.astype(np.float32), space.high.astype(np.float32)
    return Leaf(Beta, 2 * width, bounds, width=width, is_chosen=True)


def is_float_vector(space: spaces.Space | None) -> bool:
    """Whether `space` is a Box of floats with one axis."""
    return (
        isinstance(space, spaces.Box)
        and np.issubdtype(space.dtype, np.floating)
        and len(space.shape) == 1
    )


def _log_softmax(logits: Array) -> Array:
    if isinstance(logits, torch.Tensor):
        return torch.log_softmax(logits, -1)
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _exp(array: Array) -> Array:
    return array.exp() if isinstance(array, torch.Tensor) else np.exp(array)


def _taken(rows: np.ndarray, actions: np.ndarray) -> np.ndarray:
    """The entry of each row [..., n] at the index in actions [...]."""
    flat = rows.reshape(-1, rows.shape[-1])
    return flat[np.arange(len(flat)), actions.ravel()].reshape(actions.shape)


def _weighted_by(log_probs: Array, values: Array) -> Array:
    """sum of exp(log_probs) * values over the last axis, where what cannot happen adds nothing."""
    probabilities = _exp(log_probs)
    where = torch.where if isinstance(log_probs, torch.Tensor) else np.where
    return (probabilities * where(probabilities > 0.0, values, 0.0)).sum(-1)
