"""Values that change with the number of env steps sampled so far.

In YAML a schedule is a number (constant), a list of [timestep, value] points (linear between
them, constant outside), or a node with a `_target_` that names one of the classes below.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from rlrun.core.errors import ConfigError


class Schedule:
    """Base of all schedules; subclass it for one of your own."""

    def __call__(self, timestep: int) -> float:
        """The value after `timestep` env steps."""
        raise NotImplementedError

    def value_range(self) -> tuple[float, float] | None:
        """(least, largest) value at any timestep, or None where nobody knows."""
        return None


ScheduleLike = float | list[list[float]] | Schedule
"""What a dataclass field that takes a schedule is annotated with."""


@dataclass(frozen=True, kw_only=True)
class ConstantSchedule(Schedule):
    """The same value at every timestep."""

    value: float

    def __call__(self, timestep: int) -> float:
        return self.value

    def value_range(self) -> tuple[float, float]:
        return self.value, self.value


@dataclass(frozen=True, kw_only=True)
class PiecewiseSchedule(Schedule):
    """Linear between `points` ([timestep, value], timesteps rising), constant outside them."""

    points: list[list[float]]

    def __post_init__(self) -> None:
        steps = [point[0] for point in self.points if _is_point(point)]
        if len(steps) != len(self.points) or not steps or steps != sorted(set(steps)):
            raise ConfigError(
                f"A schedule is a list of [timestep, value] points with rising timesteps; "
                f"got {self.points}."
            )

    def __call__(self, timestep: int) -> float:
        if timestep >= self.points[-1][0]:
            return self.points[-1][1]
        right = bisect_right(self.points, timestep, key=itemgetter(0))
        if right == 0:
            return self.points[0][1]
        (start, low), (end, high) = self.points[right - 1], self.points[right]
        return low + (high - low) * (timestep - start) / (end - start)

    def value_range(self) -> tuple[float, float]:
        values = [point[1] for point in self.points]
        return min(values), max(values)


@dataclass(frozen=True, kw_only=True)
class LinearSchedule(Schedule):
    """From `initial` at timestep 0 to `final` at `timesteps`, then constant."""

    initial: float
    final: float
    timesteps: int

    def __post_init__(self) -> None:
        if self.timesteps < 1:
            raise ConfigError(f"timesteps={self.timesteps} must be at least 1.")

    def __call__(self, timestep: int) -> float:
        fraction = min(max(timestep / self.timesteps, 0.0), 1.0)
        return self.initial + (self.final - self.initial) * fraction

    def value_range(self) -> tuple[float, float]:
        return min(self.initial, self.final), max(self.initial, self.final)


@dataclass(frozen=True, kw_only=True)
class ExponentialSchedule(Schedule):
    """`initial` * `decay_rate` ** (timestep / `decay_timesteps`), not below `minimum`."""

    initial: float
    decay_rate: float
    decay_timesteps: int
    minimum: float = 0.0

    def __post_init__(self) -> None:
        if self.decay_timesteps < 1 or not 0.0 < self.decay_rate <= 1.0:
            raise ConfigError(
                f"decay_timesteps={self.decay_timesteps} must be at least 1 and "
                f"decay_rate={self.decay_rate} in (0, 1]."
            )

    def __call__(self, timestep: int) -> float:
        decayed = self.initial * self.decay_rate ** (timestep / self.decay_timesteps)
        return max(decayed, self.minimum)

    def value_range(self) -> tuple[float, float]:
        return max(min(self.initial, 0.0), self.minimum), max(self.initial, self.minimum)


def make_schedule(value: Any) -> Schedule:
    """A callable timestep -> value from any of the YAML forms. Raises ConfigError."""
    if isinstance(value, Schedule):
        return value
    if isinstance(value, list):
        return PiecewiseSchedule(points=value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(
            f"A schedule is a number, a list of [timestep, value] points, or a node with _target_; "
            f"got {value!r}."
        )
    return ConstantSchedule(value=float(value))


def check_schedule_range(name: str, value: Any, *, low: float, high: float = float("inf")) -> None:
    """Raise ConfigError unless every value of a schedule lies in [low, high]."""
    try:
        schedule = make_schedule(value)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    found = schedule.value_range()
    if found is None:
        return
    if not (low <= found[0] <= found[1] <= high and math.isfinite(found[1])):
        bounds = f"between {low:g} and {high:g}" if high < math.inf else f"at least {low:g}"
        bounds += ", and finite," if found[1] == math.inf else ""
        raise ConfigError(f"{name}={value} must be {bounds} at every timestep.")


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list | tuple)
        and len(point) == 2
        and all(isinstance(part, int | float) and not math.isnan(part) for part in point)
    )
