"""The heads of an actor-critic: from features to a distribution's inputs, and to a value."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import nn

from rlrun.core.distributions import DistributionFamily
from rlrun.core.errors import ConfigError
from rlrun.core.networks import Model, linear


def make_family(action_space: spaces.Space, model: Model) -> DistributionFamily:
    """The distributions that `model` asks for. Raises SpaceError where they do not fit the action
    space, ConfigError for settings of a Gaussian where there is none."""
    family = DistributionFamily(action_space, model.action_distribution)
    for name in ("free_log_std", "log_std_init"):
        default, value = getattr(type(model), name), getattr(model, name)
        is_used = family.num_log_stds and (name == "free_log_std" or model.free_log_std)
        if value != default and not is_used:
            raise ConfigError(
                f"model.{name}={value} has no effect: "
                + (
                    "model.free_log_std=false makes it a network output."
                    if family.num_log_stds
                    else f"no part of the actions {action_space} is drawn from a Gaussian."
                )
                + f" Leave it at {default}."
            )
    return family


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
