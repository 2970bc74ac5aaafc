"""Whether the result keys that a run's settings name (stop rules, marks, scores) really come.

What nobody could bring is refused before training, and so is a slip of the fingers. A key that a
callback may bring late is waited for, for as long as the user says.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from rlrun.config import RunSettings
from rlrun.core.errors import ConfigError
from rlrun.loggers.base import flatten, lookup, without

logger = logging.getLogger("rlrun")

GRACE_ITERATIONS = 3
"""How many results may lack a key before something is said."""

PATIENCE_ITERATIONS = 100
"""How many may lack a key that resembles no other, where the user sets nothing else."""

SIMILARITY = 0.9
"""From here on (difflib's ratio) a name is taken for a misspelt one."""

_NAMES = """
agent_timesteps_total bottleneck config counters custom_metrics date done episode_len_mean
episode_media episode_reward_max episode_reward_mean episode_reward_min episodes_this_iter
episodes_total evaluation experiment_id experiment_tag hist_stats hostname info
iterations_since_restore node_ip num_agent_steps_sampled num_agent_steps_sampled_this_iter
num_agent_steps_trained num_agent_steps_trained_this_iter num_env_steps_sampled
num_env_steps_sampled_this_iter num_env_steps_trained num_env_steps_trained_this_iter
num_healthy_workers off_policy_estimator perf pid policy_reward_max policy_reward_mean
policy_reward_min sampler_perf time_by_phase time_since_restore time_this_iter_s time_total_s timers
timestamp timesteps_since_restore timesteps_this_iter timesteps_total training_iteration trial_id
warmup_time
"""
RESULT_KEYS = frozenset(_NAMES.split())
"""The top level of every result; only callbacks add to it."""

INVENTED = ("custom_metrics", "hist_stats")
"""Below these the names are the users' own, so that one is often much like another."""


CURRICULUM_KEYS = frozenset({"curriculum", "env_task"})
"""What every result of a run with a curriculum has beside them."""


def check_names(
    settings: RunSettings,
    may_add_keys: bool,
    evaluation: Mapping[str, Any],
    keys_of_curriculum: Mapping[str, str] | None = None,
    keys: Mapping[str, str] | None = None,
) -> None:
    """Raise ConfigError for a key that no result of the run can have, as far as that is known.

    `may_add_keys`: whether there are callbacks that may. evaluation: the group of that name.
    `keys_of_curriculum`: the result keys that the curriculum looks at, by setting; None: there is
    no curriculum. `keys`: what others name, by setting; None: what `settings` names.
    """
    named = keys_of(settings) if keys is None else keys
    for setting, key in {**named, **(keys_of_curriculum or {})}.items():
        name = first_part(key)
        if name in CURRICULUM_KEYS and keys_of_curriculum is not None:
            continue
        is_evaluated = evaluation.get("interval") is not None or (
            evaluation.get("at_end") is True and not setting.startswith("stop.")
        )
        if name == "evaluation" and not is_evaluated and not may_add_keys:
            raise ConfigError(
                f"{setting} names {key!r}, and no evaluation runs. Set evaluation.interval, e.g. "
                f"evaluation.interval=10."
            )
        if name in RESULT_KEYS:
            continue
        near = difflib.get_close_matches(name, RESULT_KEYS, n=3)
        if not may_add_keys:
            hint = f" Did you mean {' or '.join(near)}?" if near else ""
            raise ConfigError(
                f"{setting} names the result key {key!r}, which no result has, as no callback of "
                f"this run adds keys in on_train_result.{hint} Keys: {', '.join(_numbers())}."
            )
        if settings.key_patience_iterations is None and _is_like(name, RESULT_KEYS):
            raise ConfigError(
                f"{setting} names the result key {key!r}. Did you mean {' or '.join(near)}? If a "
                f"callback of yours brings {name!r}, say how long to wait for it: "
                f"key_patience_iterations={PATIENCE_ITERATIONS}."
            )


class KeyWatch:
    """Notices settings that name a result key which no result of the run has had."""

    def __init__(
        self, settings: RunSettings, keys_of_curriculum: Mapping[str, str] | None = None
    ) -> None:
        self.patience = settings.key_patience_iterations
        self.num_results = 0
        self.num_with_episodes = 0
        self.num_with_learning = 0
        self.has_evaluated = False
        self.unseen = {**keys_of(settings), **(keys_of_curriculum or {})}
        self._warned: set[str] = set()

    def note(self, result: Mapping[str, Any]) -> None:
        """Take note of the keys in `result`."""
        self.unseen = {
            setting: key
            for setting, key in self.unseen.items()
            if lookup(dict(result), key) is None
        }

    def check(self, result: Mapping[str, Any]) -> None:
        """Note the keys in a new `result`. Raises ConfigError if one is missing for too long, or
        is nearly one that is there."""
        self.note(result)
        self.num_results += 1
        self.num_with_episodes += bool(result.get("episodes_this_iter"))
        self.num_with_learning += bool(result.get("num_env_steps_trained"))
        self.has_evaluated |= "evaluation" in result
        for setting, key in self.unseen.items():
            chances = self._chances(key)
            is_misspelt = self.patience is None and chances and self._is_misspelt(key, result)
            patience = PATIENCE_ITERATIONS if self.patience is None else self.patience
            if is_misspelt or chances >= max(patience, 1):
                raise ConfigError(self._complaint(setting, key, result))
            if chances >= GRACE_ITERATIONS and setting not in self._warned:
                self._warned.add(setting)
                logger.warning(
                    "%s The run ends if it does not come within %d iterations "
                    "(key_patience_iterations).",
                    self._complaint(setting, key, result),
                    patience,
                )

    def warn_of_unseen(self, result: Mapping[str, Any]) -> None:
        """Log what a run that ends has not seen."""
        for setting, key in self.unseen.items():
            logger.warning("%s", self._complaint(setting, key, result))

    def _chances(self, key: str) -> int:
        """In how many results so far the key could have been, for what is known of its family."""
        family = first_part(key)
        if family == "info":  # Learners have no statistics before they learn.
            return self.num_with_learning
        if family in INVENTED:  # Episodes bring these when they end.
            return self.num_with_episodes
        if family == "evaluation":
            return self.num_results if self.has_evaluated else 0
        return self.num_results

    def _is_misspelt(self, key: str, result: Mapping[str, Any]) -> bool:
        return first_part(key) not in INVENTED and _is_like(key, _numbers_in(result))

    def _complaint(self, setting: str, key: str, result: Mapping[str, Any]) -> str:
        numbers = _numbers_in(result)
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


def _is_like(name: str, known: Iterable[str]) -> bool:
    return bool(difflib.get_close_matches(name.replace(".", "/"), known, n=1, cutoff=SIMILARITY))


def _numbers_in(result: Mapping[str, Any]) -> list[str]:
    flat = flatten(without(dict(result), "config"))
    return sorted(name for name, value in flat.items() if isinstance(value, int | float))


def _numbers() -> list[str]:
    """What of RESULT_KEYS makes sense in a rule, or leads to what does."""
    no_use = {"config", "date", "experiment_tag", "hostname", "node_ip", "pid", "timestamp"}
    return sorted(RESULT_KEYS - no_use)
