"""A network's weights as one vector, and their gradient as another.

Broadcasts, Polyak averaging, perturbations and all-reduce are then one array operation each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from rlrun.core.errors import RlrunError


@dataclass(frozen=True, eq=False)
class _Slot:
    """One parameter: where its module keeps it, and its parts of the two vectors."""

    owner: dict[str, nn.Parameter | None]
    name: str
    parameter: nn.Parameter
    is_trainable: bool
    address: int
    value: torch.Tensor
    grad: torch.Tensor


class FlatParameters:
    """All parameters of `module` as views of one vector `values` [P], and their gradients as views
    of `grad` [P]; float32, on the module's device.

    User code may unbind them: `zero_grad()` takes the gradients away, `load_state_dict(...,
    assign=True)` puts other parameters in their place, `requires_grad_` freezes some. `bind`
    notices and mends that; whoever steps the network calls it first.
    """

    values: torch.Tensor
    grad: torch.Tensor

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._slots: list[_Slot] = []
        self._modules: list[tuple[dict[str, nn.Module | None], list[nn.Module | None]]] = []
        self.trainable: tuple[nn.Parameter, ...] = ()
        """The parameters that a gradient step may move."""
        found = [parameter.detach().reshape(-1) for parameter in module.parameters()]
        self.values = torch.cat(found) if found else torch.zeros(0)
        self.grad = torch.zeros_like(self.values)
        self._lay_out()

    def bind(self) -> bool:
        """Make the module's present parameters views of the vectors again, where they are not.

        The weights that the module has now are kept. Returns whether anything had to be mended.
        Raises RlrunError if they have other shapes than when the vectors were made.
        """
        for place, found in self._modules:
            if list(place.values()) != found:
                self._lay_out()
                return True
        for slot in self._slots:
            parameter = slot.parameter
            if (
                slot.owner.get(slot.name) is not parameter
                or parameter.grad is not slot.grad
                or parameter.data_ptr() != slot.address
                or parameter.requires_grad is not slot.is_trainable
            ):
                self._lay_out()
                return True
        return False

    def frozen(self) -> list[slice]:
        """The parts of the vectors whose parameters a gradient step must not move."""
        parts, start = [], 0
        for slot in self._slots:
            end = start + slot.value.numel()
            if not slot.is_trainable:
                parts.append(slice(start, end))
            start = end
        return parts

    def _lay_out(self) -> None:
        places = [
            (owner._parameters, name)
            for owner in self.module.modules()
            for name, parameter in owner._parameters.items()
            if parameter is not None
        ]
        seen: set[int] = set()
        found = []
        for owner, name in places:
            parameter = owner[name]
            assert parameter is not None
            if id(parameter) not in seen:
                seen.add(id(parameter))
                found.append((owner, name, parameter))
        sizes = [parameter.numel() for _, _, parameter in found]
        shapes = [slot.value.shape for slot in self._slots]
        if sum(sizes) != self.values.numel() or (
            shapes and shapes != [parameter.shape for _, _, parameter in found]
        ):
            raise RlrunError(
                "The network has other layers than when its learner was made. Change a network "
                "before training starts: in a model of your own (model=custom)."
            )
        self._modules = [
            (module._modules, list(module._modules.values()))
            for module in self.module.modules()
            if module._modules
        ]
        self._slots = []
        with torch.no_grad():
            for (owner, name, parameter), value, grad in zip(
                found, self.values.split(sizes), self.grad.split(sizes), strict=True
            ):
                view = value.view(parameter.shape)
                if parameter.data_ptr() != view.data_ptr():
                    view.copy_(parameter.detach())
                    parameter.data = view
                is_trainable = parameter.requires_grad
                parameter.grad = grad.view(parameter.shape)
                self._slots.append(
                    _Slot(
                        owner,
                        name,
                        parameter,
                        is_trainable,
                        view.data_ptr(),
                        view,
                        parameter.grad,
                    )
                )
        self.trainable = tuple(slot.parameter for slot in self._slots if slot.is_trainable)
