"""Values that change with the number of env steps sampled so far.

In YAML a schedule is a number (constant), a list of [timestep, value] points (linear between
them, constant outside), or a node with a `_target_` that names one of the classes below.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from rlrun.core.errors import ConfigError

Schedule = Callable[[int], float]
ScheduleLike = float | list[list[float]] | Schedule
"""What a dataclass field that takes a schedule is annotated with."""


@dataclass(frozen=True, kw_only=True)
class ConstantSchedule:
    """The same value at every timestep."""

    value: float

    def __call__(self, timestep: int) -> float:
        return self.value


@dataclass(frozen=True, kw_only=True)
class PiecewiseSchedule:
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
        right = bisect_right(self.points, timestep, key=itemgetter(0))
        if right == 0:
            return self.points[0][1]
        if right == len(self.points):
            return self.points[-1][1]
        (start, low), (end, high) = self.points[right - 1], self.points[right]
        return low + (high - low) * (timestep - start) / (end - start)


@dataclass(frozen=True, kw_only=True)
class LinearSchedule:
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


@dataclass(frozen=True, kw_only=True)
class ExponentialSchedule:
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


def make_schedule(value: Any) -> Schedule:
    """A callable timestep -> value from any of the YAML forms. Raises ConfigError."""
    if callable(value):
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
    """Raise ConfigError unless every number that a schedule names lies in [low, high]."""
    if callable(value):
        return
    try:
        make_schedule(value)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    for number in [point[-1] for point in value] if isinstance(value, list) else [value]:
        if not low <= number <= high:
            bounds = f"at least {low:g}"
            if high != float("inf"):
                bounds = f"between {low:g} and {high:g}"
            raise ConfigError(f"{name}={value} must be {bounds} at every timestep.")


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, list | tuple)
        and len(point) == 2
        and all(isinstance(part, int | float) for part in point)
    )
