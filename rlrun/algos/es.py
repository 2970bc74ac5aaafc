"""Evolution strategies (OpenAI-ES; Salimans et al., 2017, arXiv:1703.03864)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlrun.algos.evolution import Evolution
from rlrun.core import evolution
from rlrun.core.optim import FlatAdam, FlatOptimizer, FlatSGD
from rlrun.core.ranges import check_range
from rlrun.core.schedules import ScheduleLike


@dataclass(kw_only=True)
class ES(Evolution):
    """Adam (or SGD) along an estimate of the gradient of the expected return of perturbed weights
    (algorithm 2), by ranks of returns from many workers.

    As in the authors' code, its 1 / sigma is left to the step size. Other than there, equal returns
    have equal ranks, and both episodes of a pair begin alike. Virtual batch normalisation (sec.
    2.2) is not built. conf/algo/es.yaml lists the defaults.
    """

    stepsize: ScheduleLike = 0.01
    """Step size of the optimiser, or a schedule over env steps."""
    opt_type: Literal["adam", "sgd"] = "adam"
    """Which optimiser steps along the estimate."""
    l2_coeff: float = 0.005
    """Weight decay: how much of the weights is added to the gradient (sec. 2)."""
    action_noise_std: float = 0.01
    return_proc_mode: Literal["centered_rank", "sign"] = "centered_rank"
    """What of the returns counts: their ranks from -0.5 to 0.5, or their signs."""
    episodes_per_batch: int = 1000
    """Perturbed episodes of one update at least, in pairs."""
    train_batch_size: int = 10_000
    """Env steps of perturbed episodes of one update, at least; as long as there are fewer, another
    `episodes_per_batch` are run."""

    built_in = Evolution.built_in | {"opt_type"}
    step_size_name = "stepsize"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("l2_coeff", self.l2_coeff, low=0.0)
        check_range("episodes_per_batch", self.episodes_per_batch, low=2)

    def make_optimizer(self) -> FlatOptimizer:
        if self.opt_type == "sgd":
            return FlatSGD(self.policy.flat)
        return FlatAdam(self.policy.flat, eps=self.adam_epsilon)

    @property
    def num_directions(self) -> int:
        return -(-self.episodes_per_batch // 2)

    @property
    def least_steps(self) -> int:
        return self.train_batch_size

    @property
    def weight_decay(self) -> float:
        return self.l2_coeff

    def weigh(self, returns: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        is_ranked = self.return_proc_mode == "centered_rank"
        shaped = evolution.centered_ranks(returns) if is_ranked else np.sign(returns)
        return evolution.antithetic_weights(shaped)
