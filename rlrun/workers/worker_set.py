"""The workers of a run: one local, and as many remote ones as `num_workers` says."""

from __future__ import annotations

import copy
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from rlrun.core.algorithm import Algorithm
from rlrun.core.batch import Batch, concat
from rlrun.core.episode import EpisodeReport
from rlrun.core.errors import Interrupted
from rlrun.core.filters import RunningMoments
from rlrun.core.learner_stats import LearnerStats
from rlrun.core.metrics import Timers
from rlrun.core.phases import SamplingTime
from rlrun.core.policy import Policy
from rlrun.core.resources import Resources
from rlrun.core.shards import ShardPlan
from rlrun.workers.actor import DEFAULT_POLICY_ID
from rlrun.workers.env_context import EnvContext
from rlrun.workers.evaluate import PIECE_S, Amount
from rlrun.workers.local_pool import LocalPool
from rlrun.workers.rollout_worker import RolloutWorker
from rlrun.workers.sample import (
    RowsElsewhere,
    Sample,
    moments_of,
    moments_state,
    report_of,
    report_state,
)
from rlrun.workers.task import Task
from rlrun.workers.task_state import is_same, pack, unpack
from rlrun.workers.worker_config import Spaces, WorkerConfig

logger = logging.getLogger("rlrun.workers")

SAMPLING = ("go_on_sampling", "go_on_sampling_and_leave")
"""Tasks whose results a checkpoint holds, if nobody has had them yet."""


class WorkerSet:
    """Samples on the remote workers, or on the local one if there are none.

    All act on copies of the learner's weights, which `sync_weights` brings them.
    `num_other_workers` is how many remote ones other sets of the run take.
    """

    def __init__(
        self,
        config: WorkerConfig,
        resources: Resources,
        num_workers: int,
        num_other_workers: int = 0,
    ) -> None:
        self.num_env_steps_sampled = 0
        self.is_interrupted = False
        """Whether to end what is under way."""
        self.piece_s = 0.5
        """After how many seconds workers leave a fragment for a moment, to hear what the driver has
        to say: slow envs would keep Ctrl-C and checkpoints waiting."""
        self.learners: Mapping[str, Algorithm] = {}
        """Whose policies' filters get what workers gather; the trainer puts them here."""
        self.timers = Timers()
        self._rounds: list[Sample] = []
        """What was gathered for a `sample` that was interrupted, noted but for the rows."""
        self._done_of_round: dict[int, Sample] = {}
        """The same of the round under way, by the positions of workers that are done with it."""
        self._arrived: deque[tuple[int, Sample]] = deque()
        """What was under way to a stream when a checkpoint was made."""
        self._tasks: list[Any] = []
        self._tasks_may_differ = False
        """Whether envs may have been given others since those were dealt out."""
        self._told: dict[int, int] = {}
        """How many updates in all the weights have seen that a worker was sent last."""
        self._episodes: list[EpisodeReport] = []
        self._gathered: dict[str, RunningMoments] = {}
        self._exploration: dict[str, LearnerStats] = {}
        self._sampling = SamplingTime(max(num_workers, 1), num_workers > 0)
        self.iteration_ends_at = 0
        """At how many env steps the iteration is over that is under way."""
        self._pool: Any
        self.num_workers = num_workers
        """How many remote workers there are."""
        self._shards: list[Any] = []
        self._resources = resources
        self._local: RolloutWorker
        if num_workers == 0:
            self._local = RolloutWorker(config)
            self._pool = LocalPool(self._local)
            return
        from rlrun.workers.pool import RemotePool

        self._pool = RemotePool(
            partial(RolloutWorker, config),
            num_workers,
            resources,
            num_other_workers,
            0 if config.in_evaluation else config.algorithm.num_shards,
            name="Evaluation worker" if config.in_evaluation else "Worker",
        )
        try:
            found: Spaces = self._pool.call(0, "get_spaces")
            has_envs = resources.create_env_on_driver
            self._local = RolloutWorker(config, spaces_of_env=None if has_envs else found)
        except BaseException:
            self._pool.stop()
            raise

    def local_worker(self) -> RolloutWorker:
        """The worker in this process."""
        return self._local

    def remote_workers(self) -> list[Any]:
        """Ray actor handles of the remote workers: `ray.get(handle.call.remote("method"))`."""
        return list(self._pool.actors) if self.num_workers else []

    # The three verbs: wait for all, take what comes first, tell one

    def map(self, task: Task, *args: Any) -> list[Any]:
        """`task` of every sampling worker at once; their results in order. Raises WorkerError."""
        return self._pool.map(task, *args)  # type: ignore[no-any-return]

    def stream(
        self,
        task: Task,
        *args: Any,
        in_flight: int = 1,
        is_over: Callable[[], bool] = lambda: False,
    ) -> Iterator[tuple[int, Any]]:
        """(position, result) as sampling workers finish, until `is_over`; each does its task again
        when the caller asks for more, so that what was sent to it in between counts. Remote workers
        have `in_flight` calls before them, and go on while nobody asks; what they do then comes
        first the next time, and is saved in checkpoints if the task is "sample". That they do in
        pieces: between two of them they hear what was sent, and the local worker sees `is_over`."""
        if task != "sample":
            results = self._pool.stream(task, *args, in_flight=in_flight, is_over=is_over)
            yield from self._timed(results)
            return
        while self._arrived and not is_over():
            yield self._arrived.popleft()
        pieces = self._pool.stream(
            "go_on_sampling", self.piece_s, in_flight=in_flight, is_over=is_over
        )
        for position, found in self._timed(pieces):
            if found is not None:
                yield position, found

    def stream_samples(
        self, *, in_flight: int, is_over: Callable[[], bool]
    ) -> Iterator[tuple[int, Sample]]:
        """`stream("sample")`, but rows of remote workers stay in the object store: the batches of
        such a sample are RowsElsewhere."""
        if not self.num_workers:
            yield from self.stream("sample", is_over=is_over)
            return
        while self._arrived and not is_over():
            yield self._arrived.popleft()
        stream = self._pool.stream(
            "go_on_sampling_and_leave",
            self.piece_s,
            in_flight=in_flight,
            is_over=is_over,
            leaves_second=True,
        )
        for position, (sample, rows) in self._timed(stream):
            if sample is not None:
                yield position, self._with_rows_elsewhere(position, sample, rows)

    def _timed(self, results: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """The same; what is waited for them counts as sampling."""
        while True:
            started = time.perf_counter()
            found = next(results, None)
            self.timers.add("sample", started)
            if found is None:
                return
            yield found

    def start_shards(self, plan: ShardPlan, queue_size: int) -> Any:
        """Replay shards in processes of their own, which end with the workers. They get
        `queue_size` batches ready. Raises ResourceError if there is no room for them."""
        from rlrun.workers.remote_shards import RemoteShards

        self._shards.append(RemoteShards(plan, self._resources, queue_size))
        return self._shards[-1]

    @property
    def is_iteration_over(self) -> bool:
        """Whether the iteration has as many env steps as it is to have."""
        return self.num_env_steps_sampled >= self.iteration_ends_at

    def send(self, position: int, task: Task, *args: Any) -> None:
        """Tell one sampling worker without waiting; it obeys after what it is doing."""
        self._pool.send(position, task, *args)

    def replace(self, position: int) -> None:
        """Put a new remote worker in the place of one, with the weights published last, and the
        hyperparameters as they are by now."""
        self._pool.replace(position)
        for policy_id, learner in self.learners.items():
            if learner.changes:
                self._pool.call(position, "set_hyperparameters", policy_id, learner.changes)
        self._pool.call(position, "set_weights", *self._publication())
        if self._tasks:
            self._pool.call(position, "set_tasks", self._tasks)

    # Sampling and weights

    def sample(self, min_steps: int = 1) -> dict[str, Batch]:
        """Rounds of fragments from all sampling workers until there are rows of `min_steps` steps,
        by policy id; one round at least, which may give no rows if no trajectory is complete.

        Raises Interrupted if `is_interrupted` is set before there are enough; what was gathered
        waits for the next call, also over a checkpoint.
        """
        started = time.perf_counter()
        num_steps = sum(map(_steps_in, self._rounds))
        while True:
            samples = self._sample_round()
            self._sampling.slowest_s += max(sum(each.seconds.values()) for each in samples)
            for sample in samples:
                self.note(sample)
                num_steps += _steps_in(sample)
            self._rounds += samples
            if num_steps >= min_steps or min_steps <= 1:
                break
            if self.is_interrupted:
                raise Interrupted(f"{num_steps} of {min_steps} steps of a batch were gathered.")
        rounds, self._rounds = self._rounds, []
        self.timers.add("sample", started)
        return {
            policy_id: concat([sample.batches[policy_id] for sample in rounds])
            for policy_id in rounds[0].batches
        }

    def _sample_round(self) -> list[Sample]:
        """A fragment of each sampling worker. Raises Interrupted."""
        done, everybody = self._done_of_round, range(max(self.num_workers, 1))
        while missing := [position for position in everybody if position not in done]:
            pieces = self._pool.map("go_on_sampling", self.piece_s, to=missing)
            for position, sample in zip(missing, pieces, strict=True):
                if sample is not None:
                    done[position] = sample
            if self.is_interrupted and len(done) < len(everybody):
                raise Interrupted(f"{len(done)} of {len(everybody)} workers were done.")
        self._done_of_round = {}
        return [done[position] for position in everybody]

    @property
    def is_gathering(self) -> bool:
        """Whether an interrupted `sample` waits to be gone on with."""
        return bool(self._rounds)

    def note(self, sample: Sample) -> None:
        """Count what a worker's message says beside its rows; loops that `stream` call it."""
        self.num_env_steps_sampled += sample.env_steps
        self._episodes += sample.episodes
        for policy_id, moments in sample.gathered.items():
            learner = self.learners.get(policy_id)
            if learner and not learner.policy.observation_filter.has_statistics:
                # At once: the first update would see observations as they came, and the first
                # policy acts nearly alike on both.
                learner.policy.observation_filter.merge(moments)
                continue
            known = self._gathered.setdefault(policy_id, RunningMoments(moments.mean.shape))
            known.merge(moments.count, moments.mean, moments.squares)
        for policy_id, numbers in sample.exploration.items():
            self._exploration.setdefault(policy_id, LearnerStats()).add(numbers)
        self._sampling.note(sample.seconds, sample.vector_steps)

    def sync_weights(self, algorithms: Mapping[str, Algorithm], to: int | None = None) -> None:
        """After an update: count what filters gathered, and `publish`."""
        started = time.perf_counter()
        gathered, self._gathered = self._gathered, {}
        for policy_id, moments in gathered.items():
            algorithms[policy_id].count(moments)
        self.publish(algorithms, to)
        self.timers.add("sync_weights", started)

    def publish(self, algorithms: Mapping[str, Algorithm], to: int | None = None) -> None:
        """Give all workers (or the remote one at position `to`) the learners' weights and the count
        of env steps."""
        self._local.timestep = self.num_env_steps_sampled
        self._local.num_updates = {
            policy_id: algorithm.give_weights(self._local.actors[policy_id].policy)
            for policy_id, algorithm in algorithms.items()
        }
        told = range(max(self.num_workers, 1)) if to is None else (to,)
        self._told |= dict.fromkeys(told, sum(self._local.num_updates.values()))
        if self.num_workers and to is None:
            self._pool.send_all("set_weights", *self._publication())
        elif self.num_workers:
            self._pool.send(to, "set_weights", *self._publication())

    def make_policy(self, policy_id: str = DEFAULT_POLICY_ID) -> Policy:
        """A policy for a loop of one's own to learn, with the weights that workers begin with."""
        return self._local.actors[policy_id].make_policy()

    def newest_policy(self, policy_id: str = DEFAULT_POLICY_ID) -> Policy:
        """What acts as workers do, by the weights that the learner has now: those that workers have
        may be older. For users who look on."""
        policy, learner = self._local.actors[policy_id].policy, self.learners[policy_id]
        if self._local.num_updates[policy_id] == learner.num_updates_to_give:
            return policy
        newest = copy.deepcopy(policy)
        learner.give_weights(newest)
        return newest

    def sync_policy(self, policy: Policy, policy_id: str = DEFAULT_POLICY_ID) -> None:
        """After such a loop's update: count in the policy's filter what workers gathered, and give
        them all its weights."""
        if (moments := self._gathered.pop(policy_id, None)) is not None:
            policy.observation_filter.merge(moments)
        self._local.timestep = self.num_env_steps_sampled
        self._local.actors[policy_id].policy.copy_weights(policy)
        if self.num_workers:
            self._pool.send_all("set_weights", *self._publication())

    def updates_since_told(self, position: int) -> int:
        """How many updates the worker at `position` does not know of yet."""
        return self._num_updates() - self._told.get(position, 0)

    def take_metrics(self) -> list[EpisodeReport]:
        """Episodes that ended since the last call, as workers reported them."""
        taken, self._episodes = self._episodes, []
        return taken

    def take_exploration(self) -> dict[str, dict[str, float]]:
        """What explorations reported since the last call, by policy id: see `LearnerStats`."""
        return {policy_id: stats.take() for policy_id, stats in self._exploration.items()}

    def take_sampling_time(self) -> SamplingTime:
        """What the sampling workers spent their time on since the last call."""
        taken = self._sampling
        self._sampling = SamplingTime(taken.num_workers, taken.is_remote)
        return taken

    def run_evaluation(
        self, evaluation_round: int, amount: Amount, is_enough: Callable[[], bool] = lambda: False
    ) -> Sample | None:
        """Exactly that amount of episodes or env steps over all sampling workers; what came out, or
        None if `is_interrupted` was set on the way. `is_enough` ends an open amount."""
        num_workers = max(self.num_workers, 1)
        self._pool.map_each(
            "begin_evaluation",
            [(evaluation_round, share) for share in amount.dealt_to(num_workers)],
        )
        # By worker, whose pieces may come in any order: results must not depend on their times.
        episodes: list[list[EpisodeReport]] = [[] for _ in range(num_workers)]
        num_steps = 0
        while True:
            pieces = self.map("go_on_evaluating", PIECE_S, is_enough())
            for of_worker, (sample, _) in zip(episodes, pieces, strict=True):
                of_worker += sample.episodes
                num_steps += sample.env_steps
            if all(is_over for _, is_over in pieces):
                return Sample({}, num_steps, episodes=[each for some in episodes for each in some])
            if self.is_interrupted:
                return None

    # The user's functions, everywhere

    def foreach_worker(self, function: Callable[[RolloutWorker], Any]) -> list[Any]:
        """function(worker) on every worker: the local one first, then the remote ones."""
        self._tasks_may_differ = True
        return self._on_each(function)

    def _on_each(self, function: Callable[[RolloutWorker], Any]) -> list[Any]:
        """The same with a function that sets no tasks, or notes which."""
        results = [function(self._local)]
        if self.num_workers:
            results += self._pool.map(function)
        return results

    def foreach_worker_with_index(self, function: Callable[[RolloutWorker, int], Any]) -> list[Any]:
        """function(worker, index) on every worker; the local one has index 0."""
        return self.foreach_worker(lambda worker: function(worker, worker.worker_index))

    def foreach_env(self, function: Callable[[Any], Any]) -> list[list[Any]]:
        """function(env) on every env, as one list a worker (empty for one without envs)."""
        return self.foreach_worker(lambda worker: worker.foreach_env(function))

    def foreach_policy(self, function: Callable[[Policy, str], Any]) -> list[Any]:
        """function(policy, policy_id) on every policy that acts in a worker."""
        results = self._on_each(lambda worker: worker.foreach_policy(function))
        return [result for of_worker in results for result in of_worker]

    def foreach_env_with_context(self, function: Callable[[Any, EnvContext], Any]) -> list[Any]:
        """function(env, env_ctx) on every env; lists as in `foreach_env`."""
        return self.foreach_worker(lambda worker: worker.foreach_env_with_context(function))

    # Tasks of envs

    @property
    def tasks(self) -> list[Any]:
        """What `set_tasks` dealt out last, or what functions that went to all workers or envs have
        made of it since; empty: the envs have tasks of their own, or none."""
        if self._tasks and self._tasks_may_differ:
            found = self.get_tasks()
            dealt = [self._tasks[i % len(self._tasks)] for i in range(len(found))]
            if not _are_same(found, dealt):
                self._tasks = found
            self._tasks_may_differ = False
        return self._tasks

    def get_tasks(self) -> list[Any]:
        """The task of every env of the sampling workers, in order."""
        return [task for of_worker in self.map("get_tasks") for task in of_worker]

    def sample_tasks(self, num_tasks: int) -> list[Any]:
        """That many tasks of an env's sample_tasks. Raises WorkerError if it has no such method."""
        return self.map("sample_tasks", num_tasks)[0]  # type: ignore[no-any-return]

    def set_tasks(self, tasks: Sequence[Any]) -> None:
        """Deal tasks out to all envs in turn: one is for all, as many as there are envs are one for
        each. Workers that come later get theirs. Raises WorkerError if an env refuses its task."""
        if _are_same(tasks, self.tasks):
            return
        self._tasks_may_differ = True  # Should an env refuse its task, others have theirs.
        self._on_each(lambda worker: worker.set_tasks(tasks))
        self._tasks, self._tasks_may_differ = list(tasks), False

    def update_tasks(self, next_task: Callable[[Any, EnvContext], Any]) -> list[Any]:
        """Set the task of every env to next_task(env, env_ctx); returns the tasks, of sampling
        workers' envs in order. Raises WorkerError."""
        found = self._on_each(lambda worker: worker.update_tasks(next_task))
        self._tasks = [task for of_worker in found[bool(self.num_workers) :] for task in of_worker]
        self._tasks_may_differ = False
        return self._tasks

    @property
    def plays_tasks(self) -> bool:
        """Whether the envs have get_task and set_task."""
        return any(self._on_each(lambda worker: worker.plays_tasks))

    # State

    def state_dict(self) -> dict[str, Any]:
        """All that resumed workers need beside the policies."""
        return {
            "num_env_steps_sampled": self.num_env_steps_sampled,
            "tasks": [pack(task) for task in self.tasks],
            "rounds": [_rows_of(sample).state_dict() for sample in self._rounds],
            "round": [[at, sample.state_dict()] for at, sample in self._done_of_round.items()],
            "arrived": [[position, sample.state_dict()] for position, sample in self._under_way()],
            "episodes": [report_state(report) for report in self._episodes],
            "gathered": moments_state(self._gathered),
            "exploration": {id_: stats.state_dict() for id_, stats in self._exploration.items()},
            "local": self._local.state_dict(),
            "older_weights": self._older_weights(),
            "remote": self._pool.map_living("state_dict") if self.num_workers else [],
        }

    def load_state_dict(self, state: dict[str, Any], algorithms: Mapping[str, Algorithm]) -> None:
        """Put back what `state_dict` gave, with the weights of `algorithms`; workers that it does
        not know start afresh."""
        self.num_env_steps_sampled = int(state["num_env_steps_sampled"])
        if tasks := state["tasks"]:
            # Of workers that the state knows, each then gets what it had itself.
            self.set_tasks([unpack(task) for task in tasks])
            self._tasks_may_differ = True
        self._rounds = [Sample.from_state(sample) for sample in state["rounds"]]
        for task in SAMPLING:
            self._pool.settle(task).clear()
        last_position = max(self.num_workers, 1) - 1
        self._arrived = deque(
            (min(int(position), last_position), Sample.from_state(sample))
            for position, sample in state["arrived"]
        )
        self._episodes = [report_of(report) for report in state["episodes"]]
        self._gathered = moments_of(state["gathered"])
        self._exploration = {policy_id: LearnerStats() for policy_id in state["exploration"]}
        for policy_id, stats in self._exploration.items():
            stats.load_state_dict(state["exploration"][policy_id])
        self._done_of_round = {}
        for position, each in state.get("round", ()):
            sample = Sample.from_state(each)
            if position <= last_position:
                self._done_of_round[int(position)] = sample
            else:  # There are fewer workers now.
                self.note(sample)
                self._rounds.append(sample)
        self._load_workers(state, algorithms)

    def _load_workers(self, state: dict[str, Any], algorithms: Mapping[str, Algorithm]) -> None:
        """The part of the workers themselves."""
        num_before = len(state["remote"])
        if self.num_workers:
            self._local.callbacks.load_state_dict(state["local"]["callbacks"])
            others = [state["local"], *state["remote"][self.num_workers :]]
        else:
            self._local.load_state_dict(state["local"])
            others = state["remote"]
        if num_before != self.num_workers:
            logger.warning(
                "The checkpoint was made with resources.num_workers=%d, now there are %d: workers "
                "without a counterpart start new episodes, and %d env steps of fragments that were "
                "under way are dropped.",
                num_before,
                self.num_workers,
                sum(map(_steps_of_fragment, others)),
            )
        for position in range(self.num_workers):
            worker_state = state["remote"][position] if position < num_before else None
            if worker_state is None:  # It had died, or was not there.
                self._pool.call(position, "forget")
            else:
                self._pool.call(position, "load_state_dict", worker_state)
        orphans = [each for other in others if other for each in other.get("gathered", ())]
        for number, gathered in enumerate(orphans):
            self.send(number % max(self.num_workers, 1), "add_gathered", [gathered])
        self.publish(algorithms)
        if not self.num_workers and (older := state["older_weights"]) is not None:
            self._local.set_weights(older["weights"], num_updates=older["num_updates"])
            self._told[0] = sum(self._local.num_updates.values())

    def leave_dead(self) -> None:
        """A state that is taken from now on says nothing of remote workers that have died."""
        self._tasks_may_differ = False  # The dead cannot be asked.
        if self.num_workers:
            self._pool.leave_dead()
        for shards in self._shards:
            shards.leave_dead()

    def stop(self) -> None:
        """Close all envs and end the remote processes."""
        self._local.stop()
        for remote in (*self._shards, *([self._pool] if self.num_workers else [])):
            remote.stop()

    def __enter__(self) -> WorkerSet:
        return self

    def __exit__(self, *raised: object) -> None:
        self.stop()

    def _older_weights(self) -> dict[str, Any] | None:
        """What the local worker acts with, where that is not what the learners have by now."""
        if self.num_workers:
            return None
        weights = self._local.get_weights()
        if self._are_newest(weights):
            return None
        return {"weights": weights, "num_updates": self._local.num_updates}

    def _are_newest(self, weights: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether the learners have the same, statistics of filters among them."""
        if self.updates_since_told(0):
            return False
        return all(
            np.array_equal(array, weights[policy_id][name])
            for policy_id, learner in self.learners.items()
            for name, array in learner.policy.get_weights().items()
        )

    def _publication(self) -> tuple[dict[str, Any], int, dict[str, int]]:
        return self._local.get_weights(), self.num_env_steps_sampled, self._local.num_updates

    def _under_way(self) -> list[tuple[int, Sample]]:
        """What workers have sampled, or are about to, and no stream has given yet."""
        samples, pairs = map(self._pool.settle, SAMPLING)
        left = [
            (position, sample and self._with_rows_elsewhere(position, sample, rows))
            for position, (sample, rows) in pairs
        ]
        # Of those that are in the middle of a fragment the workers' states hold it.
        found = [(position, sample) for position, sample in (*samples, *left) if sample]
        return [*self._arrived, *found]

    def _with_rows_elsewhere(self, position: int, sample: Sample, ref: Any) -> Sample:
        fetch = partial(self._pool.result, position, ref)
        batches = {
            policy_id: RowsElsewhere(ref, policy_id, num_rows, num_steps, fetch)
            for policy_id, (num_rows, num_steps) in sample.batches.items()
        }
        return replace(sample, batches=batches)

    def _num_updates(self) -> int:
        return sum(learner.num_updates_to_give for learner in self.learners.values())


def _are_same(tasks: Sequence[Any], others: Sequence[Any]) -> bool:
    return is_same([pack(task) for task in tasks], [pack(task) for task in others])


def _steps_of_fragment(worker_state: dict[str, Any] | None) -> int:
    """Env steps of the fragment that a worker was in the middle of."""
    begun = ((worker_state or {}).get("input") or {}).get("fragment")
    return 0 if begun is None else int(begun["columns"]["rewards"].size)


def _rows_of(sample: Sample) -> Sample:
    """The rows of a sample, of which all else has been noted."""
    return Sample(sample.batches, 0, void_steps=sample.void_steps)


def _steps_in(sample: Sample) -> int:
    # Void steps count, or they would call for a whole second round.
    return sample.void_steps + sum(batch.num_steps for batch in sample.batches.values())
