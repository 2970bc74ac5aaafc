"""Soft Q-learning's values and losses, which SAC and those that build on it put together.

Pure functions of torch tensors. `alpha` is the temperature, what a nat of entropy is worth.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from rlrun.core.actor_with_critics import ActorWithCritics
from rlrun.core.distributions import Categorical
from rlrun.core.squashed_gaussian import SquashedGaussian

Tensor = torch.Tensor


def soft_values(
    policy: ActorWithCritics,
    critics: Callable[..., Tensor],
    obs: Tensor,
    alpha: Tensor,
    rng: np.random.Generator,
) -> tuple[Tensor, Tensor]:
    """Soft state values V(s) [N] of `policy` at filtered observations [N, *shape], and the policy's
    negative entropies [N]: of one drawn action where actions are continuous, else the expectation
    over all of them.

    critics: `Critics`, or in the actor's loss, which is -mean V, their method `fixed`.
    """
    dist = policy.dist(obs)
    if isinstance(dist, Categorical):
        log_probs = dist.log_probs
        values = expected_values(critics(obs), log_probs, alpha)
        return values, (log_probs.exp() * log_probs).sum(-1)
    assert isinstance(dist, SquashedGaussian)
    actions, log_probs = dist.draw(standard_normal(dist.mean, rng))
    return drawn_values(critics(obs, actions), log_probs, alpha), log_probs


def drawn_values(q_values: Tensor, log_probs: Tensor, alpha: Tensor) -> Tensor:
    """min_i Q_i(s, a) - alpha log pi(a|s) of one drawn action (Haarnoja et al., 2018b,
    arXiv:1812.05905, eq. 3; the least of the critics: sec. 6).

    q_values: [critics, N]; log_probs: [N]. Returns [N].
    """
    return q_values.amin(0) - alpha * log_probs


def expected_values(q_values: Tensor, log_probs: Tensor, alpha: Tensor) -> Tensor:
    """sum_a pi(a|s) (min_i Q_i(s, a) - alpha log pi(a|s)) over all actions (Christodoulou, 2019,
    arXiv:1910.07207, eq. 10).

    q_values: [critics, N, n]; log_probs: [N, n]. Returns [N].
    """
    return (log_probs.exp() * (q_values.amin(0) - alpha * log_probs)).sum(-1)


def temperature_loss(alpha: Tensor, log_probs: Tensor, target_entropy: float) -> Tensor:
    """mean(-alpha (log pi(a|s) + target_entropy)) (Haarnoja et al., 2018b, eq. 18), a scalar.

    log_probs: [N], of drawn actions, or the policy's negative entropies. It is its own derivative
    by log(alpha).
    """
    return -alpha * (log_probs.mean() + target_entropy)


def standard_normal(like: Tensor, rng: np.random.Generator) -> Tensor:
    """Standard normal numbers of a tensor's shape, on its device."""
    numbers = torch.from_numpy(rng.standard_normal(tuple(like.shape), dtype=np.float32))
    return numbers if like.device.type == "cpu" else numbers.to(like.device)
