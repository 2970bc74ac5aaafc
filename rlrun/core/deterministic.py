"""The distribution of a policy that is certain of its actions."""

from __future__ import annotations

import numpy as np
import torch

from rlrun.core.distribution_base import Array, Distribution


class Deterministic(Distribution):
    """One certain action for each row, to which exploration adds its noise; inputs are the actions
    themselves, [..., d]. Log-probabilities are 0 or -inf."""

    def __init__(self, inputs: Array) -> None:
        self.inputs = inputs

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        return self.mode(), np.zeros(self.inputs.shape[:-1], np.float32)

    def mode(self) -> np.ndarray:
        return np.array(self.inputs)

    def log_prob(self, actions: Array) -> Array:
        return self._certain((actions == self.inputs).all(-1))

    def entropy(self) -> Array:
        return 0.0 * self.inputs.sum(-1)

    def kl(self, other: Distribution) -> Array:
        assert isinstance(other, Deterministic)
        return -self._certain((self.inputs == other.inputs).all(-1))

    def _certain(self, is_same: Array) -> Array:
        where = torch.where if isinstance(is_same, torch.Tensor) else np.where
        return where(is_same, 0.0, -float("inf"))
