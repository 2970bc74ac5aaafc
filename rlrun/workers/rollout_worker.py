"""The rollout worker: policies, envs and filters of one process, the same class here and remote."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlrun.core import seeding
from rlrun.core.algorithm import Algorithm
from rlrun.core.batch import Batch, concat
from rlrun.core.callbacks import Callbacks
from rlrun.core.episode import EpisodeReport
from rlrun.core.errors import SpaceError, WorkerError
from rlrun.core.exploration import Exploration
from rlrun.core.filters import make_filter
from rlrun.core.networks import Model
from rlrun.core.policy import Policy
from rlrun.core.spaces import ActionConverter, Preprocessor
from rlrun.workers.env_sampler import EnvSampler
from rlrun.workers.envs import EnvConfig
from rlrun.workers.vector_env import Purpose, env_seeds, make_vector_env

DEFAULT_POLICY_ID = "default_policy"

_global_worker: RolloutWorker | None = None


def get_global_worker() -> RolloutWorker:
    """The rollout worker of this process that samples now, for user code deep inside an env; the
    one that was made last before any has sampled.

    Raises RuntimeError where there is none.
    """
    if _global_worker is None:
        raise RuntimeError("There is no rollout worker in this process.")
    return _global_worker


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """All that a worker is made of; plain objects, so that it travels to other processes."""

    env: EnvConfig
    algorithm: Algorithm
    exploration: Exploration
    model: Model
    callbacks: Callbacks
    explore: bool
    seed: int
    num_workers: int = 0
    """Remote workers of the set; 0: the local one samples."""
    device: str = "cpu"
    """Where remote workers keep their policies; the local one shares the learner's."""
    in_evaluation: bool = False
    """Whether the worker serves evaluation: own streams of randomness, filters never updated."""


@dataclass(frozen=True)
class Spaces:
    """What a policy needs to know of an env."""

    original_observation_space: spaces.Space
    obs_space: spaces.Box
    action_space: spaces.Space


@dataclass
class Sample:
    """What one call of `sample` gives: rows by policy id, and how many env steps they took."""

    batches: dict[str, Batch]
    env_steps: int
    void_rows: int = 0
    """Rows in which a native env only reset; they were sampled, and dropped."""


class RolloutWorker:
    """Samples envs with its policy. `worker_index` 0 is the local worker, remote ones count from 1.

    Without envs (`with_env=False`, for the driver of remote workers) it needs `spaces_of_env`.
    """

    def __init__(
        self,
        config: WorkerConfig,
        worker_index: int = 0,
        *,
        with_env: bool = True,
        spaces_of_env: Spaces | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.config = config
        self.worker_index = worker_index
        self.num_workers = config.num_workers
        self.callbacks = config.callbacks
        self.algorithm = config.algorithm
        if worker_index > 0:
            seeding.seed_process(config.seed, "worker", int(config.in_evaluation), worker_index)
        self.timestep = 0
        """Env steps of all workers, as far as this one knows."""
        self.purpose: Purpose = "evaluation" if config.in_evaluation else "rollout"
        self.env = None
        if with_env:
            num_envs = config.algorithm.num_envs_per_worker
            self.env = make_vector_env(
                config.env, num_envs, worker_index, seed=config.seed, purpose=self.purpose
            )
            self.preprocessor = Preprocessor(
                self.env.observation_space, flatten=config.env.flatten_observations
            )
            spaces_of_env = Spaces(
                self.env.observation_space, self.preprocessor.space, self.env.action_space
            )
        else:
            assert spaces_of_env is not None
            self.preprocessor = Preprocessor(
                spaces_of_env.original_observation_space, flatten=config.env.flatten_observations
            )
        if config.env.observation_filter != "NoFilter":
            # What the policy sees is no image any more.
            filtered = spaces.Box(-np.inf, np.inf, spaces_of_env.obs_space.shape, np.float32)
            spaces_of_env = replace(spaces_of_env, obs_space=filtered)
        self.spaces = spaces_of_env
        self.algorithm.check_spaces(
            spaces_of_env.obs_space, spaces_of_env.action_space, config.env.id
        )
        if policy is None:
            policy = self._make_policy()
        else:
            self._check_fit(policy)
        self.policy_map: dict[str, Policy] = {DEFAULT_POLICY_ID: policy}
        self.rng = seeding.generator(config.seed, self.purpose, worker_index)
        self.convert_actions = ActionConverter(
            spaces_of_env.action_space, normalize_actions=config.env.normalize_actions
        )
        self.exploration = config.exploration.for_worker(
            action_space=self.convert_actions.policy_space,
            rng=self.rng,
            worker_index=worker_index,
            num_workers=config.num_workers,
        )
        self.filter = make_filter(config.env.observation_filter, spaces_of_env.obs_space.shape)
        self._trajectories = _Trajectories(config.algorithm)
        self.sampler = self._make_sampler() if self.env is not None else None
        if _global_worker is None or not config.in_evaluation:
            self._become_global()

    # Sampling

    def sample(self) -> Sample:
        """One fragment (or enough whole episodes) of every env, postprocessed."""
        assert self.sampler is not None
        self._become_global()
        policy = self.policy_map[DEFAULT_POLICY_ID]
        policy.resample_noise(self.rng)
        num_steps = self.algorithm.fragment_length(self.num_workers)
        parts: list[Batch] = []
        env_steps = void_rows = 0
        while not parts:
            fragment = self.sampler.sample(num_steps, self.timestep, self.config.explore)
            num_new = _count_rows(fragment)
            env_steps += num_new
            void_rows += fragment["rewards"].size - num_new
            self.timestep += num_new * max(self.num_workers, 1)
            parts = [
                self._postprocess(policy, trajectory)
                for trajectory in self._trajectories.complete(fragment)
            ]
            if self.algorithm.batch_mode == "truncate_episodes":
                break
        batch = concat(parts) if parts else Batch()
        if batch and self.callbacks.overrides("on_sample_end"):
            self.callbacks.on_sample_end(worker=self, samples=batch)
        return Sample({DEFAULT_POLICY_ID: batch}, env_steps, void_rows)

    def run_evaluation(
        self, evaluation_round: int, num_episodes: int | None, num_steps: int | None
    ) -> int:
        """Run exactly `num_episodes` episodes or `num_steps` env steps from fresh episodes on.

        Both are dealt out to the envs beforehand, so that short episodes are not favoured; what an
        env does beyond its share is not counted. `take_metrics` gives the episodes. Returns the
        env steps counted.
        """
        with seeding.process_streams(
            self.config.seed, self.purpose, evaluation_round, self.worker_index
        ):
            return self._run_evaluation(evaluation_round, num_episodes, num_steps)

    def _run_evaluation(
        self, evaluation_round: int, num_episodes: int | None, num_steps: int | None
    ) -> int:
        assert self.sampler is not None
        assert self.env is not None
        self._become_global()
        num_envs = self.env.num_envs
        seed = seeding.integer_seed(self.config.seed, self.purpose, evaluation_round)
        # Each round has its own streams, so that no state of evaluation needs to be saved.
        self.rng.bit_generator.state = seeding.generator(
            seed, "actions", self.worker_index
        ).bit_generator.state
        self.sampler.restart(env_seeds(seed, self.worker_index, num_envs))
        share = shares(num_episodes if num_episodes is not None else num_steps or 0, num_envs)
        episodes_done = np.zeros(num_envs, np.int64)
        steps_done = np.zeros(num_envs, np.int64)
        counted: list[EpisodeReport] = []
        policy = self.policy_map[DEFAULT_POLICY_ID]
        training_noise = policy.get_noise()
        while True:
            policy.resample_noise(self.rng)
            is_running = (episodes_done if num_episodes is not None else steps_done) < share
            if not is_running.any():
                break
            row = self.sampler.sample(1, self.timestep, self.config.explore)
            steps_done += is_running & row.get("valid", np.ones((1, num_envs), bool))[0]
            for report in self.sampler.take_finished():
                if is_running[report.env_index]:
                    counted.append(report)
                    episodes_done[report.env_index] += 1
        policy.set_noise(training_noise)
        self.sampler.finished = counted
        return int(steps_done.sum())

    def _postprocess(self, policy: Policy, trajectory: Batch) -> Batch:
        trajectory = self.algorithm.postprocess(policy, trajectory)
        if self.callbacks.overrides("on_postprocess_trajectory"):
            self.callbacks.on_postprocess_trajectory(
                worker=self,
                policy_id=DEFAULT_POLICY_ID,
                policy=policy,
                postprocessed_batch=trajectory,
            )
        valid = trajectory.pop("valid", None)
        rows = Batch(
            {name: column.reshape(-1, *column.shape[2:]) for name, column in trajectory.items()}
        )
        return rows if valid is None else rows.take(valid.reshape(-1))

    # Acting for the user

    def compute_actions(
        self, observations: list[Any], *, explore: bool, timestep: int
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """(env actions [N, ...], extras by column name) for raw observations, preprocessed and
        filtered as in training."""
        obs = np.concatenate([self.preprocessor.single(raw) for raw in observations])
        obs = self.filter(obs, update=False)
        dist, extras = self.policy_map[DEFAULT_POLICY_ID].act(obs, explore)
        actions, log_probs = self.exploration.get_exploration_action(dist, timestep, explore)
        env_actions = self.convert_actions(actions)
        extras = {**extras, "log_probs": log_probs, "dist_inputs": dist.inputs, "actions": actions}
        return env_actions, extras

    # Policies, envs, metrics

    def get_policy(self, policy_id: str = DEFAULT_POLICY_ID) -> Policy | None:
        """The policy of that id, or None."""
        return self.policy_map.get(policy_id)

    def foreach_policy(self, function: Callable[[Policy, str], Any]) -> list[Any]:
        """function(policy, policy_id) for every policy."""
        return [function(policy, policy_id) for policy_id, policy in self.policy_map.items()]

    def foreach_env(self, function: Callable[[Any], Any]) -> list[Any]:
        """function(env) for every env of this worker that lives in this process, unwrapped."""
        if self.env is None:
            return []
        envs = self.env.get_sub_environments()
        if not envs:
            raise WorkerError(
                f"foreach_env reaches only envs that live in the worker's own process; with "
                f"env.vectorization={self.config.env.vectorization} they do not. Use "
                f"env.vectorization=sync."
            )
        return [function(env.unwrapped) for env in envs]

    def get_spaces(self) -> Spaces:
        """Spaces of this worker's env."""
        return self.spaces

    def get_weights(self) -> dict[str, dict[str, np.ndarray]]:
        """Weights by policy id."""
        return {policy_id: policy.get_weights() for policy_id, policy in self.policy_map.items()}

    def set_weights(
        self, weights: dict[str, dict[str, np.ndarray]], timestep: int | None = None
    ) -> None:
        """Take over weights, and the global count of env steps."""
        for policy_id, policy_weights in weights.items():
            self.policy_map[policy_id].set_weights(policy_weights)
        if timestep is not None:
            self.timestep = timestep

    def take_metrics(self) -> list[EpisodeReport]:
        """Episodes that ended since the last call."""
        return self.sampler.take_finished() if self.sampler is not None else []

    def take_perf(self) -> dict[str, float]:
        """Where the time of sampling went since the last call, in milliseconds a vector step."""
        return {} if self.sampler is None else self.sampler.take_perf()

    def flush_filter(self) -> dict[str, Any]:
        """What the filter gathered since the last flush."""
        return self.filter.flush()

    def set_filter(self, state: dict[str, Any]) -> None:
        """Take over a filter's statistics (none, if observations are not filtered)."""
        if state:
            self.filter.load_state_dict(state)

    def apply(self, function: Callable[..., Any], *args: Any) -> Any:
        """function(worker, *args), here."""
        return function(self, *args)

    def _become_global(self) -> None:
        global _global_worker
        _global_worker = self

    # State

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed worker needs beside its policies."""
        return {
            "timestep": self.timestep,
            "rng": self.rng.bit_generator.state,
            "exploration": self.exploration.state_dict(),
            "filter": self.filter.state_dict(),
            "trajectories": self._trajectories.state_dict(),
            "sampler": None if self.sampler is None else self.sampler.state_dict(),
            "callbacks": self.callbacks.state_dict(),
            # The driver's own belong to the trainer.
            "process_rng": seeding.process_rng_state() if self.worker_index > 0 else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.timestep = int(state["timestep"])
        self.filter.load_state_dict(state["filter"])
        self.exploration.load_state_dict(state["exploration"])
        self._trajectories.load_state_dict(state["trajectories"])
        if self.sampler is not None and state["sampler"] is not None:
            cut = self.sampler.load_state_dict(state["sampler"])
            self._trajectories.truncate(cut)
        self.rng.bit_generator.state = state["rng"]
        self.callbacks.load_state_dict(state["callbacks"])
        if self.worker_index > 0:
            seeding.restore_process_rng_state(state["process_rng"])

    def stop(self) -> None:
        """Close the envs."""
        if self.env is not None:
            self.env.close()

    def _make_policy(self) -> Policy:
        # Every process starts from the same weights; the learner's are sent before sampling anyway.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeding.integer_seed(self.config.seed, "weights"))
            policy = self.algorithm.make_policy(
                self.spaces.obs_space, self.spaces.action_space, self.config.model
            )
        return policy.to(self.config.device if self.worker_index > 0 else "cpu")

    def _check_fit(self, policy: Policy) -> None:
        """Raise SpaceError if a policy that was made for another env cannot act in this one."""
        found = self.spaces
        sees_the_same = policy.obs_space.shape == found.obs_space.shape
        if not (sees_the_same and _take_same_actions(policy.action_space, found.action_space)):
            raise SpaceError(
                f"The policy is for observations of {policy.obs_space.shape} and actions of "
                f"{policy.action_space}; {self.config.env.id!r} gives {found.obs_space.shape} and "
                f"takes {found.action_space}. Evaluation needs an env with the spaces of the "
                f"training env: see evaluation.config.env."
            )

    def _make_sampler(self) -> EnvSampler:
        config, env = self.config, self.env
        assert env is not None
        if self.callbacks.overrides("on_sub_environment_created"):
            for index, sub_environment in enumerate(env.get_sub_environments()):
                self.callbacks.on_sub_environment_created(
                    worker=self, sub_environment=sub_environment, env_index=index
                )
        return EnvSampler(
            env,
            config.env,
            self.policy_map[DEFAULT_POLICY_ID],
            self.exploration,
            preprocessor=self.preprocessor,
            observation_filter=self.filter,
            update_filter=not config.in_evaluation,
            convert_actions=self.convert_actions,
            rollout_columns=self.algorithm.rollout_columns,
            callbacks=self.callbacks,
            worker=self,
            seeds=env_seeds(
                seeding.integer_seed(config.seed, self.purpose), self.worker_index, env.num_envs
            ),
        )


class _Trajectories:
    """Cuts the stream of fragments into trajectories that postprocessing may see.

    truncate_episodes: each fragment, with the last `lookahead` steps of the one before in front,
    so that windows of n steps cross the seams. complete_episodes: each episode alone.
    """

    def __init__(self, algorithm: Algorithm) -> None:
        self.lookahead = algorithm.lookahead_steps
        self.by_episode = algorithm.batch_mode == "complete_episodes"
        self.pending: Batch | None = None

    def complete(self, fragment: Batch) -> list[Batch]:
        """The trajectories [T, B, ...] that are complete with `fragment`."""
        if self.by_episode:
            fragment["emitted"] = np.zeros(fragment["terminated"].shape, bool)
            return self._complete_episodes(self._joined(fragment))
        if self.lookahead == 0:
            return [fragment]
        joined = self._joined(fragment)
        self.pending = joined.take(slice(max(joined.num_rows - self.lookahead, 0), None)).copied()
        return [joined] if joined.num_rows > self.lookahead else []

    def truncate(self, cut: np.ndarray) -> None:
        """The running episodes of the envs in the mask `cut` [B] do not go on."""
        if self.pending is not None and self.pending.num_rows:
            last = self.pending["truncated"][-1]
            last |= cut & ~self.pending["terminated"][-1]

    def state_dict(self) -> dict[str, Any]:
        return {"pending": None if self.pending is None else dict(self.pending)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pending = state["pending"]
        self.pending = None if pending is None else Batch(pending).copied()

    def _joined(self, fragment: Batch) -> Batch:
        return fragment if self.pending is None else concat([self.pending, fragment])

    def _complete_episodes(self, joined: Batch) -> list[Batch]:
        """Episodes as [T, 1, ...]; rows of unfinished ones stay pending."""
        ends = joined["terminated"] | joined["truncated"]
        episodes = []
        for env in range(ends.shape[1]):
            for end in np.flatnonzero(ends[:, env] & ~joined["emitted"][:, env]):
                start = int(np.argmin(joined["emitted"][:, env]))
                episodes.append(self._episode(joined, start, int(end) + 1, env))
                joined["emitted"][: end + 1, env] = True
        # Rows before the oldest unfinished episode are done with in every env.
        is_open = ~joined["emitted"].all(1)
        first = int(np.argmax(is_open)) if is_open.any() else len(is_open)
        self.pending = joined.take(slice(first, None)).copied()
        return episodes

    def _episode(self, joined: Batch, start: int, end: int, env: int) -> Batch:
        # Windows of n steps stop at the episode's end, so the rows put behind it are never read.
        rows = np.minimum(np.arange(start, end + self.lookahead), end - 1)
        return Batch(
            {
                name: column[rows, env : env + 1]
                for name, column in joined.items()
                if name != "emitted"
            }
        )


def _take_same_actions(one: spaces.Space, other: spaces.Space) -> bool:
    if isinstance(one, spaces.Box) and isinstance(other, spaces.Box):
        return one.shape == other.shape  # Bounds may differ: actions are stretched to them.
    return one == other


def shares(total: int, num_takers: int) -> np.ndarray:
    """`total` dealt out to `num_takers` as evenly as can be."""
    return total // num_takers + (np.arange(num_takers) < total % num_takers)


def _count_rows(fragment: Batch) -> int:
    if "valid" in fragment:
        return int(fragment["valid"].sum())
    return int(fragment["rewards"].size)
