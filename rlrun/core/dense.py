"""Fully connected layers, found among modules, and forward passes over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from rlrun.core.forward_pass import ForwardPass, grad_of

Tensor = torch.Tensor

NARROW = 16
"""A product with fewer columns takes a third of the time as the transposed one (50 us, not 160)."""

_ZERO = np.zeros((), np.float32)


@dataclass(frozen=True)
class Activation:
    """The first two write into their argument, the fresh output of a linear layer."""

    in_numpy: Callable[[np.ndarray], Any]
    in_torch: Callable[[Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]
    """(gradient by the output, output) -> gradient by the input."""


ACTIVATIONS: dict[type[nn.Module], Activation] = {
    nn.Tanh: Activation(
        lambda x: np.tanh(x, out=x), torch.tanh_, torch.ops.aten.tanh_backward.default
    ),
    nn.ReLU: Activation(
        lambda x: np.maximum(x, _ZERO, out=x),
        torch.relu_,
        lambda gradient, y: torch.ops.aten.threshold_backward.default(gradient, y, 0.0),
    ),
}


@dataclass(eq=False)
class DenseLayer:
    """A linear layer, and what comes after it."""

    weight: Tensor
    bias: Tensor
    activation: Activation | None = None


def dense_layers(modules: list[nn.Module]) -> list[DenseLayer] | None:
    """The modules as fully connected layers, or None if they are anything else."""
    layers: list[DenseLayer] = []
    for module in modules:
        # Exactly these classes: a subclass may have a forward of its own.
        if type(module) is nn.Linear and module.bias is not None:
            layers.append(DenseLayer(module.weight, module.bias))
        elif type(module) in ACTIVATIONS and layers and layers[-1].activation is None:
            layers[-1].activation = ACTIVATIONS[type(module)]
        elif type(module) is not nn.Identity:
            return None
    parameters = [id(parameter) for parameter in parameters_of(layers)]
    # What is used twice gets the sum of two gradients.
    return layers if len(set(parameters)) == len(parameters) else None


def parameters_of(layers: list[DenseLayer]) -> list[Tensor]:
    """All of them."""
    return [parameter for layer in layers for parameter in (layer.weight, layer.bias)]


class DensePass(ForwardPass):
    """Over layers that have no parameter in common, and no hooks."""

    @torch.no_grad()
    def __init__(self, layers: list[DenseLayer], x: Tensor) -> None:
        self._layers, self._seen = layers, [x]
        self.learns = bool(layers)
        for layer in layers:
            x = nn.functional.linear(x, layer.weight, layer.bias)
            if layer.activation is not None:
                x = layer.activation.in_torch(x)
            self._seen.append(x)
        self.outputs = x

    @torch.no_grad()
    def backward(self, gradient: Tensor) -> None:
        for place in range(len(self._layers) - 1, -1, -1):
            layer, inputs = self._layers[place], self._seen[place]
            if layer.activation is not None:
                gradient = layer.activation.gradient(gradient, self._seen[place + 1])
            if layer.weight.requires_grad:
                _put_product(gradient, inputs, grad_of(layer.weight))
            if layer.bias.requires_grad:
                torch.sum(gradient, 0, out=grad_of(layer.bias))
            if place:
                gradient = torch.mm(gradient, layer.weight)


def _put_product(gradient: Tensor, inputs: Tensor, out: Tensor) -> None:
    """Put gradient^T inputs into `out`."""
    if inputs.shape[1] < NARROW:
        out.copy_(torch.mm(inputs.t(), gradient).t())
    else:
        torch.mm(gradient.t(), inputs, out=out)
