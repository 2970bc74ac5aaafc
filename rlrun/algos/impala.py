"""IMPALA: importance weighted actor-learners (Espeholt et al., 2018, arXiv:1802.01561)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from rlrun.algos.asynchronous import AsynchronousActorCritic
from rlrun.core.batch import Batch
from rlrun.core.losses import explained_variance
from rlrun.core.sequences import Unrolling


@dataclass(kw_only=True)
class Impala(AsynchronousActorCritic):
    """Policy gradient and value targets by V-trace, from rows of older policies.

    The loss is the sum over the rows of a train batch, as in the paper: `grad_clip` and RMSProp's
    `epsilon` are on that scale. What is reported of it are means over rows.
    """

    vf_coeff: float = 0.25
    """Weight of the value loss, the squared error. Paper: 0.5, of half the squared error."""

    def loss(self, rows: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        """Section 4.2: policy gradient, value loss and entropy bonus."""
        unrolling = Unrolling(self.policy, rows)
        dist, values = self.policy(unrolling.rows)
        log_probs = unrolling.real(dist.log_prob(unrolling.rows["actions"]))
        values = unrolling.spread(values)
        mask = unrolling.mask
        log_ratios = torch.where(mask, log_probs - rows["log_probs"][:, :-1], 0.0)
        value_targets, advantages = self.estimate(rows, values, log_ratios)
        policy_loss = -unrolling.mean(log_probs * advantages)
        vf_loss = unrolling.mean((values[:, :-1] - value_targets).square() * mask)
        entropy = unrolling.mean(unrolling.real(dist.entropy()))
        loss = policy_loss + self.vf_coeff * vf_loss
        entropy_coeff = self.scheduled("entropy_coeff")
        if entropy_coeff > 0.0:
            loss = loss - entropy_coeff * entropy
        return loss * unrolling.num_steps, {
            "total_loss": loss.detach(),
            "policy_loss": policy_loss.detach(),
            "vf_loss": vf_loss.detach(),
            "entropy": entropy.detach(),
            "vf_explained_var": explained_variance(
                values.detach()[:, :-1][mask], value_targets[mask]
            ),
        }
