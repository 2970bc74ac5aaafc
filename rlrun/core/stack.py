"""Modules in a row, run by the fastest way there is: most of a small network's time is overhead.

Fully connected networks on the CPU need no module calls. For the few rows of a vector step they
run in NumPy on the very memory of their parameters: a tenth of torch's time, and no weights to
copy. For a train batch they run as bare torch operations. All else runs module by module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from rlrun.core.networks import Layers

Forward = Callable[[np.ndarray], np.ndarray]

MAX_NUMPY_WIDTH = 512
"""Wider layers are faster in torch, even for a few rows."""


class Stack:
    """`modules` applied one after the other; they stay where they are registered.

    Not a module itself: a policy keeps it beside the modules that hold its parameters.
    """

    def __init__(self, *modules: Any) -> None:
        self.modules: tuple[nn.Module, ...] = modules
        self._layers = _dense_layers(modules)
        self._parameters = [p for module in self.modules for p in module.parameters()]
        self._act: Forward | None = None
        self._act_memory: list[int] = []

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [N, ...] -> [N, ...], differentiable."""
        if self._layers is None:
            for module in self.modules:
                x = module(x)
            return x
        for layer in self._layers:
            x = nn.functional.linear(x, layer.weight, layer.bias)
            if layer.activation is not None:
                x = layer.activation.in_torch(x)
        return x

    def act(self, x: np.ndarray) -> np.ndarray:
        """The same for NumPy arrays (float32), without gradients; best for a few rows."""
        memory = [parameter.data_ptr() for parameter in self._parameters]
        if self._act is None or self._act_memory != memory:
            # Parameters get other memory when an optimiser flattens them, or on a device.
            self._act, self._act_memory = self._make_act(), memory
        return self._act(x)

    def __reduce__(self) -> tuple[Any, ...]:
        # A copy has views of its own parameters.
        return Stack, self.modules

    def _make_act(self) -> Forward:
        if self._layers is not None and all(map(_suits_numpy, self._layers)):
            return _numpy_forward(self._layers)
        buffers = (buffer for module in self.modules for buffer in module.buffers())
        some_tensor = next(iter([*self._parameters, *buffers]), torch.empty(0))
        return _torch_forward(self.modules, some_tensor.device)


@dataclass(frozen=True)
class _Activation:
    """Both write into their argument, the fresh output of a linear layer."""

    in_numpy: Callable[[np.ndarray], Any]
    in_torch: Callable[[torch.Tensor], torch.Tensor]


_ZERO = np.zeros((), np.float32)

_ACTIVATIONS: dict[type[nn.Module], _Activation] = {
    nn.Tanh: _Activation(lambda x: np.tanh(x, out=x), torch.tanh_),
    nn.ReLU: _Activation(lambda x: np.maximum(x, _ZERO, out=x), torch.relu_),
}


@dataclass(frozen=True, eq=False)
class _DenseLayer:
    weight: torch.Tensor
    bias: torch.Tensor
    activation: _Activation | None = None


def _dense_layers(modules: tuple[nn.Module, ...]) -> list[_DenseLayer] | None:
    """The modules as fully connected layers, or None if they are anything else."""
    layers: list[_DenseLayer] = []
    for module in _flattened(modules):
        # Exactly these classes: a subclass may have a forward of its own.
        if type(module) is nn.Linear and module.bias is not None:
            layers.append(_DenseLayer(module.weight, module.bias))
        elif type(module) in _ACTIVATIONS and layers and layers[-1].activation is None:
            layers[-1] = replace(layers[-1], activation=_ACTIVATIONS[type(module)])
        elif type(module) is not nn.Identity:
            return None
    return layers


def _flattened(modules: tuple[nn.Module, ...]) -> list[nn.Module]:
    flat: list[nn.Module] = []
    for module in modules:
        if type(module) in (nn.Sequential, Layers):
            flat += _flattened(tuple(module.children()))
        else:
            flat.append(module)
    return flat


def _suits_numpy(layer: _DenseLayer) -> bool:
    is_plain = layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32
    return is_plain and max(layer.weight.shape) <= MAX_NUMPY_WIDTH


def _numpy_forward(layers: list[_DenseLayer]) -> Forward:
    steps = [
        (
            layer.weight.detach().numpy().T,
            layer.bias.detach().numpy(),
            None if layer.activation is None else layer.activation.in_numpy,
        )
        for layer in layers
    ]

    def forward(x: np.ndarray) -> np.ndarray:
        for weight, bias, activation in steps:
            x = x @ weight
            x += bias
            if activation is not None:
                activation(x)
        return x

    return forward


def _torch_forward(modules: tuple[nn.Module, ...], device: torch.device) -> Forward:
    def forward(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            y = torch.from_numpy(x).to(device)
            for module in modules:
                y = module(y)
            return y.cpu().numpy()

    return forward
