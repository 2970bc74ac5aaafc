"""Distributions of the less usual action spaces: yes or no, between bounds, shares of a whole, and
several of all these at once. As in distributions.py, NumPy and torch give the same numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlrun.core.distribution_base import (
    Array,
    Distribution,
    digamma,
    lgamma,
    log,
    softplus,
    whole_numbers,
)

TINY = float(np.finfo(np.float32).tiny)

EDGE = 1e-6
"""How near to the ends of its range an action may lie: beyond, densities are 0."""


class Bernoulli(Distribution):
    """Independent choices of 0 or 1; inputs [..., n] are the log-odds of 1."""

    def __init__(self, inputs: Array) -> None:
        self.inputs = inputs

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        # A draw of 0 is never below the probability 0.
        actions = (rng.random(self.inputs.shape) < _sigmoid(self.inputs)).astype(np.int64)
        return actions, self.log_prob(actions)

    def mode(self) -> Array:
        return whole_numbers(self.inputs > 0.0)

    def log_prob(self, actions: Array) -> Array:
        # log p(1) = -softplus(-x), log p(0) = -softplus(x).
        signs = 1.0 - 2.0 * _floats(actions)
        return -softplus(self.inputs * signs).sum(-1)

    def entropy(self) -> Array:
        ones = _sigmoid(self.inputs)
        return (softplus(self.inputs) - self.inputs * ones).sum(-1)

    def kl(self, other: Distribution) -> Array:
        assert isinstance(other, Bernoulli)
        ones = _sigmoid(self.inputs)
        log_normalizers = softplus(other.inputs) - softplus(self.inputs)
        return (log_normalizers + ones * (self.inputs - other.inputs)).sum(-1)


class Beta(Distribution):
    """Independent Beta distributions between the bounds `low` and `high` [d] (Chou et al., 2017,
    Improving stochastic policy gradients in continuous control with deep reinforcement learning
    using the Beta distribution, sec. 4): no sample is ever clipped.

    inputs [..., 2 d]: alpha = 1 + softplus of the first half, beta = 1 + softplus of the second, so
    that each has one peak.
    """

    def __init__(self, inputs: Array, low: np.ndarray, high: np.ndarray) -> None:
        self.inputs = inputs
        half = inputs.shape[-1] // 2
        self._above_one = softplus(inputs)
        self.alpha = self._above_one[..., :half] + 1.0
        self.beta = self._above_one[..., half:] + 1.0
        self._low, self._width = low, high - low

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        shares = rng.beta(self.alpha, self.beta).astype(np.float32)
        actions = self._low + self._width * np.clip(shares, EDGE, 1.0 - EDGE)
        return actions, self.log_prob(actions)

    def mode(self) -> Array:
        half = self.inputs.shape[-1] // 2
        a, b = self._above_one[..., :half], self._above_one[..., half:]
        share = a / (a + b).clip(min=TINY)
        return _like(self._low, share) + _like(self._width, share) * share

    def log_prob(self, actions: Array) -> Array:
        low, width = _like(self._low, actions), _like(self._width, actions)
        shares = ((actions - low) / width).clip(EDGE, 1.0 - EDGE)
        terms = (self.alpha - 1.0) * log(shares) + (self.beta - 1.0) * log(1.0 - shares)
        return (terms - self._log_beta() - log(width)).sum(-1)

    def entropy(self) -> Array:
        a, b = self.alpha, self.beta
        both = (a + b - 2.0) * digamma(a + b)
        terms = self._log_beta() - (a - 1.0) * digamma(a) - (b - 1.0) * digamma(b) + both
        return (terms + log(_like(self._width, a))).sum(-1)

    def kl(self, other: Distribution) -> Array:
        assert isinstance(other, Beta)
        a, b = self.alpha, self.beta
        more_a, more_b = a - other.alpha, b - other.beta
        terms = more_a * digamma(a) + more_b * digamma(b) - (more_a + more_b) * digamma(a + b)
        return (other._log_beta() - self._log_beta() + terms).sum(-1)

    def _log_beta(self) -> Array:
        return lgamma(self.alpha) + lgamma(self.beta) - lgamma(self.alpha + self.beta)


class Dirichlet(Distribution):
    """Weights [..., n] that sum to 1; inputs [..., n]: concentrations are 1 + softplus of them, so
    that there is one peak, within the simplex. Densities are those of the first n - 1 weights."""

    def __init__(self, inputs: Array) -> None:
        self.inputs = inputs
        self._above_one = softplus(inputs)
        self.concentrations = self._above_one + 1.0

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        draws = rng.standard_gamma(self.concentrations)
        actions = (draws / draws.sum(-1, keepdims=True)).astype(np.float32)
        return actions, self.log_prob(actions)

    def mode(self) -> Array:
        total = self._above_one.sum(-1, keepdims=True)
        even = 1.0 / self.inputs.shape[-1]
        shares = self._above_one / total.clip(min=TINY)
        if isinstance(shares, torch.Tensor):
            return torch.where(total > TINY, shares, even)
        return np.where(total > TINY, shares, even).astype(np.float32)

    def log_prob(self, actions: Array) -> Array:
        logs = log(actions.clip(EDGE, 1.0))
        return ((self.concentrations - 1.0) * logs).sum(-1) - self._log_beta()

    def entropy(self) -> Array:
        c, total = self.concentrations, self.concentrations.sum(-1)
        spread = (total - c.shape[-1]) * digamma(total)
        return self._log_beta() + spread - ((c - 1.0) * digamma(c)).sum(-1)

    def kl(self, other: Distribution) -> Array:
        assert isinstance(other, Dirichlet)
        c = self.concentrations
        more = c - other.concentrations
        terms = (more * digamma(c)).sum(-1) - more.sum(-1) * digamma(c.sum(-1))
        return other._log_beta() - self._log_beta() + terms

    def _log_beta(self) -> Array:
        return lgamma(self.concentrations).sum(-1) - lgamma(self.concentrations.sum(-1))


@dataclass(frozen=True)
class Leaf:
    """How one part of an action space is drawn from."""

    kind: Callable[..., Distribution]
    """Its distribution: kind(inputs, *arguments), of a Gaussian kind(inputs, log_std)."""
    num_inputs: int
    arguments: tuple[Any, ...] = ()
    num_log_stds: int = 0
    """Of its inputs, the log standard deviations."""
    width: int = 1
    """Columns of its actions in a flat row."""
    is_discrete: bool = False
    is_number: bool = False
    """Whether its distribution speaks of one number [...] rather than a row [..., width]."""
    is_chosen: bool = False
    """Whether `model.action_distribution` has chosen it."""

    def make(self, inputs: Array, log_std: Array = None) -> Distribution:
        """The distribution that `inputs` [..., num_inputs] describe."""
        if self.num_log_stds:
            return self.kind(inputs, log_std)
        return self.kind(inputs, *self.arguments)


class Product(Distribution):
    """Independent distributions, one for each part of a Tuple or Dict of actions.

    inputs: those of all parts one after the other, [..., sum]; with `log_std`, one for all rows,
    they come without the log standard deviations of Gaussians. Actions are flat rows [..., k]:
    int64 if all parts are discrete, else float32.
    """

    def __init__(self, inputs: Array, log_std: Array = None, *, leaves: Sequence[Leaf]) -> None:
        self.leaves = leaves
        self.parts: list[Distribution] = []
        start, first_std = 0, 0
        for leaf in leaves:
            own, stop = None, start + leaf.num_inputs
            if log_std is not None and leaf.num_log_stds:
                own = log_std[first_std : first_std + leaf.num_log_stds]
                first_std, stop = first_std + leaf.num_log_stds, stop - leaf.num_log_stds
            self.parts.append(leaf.make(inputs[..., start:stop], own))
            start = stop
        self._inputs = inputs if first_std == 0 else None

    @property
    def inputs(self) -> Array:  # type: ignore[override]
        """Inputs of all parts, log standard deviations included."""
        if self._inputs is None:
            rows = [part.inputs for part in self.parts]
            is_torch = isinstance(rows[0], torch.Tensor)
            self._inputs = torch.cat(rows, -1) if is_torch else np.concatenate(rows, -1)
        return self._inputs

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        pairs = [part.sample(rng) for part in self.parts]
        log_probs = sum(log_probs for _, log_probs in pairs)
        return self.join([actions for actions, _ in pairs]), np.asarray(log_probs)

    def mode(self) -> Array:
        return self.join([part.mode() for part in self.parts])

    def log_prob(self, actions: Array) -> Array:
        return sum(
            part.log_prob(own) for part, own in zip(self.parts, self._split(actions), strict=True)
        )

    def entropy(self) -> Array:
        return sum(part.entropy() for part in self.parts)

    def kl(self, other: Distribution) -> Array:
        assert isinstance(other, Product)
        return sum(a.kl(b) for a, b in zip(self.parts, other.parts, strict=True))

    def join(self, parts: Sequence[Array]) -> Array:
        """Flat rows [..., k] of the actions of each part."""
        is_discrete = all(leaf.is_discrete for leaf in self.leaves)
        rows = [
            part[..., None] if leaf.is_number else part
            for leaf, part in zip(self.leaves, parts, strict=True)
        ]
        if isinstance(rows[0], torch.Tensor):
            return torch.cat([row.long() if is_discrete else row.float() for row in rows], -1)
        return np.concatenate(rows, -1).astype(np.int64 if is_discrete else np.float32, copy=False)

    def _split(self, actions: Array) -> list[Array]:
        """The actions of each part, as its distribution takes them."""
        parts, start = [], 0
        for leaf in self.leaves:
            own = (
                actions[..., start] if leaf.is_number else actions[..., start : start + leaf.width]
            )
            if leaf.is_discrete and isinstance(own, np.ndarray):
                own = own.astype(np.int64, copy=False)
            parts.append(own)
            start += leaf.width
        return parts


def _sigmoid(array: Array) -> Array:
    if isinstance(array, torch.Tensor):
        return array.sigmoid()
    # Without overflow on either side.
    return np.exp(-np.logaddexp(np.float32(0.0), -array))


def _floats(actions: Any) -> Array:
    if isinstance(actions, torch.Tensor):
        return actions.float()
    return actions.astype(np.float32)


def _like(constant: np.ndarray, array: Array) -> Array:
    """A constant row as the kind of array that it is put together with."""
    if isinstance(array, torch.Tensor):
        return torch.from_numpy(constant).to(array.device)
    return constant
