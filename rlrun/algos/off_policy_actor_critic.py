"""What SAC, DDPG and their relatives share: an actor and critics, each with its own step size."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch

from rlrun.algos.off_policy import OffPolicy
from rlrun.core.actor_with_critics import ActorWithCritics
from rlrun.core.batch import Batch
from rlrun.core.critics import ChosenValues, CriticsPass
from rlrun.core.optim import FlatAdam
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_widths
from rlrun.core.schedules import ScheduleLike, check_schedule_range


@dataclass(kw_only=True)
class OffPolicyActorCritic(OffPolicy):
    """Base of actor-critics from replay, whose policy is an `ActorWithCritics`. An heir adds
    `make_policy` and `update`."""

    lr: ScheduleLike = field(default=0.0, init=False)
    """No key of these algorithms: their parts have their own."""
    actor_lr: ScheduleLike = 3e-4
    """Adam step size of the actor, or a schedule over env steps."""
    critic_lr: ScheduleLike = 3e-4
    """That of the critics."""
    actor_hiddens: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of the actor's layers after the model's encoder."""
    critic_hiddens: list[int] = field(default_factory=lambda: [256, 256])
    """Widths of each critic's, which take the encoder's features and the action."""
    twin_q: bool = True
    """Whether there are two critics, the lower of which counts (Fujimoto et al., 2018,
    arXiv:1802.09477, eq. 10), or one."""
    rollout_fragment_length: int | Literal["auto"] = 1
    """Env steps between updates, per env."""

    built_in = OffPolicy.built_in | {"actor_hiddens", "critic_hiddens", "twin_q"}
    model_fields = frozenset({"vf_share_layers"})
    switches = frozenset({"compile"})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("actor_lr", "critic_lr"):
            check_schedule_range(f"algo.{name}", getattr(self, name), low=0.0)
        for name in ("actor_hiddens", "critic_hiddens"):
            check_widths(f"algo.{name}", getattr(self, name))

    @property
    def num_critics(self) -> int:
        """Two, or one."""
        return 2 if self.twin_q else 1

    @property
    def network(self) -> ActorWithCritics:
        """The policy as what it is."""
        return cast(ActorWithCritics, self.policy)

    @property
    def target_network(self) -> ActorWithCritics:
        """Its target as what it is."""
        return cast(ActorWithCritics, self.target.network)

    def setup(self, policy: Policy, device: torch.device, seed: int) -> None:
        super().setup(policy, device, seed)
        self.actor_optimizer = FlatAdam(
            self.network.flat, self.network.actor, eps=self.adam_epsilon
        )

    def make_optimizer(self) -> FlatAdam:
        """That of the critics."""
        return FlatAdam(self.network.flat, self.network.critics, eps=self.adam_epsilon)

    def observed(self, rows: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """`obs` and `next_obs` as networks see them."""
        observe = self.network.observation_filter.forward
        return observe(rows["obs"]), observe(rows["next_obs"])

    def values_of(self, obs: torch.Tensor, actions: torch.Tensor) -> CriticsPass | ChosenValues:
        """The critics' values of actions that were taken."""
        if not self.network.is_discrete:
            return self.network.critics.run(obs, actions)
        return ChosenValues(self.network.critics.run(obs), actions)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "actor_optimizer": self.actor_optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.actor_optimizer.load_state_dict(state["actor_optimizer"])


def spread(*names: str) -> list[str]:
    """The names that a learner's vectors have in results."""
    return [f"{kind}_{name}" for name in names for kind in ("mean", "min", "max")]
