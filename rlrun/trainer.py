"""The trainer: algorithms, workers and counters, and the verbs that users know.

One final class; runs differ by what it holds. Lives in the driver.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import psutil
import torch

from rlrun.core import seeding
from rlrun.core.algorithm import Algorithm
from rlrun.core.callbacks import Callbacks
from rlrun.core.checkpoint import (
    UNEXPECTED_CONTENT,
    checkpoint_name,
    load_checkpoint,
    save_checkpoint,
)
from rlrun.core.errors import CheckpointError, RlrunError
from rlrun.core.metrics import EpisodeWindow, Timers
from rlrun.core.policy import Policy
from rlrun.core.process import ProcessState
from rlrun.core.resources import Resources, cap_gpu_memory, learner_device
from rlrun.evaluation import Evaluation, EvaluationConfig
from rlrun.workers.rollout_worker import DEFAULT_POLICY_ID, WorkerConfig
from rlrun.workers.worker_set import WorkerSet

logger = logging.getLogger("rlrun")


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """All that a trainer is made of."""

    worker: WorkerConfig
    resources: Resources
    evaluation: EvaluationConfig
    evaluation_worker: WorkerConfig
    plain: dict[str, Any] = field(default_factory=dict)
    """The composed config as plain values, for results and checkpoints."""


class Trainer:
    """Trains a policy: `train` is one iteration. Also a context manager that calls `stop`.

    Raises ConfigError, SpaceError or ResourceError if the parts do not fit together.
    """

    def __init__(self, config: TrainerConfig) -> None:
        started = time.perf_counter()
        self.config = config
        self.callbacks: Callbacks = config.worker.callbacks
        resources = config.resources
        device = learner_device(resources)
        with ExitStack() as stack:
            self._process = ProcessState()
            stack.callback(self._process.restore)
            torch.set_num_threads(resources.num_cpus_for_driver)
            seeding.seed_process(config.worker.seed, "driver")
            is_evaluating = config.evaluation.interval is not None
            num_evaluators = config.evaluation.num_workers if is_evaluating else 0
            self.workers = WorkerSet(
                config.worker, resources, resources.num_workers, num_other_workers=num_evaluators
            )
            stack.callback(self.workers.stop)
            cap_gpu_memory(resources, device)
            local = self.workers.local_worker()
            # The workers' copy of the algorithm stays a bundle of hyperparameters.
            algorithm = copy.copy(config.worker.algorithm)
            algorithm.setup(local.policy_map[DEFAULT_POLICY_ID], device, config.worker.seed)
            if self.callbacks.overrides("on_learn_on_batch"):
                algorithm.on_learn_on_batch = self.callbacks.on_learn_on_batch
            self.algorithms: dict[str, Algorithm] = {DEFAULT_POLICY_ID: algorithm}
            self.workers.sync_weights()
            self.evaluation = Evaluation(config.evaluation, config.evaluation_worker, resources)
            if config.evaluation.interval is not None:
                self.evaluation.workers(self.policies)
            self.evaluation_metrics = self.evaluation.unknown()
            self.episodes = EpisodeWindow()
            self.timers = Timers()
            self.iteration = 0
            self.time_total_s = 0.0
            self.num_env_steps_trained = 0
            self._since_restore = {"iterations": 0, "timesteps": 0, "time_s": 0.0}
            experiment_id = f"{seeding.integer_seed(config.worker.seed, 'id', time.time_ns()):x}"
            self._facts = {
                "pid": os.getpid(),
                "hostname": socket.gethostname(),
                "node_ip": _node_ip(),
                "experiment_id": experiment_id,
                "trial_id": experiment_id,
                "experiment_tag": "",
                "warmup_time": time.perf_counter() - started,
            }
            logger.info(
                "%s on %s: observations %s, actions %s, %d parameters on %s, %d remote workers",
                type(algorithm).__name__,
                config.worker.env.id,
                local.spaces.obs_space,
                local.spaces.action_space,
                sum(parameter.numel() for parameter in algorithm.policy.parameters()),
                device,
                resources.num_workers,
            )
            self.callbacks.on_trainer_init(trainer=self)
            stack.pop_all()

    # Training

    def train(self, is_over: Callable[[], bool] | None = None) -> dict[str, Any]:
        """One training iteration, with an evaluation if one is due; its result by classic names.

        It ends early, after a round of the loop, where `is_over` says so.
        """
        started = time.perf_counter()
        steps_before = self.workers.num_env_steps_sampled
        metrics = self._run_loop(steps_before, is_over or (lambda: False))
        self.workers.sync_filters()
        self.iteration += 1
        result = self.episodes.add(self.workers.take_metrics())
        interval = self.config.evaluation.interval
        is_due = interval is not None and self.iteration % interval == 0
        if is_due:
            self.evaluate()
        if is_due or self.config.evaluation.always_attach_results:
            result["evaluation"] = self.evaluation_metrics
        elapsed = time.perf_counter() - started
        self._count(elapsed, self.workers.num_env_steps_sampled - steps_before)
        result |= self._counters(elapsed, self.workers.num_env_steps_sampled - steps_before)
        result |= self._learner_info(metrics)
        result |= self._facts | {"config": self.config.plain}
        logger.debug("Iteration %d: %s", self.iteration, result["info"]["learner"])
        self.callbacks.on_train_result(trainer=self, result=result)
        return result

    def evaluate(self) -> dict[str, Any]:
        """Evaluate now with the present weights; returns {"evaluation": metrics}."""
        with self.timers.measure("evaluation"):
            self.evaluation_metrics = self.evaluation.run(self)
        logger.info(
            "Evaluation %d: mean reward %s",
            self.evaluation.num_rounds,
            self.evaluation_metrics.get("episode_reward_mean"),
        )
        return {"evaluation": self.evaluation_metrics}

    def _run_loop(
        self, steps_before: int, is_over: Callable[[], bool]
    ) -> dict[str, dict[str, Any]]:
        """Rounds of the algorithm's loop until the iteration has its least number of env steps;
        the last metrics of each policy."""
        some_algorithm = next(iter(self.algorithms.values()))
        least = max(some_algorithm.timesteps_per_iteration, 1)
        metrics: dict[str, dict[str, Any]] = {}
        with self.timers.measure("training_iteration"):
            while True:
                metrics |= some_algorithm.loop(self.algorithms, self.workers)
                if self.workers.num_env_steps_sampled - steps_before >= least or is_over():
                    return metrics

    def _count(self, elapsed: float, new_steps: int) -> None:
        self.time_total_s += elapsed
        self._since_restore["iterations"] += 1
        self._since_restore["timesteps"] += new_steps
        self._since_restore["time_s"] += elapsed

    def _counters(self, elapsed: float, new_steps: int) -> dict[str, Any]:
        sampled = self.workers.num_env_steps_sampled
        trained = sum(algorithm.num_rows_trained for algorithm in self.algorithms.values())
        new_trained = trained - self.num_env_steps_trained
        self.num_env_steps_trained = trained
        counters = {
            "num_env_steps_sampled": sampled,
            "num_agent_steps_sampled": sampled,
            "num_env_steps_trained": trained,
            "num_agent_steps_trained": trained,
        }
        return {
            "training_iteration": self.iteration,
            "timesteps_total": sampled,
            "timesteps_this_iter": new_steps,
            "agent_timesteps_total": sampled,
            "episodes_total": self.episodes.episodes_total,
            **counters,
            "num_env_steps_sampled_this_iter": new_steps,
            "num_agent_steps_sampled_this_iter": new_steps,
            "num_env_steps_trained_this_iter": new_trained,
            "num_agent_steps_trained_this_iter": new_trained,
            "counters": counters,
            "num_healthy_workers": self.workers.num_workers,
            "policy_reward_min": {},
            "policy_reward_max": {},
            "policy_reward_mean": {},
            "off_policy_estimator": {},
            "sampler_perf": self.workers.take_perf(),
            "perf": {
                "cpu_util_percent": psutil.cpu_percent(),
                "ram_util_percent": psutil.virtual_memory().percent,
            },
            "timers": self.timers.flush(),
            "time_this_iter_s": elapsed,
            "time_total_s": self.time_total_s,
            "time_since_restore": self._since_restore["time_s"],
            "iterations_since_restore": self._since_restore["iterations"],
            "timesteps_since_restore": self._since_restore["timesteps"],
            "timestamp": int(time.time()),
            "date": time.strftime("%Y-%m-%d_%H-%M-%S"),
            "done": False,
        }

    def _learner_info(self, metrics: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        learner = {}
        for policy_id, algorithm in self.algorithms.items():
            raw = dict(metrics.get(policy_id) or algorithm.unknown_metrics())
            if policy_id in metrics and math.isnan(float(raw.get("total_loss", 0.0))):
                raise RlrunError(
                    f"The loss of {policy_id} is nan after {algorithm.num_rows_trained} rows: its "
                    f"weights are lost. Go on from an earlier checkpoint, or start anew, with a "
                    f"lower algo.lr or algo.grad_clip."
                )
            learner[policy_id] = {
                "custom_metrics": raw.pop("custom_metrics", {}),
                "learner_stats": _summarize(raw),
                **algorithm.stats(),
            }
        return {"info": {"learner": learner}}

    # Acting

    def compute_action(
        self,
        observation: Any,
        state: Any = None,
        *,
        prev_action: Any = None,
        prev_reward: float | None = None,
        info: dict[str, Any] | None = None,
        policy_id: str = DEFAULT_POLICY_ID,
        full_fetch: bool = False,
        explore: bool | None = None,
    ) -> Any:
        """The env action for one raw observation, preprocessed and filtered as in training.

        `explore` null means the run's own setting. With `full_fetch` (or a `state`) returns
        (action, state, extras). `prev_action`, `prev_reward` and `info` are for policies that look
        at them; none of the present ones does. Raises KeyError if there is no such policy.
        """
        found = self.compute_actions(
            [observation], policy_id=policy_id, full_fetch=True, explore=explore
        )
        action, extras = found[0][0], {name: column[0] for name, column in found[1].items()}
        if full_fetch or state is not None:
            return action, state if state is not None else [], extras
        return action

    compute_single_action = compute_action

    def compute_actions(
        self,
        observations: Any,
        *,
        policy_id: str = DEFAULT_POLICY_ID,
        full_fetch: bool = False,
        explore: bool | None = None,
    ) -> Any:
        """Env actions for several raw observations: a list gives an array [N, ...], a dict (by
        agent) a dict. With `full_fetch` also the extras by column name."""
        if policy_id not in self.policies:
            raise KeyError(f"There is no policy {policy_id!r}; there are {list(self.policies)}.")
        by_agent = isinstance(observations, dict)
        rows = list(observations.values()) if by_agent else list(observations)
        actions, extras = self.workers.local_worker().compute_actions(
            rows,
            explore=self.config.worker.explore if explore is None else explore,
            timestep=self.workers.num_env_steps_sampled,
        )
        found = dict(zip(observations, actions, strict=True)) if by_agent else actions
        return (found, extras) if full_fetch else found

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
            self.policies[policy_id].set_weights(policy_weights)
        self.workers.sync_weights()

    # Checkpoints

    def save(self, checkpoint_dir: str | Path, facts: dict[str, Any] | None = None) -> Path:
        """Write the checkpoint of this iteration into `checkpoint_dir`; returns its folder.

        Raises CheckpointError if it cannot be written.
        """
        folder = Path(checkpoint_dir) / checkpoint_name(self.iteration)
        state = {
            "policy": {
                "weights": self.get_weights(),
                "filter": self.workers.local_worker().filter.state_dict(),
            },
            "learner": {
                policy_id: algorithm.state_dict()
                for policy_id, algorithm in self.algorithms.items()
            },
            "workers": self.workers.state_dict(),
            "trainer": {
                "iteration": self.iteration,
                "time_total_s": self.time_total_s,
                "num_env_steps_trained": self.num_env_steps_trained,
                "episodes": self.episodes.state_dict(),
                "evaluation_rounds": self.evaluation.num_rounds,
                "evaluation_metrics": _plain(self.evaluation_metrics),
                "process_rng": seeding.process_rng_state(),
                "experiment_id": self._facts["experiment_id"],
            },
        }
        save_checkpoint(
            folder,
            state,
            {
                "iteration": self.iteration,
                "timesteps_total": self.workers.num_env_steps_sampled,
                "config": self.config.plain,
                **(facts or {}),
            },
        )
        logger.info("Saved %s", folder)
        self.callbacks.on_checkpoint(trainer=self, checkpoint_dir=str(folder))
        return folder

    def restore(self, checkpoint: str | Path) -> None:
        """Go on from a checkpoint as if never stopped. Raises CheckpointError."""
        state = load_checkpoint(Path(checkpoint))
        try:
            for policy_id, algorithm_state in state["learner"].items():
                self.algorithms[policy_id].load_state_dict(algorithm_state)
            self.workers.load_state_dict(state["workers"])
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
        self.iteration = int(state["iteration"])
        self.time_total_s = float(state["time_total_s"])
        self.num_env_steps_trained = int(state["num_env_steps_trained"])
        self.evaluation.num_rounds = int(state["evaluation_rounds"])
        self.evaluation_metrics = state["evaluation_metrics"]
        self._facts["experiment_id"] = self._facts["trial_id"] = state["experiment_id"]
        self._since_restore = {"iterations": 0, "timesteps": 0, "time_s": 0.0}
        seeding.restore_process_rng_state(state["process_rng"])

    # The end

    def stop(self) -> None:
        """End all workers, and give the process its random state and threads back. The trainer
        cannot be used afterwards."""
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


def _node_ip() -> str:
    """This machine's address on its network; no packet is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _summarize(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Numbers as they are; of a vector `x` its mean_x, min_x and max_x."""
    summary: dict[str, float] = {}
    reductions: dict[str, Callable[[Any], Any]] = {"mean": np.mean, "min": np.min, "max": np.max}
    for name, value in metrics.items():
        array = value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
        if array.ndim == 0:
            summary[name] = float(array)
        else:
            summary |= {f"{kind}_{name}": float(fn(array)) for kind, fn in reductions.items()}
    return summary


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
