"""Soft actor-critic (Haarnoja et al., 2018b, arXiv:1812.05905), with discrete actions too
(Christodoulou, 2019, arXiv:1910.07207)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from gymnasium import spaces

from rlrun.algos.off_policy_actor_critic import OffPolicyActorCritic, spread
from rlrun.core import losses, soft_q
from rlrun.core.actor_with_critics import check_box
from rlrun.core.batch import Batch
from rlrun.core.networks import Model
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_range, refuse_unused
from rlrun.core.schedules import ScheduleLike, check_schedule_range
from rlrun.core.soft_policy import entropy_to_hold, make_soft_policy
from rlrun.core.target import Target
from rlrun.core.temperature import Temperature


@dataclass(kw_only=True)
class SAC(OffPolicyActorCritic):
    """Maximum-entropy actor-critic from replay: twin critics, a target of these, a temperature that
    finds itself. Defaults are the paper's (table 1).

    Boxes take a squashed Gaussian, Discrete actions a categorical whose expectations are summed
    over all actions.
    """

    entropy_lr: ScheduleLike = 3e-4
    """Adam step size of log(alpha), or a schedule; 0 keeps alpha as it is."""
    initial_alpha: float = 1.0
    """The temperature at the start: what a nat of entropy is worth in reward."""
    target_entropy: float | Literal["auto"] = "auto"
    """Nats that alpha keeps the policy's entropy at; auto: -1 for each dimension of a Box (the
    paper, app. D), 0.98 log(n) for n discrete actions."""

    built_in = OffPolicyActorCritic.built_in | {"initial_alpha", "target_entropy"}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_schedule_range("algo.entropy_lr", self.entropy_lr, low=0.0)
        check_range("initial_alpha", self.initial_alpha, low=1e-8)
        if self.entropy_lr == 0:
            refuse_unused(self, ["target_entropy"], "algo.entropy_lr=0 keeps alpha as it is")

    def check_spaces(self, obs_space: spaces.Box, action_space: spaces.Space, env: str) -> None:
        if not isinstance(action_space, spaces.Discrete):
            check_box(action_space, env, "sac")

    def make_policy(
        self, obs_space: spaces.Box, action_space: spaces.Space, model: Model
    ) -> Policy:
        return make_soft_policy(
            obs_space,
            action_space,
            model,
            actor_hiddens=self.actor_hiddens,
            critic_hiddens=self.critic_hiddens,
            num_critics=self.num_critics,
        )

    def setup(self, policy: Policy, device: torch.device, seed: int) -> None:
        super().setup(policy, device, seed)
        entropy = entropy_to_hold(policy.action_space, self.target_entropy)
        self.temperature = Temperature(self.initial_alpha, entropy, device, self.adam_epsilon)

    def make_target(self) -> Target:
        return Target(
            self.policy,
            interval=self.target_interval,
            tau=self.tau,
            part=self.network.critics,
        )

    def update(self, rows: Batch) -> dict[str, Any]:
        """One step of the critics, then of the actor and of the temperature (algorithm 1)."""
        self.num_updates += 1
        obs, next_obs = self.observed(rows)
        alpha = self.temperature.alpha
        metrics = self.update_critics(rows, obs, next_obs, alpha)
        actor_loss, negative_entropies = self.update_actor(obs, alpha)
        alpha_loss = self.temperature.update(negative_entropies, self.scheduled("entropy_lr"))
        return {
            **metrics,
            "total_loss": metrics["critic_loss"] + actor_loss,
            "actor_loss": actor_loss,
            "alpha_loss": alpha_loss,
            "alpha_value": alpha,
            "entropy": -negative_entropies,
        }

    def update_critics(
        self, rows: Batch, obs: torch.Tensor, next_obs: torch.Tensor, alpha: torch.Tensor
    ) -> dict[str, Any]:
        """One step towards r + discount * V(s'), the soft value of the target critics (eq. 5)."""
        next_values = soft_q.soft_values(
            self.network, self.target_network.critics, next_obs, alpha, self.rng
        )
        targets = rows["rewards"] + rows["discounts"] * next_values
        run = self.values_of(obs, rows["actions"])
        loss, gradient, errors = losses.critic_loss(run.values, targets, rows.get("weights"))
        lr = self.scheduled("critic_lr")
        self.optimizer.backward(loss, gradient, run.backward)
        norm = self.optimizer.apply_gradients(lr, self.grad_clip)
        return {
            "critic_loss": loss,
            "critic_grad_norm": norm,
            "cur_critic_lr": lr,
            "q": run.values[0],
            "td_error": errors.abs().mean(0),
        }

    def update_actor(
        self, obs: torch.Tensor, alpha: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One step towards higher soft values (eq. 9); returns the loss, and the policy's negative
        entropies [N] before it."""
        run = self.network.run_actor(obs)
        loss, gradient, negative_entropies = soft_q.actor_loss(
            self.network, run.outputs, obs, alpha, self.rng
        )
        self.actor_optimizer.backward(loss, gradient, run.backward)
        self.actor_optimizer.move(self.scheduled("actor_lr"), self.grad_clip)
        return loss, negative_entropies

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "temperature": self.temperature.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.temperature.load_state_dict(state["temperature"])

    def stats(self) -> dict[str, Any]:
        return {**super().stats(), "target_entropy": self.temperature.target_entropy}

    def unknown_metrics(self) -> dict[str, float]:
        losses_ = ("total_loss", "critic_loss", "actor_loss", "alpha_loss", "alpha_value")
        names = (*losses_, "critic_grad_norm", "cur_critic_lr")
        return dict.fromkeys((*names, *spread("q", "td_error", "entropy")), math.nan)
