"""The batch: a flat dict of equally long arrays that goes from the workers to the learner."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from rlrun.core.errors import BatchError

STATE = "state_in/"
"""Columns of a policy's state begin with it."""

ACTING_REWARDS = "acting_rewards"
"""The env's rewards, which policies see as `prev_rewards`, where others were added to `rewards`."""


class Batch(dict[str, Any]):
    """Columns by name; every column has the same leading axis (rows).

    A row is a step, [N, ...], or a sequence of up to L steps, [S, L, ...]; then `mask` [S, L] says
    which steps are real, and `state_in/<name>` [S, ...] holds the policy's state at each start.
    NumPy arrays on the workers, torch tensors after `to(device)`. The usual columns are obs,
    actions, rewards, terminated, truncated and whatever the policy and the algorithm's
    postprocessing add. `len(batch)` is the number of columns, as of any dict; see `num_rows`.
    """

    @property
    def num_rows(self) -> int:
        """Length of the leading axis; 0 for a batch without columns."""
        for column in self.values():
            return int(column.shape[0])
        return 0

    @property
    def num_steps(self) -> int:
        """Real steps: the rows themselves, or those in the sequences."""
        return int(self["mask"].sum()) if "mask" in self else self.num_rows

    def real(self, column: Any) -> Any:
        """The real steps of a column (of this batch, or computed from it): as it is [N, ...] where
        rows are steps, [S, L, ...] -> [num_steps, ...] where they are sequences."""
        return column[self["mask"]] if "mask" in self else column

    def require(self, *names: str) -> None:
        """Raise BatchError if one of the columns is missing."""
        missing = [name for name in names if name not in self]
        if missing:
            raise BatchError(
                f"The batch has no column {', '.join(map(repr, missing))}; it has "
                f"{', '.join(sorted(self))}. Does a callback's on_postprocess_trajectory drop it?"
            )

    def take(self, index: Any) -> Batch:
        """The rows at `index` (slice, mask or integer array) of every column."""
        return Batch({name: column[index] for name, column in self.items()})

    def copied(self) -> Batch:
        """The same rows in memory of their own."""
        return Batch({name: np.array(column) for name, column in self.items()})

    def to(self, device: torch.device | str = "cpu") -> Batch:
        """Every column as a torch tensor on `device`; no copy where memory can be shared."""
        tensors = {name: _as_tensor(column) for name, column in self.items()}
        if torch.device(device).type != "cpu":
            tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        return Batch(tensors)

    def minibatches(self, size: int, num_epochs: int, rng: np.random.Generator) -> Iterator[Batch]:
        """Shuffled parts of about `size` steps, every row once an epoch.

        Parts are equal but for one row: a rest never makes a minibatch of its own, in which a few
        rows would count as much as hundreds elsewhere.
        """
        num_parts = min(max(round(self.num_steps / size), 1), max(self.num_rows, 1))
        return self.shuffled_parts(num_parts, num_epochs, rng)

    def shuffled_parts(
        self, num_parts: int, num_epochs: int, rng: np.random.Generator
    ) -> Iterator[Batch]:
        """`num_parts` minibatches an epoch, equal but for one row; at most as many as rows."""
        num_rows = self.num_rows
        bounds = [num_rows * part // num_parts for part in range(num_parts + 1)]
        for _ in range(num_epochs):
            order = torch.from_numpy(rng.permutation(num_rows))
            shuffled = Batch(
                {
                    name: column.index_select(0, order.to(column.device))
                    for name, column in self.items()
                }
            )
            for start, end in pairwise(bounds):
                yield shuffled.take(slice(start, end))


def concat(batches: Sequence[Mapping[str, Any]]) -> Batch:
    """One batch with the rows of all NumPy `batches`, in order; those without columns are left out.

    Sequences are padded with zeros to the longest. Raises BatchError if the batches do not have the
    same columns.
    """
    batches = [batch for batch in batches if batch]
    if len(batches) == 1:
        return Batch(batches[0])
    names = batches[0].keys() if batches else ()
    for batch in batches:
        if batch.keys() != names:
            raise BatchError(
                f"Batches with different columns cannot be joined: {sorted(names)} "
                f"and {sorted(batch.keys())}."
            )
    if "mask" in names and len({batch["mask"].shape[1] for batch in batches}) > 1:
        width = max(batch["mask"].shape[1] for batch in batches)
        batches = [padded(batch, width) for batch in batches]
    return Batch({name: np.concatenate([batch[name] for batch in batches]) for name in names})


def padded(sequences: Mapping[str, Any], width: int) -> Batch:
    """Sequences [S, L, ...] as [S, width, ...]; columns with one entry a sequence stay."""
    shape = sequences["mask"].shape
    wide = Batch(sequences)
    for name in _columns_of_steps(sequences):
        column = sequences[name]
        wide[name] = np.zeros((shape[0], width, *column.shape[2:]), column.dtype)
        wide[name][:, : shape[1]] = column
    return wide


def trimmed(sequences: Batch) -> Batch:
    """Sequences without the steps that are padding in all of them, but for the one behind the
    longest, which may hold its bootstrap."""
    width = int(sequences["mask"].any(0).sum()) + 1
    steps = {name: sequences[name][:, :width] for name in _columns_of_steps(sequences)}
    return Batch({**sequences, **steps})


def _columns_of_steps(sequences: Mapping[str, Any]) -> list[str]:
    """The columns [S, L, ...], with an entry for each step."""
    shape = sequences["mask"].shape
    return [
        name
        for name, column in sequences.items()
        if not name.startswith(STATE) and column.shape[:2] == shape
    ]


def _as_tensor(column: Any) -> torch.Tensor:
    if not isinstance(column, np.ndarray):
        return column
    if not column.flags.writeable or min(column.strides, default=0) < 0:
        # Arrays from Ray's object store are read-only, which torch cannot express.
        column = column.copy()
    return torch.from_numpy(column)
