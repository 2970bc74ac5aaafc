"""The rollout worker: the actors of one process and what feeds them; one class here and remote."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch

from rlrun.core import finite, seeding
from rlrun.core.algorithm import Algorithm
from rlrun.core.batch import Batch
from rlrun.core.callbacks import call
from rlrun.core.episode import Episode
from rlrun.core.filters import RunningMoments
from rlrun.core.gradients import Gradient, gradient_of
from rlrun.core.policy import Policy
from rlrun.workers import shared
from rlrun.workers.actor import DEFAULT_POLICY_ID, Actor, ActorConfig
from rlrun.workers.env_context import EnvContext, WorkerOutline
from rlrun.workers.env_sampler import EnvSampler
from rlrun.workers.envs import NO_ENV
from rlrun.workers.evaluate import PIECE_S, Amount, EvaluationRound
from rlrun.workers.input import Input
from rlrun.workers.offline.reader import OfflineReader, origin_of_data
from rlrun.workers.offline.recorder import make_recorder
from rlrun.workers.offline.shuffle import Share
from rlrun.workers.row_maker import RowMaker
from rlrun.workers.sample import Sample, without_rows
from rlrun.workers.task_state import pack, unpack, update_task
from rlrun.workers.vector_env import Purpose, VectorEnv, env_seeds, make_vector_env
from rlrun.workers.video import FilmedVectorEnv, VideoConfig
from rlrun.workers.whole_episode import WholeEpisode, run_episode
from rlrun.workers.worker_config import Spaces, WorkerConfig

_global_worker: RolloutWorker | None = None


def get_global_worker() -> RolloutWorker:
    """The rollout worker of this process that samples now, for user code deep inside an env; the
    one that was made last before any has sampled.

    Raises RuntimeError where there is none.
    """
    if _global_worker is None:
        raise RuntimeError("There is no rollout worker in this process.")
    return _global_worker


class RolloutWorker:
    """Samples with its actors. `worker_index` 0 is the local worker, remote ones count from 1; a
    remote one that takes the place of another has a higher `generation`, and streams of its own.

    Without envs and data (`spaces_of_env` given, for the driver of remote workers) it only acts for
    users.
    """

    def __init__(
        self,
        config: WorkerConfig,
        worker_index: int = 0,
        generation: int = 0,
        *,
        spaces_of_env: Spaces | None = None,
    ) -> None:
        self.config = config
        self.worker_index = worker_index
        self.num_workers = config.num_workers
        self.callbacks = config.callbacks
        self.seed = config.seed
        if generation:
            self.seed = seeding.integer_seed(config.seed, "generation", generation)
        if worker_index > 0:
            seeding.seed_process(self.seed, "worker", int(config.in_evaluation), worker_index)
            if config.debug:
                finite.check_everywhere(True)
        self.timestep = 0
        """Env steps of all workers, as far as this one knows."""
        self.num_updates: dict[str, int] = {}
        """How many updates the weights of the actors have seen, by policy id."""
        self.purpose: Purpose = "evaluation" if config.in_evaluation else "rollout"
        self.env: VectorEnv | None = None
        reads_data = config.input is not None and not config.in_evaluation
        is_idle = spaces_of_env is not None
        if not (is_idle or reads_data):
            self.env = self._make_env(config.algorithm.num_envs_per_worker, config.videos)
            spaces_of_env = Spaces(self.env.observation_space, self.env.action_space)
        self.spaces = spaces_of_env or self._spaces_of_data()
        self.actors: dict[str, Actor] = {DEFAULT_POLICY_ID: self.make_actor(DEFAULT_POLICY_ID)}
        self.learners: dict[str, Algorithm] = {}
        """Learners that live here, by policy id, where algorithms learn in the workers, or compute
        gradients there."""
        self.input: Input | None = None
        if self.env is not None:
            self.input = self._make_sampler(self.env)
        elif not is_idle:
            self.input = self._make_reader()
        self._row_maker = RowMaker(self)
        self._evaluation: EvaluationRound | None = None
        self.gathered: list[Sample] = []
        """Fragments that wait for more, where a whole batch is learned from here."""
        self.jobs: Generator[None, None, None] | None = None
        """Episodes that an algorithm has asked for, step by step, with weights that it may change
        in between."""
        self.outcomes: list[Any] = []
        """What has come of these."""
        self._spent_s = 0.0
        """Seconds in the pieces so far of the fragment under way."""
        if _global_worker is None or not config.in_evaluation:
            self._become_global()

    def make_actor(self, policy_id: str) -> Actor:
        """An actor on this worker's spaces. Raises SpaceError if the parts do not suit them."""
        config = self.config
        return Actor(
            ActorConfig(
                algorithm=config.algorithm,
                exploration=config.exploration,
                model=config.model,
                observation_filter=config.env.observation_filter,
                flatten_observations=config.env.flatten_observations,
                normalize_actions=config.env.normalize_actions,
                weights_seed=config.seed,
                seed=self.seed,
                purpose=self.purpose,
                worker_index=self.worker_index,
                num_workers=config.num_workers,
                device=config.device if self.worker_index else config.local_device,
                extra_columns=() if config.in_evaluation else config.rollout_columns,
            ),
            policy_id,
            self.spaces.observation_space,
            self.spaces.action_space,
            config.env.id,
        )

    # Sampling

    def sample(self) -> Sample:
        """One fragment of every env, and the rows of all trajectories that it completes."""
        found = self.go_on_sampling(math.inf)
        assert found is not None
        return found

    def go_on_sampling(self, max_s: float) -> Sample | None:
        """The same, or None if it takes longer than `max_s` seconds: the next call goes on with
        it, by the weights that this worker has then."""
        assert self.input is not None
        started = time.perf_counter()
        self._become_global()
        actor = self.actors[DEFAULT_POLICY_ID]
        algorithm = actor.algorithm
        if not self.input.is_midway:
            self._spent_s = 0.0
            actor.exploration.before_fragment()
        num_envs = algorithm.num_envs_per_worker
        fragment = self.input.sample(
            algorithm.fragment_length(self.num_workers),
            self.timestep,
            self.config.explore,
            # A longer one would begin the next episode by weights that it does not end with.
            ends_with_episode=algorithm.batch_mode == "complete_episodes" and num_envs == 1,
            max_s=max_s,
        )
        self._spent_s += time.perf_counter() - started
        return None if fragment is None else self._message(actor, fragment)

    def _message(self, actor: Actor, fragment: Batch) -> Sample:
        """What there is to say of a fragment [T, B, ...]."""
        assert self.input is not None
        started = time.perf_counter()
        columns = actor.algorithm.rollout_columns
        if "sampled_at_update" in columns and "sampled_at_update" not in fragment:  # Recorded data.
            num_updates = self.num_updates.get(actor.policy_id, 0)
            fragment["sampled_at_update"] = np.full(fragment["rewards"].shape, num_updates)
        exploration_stats = actor.postprocess(fragment, self.timestep, self.config.explore)
        void_steps = int((~fragment["valid"]).sum()) if "valid" in fragment else 0
        env_steps = fragment["rewards"].size - void_steps
        self.timestep += env_steps * max(self.num_workers, 1)
        batch = self._row_maker.rows(actor, fragment)
        if batch and self.callbacks.overrides("on_sample_end"):
            call(self.callbacks, "on_sample_end", worker=self, samples=batch)
        gathered = actor.take_gathered()
        sampled = time.perf_counter()
        batches, gradients = {actor.policy_id: batch}, {}
        if actor.algorithm.learns_on_workers:
            batches = {}
            if batch:
                gradients[actor.policy_id] = self._gradient(actor, batch, gathered)
        seconds, vector_steps = self.input.take_seconds()
        seconds["postprocessing"] = self._spent_s + sampled - started - sum(seconds.values())
        if gradients:
            seconds["learning"] = time.perf_counter() - sampled
        return Sample(
            batches,
            env_steps,
            void_steps=void_steps,
            episodes=self.input.take_finished(),
            gathered={} if gathered is None else {actor.policy_id: gathered},
            seconds=seconds,
            vector_steps=vector_steps,
            gradients=gradients,
            exploration={actor.policy_id: exploration_stats} if exploration_stats else {},
        )

    def go_on_sampling_and_leave(self, max_s: float) -> tuple[Sample | None, dict[str, Batch]]:
        """The same in two parts, of which the rows need not go where the other goes."""
        found = self.go_on_sampling(max_s)
        return (None, {}) if found is None else without_rows(found)

    def postprocess(self, policy_id: str, trajectory: Batch) -> Batch:
        """What the algorithm makes of a trajectory [T, B, ...]: the columns that it learns from."""
        return self._row_maker.postprocess(self.actors[policy_id], trajectory)

    def _gradient(self, actor: Actor, rows: Batch, gathered: RunningMoments | None) -> Gradient:
        """The gradient of rows by a copy of the learner, with the weights that act."""
        if actor.policy_id not in self.learners:
            self.learners[actor.policy_id] = self.make_learner(actor)
        learner = self.learners[actor.policy_id]
        learner.policy.copy_weights(actor.policy)
        if gathered is not None and not learner.policy.observation_filter.has_statistics:
            # As the driver's learner does with its first rows.
            learner.policy.observation_filter.merge(gathered)
        return gradient_of(learner, rows)

    def make_learner(self, actor: Actor) -> Algorithm:
        """A learner of its own for an actor, where algorithms learn in the workers."""
        device = self.config.device if self.worker_index else self.config.local_device
        return actor.algorithm.make_learner(
            actor.make_policy(),
            torch.device(device),
            self.config.seed,
            lambda: self.timestep,
            self.callbacks,
        )

    def run_episode(self, seed: int, explore: bool) -> WholeEpisode:
        """One whole episode of this worker's env, which is its only one; see `run_episode`."""
        assert isinstance(self.input, EnvSampler)
        self._become_global()
        return run_episode(self.input, seed, self.timestep, explore and self.config.explore)

    def give_up_jobs(self) -> None:
        """They are not gone on with, and the policies have their own weights again."""
        if self.jobs is not None:
            self.jobs.close()
            self.jobs = None
            for actor in self.actors.values():
                actor.take_gathered()

    def begin_evaluation(self, evaluation_round: int, amount: Amount) -> None:
        """Start to run exactly that amount of episodes or env steps."""
        assert isinstance(self.input, EnvSampler)
        seed = seeding.integer_seed(self.seed, self.purpose, evaluation_round)
        self._evaluation = EvaluationRound(self.input, seed, amount)

    def go_on_evaluating(
        self, max_s: float = PIECE_S, is_enough: bool = False
    ) -> tuple[Sample, bool]:
        """What comes out in about `max_s` seconds more, and whether it is over then; `is_enough`:
        as soon as it can be."""
        assert self._evaluation is not None
        self._become_global()
        if is_enough:
            self._evaluation.end_soon()
        found = self._evaluation.go_on(max_s, self.timestep, self.config.explore)
        return found, self._evaluation.is_over

    def run_evaluation(self, evaluation_round: int, amount: Amount) -> Sample:
        """Both at once: exactly that amount of episodes or env steps."""
        self.begin_evaluation(evaluation_round, amount)
        return self.go_on_evaluating(math.inf)[0]

    def evaluate_in_pieces(self, evaluation_round: int, amount: Amount) -> Iterator[Sample]:
        """The same piece by piece, as episodes end."""
        self.begin_evaluation(evaluation_round, amount)
        is_over = False
        while not is_over:
            sample, is_over = self.go_on_evaluating()
            yield sample

    # Policies and envs

    @property
    def name(self) -> str:
        """What this worker is called in messages."""
        kind = "evaluation worker" if self.config.in_evaluation else "worker"
        return f"{kind} {self.worker_index}" if self.worker_index else f"the local {kind}"

    @property
    def episodes(self) -> list[Episode]:
        """The running episodes, by env; empty where no callback looks at episodes."""
        return self.input.episodes.episodes if isinstance(self.input, EnvSampler) else []

    @property
    def policies(self) -> dict[str, Policy]:
        """The policies that act here, by id."""
        return {policy_id: actor.policy for policy_id, actor in self.actors.items()}

    def get_policy(self, policy_id: str = DEFAULT_POLICY_ID) -> Policy | None:
        """The acting policy of that id, or None."""
        return self.policies.get(policy_id)

    def foreach_policy(self, function: Callable[[Policy, str], Any]) -> list[Any]:
        """function(policy, policy_id) for every policy that acts here."""
        return [function(policy, policy_id) for policy_id, policy in self.policies.items()]

    def foreach_env(self, function: Callable[[Any], Any]) -> list[Any]:
        """function(env) for every env of this worker, unwrapped, in the process where it lives; of
        a native vector env function(vector_env), once."""
        if self.env is None:
            return []
        return self.env.foreach(lambda env, _: function(env.unwrapped))

    def foreach_env_with_context(self, function: Callable[[Any, EnvContext], Any]) -> list[Any]:
        """The same as function(env, env_ctx)."""
        if self.env is None:
            return []
        context = self._env_context()
        return self.env.foreach(lambda env, index: function(env.unwrapped, context(index)))

    # Tasks of envs

    @property
    def plays_tasks(self) -> bool:
        """Whether there are envs, with get_task and set_task."""
        return self.env is not None and self.env.plays_tasks

    def get_tasks(self) -> list[Any]:
        """The task of every env; empty where envs have none."""
        return self.env.call("get_task") if self.env is not None and self.plays_tasks else []

    def sample_tasks(self, num_tasks: int) -> list[Any]:
        """That many tasks of the first env's sample_tasks, by its seed if it has not begun."""
        if self.env is None:
            return []
        if isinstance(self.input, EnvSampler) and not self.input.has_begun:
            self.env.reset(self.input.seeds)
        return list(self.env.call("sample_tasks", num_tasks)[0])

    def set_tasks(self, tasks: Sequence[Any]) -> None:
        """Deal tasks out to the envs of all workers in turn, from the first one again where there
        are fewer; this is what happens to those of this worker. Raises WorkerError."""
        if self.env is None:
            return
        before = max(self.worker_index - 1, 0) * self.env.num_callees
        dealt = [(tasks[(before + i) % len(tasks)],) for i in range(self.env.num_callees)]
        self.env.call_each("set_task", dealt)

    def update_tasks(self, next_task: Callable[[Any, EnvContext], Any]) -> list[Any]:
        """Set the task of every env to next_task(env, env_ctx), where that is another than it has;
        `env` is the layer that has get_task and set_task. Returns the tasks."""
        if self.env is None:
            return []
        context = self._env_context()
        return self.env.foreach(
            lambda env, index: update_task(env, lambda layer: next_task(layer, context(index)))
        )

    def _env_context(self) -> Callable[[int], EnvContext]:
        """What makes the context of one of the envs."""
        return partial(
            EnvContext,
            self.config.env.env_config,
            self.worker_index,
            num_workers=self.num_workers,
            remote=self.config.env.vectorization == "async",
        )

    def get_spaces(self) -> Spaces:
        """Spaces of this worker's env."""
        return self.spaces

    def get_weights(self) -> dict[str, dict[str, np.ndarray]]:
        """Weights of the acting policies by id, filter statistics among them."""
        return {policy_id: policy.get_weights() for policy_id, policy in self.policies.items()}

    def set_weights(
        self,
        weights: Mapping[str, Mapping[str, np.ndarray]],
        timestep: int | None = None,
        num_updates: Mapping[str, int] | None = None,
    ) -> None:
        """Take over weights, the global count of env steps, and how many updates the weights have
        seen."""
        self.give_up_jobs()
        for policy_id, policy_weights in weights.items():
            self.actors[policy_id].policy.set_weights(dict(policy_weights))
        if timestep is not None:
            self.timestep = timestep
        if num_updates is not None:
            self.num_updates = dict(num_updates)

    def set_hyperparameters(self, policy_id: str, values: Mapping[str, Any]) -> None:
        """Take over hyperparameters that changed in the learner."""
        self.actors[policy_id].algorithm.set_hyperparameters(**values)
        if policy_id in self.learners:
            self.learners[policy_id].set_hyperparameters(**values)

    def _become_global(self) -> None:
        global _global_worker
        _global_worker = self

    # State

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed worker needs beside its policies' weights."""
        shared.settle()
        return {
            "timestep": self.timestep,
            "actors": {policy_id: actor.state_dict() for policy_id, actor in self.actors.items()},
            "trajectories": self._row_maker.cutter.state_dict(),
            "tasks": [pack(task) for task in self.get_tasks()],
            "input": None if self.input is None else self.input.state_dict(),
            "gathered": [sample.state_dict() for sample in self.gathered],
            "videos": self.env.state_dict() if isinstance(self.env, FilmedVectorEnv) else None,
            "callbacks": self.callbacks.state_dict(),
            # The driver's own belong to the trainer.
            "process_rng": seeding.process_rng_state() if self.worker_index > 0 else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.forget()
        self.timestep = int(state["timestep"])
        # Before the envs: hooks see the restored episodes begin, as they had seen them before.
        self.callbacks.load_state_dict(state["callbacks"])
        self._row_maker.cutter.load_state_dict(state["trajectories"])
        self.add_gathered(state.get("gathered", ()))
        tasks = [unpack(task) for task in state["tasks"]]
        if self.env is not None and len(tasks) == self.env.num_callees:
            self.env.foreach(lambda env, index: update_task(env, lambda _: tasks[index]))
        cut = None
        if self.input is not None and state["input"] is not None:
            cut = self.input.load_state_dict(state["input"])
            if not self.input.is_midway:
                self._row_maker.cutter.truncate(cut)
            # What hooks counted of that has been counted.
            self.callbacks.load_state_dict(state["callbacks"])
        if isinstance(self.env, FilmedVectorEnv) and state.get("videos"):
            self.env.load_state_dict(state["videos"])
        for policy_id, actor_state in state["actors"].items():
            self.actors[policy_id].load_state_dict(actor_state)
            if cut is not None:
                self.actors[policy_id].exploration.reset(cut)
        if self.worker_index > 0:
            seeding.restore_process_rng_state(state["process_rng"])
        # Envs that played their episodes again counted again what the trainer now puts right.
        shared.settle()

    def forget(self) -> None:
        """Nothing is under way any more: what is sampled next begins anew."""
        self.give_up_jobs()
        self.gathered, self._spent_s = [], 0.0
        self._row_maker.cutter.forget()
        if isinstance(self.input, EnvSampler):
            self.input.forget()

    def add_gathered(self, states: Iterable[Mapping[str, Any]]) -> None:
        """Keep fragments beside what was gathered here: the states of samples."""
        self.gathered += [Sample.from_state(each) for each in states]

    def stop(self) -> None:
        """Close envs and files."""
        if self.input is not None:
            self.input.close()

    def _make_env(self, num_envs: int, videos: VideoConfig | None = None) -> VectorEnv:
        # The first worker records: the local one, or where there are remote ones the first of them.
        is_filmed = videos is not None and self.worker_index == min(1, self.num_workers)
        env = make_vector_env(
            self.config.env,
            num_envs,
            self.worker_index,
            seed=self.seed,
            purpose=self.purpose,
            is_filmed=is_filmed,
        )
        if is_filmed and videos is not None:
            return cast(VectorEnv, FilmedVectorEnv(env, videos, self))
        return env

    def _spaces_of_data(self) -> Spaces:
        """Those of the env that the data are of, or that the data themselves tell."""
        assert self.config.input is not None
        if self.config.env.id == NO_ENV:
            origin = origin_of_data(self.config.input)
            return Spaces(origin.observation_space, origin.action_space)
        env = self._make_env(1)
        try:
            return Spaces(env.observation_space, env.action_space)
        finally:
            env.close()

    def _make_reader(self) -> OfflineReader:
        config = self.config
        assert config.input is not None
        return OfflineReader(
            config.input,
            self.actors[DEFAULT_POLICY_ID],
            reward_clip=config.env.clip_rewards,
            seed=self.seed,
            share=Share(max(self.worker_index - 1, 0), max(config.num_workers, 1)),
        )

    def _announce(self, env: VectorEnv) -> None:
        """Tell callbacks of each env, in the process where it lives."""
        if self.config.env.vectorization == "native":
            return
        callbacks, context = self.callbacks, self._env_context()
        worker: RolloutWorker | WorkerOutline = self
        if self.config.env.vectorization == "async":
            worker = WorkerOutline(
                name=self.name,
                worker_index=self.worker_index,
                num_workers=self.num_workers,
                config=self.config,
            )
        env.foreach(
            lambda sub_environment, index: call(
                callbacks,
                "on_sub_environment_created",
                worker=worker,
                sub_environment=sub_environment,
                env_index=index,
                env_context=context(index),
            )
        )

    def _make_sampler(self, env: VectorEnv) -> EnvSampler:
        config = self.config
        if self.callbacks.overrides("on_sub_environment_created"):
            self._announce(env)
        seed = seeding.integer_seed(self.seed, self.purpose)
        output = None if config.in_evaluation else config.output
        return EnvSampler(
            env,
            self.actors[DEFAULT_POLICY_ID],
            reward_clip=config.env.clip_rewards,
            callbacks=self.callbacks,
            worker=self,
            seeds=env_seeds(seed, self.worker_index, env.num_envs),
            learns=not config.in_evaluation,
            recorder=make_recorder(output, env, config.env.id, self.worker_index),
        )
