"""What a scheduler is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rlrun.core.errors import ConfigError
from rlrun.loggers.base import lookup
from rlrun.sweep.trial import Trial


@dataclass(frozen=True)
class Continue:
    """The trial goes on."""

    checkpoint: bool = False
    """Whether it makes a checkpoint first, from which others may go on."""


@dataclass(frozen=True)
class Stop:
    """The trial is ended; it keeps a checkpoint."""

    reason: str
    """For the table and the trial's log."""


@dataclass(frozen=True)
class Pause:
    """The trial makes a checkpoint and gives its place to others, until `choose` names it.

    It is ended if the scheduler gives it up, or if `choose` names nobody while nothing runs.
    """

    reason: str


@dataclass(frozen=True)
class Exploit:
    """The trial goes on from the newest checkpoint of another one, with other values."""

    source: int
    """Number of the trial whose checkpoint is copied; its own: it goes on from where it is."""
    overrides: dict[str, Any] = field(default_factory=dict)
    """The values with which it goes on, by dotted key."""
    reason: str = ""


Decision = Continue | Stop | Pause | Exploit


@dataclass(kw_only=True)
class Scheduler:
    """The base of all schedulers: `scheduler=fifo`, which lets every trial run to its end.

    State is what `on_add`, `on_result` and `on_end` were told: a resumed sweep tells all of it
    again, in the order of the journal. So decisions depend on nothing else, and chance comes from
    `seed`; `choose` and `gives_up` change nothing.
    """

    metric: str | None = None
    """The result key that is judged; null: the sweep's."""
    mode: Literal["max", "min"] | None = None
    """Whether more of it is better or less; null: the sweep's."""
    time_attr: str = "training_iteration"
    """The result key that tells how far a trial is."""
    seed: int = field(default=0, init=False)
    """Set by the driver before the first trial, as are `folder` and `search_learns`."""
    folder: Path = field(default=Path(), init=False)
    """The sweep's, where it may write a log."""
    search_learns: bool = field(default=False, init=False)
    """Whether the search waits to hear how trials end before it asks for others."""

    def __post_init__(self) -> None:
        """Raise ConfigError for values out of range."""

    def check(self, trial: Trial, config: Mapping[str, Any]) -> None:
        """Raise ConfigError, before anything starts, if it cannot work with a trial that has this
        composed config (plain values)."""

    def on_add(self, trial: Trial) -> None:
        """A trial has been planned, and nothing of it is written down yet: values that it begins
        with may be added to its overrides and params."""

    def on_result(self, trial: Trial, result: dict[str, Any]) -> Decision:
        """What becomes of a running trial that has a new result; of one that is `done`, nothing any
        more."""
        return Continue()

    def on_copied(self, trial: Trial, source_time: float) -> None:
        """A trial goes on from a checkpoint that another one had made when it was that far."""

    def on_end(self, trial: Trial) -> None:
        """A trial has ended; its status tells how."""

    def choose(self, startable: Sequence[Trial]) -> Trial | None:
        """The waiting or paused trial that is to run next, of those for which there is room now;
        None: none of them yet."""
        return startable[0] if startable else None

    def gives_up(self, paused: Sequence[Trial]) -> Sequence[Trial]:
        """Those of the paused trials that will never go on. Asked after each result and end."""
        return ()

    def score_of(self, result: dict[str, Any]) -> float | None:
        """The judged value, so that more is better; None where the result has none."""
        value = lookup(result, self.metric or "")
        if not isinstance(value, int | float) or math.isnan(value):
            return None
        return float(value) if self.mode == "max" else -float(value)

    def time_of(self, result: dict[str, Any]) -> float:
        """How far the trial is. Raises ConfigError if the result does not tell."""
        value = lookup(result, self.time_attr)
        if not isinstance(value, int | float):
            raise ConfigError(f"scheduler.time_attr={self.time_attr} is in no result.")
        return float(value)


def at_least(least: float, **values: float) -> None:
    """Raise ConfigError unless each of the scheduler's values, by name, is at least that."""
    for name, value in values.items():
        if not least <= value < math.inf:
            raise ConfigError(f"scheduler.{name}={value:g} must be at least {least:g}, and finite.")
