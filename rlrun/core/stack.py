"""Modules in a row, run by the fastest way there is: most of a small network's time is overhead.

Fully connected networks on the CPU need no module calls. For the few rows of a vector step they
run in NumPy on the very memory of their parameters: a tenth of torch's time, and no weights to
copy. For a train batch they run as bare torch operations. All else runs module by module.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as torch_module

from rlrun.core import module_changes
from rlrun.core.dense import DenseLayer, DensePass, dense_layers, parameters_of
from rlrun.core.forward_pass import AutogradPass, ForwardPass, has_hooks
from rlrun.core.networks import Layers

Forward = Callable[[np.ndarray], np.ndarray]

MAX_NUMPY_WIDTH = 512
"""Wider layers are faster in torch, even for a few rows."""


class Stack:
    """The modules of `owner` at the attributes `names`, applied one after the other.

    Not a module itself: a policy keeps it beside the modules that hold its parameters. What user
    code does to these later (another head, other weights, a forward hook) counts from then on.
    """

    def __init__(self, owner: nn.Module, *names: str) -> None:
        self.owner = owner
        self.names = names
        self._seen_changes = -1
        self._hooks: list[dict[Any, Any]] = []
        self._has_hooks = False
        self._layers: list[DenseLayer] | None = None
        self._act: Forward | None = None
        self._addresses: list[int] = []
        self._compiled: Callable[[list[nn.Module], torch.Tensor], torch.Tensor] | None = None

    @property
    def modules(self) -> list[nn.Module]:
        """The modules as they are now."""
        return [getattr(self.owner, name) for name in self.names]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., features] or [N, ...] -> the last module's output, differentiable."""
        if torch.compiler.is_compiling():
            return through(self.modules, x)
        if not self._is_current():
            self._look()
        if self._compiled is not None and not self._has_hooks:
            # One graph for any number of rows from the first on, so that a resumed run, which sees
            # other numbers first, rounds alike.
            torch._dynamo.maybe_mark_dynamic(x, 0)
            return self._compiled(self.modules, x)
        if self._layers is None:
            return through(self.modules, x)
        for layer in self._layers:
            x = nn.functional.linear(x, layer.weight, layer.bias)
            if layer.activation is not None:
                x = layer.activation.in_torch(x)
        return x

    def run(self, x: torch.Tensor) -> ForwardPass:
        """A pass over x [N, features] or [N, ...] that can go backward."""
        if not self._is_current():
            self._look()
        layers = self._layers
        if layers is None or self._compiled is not None or has_hooks(parameters_of(layers)):
            return AutogradPass(self, x)
        return DensePass(layers, x)

    def act(self, x: np.ndarray) -> np.ndarray:
        """The same for NumPy arrays (float32), without gradients; best for a few rows."""
        if not self._is_current():
            self._look()
        # Parameters get other memory when an optimiser lays them out, or on a device.
        if self._act is None or self._addresses != _addresses(self._layers):
            self._addresses = _addresses(self._layers)
            self._act = self._make_act()
        return self._act(x)

    @property
    def runs_in_numpy(self) -> bool:
        """Whether `act` needs no torch, and so wants its weights on the CPU."""
        if not self._is_current():
            self._look()
        return self._layers is not None and all(map(_is_narrow, self._layers))

    def compile(self) -> None:
        """Let calls go through torch.compile from now on; `act` stays as it is."""
        # torch remembers what it compiled by code objects, and gives up if one has too many kinds
        # of input: each stack has its own.
        own = FunctionType(through.__code__.replace(), through.__globals__, "through")
        # What torch saw of other stacks would count here too: only rows vary, which are marked.
        self._compiled = torch.compile(own, dynamic=False)

    def _is_current(self) -> bool:
        """Whether modules and parameters are those that were found, and have no hooks."""
        return self._seen_changes == module_changes.count and not (
            self._has_hooks or any(self._hooks)
        )

    def _look(self) -> None:
        """See what the modules are now."""
        chain: list[nn.Module] = []
        self._act, self._seen_changes = None, module_changes.count
        involved: list[nn.Module] = []
        containers = [(self.owner, name) for name in self.names]
        while containers:
            owner, name = containers.pop(0)
            module = owner._modules[name]
            assert module is not None
            involved.append(module)
            if type(module) in (nn.Sequential, Layers):
                containers = [(module, child) for child in module._modules] + containers
            else:
                chain.append(module)
        self._hooks = module_hooks(involved)
        self._has_hooks = any(self._hooks)
        self._layers = None if self._has_hooks else dense_layers(chain)

    def _make_act(self) -> Forward:
        if self._layers is not None and all(map(_suits_numpy, self._layers)):
            return _numpy_forward(self._layers)
        return _torch_forward(self)

    def __getstate__(self) -> dict[str, Any]:
        # A copy looks at its own modules.
        state = dict.fromkeys(("_layers", "_act", "_compiled"))
        return self.__dict__ | state | {"_seen_changes": -1, "_hooks": [], "_addresses": []}


def module_hooks(modules: list[nn.Module]) -> list[dict[Any, Any]]:
    """Where the hooks are that torch calls when these modules are used."""
    hooks = [torch_module._global_forward_hooks, torch_module._global_forward_pre_hooks]
    for module in modules:
        hooks += [module._forward_hooks, module._forward_pre_hooks]
        hooks += [module._backward_hooks, module._backward_pre_hooks]
    return hooks


def in_float32(outputs: torch.Tensor) -> torch.Tensor:
    """What heads gave, for distributions and losses: those of bfloat16 overflow, and round ratios
    of 1 to others."""
    return outputs.float()


def through(modules: list[nn.Module], x: torch.Tensor) -> torch.Tensor:
    """x through one module after the other."""
    for module in modules:
        x = module(x)
    return x


def _addresses(layers: list[DenseLayer] | None) -> list[int]:
    return [layer.weight.data_ptr() for layer in layers or ()]


def _is_narrow(layer: DenseLayer) -> bool:
    return layer.weight.dtype == torch.float32 and max(layer.weight.shape) <= MAX_NUMPY_WIDTH


def _suits_numpy(layer: DenseLayer) -> bool:
    return layer.weight.device.type == "cpu" and _is_narrow(layer)


def _numpy_forward(layers: list[DenseLayer]) -> Forward:
    steps = [
        (
            layer.weight.detach().numpy().T,
            # As a row: for a single row nothing is broadcast then.
            layer.bias.detach().numpy()[None],
            None if layer.activation is None else layer.activation.in_numpy,
        )
        for layer in layers
    ]

    def forward(x: np.ndarray) -> np.ndarray:
        for weight, bias, activation in steps:
            x = x.dot(weight)  # Half the time of `@`, where both are small.
            x += bias
            if activation is not None:
                activation(x)
        return x

    return forward


def _torch_forward(stack: Stack) -> Forward:
    def forward(x: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            device = next((p.device for p in stack.owner.parameters()), None)
            return stack(torch.from_numpy(x).to(device or "cpu")).cpu().numpy()

    return forward
