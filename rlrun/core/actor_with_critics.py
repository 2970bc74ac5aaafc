"""The policy of actor-critics from replay (SAC, DDPG): an actor, and critics that value actions."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from rlrun.core.batch import Batch
from rlrun.core.critics import Critics
from rlrun.core.distribution_base import Distribution
from rlrun.core.errors import SpaceError
from rlrun.core.forward_pass import ForwardPass
from rlrun.core.networks import Layers, Model
from rlrun.core.policy import Extras, Policy, Previous, State
from rlrun.core.stack import Stack


class ActorWithCritics(Policy):
    """A distribution over actions, and the critics that it learns from.

    `distribution` makes one of the `num_outputs` numbers that the actor gives. With
    `model.vf_share_layers` the actor sees what the critics' encoder makes of observations, which
    then learns from the critics alone (Yarats et al., 2021, arXiv:1910.01741, sec. 4.4).
    """

    def __init__(
        self,
        obs_space: spaces.Box,
        action_space: spaces.Space,
        model: Model,
        *,
        distribution: Callable[[Any], Distribution],
        num_outputs: int,
        actor_hiddens: list[int],
        critic_hiddens: list[int],
        num_critics: int,
        last_bound: float | None = None,
    ) -> None:
        super().__init__(obs_space, action_space)
        self.distribution = distribution
        self.is_discrete = isinstance(action_space, spaces.Discrete)
        own_encoder: Any = None if model.vf_share_layers else model.encoder(obs_space)
        shared_encoder = model.encoder(obs_space)
        num_features = (own_encoder or shared_encoder).output_size
        layers = _rectified_layers([num_features, *actor_hiddens, num_outputs], last_bound)
        self.actor = Layers(*([own_encoder] if own_encoder is not None else []), *layers)
        self.critics = Critics(
            shared_encoder,
            action_width=0 if self.is_discrete else int(np.prod(action_space.shape or ())),
            num_outputs=num_outputs if self.is_discrete else 1,
            hiddens=critic_hiddens,
            num_critics=num_critics,
            last_bound=last_bound,
        )
        self._actor = Stack(self, "actor")
        self._shared = Stack(self.critics, "encoder") if own_encoder is None else None

    def forward(self, rows: Batch) -> Distribution:
        """The distribution over actions at `obs`."""
        return self.dist(self.observation_filter.forward(rows["obs"]))

    def decide(self, rows: Batch) -> tuple[Distribution, dict[str, torch.Tensor]]:
        return self.forward(rows), {}

    def dist_of(self, inputs: torch.Tensor) -> Distribution:
        # Those of a certain policy are its actions, which `distribution` would squash once more.
        kind: Callable[[Any], Distribution] = type(self.distribution(inputs))
        return kind(inputs)

    def run_all_layers(self, rows: Batch) -> None:
        dist = self.forward(rows)
        obs = self.observation_filter.forward(rows["obs"])
        self.critics(obs, None if self.is_discrete else dist.mode())

    def _stacks(self) -> list[Stack]:
        return [*super()._stacks(), self.critics.encoder_stack]

    def dist(self, obs: torch.Tensor) -> Distribution:
        """The distribution over actions at observations [N, *shape] that are filtered already."""
        return self.distribution(self.actor_outputs(obs))

    def actor_outputs(self, obs: torch.Tensor) -> torch.Tensor:
        """What the actor makes of them, the inputs of `distribution`, [N, outputs]."""
        return self._actor(self._seen_by_actor(obs))

    def run_actor(self, obs: torch.Tensor) -> ForwardPass:
        """The same as a pass that can go backward."""
        return self._actor.run(self._seen_by_actor(obs))

    def _seen_by_actor(self, obs: torch.Tensor) -> torch.Tensor:
        if self._shared is None:
            return obs
        with torch.no_grad():
            return self._shared(obs)

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
        return self.distribution(self._actor.act(features)), {}, {}


def check_box(action_space: spaces.Space, env: str, algo: str) -> None:
    """Raise SpaceError unless an env's action space is a Box of floats with bounds."""
    refusal = f"algo={algo} needs actions that are a Box of floats with finite bounds; {env!r} has"
    # Exactly a Box: a Simplex has bounds that are no independent ones.
    if type(action_space) is not spaces.Box or not np.issubdtype(action_space.dtype, np.floating):
        raise SpaceError(f"{refusal} {action_space}. Try algo=ppo, which acts in every space.")
    if not np.isfinite([action_space.low, action_space.high]).all():
        raise SpaceError(
            f"{refusal} {action_space}, without a bound in some dimension. Give it some (wrap the "
            f"env in gymnasium.wrappers.RescaleAction or TransformAction), or use algo=ppo."
        )


def box_width(action_space: spaces.Space) -> int:
    """How many numbers an action is, where the space in the policy's terms is [-1, 1] for each.
    Raises SpaceError where it is not."""
    assert isinstance(action_space, spaces.Box)
    if not ((action_space.low == -1.0).all() and (action_space.high == 1.0).all()):
        raise SpaceError(
            f"This policy acts in [-1, 1], which env.normalize_actions=true stretches to the "
            f"bounds of the env's actions; as they are, those are {action_space}. Use "
            f"env.normalize_actions=true."
        )
    return int(action_space.shape[0])


def _rectified_layers(widths: list[int], last_bound: float | None) -> list[nn.Module]:
    """Linear layers with rectified units between them, started as those of `Ensemble`."""
    layers: list[nn.Module] = []
    for width_in, width_out in pairwise(widths):
        layer = nn.Linear(width_in, width_out)
        bound = 1.0 / math.sqrt(width_in)
        if last_bound is not None and len(layers) == 2 * (len(widths) - 2):
            bound = last_bound
        for parameter in (layer.weight, layer.bias):
            nn.init.uniform_(parameter, -bound, bound)
        layers += [layer, nn.ReLU()]
    return layers[:-1]
