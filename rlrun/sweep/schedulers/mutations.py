"""How population-based training finds other values of a hyperparameter."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rlrun.core.errors import ConfigError

BOUNDS = {"min", "max", "log"}
"""The keys of a mapping that is a range, and no group of keys."""


class Mutation(Protocol):
    """The values that one hyperparameter may have."""

    def draw(self, chance: random.Random) -> Any:
        """Any of them; None where there is nothing to draw from."""

    def perturb(self, value: Any, factors: Sequence[float], chance: random.Random) -> Any:
        """One near `value`."""


@dataclass(frozen=True)
class Choices:
    """One of a list, in its order."""

    values: tuple[Any, ...]

    def draw(self, chance: random.Random) -> Any:
        return chance.choice(self.values)

    def perturb(self, value: Any, factors: Sequence[float], chance: random.Random) -> Any:
        """A neighbour in the list, or the value itself at its ends."""
        if value not in self.values:
            return self.draw(chance)
        index = self.values.index(value) + chance.choice((-1, 1))
        return self.values[min(max(index, 0), len(self.values) - 1)]


@dataclass(frozen=True)
class Range:
    """A number between two others, drawn evenly, or by its logarithm."""

    low: float = -math.inf
    high: float = math.inf
    log: bool = False

    def draw(self, chance: random.Random) -> Any:
        if not (math.isfinite(self.low) and math.isfinite(self.high)):
            return None
        if self.log:
            value = math.exp(chance.uniform(math.log(self.low), math.log(self.high)))
            return self._clipped(value)
        if isinstance(self.low, int) and isinstance(self.high, int):
            return chance.randint(self.low, self.high)
        return chance.uniform(self.low, self.high)

    def perturb(self, value: Any, factors: Sequence[float], chance: random.Random) -> Any:
        """The value times one of the factors, within the bounds; a whole number moves by one at
        least."""
        factor = chance.choice(factors)
        moved = value * factor
        if not isinstance(value, int):
            return float(min(max(moved, self.low), self.high))
        step = 1 if moved > value else -1
        moved = round(moved) if round(moved) != value else value + step
        return self._clipped(moved)

    def refuse_beginning(self, key: str, value: Any) -> None:
        """Raise ConfigError if a trial that has `value` (None: the sweep sets none) cannot begin
        there."""
        if value is None and math.isfinite(self.low):
            return  # It begins with one that is drawn.
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ConfigError(
                f"scheduler.hyperparam_mutations.{key} changes a number by factors, and begins "
                f"with {key}={json.dumps(value)}. Set {key} to a number, or give a range: "
                f"{{min: 1e-5, max: 1e-2, log: true}}, or a list."
            )

    def _clipped(self, value: float) -> float:
        value = min(max(value, self.low), self.high)
        is_whole = isinstance(self.low, int) and isinstance(self.high, int)
        return round(value) if is_whole else value


def read_mutations(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Mutation]:
    """`scheduler.hyperparam_mutations` by dotted key.

    A list gives choices; {min: a, max: b, log: true} a range; null any number, by factors only.
    Other mappings group keys. Raises ConfigError.
    """
    found: dict[str, Mutation] = {}
    for name, node in tree.items():
        key = f"{prefix}{name}"
        if isinstance(node, Mapping) and node and not node.keys() <= BOUNDS:
            found |= read_mutations(node, f"{key}.")
        else:
            found[key] = _mutation(node, f"scheduler.hyperparam_mutations.{key}")
    return found


def explore(
    values: Mapping[str, Any],
    mutations: Mapping[str, Mutation],
    resample_probability: float,
    factors: Sequence[float],
    chance: random.Random,
) -> dict[str, Any]:
    """Other values near `values`, each drawn anew with that probability (Jaderberg et al., 2017).

    What is not known in `values` is drawn.
    """
    explored = dict(values)
    for key, mutation in mutations.items():
        is_drawn = chance.random() < resample_probability or key not in values
        drawn = mutation.draw(chance) if is_drawn else None
        if drawn is None and key in values:
            drawn = mutation.perturb(values[key], factors, chance)
        if drawn is not None:
            explored[key] = drawn
    return explored


def _mutation(node: Any, key: str) -> Mutation:
    if node is None:
        return Range()
    if isinstance(node, list | tuple) and node:
        return Choices(tuple(node))
    if isinstance(node, Mapping) and node.keys() >= {"min", "max"}:
        low, high, log = node["min"], node["max"], bool(node.get("log", False))
        are_numbers = all(isinstance(each, int | float) for each in (low, high))
        if are_numbers and low < high and (low > 0 or not log):
            return Range(low, high, log)
    raise ConfigError(
        f"{key}={node!r} must be a list of values, a range {{min: 1e-5, max: 1e-2, log: true}} "
        f"(log only above 0), or null for any number."
    )
