"""Whether what an env gives is what its space says, so that no cast changes it in silence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

Bounds = tuple[np.ndarray | int, np.ndarray | int]


def misfit(
    space: spaces.Space, value: Any, *, lead: tuple[int, ...] = (), name: str = "the observation"
) -> str | None:
    """Why `value` is nothing that `space` holds, as the rest of a sentence; None if it is.

    A Box holds what its shape and dtype can: floats of any width where it holds floats, whole
    numbers within the range of its integers. Its bounds are not enforced, for many envs step over
    theirs a little. The other spaces hold exactly their numbers, keys and lengths. With `lead`,
    each leaf has these axes in front, as vector envs batch them.
    """
    if isinstance(space, spaces.Dict):
        return _misfit_dict(space, value, lead, name)
    if isinstance(space, spaces.Tuple):
        return _misfit_tuple(space, value, lead, name)
    if isinstance(space, spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary):
        return _misfit_array(space, value, (*lead, *(space.shape or ())), name)
    return None if lead or space.contains(value) else f"{name} is not in {space}"


def _misfit_dict(space: spaces.Dict, value: Any, lead: tuple[int, ...], name: str) -> str | None:
    if not isinstance(value, Mapping):
        return f"{name} is a {type(value).__name__}, and its space is a Dict"
    for key in space.spaces:
        if key not in value:
            return f"{name} lacks the key {key!r} of its space"
    for key in value:
        if key not in space.spaces:
            return f"{name} has the key {key!r}, which its space does not have"
    for key, part in space.spaces.items():
        found = misfit(part, value[key], lead=lead, name=f"{name}[{key!r}]")
        if found is not None:
            return found
    return None


def _misfit_tuple(space: spaces.Tuple, value: Any, lead: tuple[int, ...], name: str) -> str | None:
    if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
        size = f" of {len(value)} parts" if isinstance(value, tuple | list) else ""
        return (
            f"{name} is a {type(value).__name__}{size}, and its space is a Tuple of "
            f"{len(space.spaces)} parts"
        )
    for index, (part, given) in enumerate(zip(space.spaces, value, strict=True)):
        found = misfit(part, given, lead=lead, name=f"{name}[{index}]")
        if found is not None:
            return found
    return None


def _misfit_array(space: spaces.Space, value: Any, shape: tuple[int, ...], name: str) -> str | None:
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:  # lists of different lengths
        return f"{name} is no array: {error}"
    if array.dtype.kind not in "biuf":
        return f"{name} is {_shown(value)}, and its space {space} holds numbers"
    if array.shape != shape:
        return f"{name} has the shape {array.shape}, and its space {space} has {shape}"
    bounds = _whole_numbers(space)
    if bounds is None or (isinstance(space, spaces.Box) and array.dtype == space.dtype):
        return None
    low, high = bounds
    is_held = (array >= low) & (array <= high)
    if array.dtype.kind == "f":
        is_held &= array == np.floor(array)
    if is_held.all():
        return None
    index = tuple(np.argwhere(~is_held)[0])
    place = f" at {[int(i) for i in index]}" if index else ""
    what = f"whole numbers of {space.dtype}" if isinstance(space, spaces.Box) else "other numbers"
    return f"{name} is {array[index]}{place}, and its space {space} holds {what}"


def _whole_numbers(space: spaces.Space) -> Bounds | None:
    """The least and the largest whole number of each entry; None where these are floats."""
    if isinstance(space, spaces.Discrete):
        return int(space.start), int(space.start + space.n - 1)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    if isinstance(space, spaces.MultiBinary) or space.dtype == np.bool_:
        return 0, 1
    if np.issubdtype(space.dtype, np.integer):
        limits = np.iinfo(space.dtype)
        return int(limits.min), int(limits.max)
    return None


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"a {type(value).__name__}"
