"""Fully connected networks of one shape, run as one: the critics of actor-critics from replay."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn


class Ensemble(nn.Module):
    """`num_members` networks of rectified units, which see the same inputs and share nothing.

    Weights [members, in, out] and biases [members, 1, out] of all members lie together, so that a
    layer of all is one batched matrix product. They start as torch's linear layers do, uniform
    within 1 / sqrt(in); those of the last layer within `last_bound`, if that is given.
    """

    def __init__(
        self, widths: list[int], num_members: int, last_bound: float | None = None
    ) -> None:
        super().__init__()
        self.num_members = num_members
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for layer, (width_in, width_out) in enumerate(pairwise(widths)):
            bound = 1.0 / math.sqrt(width_in)
            if last_bound is not None and layer == len(widths) - 2:
                bound = last_bound
            weight = torch.empty(num_members, width_in, width_out).uniform_(-bound, bound)
            bias = torch.empty(num_members, 1, width_out).uniform_(-bound, bound)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(bias))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """inputs [N, in] -> outputs of every member, [members, N, out]."""
        outputs = inputs.expand(self.num_members, *inputs.shape)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            outputs = torch.baddbmm(bias, outputs, weight)
            if layer < last:
                outputs = torch.relu_(outputs)
        return outputs
