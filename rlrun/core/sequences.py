"""Sequences with a bootstrap step (`Algorithm.learns_from_sequences`), as a learner sees them."""

from __future__ import annotations

import torch

from rlrun.core.batch import Batch
from rlrun.core.policy import Policy

Tensor = torch.Tensor


class Unrolling:
    """What a network is to run on for `rows` [S, L + 1, ...], and where its results belong.

    A policy with memory runs on the sequences as they are, any other only on their real steps and
    bootstrap steps, one row each, so that padding costs nothing.
    """

    def __init__(self, policy: Policy, rows: Batch) -> None:
        mask = rows["mask"]
        self.mask = mask[:, :-1]
        """Where real steps are, [S, L]."""
        self.num_steps = self.mask.sum()
        """How many, a scalar."""
        self.rows = rows
        """What to give to the network."""
        self._shape = mask.shape
        self._places: Tensor | None = None
        if policy.initial_state(1):
            return
        # Each sequence has a first step, and after each real step another one.
        is_run = torch.cat([torch.ones_like(mask[:, :1]), self.mask], 1)
        self._places = places = is_run.reshape(-1).nonzero().squeeze(-1)
        self.rows = Batch(
            {name: rows[name].flatten(0, 1).index_select(0, places) for name in ("obs", "actions")}
        )

    def spread(self, column: Tensor) -> Tensor:
        """A result of the network, one number a step of `self.rows`, as [S, L + 1]."""
        if self._places is None:
            return column
        flat = column.new_zeros(self._shape.numel())
        return flat.index_copy(0, self._places, column).view(self._shape)

    def real(self, column: Tensor) -> Tensor:
        """The same at the steps that were taken: [S, L], 0 where there are none."""
        return torch.where(self.mask, self.spread(column)[:, :-1], 0.0)

    def mean(self, column: Tensor) -> Tensor:
        """Mean of a column [S, L], which is 0 in the padding, over all real steps."""
        return column.sum() / self.num_steps
