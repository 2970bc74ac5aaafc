"""Dict and Tuple spaces as trees: their leaves, and what lies at a place of a value of theirs."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

Path = tuple[Any, ...]
"""Keys and indices that lead from the root to a leaf."""


def leaves_of(space: spaces.Space, path: Path = ()) -> list[tuple[Path, spaces.Space]]:
    """(path, space) of every part that is neither a Dict nor a Tuple, in order."""
    if isinstance(space, spaces.Dict):
        return [leaf for key, part in space.items() for leaf in leaves_of(part, (*path, key))]
    if isinstance(space, spaces.Tuple):
        return [leaf for i, part in enumerate(space) for leaf in leaves_of(part, (*path, i))]
    return [(path, space)]


def at(values: Any, path: Path) -> Any:
    """What lies at `path` in nested values."""
    for key in path:
        values = values[key]
    return values


def row_of(batched: Any, index: int) -> Any:
    """One row of an array [N, ...], or of a dict or tuple of such arrays."""
    if isinstance(batched, dict):
        return {key: row_of(part, index) for key, part in batched.items()}
    if isinstance(batched, tuple):
        return tuple(row_of(part, index) for part in batched)
    return batched[index]


def copied(batched: Any) -> Any:
    """An array, or a dict or tuple of arrays, in memory of its own."""
    if isinstance(batched, dict):
        return {key: copied(part) for key, part in batched.items()}
    if isinstance(batched, tuple):
        return tuple(map(copied, batched))
    return np.array(batched)
