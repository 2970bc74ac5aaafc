"""Losses: pure functions of torch tensors, one row a sample; scalars are means over rows."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch

Tensor = torch.Tensor

_NONE, _MEAN = 0, 1
"""How torch's own operations name the reduction of a loss."""


def policy_gradient(log_probs: Tensor, advantages: Tensor) -> Tensor:
    """-mean(log pi(a|s) A), whose gradient is the policy gradient with its sign turned (Williams,
    1992, doi:10.1007/BF00992696; Mnih et al., 2016, arXiv:1602.01783, sec. 4). Both are [N]."""
    # Two operations, where product, mean and sign are three; of 40 rows each costs 30 us.
    return torch.dot(log_probs, advantages) / -len(advantages)


def normalized(advantages: Tensor, real: Tensor) -> Tensor:
    """Advantages of any shape, shifted and scaled so that the `real` ones among them, [N], have
    mean 0 and standard deviation 1; a single one stays as it is."""
    if len(real) < 2:
        return advantages
    std, mean = torch.std_mean(real)
    return (advantages - mean) / (std + 1e-8)


def clipped_surrogate(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, clip_range: float
) -> Tensor:
    """PPO's policy loss (Schulman et al., 2017, arXiv:1707.06347, eq. 7), to be minimised:
    -mean(min(r A, clip(r, 1 - clip_range, 1 + clip_range) A)) with r = pi / pi_old."""
    ratios = (log_probs - old_log_probs).exp()
    # The minimum is r A, except that r counts up to 1 + clip_range where A > 0, and from
    # 1 - clip_range on where A < 0: one operation in place of a minimum of two products.
    is_gain = advantages > 0.0
    least = torch.where(is_gain, 0.0, 1.0 - clip_range)
    most = torch.where(is_gain, 1.0 + clip_range, math.inf)
    return -(ratios.clamp(least, most) * advantages).mean()


def clipped_value_loss(
    values: Tensor, old_values: Tensor, value_targets: Tensor, vf_clip_range: float | None
) -> Tensor:
    """Mean squared value error, pessimistic about moves beyond vf_clip_range (null: plain).

    mean(max((V - target)^2, (clip(V, V_old +- vf_clip_range) - target)^2)): the value loss of
    PPO's reference code (Engstrom et al., 2020, arXiv:2005.12729, sec. 3), without its factor 1/2.
    """
    errors = (values - value_targets).square()
    if vf_clip_range is not None:
        moved = (values - old_values).clamp(-vf_clip_range, vf_clip_range)
        errors = torch.max(errors, (old_values + moved - value_targets).square())
    return errors.mean()


def squared_error(predictions: Tensor, targets: Tensor) -> Tensor:
    """Mean of (prediction - target)^2, without a factor 1/2; both are [N]."""
    # One operation, without the broadcasting of nn.functional.mse_loss.
    return torch.ops.aten.mse_loss.default(predictions, targets, _MEAN)


def adapted_kl_coeff(kl_coeff: float, kl: float, kl_target: float) -> float:
    """The weight of a KL penalty after an update that moved the policy by `kl`: doubled above 1.5
    times the target, halved below the target over 1.5 (Schulman et al., 2017, sec. 4)."""
    if kl > 1.5 * kl_target:
        return 2.0 * kl_coeff
    return 0.5 * kl_coeff if kl < kl_target / 1.5 else kl_coeff


def huber(predictions: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean Huber loss with delta 1, each term times its weight if there are weights:
    e^2 / 2 where |e| < 1, else |e| - 1/2 (Huber, 1964, doi:10.1214/aoms/1177703732).

    All are [N, ...], of one shape.
    """
    # The operation under nn.functional.huber_loss, which spends twice its time on broadcasting.
    if weights is None:
        return torch.ops.aten.huber_loss.default(predictions, targets, _MEAN, 1.0)
    terms = torch.ops.aten.huber_loss.default(predictions, targets, _NONE, 1.0)
    return weighted_mean(terms, weights)


class CriticLoss(NamedTuple):
    """A loss of several critics' values [critics, N]."""

    loss: Tensor
    """A scalar."""
    gradient: Tensor
    """Its gradient by the values, [critics, N]."""
    errors: Tensor
    """The values less their targets, [critics, N]."""


def critic_loss(
    q_values: Tensor,
    targets: Tensor,
    weights: Tensor | None = None,
    huber_threshold: float | None = None,
) -> CriticLoss:
    """Sum over critics of the mean squared error to one target (Fujimoto et al., 2018,
    arXiv:1802.09477, algorithm 1); with `huber_threshold` delta, of the Huber loss
    (e^2 / 2 where |e| < delta, else delta (|e| - delta / 2)).

    q_values: [critics, N]; targets, weights: [N]. Haarnoja et al. (2018b, eq. 5) halve the squares,
    which Adam does not notice.
    """
    # Rewards that user code gave may be float64.
    errors = q_values - targets.to(q_values.dtype)
    if huber_threshold is None:
        terms, slopes = errors * errors, 2.0 * errors
    else:
        slopes = errors.clamp(-huber_threshold, huber_threshold)
        terms = slopes * (errors - 0.5 * slopes)
    if weights is not None:
        weights = weights.to(q_values.dtype)
        terms, slopes = terms * weights, slopes * weights
    num_rows = len(targets)
    return CriticLoss(terms.sum() / num_rows, slopes / num_rows, errors)


def weighted_mean(terms: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of terms [N, ...], each times its weight (None: 1)."""
    return terms.mean() if weights is None else (terms * weights).mean()


def categorical_projection(
    next_probs: Tensor, rewards: Tensor, discounts: Tensor, support: Tensor
) -> Tensor:
    """Distribution of r + discount * z projected back onto the support (C51, Bellemare et al.,
    2017, arXiv:1707.06887, algorithm 1).

    next_probs: [N, atoms]; rewards, discounts: [N] (a discount of 0 means: terminated);
    support: [atoms], evenly spaced. Returns probabilities [N, atoms].
    """
    v_min, v_max = support[0], support[-1]
    spacing = support[1] - support[0]
    targets = (rewards.unsqueeze(-1) + discounts.unsqueeze(-1) * support).clamp(v_min, v_max)
    # Each projected atom gives its mass to the support points within one spacing of it.
    distance = (targets.unsqueeze(1) - support.view(1, -1, 1)).abs() / spacing
    weights = (1.0 - distance).clamp(0.0, 1.0)
    return (weights * next_probs.unsqueeze(1)).sum(-1)


def quantile_huber(quantiles: Tensor, targets: Tensor) -> Tensor:
    """Quantile Huber loss with kappa 1 of each row (QR-DQN: Dabney et al., 2018, arXiv:1710.10044,
    eq. 10 and algorithm 1): the sum over i of the mean over j of |tau_i - 1{u_ij < 0}| L(u_ij),
    where u_ij = targets_j - quantiles_i, tau_i = (2 i - 1) / (2 n), and L is Huber's loss.

    quantiles: [N, n]; targets: [N, m], without gradients. Returns [N].
    """
    num_quantiles = quantiles.shape[1]
    middles = (torch.arange(num_quantiles, device=quantiles.device) + 0.5) / num_quantiles
    predictions, wanted = torch.broadcast_tensors(quantiles.unsqueeze(2), targets.unsqueeze(1))
    sizes = torch.ops.aten.huber_loss.default(predictions, wanted, _NONE, 1.0)
    is_below = (wanted < predictions.detach()).float()
    return ((middles.view(1, -1, 1) - is_below).abs() * sizes).mean(2).sum(1)


def explained_variance(predictions: Tensor, targets: Tensor) -> Tensor | float:
    """1 - Var(targets - predictions) / Var(targets), at least -1; 1 is a perfect value function.
    Both are [N], without gradients; the result is a scalar on their device, or a number."""
    if targets.device.type == "cpu":
        # Of 40 numbers this takes NumPy a third of torch's time.
        return float(_explained_variance(predictions.numpy(), targets.numpy()))
    return _explained_variance(predictions, targets)


def _explained_variance(predictions: Any, targets: Any) -> Any:
    variance = _variance(targets).clip(1e-8)
    return (1.0 - _variance(targets - predictions) / variance).clip(-1.0)


def _variance(numbers: Any) -> Any:
    # torch's own takes 70 us for 40 numbers, as long as a forward pass.
    centred = numbers - numbers.sum() / len(numbers)
    return centred.dot(centred) / len(numbers)
