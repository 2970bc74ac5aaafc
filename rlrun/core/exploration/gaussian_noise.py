"""Independent Gaussian noise on continuous actions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rlrun.core.exploration.additive_noise import AdditiveNoise
from rlrun.core.exploration.random_actions import LOG_2PI
from rlrun.core.ranges import check_not_negative


@dataclass(kw_only=True)
class GaussianNoise(AdditiveNoise):
    """Normal noise, drawn anew for each step (Fujimoto et al., 2018, arXiv:1802.09477, algorithm
    1, with a constant scale)."""

    stddev: float = 0.1
    """Its standard deviation before it is scaled."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "stddev", exclusive=True)

    def draw(self, num_rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        normal = self.rng.standard_normal((num_rows, width), dtype=np.float32)
        log_probs = -0.5 * (normal * normal + LOG_2PI).sum(-1) - width * math.log(self.stddev)
        return np.float32(self.stddev) * normal, log_probs
