"""The distribution of policies that choose one action for certain."""

from __future__ import annotations

import numpy as np

from rlrun.core.distribution_base import Array, Distribution, copied


class Deterministic(Distribution):
    """The action that the network gives; inputs [..., d] are the actions in the policy's terms.

    It is for exploration to add noise. There is no density, and so no entropy and no KL.
    """

    def __init__(self, inputs: Array) -> None:
        self.inputs = inputs

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """The actions themselves, and the log-probability 0 of what is certain."""
        return self.mode(), np.zeros(self.inputs.shape[:-1], np.float32)

    def mode(self) -> Array:
        return copied(self.inputs)
