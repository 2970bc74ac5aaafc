"""How the trials of a sweep are called by people: `lr=0.001 seed=1`."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

_MAX_LETTERS = 120
"""Of a name that is part of a path."""


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last parts of each dotted key, as few as tell it from the others: algo.lr is lr."""
    parts = {key: key.lstrip("+").split(".") for key in keys}
    names = {}
    for key, own in parts.items():
        for length in range(1, len(own) + 1):
            name = ".".join(own[-length:])
            ends = Counter(".".join(other[-length:]) for other in parts.values())
            if ends[name] == 1:
                break
        names[key] = name
    return names


def value_text(value: Any, digits: int = 6) -> str:
    """A parameter's value in few letters; `digits` of a float."""
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def describe(params: Mapping[str, Any], separator: str = " ") -> str:
    """`lr=0.001 seed=1`; "" without parameters."""
    names = short_names(params)
    return separator.join(f"{names[key]}={value_text(value)}" for key, value in params.items())


def path_name(params: Mapping[str, Any]) -> str:
    """The same in letters that are good for a path: `lr=0.001,seed=1`."""
    return re.sub(r"[^\w.=,+-]+", "_", describe(params, ","))[:_MAX_LETTERS]
