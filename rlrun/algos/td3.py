"""Twin delayed DDPG (Fujimoto et al., 2018, arXiv:1802.09477)."""

from __future__ import annotations

from dataclasses import dataclass

from rlrun.algos.ddpg import DDPG
from rlrun.core.exploration import Exploration, GaussianNoise
from rlrun.core.schedules import ScheduleLike


@dataclass(kw_only=True)
class TD3(DDPG):
    """DDPG with its three switches on, which explores by Gaussian noise of one scale. Defaults are
    the paper's (sec. 6.1); conf/algo/td3.yaml lists them."""

    twin_q: bool = True
    """Whether there are two critics, the lower of which counts (eq. 10), or one."""
    policy_delay: int = 2
    """Updates of the critics for each of the actor (sec. 5.2)."""
    smooth_target_policy: bool = True
    """Whether the target's actions are blurred by noise (eq. 14)."""
    actor_lr: ScheduleLike = 1e-3
    """Adam step size of the actor, or a schedule over env steps."""
    l2_reg: float = 0.0
    """Weight decay of the critics, added to their gradient."""
    tau: float = 0.005
    learning_starts: int = 10_000
    """Env steps before the first update."""
    train_batch_size: int = 100
    """Rows of one update."""

    built_in = DDPG.built_in

    def natural_exploration(self) -> Exploration:
        return GaussianNoise(random_timesteps=10_000, final_scale=1.0)
