"""The heads of an actor-critic: from features to a distribution's inputs, and to a value."""

from __future__ import annotations

import torch
from torch import nn

from rlrun.core.distributions import DistributionFamily
from rlrun.core.networks import Model, linear


def make_heads(
    family: DistributionFamily, model: Model, num_features: int
) -> tuple[nn.Linear, nn.Linear, nn.Parameter | None]:
    """(pi_head, vf_head, log_std): `log_std` is the free parameter of Gaussians, or None."""
    num_outputs = family.num_inputs
    log_std: nn.Parameter | None = None
    if family.num_log_stds and model.free_log_std:
        num_outputs -= family.num_log_stds
        log_std = nn.Parameter(torch.full((family.num_log_stds,), model.log_std_init))
    # A small last layer makes the first policy nearly uniform (Andrychowicz et al., 2021,
    # arXiv:2006.05990, sec. 3.2).
    pi_head = linear(num_features, num_outputs, gain=0.01)
    return pi_head, linear(num_features, 1, gain=1.0), log_std
