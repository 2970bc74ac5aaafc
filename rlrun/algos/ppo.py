"""Proximal policy optimisation (Schulman et al., 2017, arXiv:1707.06347)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from gymnasium import spaces

from rlrun.algos import loops
from rlrun.core import losses
from rlrun.core.actor_critic import make_actor_critic
from rlrun.core.advantages import with_advantages
from rlrun.core.algorithm import Algorithm
from rlrun.core.batch import Batch
from rlrun.core.distributions import Distribution
from rlrun.core.errors import ConfigError
from rlrun.core.networks import Model
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_range, refuse_unused
from rlrun.core.schedules import ScheduleLike, check_schedule_range

MINIBATCH_METRICS = ("total_loss", "policy_loss", "vf_loss", "grad_norm")
"""What is measured in each gradient step, and reported as the mean of all of them."""


@dataclass(kw_only=True)
class PPO(Algorithm):
    """Clipped surrogate objective on generalised advantages, several epochs over each batch.

    Defaults are the paper's for MuJoCo (table 3), which conf/algo/ppo.yaml lists.
    """

    train_batch_size: int = 2048
    """Env steps gathered for each learn() (the horizon of table 3)."""
    rollout_fragment_length: int | Literal["auto"] = "auto"
    gae_lambda: float = 0.95
    """Decay of the advantage estimator: 0 is TD(0), 1 is Monte Carlo. Paper 0.95."""
    clip_range: ScheduleLike = 0.2
    """How far pi / pi_old may move before its gradient stops (eq. 7). Paper 0.2."""
    vf_clip_range: float | None = None
    """How far values may move from the sampled ones before the loss turns pessimistic."""
    vf_coeff: float = 0.5
    """Weight of the value loss (c_1 of eq. 9)."""
    entropy_coeff: ScheduleLike = 0.0
    """Weight of the entropy bonus (c_2 of eq. 9), or a schedule."""
    use_kl_loss: bool = False
    """Whether to add the adaptive KL penalty (sec. 4)."""
    kl_coeff: float = 0.2
    """Initial weight beta of the KL penalty."""
    kl_target: float = 0.01
    """KL per update toward which beta is adapted (d_targ of sec. 4)."""
    minibatch_size: int = 64
    """Rows of one gradient step."""
    num_epochs: int = 10
    """Passes over each train batch (K of algorithm 1)."""
    grad_clip: float | None = 0.5
    normalize_advantages: bool = True
    """Whether each minibatch's advantages get mean 0 and standard deviation 1."""
    adam_epsilon: float = 1e-5

    # The first decides on columns of steps that wait, the other is where adapting begins.
    built_in: ClassVar[frozenset[str]] = Algorithm.built_in | {"use_kl_loss", "kl_coeff"}
    loop = staticmethod(loops.on_policy)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("gae_lambda", self.gae_lambda, low=0.0, high=1.0)
        check_schedule_range("algo.clip_range", self.clip_range, low=0.0)
        check_schedule_range("algo.entropy_coeff", self.entropy_coeff, low=0.0)
        for name in ("vf_clip_range", "vf_coeff", "kl_coeff", "kl_target"):
            check_range(name, getattr(self, name), low=0.0)
        if not self.use_kl_loss:
            refuse_unused(self, ("kl_coeff", "kl_target"), "algo.use_kl_loss=false")
        check_range("num_epochs", self.num_epochs, low=1)
        check_range("minibatch_size", self.minibatch_size, low=2)
        if self.minibatch_size > self.train_batch_size:
            raise ConfigError(
                f"algo.minibatch_size={self.minibatch_size} exceeds "
                f"algo.train_batch_size={self.train_batch_size}. Lower it or raise "
                f"train_batch_size."
            )

    @property
    def rollout_columns(self) -> tuple[str, ...]:
        columns = ("log_probs", "values", "next_values")
        return (*columns, "dist_inputs") if self.use_kl_loss else columns

    def make_policy(
        self, obs_space: spaces.Box, action_space: spaces.Space, model: Model
    ) -> Policy:
        return make_actor_critic(obs_space, action_space, model)

    def postprocess(self, policy: Policy, trajectory: Batch) -> Batch:
        """Add `advantages` and `value_targets`; drop what the loss does not read."""
        return with_advantages(trajectory, self.gamma, self.gae_lambda)

    def setup(self, policy: Policy, device: torch.device, seed: int) -> None:
        super().setup(policy, device, seed)
        self.current_kl_coeff = self.kl_coeff

    def learn(self, rows: Batch) -> dict[str, Any]:
        """A step on each minibatch of every epoch; then what the whole update did."""
        history: list[torch.Tensor] = []
        for minibatch in self.minibatches(rows):
            metrics = self.compute_gradients(minibatch) | self.apply_gradients()
            history += [metrics[name] for name in MINIBATCH_METRICS]
        means = torch.stack(history).view(-1, len(MINIBATCH_METRICS)).mean(0).tolist()
        metrics |= dict(zip(MINIBATCH_METRICS, means, strict=True))
        metrics |= self._measure_update(rows)
        if self.use_kl_loss:
            self._adapt_kl_coeff(metrics["kl"])
        return metrics | {
            "cur_clip_range": self.scheduled("clip_range"),
            "entropy_coeff": self.scheduled("entropy_coeff"),
            "cur_kl_coeff": self.current_kl_coeff if self.use_kl_loss else 0.0,
        }

    def minibatches(self, rows: Batch) -> Iterator[Batch]:
        """The rows of each gradient step."""
        return rows.minibatches(self.minibatch_size, self.num_epochs, self.rng)

    def loss(self, rows: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        """Equation 9, with the KL penalty of section 4 where `use_kl_loss` asks for it."""
        dist, values = self.policy(rows)
        advantages = rows.real(rows["advantages"])
        if self.normalize_advantages:
            advantages = losses.normalized(advantages, advantages)
        policy_loss = losses.clipped_surrogate(
            rows.real(dist.log_prob(rows["actions"])),
            rows.real(rows["log_probs"]),
            advantages,
            self.scheduled("clip_range"),
        )
        vf_loss = losses.clipped_value_loss(
            rows.real(values),
            rows.real(rows["values"]),
            rows.real(rows["value_targets"]),
            self.vf_clip_range,
        )
        loss = policy_loss + self.vf_coeff * vf_loss
        entropy_coeff = self.scheduled("entropy_coeff")
        if entropy_coeff > 0.0:
            loss = loss - entropy_coeff * rows.real(dist.entropy()).mean()
        if self.use_kl_loss:
            loss = loss + self.current_kl_coeff * rows.real(self._old_dist(rows).kl(dist)).mean()
        return loss, {"policy_loss": policy_loss.detach(), "vf_loss": vf_loss.detach()}

    @torch.no_grad()
    def _measure_update(self, rows: Batch) -> dict[str, float]:
        """How far the whole update moved the policy on its train batch."""
        self.policy.eval()
        dist, _ = self.policy(rows)
        self.policy.train()
        log_ratios = rows.real(dist.log_prob(rows["actions"]) - rows["log_probs"])
        ratios = log_ratios.exp()
        if self.use_kl_loss:
            kl = rows.real(self._old_dist(rows).kl(dist)).mean()
        else:
            # Schulman (2020, joschu.net/blog/kl-approx.html): unbiased and never negative.
            kl = (ratios - 1.0 - log_ratios).mean()
        is_clipped = (ratios - 1.0).abs() > self.scheduled("clip_range")
        return {
            "kl": kl.item(),
            "entropy": rows.real(dist.entropy()).mean().item(),
            "clip_fraction": is_clipped.float().mean().item(),
            "vf_explained_var": float(
                losses.explained_variance(
                    rows.real(rows["values"]), rows.real(rows["value_targets"])
                )
            ),
        }

    def _old_dist(self, rows: Batch) -> Distribution:
        return self.policy.family(rows["dist_inputs"])  # type: ignore[operator]

    def _adapt_kl_coeff(self, kl: float) -> None:
        self.current_kl_coeff = losses.adapted_kl_coeff(self.current_kl_coeff, kl, self.kl_target)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "kl_coeff": self.current_kl_coeff}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.current_kl_coeff = float(state["kl_coeff"])
