"""Whether the result keys that a run's settings name (stop rules, marks, scores) really come."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping
from typing import Any

from rlrun.config import RunSettings
from rlrun.core.errors import ConfigError
from rlrun.loggers.base import finite_scalars, lookup

logger = logging.getLogger("rlrun")

GRACE_ITERATIONS = 3
"""How many results may lack a key before that is an error."""


class KeyWatch:
    """Notices settings that name a result key which no result has."""

    def __init__(self, settings: RunSettings, evaluation_interval: int | None) -> None:
        self.evaluation_interval = evaluation_interval or 0
        self.num_results = 0
        self.unseen = keys_of(settings)

    def look_at(self, result: Mapping[str, Any]) -> None:
        """Take note of the keys in `result`. Raises ConfigError if one should have come by now."""
        self.num_results += 1
        self.unseen = {
            setting: key
            for setting, key in self.unseen.items()
            if lookup(dict(result), key) is None
        }
        for setting, key in self.unseen.items():
            if self.num_results >= self._grace(key, result):
                raise ConfigError(self._complaint(setting, key, result))

    def warn_of_unseen(self, result: Mapping[str, Any]) -> None:
        """Log what a run that ends early has not seen."""
        for setting, key in self.unseen.items():
            logger.warning("%s", self._complaint(setting, key, result))

    def _grace(self, key: str, result: Mapping[str, Any]) -> float:
        if key.startswith("info") and not result.get("num_env_steps_trained"):
            return float("inf")  # Learners have no statistics before they learn.
        if key.startswith(("custom_metrics", "hist_stats")) and not result.get("episodes_total"):
            return float("inf")  # Episodes bring these when they end.
        if key.startswith("evaluation"):
            return max(GRACE_ITERATIONS, self.evaluation_interval)
        return GRACE_ITERATIONS

    def _complaint(self, setting: str, key: str, result: Mapping[str, Any]) -> str:
        numbers = sorted(finite_scalars(dict(result)))
        near = difflib.get_close_matches(key, numbers, n=3)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        top = ", ".join(name for name in numbers if "/" not in name)
        return (
            f"{setting} names the result key {key!r}, which no result has had "
            f"({self.num_results} iterations).{hint} Keys of the top level are: {top}; nested ones "
            f"(info/learner/...) stand in result.json."
        )


def keys_of(settings: RunSettings) -> dict[str, str]:
    """The result keys that `settings` name, by the setting that does."""
    return {
        "objective": settings.objective,
        "checkpoint_score_attr": settings.checkpoint_score_attr.removeprefix("min-"),
        **{f"stop.{key}": key for key in settings.stop},
        **{f"pass_mark.{key}": key for key in settings.pass_mark},
    }
