"""The trainer: algorithms, workers and counters, and the verbs that users know.

One final class; runs differ by what it holds. Lives in the driver.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from rlrun.core import finite, seeding
from rlrun.core.algorithm import Algorithm
from rlrun.core.callbacks import Callbacks, call
from rlrun.core.checkpoint import (
    UNEXPECTED_CONTENT,
    checkpoint_name,
    load_checkpoint,
    save_checkpoint,
)
from rlrun.core.denormals import set_num_threads
from rlrun.core.errors import CheckpointError, Interrupted, RlrunError, WorkerDiedError
from rlrun.core.export_formats import format_of
from rlrun.core.metrics import EpisodeWindow
from rlrun.core.nested import row_of
from rlrun.core.phases import bottleneck, time_by_phase
from rlrun.core.policy import Policy, State
from rlrun.core.process import ProcessState, set_matmul_precision
from rlrun.core.resources import Resources, cap_gpu_memory, learner_device
from rlrun.core.warm_start import LoadReport, load_weights
from rlrun.core.weight_files import read_weights
from rlrun.evaluation import Evaluation
from rlrun.evaluation_config import EvaluationConfig
from rlrun.progress import Progress
from rlrun.workers import shared
from rlrun.workers.actor import DEFAULT_POLICY_ID, Actor, Decision
from rlrun.workers.rollout_worker import RolloutWorker
from rlrun.workers.video import require_encoder
from rlrun.workers.worker_config import WorkerConfig
from rlrun.workers.worker_set import WorkerSet

logger = logging.getLogger("rlrun")


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """All that a trainer is made of."""

    worker: WorkerConfig
    resources: Resources
    evaluation: EvaluationConfig
    evaluation_worker: WorkerConfig
    video_folder: str = "videos"
    """Where videos of episodes go, if there are any."""
    init_from: str | None = None
    """The file or checkpoint whose weights the policy begins with; None: with random ones."""
    plain: dict[str, Any] = field(default_factory=dict)
    """The composed config as plain values, for results and checkpoints."""


class Trainer:
    """Trains a policy: `train` is one iteration. Also a context manager that calls `stop`.

    Raises ConfigError, SpaceError or ResourceError if the parts do not fit together.
    """

    def __init__(self, config: TrainerConfig) -> None:
        started = time.perf_counter()
        config = _with_videos(config)
        self.config = config
        self.callbacks: Callbacks = config.worker.callbacks
        resources, seed = config.resources, config.worker.seed
        device = learner_device(resources)
        with ExitStack() as stack:
            self._process = ProcessState()
            stack.callback(self._process.restore)
            set_num_threads(resources.num_cpus_for_driver)
            set_matmul_precision(resources.matmul_precision)
            seeding.seed_process(seed, "driver")
            if config.worker.debug:
                finite.check_everywhere(True)
            num_evaluators = config.evaluation.num_workers if config.evaluation.is_wanted else 0
            self.workers = WorkerSet(
                replace(config.worker, local_device=str(device)),
                resources,
                resources.num_workers,
                num_evaluators,
            )
            stack.callback(self.workers.stop)
            cap_gpu_memory(resources, device)
            self.timers = self.workers.timers
            self.algorithms: dict[str, Algorithm] = {
                policy_id: self._make_learner(actor, device)
                for policy_id, actor in self.workers.local_worker().actors.items()
            }
            self.workers.learners = self.algorithms
            for algorithm in self.algorithms.values():
                algorithm.connect(self.workers)
            self.workers.sync_weights(self.algorithms)
            evaluation_worker = replace(config.evaluation_worker, local_device=str(device))
            self.evaluation = Evaluation(config.evaluation, evaluation_worker, resources)
            if config.evaluation.is_wanted:
                self.evaluation.workers(self.algorithms)
            self.evaluation_metrics = self.evaluation.unknown()
            self.episodes = EpisodeWindow()
            self.progress = Progress(seed)
            self.env_tasks: list[Any] = []
            """What `workers.tasks` were when the last iteration began."""
            self._is_stopped = False
            self.init_report: LoadReport | None = None
            """What was taken over from `init_from`."""
            if config.init_from is not None:
                source = f"init_from={config.init_from}"
                self.init_report = self._load(config.init_from, DEFAULT_POLICY_ID, source)
            self.progress.warmup_time = time.perf_counter() - started
            for policy_id, algorithm in self.algorithms.items():
                logger.info(
                    "%s (%s) on %s: observations %s, actions %s, %d parameters on %s, "
                    "%d remote workers",
                    policy_id,
                    type(algorithm).__name__,
                    config.worker.env.id,
                    algorithm.policy.obs_space,
                    algorithm.policy.action_space,
                    algorithm.policy.flat.values.numel(),
                    device,
                    resources.num_workers,
                )
            self.timers.flush()
            call(self.callbacks, "on_trainer_init", trainer=self)
            stack.pop_all()

    def _make_learner(self, actor: Actor, device: torch.device) -> Algorithm:
        path = () if actor.policy_id == DEFAULT_POLICY_ID else (actor.policy_id,)
        seed = self.config.worker.seed
        algorithm = actor.algorithm.make_learner(
            actor.make_policy(),
            device,
            seeding.integer_seed(seed, *path) if path else seed,
            lambda: self.workers.num_env_steps_sampled,
            self.callbacks,
        )
        algorithm.timers = self.timers
        return algorithm

    # Training

    @property
    def iteration(self) -> int:
        """How many iterations are over."""
        return self.progress.iteration

    def train(self) -> dict[str, Any]:
        """One training iteration, with an evaluation if one is due; its result by classic names.

        Raises Interrupted if `interrupt` was called before it was over; the next call goes on.
        """
        if self._is_stopped:
            raise RlrunError("The trainer was stopped. Make a new one, and `restore` a checkpoint.")
        started = time.perf_counter()
        try:
            return self._train(started)
        except Interrupted:
            self._set_interrupted(False)
            raise
        except WorkerDiedError as error:
            self._tell_of(error)
            raise

    def _train(self, started: float) -> dict[str, Any]:
        is_due = self.config.evaluation.is_due(self.iteration + 1)
        if is_due and self.config.evaluation.parallel_to_training:
            self._run_loop_and_evaluate()
        else:
            self._run_loop()
        self.progress.iteration += 1
        if is_due and not self.config.evaluation.parallel_to_training:
            try:
                self._evaluate()
            except (Interrupted, WorkerDiedError):
                self.progress.iteration -= 1
                raise
        result = self.episodes.add(self.workers.take_metrics())
        if is_due or self.config.evaluation.always_attach_results:
            result["evaluation"] = self.evaluation_metrics
        result |= self.progress.end_iteration(
            time.perf_counter() - started,
            self.workers.num_env_steps_sampled,
            sum(algorithm.num_rows_trained for algorithm in self.algorithms.values()),
        )
        result["episodes_total"] = self.episodes.episodes_total
        sampling = self.workers.take_sampling_time()
        result["sampler_perf"] = sampling.per_step_ms()
        phases = time_by_phase(result["time_this_iter_s"], self.timers.seconds(), sampling)
        result["time_by_phase"] = phases
        result["bottleneck"] = bottleneck(phases)
        result["timers"] = self.timers.flush()
        result |= self._learner_info()
        result["config"] = self.config.plain
        logger.debug("Iteration %d: %s", self.iteration, result["info"]["learner"])
        call(self.callbacks, "on_train_result", trainer=self, result=result)
        return result

    def interrupt(self) -> None:
        """End the iteration that is under way, in a second or a step of the envs; safe in signal
        handlers."""
        self._set_interrupted(True)

    def _set_interrupted(self, is_interrupted: bool) -> None:
        self.workers.is_interrupted = is_interrupted
        self.evaluation.set_interrupted(is_interrupted)

    def set_hyperparameters(self, policy_id: str = DEFAULT_POLICY_ID, **values: Any) -> None:
        """Change hyperparameters of the algorithm from now on, in the learner and in all workers;
        checkpoints and results know of it. Raises ConfigError."""
        self.algorithms[policy_id].set_hyperparameters(**values)

        def tell(worker: RolloutWorker) -> None:
            worker.set_hyperparameters(policy_id, values)

        self.workers.foreach_worker(tell)
        self.evaluation.foreach_worker(tell)
        self.config.plain["algo"] = {**self.config.plain.get("algo", {}), **values}

    def evaluate(self) -> dict[str, Any]:
        """Evaluate now with the present weights; returns {"evaluation": metrics}.

        Raises Interrupted if `interrupt` was called before it was over.
        """
        try:
            self._evaluate()
        except Interrupted:
            self._set_interrupted(False)
            raise
        except WorkerDiedError as error:
            self._tell_of(error)
            raise
        return {"evaluation": self.evaluation_metrics}

    def _evaluate(self) -> None:
        with self.timers.measure("evaluation"):
            self._note_evaluation(self.evaluation.run(self))

    def _run_loop_and_evaluate(self) -> None:
        """The iteration, and beside it an evaluation of the weights that it begins with."""
        with self.evaluation.beside(self) as metrics:
            self._run_loop()
            trained = time.perf_counter()
        self.timers.add("evaluation", trained)
        self._note_evaluation(metrics.result())

    def _note_evaluation(self, metrics: dict[str, Any]) -> None:
        self.evaluation_metrics = metrics
        logger.info(
            "Evaluation %d, of iteration %d: mean reward %s",
            self.evaluation.num_rounds,
            metrics["training_iteration"],
            metrics.get("episode_reward_mean"),
        )

    def _tell_of(self, error: WorkerDiedError) -> None:
        """Let callbacks know of a worker whose process is gone."""
        if error.kind != "Replay shard":
            call(
                self.callbacks,
                "on_worker_failure",
                trainer=self,
                worker_index=error.index,
                in_evaluation=error.kind == "Evaluation worker",
                error=error,
            )

    def _run_loop(self) -> None:
        """Rounds of the algorithm's loop until the iteration has its least number of env steps."""
        self.env_tasks = self.workers.tasks
        some_algorithm = next(iter(self.algorithms.values()))
        if self.progress.began_at is None:
            self.progress.began_at = self.workers.num_env_steps_sampled
        end = self.progress.began_at + max(some_algorithm.timesteps_per_iteration, 1)
        self.workers.iteration_ends_at = end
        with self.timers.measure("training_iteration"):
            cut = None
            try:
                while self.workers.num_env_steps_sampled < end or self.workers.is_gathering:
                    some_algorithm.loop(self.algorithms, self.workers)
                    if self.workers.is_interrupted and self.workers.num_env_steps_sampled < end:
                        raise Interrupted(f"Iteration {self.iteration + 1} was interrupted.")
            except Interrupted as error:
                cut = error
            some_algorithm.end_iteration(self.algorithms, self.workers)
        if cut is not None:
            raise cut

    def _learner_info(self) -> dict[str, Any]:
        learner = {}
        for policy_id, algorithm in self.algorithms.items():
            stats = algorithm.learner_stats.take()
            if math.isnan(stats.get("total_loss", 0.0)):
                raise RlrunError(
                    f"The loss of {policy_id} is nan after {algorithm.num_rows_trained} rows: its "
                    f"weights are lost. Go on from an earlier checkpoint, or start anew, with a "
                    f"lower algo.lr or algo.grad_clip."
                )
            learner[policy_id] = {
                "custom_metrics": algorithm.custom_stats.take(),
                "learner_stats": stats or algorithm.unknown_metrics(),
                **algorithm.stats(),
            }
        info = {"learner": learner}
        if exploration := self.workers.take_exploration():
            info["exploration"] = exploration
        return {"info": info}

    # Acting

    def compute_action(
        self,
        observation: Any,
        state: State | None = None,
        *,
        prev_action: Any = None,
        prev_reward: float | None = None,
        policy_id: str = DEFAULT_POLICY_ID,
        full_fetch: bool = False,
        explore: bool | None = None,
    ) -> Any:
        """The env action for one raw observation, preprocessed and filtered as in training, by the
        weights that the learner has now.

        `explore` null means the run's own setting. `state` is what the call before returned, or
        what `policy.get_initial_state()` gives; with it, or with `full_fetch`, returns
        (action, state, extras). Raises KeyError if there is no such policy, ValueError if the state
        is none of the policy's, or a `prev_action` or `prev_reward` is given to one that does not
        look at it.
        """
        decision = self._decide(
            [observation],
            policy_id,
            _as_rows(state),
            None if prev_action is None else [prev_action],
            None if prev_reward is None else [prev_reward],
            explore,
        )
        action = row_of(decision.env_actions, 0)
        if not full_fetch and state is None:
            return action
        extras = {name: column[0] for name, column in decision.columns.items()}
        return action, {name: part[0] for name, part in decision.state.items()}, extras

    compute_single_action = compute_action

    def compute_actions(
        self,
        observations: Any,
        state: State | None = None,
        *,
        prev_action: Any = None,
        prev_reward: Any = None,
        policy_id: str = DEFAULT_POLICY_ID,
        full_fetch: bool = False,
        explore: bool | None = None,
    ) -> Any:
        """Env actions for several raw observations: a list gives an array [N, ...] (of Dict and
        Tuple actions a list), a dict (by agent) a dict. `state` holds arrays [N, ...]. With it, or
        with `full_fetch`, returns (actions, state, extras by column name)."""
        by_agent = isinstance(observations, dict)
        rows = list(observations.values()) if by_agent else list(observations)
        decision = self._decide(rows, policy_id, state, prev_action, prev_reward, explore)
        actions = decision.env_actions
        if not isinstance(actions, np.ndarray):
            actions = [row_of(actions, index) for index in range(len(rows))]
        found = dict(zip(observations, actions, strict=True)) if by_agent else actions
        if not full_fetch and state is None:
            return found
        return found, decision.state, decision.columns

    def _decide(
        self,
        observations: list[Any],
        policy_id: str,
        state: State | None,
        prev_actions: Any,
        prev_rewards: Any,
        explore: bool | None,
    ) -> Decision:
        if policy_id not in self.algorithms:
            raise KeyError(f"There is no policy {policy_id!r}; there are {list(self.policies)}.")
        return (
            self.workers.local_worker()
            .actors[policy_id]
            .compute_actions(
                observations,
                state=state,
                prev_actions=prev_actions,
                prev_rewards=prev_rewards,
                explore=self.config.worker.explore if explore is None else explore,
                timestep=self.workers.num_env_steps_sampled,
                policy=self.workers.newest_policy(policy_id),
            )
        )

    # Policies

    @property
    def policies(self) -> dict[str, Policy]:
        """The learner's policies by id."""
        return {policy_id: algorithm.policy for policy_id, algorithm in self.algorithms.items()}

    def get_policy(self, policy_id: str = DEFAULT_POLICY_ID) -> Policy | None:
        """The learner's policy of that id, or None."""
        return self.policies.get(policy_id)

    def get_weights(self, policies: list[str] | None = None) -> dict[str, dict[str, np.ndarray]]:
        """Weights by policy id, as NumPy copies."""
        return {
            policy_id: policy.get_weights()
            for policy_id, policy in self.policies.items()
            if policies is None or policy_id in policies
        }

    def set_weights(self, weights: Mapping[str, dict[str, Any]]) -> None:
        """Set weights by policy id, here and on all workers. Raises KeyError, ValueError."""
        for policy_id, policy_weights in weights.items():
            self.policies[policy_id].set_weights(dict(policy_weights))
            self.algorithms[policy_id].on_weights_set()
        self.workers.publish(self.algorithms)

    # Models in and out

    def import_model(self, path: str | Path, policy_id: str = DEFAULT_POLICY_ID) -> LoadReport:
        """Take over the weights in a file (.safetensors, .pt, .h5) or a checkpoint, as far as they
        fit, here and on all workers; the optimiser goes on as it was. Returns what was loaded and
        what was not. See `rlrun.core.warm_start`.

        Raises ConfigError if nothing fits, CheckpointError, MissingExtraError, KeyError.
        """
        return self._load(path, policy_id, str(path))

    def _load(self, path: str | Path, policy_id: str, source: str) -> LoadReport:
        weights = read_weights(path, policy_id)
        report = load_weights(self.policies[policy_id], weights, source)
        self.algorithms[policy_id].on_weights_set()
        self.workers.publish(self.algorithms)
        logger.info("%s", report)
        return report

    def export_model(
        self,
        path: str | Path,
        format: str | None = None,  # noqa: A002
        policy_id: str = DEFAULT_POLICY_ID,
    ) -> Path:
        """Write the policy for other programs: "safetensors" (the weights alone), "torch" (a
        program of torch.export) or "onnx"; without a format the file's ending says which. The
        latter two turn the env's observations into its actions, as compute_action(explore=False)
        does. Returns the path. See `rlrun.core.portable` for inputs and outputs.

        Raises ConfigError, MissingExtraError, RlrunError, KeyError.
        """
        actor = self.workers.local_worker().actors[policy_id]
        policy = self.workers.newest_policy(policy_id)
        return actor.export(Path(path), format_of(Path(path), format), policy)

    # Checkpoints

    def save(self, checkpoint_dir: str | Path, facts: dict[str, Any] | None = None) -> Path:
        """Write the checkpoint of this iteration into `checkpoint_dir`; returns its folder.

        Raises CheckpointError if it cannot be written.
        """
        started = time.perf_counter()
        folder = Path(checkpoint_dir) / checkpoint_name(self.iteration)
        state = {
            "policy": {"weights": self.get_weights()},
            "learner": {
                policy_id: algorithm.state_dict()
                for policy_id, algorithm in self.algorithms.items()
            },
            "workers": self.workers.state_dict(),
            "trainer": {
                "progress": self.progress.state_dict(),
                "episodes": self.episodes.state_dict(),
                "evaluation_rounds": self.evaluation.num_rounds,
                "evaluation_begun": self.evaluation.begun,
                "evaluation_metrics": _plain(self.evaluation_metrics | {"episode_media": {}}),
                "process_rng": seeding.process_rng_state(),
                "shared": shared.state_dict(),
            },
        }
        facts = {
            "iteration": self.iteration,
            "timesteps_total": self.workers.num_env_steps_sampled,
            "config": self.config.plain,
            **(facts or {}),
        }
        save_checkpoint(folder, state, facts)
        self.timers.add("checkpoint", started)
        logger.info("Saved %s", folder)
        call(self.callbacks, "on_checkpoint", trainer=self, checkpoint_dir=str(folder))
        return folder

    def restore(self, checkpoint: str | Path, keep: Collection[str] = ()) -> None:
        """Go on from a checkpoint as if never stopped. Raises CheckpointError.

        Hyperparameters that had been changed by `set_hyperparameters` change again, but for those
        named in `keep`.
        """
        state = load_checkpoint(Path(checkpoint))
        try:
            for policy_id, algorithm_state in state["learner"].items():
                self.algorithms[policy_id].load_state_dict(algorithm_state)
                changes = algorithm_state["changes"]
                changes = {name: value for name, value in changes.items() if name not in keep}
                if changes:
                    self.set_hyperparameters(policy_id, **changes)
            self.workers.load_state_dict(state["workers"], self.algorithms)
            self._restore_counters(state["trainer"])
        except RlrunError:
            raise
        except (RuntimeError, *UNEXPECTED_CONTENT) as error:
            raise CheckpointError(
                f"The checkpoint {checkpoint} does not fit this configuration: {error}"
            ) from error
        logger.info("Restored %s: %d env steps", checkpoint, self.workers.num_env_steps_sampled)

    def _restore_counters(self, state: dict[str, Any]) -> None:
        self.episodes.load_state_dict(state["episodes"])
        self.progress.load_state_dict(state["progress"])
        self.evaluation.num_rounds = int(state["evaluation_rounds"])
        self.evaluation.begun = state.get("evaluation_begun")
        self.evaluation_metrics = state["evaluation_metrics"]
        seeding.restore_process_rng_state(state["process_rng"])
        shared.load_state_dict(state["shared"])

    # The end

    def stop(self) -> None:
        """End all workers, and give the process its random state and threads back. The trainer
        cannot be used afterwards."""
        self._is_stopped = True
        with ExitStack() as stack:
            stack.callback(self._process.restore)
            stack.callback(self.workers.stop)
            self.evaluation.stop()

    def __enter__(self) -> Trainer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _as_rows(state: Any) -> Any:
    """The state of one row for one that has an axis of rows; who has none knows what to say."""
    if not isinstance(state, Mapping):
        return state
    return {name: np.asarray(part)[None] for name, part in state.items()}


def _with_videos(config: TrainerConfig) -> TrainerConfig:
    """The same, whose workers know where their videos go. Raises MissingExtraError."""

    def told(worker: WorkerConfig) -> WorkerConfig:
        if worker.videos is None:
            return worker
        require_encoder("recording videos (env.record_env, evaluation.record)")
        return replace(worker, videos=replace(worker.videos, folder=config.video_folder))

    evaluation_worker = told(config.evaluation_worker)
    return replace(config, worker=told(config.worker), evaluation_worker=evaluation_worker)


def _plain(tree: Any) -> Any:
    """What of a tree of metrics JSON can hold; the rest as text."""
    if isinstance(tree, Mapping):
        return {str(key): _plain(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_plain(value) for value in tree]
    if isinstance(tree, np.generic):
        return tree.item()
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    return str(tree)
