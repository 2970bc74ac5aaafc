"""Noise on continuous actions that drifts from step to step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlrun.core.exploration.additive_noise import AdditiveNoise
from rlrun.core.exploration.random_actions import LOG_2PI
from rlrun.core.ranges import check_not_negative


@dataclass(kw_only=True)
class OrnsteinUhlenbeckNoise(AdditiveNoise):
    """An Ornstein-Uhlenbeck process for each env (Lillicrap et al., 2016, arXiv:1509.02971, sec.
    7): x = (1 - theta) x + sigma N(0, 1), from 0 at each episode's start.

    The noise is `ou_base_scale` times x, times the width of the action's bounds (where there are
    none, times 1). Log-densities are those of x given the one before it.
    """

    ou_theta: float = 0.15
    """How much of x is lost in each step."""
    ou_sigma: float = 0.2
    """Standard deviation of what is added in each step."""
    ou_base_scale: float = 0.1
    """What x is multiplied by before all other scales; the paper: 1."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "ou_theta")
        check_not_negative(self, "ou_sigma", "ou_base_scale", exclusive=True)
        self.x = np.zeros((0, 0), np.float32)
        """The processes as they are, [N, d]."""

    def draw(self, num_rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        if self.x.shape != (num_rows, width):
            self.x = np.zeros((num_rows, width), np.float32)
        normal = self.rng.standard_normal((num_rows, width), dtype=np.float32)
        self.x = np.float32(1.0 - self.ou_theta) * self.x + np.float32(self.ou_sigma) * normal
        factors = np.float32(self.ou_base_scale) * self._widths
        log_factors = np.log(factors).sum() + width * math.log(self.ou_sigma)
        return factors * self.x, -0.5 * (normal * normal + LOG_2PI).sum(-1) - log_factors

    @property
    def stddev(self) -> float:
        """How far the noise is from 0 before it is scaled, once it has drifted for long: the root
        of the mean square over dimensions. Infinite where it never settles."""
        kept = (1.0 - self.ou_theta) ** 2
        of_x = self.ou_sigma / math.sqrt(1.0 - kept) if kept < 1.0 else math.inf
        return self.ou_base_scale * float(np.sqrt(np.square(self._widths).mean())) * of_x

    @property
    def _widths(self) -> np.ndarray:
        low, high = self.action_space.low, self.action_space.high  # type: ignore[attr-defined]
        with np.errstate(over="ignore", invalid="ignore"):
            widths = high - low
        return np.where(np.isfinite(widths) & (widths > 0.0), widths, np.float32(1.0))

    def reset(self, envs: np.ndarray) -> None:
        if len(self.x) == len(envs):
            self.x[envs] = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"x": self.x}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.x = np.array(state["x"], np.float32)
