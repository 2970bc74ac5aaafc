"""Soft Q-learning's values and losses, which SAC and those that build on it put together.

Pure functions of torch tensors. `alpha` is the temperature, what a nat of entropy is worth.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from rlrun.core.actor_with_critics import ActorWithCritics
from rlrun.core.critics import Critics
from rlrun.core.distribution_base import Array
from rlrun.core.distributions import Categorical
from rlrun.core.squashed_gaussian import SquashedGaussian

Tensor = torch.Tensor


class ActorLoss(NamedTuple):
    """A loss of what an actor gave at N observations."""

    loss: Tensor
    """A scalar."""
    gradient: Tensor
    """Its gradient by the actor's outputs, [N, outputs]."""
    negative_entropies: Tensor
    """Those of the policy, [N]: of one drawn action where actions are continuous."""


@torch.no_grad()
def soft_values(
    policy: ActorWithCritics,
    critics: Critics,
    obs: Tensor,
    alpha: Tensor,
    rng: np.random.Generator,
) -> Tensor:
    """Soft state values V(s) [N] of `policy` at filtered observations [N, *shape]: of one drawn
    action where actions are continuous, else the expectation over all of them."""
    outputs = policy.actor_outputs(obs)
    if policy.is_discrete:
        return expected_values(critics(obs), _categorical(policy, outputs).log_probs, alpha)
    draw = _draw(policy, outputs, rng)
    return drawn_values(critics(obs, draw.actions), draw.log_probs, alpha)


@torch.no_grad()
def actor_loss(
    policy: ActorWithCritics, outputs: Tensor, obs: Tensor, alpha: Tensor, rng: np.random.Generator
) -> ActorLoss:
    """-mean V(s) (Haarnoja et al., 2018b, arXiv:1812.05905, eq. 9) of an actor that gave `outputs`
    at filtered observations [N, *shape], as the policy's critics judge it."""
    num_rows = len(outputs)
    if policy.is_discrete:
        log_probs = _categorical(policy, outputs).log_probs
        probs = log_probs.exp()
        of_actions = policy.critics(obs).amin(0) - alpha * log_probs
        values = (probs * of_actions).sum(-1)
        # By a logit: its probability times what its action is better than the mean; that the
        # entropy changes with the logarithms cancels out over all actions.
        gradient = probs * (values.unsqueeze(-1) - of_actions) / num_rows
        return ActorLoss(-values.mean(), gradient, (probs * log_probs).sum(-1))
    draw = _draw(policy, outputs, rng)
    values, by_actions = policy.critics.run(obs, draw.actions).least()
    gradient = draw.gradient(by_actions / -num_rows, alpha / num_rows)
    return ActorLoss((alpha * draw.log_probs - values).mean(), gradient, draw.log_probs)


@torch.no_grad()
def imitation_loss(
    policy: ActorWithCritics,
    outputs: Tensor,
    actions: Tensor,
    alpha: Tensor,
    rng: np.random.Generator,
) -> ActorLoss:
    """-mean(log pi(a|s)) of `actions` that others took, less what entropy is worth, of an actor
    that gave `outputs` (how the authors' code of CQL begins)."""
    num_rows = len(outputs)
    if policy.is_discrete:
        dist = _categorical(policy, outputs)
        probs = dist.log_probs.exp()
        negative_entropies = (probs * dist.log_probs).sum(-1)
        gradient = probs + alpha * probs * (dist.log_probs - negative_entropies.unsqueeze(-1))
        gradient.scatter_add_(1, actions.unsqueeze(-1), -torch.ones_like(probs))
        loss = (alpha * negative_entropies - dist.log_prob(actions)).mean()
        return ActorLoss(loss, gradient / num_rows, negative_entropies)
    draw = _draw(policy, outputs, rng)
    of_entropy = draw.gradient(torch.zeros_like(draw.actions), alpha / num_rows)
    theirs = _array(actions)
    of_actions = _tensor(draw.dist.gradient_of_log_prob(theirs)) / num_rows
    loss = (alpha * draw.log_probs - _tensor(draw.dist.log_prob(theirs))).mean()
    return ActorLoss(loss, of_entropy - of_actions, draw.log_probs)


class _Draw(NamedTuple):
    """One action of a squashed Gaussian for each row, in NumPy on the CPU: of so few numbers it
    takes a fifth of torch's time."""

    dist: SquashedGaussian
    noise: Array
    actions: Tensor
    """[N, d]."""
    log_probs: Tensor
    """[N]."""

    def gradient(self, by_actions: Tensor, by_log_probs: Tensor) -> Tensor:
        """By the actor's outputs [N, 2 d], of that by the actions and by each log-probability."""
        known = (self.actions, by_actions, by_log_probs)
        return _tensor(self.dist.gradient_of_draw(self.noise, *map(_array, known)))


def _draw(policy: ActorWithCritics, outputs: Tensor, rng: np.random.Generator) -> _Draw:
    dist = policy.distribution(_array(outputs))
    assert isinstance(dist, SquashedGaussian)
    noise = _array(standard_normal(outputs[..., : outputs.shape[-1] // 2], rng))
    actions, log_probs = dist.draw(noise)
    return _Draw(dist, noise, _tensor(actions), _tensor(log_probs))


def _categorical(policy: ActorWithCritics, outputs: Tensor) -> Categorical:
    dist = policy.distribution(outputs)
    assert isinstance(dist, Categorical)
    return dist


def _array(tensor: Tensor) -> Array:
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def _tensor(array: Array) -> Tensor:
    return array if isinstance(array, Tensor) else torch.from_numpy(array)


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
