"""The actor-critic with a memory between encoder and heads: what PPO and its relatives learn where
an observation does not tell all (Hausknecht & Stone, 2015, arXiv:1507.06527)."""

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
from rlrun.core.stack import Stack


class RecurrentActorCritic(Policy):
    """A distribution over actions and a state value, of all that was observed in an episode.

    Policy and value function share encoder and memory, or each have their own; then the names of
    the second one's state begin with `vf_`.
    """

    def __init__(self, obs_space: spaces.Box, action_space: spaces.Space, model: Model) -> None:
        super().__init__(obs_space, action_space)
        self.family = make_family(action_space, model)
        self.action_mask = action_mask(obs_space, action_space)
        self.max_seq_len = model.max_seq_len
        self.previous_encoder = PreviousEncoder(
            action_space, model.uses_prev_action, model.uses_prev_reward
        )
        self.uses_previous = model.uses_prev_action or model.uses_prev_reward
        prefixes = ("pi",) if model.vf_share_layers else ("pi", "vf")
        for prefix in prefixes:
            encoder: Any = model.encoder(obs_space)
            memory = model.memory(encoder.output_size + self.previous_encoder.output_size)
            setattr(self, f"{prefix}_encoder", encoder)
            setattr(self, f"{prefix}_memory", memory)
        self.pi_head, self.vf_head, log_std = make_heads(self.family, model, memory.output_size)
        self.log_std = log_std
        self._trunks = [_Trunk(self, prefix) for prefix in prefixes]
        self._pi, self._vf = Stack(self, "pi_head"), Stack(self, "vf_head")

    def initial_state(self, num_rows: int) -> State:
        states = [trunk.initial_state(num_rows) for trunk in self._trunks]
        return {name: part for state in states for name, part in state.items()}

    def act(
        self,
        obs: np.ndarray,
        state: State | None = None,
        previous: Previous | None = None,
        explore: bool = True,
    ) -> tuple[Distribution, Extras, State]:
        """Each trunk steps on from its own part of the state."""
        filtered, before, state = self._inputs(obs, state, previous)
        steps = [trunk.act(filtered, before, state) for trunk in self._trunks]
        outputs = self._pi.act(steps[0][0])
        values = self._vf.act(steps[-1][0])
        if self.action_mask is not None:
            outputs = self.action_mask(outputs, obs)
        log_std = None if self.log_std is None else self.log_std.detach().cpu().numpy()
        after = {name: part for _, parts in steps for name, part in parts.items()}
        return self.family(outputs, log_std), {"values": values[:, 0]}, after

    def values(
        self, obs: np.ndarray, state: State | None = None, previous: Previous | None = None
    ) -> np.ndarray:
        features, _ = self._trunks[-1].act(*self._inputs(obs, state, previous))
        return self._vf.act(features)[:, 0]

    def forward(self, rows: Batch) -> tuple[Distribution, torch.Tensor]:
        """The distribution over actions and the state values, [S, L] of sequences (whatever their
        `mask` says: every step is a step), or [N] of steps with a state each."""
        obs = self.observation_filter.forward(rows["obs"])
        before = None
        if self.uses_previous:
            rows.require("prev_actions", "prev_rewards")
            before = self.previous_encoder(rows["prev_actions"], rows["prev_rewards"])
        are_steps = obs.dim() == 1 + len(self.obs_space.shape)
        if are_steps:
            obs, before = obs.unsqueeze(1), None if before is None else before.unsqueeze(1)
        features = [trunk(obs, before, rows) for trunk in self._trunks]
        outputs, values = self._pi(features[0]), self._vf(features[-1]).squeeze(-1)
        if are_steps:
            outputs, values = outputs.squeeze(1), values.squeeze(1)
        if self.action_mask is not None:
            outputs = self.action_mask(outputs, rows["obs"])
        return self.family(outputs, self.log_std), values

    @property
    def runs_in_numpy(self) -> bool:
        return super().runs_in_numpy and all(trunk.runs_in_numpy for trunk in self._trunks)

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


class _Trunk:
    """An encoder and the memory behind it: the modules `<prefix>_encoder` and `<prefix>_memory` of
    a policy, as they are at the time."""

    def __init__(self, owner: RecurrentActorCritic, prefix: str) -> None:
        self.owner = owner
        self.encoder = Stack(owner, f"{prefix}_encoder")
        self.memory_name = f"{prefix}_memory"
        self.state_prefix = "" if prefix == "pi" else f"{prefix}_"

    @property
    def memory(self) -> Memory:
        return getattr(self.owner, self.memory_name)

    @property
    def runs_in_numpy(self) -> bool:
        return self.encoder.runs_in_numpy and self.memory.runs_in_numpy

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

    def __call__(self, obs: torch.Tensor, before: torch.Tensor | None, rows: Batch) -> torch.Tensor:
        """Filtered obs [S, L, ...] -> features [S, L, output_size]."""
        features = self.encoder(obs.flatten(0, 1)).unflatten(0, obs.shape[:2])
        if before is not None:
            features = torch.cat([features, before], -1)
        memory = self.memory
        columns = [f"{STATE}{self.state_prefix}{name}" for name in memory.state_names]
        rows.require(*columns)
        state = dict(zip(memory.state_names, map(rows.__getitem__, columns), strict=True))
        return memory(features, state)

    def _named(self, state: State) -> State:
        return {f"{self.state_prefix}{name}": part for name, part in state.items()}


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
