"""The driver of a sweep: it starts trials, hears their results and decides what becomes of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlrun.loggers.base import lookup
from rlrun.sweep.observer import SweepObserver
from rlrun.sweep.settings import SweepSettings
from rlrun.sweep.trial import Trial


class SweepDriver:
    """Runs the trials of a sweep; one thread, which observers share."""

    def __init__(
        self,
        folder: Path,
        settings: SweepSettings,
        metric: str,
        *,
        observers: Sequence[SweepObserver] = (),
    ) -> None:
        self.folder = folder
        """Of the sweep; trials have theirs below it."""
        self.settings = settings
        self.metric = metric
        """The result key by which trials are compared: `sweep.metric`, or the run's `objective`."""
        self.trials: list[Trial] = []
        """All that are known by now, by number; a search may add to them."""
        self.num_trials: int | None = None
        """How many there will be; None where the search does not know."""
        self.started_at = time.time()
        """Seconds since the epoch; of this start, where the sweep was resumed."""
        self.total: dict[str, float] = {}
        """What there is to give to trials: CPU, GPU and custom resources, by name."""
        self.used: dict[str, float] = {}
        """What running trials hold of it."""
        self._observers = list(observers)

    @property
    def best(self) -> Trial | None:
        """The trial whose last result has the best value of the metric; None before there is one."""
        known = [trial for trial in self.trials if self.value_of(trial.result) is not None]
        sign = 1.0 if self.settings.mode == "max" else -1.0
        return max(known, key=lambda t: sign * self.value_of(t.result), default=None)  # type: ignore[operator]

    def value_of(self, result: dict[str, Any]) -> float | None:
        """The metric in a result; None where it has none (nan is none)."""
        value = lookup(result, self.metric)
        is_known = isinstance(value, int | float) and value == value
        return float(value) if is_known else None
