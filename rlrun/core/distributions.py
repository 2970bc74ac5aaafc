"""Action distributions, over NumPy arrays where actions are chosen and torch tensors where the
learner needs gradients: one class each, so that both sides compute the same numbers.

`inputs` is what the network gives for each row, [..., num_inputs]. `sample` and `mode` are for
acting (NumPy); `log_prob`, `entropy` and `kl` work on either kind.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlrun.core.errors import SpaceError

Array = Any
"""A NumPy array or a torch tensor."""

LOG_2PI = math.log(2.0 * math.pi)
LEAST_FLOAT = float(np.finfo(np.float32).min)


class Distribution:
    """Base of all action distributions."""

    inputs: Array

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Random actions [...] and their log-probabilities [...], float32."""
        raise NotImplementedError

    def mode(self) -> np.ndarray:
        """The most likely actions."""
        raise NotImplementedError

    def log_prob(self, actions: Array) -> Array:
        """Log-probability (density) of `actions`, summed over action dimensions: [...]."""
        raise NotImplementedError

    def entropy(self) -> Array:
        """Entropy in nats, [...]."""
        raise NotImplementedError

    def kl(self, other: Distribution) -> Array:
        """KL(self || other) in nats, [...]; `other` is of the same class."""
        raise NotImplementedError


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
        shifted = self.inputs - self.inputs.max(-1, keepdims=True)
        cumulative = np.exp(shifted).cumsum(-1)
        total = cumulative[..., -1]
        # Scaled by the total, so that rounding can never pick an action of probability zero.
        draws = rng.random(total.shape) * total
        actions = (draws[..., None] >= cumulative).sum(-1)
        actions = np.minimum(actions, cumulative.shape[-1] - 1)
        return actions, _taken(shifted, actions) - np.log(total)

    def mode(self) -> np.ndarray:
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

    def mode(self) -> np.ndarray:
        return np.stack([part.mode() for part in self.parts], -1)

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

    def mode(self) -> np.ndarray:
        return np.array(self.mean)

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
    """Which distribution an action space takes, and how many network outputs it needs."""

    def __init__(self, action_space: spaces.Space) -> None:
        self.action_space = action_space
        self.nvec: list[int] = []
        if isinstance(action_space, spaces.Discrete):
            self.num_inputs = int(action_space.n)
        elif isinstance(action_space, spaces.MultiDiscrete) and action_space.nvec.ndim == 1:
            self.nvec = [int(n) for n in action_space.nvec]
            self.num_inputs = sum(self.nvec)
        elif is_float_vector(action_space):
            self.num_inputs = 2 * int(action_space.shape[0])  # type: ignore[index]
        else:
            raise SpaceError(
                f"No action distribution for {action_space}. Supported are Discrete, "
                f"MultiDiscrete with one axis, and Box of floats with one axis; "
                f"wrap the env so that it has one of these."
            )

    def __call__(self, inputs: Array, log_std: Array = None) -> Distribution:
        """The distribution that `inputs` [..., num_inputs] describe (Gaussians: see there)."""
        if isinstance(self.action_space, spaces.Discrete):
            return Categorical(inputs)
        if self.nvec:
            return MultiCategorical(inputs, self.nvec)
        return DiagGaussian(inputs, log_std)


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
