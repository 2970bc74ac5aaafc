"""Whether the result keys that a run's settings name (stop rules, marks, scores) really come."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from typing import Any

from rlrun.config import RunSettings
from rlrun.core.errors import ConfigError
from rlrun.loggers.base import flatten, lookup, without

logger = logging.getLogger("rlrun")

GRACE_ITERATIONS = 3
"""How many results may lack a key before that is an error."""


class KeyWatch:
    """Notices settings that name a result key which no result of the run has had."""

    def __init__(self, settings: RunSettings, evaluation_interval: int | None) -> None:
        self.evaluation_interval = evaluation_interval or 0
        self.num_results = 0
        self.num_with_episodes = 0
        self.num_with_learning = 0
        self.unseen = keys_of(settings)

    def note(self, result: Mapping[str, Any]) -> None:
        """Take note of the keys in `result`."""
        self.unseen = {
            setting: key
            for setting, key in self.unseen.items()
            if lookup(dict(result), key) is None
        }

    def check(self, result: Mapping[str, Any]) -> None:
        """Note the keys in a new `result`. Raises ConfigError if one should have come by now."""
        self.note(result)
        self.num_results += 1
        self.num_with_episodes += bool(result.get("episodes_this_iter"))
        self.num_with_learning += bool(result.get("num_env_steps_trained"))
        for setting, key in self.unseen.items():
            if self._is_overdue(key):
                raise ConfigError(self._complaint(setting, key, result))

    def warn_of_unseen(self, result: Mapping[str, Any]) -> None:
        """Log what a run that ends has not seen."""
        for setting, key in self.unseen.items():
            logger.warning("%s", self._complaint(setting, key, result))

    def _is_overdue(self, key: str) -> bool:
        family = first_part(key)
        if family == "info":  # Learners have no statistics before they learn.
            return self.num_with_learning >= GRACE_ITERATIONS
        if family in ("custom_metrics", "hist_stats"):  # Episodes bring these when they end.
            return self.num_with_episodes >= GRACE_ITERATIONS
        if family == "evaluation":
            return self.num_results >= max(GRACE_ITERATIONS, self.evaluation_interval)
        return self.num_results >= GRACE_ITERATIONS

    def _complaint(self, setting: str, key: str, result: Mapping[str, Any]) -> str:
        flat = flatten(without(dict(result), "config"))
        numbers = sorted(name for name, value in flat.items() if isinstance(value, int | float))
        near = difflib.get_close_matches(key, numbers, n=3)
        top = ", ".join(name for name in numbers if "/" not in name)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"Keys of the top level: {top}."
        return (
            f"{setting} names the result key {key!r}, which no result has had "
            f"({self.num_results} iterations). {hint} All stand in result.json."
        )


def first_part(key: str) -> str:
    """The part of a nested result key before its first "/" or "."."""
    return key.replace(".", "/").partition("/")[0]


def keys_of(settings: RunSettings) -> dict[str, str]:
    """The result keys that `settings` name, by the setting that does."""
    return {
        "objective": settings.objective,
        "checkpoint_score_attr": settings.checkpoint_score_attr.removeprefix("min-"),
        **{f"stop.{key}": key for key in settings.stop},
        **{f"pass_mark.{key}": key for key in settings.pass_mark},
    }
