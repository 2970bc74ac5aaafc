"""The space of a search: which values each key may take, in the grammar of Hydra's command line."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from rlrun.core.errors import ConfigError
from rlrun.overrides import as_hydra_wants, as_text, read

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Glob, IntervalSweep, Override, RangeSweep

SPACE = "search.space"
"""The node that holds a space in YAML."""

MANY = 20
"""Values of one key of which the ends stand for all where a space is looked over."""


@dataclass(frozen=True)
class Choice:
    """Values that are listed: `a,b`, `choice(a, b)`, `range(1, 9, 2)`, `glob(*)`, or one alone."""

    values: tuple[Any, ...]
    is_range: bool = False
    """Whether they are evenly spaced numbers, of which a search may learn as such."""
    is_shuffled: bool = False
    """Whether a grid takes them in an order that it draws."""

    def draw(self, generator: random.Random) -> Any:
        """One of them, each as likely."""
        return generator.choice(self.values)

    @property
    def middle(self) -> Any:
        """One that is usual."""
        return self.values[len(self.values) // 2]

    @property
    def corners(self) -> tuple[Any, ...]:
        """Those that stand for all."""
        return self.values if len(self.values) <= MANY else (self.values[0], self.values[-1])


@dataclass(frozen=True)
class Interval:
    """Numbers between two: `interval(0.9, 1)`, `tag(log, interval(1e-5, 1e-2))`; whole ones, both
    ends among them: `int(interval(1, 8))`."""

    low: float
    high: float
    is_log: bool = False
    """Whether each order of magnitude is as likely as the others."""

    @property
    def is_whole(self) -> bool:
        """Whether only whole numbers are meant."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def draw(self, generator: random.Random) -> float:
        """A number between the ends."""
        margin = 0.5 if self.is_whole else 0.0  # so that the ends are as likely as the others
        low, high = self.low - margin, self.high + margin
        if self.is_log:
            value = math.exp(generator.uniform(math.log(low), math.log(high)))
        else:
            value = generator.uniform(low, high)
        value = min(max(value, self.low), self.high)
        return round(value) if self.is_whole else value

    @property
    def middle(self) -> float:
        """Halfway between the ends."""
        middle = math.sqrt(self.low * self.high) if self.is_log else (self.low + self.high) / 2
        return round(middle) if self.is_whole else middle

    @property
    def corners(self) -> tuple[float, float]:
        """Both ends."""
        return (self.low, self.high)


Domain = Choice | Interval
Space = Mapping[str, Domain]
"""Domain by key, as the command line has it: "algo.lr", "env", "+algo.x"."""


def space_of(
    overrides: Iterable[Override], node: Mapping[str, Any], choices_of: Callable[[str], list[str]]
) -> dict[str, Domain]:
    """What is searched, in the order in which it is named: first the node `search.space`, then what
    the command line adds to it or puts in its place.

    overrides: those with several values. choices_of: the choices of a group, for `glob`. Raises
    ConfigError.
    """
    texts = as_hydra_wants(f"{key}={_text(value)}" for key, value in _leaves(node))
    named = [read(text) for text in texts]
    space: dict[str, Domain] = {}
    for override in [*named, *overrides]:
        key = override.get_key_element()
        if key.lstrip("+").startswith(f"{SPACE}."):
            key = key.lstrip("+").removeprefix(f"{SPACE}.")
        same = {each for each in space if each.lstrip("+") == key.lstrip("+")}
        for each in same:
            del space[each]
        space[key] = domain_of(override, choices_of)
    return space


def domain_of(override: Override, choices_of: Callable[[str], list[str]]) -> Domain:
    """The values that an override names. Raises ConfigError if there are none."""
    from hydra.core.override_parser.types import ChoiceSweep, Glob, IntervalSweep, RangeSweep, Sweep

    value: Any = override.value()
    said = override.input_line
    if isinstance(value, Sweep) and value.tags:
        _check_tags(value.tags, isinstance(value, IntervalSweep), said)
    if isinstance(value, IntervalSweep):
        return _interval(value, said)
    if isinstance(value, RangeSweep):
        return _range(value, said)
    if isinstance(value, ChoiceSweep):
        values = tuple(_plain(each) for each in value.list)
        return Choice(values, is_shuffled=value.shuffle)
    if isinstance(value, Glob):
        group = override.key_or_group
        return _glob(value, group, choices_of(group), said)
    return Choice((value,))


def _check_tags(tags: set[str], is_interval: bool, said: str | None) -> None:
    if unknown := tags - {"log"}:
        raise ConfigError(f"{said}: there is no tag {min(unknown)!r}. Allowed: log.")
    if not is_interval:
        raise ConfigError(f"{said}: the tag log is for intervals: tag(log, interval(1e-5, 1e-2)).")


def _interval(sweep: IntervalSweep, said: str | None) -> Interval:
    low, high = sweep.start, sweep.end
    assert low is not None
    assert high is not None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"{said}: the first end of an interval must be below the second one.")
    is_log = "log" in sweep.tags
    if is_log and low <= 0:
        raise ConfigError(f"{said}: an interval on a log scale must be above 0.")
    return Interval(low, high, is_log)


def _range(sweep: RangeSweep, said: str | None) -> Choice:
    numbers = (sweep.start, sweep.stop, sweep.step)
    if not sweep.step:
        raise ConfigError(f"{said}: the step of a range must not be 0.")
    # Decimals of what was typed: range(0, 1, 0.1) holds 0.3, not 0.30000000000000004.
    start, stop, step = (Decimal(str(number)) for number in numbers)
    count = max(math.ceil((stop - start) / step), 0)
    if not count:
        raise ConfigError(f"{said}: there is nothing in this range.")
    is_whole = all(isinstance(number, int) for number in numbers)
    values = [start + index * step for index in range(count)]
    made = tuple(int(value) if is_whole else float(value) for value in values)
    return Choice(made, is_range=True, is_shuffled=sweep.shuffle)


def _glob(glob: Glob, group: str, choices: list[str], said: str | None) -> Choice:
    found = glob.filter(choices)
    if not found:
        known = f"Choices of {group}: {', '.join(choices)}" if choices else f"{group} is no group"
        raise ConfigError(f"{said} matches nothing. {known}.")
    return Choice(tuple(found))


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:
    """What stands in YAML as it would be typed; a list is a choice."""
    if isinstance(value, list):
        return f"choice({','.join(map(as_text, value))})"
    return value if isinstance(value, str) else as_text(value)


def _plain(element: Any) -> Any:
    """An element of Hydra's parser without its quotes."""
    if isinstance(element, list):
        return [_plain(each) for each in element]
    if isinstance(element, dict):
        return {_plain(key): _plain(value) for key, value in element.items()}
    return getattr(element, "text", element)
