"""Spaces as plain values that JSON holds, so that a file of episodes needs no env to be read."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium import spaces

from rlrun.core.actions import Simplex
from rlrun.core.errors import SpaceError


def space_to_json(space: spaces.Space) -> dict[str, Any]:
    """The space as a dict with its class under `space`. Raises SpaceError for other kinds than
    `space_from_json` makes."""
    if isinstance(space, Simplex):
        return {"space": "Simplex", "size": space.shape[0], "dtype": str(space.dtype)}
    if isinstance(space, spaces.Box):
        bounds = {"low": _bound(space.low), "high": _bound(space.high)}
        return {"space": "Box", **bounds, "shape": list(space.shape), "dtype": str(space.dtype)}
    if isinstance(space, spaces.Discrete):
        return {"space": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        start = np.asarray(space.start).tolist()
        return {"space": "MultiDiscrete", "nvec": space.nvec.tolist(), "start": start}
    if isinstance(space, spaces.MultiBinary):
        n = int(space.n) if isinstance(space.n, int | np.integer) else list(space.shape)
        return {"space": "MultiBinary", "n": n}
    if isinstance(space, spaces.Dict) and all(isinstance(key, str) for key in space.spaces):
        parts = {key: space_to_json(part) for key, part in space.spaces.items()}
        return {"space": "Dict", "spaces": parts}
    if isinstance(space, spaces.Tuple):
        return {"space": "Tuple", "spaces": [space_to_json(part) for part in space.spaces]}
    raise SpaceError(
        f"Episodes in {space} cannot be written. Supported are Box, Discrete, MultiDiscrete, "
        f"MultiBinary, rlrun.Simplex, and Tuple and Dict (with text as keys) of these."
    )


def space_from_json(plain: dict[str, Any]) -> spaces.Space:
    """The space that `space_to_json` described. Raises KeyError, TypeError or ValueError if it is
    no such description."""
    kind = plain["space"]
    if kind == "Simplex":
        return Simplex(int(plain["size"]), np.dtype(plain["dtype"]))
    if kind == "Box":
        shape, dtype = tuple(map(int, plain["shape"])), np.dtype(plain["dtype"])
        low, high = (_bound_array(plain[name], shape, dtype) for name in ("low", "high"))
        return spaces.Box(low, high, shape, dtype.type)
    if kind == "Discrete":
        return spaces.Discrete(int(plain["n"]), start=int(plain["start"]))
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(np.array(plain["nvec"]), start=np.array(plain["start"]))
    if kind == "MultiBinary":
        return spaces.MultiBinary(plain["n"])
    if kind == "Dict":
        # Pairs keep their order, where gymnasium sorts a mapping.
        pairs = [(key, space_from_json(part)) for key, part in plain["spaces"].items()]
        return spaces.Dict(pairs)
    if kind == "Tuple":
        return spaces.Tuple([space_from_json(part) for part in plain["spaces"]])
    raise ValueError(f"there is no space {kind!r}")


def _bound(bound: np.ndarray) -> Any:
    """One number where all are the same, else nested lists; infinite ones as text."""
    if bound.size and (bound == bound.flat[0]).all():
        return _finite_or_text(bound.flat[0].item())
    return _map_leaves(_finite_or_text, bound.tolist())


def _bound_array(plain: Any, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    numbers = _map_leaves(lambda x: float(x) if isinstance(x, str) else x, plain)
    return np.broadcast_to(np.asarray(numbers, dtype), shape).copy()


def _finite_or_text(number: float) -> float | str:
    return number if math.isfinite(number) else str(number)


def _map_leaves(function: Any, nested: Any) -> Any:
    if isinstance(nested, list):
        return [_map_leaves(function, part) for part in nested]
    return function(nested)
