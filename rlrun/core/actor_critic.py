"""The policy of the policy gradient family: a distribution over actions, and a state value."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlrun.core.batch import Batch
from rlrun.core.distributions import Distribution
from rlrun.core.family import make_family
from rlrun.core.heads import make_heads
from rlrun.core.masks import action_mask
from rlrun.core.networks import Model
from rlrun.core.policy import Extras, Policy, Previous, State
from rlrun.core.recurrent import RecurrentActorCritic
from rlrun.core.stack import Stack, in_float32


def make_actor_critic(
    obs_space: spaces.Box, action_space: spaces.Space, model: Model
) -> ActorCritic | RecurrentActorCritic:
    """The actor-critic that `model` asks for, with fresh weights from torch's global generator."""
    if model.has_memory:
        return RecurrentActorCritic(obs_space, action_space, model)
    return ActorCritic(obs_space, action_space, model)


class ActorCritic(Policy):
    """A distribution over actions and a state value (PPO and its relatives)."""

    def __init__(self, obs_space: spaces.Box, action_space: spaces.Space, model: Model) -> None:
        super().__init__(obs_space, action_space)
        self.family = make_family(action_space, model)
        self.action_mask = action_mask(obs_space, action_space)
        self.pi_encoder: Any = model.encoder(obs_space)
        self.vf_encoder: Any = None if model.vf_share_layers else model.encoder(obs_space)
        self.pi_head, self.vf_head, self.log_std = make_heads(
            self.family, model, self.pi_encoder.output_size
        )
        self._shared: Stack | None = None
        if self.vf_encoder is None:
            self._shared = Stack(self, "pi_encoder")
            self._pi, self._vf = Stack(self, "pi_head"), Stack(self, "vf_head")
        else:
            self._pi = Stack(self, "pi_encoder", "pi_head")
            self._vf = Stack(self, "vf_encoder", "vf_head")

    def forward(self, rows: Batch) -> tuple[Distribution, torch.Tensor]:
        """The distribution over actions and the state values [N], or [S, L] of sequences."""
        # Without the 5 us that a module's call takes.
        features = self.observation_filter.forward(rows["obs"])
        if self._shared is not None:
            features = self._shared(features)
        outputs, values = in_float32(self._pi(features)), in_float32(self._vf(features))
        if self.action_mask is not None:
            outputs = self.action_mask(outputs, rows["obs"])
        return self.family(outputs, self.log_std), values.squeeze(-1)

    def decide(self, rows: Batch) -> tuple[Distribution, dict[str, torch.Tensor]]:
        return self.forward(rows)[0], {}

    def dist_of(self, inputs: torch.Tensor) -> Distribution:
        return self.family(inputs)

    def act(
        self,
        obs: np.ndarray,
        state: State | None = None,
        previous: Previous | None = None,
        explore: bool = True,
    ) -> tuple[Distribution, Extras, State]:
        """The values of the states are its extras, and there is no state after it."""
        features = self._features(obs)
        outputs, values = self._pi.act(features), self._vf.act(features)
        if self.action_mask is not None:
            outputs = self.action_mask(outputs, obs)
        log_std = None if self.log_std is None else self.log_std.detach().cpu().numpy()
        return self.family(outputs, log_std), {"values": values[:, 0]}, {}

    def values(
        self, obs: np.ndarray, state: State | None = None, previous: Previous | None = None
    ) -> np.ndarray:
        return self._vf.act(self._features(obs))[:, 0]

    def _features(self, obs: np.ndarray) -> np.ndarray:
        filtered = self.observation_filter.act(obs)
        return filtered if self._shared is None else self._shared.act(filtered)
