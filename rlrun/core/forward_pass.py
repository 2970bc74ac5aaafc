"""Forward passes that go backward without autograd, whose bookkeeping takes as long as the products
of a small network.

Who makes a loss of a network's outputs gives its gradient by these; a pass carries that on to the
network's parameters and inputs. Where user code has hooks or modules of its own, autograd does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

Tensor = torch.Tensor


class ForwardPass:
    """What a network made of its inputs: `outputs`, of which nothing is recorded."""

    outputs: Tensor
    learns: bool
    """Whether there are parameters to go back to."""

    def backward(self, gradient: Tensor) -> None:
        """Put the gradient of a loss, given that by `outputs` (of their shape), into the `grad` of
        each parameter that is not frozen; those must be there, and hold zeros."""
        raise NotImplementedError


class AutogradPass(ForwardPass):
    """Of any network, by autograd. One that was made under torch.no_grad raises RuntimeError on its
    way back."""

    def __init__(self, network: Callable[[Tensor], Tensor], inputs: Tensor) -> None:
        self._recorded = network(inputs)
        self.outputs = self._recorded.detach()
        self.learns = self._recorded.requires_grad or not torch.is_grad_enabled()

    def backward(self, gradient: Tensor) -> None:
        if self.learns:
            torch.autograd.backward(self._recorded, gradient)


def grad_of(parameter: Tensor) -> Tensor:
    """Where the gradient of a parameter goes, which an optimiser has laid out."""
    assert parameter.grad is not None
    return parameter.grad


def has_hooks(parameters: Iterable[Tensor]) -> bool:
    """Whether user code looks at the gradient of any of these parameters, or changes it."""
    return any(
        parameter._backward_hooks or parameter._post_accumulate_grad_hooks  # type: ignore[attr-defined]
        for parameter in parameters
    )
