"""The policy of DQN and its relatives: a value for each action."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from rlrun.core.batch import Batch
from rlrun.core.distributions import Categorical, Distribution
from rlrun.core.masks import action_mask
from rlrun.core.networks import Layers, Model, NoisyLinear
from rlrun.core.policy import Extras, Policy, Previous, State
from rlrun.core.policy_model import QModel
from rlrun.core.stack import Stack, in_float32


class QNetwork(Policy):
    """Action values Q(s, a) for Discrete actions, with the parts of Rainbow as switches
    (Hessel et al., 2018, arXiv:1710.02298).

    Dueling streams: Q = V + A - mean(A) (Wang et al., 2016, arXiv:1511.06581, eq. 9). With
    `num_atoms` > 1 a value distribution over a fixed support (Bellemare et al., 2017,
    arXiv:1707.06887), with `num_quantiles` > 1 one of equally likely values (Dabney et al., 2018,
    arXiv:1710.10044). With `noisy` the streams are noisy layers.
    """

    model_class = QModel
    support: torch.Tensor

    def __init__(
        self,
        obs_space: spaces.Box,
        action_space: spaces.Discrete,
        model: Model,
        *,
        hiddens: list[int],
        dueling: bool,
        noisy: bool,
        sigma0: float,
        num_atoms: int = 1,
        v_min: float = -10.0,
        v_max: float = 10.0,
        num_quantiles: int = 1,
    ) -> None:
        super().__init__(obs_space, action_space)
        self.num_actions = int(action_space.n)
        self.num_atoms = num_atoms
        self.num_outputs = max(num_atoms, num_quantiles)
        """Numbers for each action: its value, or what describes the distribution of it."""
        self.action_mask = action_mask(obs_space, action_space)
        self.encoder: Any = model.encoder(obs_space)
        features = self.encoder.output_size

        def stream(num_outputs: int) -> nn.Sequential:
            return make_stream(features, hiddens, num_outputs, sigma0 if noisy else None)

        self.advantage = stream(self.num_actions * self.num_outputs)
        self.value = stream(self.num_outputs) if dueling else None
        self.register_buffer("support", torch.linspace(v_min, v_max, num_atoms), persistent=False)
        self._shared: Stack | None = None
        if self.value is None:
            self._advantage = Stack(self, "encoder", "advantage")
        else:
            self._shared = Stack(self, "encoder")
            self._advantage, self._value = Stack(self, "advantage"), Stack(self, "value")

    def forward(self, rows: Batch) -> torch.Tensor:
        """Action values [N, num_actions] at `obs`; with atoms their logits [N, num_actions,
        num_atoms], with quantiles these [N, num_actions, num_quantiles]."""
        # Without the 5 us that a module's call takes.
        features = self.observation_filter.forward(rows["obs"])
        if self._shared is not None:
            features = self._shared(features)
        value = None if self.value is None else self._value(features)
        return in_float32(self._combine(self._advantage(features), value))

    def q_values(self, outputs: torch.Tensor) -> torch.Tensor:
        """Action values [N, num_actions] from what `forward` gave."""
        if self.num_outputs == 1:
            return outputs
        if self.num_atoms == 1:
            return outputs.mean(-1)
        return (outputs.softmax(-1) * self.support).sum(-1)

    def masked(self, q_values: Any, obs: Any) -> Any:
        """Action values [N, num_actions], with those lowest that must not be taken at `obs`."""
        return q_values if self.action_mask is None else self.action_mask(q_values, obs)

    def decide(self, rows: Batch) -> tuple[Distribution, dict[str, torch.Tensor]]:
        q_values = self.q_values(self.forward(rows))
        return Categorical(self.masked(q_values, rows["obs"])), {}

    def dist_of(self, inputs: torch.Tensor) -> Distribution:
        return Categorical(inputs)

    def from_features(self, features: torch.Tensor) -> torch.Tensor:
        """What `forward` gives, from features [N, width] of the encoder."""
        value = None if self.value is None else self.value(features)
        return self._combine(self.advantage(features), value)

    def act(
        self,
        obs: np.ndarray,
        state: State | None = None,
        previous: Previous | None = None,
        explore: bool = True,
    ) -> tuple[Distribution, Extras, State]:
        """The distribution is over values: its mode is the greedy action."""
        features = self.observation_filter.act(obs)
        if self._shared is not None:
            features = self._shared.act(features)
        value = None if self.value is None else self._value.act(features)
        outputs = self._combine(self._advantage.act(features), value)
        if self.num_outputs > 1:
            outputs = self.q_values(torch.from_numpy(outputs).to(self.support.device)).cpu().numpy()
        return Categorical(self.masked(outputs, obs)), {}, {}

    def _combine(self, advantage: Any, value: Any) -> Any:
        if self.num_outputs > 1:
            advantage = advantage.reshape(-1, self.num_actions, self.num_outputs)
            value = None if value is None else value.reshape(-1, 1, self.num_outputs)
        if value is None:
            return advantage
        return advantage + (value - advantage.mean(1, keepdims=True))


def make_stream(
    features: int, hiddens: list[int], num_outputs: int, sigma0: float | None = None
) -> nn.Sequential:
    """Layers of rectified units, from `features` to `num_outputs`; noisy ones with a `sigma0`."""

    def layer(width_in: int, width_out: int) -> nn.Module:
        if sigma0 is not None:
            return NoisyLinear(width_in, width_out, sigma0)
        return nn.Linear(width_in, width_out)

    layers: list[nn.Module] = []
    for width in hiddens:
        layers += [layer(features, width), nn.ReLU()]
        features = width
    return Layers(*layers, layer(features, num_outputs))
