"""The policy of soft actor-critics (SAC, CQL), and the entropy that it is held at."""

from __future__ import annotations

import math
from typing import Literal

from gymnasium import spaces

from rlrun.core.actor_with_critics import ActorWithCritics, box_width
from rlrun.core.distribution_base import Distribution
from rlrun.core.distributions import Categorical
from rlrun.core.networks import Model
from rlrun.core.squashed_gaussian import SquashedGaussian

AUTO_SHARE = 0.98
"""Of the largest entropy of discrete actions, what `target_entropy: auto` asks for (Christodoulou,
2019, sec. 5)."""


def make_soft_policy(
    obs_space: spaces.Box,
    action_space: spaces.Space,
    model: Model,
    *,
    actor_hiddens: list[int],
    critic_hiddens: list[int],
    num_critics: int,
) -> ActorWithCritics:
    """A squashed Gaussian for a Box, a categorical for Discrete actions, and critics of these."""
    distribution: type[Distribution] = SquashedGaussian
    if isinstance(action_space, spaces.Discrete):
        distribution, num_outputs = Categorical, int(action_space.n)
    else:
        num_outputs = 2 * box_width(action_space)
    return ActorWithCritics(
        obs_space,
        action_space,
        model,
        distribution=distribution,
        num_outputs=num_outputs,
        actor_hiddens=actor_hiddens,
        critic_hiddens=critic_hiddens,
        num_critics=num_critics,
    )


def entropy_to_hold(action_space: spaces.Space, given: float | Literal["auto"]) -> float:
    """Nats: as given, or -1 for each dimension of a Box (Haarnoja et al., 2018b, app. D), and
    AUTO_SHARE log(n) for n discrete actions."""
    if given != "auto":
        return given
    if isinstance(action_space, spaces.Discrete):
        return AUTO_SHARE * math.log(int(action_space.n))
    return -float(box_width(action_space))
