"""Evaluation during training: episodes on workers of its own, with the learner's weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from rlrun.core.algorithm import Algorithm
from rlrun.core.errors import ConfigError, Interrupted
from rlrun.core.imports import import_object
from rlrun.core.metrics import summarize_episodes
from rlrun.core.resources import Resources
from rlrun.workers.rollout_worker import RolloutWorker, WorkerConfig
from rlrun.workers.worker_set import WorkerSet


@dataclass(kw_only=True)
class EvaluationConfig:
    """The evaluation group."""

    interval: int | None = None
    """Training iterations between evaluations; null: never."""
    duration: int = 10
    """Episodes or env steps of one evaluation, over all its workers, counted exactly."""
    duration_unit: Literal["episodes", "timesteps"] = "episodes"
    """What `duration` counts."""
    num_workers: int = 0
    """Remote workers that evaluate; 0: this process."""
    config: dict[str, Any] = field(default_factory=lambda: {"explore": False})
    """Overrides of the run's config for evaluation workers: explore, env, exploration, algo."""
    env_task: Any = None
    """The task that evaluation plays, where envs play tasks; null: what training plays by then."""
    custom_eval_function: str | None = None
    """Import path of a function(trainer, workers) -> metrics that replaces the built-in one."""
    always_attach_results: bool = False
    """Whether the last evaluation stands in every result (nan before the first)."""

    def __post_init__(self) -> None:
        if self.interval is not None and self.interval < 1:
            raise ConfigError(
                f"evaluation.interval={self.interval} must be at least 1, or null for never."
            )
        if self.duration < 1:
            raise ConfigError(f"evaluation.duration={self.duration} must be at least 1.")
        if self.num_workers < 0:
            raise ConfigError(f"evaluation.num_workers={self.num_workers} must be at least 0.")
        unused = set(self.config.get("algo") or {}) - {"num_envs_per_worker"}
        if unused:
            raise ConfigError(
                f"evaluation.config.algo.{min(unused)} has no effect on evaluation workers. "
                f"Allowed below 'evaluation.config.algo': num_envs_per_worker."
            )
        if self.custom_eval_function is not None and not callable(self.custom_function()):
            raise ConfigError(
                f"evaluation.custom_eval_function={self.custom_eval_function} must be a function "
                f"of (trainer, workers) that returns a dict of metrics."
            )

    def custom_function(self) -> Callable[..., Any] | None:
        """The function that `custom_eval_function` names. Raises ConfigError."""
        if self.custom_eval_function is None:
            return None
        found = import_object(self.custom_eval_function, "evaluation.custom_eval_function")
        return cast(Callable[..., Any], found)


class Evaluation:
    """The evaluation workers of a trainer, made when they are first asked for."""

    def __init__(
        self, config: EvaluationConfig, worker_config: WorkerConfig, resources: Resources
    ) -> None:
        self.config = config
        self.num_rounds = 0
        self._worker_config = worker_config
        self._resources = resources
        self._workers: WorkerSet | None = None
        self._custom = config.custom_function()

    def workers(self, algorithms: Mapping[str, Algorithm]) -> WorkerSet:
        """The evaluation workers.

        Raises SpaceError if their env has other spaces than the algorithms' policies.
        """
        if self._workers is None:
            workers = WorkerSet(
                self._worker_config,
                self._resources,
                self.config.num_workers,
                self._resources.num_workers,
            )
            for policy_id, algorithm in algorithms.items():
                actor = workers.local_worker().actors[policy_id]
                actor.check_fit(algorithm.policy, self._worker_config.env.id)
            self._workers = workers
        return self._workers

    def set_interrupted(self, is_interrupted: bool) -> None:
        """Whether an evaluation that is under way is to end."""
        if self._workers is not None:
            self._workers.is_interrupted = is_interrupted

    def foreach_worker(self, function: Callable[[RolloutWorker], Any]) -> None:
        """function(worker) on every evaluation worker that there is."""
        if self._workers is not None:
            self._workers.foreach_worker(function)

    def run(self, trainer: Any) -> dict[str, Any]:
        """One evaluation with the trainer's present weights and filters; its metrics.

        Raises ConfigError if a custom function gives no dict, Interrupted.
        """
        workers = self.workers(trainer.algorithms)
        workers.num_env_steps_sampled = trainer.workers.num_env_steps_sampled
        workers.sync_weights(trainer.algorithms)
        own = self.config.env_task
        if tasks := (trainer.workers.tasks if own is None else [own]):
            workers.set_tasks(tasks)
        trainer.callbacks.on_evaluate_start(trainer=trainer)
        if self._custom is not None:
            metrics = self._custom(trainer, workers)
            if not isinstance(metrics, dict):
                raise ConfigError(
                    f"evaluation.custom_eval_function={self.config.custom_eval_function} returned "
                    f"{type(metrics).__name__}; it must return a dict of metrics."
                )
        else:
            metrics = self._run_duration(workers)
        self.num_rounds += 1
        trainer.callbacks.on_evaluate_end(trainer=trainer, evaluation_metrics=metrics)
        return metrics

    def unknown(self) -> dict[str, Any]:
        """The metrics' names with nan, for results before the first evaluation."""
        return {**summarize_episodes([], []), "timesteps_this_iter": 0}

    def stop(self) -> None:
        """End the evaluation workers."""
        if self._workers is not None:
            self._workers.stop()

    def _run_duration(self, workers: WorkerSet) -> dict[str, Any]:
        by_episodes = self.config.duration_unit == "episodes"
        found = workers.run_evaluation(
            self.num_rounds,
            self.config.duration if by_episodes else None,
            None if by_episodes else self.config.duration,
        )
        if found is None:
            raise Interrupted("The evaluation was interrupted.")
        episodes = found.episodes
        return {**summarize_episodes(episodes, episodes), "timesteps_this_iter": found.env_steps}
