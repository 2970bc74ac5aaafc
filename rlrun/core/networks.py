"""Networks: the encoders that the `model` group names, and the layers that heads are built from.

A model noun is an object with `encoder(obs_space) -> torch.nn.Module`; the module maps
observations [N, ...] to features [N, output_size] and has the attribute `output_size`.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, Protocol, cast

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from rlrun.core.actions import ActionDistribution
from rlrun.core.errors import ConfigError, SpaceError
from rlrun.core.layout import Layout, layout_of
from rlrun.core.memory import LSTMMemory, Memory
from rlrun.core.ranges import check_widths
from rlrun.core.room import require_room
from rlrun.core.spaces import PixelScale, is_image

Activation = Literal["tanh", "relu", "silu", "elu", "linear"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "linear": nn.Identity,
}

CONV_FILTERS: dict[int, list[list[int]]] = {
    # Mnih et al. (2015, Nature 518), table 1 of the methods; the smaller ones shrink it in kind.
    84: [[32, 8, 4], [64, 4, 2], [64, 3, 1]],
    96: [[32, 8, 4], [64, 4, 2], [64, 3, 1]],
    64: [[32, 8, 4], [64, 4, 2], [64, 3, 1]],
    42: [[32, 4, 2], [64, 4, 2], [64, 3, 1]],
    10: [[16, 3, 1], [32, 3, 1]],
}
"""Layers of [channels, kernel, stride] by the shorter side of the image, in pixels."""


class Encoder(Protocol):
    """What encoders are: modules that know the width of their output."""

    output_size: int

    def __call__(self, obs: torch.Tensor) -> torch.Tensor:
        """Observations [N, *shape] -> features [N, output_size]."""
        ...


@dataclass(kw_only=True)
class Model:
    """What every model has in common: how an actor-critic shares it, and its Gaussian's width."""

    vf_share_layers: bool = False
    """Whether policy and value function share the encoder, or each have their own."""
    free_log_std: bool = True
    """Whether a Gaussian's log standard deviation is a parameter, or a network output."""
    log_std_init: float = 0.0
    """Initial value of a free log standard deviation."""
    action_distribution: ActionDistribution = "auto"
    """How Boxes of floats are drawn: auto is a Gaussian; beta needs bounds; dirichlet gives weights
    that sum to 1."""
    mask_actions: bool = False
    """Whether only actions are taken that the part `action_mask` of Dict observations allows."""
    use_lstm: bool = False
    """Whether an LSTM between encoder and heads remembers what was observed."""
    lstm_cell_size: int = 256
    """Width of the LSTM's state."""
    max_seq_len: int = 20
    """Steps of the sequences that a policy with memory learns from."""
    lstm_use_prev_action: bool = False
    """Whether the LSTM sees the previous action beside the encoded observation."""
    lstm_use_prev_reward: bool = False
    """Whether it sees the previous reward."""
    compile: bool = False
    """Whether the learner's layers go through torch.compile."""
    amp: bool = False
    """Whether the learner's loss is computed in bfloat16 where torch holds that for safe."""

    keeps_images: ClassVar[bool] = False
    """Whether images within Dict and Tuple observations stay images, or become part of a vector."""

    def __post_init__(self) -> None:
        for name in ("lstm_cell_size", "max_seq_len"):
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name}={getattr(self, name)} must be at least 1.")
        for name in ("lstm_use_prev_action", "lstm_use_prev_reward"):
            if getattr(self, name) and not self.use_lstm:
                raise ConfigError(f"model.{name}=true needs model.use_lstm=true.")
        for name, is_used in (
            ("lstm_cell_size", self.use_lstm),
            ("max_seq_len", self.has_memory),
        ):
            value, default = getattr(self, name), getattr(type(self), name)
            if value != default and not is_used:
                raise ConfigError(
                    f"model.{name}={value} has no effect here: set model.use_lstm=true, or leave "
                    f"it at {default}."
                )

    @property
    def has_memory(self) -> bool:
        """Whether policies of this model remember."""
        return self.use_lstm

    @property
    def uses_prev_action(self) -> bool:
        """Whether the memory sees the previous action."""
        return self.lstm_use_prev_action

    @property
    def uses_prev_reward(self) -> bool:
        """Whether the memory sees the previous reward."""
        return self.lstm_use_prev_reward

    def memory(self, input_size: int) -> Memory:
        """The memory behind an encoder, where `has_memory` says that there is one."""
        return LSTMMemory(input_size, self.lstm_cell_size)

    def encoder(self, obs_space: spaces.Box) -> Encoder:
        """Observations [N, *obs_space.shape] -> features [N, output_size]. Raises SpaceError."""
        raise NotImplementedError


@dataclass(kw_only=True)
class MLP(Model):
    """Fully connected layers, for observations that are vectors (conf/model/mlp.yaml)."""

    fcnet_hiddens: list[int] = field(default_factory=lambda: [64, 64])
    """Width of each hidden layer."""
    fcnet_activation: Activation = "tanh"
    """Non-linearity after each hidden layer."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths("model.fcnet_hiddens", self.fcnet_hiddens)

    def encoder(self, obs_space: spaces.Box) -> Encoder:
        if len(obs_space.shape) != 1:
            raise SpaceError(
                f"model=mlp takes vectors; this env's observations have shape {obs_space.shape}. "
                f"Try model=cnn for images, or env.flatten_observations=true."
            )
        return mlp(obs_space.shape[0], self.fcnet_hiddens, self.fcnet_activation)


@dataclass(kw_only=True)
class CNN(Model):
    """Convolutions, then fully connected layers, for images (conf/model/cnn.yaml)."""

    conv_filters: list[list[int]] | None = None
    """Layers of [channels, kernel, stride]; null chooses by the size of the image."""
    conv_activation: Activation = "relu"
    """Non-linearity after each convolution."""
    post_fcnet_hiddens: list[int] = field(default_factory=lambda: [512])
    """Width of each fully connected layer after the convolutions."""
    post_fcnet_activation: Activation = "relu"
    """Non-linearity after each of them."""
    vf_share_layers: bool = True

    keeps_images = True

    def __post_init__(self) -> None:
        super().__post_init__()
        check_widths("model.post_fcnet_hiddens", self.post_fcnet_hiddens)
        for layer in self.conv_filters or []:
            if len(layer) != 3 or min(layer) < 1:
                raise ConfigError(
                    f"model.conv_filters={self.conv_filters}: each layer is "
                    f"[channels, kernel, stride], all at least 1."
                )

    def encoder(self, obs_space: spaces.Box) -> Encoder:
        layout = layout_of(obs_space)
        if layout is not None and layout.images and not layout.is_lone_image:
            return NestedEncoder(layout, self)
        if len(obs_space.shape) not in (2, 3):
            raise SpaceError(
                f"model=cnn takes images of shape (height, width), (height, width, channels) or "
                f"(channels, height, width), alone or within a Dict or Tuple; this env's "
                f"observations have shape {obs_space.shape}. Try model=mlp."
            )
        return ConvolutionalEncoder(obs_space, self)


@dataclass(kw_only=True)
class CustomModel(Model):
    """The user's own torch.nn.Module as the encoder (conf/model/custom.yaml)."""

    module: str
    """Import path of a torch.nn.Module class: `Module(obs_space, **module_config)` maps [N, *shape]
    to [N, output_size] and has the attribute `output_size`."""
    module_config: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the class."""

    def encoder(self, obs_space: spaces.Box) -> Encoder:
        from rlrun.core.imports import import_object

        module_class = import_object(self.module, "model.module")
        is_module = isinstance(module_class, type) and issubclass(module_class, nn.Module)
        module = self._construct(module_class, obs_space) if is_module else None
        if not hasattr(module, "output_size"):
            raise ConfigError(
                f"model.module={self.module} must give a torch.nn.Module with the attribute "
                f"output_size (the width of its output)."
            )
        return cast(Encoder, module)

    def _construct(self, module_class: type, obs_space: spaces.Box) -> nn.Module:
        given = f"model.module_config={self.module_config}: {self.module}"
        try:
            inspect.signature(module_class).bind(obs_space, **self.module_config)
        except TypeError as error:
            raise ConfigError(f"{given}: {error}.") from error
        try:
            return cast(nn.Module, module_class(obs_space, **self.module_config))
        except ValueError as error:
            raise ConfigError(f"{given} refuses it: {error}") from error


class ConvolutionalEncoder(nn.Module):
    """Image [N, H, W], [N, H, W, C] or [N, C, H, W] -> features [N, output_size].

    Integer pixels are scaled from the bounds of their space to [0, 1] (see `PixelScale`: 0..255 by
    1/255, a grid of 0..10 by 1/10); floats are taken as they are. The channel axis is the smaller
    of first and last.
    """

    low: torch.Tensor
    factor: torch.Tensor

    def __init__(self, obs_space: spaces.Box, model: CNN) -> None:
        super().__init__()
        shape = obs_space.shape
        self.add_channel = len(shape) == 2
        self.channels_last = len(shape) == 3 and shape[2] < shape[0]
        self.is_scaled = is_image(obs_space)
        if self.is_scaled:
            scale = PixelScale(obs_space)
            self.is_shifted = bool(np.any(scale.low))
            for name in ("low", "factor"):
                array = torch.as_tensor(getattr(scale, name), dtype=torch.float32)
                self.register_buffer(name, array, persistent=False)
        if self.add_channel:
            shape = (1, *shape)
        elif self.channels_last:
            shape = (shape[2], shape[0], shape[1])
        filters = model.conv_filters or _default_filters(shape)
        layers: list[nn.Module] = []
        channels = shape[0]
        for out_channels, kernel, stride in filters:
            layers += [
                nn.Conv2d(channels, out_channels, kernel, stride),
                ACTIVATIONS[model.conv_activation](),
            ]
            channels = out_channels
        self.convolutions = nn.Sequential(*layers, nn.Flatten())
        with torch.no_grad():
            try:
                flat_size = self.convolutions(torch.zeros(1, *shape)).shape[1]
            except RuntimeError as error:
                raise SpaceError(
                    f"model.conv_filters={filters} do not fit images of shape {obs_space.shape}: "
                    f"{error}"
                ) from error
        self.head = mlp(flat_size, model.post_fcnet_hiddens, model.post_fcnet_activation)
        self.output_size = self.head.output_size

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        images = obs
        if self.is_scaled:
            shifted = obs.float() - self.low if self.is_shifted else obs.float()
            images = shifted * self.factor
        if self.add_channel:
            images = images.unsqueeze(1)
        elif self.channels_last:
            images = images.permute(0, 3, 1, 2)
        return self.head(self.convolutions(images))


class NestedEncoder(nn.Module):
    """Rows of nested observations [..., width] -> features [..., output_size].

    Each image goes through convolutions of its own; what comes out stands side by side, with the
    vector of all other parts behind it, before the fully connected layers.
    """

    def __init__(self, layout: Layout, model: CNN) -> None:
        super().__init__()
        self.layout = layout
        bare = replace(model, post_fcnet_hiddens=[])
        self.images = nn.ModuleList(
            ConvolutionalEncoder(image.space, bare) for image in layout.images
        )
        size = sum(cast(Encoder, image).output_size for image in self.images) + layout.vector_size
        self.head = mlp(size, model.post_fcnet_hiddens, model.post_fcnet_activation)
        self.output_size = self.head.output_size

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        rows = obs.reshape(-1, obs.shape[-1])
        parts = [
            encoder(self.layout.image(rows, image))
            for encoder, image in zip(self.images, self.layout.images, strict=True)
        ]
        features = self.head(torch.cat([*parts, self.layout.vector(rows)], -1))
        return features.reshape(*obs.shape[:-1], -1)


class Layers(nn.Sequential):
    """Layers in a row, as an encoder."""

    output_size: int


class NoisyLinear(nn.Module):
    """Linear layer with factorised Gaussian parameter noise (Fortunato et al., 2018,
    arXiv:1706.10295, eq. 9-11): y = (mu + sigma f(e_out) f(e_in)^T) x + mu_b + sigma_b f(e_out).

    `use_noise` off gives the mean network. Noise is no part of the weights: learners draw it anew
    for each update, workers for each step and each of their rows.
    """

    noise_in: torch.Tensor
    noise_out: torch.Tensor

    def __init__(self, in_features: int, out_features: int, sigma0: float) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(out_features, in_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(out_features).uniform_(-bound, bound))
        self.sigma_weight = nn.Parameter(torch.full((out_features, in_features), sigma0 * bound))
        self.sigma_bias = nn.Parameter(torch.full((out_features,), sigma0 * bound))
        self.register_buffer("noise_in", torch.zeros(in_features), persistent=False)
        self.register_buffer("noise_out", torch.zeros(out_features), persistent=False)
        self.use_noise = True

    def draw_noise(self, rng: np.random.Generator, num_rows: int | None = None) -> None:
        """Draw new noise, one for all rows or one for each of `num_rows`, and use it."""
        self.use_noise = True
        for name, size in (("noise_in", self.weight.shape[1]), ("noise_out", self.weight.shape[0])):
            shape = (size,) if num_rows is None else (num_rows, size)
            draws = rng.standard_normal(shape, dtype=np.float32)
            noise = torch.from_numpy(np.sign(draws) * np.sqrt(np.abs(draws)))
            setattr(self, name, noise.to(self.weight.device))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        mean = nn.functional.linear(features, self.weight, self.bias)
        if not self.use_noise:
            return mean
        noisy = nn.functional.linear(features * self.noise_in, self.sigma_weight)
        return mean + (noisy + self.sigma_bias) * self.noise_out


def mlp(in_features: int, hiddens: list[int], activation: Activation) -> Layers:
    """Fully connected layers, each followed by the activation; orthogonal weights, zero biases."""
    layers: list[nn.Module] = []
    for width in hiddens:
        layers += [linear(in_features, width, gain=math.sqrt(2.0)), ACTIVATIONS[activation]()]
        in_features = width
    network = Layers(*layers)
    network.output_size = in_features
    return network


def linear(in_features: int, out_features: int, *, gain: float) -> nn.Linear:
    """A linear layer with orthogonal weights of the given gain and zero biases."""
    num_bytes = 4 * (in_features + 1) * out_features
    require_room(num_bytes, f"A layer of {in_features} x {out_features} weights")
    layer = nn.Linear(in_features, out_features)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer


def _default_filters(shape: tuple[int, ...]) -> list[list[int]]:
    side = min(shape[1:])
    for size in sorted(CONV_FILTERS, reverse=True):
        if side >= size:
            return CONV_FILTERS[size]
    raise SpaceError(
        f"No default convolutions for images of {shape[1]} x {shape[2]} pixels (at least 10 x 10). "
        f"Set model.conv_filters to layers of [channels, kernel, stride]."
    )
