"""Conservative Q-learning from data (Kumar et al., 2020, arXiv:2006.04779): CQL(H) on a soft
actor-critic."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from gymnasium import spaces

from rlrun.algos.off_policy_actor_critic import OffPolicyActorCritic, spread
from rlrun.core import conservative, losses, soft_q
from rlrun.core.actor_with_critics import check_box
from rlrun.core.batch import Batch
from rlrun.core.critics import ChosenValues
from rlrun.core.networks import Model
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_range, refuse_unused
from rlrun.core.schedules import ScheduleLike, check_schedule_range
from rlrun.core.soft_policy import entropy_to_hold, make_soft_policy
from rlrun.core.target import Target
from rlrun.core.temperature import Temperature

LARGEST_WEIGHT = 1e6
"""Of the conservative term, where its weight is learned; the authors' code cuts it there too."""


@dataclass(kw_only=True)
class CQL(OffPolicyActorCritic):
    """Critics that are pushed down on actions that the data do not show, and up on those that they
    do, so that an actor finds no value where nobody has been. At first the actor imitates.

    Boxes and Discrete actions; with the latter sums over actions are exact. Defaults are those of
    app. F; conf/algo/cql.yaml lists them.
    """

    actor_lr: ScheduleLike = 3e-5
    """Adam step size of the actor, or a schedule over rows read (app. F)."""
    entropy_lr: ScheduleLike = 3e-4
    """Adam step size of log(alpha), or a schedule; 0 keeps alpha as it is."""
    initial_alpha: float = 1.0
    """The temperature at the start: what a nat of entropy is worth in reward."""
    target_entropy: float | Literal["auto"] = "auto"
    """Nats that alpha keeps the policy's entropy at; auto: as in SAC."""
    actor_hiddens: list[int] = field(default_factory=lambda: [256, 256, 256])
    """Widths of the actor's layers after the model's encoder."""
    critic_hiddens: list[int] = field(default_factory=lambda: [256, 256, 256])
    """Widths of each critic's."""
    bc_iters: int = 20_000
    """Updates in which the actor imitates the data, before it follows the critics."""
    min_q_weight: float = 5.0
    """Weight of the conservative term (alpha of eq. 4)."""
    temperature: float = 1.0
    """Of the soft maximum over actions in that term."""
    num_actions: int = 10
    """Actions that are drawn for it from each of three distributions; Discrete ones are summed."""
    lagrangian: bool = False
    """Whether that term's weight is learned, so that it comes to `lagrangian_thresh` (eq. 30)."""
    lagrangian_thresh: float = 5.0
    """What `min_q_weight` times the difference of values may come to (tau of eq. 30)."""
    rollout_fragment_length: int | Literal["auto"] = "auto"
    """Rows that a worker reads before an update; auto: as many as one learns from."""
    learning_starts: int = 0
    """Rows read before the first update."""
    timesteps_per_iteration: int = 10_000

    built_in = OffPolicyActorCritic.built_in | {"initial_alpha", "target_entropy", "lagrangian"}
    needs_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_schedule_range("algo.entropy_lr", self.entropy_lr, low=0.0)
        check_range("initial_alpha", self.initial_alpha, low=1e-8)
        if self.entropy_lr == 0:
            refuse_unused(self, ("target_entropy",), "algo.entropy_lr=0 keeps alpha as it is")
        check_range("temperature", self.temperature, low=1e-8)
        for name in ("bc_iters", "min_q_weight", "lagrangian_thresh"):
            check_range(name, getattr(self, name), low=0.0)
        check_range("num_actions", self.num_actions, low=1)
        if not self.lagrangian:
            refuse_unused(self, ("lagrangian_thresh",), "algo.lagrangian=false")

    def check_spaces(self, obs_space: spaces.Box, action_space: spaces.Space, env: str) -> None:
        if not isinstance(action_space, spaces.Discrete):
            check_box(action_space, env, "cql")

    def make_policy(
        self, obs_space: spaces.Box, action_space: spaces.Space, model: Model
    ) -> Policy:
        if isinstance(action_space, spaces.Discrete):
            refuse_unused(self, ("num_actions",), "sums over Discrete actions are exact")
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
        self.entropy_weight = Temperature(self.initial_alpha, entropy, device, self.adam_epsilon)
        # The same dual step: up while what it weighs is above the threshold.
        self.multiplier: Temperature | None = None
        if self.lagrangian:
            thresh = self.lagrangian_thresh
            self.multiplier = Temperature(1.0, -thresh, device, self.adam_epsilon)

    def apply_hyperparameters(self) -> None:
        super().apply_hyperparameters()
        if getattr(self, "multiplier", None) is not None:
            self.multiplier.target_entropy = -self.lagrangian_thresh  # type: ignore[union-attr]

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
        alpha = self.entropy_weight.alpha
        metrics = self.update_critics(rows, obs, next_obs)
        actor_loss, negative_entropies = self.update_actor(rows, obs, alpha)
        alpha_loss = self.entropy_weight.update(negative_entropies, self.scheduled("entropy_lr"))
        return {
            **metrics,
            "total_loss": metrics["critic_loss"] + metrics["cql_loss"] + actor_loss,
            "actor_loss": actor_loss,
            "alpha_loss": alpha_loss,
            "alpha_value": alpha,
            "entropy": -negative_entropies,
        }

    def update_critics(
        self, rows: Batch, obs: torch.Tensor, next_obs: torch.Tensor
    ) -> dict[str, Any]:
        """One step on eq. 4: squared errors to r + discount * min Q'(s', a'), without entropy as in
        the authors' code, and the conservative term."""
        next_values = soft_q.soft_values(
            self.network,
            self.target_network.critics,
            next_obs,
            torch.zeros((), device=self.device),
            self.rng,
        )
        targets = rows["rewards"] + rows["discounts"] * next_values
        asked = self._ask(rows["actions"], obs, next_obs)
        gaps = self.min_q_weight * (asked.log_sums - asked.q_values).mean(1)
        weight, weight_metrics = self._weight_of(gaps)
        critic_loss = losses.critic_loss(asked.q_values, targets, rows.get("weights"))
        cql_loss = (weight * gaps).sum()
        by_log_sums = weight * self.min_q_weight / len(targets)
        gradient = asked.by_values(critic_loss.gradient - by_log_sums, by_log_sums)
        lr = self.scheduled("critic_lr")
        self.optimizer.backward(critic_loss.loss + cql_loss, gradient, asked.run.backward)
        norm = self.optimizer.apply_gradients(lr, self.grad_clip)
        return {
            "critic_loss": critic_loss.loss,
            "cql_loss": cql_loss,
            "critic_grad_norm": norm,
            "cur_critic_lr": lr,
            "q": asked.q_values[0],
            "td_error": critic_loss.errors.abs().mean(0),
            **weight_metrics,
        }

    def update_actor(
        self, rows: Batch, obs: torch.Tensor, alpha: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One step towards higher soft values, or in the first `bc_iters` updates towards the
        data's actions; returns the loss, and the policy's negative entropies [N] before it."""
        run = self.network.run_actor(obs)
        if self.num_updates <= self.bc_iters:
            loss, gradient, negative_entropies = soft_q.imitation_loss(
                self.network, run.outputs, rows["actions"], alpha, self.rng
            )
        else:
            loss, gradient, negative_entropies = soft_q.actor_loss(
                self.network, run.outputs, obs, alpha, self.rng
            )
        self.actor_optimizer.backward(loss, gradient, run.backward)
        self.actor_optimizer.move(self.scheduled("actor_lr"), self.grad_clip)
        return loss, negative_entropies

    def _ask(
        self, actions: torch.Tensor, obs: torch.Tensor, next_obs: torch.Tensor
    ) -> conservative.Asked:
        """What the critics think of the data's actions, and of all others."""
        critics = self.network.critics
        if self.network.is_discrete:
            run = critics.run(obs)
            chosen = ChosenValues(run, actions)
            log_sums = conservative.exact_log_sum(run.values, self.temperature)
            return conservative.Asked(run, chosen.values, *log_sums, chosen)
        proposals = conservative.propose(self.network, obs, next_obs, self.num_actions, self.rng)
        # In one pass: an encoder of images takes most of the time.
        run = critics.run(obs, torch.cat([proposals.actions, actions.unsqueeze(1)], 1))
        log_sums = conservative.sampled_log_sum(
            run.values[..., :-1], proposals.log_probs, self.temperature
        )
        return conservative.Asked(run, run.values[..., -1], *log_sums, None)

    def _weight_of(self, gaps: torch.Tensor) -> tuple[torch.Tensor | float, dict[str, Any]]:
        """The weight of the conservative terms [critics], which then follows them by one step."""
        if self.multiplier is None:
            return 1.0, {}
        weight = self.multiplier.alpha.clamp(max=LARGEST_WEIGHT)
        self.multiplier.update(gaps, self.scheduled("critic_lr"))
        return weight, {"lagrangian_weight": weight}

    def state_dict(self) -> dict[str, Any]:
        multiplier = None if self.multiplier is None else self.multiplier.state_dict()
        return {
            **super().state_dict(),
            "entropy_weight": self.entropy_weight.state_dict(),
            "multiplier": multiplier,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.entropy_weight.load_state_dict(state["entropy_weight"])
        if self.multiplier is not None:
            self.multiplier.load_state_dict(state["multiplier"])

    def stats(self) -> dict[str, Any]:
        return {**super().stats(), "target_entropy": self.entropy_weight.target_entropy}

    def unknown_metrics(self) -> dict[str, float]:
        names = ("total_loss", "critic_loss", "cql_loss", "actor_loss", "alpha_loss", "alpha_value")
        learned = ("lagrangian_weight",) if self.lagrangian else ()
        of_step = ("critic_grad_norm", "cur_critic_lr")
        vectors = spread("q", "td_error", "entropy")
        return dict.fromkeys((*names, *of_step, *learned, *vectors), math.nan)
