"""Policies with a memory between encoder and heads, for where an observation does not tell all
(Hausknecht & Stone, 2015, arXiv:1507.06527): what they share, and the actor-critic of PPO and its
relatives. `core/recurrent_q.py` has the action values of R2D2."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlrun.core.action_encoder import ActionEncoder
from rlrun.core.batch import STATE, Batch
from rlrun.core.distributions import Distribution
from rlrun.core.family import make_family
from rlrun.core.heads import make_heads
from rlrun.core.masks import action_mask
from rlrun.core.memory import Memory
from rlrun.core.networks import Model
from rlrun.core.policy import Extras, Policy, Previous, State
from rlrun.core.stack import Stack, in_float32


class RecurrentPolicy(Policy):
    """A policy whose heads see what one or more trunks (an encoder, and a memory behind it) give.

    With several trunks, the names of the second one's state begin with its prefix.
    """

    def __init__(
        self,
        obs_space: spaces.Box,
        action_space: spaces.Space,
        model: Model,
        prefixes: tuple[str, ...],
        burn_in: int = 0,
    ) -> None:
        super().__init__(obs_space, action_space)
        self.action_mask = action_mask(obs_space, action_space)
        self.max_seq_len = model.max_seq_len
        self.burn_in = burn_in
        """First steps of the sequences of the column `overlaps` which only prepare the state of the
        memory (Kapturowski et al., 2019, sec. 3): no gradient passes from later ones to them."""
        self.previous_encoder = PreviousEncoder(
            action_space, model.uses_prev_action, model.uses_prev_reward
        )
        self.uses_previous = model.uses_prev_action or model.uses_prev_reward
        for prefix in prefixes:
            encoder: Any = model.encoder(obs_space)
            memory = model.memory(encoder.output_size + self.previous_encoder.output_size)
            setattr(self, f"{prefix}_encoder", encoder)
            setattr(self, f"{prefix}_memory", memory)
        self.memory_size = memory.output_size
        """Width of what a trunk gives."""
        self._trunks = [
            Trunk(self, prefix, f"{prefix}_" if index else "")
            for index, prefix in enumerate(prefixes)
        ]

    def initial_state(self, num_rows: int) -> State:
        states = [trunk.initial_state(num_rows) for trunk in self._trunks]
        return {name: part for state in states for name, part in state.items()}

    @property
    def runs_in_numpy(self) -> bool:
        return super().runs_in_numpy and all(trunk.memory.runs_in_numpy for trunk in self._trunks)

    def _stacks(self) -> list[Stack]:
        return [*super()._stacks(), *(trunk.encoder for trunk in self._trunks)]

    def step(
        self, obs: np.ndarray, state: State | None, previous: Previous | None
    ) -> tuple[list[np.ndarray], State]:
        """Observations [N, ...] -> the features [N, memory_size] of each trunk, and the state after
        them."""
        inputs = self._inputs(obs, state, previous)
        steps = [trunk.act(*inputs) for trunk in self._trunks]
        after = {name: part for _, parts in steps for name, part in parts.items()}
        return [features for features, _ in steps], after

    def step_in_torch(self, rows: Batch) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
        """What `step` gives, for rows of steps [N, ...] of torch tensors."""
        obs, before = self.observation_filter.forward(rows["obs"]), None
        if self.uses_previous:
            rows.require("prev_actions", "prev_rewards")
            before = self.previous_encoder(rows["prev_actions"], rows["prev_rewards"])
        steps = [trunk.step_in_torch(obs, before, rows) for trunk in self._trunks]
        after = {name: part for _, parts in steps for name, part in parts.items()}
        return [features for features, _ in steps], after

    def unroll(self, rows: Batch) -> list[torch.Tensor]:
        """The features of each trunk, [S, L, memory_size] of sequences (whatever their `mask` says:
        every step is a step), or [N, memory_size] of steps with a state each."""
        obs = self.observation_filter.forward(rows["obs"])
        before = None
        if self.uses_previous:
            rows.require("prev_actions", "prev_rewards")
            before = self.previous_encoder(rows["prev_actions"], rows["prev_rewards"])
        are_steps = obs.dim() == 1 + len(self.obs_space.shape)
        if are_steps:
            obs, before = obs.unsqueeze(1), None if before is None else before.unsqueeze(1)
        features = [trunk(obs, before, rows) for trunk in self._trunks]
        return [each.squeeze(1) for each in features] if are_steps else features

    def _inputs(
        self, obs: np.ndarray, state: State | None, previous: Previous | None
    ) -> tuple[np.ndarray, np.ndarray | None, State]:
        """What trunks act on: filtered observations, encoded actions and rewards, the state."""
        before = None
        if self.uses_previous:
            assert previous is not None, "uses_previous says that it is looked at"
            before = self.previous_encoder(previous.actions, previous.rewards)
        state = self.initial_state(len(obs)) if state is None else state
        return self.observation_filter.act(obs), before, state


class RecurrentActorCritic(RecurrentPolicy):
    """A distribution over actions and a state value, of all that was observed in an episode.

    Policy and value function share encoder and memory, or each have their own; then the names of
    the second one's state begin with `vf_`.
    """

    def __init__(self, obs_space: spaces.Box, action_space: spaces.Space, model: Model) -> None:
        family = make_family(action_space, model)
        prefixes = ("pi",) if model.vf_share_layers else ("pi", "vf")
        super().__init__(obs_space, action_space, model, prefixes)
        self.family = family
        self.pi_head, self.vf_head, self.log_std = make_heads(family, model, self.memory_size)
        self._pi, self._vf = Stack(self, "pi_head"), Stack(self, "vf_head")

    def act(
        self,
        obs: np.ndarray,
        state: State | None = None,
        previous: Previous | None = None,
        explore: bool = True,
    ) -> tuple[Distribution, Extras, State]:
        features, after = self.step(obs, state, previous)
        outputs, values = self._pi.act(features[0]), self._vf.act(features[-1])
        if self.action_mask is not None:
            outputs = self.action_mask(outputs, obs)
        log_std = None if self.log_std is None else self.log_std.detach().cpu().numpy()
        return self.family(outputs, log_std), {"values": values[:, 0]}, after

    def decide(self, rows: Batch) -> tuple[Distribution, dict[str, torch.Tensor]]:
        features, after = self.step_in_torch(rows)
        outputs = self._pi(features[0])
        if self.action_mask is not None:
            outputs = self.action_mask(outputs, rows["obs"])
        return self.family(outputs, self.log_std), after

    def dist_of(self, inputs: torch.Tensor) -> Distribution:
        return self.family(inputs)

    def values(
        self, obs: np.ndarray, state: State | None = None, previous: Previous | None = None
    ) -> np.ndarray:
        features, _ = self._trunks[-1].act(*self._inputs(obs, state, previous))
        return self._vf.act(features)[:, 0]

    def forward(self, rows: Batch) -> tuple[Distribution, torch.Tensor]:
        """The distribution over actions and the state values, [S, L] of sequences (whatever their
        `mask` says: every step is a step), or [N] of steps with a state each."""
        features = self.unroll(rows)
        outputs, values = in_float32(self._pi(features[0])), in_float32(self._vf(features[-1]))
        if self.action_mask is not None:
            outputs = self.action_mask(outputs, rows["obs"])
        return self.family(outputs, self.log_std), values.squeeze(-1)


class Trunk:
    """An encoder and the memory behind it: the modules `<prefix>_encoder` and `<prefix>_memory` of
    a policy, as they are at the time."""

    def __init__(self, owner: RecurrentPolicy, prefix: str, state_prefix: str) -> None:
        self.owner = owner
        self.encoder = Stack(owner, f"{prefix}_encoder")
        self.memory_name = f"{prefix}_memory"
        self.state_prefix = state_prefix

    @property
    def memory(self) -> Memory:
        return getattr(self.owner, self.memory_name)

    def initial_state(self, num_rows: int) -> State:
        """The memory's, by the policy's names."""
        return self._named(self.memory.initial_state(num_rows))

    def act(
        self, obs: np.ndarray, before: np.ndarray | None, state: State
    ) -> tuple[np.ndarray, State]:
        """Filtered obs [N, ...] -> features [N, output_size], and the state after them."""
        features = self.encoder.act(obs)
        if before is not None:
            features = np.concatenate([features, before], -1)
        memory = self.memory
        own = {name: state[f"{self.state_prefix}{name}"] for name in memory.state_names}
        features, own = memory.step(features, own)
        return features, self._named(own)

    def step_in_torch(
        self, obs: torch.Tensor, before: torch.Tensor | None, rows: Batch
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The same for torch tensors, with the state of the columns of `rows`."""
        features = self.encoder(obs)
        if before is not None:
            features = torch.cat([features, before], -1)
        features, after = self.memory.step_in_torch(features, self._state_in(rows))
        return features, {f"{self.state_prefix}{name}": part for name, part in after.items()}

    def __call__(self, obs: torch.Tensor, before: torch.Tensor | None, rows: Batch) -> torch.Tensor:
        """Filtered obs [S, L, ...] -> features [S, L, output_size]."""
        features = self.encoder(obs.flatten(0, 1)).unflatten(0, obs.shape[:2])
        if before is not None:
            features = torch.cat([features, before], -1)
        memory, state = self.memory, self._state_in(rows)
        if "overlaps" in rows and self.owner.burn_in:
            return burnt_in(memory, features, state, rows["overlaps"], self.owner.burn_in)
        return memory(features, state)

    def _state_in(self, rows: Batch) -> dict[str, torch.Tensor]:
        """The memory's state at the start of each row, by its own names."""
        names = self.memory.state_names
        columns = [f"{STATE}{self.state_prefix}{name}" for name in names]
        rows.require(*columns)
        return dict(zip(names, map(rows.__getitem__, columns), strict=True))

    def _named(self, state: State) -> State:
        return {f"{self.state_prefix}{name}": part for name, part in state.items()}


def burnt_in(
    memory: Memory,
    features: torch.Tensor,
    state: dict[str, torch.Tensor],
    overlaps: torch.Tensor,
    burn_in: int,
) -> torch.Tensor:
    """What `memory` gives for features [S, L, input_size], where the first `burn_in` steps of the
    sequences in the mask `overlaps` [S] only prepare its state: later steps send them no gradient.
    """
    if features.shape[1] <= burn_in:
        return memory(features, state)
    first, state = memory.unroll(features[:, :burn_in], state)
    for name, part in state.items():
        is_burnt = overlaps.reshape(-1, *[1] * (part.dim() - 1))
        state[name] = torch.where(is_burnt, part.detach(), part)
    return torch.cat([first, memory(features[:, burn_in:], state)], 1)


class PreviousEncoder:
    """What happened before an observation as a vector: the action (see `ActionEncoder`), and the
    reward as the last number."""

    def __init__(self, action_space: spaces.Space, use_action: bool, use_reward: bool) -> None:
        self.encode_action = ActionEncoder(action_space) if use_action else None
        self.use_reward = use_reward
        action_size = self.encode_action.output_size if self.encode_action else 0
        self.output_size = action_size + use_reward

    def __call__(self, actions: Any, rewards: Any) -> Any:
        """actions [..., k] (Discrete: [...]), rewards [...], NumPy or torch -> [..., output_size],
        float32."""
        parts = [] if self.encode_action is None else [self.encode_action(actions)]
        if self.use_reward:
            parts.append(rewards[..., None])
        if isinstance(rewards, torch.Tensor):
            return torch.cat(parts, -1)
        return np.concatenate(parts, -1, dtype=np.float32)
