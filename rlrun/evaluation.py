"""Evaluation during training: episodes on workers of its own, with the learner's weights."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from rlrun.core.algorithm import Algorithm
from rlrun.core.callbacks import call
from rlrun.core.errors import ConfigError, Interrupted, WorkerDiedError, WorkerError
from rlrun.core.metrics import summarize_episodes
from rlrun.core.resources import Resources
from rlrun.curriculum.base import shown
from rlrun.evaluation_config import EvaluationConfig
from rlrun.workers.evaluate import Amount
from rlrun.workers.rollout_worker import RolloutWorker
from rlrun.workers.worker_config import WorkerConfig
from rlrun.workers.worker_set import WorkerSet

DURATION_ALONE = 10
"""What an automatic duration is where no train step runs beside it."""


class Evaluation:
    """The evaluation workers of a trainer, made when they are first asked for."""

    def __init__(
        self, config: EvaluationConfig, worker_config: WorkerConfig, resources: Resources
    ) -> None:
        self.config = config
        self.num_rounds = 0
        self.begun: dict[str, Any] | None = None
        """What an evaluation beside an iteration that is not over yet is of: the iteration it
        began at, its env steps and weights. A resumed iteration has other weights by then."""
        self._worker_config = worker_config
        self._resources = resources
        self._workers: WorkerSet | None = None
        self._custom = config.custom_function()

    def workers(self, algorithms: Mapping[str, Algorithm]) -> WorkerSet:
        """The evaluation workers.

        Raises SpaceError if their env has other spaces than the algorithms' policies, ConfigError
        if it does not take the task that evaluation has of its own.
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
            self._set_own_task(workers)
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
        iteration, workers = self._begin(trainer)
        amount = self._amount(is_alone=True)
        return self._end(trainer, iteration, self._measure(trainer, workers, amount))

    @contextmanager
    def beside(self, trainer: Any) -> Iterator[Future[dict[str, Any]]]:
        """The same while the block runs, with the weights and filters at its beginning, in a thread
        that is over when the block is; its metrics, which are there after the block."""
        is_enough = threading.Event()
        metrics: Future[dict[str, Any]] = Future()
        iteration, workers = self._begin(trainer)
        self._hold_weights(iteration, workers)
        with ThreadPoolExecutor(1, "rlrun-evaluation") as thread:
            amount = self._amount(is_alone=False)
            measured = thread.submit(self._measure, trainer, workers, amount, is_enough.is_set)
            try:
                yield metrics
            except BaseException:
                workers.is_interrupted = True
                wait([measured])
                workers.is_interrupted = False
                raise
            finally:
                is_enough.set()
        metrics.set_result(self._end(trainer, iteration, measured.result()))
        self.begun = None

    def _amount(self, *, is_alone: bool) -> Amount:
        """How long one evaluation lasts, beside a train step or alone."""
        unit, duration = self.config.duration_unit, self.config.duration
        if not isinstance(duration, str):
            return Amount(unit, duration)
        return Amount(unit, DURATION_ALONE if is_alone else None)

    def unknown(self) -> dict[str, Any]:
        """The metrics' names with nan, for results before the first evaluation."""
        return {**summarize_episodes([], []), "timesteps_this_iter": 0, "training_iteration": 0}

    def stop(self) -> None:
        """End the evaluation workers."""
        if self._workers is not None:
            self._workers.stop()

    def _begin(self, trainer: Any) -> tuple[int, WorkerSet]:
        """Bring workers to the trainer's weights; (the iterations those have seen, workers)."""
        workers = self.workers(trainer.algorithms)
        workers.num_env_steps_sampled = trainer.workers.num_env_steps_sampled
        workers.sync_weights(trainer.algorithms)
        tasks = trainer.workers.tasks if self.config.env_task is None else []
        if tasks and workers.plays_tasks:
            workers.set_tasks(tasks)
        call(trainer.callbacks, "on_evaluate_start", trainer=trainer)
        return trainer.iteration, workers

    def _set_own_task(self, workers: WorkerSet) -> None:
        """Once, before anything is trained that a task could end which the env refuses."""
        task = self.config.env_task
        if task is None:
            return
        try:
            workers.set_tasks([task])
        except WorkerDiedError:
            raise
        except (TypeError, WorkerError) as error:
            raise ConfigError(f"evaluation.env_task={task!r}: {error}") from error

    def _hold_weights(self, iteration: int, workers: WorkerSet) -> None:
        """Keep what an evaluation beside the iteration is of, or take it up again."""
        local = workers.local_worker()
        if self.begun is None or self.begun["iteration"] != iteration:
            held = {"timestep": local.timestep, "weights": local.get_weights()}
            self.begun = {"iteration": iteration, **held}
            return
        weights, timestep = self.begun["weights"], self.begun["timestep"]
        workers.foreach_worker(lambda worker: worker.set_weights(weights, timestep))

    def _measure(
        self,
        trainer: Any,
        workers: WorkerSet,
        amount: Amount,
        is_enough: Callable[[], bool] = lambda: False,
    ) -> dict[str, Any]:
        if self._custom is None:
            found = workers.run_evaluation(self.num_rounds, amount, is_enough)
            if found is None:
                raise Interrupted("The evaluation was interrupted.")
            episodes = found.episodes
            return {
                **summarize_episodes(episodes, episodes),
                "timesteps_this_iter": found.env_steps,
            }
        metrics = self._custom(trainer, workers)
        if not isinstance(metrics, dict):
            raise ConfigError(
                f"evaluation.custom_eval_function={self.config.custom_eval_function} returned "
                f"{type(metrics).__name__}; it must return a dict of metrics."
            )
        return metrics

    def _end(self, trainer: Any, iteration: int, metrics: dict[str, Any]) -> dict[str, Any]:
        metrics["training_iteration"] = iteration
        if self._workers is not None and self._workers.tasks:
            metrics["env_task"] = shown(self._workers.tasks)
        self.num_rounds += 1
        call(trainer.callbacks, "on_evaluate_end", trainer=trainer, evaluation_metrics=metrics)
        return metrics
