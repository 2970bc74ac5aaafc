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
from rlrun.core.distributions import Distribution
from rlrun.core.filters import NoFilter
from rlrun.core.flat import FlatParameters
from rlrun.core.networks import NoisyLinear
from rlrun.core.policy_model import PolicyModel, QueriedDistribution
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
    model_class: type[PolicyModel] = PolicyModel
    """What users look at it with."""
    wants_compile = False
    """Whether a learner is to run its layers through torch.compile."""
    uses_amp = False
    """Whether a learner is to compute its loss in bfloat16 where that is safe."""
    max_seq_len = 20
    """Steps of the sequences that a policy with memory learns from."""

    def __init__(self, obs_space: spaces.Box, action_space: spaces.Space) -> None:
        super().__init__()
        self.obs_space = obs_space
        self.action_space = action_space
        self._modules["observation_filter"] = NoFilter()
        self._flat: FlatParameters | None = None

    @property
    def observation_filter(self) -> NoFilter:
        """What observations go through first."""
        # In each step; the look that a module has for its parts takes ten times as long.
        return self._modules["observation_filter"]  # type: ignore[return-value]

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

    def decide(self, rows: Batch) -> tuple[Distribution, dict[str, torch.Tensor]]:
        """What `act` gives, in torch: the distribution over actions at rows of steps [N, ...] (with
        `state_in/<name>`, `prev_actions` and `prev_rewards` where the policy looks at them), and
        the state after them. For exports, and for users who look at the model."""
        raise NotImplementedError(f"{type(self).__name__} has no decide(rows).")

    # What users look at

    @cached_property
    def model(self) -> PolicyModel:
        """The network for its users: forward passes, state values, a summary."""
        return self.model_class(self)

    @property
    def dist_class(self) -> type[QueriedDistribution]:
        """The class of the policy's distributions, which has `sample`, `logp`, `entropy`, `kl`:
        policy.dist_class(policy.model.from_batch(batch)[0])."""
        return self.model.dist_class

    def dist_of(self, inputs: torch.Tensor) -> Distribution:
        """The distribution over actions that has these `inputs` [N, num_inputs]."""
        raise NotImplementedError(f"{type(self).__name__} has no dist_of(inputs).")

    def run_all_layers(self, rows: Batch) -> None:
        """A forward pass through every layer, for those who look on."""
        self.forward(rows)

    # Weights

    @property
    def flat(self) -> FlatParameters:
        """All weights as one vector, and their gradient as another."""
        if self._flat is None:
            self._flat = FlatParameters(self)
        return self._flat

    def copy_weights(self, other: Policy) -> None:
        """Take over weights and statistics of a policy of the same make."""
        mine, theirs = self.flat, other.flat
        theirs.bind()
        mine.bind()
        mine.values.copy_(theirs.values)
        self.copy_statistics(other)

    def copy_statistics(self, other: Policy) -> None:
        """Take over the buffers that are part of the weights: running statistics."""
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
        stacks = self._stacks()
        return bool(stacks) and all(stack.runs_in_numpy for stack in stacks)

    def compile_layers(self) -> None:
        """Let the layers of forward passes go through torch.compile from now on."""
        for stack in self._stacks():
            stack.compile()

    def _stacks(self) -> list[Stack]:
        return [part for part in vars(self).values() if isinstance(part, Stack)]

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
        cached = ("_statistics", "noisy_layers", "model")
        state = {name: value for name, value in self.__dict__.items() if name not in cached}
        return state | {"_flat": None}
