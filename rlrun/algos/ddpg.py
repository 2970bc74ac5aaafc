"""Deep deterministic policy gradient (Lillicrap et al., 2016, arXiv:1509.02971), with the three
parts of TD3 as switches (Fujimoto et al., 2018, arXiv:1802.09477)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlrun.algos.off_policy_actor_critic import OffPolicyActorCritic, spread
from rlrun.core import losses, soft_q
from rlrun.core.actor_with_critics import ActorWithCritics, box_width, check_box
from rlrun.core.batch import Batch
from rlrun.core.deterministic import Deterministic
from rlrun.core.errors import ConfigError
from rlrun.core.exploration import Exploration, OrnsteinUhlenbeckNoise, StochasticSampling
from rlrun.core.networks import Model
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_range, refuse_unused
from rlrun.core.schedules import ScheduleLike

LAST_BOUND = 3e-3
"""Within which the weights of last layers start, so that first actions and values are near 0
(Lillicrap et al., 2016, sec. 7)."""


@dataclass(kw_only=True)
class DDPG(OffPolicyActorCritic):
    """A deterministic actor that climbs its critic, both with targets. Defaults are the paper's
    (sec. 7), but for its batch normalisation, and its critics that see actions from their second
    layer on; algo=td3 has TD3's."""

    actor_lr: ScheduleLike = 1e-4
    """Adam step size of the actor, or a schedule over env steps."""
    critic_lr: ScheduleLike = 1e-3
    """That of the critics."""
    actor_hiddens: list[int] = field(default_factory=lambda: [400, 300])
    """Widths of the actor's layers after the model's encoder."""
    critic_hiddens: list[int] = field(default_factory=lambda: [400, 300])
    """Widths of each critic's, which take the encoder's features and the action."""
    twin_q: bool = False
    """Whether there are two critics, the lower of which counts (TD3, eq. 10), or one."""
    policy_delay: int = 1
    """Updates of the critics for each of the actor (TD3: 2, sec. 5.2)."""
    smooth_target_policy: bool = False
    """Whether the target's actions are blurred by noise (TD3, eq. 14)."""
    target_network_update_freq: int | None = None  # type: ignore[assignment]
    """Updates of the learner between updates of the targets, or env steps where tau is 1; null:
    they follow whenever the actor has moved (TD3, algorithm 1)."""
    target_noise: float = 0.2
    """Standard deviation of that noise, where actions reach from -1 to 1."""
    target_noise_clip: float = 0.5
    """What it is cut to."""
    use_huber: bool = False
    """Whether the critics' loss is Huber's in place of the squared error."""
    huber_threshold: float = 1.0
    """The error from which on Huber's loss grows linearly."""
    l2_reg: float = 1e-2
    """Weight decay of the critics, added to their gradient."""
    train_batch_size: int = 64
    """Rows of one update."""
    tau: float = 0.001

    built_in = OffPolicyActorCritic.built_in

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("policy_delay", self.policy_delay, low=1)
        for name in ("target_noise", "target_noise_clip", "l2_reg"):
            check_range(name, getattr(self, name), low=0.0)
        check_range("huber_threshold", self.huber_threshold, low=1e-8)
        if not self.smooth_target_policy:
            because = "algo.smooth_target_policy=false adds no noise"
            refuse_unused(self, {"target_noise", "target_noise_clip"}, because)
        if not self.use_huber:
            refuse_unused(self, {"huber_threshold"}, "algo.use_huber=false squares errors")

    def check_spaces(self, obs_space: spaces.Box, action_space: spaces.Space, env: str) -> None:
        check_box(action_space, env, "ddpg")

    def check_exploration(self, exploration: Exploration) -> None:
        if isinstance(exploration, StochasticSampling):
            raise ConfigError(
                "exploration=stochastic_sampling draws from the policy, and that of algo=ddpg is "
                "certain of its actions: nothing would be explored. Use "
                "exploration=gaussian_noise or exploration=ornstein_uhlenbeck_noise."
            )

    def natural_exploration(self) -> Exploration:
        return OrnsteinUhlenbeckNoise()

    def make_policy(
        self, obs_space: spaces.Box, action_space: spaces.Space, model: Model
    ) -> Policy:
        return ActorWithCritics(
            obs_space,
            action_space,
            model,
            distribution=squashed,
            num_outputs=box_width(action_space),
            actor_hiddens=self.actor_hiddens,
            critic_hiddens=self.critic_hiddens,
            num_critics=self.num_critics,
            last_bound=LAST_BOUND,
        )

    @property
    def target_interval(self) -> int:
        return self.target_network_update_freq or 1

    @property
    def target_count(self) -> int:
        if self.target_network_update_freq is not None:
            return super().target_count
        # That of the actor's last move.
        return self.num_updates - self.num_updates % self.policy_delay

    def update(self, rows: Batch) -> dict[str, Any]:
        """One step of the critics, and every `policy_delay`th time one of the actor (TD3, algorithm
        1)."""
        self.num_updates += 1
        obs, next_obs = self.observed(rows)
        metrics = self.update_critics(rows, obs, next_obs)
        if self.num_updates % self.policy_delay == 0:
            metrics["actor_loss"] = self.update_actor(obs)
        return metrics

    def update_critics(
        self, rows: Batch, obs: torch.Tensor, next_obs: torch.Tensor
    ) -> dict[str, Any]:
        """One step towards r + discount * min_i Q_i'(s', mu'(s') + noise)."""
        targets = self.targets(rows, next_obs)
        run = self.values_of(obs, rows["actions"])
        threshold = self.huber_threshold if self.use_huber else None
        loss, gradient, errors = losses.critic_loss(
            run.values, targets, rows.get("weights"), threshold
        )
        self.optimizer.backward(loss, gradient, run.backward)
        if self.l2_reg:
            self.optimizer.add_weight_decay(self.l2_reg)
        lr = self.scheduled("critic_lr")
        norm = self.optimizer.apply_gradients(lr, self.grad_clip)
        return {
            "total_loss": loss,
            "critic_loss": loss,
            "critic_grad_norm": norm,
            "cur_critic_lr": lr,
            "q": run.values[0],
            "td_error": errors.abs().mean(0),
        }

    @torch.no_grad()
    def targets(self, rows: Batch, next_obs: torch.Tensor) -> torch.Tensor:
        """What the critics are to become at `rows`, [N]."""
        next_actions = self.target_actions(next_obs)
        next_values = self.target_network.critics(next_obs, next_actions).amin(0)
        return rows["rewards"] + rows["discounts"] * next_values

    @torch.no_grad()
    def td_errors(self, rows: Batch) -> torch.Tensor:
        obs, next_obs = self.observed(rows)
        targets = self.targets(rows, next_obs)
        return (self.values_of(obs, rows["actions"]).values - targets).abs().mean(0)

    def target_actions(self, next_obs: torch.Tensor) -> torch.Tensor:
        """The target actor's actions [N, d], with noise where the target policy is smooth."""
        actions = self.target_network.dist(next_obs).inputs
        if not self.smooth_target_policy:
            return actions
        noise = soft_q.standard_normal(actions, self.rng) * self.target_noise
        limit = self.target_noise_clip
        return (actions + noise.clamp_(-limit, limit)).clamp_(-1.0, 1.0)

    def update_actor(self, obs: torch.Tensor) -> torch.Tensor:
        """One step up the first critic (DDPG, eq. 6); returns the loss, -mean Q."""
        run = self.network.run_actor(obs)
        with torch.no_grad():
            actions = self.network.distribution(run.outputs).inputs
            values, by_actions = self.network.critics.run(obs, actions, num_critics=1).least()
        # `squashed` has the slope 1 - a^2.
        gradient = by_actions * (1.0 - actions * actions) / -len(actions)
        loss = -values.mean()
        self.actor_optimizer.backward(loss, gradient, run.backward)
        self.actor_optimizer.move(self.scheduled("actor_lr"), self.grad_clip)
        return loss

    def unknown_metrics(self) -> dict[str, float]:
        names = ("total_loss", "critic_loss", "actor_loss", "critic_grad_norm", "cur_critic_lr")
        return dict.fromkeys((*names, *spread("q", "td_error")), math.nan)


def squashed(outputs: Any) -> Deterministic:
    """The certain actions tanh(outputs), of NumPy arrays or torch tensors."""
    is_torch = isinstance(outputs, torch.Tensor)
    return Deterministic(outputs.tanh() if is_torch else np.tanh(outputs))
