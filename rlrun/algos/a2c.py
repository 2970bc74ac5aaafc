"""Advantage actor-critic (Mnih et al., 2016, arXiv:1602.01783), synchronous."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from gymnasium import spaces

from rlrun.algos import loops
from rlrun.core import losses
from rlrun.core.actor_critic import make_actor_critic
from rlrun.core.advantages import with_advantages
from rlrun.core.algorithm import Algorithm
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError
from rlrun.core.networks import Model
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_range
from rlrun.core.schedules import ScheduleLike, check_schedule_range


@dataclass(kw_only=True)
class A2C(Algorithm):
    """One gradient step on n-step advantages for each short round of all envs.

    Defaults are those of the authors' synchronous code (Wu et al., 2017, arXiv:1708.05144, sec. 5:
    OpenAI Baselines), with Adam in place of RMSProp; conf/algo/a2c.yaml lists them.
    """

    lr: ScheduleLike = 7e-4
    """Adam step size, or a schedule over env steps."""
    train_batch_size: int = 40
    """Env steps gathered for each update: 5 (t_max of the paper) of each of 8 envs."""
    rollout_fragment_length: int | Literal["auto"] = "auto"
    num_envs_per_worker: int = 8
    timesteps_per_iteration: int = 1000
    gae_lambda: float = 1.0
    """Decay of the advantage estimator; 1 gives the n-step advantages of the paper (sec. 4)."""
    vf_coeff: float = 0.5
    """Weight of the squared value error."""
    entropy_coeff: ScheduleLike = 0.01
    """Weight of the entropy bonus (the paper's beta, 0.01), or a schedule."""
    normalize_advantages: bool = False
    """Whether the advantages of a train batch get mean 0 and standard deviation 1."""
    microbatch_size: int | None = None
    """Steps whose gradient is computed at once, for large networks; the gradients of a train batch
    are summed before its one step. null: the whole batch."""
    grad_clip: float | None = 0.5
    adam_epsilon: float = 1e-5

    loop = staticmethod(loops.on_policy)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("gae_lambda", self.gae_lambda, low=0.0, high=1.0)
        check_range("vf_coeff", self.vf_coeff, low=0.0)
        check_schedule_range("algo.entropy_coeff", self.entropy_coeff, low=0.0)
        check_range("microbatch_size", self.microbatch_size, low=1)
        if self.microbatch_size is not None and self.microbatch_size > self.train_batch_size:
            raise ConfigError(
                f"algo.microbatch_size={self.microbatch_size} exceeds "
                f"algo.train_batch_size={self.train_batch_size}. Lower it, or use null for the "
                f"whole batch at once."
            )

    @property
    def rollout_columns(self) -> tuple[str, ...]:
        return ("values", "next_values", *self.age_columns)

    def make_policy(
        self, obs_space: spaces.Box, action_space: spaces.Space, model: Model
    ) -> Policy:
        return make_actor_critic(obs_space, action_space, model)

    def postprocess(self, policy: Policy, trajectory: Batch) -> Batch:
        """Add `advantages` and `value_targets`; drop what the loss does not read."""
        return with_advantages(trajectory, self.gamma, self.gae_lambda)

    def compute_gradients(self, rows: Batch) -> dict[str, Any]:
        """The gradient of the whole batch, of `microbatch_size` steps at a time."""
        rows.require("advantages", "value_targets", "values")
        if self.normalize_advantages:
            advantages = rows["advantages"]
            scaled = losses.normalized(advantages, rows.real(advantages))
            rows = Batch({**rows, "advantages": scaled})
        if self.microbatch_size is None:
            metrics = super().compute_gradients(rows)
        else:
            metrics = self._accumulate_gradients(rows, self.microbatch_size)
        return metrics | {
            "entropy_coeff": self.scheduled("entropy_coeff"),
            "vf_explained_var": losses.explained_variance(
                rows.real(rows["values"]), rows.real(rows["value_targets"])
            ),
        }

    def loss(self, rows: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        """Algorithm S3 of the paper, as a mean over steps where that has a sum."""
        dist, values = self.policy(rows)
        policy_loss = losses.policy_gradient(
            rows.real(dist.log_prob(rows["actions"])), rows.real(rows["advantages"])
        )
        vf_loss = losses.squared_error(rows.real(values), rows.real(rows["value_targets"]))
        entropy = rows.real(dist.entropy()).mean()
        loss = policy_loss.add(vf_loss, alpha=self.vf_coeff)
        loss = loss.sub(entropy, alpha=self.scheduled("entropy_coeff"))
        return loss, {
            "policy_loss": policy_loss.detach(),
            "vf_loss": vf_loss.detach(),
            "entropy": entropy.detach(),
        }

    def _accumulate_gradients(self, rows: Batch, size: int) -> dict[str, Any]:
        """The same as at once: each part counts by its steps."""
        num_steps = rows.num_steps
        grad = torch.zeros_like(self.policy.flat.grad)
        sums: dict[str, Any] = {}
        for part in _parts(rows, size):
            share = part.num_steps / num_steps
            loss, metrics = self.loss_of(part)
            self.optimizer.compute_gradients(share * loss)
            grad += self.policy.flat.grad
            for name, value in {"total_loss": loss.detach(), **metrics}.items():
                sums[name] = sums.get(name, 0.0) + share * value
        self.policy.flat.grad.copy_(grad)
        return sums


def _parts(rows: Batch, num_steps: int) -> Iterator[Batch]:
    """Consecutive rows of at most `num_steps` steps together, or of one sequence."""
    steps_in_row = rows["mask"].shape[1] if "mask" in rows else 1
    size = max(num_steps // steps_in_row, 1)
    for start in range(0, rows.num_rows, size):
        yield rows.take(slice(start, start + size))
