"""The policy of R2D2: a value for each action, of all that was observed in an episode."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlrun.core.batch import Batch
from rlrun.core.distributions import Categorical, Distribution
from rlrun.core.networks import Model
from rlrun.core.policy import Extras, Previous, State
from rlrun.core.q_network import make_stream
from rlrun.core.recurrent import RecurrentPolicy
from rlrun.core.stack import Stack, in_float32


class RecurrentQNetwork(RecurrentPolicy):
    """Action values Q(h, a) for Discrete actions, where h is what the model's memory holds.

    Dueling streams behind it: Q = V + A - mean(A) (Wang et al., 2016, arXiv:1511.06581, eq. 9).
    """

    def __init__(
        self,
        obs_space: spaces.Box,
        action_space: spaces.Discrete,
        model: Model,
        *,
        hiddens: list[int],
        dueling: bool,
        burn_in: int = 0,
    ) -> None:
        super().__init__(obs_space, action_space, model, ("q",), burn_in)
        self.advantage = make_stream(self.memory_size, hiddens, int(action_space.n))
        self._advantage = Stack(self, "advantage")
        self.value = self._value = None
        if dueling:
            self.value = make_stream(self.memory_size, hiddens, 1)
            self._value = Stack(self, "value")

    def forward(self, rows: Batch) -> torch.Tensor:
        """Action values [S, L, num_actions] of sequences (whatever their `mask` says), or
        [N, num_actions] of steps with a state each."""
        features = self.unroll(rows)[0]
        value = None if self._value is None else self._value(features)
        return in_float32(_combine(self._advantage(features), value))

    def decide(self, rows: Batch) -> tuple[Distribution, dict[str, torch.Tensor]]:
        (features,), after = self.step_in_torch(rows)
        value = None if self._value is None else self._value(features)
        q_values = _combine(self._advantage(features), value)
        return Categorical(self.masked(q_values, rows["obs"])), after

    def dist_of(self, inputs: torch.Tensor) -> Distribution:
        return Categorical(inputs)

    def act(
        self,
        obs: np.ndarray,
        state: State | None = None,
        previous: Previous | None = None,
        explore: bool = True,
    ) -> tuple[Distribution, Extras, State]:
        (features,), after = self.step(obs, state, previous)
        value = None if self._value is None else self._value.act(features)
        q_values = _combine(self._advantage.act(features), value)
        return Categorical(self.masked(q_values, obs)), {}, after

    def masked(self, q_values: Any, obs: Any) -> Any:
        """Action values [..., num_actions], with those lowest that must not be taken at `obs`."""
        return q_values if self.action_mask is None else self.action_mask(q_values, obs)


def _combine(advantage: Any, value: Any) -> Any:
    return advantage if value is None else advantage + (value - advantage.mean(-1, keepdims=True))
