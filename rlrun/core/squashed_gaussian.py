"""A Gaussian squashed to bounded actions, the policy of SAC."""

from __future__ import annotations

import math

import numpy as np
import torch

from rlrun.core.distribution_base import Array, Distribution, softplus

LOG_2 = math.log(2.0)
LOG_2PI = math.log(2.0 * math.pi)

LOG_STD_RANGE = (-20.0, 2.0)
"""Bounds of the log standard deviation, those of the authors' code."""

ALMOST_1 = 1.0 - 1e-6
"""Actions beyond it count as this one, where the Gaussian's number behind one is asked for."""

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(32)
_QUADRATURE = np.stack([_NODES, _WEIGHTS / _WEIGHTS.sum()]).astype(np.float32)


class SquashedGaussian(Distribution):
    """tanh(u) of independent normal u (Haarnoja et al., 2018b, arXiv:1812.05905, appendix C).

    Inputs [..., 2 d] are the means of u, then its log standard deviations, which are cut to
    LOG_STD_RANGE. Actions lie in [-1, 1], and log-probabilities are the exact ones of the actions:
    log pi(a) = log N(u) - sum log(1 - tanh(u)^2) (eq. 26).
    """

    def __init__(self, inputs: Array) -> None:
        self.inputs = inputs
        half = inputs.shape[-1] // 2
        self.mean = inputs[..., :half]
        self.log_std = inputs[..., half:].clip(*LOG_STD_RANGE)

    def draw(self, noise: Array) -> tuple[Array, Array]:
        """Actions [..., d] for standard normal noise [..., d], and their log-probabilities [...];
        differentiable (the reparametrisation of eq. 8 and 9)."""
        unsquashed = self.mean + _exp(self.log_std) * noise
        log_probs = (-0.5 * noise * noise - self.log_std - log_slope(unsquashed)).sum(-1)
        return _tanh(unsquashed), log_probs - 0.5 * LOG_2PI * noise.shape[-1]

    def gradient_of_draw(
        self, noise: Array, actions: Array, by_actions: Array, by_log_probs: Array
    ) -> Array:
        """The chain rule through `draw`, which gave `actions` for `noise`: the gradient by `inputs`
        [..., 2 d], of those by the actions [..., d] and by each log-probability (a scalar)."""
        # tanh has the slope 1 - a^2, and -log(1 - a^2) by u that of 2 a.
        by_mean = by_actions * (1.0 - actions * actions) + 2.0 * by_log_probs * actions
        by_log_std = by_mean * noise * _exp(self.log_std) - by_log_probs
        return self._by_inputs(by_mean, by_log_std)

    def gradient_of_log_prob(self, actions: Array) -> Array:
        """That of `log_prob(actions)` by `inputs`, [..., 2 d]."""
        noise = self._noise_behind(_unsquashed(actions))
        return self._by_inputs(noise * _exp(-self.log_std), noise * noise - 1.0)

    def _by_inputs(self, by_mean: Array, by_log_std: Array) -> Array:
        # Where the log standard deviation was cut, its input changes nothing.
        is_free = self.log_std == self.inputs[..., by_mean.shape[-1] :]
        return _concatenated(by_mean, by_log_std * is_free)

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return self.draw(rng.standard_normal(self.mean.shape, dtype=np.float32))

    def mode(self) -> Array:
        """The squashed mean, as the authors evaluate; the density's peak may lie further out."""
        return _tanh(self.mean)

    def log_prob(self, actions: Array) -> Array:
        unsquashed = _unsquashed(actions)
        noise = self._noise_behind(unsquashed)
        log_probs = (-0.5 * noise * noise - self.log_std - log_slope(unsquashed)).sum(-1)
        return log_probs - 0.5 * LOG_2PI * noise.shape[-1]

    def _noise_behind(self, unsquashed: Array) -> Array:
        """What `draw` would need in order to come to these numbers."""
        return (unsquashed - self.mean) * _exp(-self.log_std)

    def entropy(self) -> Array:
        """The Gaussian's, and the mean of `log_slope` by Gauss-Hermite quadrature (32 nodes)."""
        nodes, shares = _QUADRATURE
        if isinstance(self.mean, torch.Tensor):
            nodes, shares = torch.from_numpy(_QUADRATURE).to(self.mean)
        unsquashed = self.mean[..., None] + _exp(self.log_std)[..., None] * nodes
        slopes = (log_slope(unsquashed) * shares).sum(-1)
        return (self.log_std + 0.5 * (1.0 + LOG_2PI) + slopes).sum(-1)

    def kl(self, other: Distribution) -> Array:
        """That of the Gaussians: what is done to both alike, and can be undone, changes nothing."""
        assert isinstance(other, SquashedGaussian)
        variance_ratio = _exp(2.0 * (self.log_std - other.log_std))
        distance = (self.mean - other.mean) * _exp(-other.log_std)
        return (
            other.log_std - self.log_std + 0.5 * (variance_ratio + distance * distance - 1.0)
        ).sum(-1)


def log_slope(unsquashed: Array) -> Array:
    """log(1 - tanh(u)^2), exact also where tanh(u) rounds to 1."""
    return 2.0 * (LOG_2 - unsquashed - softplus(-2.0 * unsquashed))


def _unsquashed(actions: Array) -> Array:
    inside = actions.clip(-ALMOST_1, ALMOST_1)
    return inside.atanh() if isinstance(inside, torch.Tensor) else np.arctanh(inside)


def _exp(array: Array) -> Array:
    return array.exp() if isinstance(array, torch.Tensor) else np.exp(array)


def _tanh(array: Array) -> Array:
    return array.tanh() if isinstance(array, torch.Tensor) else np.tanh(array)


def _concatenated(one: Array, other: Array) -> Array:
    """Both side by side, along the last axis."""
    if isinstance(one, torch.Tensor):
        return torch.cat([one, other], -1)
    return np.concatenate([one, other], -1)
