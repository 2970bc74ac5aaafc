"""A table of Gaussian noise that all processes of a run have alike, so that a perturbation of the
weights travels as one number: where in the table it begins (Salimans et al., 2017, sec. 2.1)."""

from __future__ import annotations

from typing import Any
from weakref import WeakValueDictionary

import numpy as np
import torch

_tables: WeakValueDictionary[tuple[int, int], NoiseTable] = WeakValueDictionary()


class NoiseTable:
    """`size` standard normal numbers, float32, that follow from `seed`. Perturbations are pieces
    that may overlap: with far more numbers than weights, hardly any two are much alike."""

    def __init__(self, seed: int, size: int) -> None:
        self.seed = seed
        self.size = size
        numbers = np.random.default_rng(seed).standard_normal(size, dtype=np.float32)
        self.values = torch.from_numpy(numbers)

    def piece(self, index: int, length: int) -> torch.Tensor:
        """The `length` numbers from `index` on, a view [length]."""
        return self.values[index : index + length]

    def draw_indices(self, rng: np.random.Generator, count: int, length: int) -> np.ndarray:
        """Where `count` random pieces of `length` numbers begin, [count], int64."""
        return rng.integers(self.size - length + 1, size=count)

    def weighted_sum(self, weights: np.ndarray, indices: np.ndarray, length: int) -> torch.Tensor:
        """sum_i weights[i] * piece(indices[i]), [length], float32, one piece after the other."""
        total = torch.zeros(length)
        for weight, index in zip(weights.tolist(), indices.tolist(), strict=True):
            total.add_(self.piece(index, length), alpha=weight)
        return total

    def __reduce__(self) -> tuple[Any, ...]:
        # It travels as its seed.
        return shared_noise_table, (self.seed, self.size)


def shared_noise_table(seed: int, size: int) -> NoiseTable:
    """The table of that seed and size, which a process has once, as long as somebody holds it."""
    table = _tables.get((seed, size))
    if table is None:
        table = _tables[seed, size] = NoiseTable(seed, size)
    return table
