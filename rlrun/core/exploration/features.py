"""Networks that explorations see observations through."""

from __future__ import annotations

from dataclasses import fields

from gymnasium import spaces
from torch import nn

from rlrun.core.errors import ConfigError
from rlrun.core.layout import layout_of
from rlrun.core.networks import CNN, MLP, Layers, Model, linear


def feature_net(obs_space: spaces.Box, config: Model | None, size: int) -> Layers:
    """Observations [N, *obs_space.shape] -> features [N, size].

    config: a model whose encoder it is; None: one layer of 256 for vectors, the usual convolutions
    for images. A linear layer follows. Raises SpaceError if it cannot take such observations.
    """
    layout = layout_of(obs_space)
    has_images = len(obs_space.shape) > 1 or (layout is not None and bool(layout.images))
    usual = CNN() if has_images else MLP(fcnet_hiddens=[256], fcnet_activation="relu")
    encoder = (config or usual).encoder(obs_space)
    assert isinstance(encoder, nn.Module)
    return Layers(encoder, linear(encoder.output_size, size, gain=1.0))


def check_encoder(key: str, config: Model | None) -> None:
    """Raise ConfigError if the model has a value that says nothing of its encoder."""
    for each in fields(Model) if config is not None else ():
        default, value = getattr(type(config), each.name, each.default), getattr(config, each.name)
        if value != default:
            raise ConfigError(
                f"{key}.{each.name}={value} has no effect: of this model only the encoder is used. "
                f"Leave it at {default}."
            )
