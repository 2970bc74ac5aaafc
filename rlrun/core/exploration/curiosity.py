"""Rewards for what the agent could not foretell of the effects of its actions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from rlrun.core.action_encoder import ActionEncoder
from rlrun.core.actions import Simplex
from rlrun.core.batch import Batch
from rlrun.core.distributions import DistributionFamily
from rlrun.core.errors import ConfigError, SpaceError
from rlrun.core.exploration.base import valid_steps
from rlrun.core.exploration.features import check_encoder, feature_net
from rlrun.core.exploration.intrinsic import IntrinsicReward, Learned
from rlrun.core.networks import Activation, Layers, Model, linear, mlp
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_not_negative


@dataclass(kw_only=True)
class Curiosity(IntrinsicReward):
    """The intrinsic curiosity module (Pathak et al., 2017, arXiv:1705.05363).

    An inverse model learns features of observations by telling from two of them the action between;
    a forward model foretells the next features. Its squared error, times eta / 2, is the reward
    (eq. 6). For actions that are no choices, the inverse model gives the mean of a Gaussian with
    standard deviation 1. Features learn from the inverse model alone (eq. 3): the forward model's
    error would be least if they all were the same.
    """

    feature_dim: int = 288
    """Width of the features."""
    feature_net_config: Model | None = None
    """Their network, a node like those of the group model; null: one layer of 256 for vectors,
    convolutions for images."""
    inverse_net_hiddens: list[int] = field(default_factory=lambda: [256])
    """Layers of the inverse model."""
    inverse_net_activation: Activation = "relu"
    """Non-linearity after each of them."""
    forward_net_hiddens: list[int] = field(default_factory=lambda: [256])
    """Layers of the forward model."""
    forward_net_activation: Activation = "relu"
    """Non-linearity after each of them."""
    beta: float = 0.2
    """Weight of the forward model's loss; the inverse model's has 1 - beta (eq. 7)."""
    eta: float = 1.0
    """What the reward is multiplied by."""
    lr: float = 1e-3
    """Adam step size of all three networks."""
    minibatch_size: int = 64
    """Steps of one update; each fragment is gone through once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "eta", "beta")
        check_not_negative(self, "lr", "feature_dim", "minibatch_size", exclusive=True)
        if self.beta > 1.0:
            raise ConfigError(f"exploration.beta={self.beta} must be between 0 and 1.")
        check_encoder("exploration.feature_net_config", self.feature_net_config)
        self.learned: Learned

    def check_space(self) -> None:
        space = self.action_space
        parts = space.spaces if isinstance(space, spaces.Tuple) else (space,)
        if any(isinstance(part, Simplex) for part in parts):
            raise SpaceError(
                f"exploration=curiosity cannot tell shares of a whole from observations, and the "
                f"action space is {space}. Try exploration=rnd or exploration=re3."
            )

    def make(self, policy: Policy) -> None:
        self.family = DistributionFamily(self.action_space)
        self.encode = ActionEncoder(self.action_space)
        size, num_log_stds = self.feature_dim, self.family.num_log_stds
        self.log_std = torch.zeros(num_log_stds) if num_log_stds else None
        num_inputs = self.family.num_inputs - num_log_stds
        inverse, forward = self.inverse_net_hiddens, self.forward_net_hiddens
        self.features = feature_net(policy.obs_space, self.feature_net_config, size)
        self.inverse = _with_head(2 * size, inverse, self.inverse_net_activation, num_inputs)
        self.forward = _with_head(
            size + self.encode.output_size, forward, self.forward_net_activation, size
        )
        modules = nn.ModuleList([self.features, self.inverse, self.forward])
        self.learned = Learned(modules, self.lr)

    def rewards(self, fragment: Batch, timestep: int) -> tuple[np.ndarray, dict[str, Any]]:
        valid = valid_steps(fragment)
        columns = (
            self.seen(fragment, "obs"),
            self.seen(fragment, "next_obs"),
            torch.from_numpy(np.ascontiguousarray(fragment["actions"][valid])),
        )
        with torch.no_grad():
            inverse_loss, errors = self.losses(*columns)

        def loss(index: torch.Tensor) -> torch.Tensor:
            of_inverse, of_forward = self.losses(*(column[index] for column in columns))
            return (1.0 - self.beta) * of_inverse + self.beta * of_forward.mean()

        self.learned.learn(loss, len(errors), self.minibatch_size, self.rng)
        numbers = {"inverse_loss": float(inverse_loss), "forward_loss": float(errors.mean())}
        return self.spread(fragment, self.eta * errors), numbers

    def losses(
        self, obs: torch.Tensor, next_obs: torch.Tensor, actions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(loss of the inverse model, half the squared errors of the forward model [N])."""
        features, next_features = self.features(torch.cat([obs, next_obs])).chunk(2)
        inputs = self.inverse(torch.cat([features, next_features], -1))
        inverse_loss = -self.family(inputs, self.log_std).log_prob(actions).mean()
        foretold = self.forward(torch.cat([features.detach(), self.encode(actions)], -1))
        errors = 0.5 * (foretold - next_features.detach()).square().sum(-1)
        return inverse_loss, errors

    def state_dict(self) -> dict[str, Any]:
        own = {} if self.policy is None else {"curiosity": self.learned.state_dict()}
        return super().state_dict() | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.policy is not None:
            self.learned.load_state_dict(state["curiosity"])


def _with_head(
    in_features: int, hiddens: list[int], activation: Activation, num_outputs: int
) -> Layers:
    layers = mlp(in_features, hiddens, activation)
    return Layers(*layers, linear(layers.output_size, num_outputs, gain=1.0))
