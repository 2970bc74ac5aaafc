"""The evaluation group: when, how long and by whom a run evaluates; imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from rlrun.core.errors import ConfigError
from rlrun.core.imports import import_object

AUTO = "auto"

OF_FRAGMENTS = frozenset({"rollout_fragment_length", "batch_mode"})
"""Hyperparameters that only matter where a function of the user's lets workers sample fragments."""


@dataclass(kw_only=True)
class EvaluationConfig:
    """The evaluation group."""

    interval: int | None = None
    """Training iterations between evaluations; null: never."""
    at_end: bool = False
    """Whether a run that has met a stop rule ends with an evaluation of its last weights."""
    duration: int | Literal["auto"] = 10
    """Episodes or env steps of one evaluation, over all its workers, counted exactly; auto: as long
    as the train step takes beside which it runs (10 at the end of a run, where none does)."""
    duration_unit: Literal["episodes", "timesteps"] = "episodes"
    """What `duration` counts."""
    num_workers: int = 0
    """Remote workers that evaluate; 0: this process."""
    parallel_to_training: bool = False
    """Whether evaluation workers run while the next iteration trains: its result then has the
    evaluation of the weights that it began with."""
    config: dict[str, Any] = field(default_factory=lambda: {"explore": False})
    """Overrides of the run's config for evaluation workers: env, exploration, explore, callbacks,
    seed, algo.num_envs_per_worker."""
    env_task: Any = None
    """The task that evaluation plays; null: what training plays by then, if its env has tasks."""
    custom_eval_function: str | None = None
    """Import path of a function(trainer, workers) -> metrics that replaces the built-in one."""
    record: int = 0
    """How many episodes of each evaluation become videos in the run's folder: the first ones of the
    first env of the first evaluation worker."""
    always_attach_results: bool = False
    """Whether the last evaluation stands in every result (nan before the first)."""

    def __post_init__(self) -> None:
        if self.interval is not None and self.interval < 1:
            raise ConfigError(
                f"evaluation.interval={self.interval} must be at least 1, or null for never."
            )
        if not isinstance(self.duration, str) and self.duration < 1:
            raise ConfigError(
                f"evaluation.duration={self.duration} must be at least 1, or auto with "
                f"evaluation.parallel_to_training=true."
            )
        if self.record < 0:
            raise ConfigError(f"evaluation.record={self.record} must be at least 0.")
        if self.num_workers < 0:
            raise ConfigError(f"evaluation.num_workers={self.num_workers} must be at least 0.")
        self._check_parallel()
        self._check_algo()
        if self.custom_eval_function is not None and not callable(self.custom_function()):
            raise ConfigError(
                f"evaluation.custom_eval_function={self.custom_eval_function} must be a function "
                f"of (trainer, workers) that returns a dict of metrics."
            )

    def _check_parallel(self) -> None:
        if self.duration == AUTO and not self.parallel_to_training:
            raise ConfigError(
                "evaluation.duration=auto lasts as long as the train step beside which it runs, "
                "and evaluation.parallel_to_training=false. Set that to true, or give a number."
            )
        if self.duration == AUTO and self.custom_eval_function is not None:
            raise ConfigError(
                f"evaluation.duration=auto has no effect with evaluation.custom_eval_function="
                f"{self.custom_eval_function}, which decides by itself how long it takes. Leave "
                f"the duration at 10."
            )
        if not self.parallel_to_training:
            return
        if self.num_workers == 0:
            raise ConfigError(
                "evaluation.parallel_to_training=true needs processes that evaluate while this one "
                "trains, and evaluation.num_workers=0. Use evaluation.num_workers=1 or more."
            )
        if self.interval is None:
            raise ConfigError(
                "evaluation.parallel_to_training=true has no effect with evaluation.interval=null, "
                "as no iteration evaluates. Set evaluation.interval=1 or more."
            )

    def _check_algo(self) -> None:
        allowed = {"num_envs_per_worker"}
        if self.custom_eval_function is not None:
            allowed |= OF_FRAGMENTS
        of_algo = self.config.get("algo") or {}
        if not isinstance(of_algo, Mapping):
            raise ConfigError(f"evaluation.config.algo={of_algo!r} must be a mapping of its keys.")
        for name in sorted(set(of_algo) - allowed):
            why = "has no effect on evaluation workers"
            if name in OF_FRAGMENTS:
                why = "matters only to a function of yours (evaluation.custom_eval_function)"
            raise ConfigError(
                f"evaluation.config.algo.{name} {why}. Allowed below 'evaluation.config.algo': "
                f"{', '.join(sorted(allowed))}."
            )

    @property
    def is_wanted(self) -> bool:
        """Whether a run evaluates at all."""
        return self.interval is not None or self.at_end

    def is_due(self, iteration: int) -> bool:
        """Whether the iteration of that number, counted from 1, evaluates."""
        return self.interval is not None and iteration % self.interval == 0

    def custom_function(self) -> Callable[..., Any] | None:
        """The function that `custom_eval_function` names. Raises ConfigError."""
        if self.custom_eval_function is None:
            return None
        found = import_object(self.custom_eval_function, "evaluation.custom_eval_function")
        return cast(Callable[..., Any], found)
