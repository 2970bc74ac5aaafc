"""Proximal policy optimisation (Schulman et al., 2017, arXiv:1707.06347)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces

from rlrun.algos import loops
from rlrun.core import losses, returns
from rlrun.core.algorithm import Algorithm, check_range
from rlrun.core.batch import Batch
from rlrun.core.distributions import Distribution
from rlrun.core.errors import ConfigError
from rlrun.core.networks import Model
from rlrun.core.optim import FlatAdam
from rlrun.core.policy import ActorCritic, Policy
from rlrun.core.schedules import ScheduleLike, check_schedule_range, make_schedule


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
    """Largest L2 norm of the gradient; null: unbounded."""
    normalize_advantages: bool = True
    """Whether each minibatch's advantages get mean 0 and standard deviation 1."""
    adam_epsilon: float = 1e-5
    """Adam's epsilon."""

    loop = staticmethod(loops.on_policy)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("gae_lambda", self.gae_lambda, low=0.0, high=1.0)
        check_schedule_range("algo.clip_range", self.clip_range, low=0.0)
        check_schedule_range("algo.entropy_coeff", self.entropy_coeff, low=0.0)
        for name in ("vf_clip_range", "vf_coeff", "kl_coeff", "kl_target", "grad_clip"):
            check_range(name, getattr(self, name), low=0.0)
        check_range("num_epochs", self.num_epochs, low=1)
        check_range("minibatch_size", self.minibatch_size, low=2)
        check_range("adam_epsilon", self.adam_epsilon, low=0.0)
        if self.minibatch_size > self.train_batch_size:
            raise ConfigError(
                f"algo.minibatch_size={self.minibatch_size} exceeds "
                f"algo.train_batch_size={self.train_batch_size}. Lower it or raise "
                f"train_batch_size."
            )
        self.clip_schedule = make_schedule(self.clip_range)
        self.entropy_schedule = make_schedule(self.entropy_coeff)

    @property
    def rollout_columns(self) -> tuple[str, ...]:
        return ("log_probs", "values", "dist_inputs")[: 3 if self.use_kl_loss else 2]

    def make_policy(
        self, obs_space: spaces.Box, action_space: spaces.Space, model: Model
    ) -> Policy:
        return ActorCritic(obs_space, action_space, model)

    def postprocess(self, policy: Policy, trajectory: Batch) -> Batch:
        """Add `advantages` and `value_targets`; drop what the loss does not read."""
        trajectory.require("obs", "rewards", "values", "next_obs", "terminated", "truncated")
        advantages, value_targets = returns.generalized_advantages(
            trajectory["rewards"],
            trajectory["values"],
            next_values(policy, trajectory),
            trajectory["terminated"],
            trajectory["truncated"],
            self.gamma,
            self.gae_lambda,
        )
        columns = ["obs", "actions", "log_probs", "values", "valid"]
        if self.use_kl_loss:
            columns.append("dist_inputs")
        kept = Batch({name: trajectory[name] for name in columns if name in trajectory})
        kept["advantages"] = advantages
        kept["value_targets"] = value_targets
        return kept

    def setup(self, policy: Policy, device: torch.device, seed: int) -> None:
        super().setup(policy, device, seed)
        self.current_kl_coeff = self.kl_coeff
        self.optimizer = FlatAdam(self.policy.parameters(), eps=self.adam_epsilon)

    def learn(self, batch: Batch) -> dict[str, Any]:
        lr = self.lr_schedule(self.timestep)
        clip_range = self.clip_schedule(self.timestep)
        entropy_coeff = self.entropy_schedule(self.timestep)
        rows = batch.to(self.device)
        history: list[torch.Tensor] = []
        for minibatch in rows.minibatches(self.minibatch_size, self.num_epochs, self.rng):
            if minibatch.num_rows < 2:
                continue  # One row has no standard deviation.
            loss, policy_loss, vf_loss = self._loss(minibatch, clip_range, entropy_coeff)
            grad_norm = self.optimizer.step(loss, lr, self.grad_clip)
            history += [loss.detach(), policy_loss.detach(), vf_loss.detach(), grad_norm]
        means = torch.stack(history).view(-1, 4).mean(0).tolist()
        names = ("total_loss", "policy_loss", "vf_loss", "grad_norm")
        metrics: dict[str, Any] = dict(zip(names, means, strict=True))
        metrics |= self._measure_update(rows, clip_range)
        if self.use_kl_loss:
            self._adapt_kl_coeff(metrics["kl"])
        return metrics | {
            "cur_lr": lr,
            "cur_clip_range": clip_range,
            "entropy_coeff": entropy_coeff,
            "cur_kl_coeff": self.current_kl_coeff if self.use_kl_loss else 0.0,
        }

    def _loss(
        self, batch: Batch, clip_range: float, entropy_coeff: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(loss, policy loss, value loss): equation 9 with the KL penalty of section 4."""
        dist, values = self.policy(batch["obs"])
        advantages = batch["advantages"]
        if self.normalize_advantages:
            std, mean = torch.std_mean(advantages)
            advantages = (advantages - mean) / (std + 1e-8)
        policy_loss = losses.clipped_surrogate(
            dist.log_prob(batch["actions"]), batch["log_probs"], advantages, clip_range
        )
        vf_loss = losses.clipped_value_loss(
            values, batch["values"], batch["value_targets"], self.vf_clip_range
        )
        loss = policy_loss + self.vf_coeff * vf_loss
        if entropy_coeff > 0.0:
            loss = loss - entropy_coeff * dist.entropy().mean()
        if self.use_kl_loss:
            loss = loss + self.current_kl_coeff * self._old_dist(batch).kl(dist).mean()
        return loss, policy_loss, vf_loss

    @torch.no_grad()
    def _measure_update(self, rows: Batch, clip_range: float) -> dict[str, float]:
        """How far the whole update moved the policy on its train batch."""
        dist, _ = self.policy(rows["obs"])
        log_ratios = dist.log_prob(rows["actions"]) - rows["log_probs"]
        ratios = log_ratios.exp()
        if self.use_kl_loss:
            kl = self._old_dist(rows).kl(dist).mean()
        else:
            # Schulman (2020, joschu.net/blog/kl-approx.html): unbiased and never negative.
            kl = (ratios - 1.0 - log_ratios).mean()
        return {
            "kl": kl.item(),
            "entropy": dist.entropy().mean().item(),
            "clip_fraction": ((ratios - 1.0).abs() > clip_range).float().mean().item(),
            "vf_explained_var": losses.explained_variance(
                rows["values"], rows["value_targets"]
            ).item(),
        }

    def _old_dist(self, rows: Batch) -> Distribution:
        return self.policy.family(rows["dist_inputs"])  # type: ignore[operator]

    def _adapt_kl_coeff(self, kl: float) -> None:
        """Section 4: halve or double the penalty when KL leaves [target / 1.5, 1.5 target]."""
        if kl > 1.5 * self.kl_target:
            self.current_kl_coeff *= 2.0
        elif kl < self.kl_target / 1.5:
            self.current_kl_coeff *= 0.5

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "kl_coeff": self.current_kl_coeff,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.current_kl_coeff = float(state["kl_coeff"])


def next_values(policy: Policy, trajectory: Batch) -> np.ndarray:
    """Value of the state after each step [T, B], of the real one where an episode was cut.

    Inside an episode that is the next row's value, which the policy has given already; only
    the last row and truncated ones are evaluated.
    """
    values = trajectory["values"]
    following = np.empty_like(values)
    following[:-1] = values[1:]
    needs_value = trajectory["truncated"].copy()
    needs_value[-1] = True
    following[needs_value] = policy.values(trajectory["next_obs"][needs_value])
    return following
