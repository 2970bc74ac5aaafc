"""What hyperparameters may be, as one line where they are not; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import fields
from typing import Any

from rlrun.core.errors import ConfigError


def check_range(
    name: str, value: float | None, *, low: float, high: float = float("inf"), key: str = "algo"
) -> None:
    """Raise ConfigError unless `value` is None or lies in [low, high]."""
    if value is not None and not (low <= value <= high and math.isfinite(value)):
        bounds = f"between {low:g} and {high:g}" if high < math.inf else f"at least {low:g}"
        bounds += ", and finite" if value == math.inf else ""
        raise ConfigError(f"{key}.{name}={value} must be {bounds}.")


def check_not_negative(exploration: Any, *names: str, exclusive: bool = False) -> None:
    """Raise ConfigError if one of the hyperparameters is below 0 (`exclusive`: is not above)."""
    for name in names:
        value = getattr(exploration, name)
        if not (math.isfinite(value) and (value > 0.0 or (value == 0.0 and not exclusive))):
            bound = "above 0" if exclusive else "at least 0"
            raise ConfigError(f"exploration.{name}={value} must be a finite number, {bound}.")


def check_widths(key: str, widths: list[int]) -> None:
    """Raise ConfigError if a layer has no units."""
    if any(width < 1 for width in widths):
        raise ConfigError(f"{key}={widths}: every width must be at least 1.")


def refuse_unused(algorithm: Any, names: Collection[str], because: str) -> None:
    """Raise ConfigError if one of the hyperparameters has another value than its default, which
    nothing would look at, `because` ..."""
    for each in fields(algorithm):
        value = getattr(algorithm, each.name)
        if each.name in names and value != each.default:
            raise ConfigError(
                f"algo.{each.name}={value} has no effect: {because}. Leave it at {each.default}."
            )
