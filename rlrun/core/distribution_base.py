"""What every action distribution gives, over NumPy arrays and torch tensors alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

Array = Any
"""A NumPy array or a torch tensor."""


class Distribution:
    """Base of all action distributions."""

    inputs: Array

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Random actions [...] and their log-probabilities [...], float32."""
        raise NotImplementedError

    def mode(self) -> Array:
        """The most likely actions, as the kind of array that the inputs are."""
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


def copied(array: Array) -> Array:
    """The same in memory of its own."""
    return array.clone() if isinstance(array, torch.Tensor) else np.array(array)


def whole_numbers(array: Array) -> Array:
    """The same as int64."""
    return array.long() if isinstance(array, torch.Tensor) else array.astype(np.int64, copy=False)


def lgamma(array: Array) -> Array:
    """log of the gamma function, for NumPy arrays too, which have none of their own."""
    if isinstance(array, torch.Tensor):
        return torch.lgamma(array)
    return torch.lgamma(torch.from_numpy(np.ascontiguousarray(array))).numpy()


def digamma(array: Array) -> Array:
    """The derivative of `lgamma`."""
    if isinstance(array, torch.Tensor):
        return torch.digamma(array)
    return torch.digamma(torch.from_numpy(np.ascontiguousarray(array))).numpy()


def softplus(array: Array) -> Array:
    """log(1 + exp(x)), without overflow."""
    if isinstance(array, torch.Tensor):
        return torch.nn.functional.softplus(array)
    return np.logaddexp(array, np.float32(0.0))


def log(array: Array) -> Array:
    """The natural logarithm."""
    return array.log() if isinstance(array, torch.Tensor) else np.log(array)
