"""Targets of Q-learning on sequences (R2D2: Kapturowski et al., 2019, openreview r1lyTjAqYX): pure
functions of torch tensors, batch-major [S, L]."""

from __future__ import annotations

import torch

Tensor = torch.Tensor


def rescale(values: Tensor, epsilon: float) -> Tensor:
    """h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x, which brings returns of any size near to 0
    (Kapturowski et al., 2019, sec. 2.3; Pohlen et al., 2018, arXiv:1805.11593)."""
    return values.sign() * ((values.abs() + 1.0).sqrt() - 1.0) + epsilon * values


def unrescale(values: Tensor, epsilon: float) -> Tensor:
    """The inverse of `rescale` (Pohlen et al., 2018, proposition A.2):
    sign(x) (((sqrt(1 + 4 epsilon (|x| + 1 + epsilon)) - 1) / (2 epsilon))^2 - 1)."""
    shifted = values.abs() + 1.0 + epsilon
    # (sqrt(1 + 4 e s) - 1) / (2 e), without the difference of two numbers that are nearly alike,
    # nor the division by an epsilon of 0.
    root = 2.0 * shifted / ((1.0 + 4.0 * epsilon * shifted).sqrt() + 1.0)
    return values.sign() * (root.square() - 1.0)


def n_step_targets(
    rewards: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    mask: Tensor,
    gamma: float,
    n_step: int,
) -> Tensor:
    """n-step returns with a bootstrap, for every step of sequences (Sutton & Barto, 2018, eq. 7.1).

    All are [S, L]: `next_values[t]` is the value of the state that step t led to, `mask` says which
    steps are real; these come first, and of one episode. Where fewer than n steps follow, the
    window ends with the sequence, and bootstraps from the state behind it, unless that step
    terminated. Returns [S, L], float32, of no meaning where the mask is False.
    """
    last = (mask.sum(1, keepdim=True) - 1).clamp(min=0)
    steps = torch.arange(mask.shape[1], device=mask.device)
    rewards = torch.where(mask, rewards, 0.0)
    discounts = torch.where(mask, gamma * ~terminated, 1.0)
    ends = torch.minimum(steps + n_step - 1, last)
    targets = next_values.gather(1, ends)
    for offset in range(n_step - 1, -1, -1):
        places = (steps + offset).clamp(max=mask.shape[1] - 1).expand_as(mask)
        # Behind the sequence nothing is earned, and nothing is discounted.
        is_inside = steps + offset <= last
        targets = torch.where(
            is_inside, rewards.gather(1, places) + discounts.gather(1, places) * targets, targets
        )
    return targets


def sequence_priorities(errors: Tensor, learned: Tensor, eta: float) -> Tensor:
    """eta max |error| + (1 - eta) mean |error| over the steps of each sequence that are learned
    (Kapturowski et al., 2019, sec. 2.3). Both [S, L] -> [S], 0 where none is learned."""
    sizes = torch.where(learned, errors.abs(), 0.0)
    means = sizes.sum(1) / learned.sum(1).clamp(min=1)
    return eta * sizes.amax(1) + (1.0 - eta) * means
