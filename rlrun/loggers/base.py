"""What a logger is, and the few ways in which all loggers read a result."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlrun.core.errors import ConfigError

_PLAIN_TYPES = frozenset({bool, int, float, str, type(None)})


@dataclass(frozen=True, kw_only=True)
class RunInfo:
    """What a logger may know about the run that it writes down."""

    folder: Path
    """The run's own folder; it exists, and every file of the run lies in it."""
    name: str
    """The run's name for people: one line, not necessarily unique."""
    config: dict[str, Any]
    """The composed configuration as plain dicts, lists and values."""
    stop: dict[str, float]
    """Result key -> the value at which the run ends; the first rule that is met ends it."""
    start_iteration: int
    """0 for a fresh run; k for a run that goes on from its checkpoint of iteration k."""
    sweep: str | None = None
    """The name of the sweep of which this run is a trial; None for a run of its own."""
    trial: str = ""
    """What is special about this trial, in letters that are good for a path: `lr=0.001,seed=1`."""


class Logger:
    """Writes the results of a run somewhere; subclass it and name its import path in YAML.

    Lives in the driver. One object may serve many runs, one after the other: `start`, any number
    of `log_result`, `close`. `close` is called once for every `start` that returned, and only then.
    """

    def start(self, run: RunInfo) -> None:
        """Called before the first iteration, fresh or resumed."""

    def log_result(self, result: dict[str, Any]) -> None:
        """Called after every training iteration with its nested result, which stays as it is."""

    def close(self, status: str) -> None:
        """Called when the run has ended: `status` is "finished", "interrupted" or "failed"."""


def flatten(result: dict[Any, Any], separator: str = "/") -> dict[str, Any]:
    """Nested dicts as one dict whose keys are joined by `separator`; empty dicts vanish."""
    flat: dict[str, Any] = {}
    for key, value in result.items():
        if isinstance(value, dict):
            inner = flatten(value, separator)
            flat.update({f"{key}{separator}{inner_key}": leaf for inner_key, leaf in inner.items()})
        else:
            flat[str(key)] = value
    return flat


def without(result: dict[str, Any], *keys: str) -> dict[str, Any]:
    """A shallow copy of `result` that lacks `keys`."""
    return {key: value for key, value in result.items() if key not in keys}


def to_json(value: Any, key: str = "") -> Any:
    """`value` in the types that `json` takes: NumPy and torch become numbers and lists.

    NaN stays NaN, which Python's json writes and reads. `key` names the value in errors.
    Raises TypeError for an object that has no such form.
    """
    if type(value) in _PLAIN_TYPES:
        return value
    if isinstance(value, dict):
        prefix = f"{key}/" if key else ""
        return {str(name): to_json(item, f"{prefix}{name}") for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(item, key) for item in value]
    if hasattr(value, "tolist"):
        return to_json(value.tolist(), key)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, int | float | str):  # their subclasses, such as an IntEnum
        return value
    raise TypeError(
        f"{key or 'The value'} is a {type(value).__name__}, which cannot be written as JSON. "
        f"Make it a number, a string, a list or a dict."
    )


def to_scalar(value: Any) -> Any:
    """The Python number in a zero-dimensional array or tensor; any other value as it is."""
    if type(value) in _PLAIN_TYPES or not hasattr(value, "item"):
        return value
    return value.item() if getattr(value, "ndim", 0) == 0 else value


def finite_scalars(result: dict[str, Any]) -> dict[str, float]:
    """Every finite number of a result by its flat key, `config` left out."""
    scalars = {key: to_scalar(value) for key, value in flatten(without(result, "config")).items()}
    return {key: value for key, value in scalars.items() if _is_finite(value)}


def lookup(result: dict[str, Any], key: str) -> Any:
    """The value of `key`, which may go into nested dicts by "/" or "."; None if there is none.

    A key that stands in the dict as it is wins, so names that hold a "/" or "." are found too.
    """
    if key in result:
        return result[key]
    for cut in (index for index, letter in enumerate(key) if letter in "/."):
        inner = result.get(key[:cut])
        if isinstance(inner, dict) and (value := lookup(inner, key[cut + 1 :])) is not None:
            return value
    return None


def first_rule_met(rules: Mapping[str, float], result: dict[str, Any]) -> str | None:
    """The first stop rule that `result` meets, as "stop.<key>=<value>", or None.

    Raises ConfigError if the value of a rule's key is no number.
    """
    for key, threshold in rules.items():
        value = lookup(result, key)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"stop.{key}: the result's {key!r} is {value!r}, not a number.")
        if value >= threshold:
            return f"stop.{key}={threshold:.12g}"
    return None


def tuned_or_general(name: str | None) -> str:
    """The one line that says which values a run has: those of a file of conf/tuned, or not."""
    if name is None:
        return "Values: the general ones, without a file of conf/tuned"
    return f"Values: tuned, of tuned={name} (tuned=none: the general ones)"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and -math.inf < value < math.inf
