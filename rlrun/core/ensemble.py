"""Fully connected networks of one shape, run as one: the critics of actor-critics from replay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

from rlrun.core.forward_pass import grad_of

Tensor = torch.Tensor


class Ensemble(nn.Module):
    """`num_members` networks of rectified units, which see the same inputs and share nothing.

    The weights of all members lie together, so that a layer of all is one batched matrix product:
    [members, in, out], those of the last layer [members, out, in], biases [members, 1, out] and
    [members, out, 1]. They start as torch's linear layers do, uniform within 1 / sqrt(in); those of
    the last layer within `last_bound`, if that is given.
    """

    def __init__(
        self, widths: list[int], num_members: int, last_bound: float | None = None
    ) -> None:
        super().__init__()
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for layer, (width_in, width_out) in enumerate(pairwise(widths)):
            bound = 1.0 / math.sqrt(width_in)
            weight_shape, bias_shape = (width_in, width_out), (1, width_out)
            if layer == len(widths) - 2:
                bound = bound if last_bound is None else last_bound
                weight_shape, bias_shape = (width_out, width_in), (width_out, 1)
            for parameters, shape in ((self.weights, weight_shape), (self.biases, bias_shape)):
                numbers = torch.empty(num_members, *shape).uniform_(-bound, bound)
                parameters.append(nn.Parameter(numbers))

    def forward(self, inputs: Tensor) -> Tensor:
        """inputs [N, in] -> outputs of every member, [members, N, out]."""
        parameters = self.weights_and_biases
        return _outputs(_hidden(inputs, parameters)[-1], parameters)

    @property
    def weights_and_biases(self) -> list[Tensor]:
        """All weights, then all biases."""
        # A walk through the lists themselves takes ten times as long.
        weights, biases = self.weights._parameters, self.biases._parameters
        return [*weights.values(), *biases.values()]  # type: ignore[list-item]

    def run(self, inputs: Tensor, num_members: int | None = None) -> EnsemblePass:
        """A pass that can go backward, of every member; one of the first `num_members` to its
        inputs alone."""
        return EnsemblePass(self, inputs, num_members)


class EnsemblePass:
    """What an ensemble made of inputs [N, in]: `outputs` [members, N, out], of which nothing is
    recorded. It asks no hooks."""

    @torch.no_grad()
    def __init__(self, ensemble: Ensemble, inputs: Tensor, num_members: int | None) -> None:
        self._parameters = ensemble.weights_and_biases
        self._of_all = num_members is None
        self._values: list[Tensor] = list(self._parameters)
        if num_members is not None:
            self._values = [parameter[:num_members] for parameter in self._parameters]
        self._seen = _hidden(inputs, self._values)
        self.outputs = _outputs(self._seen[-1], self._values)

    def backward(self, gradient: Tensor) -> None:
        """As that of `ForwardPass`."""
        self._go_back(gradient, self._into(), to_inputs=False)

    def backward_to_inputs(self, gradient: Tensor) -> Tensor:
        """`backward`, and the gradient by the inputs, [N, in]."""
        return self._go_back(gradient, self._into(), to_inputs=True).sum(0)

    @torch.no_grad()
    def least(self) -> tuple[Tensor, Tensor]:
        """Of members with one output the least of each row, [N], and its gradient by the inputs,
        [N, in]."""
        values, members = self.outputs.squeeze(-1).min(0)
        if len(self.outputs) > 1 and _splits_well(values.device):
            return values, self._by_inputs_of(members)
        return values, self._by_inputs_through_all(members)

    def _by_inputs_through_all(self, members: Tensor) -> Tensor:
        """The gradient by the inputs, [N, in], of one member's output for each row; members: [N].
        All rows go back through every member, with gradients of 0 but for their own."""
        chosen = torch.zeros_like(self.outputs).scatter_(0, members.view(1, -1, 1), 1.0)
        return self._go_back(chosen, [None] * len(self._parameters), to_inputs=True).sum(0)

    def _by_inputs_of(self, members: Tensor) -> Tensor:
        """The same. A row goes back through its member alone: of two, half the work."""
        members, rows = members.sort()  # The rows of a member lie together.
        num_members, num_rows = self.outputs.shape[:2]
        parts = torch.bincount(members, minlength=num_members).tolist()
        places = members * num_rows + rows
        weights = self._values[: len(self._seen)]
        gradient = weights[-1].squeeze(1).index_select(0, members)
        for layer in range(len(self._seen) - 2, -1, -1):
            outputs = self._seen[layer + 1].flatten(0, 1).index_select(0, places)
            _through_rectifier(gradient, outputs)
            by_inputs = gradient.new_empty(num_rows, weights[layer].shape[1])
            by_member = zip(
                gradient.split(parts), weights[layer], by_inputs.split(parts), strict=True
            )
            for of_member, weight, out in by_member:
                torch.mm(of_member, weight.t(), out=out)
            gradient = by_inputs
        return torch.empty_like(gradient).index_copy_(0, rows, gradient)

    def _into(self) -> list[Tensor | None]:
        """Where the gradients of the parameters go; None for those that are frozen."""
        assert self._of_all
        return [grad_of(p) if p.requires_grad else None for p in self._parameters]

    @torch.no_grad()
    def _go_back(self, gradient: Tensor, into: list[Tensor | None], *, to_inputs: bool) -> Tensor:
        num_layers = len(self._seen)
        weights, seen = self._values[:num_layers], self._seen
        of_weights, of_biases = into[:num_layers], into[num_layers:]
        if of_weights[-1] is not None:
            torch.bmm(gradient.transpose(1, 2), seen[-1], out=of_weights[-1])
        if of_biases[-1] is not None:
            torch.sum(gradient.transpose(1, 2), 2, keepdim=True, out=of_biases[-1])
        # An outer product of one output is far faster as a product of numbers.
        is_single = gradient.shape[-1] == 1
        gradient = gradient * weights[-1] if is_single else torch.bmm(gradient, weights[-1])
        for layer in range(num_layers - 2, -1, -1):
            _through_rectifier(gradient, seen[layer + 1])
            if (of_weight := of_weights[layer]) is not None:
                torch.bmm(seen[layer].transpose(1, 2), gradient, out=of_weight)
            if (of_bias := of_biases[layer]) is not None:
                torch.sum(gradient, 1, keepdim=True, out=of_bias)
            if layer or to_inputs:
                gradient = torch.bmm(gradient, weights[layer].transpose(1, 2))
        return gradient


def _splits_well(device: torch.device) -> bool:
    """Whether products may have as many rows as it happens. On a GPU the host would have to wait to
    hear how many; those of less than full precision are compiled for each number anew."""
    return device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"


def _hidden(inputs: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """What each layer sees, [members, N, in]."""
    num_layers = len(parameters) // 2
    seen = [inputs.expand(len(parameters[0]), *inputs.shape)]
    for weight, bias in zip(parameters[: num_layers - 1], parameters[num_layers:-1], strict=True):
        seen.append(torch.baddbmm(bias, seen[-1], weight).relu_())
    return seen


def _outputs(features: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    # With few outputs, in this order a tenth of the time of the other (20 us against 230).
    weight, bias = parameters[len(parameters) // 2 - 1], parameters[-1]
    return torch.baddbmm(bias, weight, features.transpose(1, 2)).transpose(1, 2)


def _through_rectifier(gradient: Tensor, outputs: Tensor) -> None:
    """Set to zero what rectified units let not pass."""
    torch.ops.aten.threshold_backward.grad_input(gradient, outputs, 0, grad_input=gradient)
