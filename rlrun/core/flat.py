"""A network's weights as one vector, and their gradient as another.

Broadcasts, Polyak averaging, perturbations and all-reduce are then one array operation each.
"""

from __future__ import annotations

from itertools import accumulate, compress
from operator import attrgetter, is_

import torch
from torch import nn

from rlrun.core import module_changes
from rlrun.core.errors import RlrunError

_GRAD, _IS_TRAINABLE = attrgetter("grad"), attrgetter("requires_grad")


class FlatParameters:
    """All parameters of `module` as views of one vector `values` [P], and their gradients as views
    of `grad` [P]; float32, on the module's device.

    User code may unbind them: `zero_grad()` takes the gradients away, `load_state_dict(...,
    assign=True)` puts other parameters in their place, `requires_grad_` freezes some. `bind`
    notices and mends that; whoever steps the network, or copies it, calls it first.
    """

    values: torch.Tensor
    grad: torch.Tensor

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.has_learner = False
        """Whether gradients are stepped along: then they must be views of `grad`, too."""
        self.num_layouts = 0
        """How often parameters were laid out: what is remembered of them before is old."""
        self._seen_changes = -1
        self._parameters: list[nn.Parameter] = []
        self._addresses: list[int] = []
        self._grads: list[torch.Tensor] = []
        self._are_trainable: list[bool] = []
        found = [parameter.detach().reshape(-1) for parameter in module.parameters()]
        self.values = torch.cat(found) if found else torch.zeros(0)
        self.grad = torch.zeros_like(self.values)
        self._lay_out()

    @property
    def trainable(self) -> tuple[nn.Parameter, ...]:
        """The parameters that a gradient step may move."""
        return tuple(compress(self._parameters, self._are_trainable))

    def part_of(self, module: nn.Module) -> slice:
        """Where the parameters of `module`, a part of the network, lie in the vectors."""
        own = {id(parameter) for parameter in module.parameters()}
        parts = [
            part
            for part, parameter in zip(self._parts(), self._parameters, strict=True)
            if id(parameter) in own
        ]
        if sum(part.stop - part.start for part in parts) != parts[-1].stop - parts[0].start:
            raise ValueError(f"The parameters of {type(module).__name__} do not lie side by side.")
        return slice(parts[0].start, parts[-1].stop)

    def trainable_in(self, part: slice) -> tuple[nn.Parameter, ...]:
        """Those in a part of the vectors."""
        return tuple(
            parameter
            for parameter, place, moves in zip(
                self._parameters, self._parts(), self._are_trainable, strict=True
            )
            if moves and part.start <= place.start and place.stop <= part.stop
        )

    def bind(self) -> bool:
        """Make the module's present parameters views of the vectors again, where they are not.

        The weights that the module has now are kept. Returns whether it had to look closely.
        Raises RlrunError if they have other shapes than when the vectors were made.
        """
        # Once or more each update: looks that run in C take 3 us, a loop 10.
        is_bound = (
            self._seen_changes == module_changes.count
            and list(map(torch.Tensor.data_ptr, self._parameters)) == self._addresses
        )
        if is_bound and self.has_learner:
            is_bound = (
                all(map(is_, map(_GRAD, self._parameters), self._grads))
                and list(map(_IS_TRAINABLE, self._parameters)) == self._are_trainable
            )
        if not is_bound:
            self._lay_out()
        return not is_bound

    def frozen(self) -> list[slice]:
        """The parts of the vectors whose parameters a gradient step must not move."""
        places = zip(self._parts(), self._are_trainable, strict=True)
        return [part for part, moves in places if not moves]

    def _parts(self) -> list[slice]:
        """The place of each parameter in the vectors."""
        ends = accumulate(parameter.numel() for parameter in self._parameters)
        return [slice(end - p.numel(), end) for end, p in zip(ends, self._parameters, strict=True)]

    def _lay_out(self) -> None:
        self.num_layouts += 1
        self._seen_changes = module_changes.count
        parameters = list(self.module.parameters())
        shapes = [parameter.shape for parameter in parameters]
        before = [parameter.shape for parameter in self._parameters]
        if before and shapes != before:
            raise RlrunError(
                "The network has other layers than when its learner was made. Change a network "
                "before training starts: in a model of your own (model=custom)."
            )
        sizes = [parameter.numel() for parameter in parameters]
        with torch.no_grad():
            for parameter, value, grad in zip(
                parameters, self.values.split(sizes), self.grad.split(sizes), strict=True
            ):
                view = value.view(parameter.shape)
                if parameter.data_ptr() != view.data_ptr():
                    view.copy_(parameter.detach())
                    parameter.data = view
                parameter.grad = grad.view(parameter.shape)
        self._parameters = parameters
        self._addresses = [parameter.data_ptr() for parameter in parameters]
        self._grads = [_GRAD(parameter) for parameter in parameters]
        self._are_trainable = [parameter.requires_grad for parameter in parameters]
