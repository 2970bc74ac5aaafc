"""Policies: a network and the distribution over actions that it gives.

`act` is for workers (NumPy, no gradients), `forward` for learners (torch). Learner and workers each
have a policy of their own, also in one process; `copy_weights` brings the learner's to the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from rlrun.core.batch import Batch
from rlrun.core.distributions import Categorical, Distribution, DistributionFamily
from rlrun.core.filters import NoFilter
from rlrun.core.flat import FlatParameters
from rlrun.core.networks import Layers, Model, NoisyLinear, linear
from rlrun.core.stack import Stack

Extras = dict[str, np.ndarray]
"""What a policy gives beside its distribution, by column name: [N] or [N, ...] arrays."""

State = dict[str, np.ndarray]
"""What a policy with memory carries from step to step, by name: [N, ...] arrays; empty without."""


@dataclass(frozen=True)
class Previous:
    """What happened before an observation, for policies that look at it; zeros at a reset."""

    actions: np.ndarray
    """In the policy's own terms [N, ...]."""
    rewards: np.ndarray
    """[N], float32, as the algorithm sees them."""


class Policy(nn.Module):
    """Base of all policies. Observations come preprocessed; `act`, `values` and `forward` apply
    `observation_filter` to them, which a worker has put there before it asks for anything."""

    obs_space: spaces.Box
    action_space: spaces.Space
    uses_previous = False
    """Whether `act` and `forward` look at the previous action and reward."""
    max_seq_len = 20
    """Steps of the sequences that a policy with memory learns from."""

    def __init__(self, obs_space: spaces.Box, action_space: spaces.Space) -> None:
        super().__init__()
        self.obs_space = obs_space
        self.action_space = action_space
        self.observation_filter = NoFilter()
        self._flat: FlatParameters | None = None

    def initial_state(self, num_rows: int) -> State:
        """The state at the start of `num_rows` episodes, [num_rows, ...] arrays; empty without
        memory."""
        return {}

    def get_initial_state(self) -> State:
        """The state at the start of one episode, for compute_action: arrays without a row axis."""
        return {name: part[0] for name, part in self.initial_state(1).items()}

    def act(
        self,
        obs: np.ndarray,
        state: State | None = None,
        previous: Previous | None = None,
        explore: bool = True,
    ) -> tuple[Distribution, Extras, State]:
        """The distribution over actions at obs [N, *shape], over NumPy inputs, the extras, and the
        state [N, ...] after it (`state` None: that of an episode's start)."""
        raise NotImplementedError

    def values(
        self, obs: np.ndarray, state: State | None = None, previous: Previous | None = None
    ) -> np.ndarray:
        """State values [N], float32, for obs [N, *shape]; for algorithms that bootstrap."""
        raise NotImplementedError

    def forward(self, rows: Batch) -> Any:
        """What the learner needs, differentiable, for rows of steps [N, ...] or of sequences
        [S, L, ...] (with `mask` [S, L] and the states at their starts, `state_in/<name>`)."""
        raise NotImplementedError

    # Weights

    @property
    def flat(self) -> FlatParameters:
        """All weights as one vector, and their gradient as another."""
        if self._flat is None:
            self._flat = FlatParameters(self)
        return self._flat

    def copy_weights(self, other: Policy) -> None:
        """Take over weights and statistics of a policy of the same make."""
        other.flat.bind()
        self.flat.bind()
        self.flat.values.copy_(other.flat.values)
        for (mine, name), (theirs, _) in zip(self._statistics, other._statistics, strict=True):
            mine[name].copy_(theirs[name])

    @cached_property
    def _statistics(self) -> list[tuple[dict[str, Any], str]]:
        """Where the buffers lie that are part of the weights."""
        return [
            (module._buffers, name)
            for module in self.modules()
            for name, buffer in module._buffers.items()
            if buffer is not None and name not in module._non_persistent_buffers_set
        ]

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

    @property
    def runs_in_numpy(self) -> bool:
        """Whether acting needs no torch, and so wants the weights on the CPU."""
        stacks = [part for part in vars(self).values() if isinstance(part, Stack)]
        return bool(stacks) and all(stack.runs_in_numpy for stack in stacks)

    # Noise

    def draw_noise(self, rng: np.random.Generator, num_rows: int | None = None) -> None:
        """New noise in every noisy layer: one for all rows, or one for each of `num_rows`."""
        for layer in self.noisy_layers:
            layer.draw_noise(rng, num_rows)

    def mute_noise(self) -> None:
        """Noisy layers give their mean from now on, until noise is drawn."""
        for layer in self.noisy_layers:
            layer.use_noise = False

    @cached_property
    def noisy_layers(self) -> list[NoisyLinear]:
        """All noisy layers."""
        return [module for module in self.modules() if isinstance(module, NoisyLinear)]

    def __getstate__(self) -> dict[str, Any]:
        # Copies lay out vectors of their own, and look for layers of their own.
        cached = ("_statistics", "noisy_layers")
        state = {name: value for name, value in self.__dict__.items() if name not in cached}
        return state | {"_flat": None}


class ActorCritic(Policy):
    """A distribution over actions and a state value (PPO and its relatives)."""

    def __init__(self, obs_space: spaces.Box, action_space: spaces.Space, model: Model) -> None:
        super().__init__(obs_space, action_space)
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
        outputs, values = self._pi(features), self._vf(features)
        return self.family(outputs, self.log_std), values.squeeze(-1)

    def act(
        self,
        obs: np.ndarray,
        state: State | None = None,
        previous: Previous | None = None,
        explore: bool = True,
    ) -> tuple[Distribution, Extras, State]:
        features = self._features(obs)
        outputs, values = self._pi.act(features), self._vf.act(features)
        log_std = None if self.log_std is None else self.log_std.detach().cpu().numpy()
        return self.family(outputs, log_std), {"values": values[:, 0]}, {}

    def values(
        self, obs: np.ndarray, state: State | None = None, previous: Previous | None = None
    ) -> np.ndarray:
        return self._vf.act(self._features(obs))[:, 0]

    def _features(self, obs: np.ndarray) -> np.ndarray:
        filtered = self.observation_filter.act(obs)
        return filtered if self._shared is None else self._shared.act(filtered)


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
        super().__init__(obs_space, action_space)
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
            self._advantage = Stack(self, "encoder", "advantage")
        else:
            self._shared = Stack(self, "encoder")
            self._advantage, self._value = Stack(self, "advantage"), Stack(self, "value")

    def forward(self, rows: Batch) -> torch.Tensor:
        """Action values [N, num_actions] at `obs`; with atoms their logits [N, num_actions,
        num_atoms]."""
        # Without the 5 us that a module's call takes.
        features = self.observation_filter.forward(rows["obs"])
        if self._shared is not None:
            features = self._shared(features)
        value = None if self.value is None else self._value(features)
        return self._combine(self._advantage(features), value)

    def q_values(self, outputs: torch.Tensor) -> torch.Tensor:
        """Action values [N, num_actions] from what `forward` gave."""
        if self.num_atoms == 1:
            return outputs
        return (outputs.softmax(-1) * self.support).sum(-1)

    def act(
        self,
        obs: np.ndarray,
        state: State | None = None,
        previous: Previous | None = None,
        explore: bool = True,
    ) -> tuple[Distribution, Extras, State]:
        features = self.observation_filter.act(obs)
        if self._shared is not None:
            features = self._shared.act(features)
        value = None if self.value is None else self._value.act(features)
        outputs = self._combine(self._advantage.act(features), value)
        if self.num_atoms > 1:
            outputs = self.q_values(torch.from_numpy(outputs).to(self.support.device)).cpu().numpy()
        return Categorical(outputs), {}, {}

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
