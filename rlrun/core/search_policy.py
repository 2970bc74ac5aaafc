"""The policy of ES and ARS: a network that says for certain what to do, without a state value."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlrun.core.batch import STATE, Batch
from rlrun.core.distribution_base import Array, Distribution
from rlrun.core.distributions import LOG_2PI, DistributionFamily
from rlrun.core.family import make_family
from rlrun.core.masks import action_mask
from rlrun.core.memory import Memory
from rlrun.core.networks import Model, linear
from rlrun.core.policy import Extras, Policy, Previous, State
from rlrun.core.recurrent import PreviousEncoder
from rlrun.core.stack import Stack


class CertainChoice(Distribution):
    """The mode of another distribution; samples of it have Gaussian noise on what is continuous.

    noise_std: [k], or one number, float32: its standard deviation in each part of an action, in the
    policy's terms; None: there is none.
    """

    def __init__(self, of: Distribution, noise_std: np.ndarray | None) -> None:
        self.of = of
        self.noise_std = noise_std

    @property
    def inputs(self) -> Any:  # type: ignore[override]
        """Those of the other distribution."""
        return self.of.inputs

    def sample(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        actions = self.of.mode()
        if self.noise_std is None:
            return actions, np.zeros(len(actions), np.float32)
        noise = rng.standard_normal(actions.shape, dtype=np.float32)
        # Of the parts without noise the choice is certain, which has the log-probability 0.
        is_noisy = self.noise_std > 0.0
        scale = np.where(is_noisy, self.noise_std, 1.0)
        densities = -0.5 * (noise * noise + LOG_2PI) - np.log(scale)
        log_probs = np.where(is_noisy, densities, 0.0).sum(-1, dtype=np.float32)
        return actions + self.noise_std * noise, log_probs

    def mode(self) -> Array:
        return self.of.mode()


class SearchPolicy(Policy):
    """An encoder, a memory where the model has one, and a head whose output's mode is the action;
    `action_noise_std` is that of the noise on continuous actions while exploring."""

    def __init__(
        self,
        obs_space: spaces.Box,
        action_space: spaces.Space,
        model: Model,
        action_noise_std: float = 0.0,
    ) -> None:
        super().__init__(obs_space, action_space)
        self.family = make_family(action_space, model)
        self.action_mask = action_mask(obs_space, action_space)
        self.encoder: Any = model.encoder(obs_space)
        width = self.encoder.output_size
        self.uses_previous = model.uses_prev_action or model.uses_prev_reward
        self.previous_encoder = PreviousEncoder(
            action_space, model.uses_prev_action, model.uses_prev_reward
        )
        self.memory: Memory | None = None
        if model.has_memory:
            self.memory = model.memory(width + self.previous_encoder.output_size)
            width = self.memory.output_size
        # As small as an actor-critic's: the first policy hardly tells observations apart, so that
        # the first perturbations do.
        self.head = linear(width, self.family.num_inputs - self.family.num_log_stds, gain=0.01)
        # No mode depends on a Gaussian's width.
        self._log_std = np.zeros(self.family.num_log_stds, np.float32)
        self._noise_std = _noise_std(self.family, action_noise_std)
        names = ("encoder",) if self.memory is not None else ("encoder", "head")
        self._features, self._head = Stack(self, *names), Stack(self, "head")

    def initial_state(self, num_rows: int) -> State:
        return {} if self.memory is None else self.memory.initial_state(num_rows)

    def act(
        self,
        obs: np.ndarray,
        state: State | None = None,
        previous: Previous | None = None,
        explore: bool = True,
    ) -> tuple[Distribution, Extras, State]:
        outputs = self._features.act(self.observation_filter.act(obs))
        after: State = {}
        if self.memory is not None:
            if previous is not None:
                before = self.previous_encoder(previous.actions, previous.rewards)
                outputs = np.concatenate([outputs, before], -1)
            state = self.initial_state(len(obs)) if state is None else state
            outputs, after = self.memory.step(outputs, state)
            outputs = self._head.act(outputs)
        if self.action_mask is not None:
            outputs = self.action_mask(outputs, obs)
        log_std = self._log_std if len(self._log_std) else None
        return CertainChoice(self.family(outputs, log_std), self._noise_std), {}, after

    def decide(self, rows: Batch) -> tuple[Distribution, dict[str, torch.Tensor]]:
        outputs = self._features(self.observation_filter.forward(rows["obs"]))
        after: dict[str, torch.Tensor] = {}
        if self.memory is not None:
            if self.uses_previous:
                before = self.previous_encoder(rows["prev_actions"], rows["prev_rewards"])
                outputs = torch.cat([outputs, before], -1)
            state = {name: rows[f"{STATE}{name}"] for name in self.memory.state_names}
            outputs, after = self.memory.step_in_torch(outputs, state)
            outputs = self._head(outputs)
        if self.action_mask is not None:
            outputs = self.action_mask(outputs, rows["obs"])
        log_std = torch.from_numpy(self._log_std).to(outputs) if len(self._log_std) else None
        return CertainChoice(self.family(outputs, log_std), self._noise_std), after

    def dist_of(self, inputs: torch.Tensor) -> Distribution:
        return self.family(inputs)

    def run_all_layers(self, rows: Batch) -> None:
        self.decide(rows)

    @property
    def runs_in_numpy(self) -> bool:
        return super().runs_in_numpy and (self.memory is None or self.memory.runs_in_numpy)


def _noise_std(family: DistributionFamily, std: float) -> np.ndarray | None:
    """The noise on each part of an action [k]: `std` where it is continuous, else none."""
    if std == 0.0 or all(leaf.is_discrete for leaf in family.leaves):
        return None
    stds = [0.0 if leaf.is_discrete else std for leaf in family.leaves]
    return np.repeat(np.array(stds, np.float32), [leaf.width for leaf in family.leaves])
