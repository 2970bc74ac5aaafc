"""The distributions that a model asks for, where an action space can take them."""

from __future__ import annotations

from gymnasium import spaces

from rlrun.core.distributions import DistributionFamily
from rlrun.core.errors import ConfigError
from rlrun.core.networks import Model


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
