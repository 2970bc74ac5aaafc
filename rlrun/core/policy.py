"""Policies: a network and the distribution over actions that it gives.

One object serves both sides: `act` is for workers (NumPy, no gradients), `forward` for learners
(torch). With `num_workers=0` worker and learner hold the very same policy.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from rlrun.core.distributions import Categorical, Distribution, DistributionFamily
from rlrun.core.networks import Layers, Model, NoisyLinear, linear
from rlrun.core.stack import Stack

Extras = dict[str, np.ndarray]
"""What a policy gives beside its distribution, by column name: [N] or [N, ...] arrays."""


class Policy(nn.Module):
    """Base of all policies; observations are preprocessed and filtered already."""

    obs_space: spaces.Box
    action_space: spaces.Space

    def act(self, obs: np.ndarray, explore: bool = True) -> tuple[Distribution, Extras]:
        """The distribution over actions at obs [N, *shape], over NumPy inputs, and the extras."""
        raise NotImplementedError

    def values(self, obs: np.ndarray) -> np.ndarray:
        """State values [N], float32, for obs [N, *shape]; for algorithms that bootstrap."""
        raise NotImplementedError

    def resample_noise(self, rng: np.random.Generator) -> None:
        """Draw new noise in every noisy layer; nothing where there is none."""
        for layer in self.noisy_layers:
            layer.resample_noise(rng)

    def get_noise(self) -> list[torch.Tensor]:
        """Copies of the noise of every noisy layer."""
        return [n.clone() for layer in self.noisy_layers for n in (layer.noise_in, layer.noise_out)]

    def set_noise(self, noise: list[torch.Tensor]) -> None:
        """Put back what `get_noise` gave."""
        present = [n for layer in self.noisy_layers for n in (layer.noise_in, layer.noise_out)]
        for tensor, saved in zip(present, noise, strict=True):
            tensor.copy_(saved)

    @cached_property
    def noisy_layers(self) -> list[NoisyLinear]:
        """All noisy layers."""
        return [module for module in self.modules() if isinstance(module, NoisyLinear)]

    def get_weights(self) -> dict[str, np.ndarray]:
        """Parameters and buffers by name, as NumPy copies."""
        return {
            name: tensor.detach().cpu().numpy().copy() for name, tensor in self.state_dict().items()
        }

    def set_weights(self, weights: dict[str, Any]) -> None:
        """Copy `weights` into the memory of the present ones.

        Raises ValueError if they are those of another network.
        """
        present = self.state_dict()
        if present.keys() != weights.keys():
            differing = sorted(present.keys() ^ weights.keys())
            raise ValueError(f"the networks differ in {', '.join(differing[:4])}.")
        for name, tensor in present.items():
            if tuple(tensor.shape) != np.shape(weights[name]):
                raise ValueError(
                    f"{name} has the shape {tuple(np.shape(weights[name]))} there, and "
                    f"{tuple(tensor.shape)} in this network."
                )
        # Arrays from Ray and from mapped files are read-only, which torch warns of.
        writeable = {
            name: np.require(array, requirements="W") if isinstance(array, np.ndarray) else array
            for name, array in weights.items()
        }
        self.load_state_dict({name: torch.as_tensor(array) for name, array in writeable.items()})


class ActorCritic(Policy):
    """A distribution over actions and a state value (PPO and its relatives)."""

    def __init__(self, obs_space: spaces.Box, action_space: spaces.Space, model: Model) -> None:
        super().__init__()
        self.obs_space = obs_space
        self.action_space = action_space
        self.family = DistributionFamily(action_space)
        self.pi_encoder: Any = model.encoder(obs_space)
        self.vf_encoder: Any = None if model.vf_share_layers else model.encoder(obs_space)
        num_outputs = self.family.num_inputs
        self.log_std: nn.Parameter | None = None
        if isinstance(action_space, spaces.Box) and model.free_log_std:
            num_outputs //= 2
            self.log_std = nn.Parameter(torch.full((num_outputs,), model.log_std_init))
        features = self.pi_encoder.output_size
        # A small last layer makes the first policy nearly uniform (Andrychowicz et al., 2021,
        # arXiv:2006.05990, sec. 3.2).
        self.pi_head = linear(features, num_outputs, gain=0.01)
        self.vf_head = linear(features, 1, gain=1.0)
        self._shared: Stack | None = None
        if self.vf_encoder is None:
            self._shared = Stack(self.pi_encoder)
            self._pi, self._vf = Stack(self.pi_head), Stack(self.vf_head)
        else:
            self._pi = Stack(self.pi_encoder, self.pi_head)
            self._vf = Stack(self.vf_encoder, self.vf_head)

    def forward(self, obs: torch.Tensor) -> tuple[Distribution, torch.Tensor]:
        """The distribution over actions and the state values [N]."""
        features = obs if self._shared is None else self._shared(obs)
        outputs, values = self._pi(features), self._vf(features)
        return self.family(outputs, self.log_std), values.squeeze(-1)

    def act(self, obs: np.ndarray, explore: bool = True) -> tuple[Distribution, Extras]:
        features = obs if self._shared is None else self._shared.act(obs)
        outputs, values = self._pi.act(features), self._vf.act(features)
        log_std = None if self.log_std is None else self.log_std.detach().cpu().numpy()
        return self.family(outputs, log_std), {"values": values[:, 0]}

    def values(self, obs: np.ndarray) -> np.ndarray:
        features = obs if self._shared is None else self._shared.act(obs)
        return self._vf.act(features)[:, 0]


class QNetwork(Policy):
    """Action values Q(s, a) for Discrete actions, with the parts of Rainbow as switches
    (Hessel et al., 2018, arXiv:1710.02298).

    Dueling streams: Q = V + A - mean(A) (Wang et al., 2016, arXiv:1511.06581, eq. 9). With
    `num_atoms` > 1 a value distribution over a fixed support (Bellemare et al., 2017,
    arXiv:1707.06887). With `noisy` the streams are noisy layers.
    """

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
        num_atoms: int,
        v_min: float,
        v_max: float,
    ) -> None:
        super().__init__()
        self.obs_space = obs_space
        self.action_space = action_space
        self.num_actions = int(action_space.n)
        self.num_atoms = num_atoms
        self.encoder: Any = model.encoder(obs_space)
        features = self.encoder.output_size

        def stream(num_outputs: int) -> nn.Sequential:
            return _stream(features, hiddens, num_outputs, sigma0 if noisy else None)

        self.advantage = stream(self.num_actions * num_atoms)
        self.value = stream(num_atoms) if dueling else None
        self.register_buffer("support", torch.linspace(v_min, v_max, num_atoms), persistent=False)
        self._shared: Stack | None = None
        if self.value is None:
            self._advantage = Stack(self.encoder, self.advantage)
        else:
            self._shared = Stack(self.encoder)
            self._advantage, self._value = Stack(self.advantage), Stack(self.value)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Action values [N, num_actions]; with atoms their logits [N, num_actions, num_atoms]."""
        features = obs if self._shared is None else self._shared(obs)
        value = None if self.value is None else self._value(features)
        return self._combine(self._advantage(features), value)

    def q_values(self, outputs: torch.Tensor) -> torch.Tensor:
        """Action values [N, num_actions] from what `forward` gave."""
        if self.num_atoms == 1:
            return outputs
        return (outputs.softmax(-1) * self.support).sum(-1)

    def act(self, obs: np.ndarray, explore: bool = True) -> tuple[Distribution, Extras]:
        for layer in self.noisy_layers:
            layer.use_noise = explore
        features = obs if self._shared is None else self._shared.act(obs)
        value = None if self.value is None else self._value.act(features)
        outputs = self._combine(self._advantage.act(features), value)
        if self.num_atoms > 1:
            outputs = self.q_values(torch.from_numpy(outputs).to(self.support.device)).cpu().numpy()
        return Categorical(outputs), {}

    def _combine(self, advantage: Any, value: Any) -> Any:
        if self.num_atoms > 1:
            advantage = advantage.reshape(-1, self.num_actions, self.num_atoms)
            value = None if value is None else value.reshape(-1, 1, self.num_atoms)
        if value is None:
            return advantage
        return advantage + (value - advantage.mean(1, keepdims=True))


def _stream(
    features: int, hiddens: list[int], num_outputs: int, sigma0: float | None
) -> nn.Sequential:
    def layer(width_in: int, width_out: int) -> nn.Module:
        if sigma0 is not None:
            return NoisyLinear(width_in, width_out, sigma0)
        return nn.Linear(width_in, width_out)

    layers: list[nn.Module] = []
    for width in hiddens:
        layers += [layer(features, width), nn.ReLU()]
        features = width
    return Layers(*layers, layer(features, num_outputs))
