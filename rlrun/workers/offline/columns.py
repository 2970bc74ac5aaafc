"""Columns of spaces: an array [N, ...] for each leaf, in dicts and tuples as the space has them;
and how JSON holds them, as nested lists or packed."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

Column = Any
"""An array [N, ...], or a dict or tuple of such columns."""


def stacked(space: spaces.Space, rows: Sequence[Any]) -> Column:
    """Values of `space`, one after the other, as a column in its dtypes."""
    if isinstance(space, spaces.Dict):
        return {key: stacked(part, [row[key] for row in rows]) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(stacked(part, [row[i] for row in rows]) for i, part in enumerate(space))
    return np.asarray(rows, space.dtype).reshape(len(rows), *(space.shape or ()))


def encode(column: Column, *, is_packed: bool) -> Any:
    """A column as JSON holds it."""
    if isinstance(column, dict):
        return {key: encode(part, is_packed=is_packed) for key, part in column.items()}
    if isinstance(column, tuple):
        return [encode(part, is_packed=is_packed) for part in column]
    return {"npy": _pack(column)} if is_packed else _as_lists(column)


def decode(space: spaces.Space, plain: Any) -> Column:
    """The column of `space` that `encode` gave. Numbers keep the types that they have there; see
    `cast`. Raises KeyError, TypeError or ValueError if it is none."""
    if isinstance(space, spaces.Dict):
        return {key: decode(part, plain[key]) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(decode(part, of_part) for part, of_part in zip(space, plain, strict=True))
    return decode_array(plain)


def decode_array(plain: Any) -> np.ndarray:
    """The array that `encode` gave."""
    return _unpack(plain["npy"]) if isinstance(plain, dict) else np.asarray(plain)


def cast(space: spaces.Space, column: Column) -> Column:
    """A column that fits `space` (see `misfit`), in its dtypes."""
    if isinstance(space, spaces.Dict):
        return {key: cast(part, column[key]) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(cast(part, of_part) for part, of_part in zip(space, column, strict=True))
    return np.asarray(column, space.dtype)


def _as_lists(array: np.ndarray) -> list[Any]:
    if array.dtype.kind == "f" and array.dtype.itemsize < 8:
        # The shortest decimals that give the same float32 again: half of what a float64 takes.
        array = array.astype("U").astype(np.float64)
    return array.tolist()


def _pack(array: np.ndarray) -> str:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return base64.b64encode(zlib.compress(file.getvalue(), 9)).decode()


def _unpack(text: str) -> np.ndarray:
    try:
        file = io.BytesIO(zlib.decompress(base64.b64decode(text, validate=True)))
    except zlib.error as error:
        raise ValueError(f"a packed column is damaged: {error}") from error
    return np.load(file, allow_pickle=False)
