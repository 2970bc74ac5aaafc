"""Soft actor-critic (Haarnoja et al., 2018b, arXiv:1812.05905), with discrete actions too
(Christodoulou, 2019, arXiv:1910.07207)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from gymnasium import spaces

from rlrun.algos.off_policy import OffPolicy
from rlrun.core import losses, soft_q
from rlrun.core.actor_with_critics import ActorWithCritics, check_box, check_policy_box
from rlrun.core.algorithm import check_range
from rlrun.core.batch import Batch
from rlrun.core.distribution_base import Distribution
from rlrun.core.distributions import Categorical
from rlrun.core.errors import ConfigError
from rlrun.core.networks import Model
from rlrun.core.optim import FlatAdam
from rlrun.core.policy import Policy
from rlrun.core.schedules import ScheduleLike, check_schedule_range
from rlrun.core.squashed_gaussian import SquashedGaussian
from rlrun.core.target import Target
from rlrun.core.temperature import Temperature

AUTO_SHARE = 0.98
"""Of the largest entropy of discrete actions, what `target_entropy: auto` asks for (Christodoulou,
2019, sec. 5)."""


@dataclass(kw_only=True)
class SAC(OffPolicy):
    """Maximum-entropy actor-critic from replay: twin critics, a target of these, a temperature that
    finds itself. Defaults are the paper's (table 1).

    Boxes take a squashed Gaussian, Discrete actions a categorical whose expectations are summed
    over all actions.
    """

    lr: ScheduleLike = field(default=0.0, init=False)
    """No key of this algorithm: its three parts have their own."""
    actor_lr: ScheduleLike = 3e-4
    """Adam step size of the actor, or a schedule over env steps."""
    critic_lr: ScheduleLike = 3e-4
    """That of the critics."""
    entropy_lr: ScheduleLike = 3e-4
    """That of log(alpha); 0 keeps alpha as it is."""
    initial_alpha: float = 1.0
    """The temperature at the start: what a nat of entropy is worth in reward."""
    target_entropy: float | Literal["auto"] = "auto"
    """Nats that alpha keeps the policy's entropy at; auto: -1 for each dimension of a Box (the
    paper, app. D), 0.98 log(n) for n discrete actions."""
    twin_q: bool = True
    """Whether there are two critics, the lower of which counts (sec. 6), or one."""
    actor_hiddens: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the actor's layers after the model's encoder."""
    critic_hiddens: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of each critic's, which take the encoder's features and the action."""
    rollout_fragment_length: int | Literal["auto"] = 1
    """Env steps between updates, per env."""

    built_in = OffPolicy.built_in | {
        "initial_alpha",
        "target_entropy",
        "twin_q",
        "actor_hiddens",
        "critic_hiddens",
    }
    model_fields = frozenset({"vf_share_layers"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("actor_lr", "critic_lr", "entropy_lr"):
            check_schedule_range(f"algo.{name}", getattr(self, name), low=0.0)
        check_range("initial_alpha", self.initial_alpha, low=1e-8)
        for name in ("actor_hiddens", "critic_hiddens"):
            if any(width < 1 for width in getattr(self, name)):
                raise ConfigError(
                    f"algo.{name}={getattr(self, name)}: every width must be at least 1."
                )

    def check_spaces(self, obs_space: spaces.Box, action_space: spaces.Space, env: str) -> None:
        if not isinstance(action_space, spaces.Discrete):
            check_box(action_space, env, "sac")

    # On the workers

    def make_policy(
        self, obs_space: spaces.Box, action_space: spaces.Space, model: Model
    ) -> Policy:
        distribution: type[Distribution] = SquashedGaussian
        if isinstance(action_space, spaces.Discrete):
            distribution, num_outputs = Categorical, int(action_space.n)
        else:
            num_outputs = 2 * check_policy_box(action_space).shape[0]
        return ActorWithCritics(
            obs_space,
            action_space,
            model,
            distribution=distribution,
            num_outputs=num_outputs,
            actor_hiddens=self.actor_hiddens,
            critic_hiddens=self.critic_hiddens,
            num_critics=2 if self.twin_q else 1,
        )

    # The learner

    def setup(self, policy: Policy, device: torch.device, seed: int) -> None:
        super().setup(policy, device, seed)
        self.actor_optimizer = FlatAdam(
            self.network.flat, self.network.actor, eps=self.adam_epsilon
        )
        self.target_critics = cast(ActorWithCritics, self.target.network).critics
        self.temperature = Temperature(
            self.initial_alpha, self._target_entropy(), device, self.adam_epsilon
        )

    @property
    def network(self) -> ActorWithCritics:
        """The policy as what it is."""
        return cast(ActorWithCritics, self.policy)

    def make_optimizer(self) -> FlatAdam:
        """That of the critics."""
        return FlatAdam(self.network.flat, self.network.critics, eps=self.adam_epsilon)

    def make_target(self) -> Target:
        return Target(
            self.policy,
            interval=self.target_network_update_freq,
            tau=self.tau,
            part=self.network.critics,
        )

    def update(self, rows: Batch) -> dict[str, Any]:
        """One step of the critics, then of the actor and of the temperature (algorithm 1)."""
        self.num_updates += 1
        observe = self.network.observation_filter.forward
        obs, next_obs = observe(rows["obs"]), observe(rows["next_obs"])
        alpha = self.temperature.alpha
        critic_metrics = self.update_critics(rows, obs, next_obs, alpha)
        actor_loss, negative_entropies = self.update_actor(obs, alpha)
        alpha_loss = self.temperature.update(negative_entropies, self.scheduled("entropy_lr"))
        return {
            **critic_metrics,
            "total_loss": critic_metrics["critic_loss"] + actor_loss,
            "actor_loss": actor_loss,
            "alpha_loss": alpha_loss,
            "alpha_value": alpha,
            "entropy": -negative_entropies,
        }

    def update_critics(
        self, rows: Batch, obs: torch.Tensor, next_obs: torch.Tensor, alpha: torch.Tensor
    ) -> dict[str, Any]:
        """One step towards r + discount * V(s'), the soft value of the target critics (eq. 5)."""
        with torch.no_grad():
            next_values, _ = soft_q.soft_values(
                self.network, self.target_critics, next_obs, alpha, self.rng
            )
            targets = rows["rewards"] + rows["discounts"] * next_values
        q_values = self._q_of_actions(obs, rows["actions"])
        loss = losses.critic_loss(q_values, targets, rows.get("weights"))
        lr = self.scheduled("critic_lr")
        norm = self.optimizer.step(loss, lr, self.grad_clip)
        found = q_values.detach()
        return {
            "critic_loss": loss.detach(),
            "critic_grad_norm": norm,
            "cur_critic_lr": lr,
            "q": found[0],
            "td_error": (found - targets).abs().mean(0),
        }

    def update_actor(
        self, obs: torch.Tensor, alpha: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One step towards higher soft values (eq. 9); returns the loss, and the policy's negative
        entropies [N] before it."""
        values, negative_entropies = soft_q.soft_values(
            self.network, self.network.critics.fixed, obs, alpha, self.rng
        )
        loss = -values.mean()
        self.actor_optimizer.step(loss, self.scheduled("actor_lr"), self.grad_clip)
        return loss.detach(), negative_entropies.detach()

    def _q_of_actions(self, obs: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """[critics, N]"""
        if not self.network.is_discrete:
            return self.network.critics(obs, actions)
        q_values = self.network.critics(obs)
        chosen = actions.view(1, -1, 1).expand(len(q_values), -1, 1)
        return q_values.gather(2, chosen).squeeze(2)

    def _target_entropy(self) -> float:
        if self.target_entropy != "auto":
            return self.target_entropy
        space = self.policy.action_space
        if isinstance(space, spaces.Discrete):
            return AUTO_SHARE * math.log(int(space.n))
        assert space.shape is not None
        return -float(space.shape[0])

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "actor_optimizer": self.actor_optimizer.state_dict(),
            "temperature": self.temperature.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.actor_optimizer.load_state_dict(state["actor_optimizer"])
        self.temperature.load_state_dict(state["temperature"])

    def stats(self) -> dict[str, Any]:
        return {**super().stats(), "target_entropy": self.temperature.target_entropy}

    def unknown_metrics(self) -> dict[str, float]:
        vectors = [
            f"{kind}_{name}"
            for name in ("q", "td_error", "entropy")
            for kind in ("mean", "min", "max")
        ]
        names = ("total_loss", "critic_loss", "actor_loss", "alpha_loss", "alpha_value")
        rest = ("critic_grad_norm", "cur_critic_lr")
        return dict.fromkeys((*names, *rest, *vectors), math.nan)
