"""APPO: PPO's clipped surrogate on rows of older policies, against a target network that moves
slowly (IMPACT: Luo et al., 2020, arXiv:1912.00167)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from rlrun.algos.asynchronous import METRICS, AsynchronousActorCritic
from rlrun.core import losses
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError
from rlrun.core.losses import explained_variance
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_range, refuse_unused
from rlrun.core.schedules import ScheduleLike, check_schedule_range
from rlrun.core.sequences import Unrolling
from rlrun.core.target import LEAST_TAU, Target

LARGEST_WEIGHT = 2.0
"""How much more often than the target a worker's policy may take an action, to count so (the
paper's rho, of its eq. 4 and table 3)."""


@dataclass(kw_only=True)
class APPO(AsynchronousActorCritic):
    """Three policies: workers sample with one, the target stands for PPO's old policy, and a third
    learns. Advantages are V-trace's for the target, or generalised ones as if it had sampled.
    """

    vtrace: bool = True
    """Whether advantages are corrected for the age of rows; else they are generalised ones."""
    gae_lambda: float = 1.0
    """Decay of the advantage estimator, with and without V-trace."""
    clip_range: ScheduleLike = 0.4
    """How far pi / pi_target may move before its gradient stops."""
    use_kl_loss: bool = False
    """Whether to add the adaptive penalty on KL(pi_target || pi) (PPO's sec. 4)."""
    kl_coeff: float = 1.0
    """Initial weight of that penalty."""
    kl_target: float = 0.01
    """KL per update toward which the weight is adapted."""
    target_network_update_freq: int | None = None
    """Updates after which the target follows; null: num_sgd_iter * minibatch_buffer_size, when all
    that the learner goes round has been learned from."""
    tau: float = 1.0
    """Share of the weights that the target takes over then."""

    built_in: ClassVar[frozenset[str]] = AsynchronousActorCritic.built_in | {"vtrace", "kl_coeff"}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("gae_lambda", self.gae_lambda, low=0.0, high=1.0)
        check_schedule_range("algo.clip_range", self.clip_range, low=0.0)
        for name in ("kl_coeff", "kl_target"):
            check_range(name, getattr(self, name), low=0.0)
        check_range("target_network_update_freq", self.target_network_update_freq, low=1)
        check_range("tau", self.tau, low=LEAST_TAU, high=1.0)
        if not self.use_kl_loss:
            refuse_unused(self, ("kl_coeff", "kl_target"), "algo.use_kl_loss=false")
        if not self.vtrace:
            thresholds = [f"vtrace_clip_{name}_threshold" for name in ("rho", "pg_rho", "c")]
            refuse_unused(self, thresholds, "algo.vtrace=false")
        if self.use_kl_loss and self.target_interval == 1 and self.tau == 1.0:
            raise ConfigError(
                "algo.use_kl_loss=true has no effect on a target that follows after each update: "
                "the KL from it is always 0. Set algo.target_network_update_freq, num_sgd_iter or "
                "minibatch_buffer_size to 2 or more."
            )

    @property
    def target_interval(self) -> int:
        """Updates after which the target follows."""
        rounds = self.num_sgd_iter * self.minibatch_buffer_size
        return self.target_network_update_freq or rounds

    def setup(self, policy: Policy, device: torch.device, seed: int) -> None:
        super().setup(policy, device, seed)
        self.target = Target(self.policy, interval=self.target_interval, tau=self.tau)
        self.current_kl_coeff = self.kl_coeff

    def apply_hyperparameters(self) -> None:
        if hasattr(self, "target"):  # a learner
            self.target.interval, self.target.tau = self.target_interval, self.tau

    def learn(self, rows: Batch) -> dict[str, Any]:
        self.target.take_first_statistics()
        metrics = super().learn(rows)
        before = self.target.num_updates
        self.target.follow_if_due(self.num_updates)
        if self.use_kl_loss and self.target.num_updates > before:
            self.current_kl_coeff = losses.adapted_kl_coeff(
                self.current_kl_coeff, float(metrics["kl"]), self.kl_target
            )
        return metrics | {
            "cur_clip_range": self.scheduled("clip_range"),
            "cur_kl_coeff": self.current_kl_coeff if self.use_kl_loss else 0.0,
        }

    def loss(self, rows: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        """The paper's eq. 4, with the value loss, entropy bonus and KL penalty of PPO."""
        unrolling = Unrolling(self.policy, rows)
        actions, mask = unrolling.rows["actions"], unrolling.mask
        dist, values = self.policy(unrolling.rows)
        log_probs = unrolling.real(dist.log_prob(actions))
        values = unrolling.spread(values)
        with torch.no_grad():
            old_dist, _ = self.target.network(unrolling.rows)
            old_log_probs = unrolling.real(old_dist.log_prob(actions))
        age = torch.where(mask, old_log_probs - rows["log_probs"][:, :-1], 0.0)
        log_ratios = age if self.vtrace else torch.zeros_like(age)
        value_targets, advantages = self.estimate(
            rows, values, log_ratios, trace_lambda=self.gae_lambda
        )
        # min(worker / target, 2) * pi / worker: PPO's pi / pi_old, unless the target is far rarer.
        ratios = (-age).exp().clamp(max=LARGEST_WEIGHT) * (log_probs - old_log_probs + age).exp()
        clip_range = self.scheduled("clip_range")
        clipped = ratios.clamp(1.0 - clip_range, 1.0 + clip_range)
        policy_loss = -unrolling.mean(torch.min(ratios * advantages, clipped * advantages))
        vf_loss = unrolling.mean((values[:, :-1] - value_targets).square() * mask)
        entropy = unrolling.mean(unrolling.real(dist.entropy()))
        kl = unrolling.mean(unrolling.real(old_dist.kl(dist)))
        loss = policy_loss + self.vf_coeff * vf_loss - self.scheduled("entropy_coeff") * entropy
        if self.use_kl_loss:
            loss = loss + self.current_kl_coeff * kl
        is_clipped = ((ratios - 1.0).abs() > clip_range) & mask
        return loss, {
            "policy_loss": policy_loss.detach(),
            "vf_loss": vf_loss.detach(),
            "entropy": entropy.detach(),
            "vf_explained_var": explained_variance(
                values.detach()[:, :-1][mask], value_targets[mask]
            ),
            "kl": kl.detach(),
            "clip_fraction": unrolling.mean(is_clipped),
        }

    def on_weights_set(self) -> None:
        self.target.follow()

    def unknown_metrics(self) -> dict[str, float]:
        return dict.fromkeys((*METRICS, "kl", "clip_fraction"), float("nan"))

    def state_dict(self) -> dict[str, Any]:
        target = {"target": self.target.state_dict(), "kl_coeff": self.current_kl_coeff}
        return {**super().state_dict(), **target}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.target.load_state_dict(state["target"])
        self.current_kl_coeff = float(state["kl_coeff"])
