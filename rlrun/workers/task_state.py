"""Tasks of envs: how they are set. And how a checkpoint, which knows no tuples and no keys but
text, can hold them, infos and notes of callbacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np

PLAIN = (bool, int, float, str, type(None))


def pack(task: Any, noun: str = "task") -> dict[str, Any]:
    """`task` as {kind: content}, of which `unpack` makes an equal one; arrays are copied. `noun` is
    what errors call it.

    Raises TypeError for what is not made of numbers, text, arrays, lists, tuples and dicts.
    """
    if isinstance(task, np.generic) and task.dtype.kind in "biuf":
        return {"number": np.array(task)}
    if isinstance(task, np.ndarray) and task.dtype.kind in "biuf":
        return {"array": task.copy()}
    if type(task) in PLAIN:
        return {"plain": task}
    if type(task) in (list, tuple):
        return {type(task).__name__: [pack(part, noun) for part in task]}
    if type(task) is dict:
        return {"dict": [[pack(key, noun), pack(part, noun)] for key, part in task.items()]}
    raise TypeError(
        f"the {noun} {task!r} is a {type(task).__name__}, which a checkpoint cannot hold. A {noun} "
        f"must be made of numbers, text, arrays, lists, tuples and dicts."
    )


def unpack(packed: dict[str, Any]) -> Any:
    """The task that `pack` was given."""
    ((kind, content),) = packed.items()
    if kind == "number":
        return np.asarray(content)[()]
    if kind == "array":
        return np.array(content)
    if kind in ("list", "tuple"):
        parts = [unpack(part) for part in content]
        return parts if kind == "list" else tuple(parts)
    if kind == "dict":
        return {unpack(key): unpack(part) for key, part in content}
    return content


def pack_entries(values: Mapping[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """The entries that can be packed, as one; and the names of those that cannot."""
    packed, left_out = [], []
    for name, value in values.items():
        try:
            packed.append([pack(name), pack(value)])
        except TypeError:
            left_out.append(str(name))
    return {"dict": packed}, left_out


def unpack_entries(packed: dict[str, Any]) -> dict[Any, Any]:
    """The entries that `pack_entries` could pack."""
    return dict(unpack(packed))


def is_same(packed: Any, other: Any) -> bool:
    """Whether two packed tasks are equal in every part."""
    if isinstance(packed, dict):
        return packed.keys() == other.keys() and all(is_same(packed[k], other[k]) for k in packed)
    if isinstance(packed, list):
        return len(packed) == len(other) and all(map(is_same, packed, other))
    return bool(np.array_equal(packed, other))


def update_task(env: Any, next_task: Callable[[Any], Any]) -> Any:
    """Set an env's task to what next_task(the layer of the env that has get_task and set_task)
    gives, unless it has that already; returns the task."""
    layer = env
    while isinstance(layer, gym.Wrapper) and not _has_tasks(layer):
        layer = layer.env
    task = next_task(layer)
    if not is_same(pack(task), pack(layer.get_task())):
        layer.set_task(task)
    return task


def _has_tasks(layer: Any) -> bool:
    return hasattr(layer, "get_task") and hasattr(layer, "set_task")
