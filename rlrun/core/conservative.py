"""The conservative term of CQL: how much higher critics value other actions than those in the data
(Kumar et al., 2020, arXiv:2006.04779). Pure functions of torch tensors."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

from rlrun.core.actor_with_critics import ActorWithCritics
from rlrun.core.critics import ChosenValues, CriticsPass
from rlrun.core.soft_q import standard_normal
from rlrun.core.squashed_gaussian import SquashedGaussian

Tensor = torch.Tensor


class Proposals(NamedTuple):
    """Actions that critics are asked about."""

    actions: Tensor
    """[N, K, d], in [-1, 1]; nothing flows through them."""
    log_probs: Tensor
    """[N, K], with which they were drawn."""


def propose(
    policy: ActorWithCritics,
    obs: Tensor,
    next_obs: Tensor,
    num_actions: int,
    rng: np.random.Generator,
) -> Proposals:
    """`num_actions` actions for each of N rows from the uniform distribution, as many of the policy
    at `obs` [N, *shape], and as many of it at `next_obs` (app. F): K is three times as many."""
    with torch.no_grad():
        drawn = [_uniform(policy, obs, num_actions, rng)]
        drawn += [_of_policy(policy, each, num_actions, rng) for each in (obs, next_obs)]
    return Proposals(*(torch.cat(parts, 1) for parts in zip(*drawn, strict=True)))


class Asked(NamedTuple):
    """What critics said of the data's actions and of all others, in one pass."""

    run: CriticsPass
    q_values: Tensor
    """Of the data's actions, [critics, N]."""
    log_sums: Tensor
    """Soft maxima over all actions, [critics, N]."""
    of_log_sums: Tensor
    """Their gradient by the values that they were made of, [critics, N, n or K]."""
    chosen: ChosenValues | None
    """The data's among the values of Discrete actions; None: their values come last."""

    def by_values(self, by_q_values: Tensor, by_log_sums: Tensor | float) -> Tensor:
        """The gradient of a loss by the pass's values, of those by `q_values` [critics, N] and by
        each of `log_sums` (a scalar)."""
        through_log_sums = by_log_sums * self.of_log_sums
        if self.chosen is not None:
            return through_log_sums + self.chosen.among_all(by_q_values)
        return torch.cat([through_log_sums, by_q_values.unsqueeze(-1)], -1)


def sampled_log_sum(
    q_values: Tensor, log_probs: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """t log sum_k exp(Q_k / t) / p_k over proposals k with densities p_k (CQL(H), app. F), and its
    gradient by the values.

    q_values: [critics, N, K]; log_probs: [N, K], log p. Returns [critics, N] and [critics, N, K];
    with t = 1 the former is an estimate of log integral exp Q(s, a) da, plus log K, which the
    authors' code leaves in, and by which thresholds count.
    """
    return exact_log_sum(q_values - temperature * log_probs, temperature)


def exact_log_sum(q_values: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """t log sum_a exp(Q(s, a) / t) over all discrete actions (eq. 4), [..., n] -> [...], and its
    gradient by the values, [..., n]."""
    scaled = q_values / temperature
    return temperature * torch.logsumexp(scaled, -1), torch.softmax(scaled, -1)


def _uniform(
    policy: ActorWithCritics, obs: Tensor, num_actions: int, rng: np.random.Generator
) -> Proposals:
    shape = len(obs), num_actions, policy.action_space.shape[0]  # type: ignore[index]
    numbers = rng.random(shape, dtype=np.float32)
    actions = torch.from_numpy(2.0 * numbers - 1.0).to(obs.device)
    return Proposals(actions, actions.new_full(shape[:2], -math.log(2.0) * shape[2]))


def _of_policy(
    policy: ActorWithCritics, obs: Tensor, num_actions: int, rng: np.random.Generator
) -> Proposals:
    dist = policy.dist(obs)
    assert isinstance(dist, SquashedGaussian)
    several = SquashedGaussian(dist.inputs.unsqueeze(1).expand(-1, num_actions, -1))
    return Proposals(*several.draw(standard_normal(several.mean, rng)))
