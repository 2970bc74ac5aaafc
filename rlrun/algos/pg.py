"""Policy gradient: REINFORCE with rewards to go (Williams, 1992, doi:10.1007/BF00992696; Sutton et
al., 2000, NIPS 12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from gymnasium import spaces

from rlrun.algos import loops
from rlrun.core import losses
from rlrun.core.actor_critic import make_actor_critic
from rlrun.core.advantages import with_advantages, with_rewards_to_go
from rlrun.core.algorithm import Algorithm, BatchMode
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError
from rlrun.core.networks import Model
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_range, refuse_unused
from rlrun.core.schedules import ScheduleLike, check_schedule_range


@dataclass(kw_only=True)
class PG(Algorithm):
    """One gradient step along log pi times rewards to go, for each train batch of whole episodes.

    With a value baseline, advantages take the place of rewards to go. With several envs or workers
    episodes are under way at an update: their first steps are of older weights, which nothing
    corrects; `policy_lag_mean` and `policy_lag_max` tell by how many updates. conf/algo/pg.yaml
    lists the defaults.
    """

    lr: ScheduleLike = 4e-4
    """Adam step size, or a schedule over env steps."""
    train_batch_size: int = 200
    """Env steps gathered for each update."""
    rollout_fragment_length: int | Literal["auto"] = "auto"
    batch_mode: BatchMode = "complete_episodes"
    timesteps_per_iteration: int = 1000
    use_baseline: bool = False
    """Whether a learned state value is taken off the rewards to go (Williams, 1992, sec. 4), and
    stands for what follows where an episode is cut."""
    vf_coeff: float = 0.5
    """Weight of the baseline's squared error."""
    entropy_coeff: ScheduleLike = 0.0
    """Weight of the entropy bonus (Williams & Peng, 1991), or a schedule."""
    normalize_advantages: bool = False
    """Whether the rewards to go (or advantages) of a train batch get mean 0 and standard
    deviation 1."""

    built_in: ClassVar[frozenset[str]] = Algorithm.built_in | {"use_baseline"}
    loop = staticmethod(loops.on_policy)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("vf_coeff", self.vf_coeff, low=0.0)
        if not self.use_baseline:
            refuse_unused(self, ("vf_coeff",), "algo.use_baseline=false")
        check_schedule_range("algo.entropy_coeff", self.entropy_coeff, low=0.0)
        if self.batch_mode == "truncate_episodes" and not self.use_baseline:
            raise ConfigError(
                "algo.batch_mode=truncate_episodes cuts episodes whose rewards to go are not known "
                "yet. Use batch_mode=complete_episodes, or a baseline that stands for them: "
                "algo.use_baseline=true."
            )

    @property
    def rollout_columns(self) -> tuple[str, ...]:
        columns = ("values", "next_values") if self.use_baseline else ()
        return (*columns, *self.age_columns)

    def make_policy(
        self, obs_space: spaces.Box, action_space: spaces.Space, model: Model
    ) -> Policy:
        return make_actor_critic(obs_space, action_space, model)

    def postprocess(self, policy: Policy, trajectory: Batch) -> Batch:
        """Add `advantages` (without a baseline: rewards to go) and a baseline's targets."""
        if self.use_baseline:
            return with_advantages(trajectory, self.gamma, gae_lambda=1.0)
        return with_rewards_to_go(trajectory, self.gamma)

    def loss(self, rows: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        """-log pi A, less the entropy bonus; with a baseline also its squared error."""
        dist, values = self.policy(rows)
        advantages = rows.real(rows["advantages"])
        if self.normalize_advantages:
            advantages = losses.normalized(advantages, advantages)
        policy_loss = losses.policy_gradient(rows.real(dist.log_prob(rows["actions"])), advantages)
        entropy = rows.real(dist.entropy()).mean()
        entropy_coeff = self.scheduled("entropy_coeff")
        loss = policy_loss - entropy_coeff * entropy
        metrics = {
            "policy_loss": policy_loss.detach(),
            "entropy": entropy.detach(),
            "entropy_coeff": entropy_coeff,
        }
        if self.use_baseline:
            vf_loss = losses.squared_error(rows.real(values), rows.real(rows["value_targets"]))
            loss = loss + self.vf_coeff * vf_loss
            metrics["vf_loss"] = vf_loss.detach()
            metrics["vf_explained_var"] = losses.explained_variance(
                rows.real(rows["values"]), rows.real(rows["value_targets"])
            )
        return loss, metrics
