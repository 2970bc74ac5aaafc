"""Augmented random search (ARS; Mania et al., 2018, arXiv:1803.07055)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rlrun.algos.evolution import Evolution
from rlrun.core.errors import ConfigError
from rlrun.core.evolution import top_direction_weights
from rlrun.core.optim import FlatOptimizer, FlatSGD
from rlrun.core.ranges import check_range
from rlrun.core.schedules import ScheduleLike


@dataclass(kw_only=True)
class ARS(Evolution):
    """Plain steps along the best of a few directions, over the standard deviation of their returns
    (algorithm 2).

    With all directions used it is V1 or V2, else V1-t or V2-t: V2 normalises observations
    (env.observation_filter=MeanStdFilter). The paper's policies are linear
    (model.fcnet_hiddens=[]). Other than there, both episodes of a pair begin alike.
    conf/algo/ars.yaml lists the defaults.
    """

    sgd_stepsize: ScheduleLike = 0.01
    """Step size, or a schedule over env steps; the paper's, alpha, lie between 0.01 and 0.025."""
    num_rollouts: int = 32
    """Directions that are tried for one step, N; each takes two episodes."""
    rollouts_used: int = 32
    """How many of them, the best, make the step, b."""
    eval_prob: float = 0.03
    offset: float = 0.0
    """Taken off the reward of every step, where that has a bonus for staying alive."""

    step_size_name = "sgd_stepsize"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_rollouts", "rollouts_used"):
            check_range(name, getattr(self, name), low=1)
        check_range("offset", self.offset, low=0.0)
        if self.rollouts_used > self.num_rollouts:
            raise ConfigError(
                f"algo.rollouts_used={self.rollouts_used} exceeds "
                f"algo.num_rollouts={self.num_rollouts}. Lower it or raise num_rollouts."
            )

    def make_optimizer(self) -> FlatOptimizer:
        return FlatSGD(self.policy.flat)

    @property
    def num_directions(self) -> int:
        return self.num_rollouts

    def weigh(self, returns: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        return top_direction_weights(returns - self.offset * lengths, self.rollouts_used)
