"""The workers of a run: one local, and as many remote ones as `num_workers` says."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from rlrun.core.batch import Batch, concat
from rlrun.core.episode import EpisodeReport
from rlrun.core.policy import Policy
from rlrun.core.resources import Resources
from rlrun.workers.rollout_worker import RolloutWorker, Spaces, WorkerConfig, shares

logger = logging.getLogger("rlrun.workers")


class WorkerSet:
    """Samples on the remote workers, or on the local one if there are none.

    The local worker shares the learner's policies; remote ones get weights by `sync_weights`.
    `num_other_workers` is how many remote ones other sets of the run take.
    """

    def __init__(
        self,
        config: WorkerConfig,
        resources: Resources,
        num_workers: int,
        policies: Mapping[str, Policy] | None = None,
        num_other_workers: int = 0,
    ) -> None:
        self.num_env_steps_sampled = 0
        self._pool: Any = None
        self._local: RolloutWorker
        policy = None if policies is None else next(iter(policies.values()))
        if num_workers == 0:
            self._local = RolloutWorker(config, policy=policy)
            return
        from rlrun.workers.pool import RemotePool

        self._pool = RemotePool(
            partial(RolloutWorker, config), num_workers, resources, num_other_workers
        )
        try:
            spaces: Spaces = self._pool.call(0, "get_spaces")
            self._local = RolloutWorker(
                config,
                with_env=resources.create_env_on_driver,
                spaces_of_env=spaces,
                policy=policy,
            )
            self.sync_weights()
        except BaseException:
            self._pool.stop()
            raise

    @property
    def num_workers(self) -> int:
        """How many remote workers there are."""
        return 0 if self._pool is None else len(self._pool.actors)

    def local_worker(self) -> RolloutWorker:
        """The worker in this process."""
        return self._local

    def remote_workers(self) -> list[Any]:
        """Ray actor handles of the remote workers: `ray.get(handle.call.remote("method"))`."""
        return [] if self._pool is None else list(self._pool.actors)

    # Sampling and weights

    def sample(self, min_rows: int = 1) -> dict[str, Batch]:
        """Rounds of fragments from all sampling workers until there are `min_rows` rows, by
        policy id; one round at least, which may give no rows if no trajectory is complete."""
        rounds = []
        num_rows = 0
        while True:
            samples = self._on_samplers("sample")
            self.num_env_steps_sampled += sum(sample.env_steps for sample in samples)
            rounds += [sample.batches for sample in samples]
            # Void rows count, or they would call for a whole second round.
            num_rows += sum(
                sample.void_rows + sum(batch.num_rows for batch in sample.batches.values())
                for sample in samples
            )
            if num_rows >= min_rows or min_rows <= 1:
                break
        policy_ids = rounds[0].keys()
        return {
            policy_id: _concat_filled([batches[policy_id] for batches in rounds])
            for policy_id in policy_ids
        }

    def sync_weights(self) -> None:
        """Send the learner's weights and the count of env steps to all workers."""
        self._local.timestep = self.num_env_steps_sampled
        if self._pool is not None:
            self._pool.send_all(
                "set_weights", self._local.get_weights(), self.num_env_steps_sampled
            )

    def sync_filters(self) -> None:
        """Merge what the workers' filters gathered, and share the result."""
        if self._pool is None:
            return
        for gathered in self._pool.call_all("flush_filter"):
            if gathered:
                self._local.filter.merge(gathered)
        state = self._local.filter.state_dict()
        if state:
            self.set_filters(state)

    def set_filters(self, state: dict[str, Any]) -> None:
        """Give every worker these filter statistics."""
        self._local.set_filter(state)
        if self._pool is not None:
            self._pool.send_all("set_filter", state)

    def take_metrics(self) -> list[EpisodeReport]:
        """Episodes that ended since the last call, worker by worker."""
        return [report for reports in self._on_samplers("take_metrics") for report in reports]

    def take_perf(self) -> dict[str, float]:
        """Milliseconds of one vector step by phase, the mean of all sampling workers."""
        perfs = self._on_samplers("take_perf")
        return {key: sum(perf[key] for perf in perfs) / len(perfs) for key in perfs[0]}

    def run_evaluation(
        self, evaluation_round: int, num_episodes: int | None, num_steps: int | None
    ) -> int:
        """Exactly that many episodes or env steps over all sampling workers; returns env steps."""
        if self._pool is None:
            return self._local.run_evaluation(evaluation_round, num_episodes, num_steps)
        by_steps = num_episodes is None
        dealt = shares((num_steps if by_steps else num_episodes) or 0, self.num_workers)
        arguments = [
            (evaluation_round, None if by_steps else int(share), int(share) if by_steps else None)
            for share in dealt
        ]
        return int(sum(self._pool.call_each("run_evaluation", arguments)))

    # The user's functions, everywhere

    def foreach_worker(self, function: Callable[[RolloutWorker], Any]) -> list[Any]:
        """function(worker) on every worker: the local one first, then the remote ones."""
        results = [function(self._local)]
        if self._pool is not None:
            results += self._pool.call_all("apply", function)
        return results

    def foreach_worker_with_index(self, function: Callable[[RolloutWorker, int], Any]) -> list[Any]:
        """function(worker, index) on every worker; the local one has index 0."""
        return self.foreach_worker(lambda worker: function(worker, worker.worker_index))

    def foreach_env(self, function: Callable[[Any], Any]) -> list[list[Any]]:
        """function(env) on every env, as one list a worker (empty for one without envs)."""
        return self.foreach_worker(lambda worker: worker.foreach_env(function))

    def foreach_policy(self, function: Callable[[Policy, str], Any]) -> list[Any]:
        """function(policy, policy_id) on every policy of every worker."""
        results = self.foreach_worker(lambda worker: worker.foreach_policy(function))
        return [result for of_worker in results for result in of_worker]

    # State

    def state_dict(self) -> dict[str, Any]:
        """All that resumed workers need beside the policies."""
        return {
            "num_env_steps_sampled": self.num_env_steps_sampled,
            "local": self._local.state_dict(),
            "remote": [] if self._pool is None else self._pool.call_all("state_dict"),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave; workers that it does not know start afresh, with the
        filter of the local one."""
        self.num_env_steps_sampled = int(state["num_env_steps_sampled"])
        if self._pool is None:
            self._local.load_state_dict(state["local"])
            return
        self._local.filter.load_state_dict(state["local"]["filter"])
        self._local.callbacks.load_state_dict(state["local"]["callbacks"])
        known = state["remote"][: self.num_workers]
        if len(state["remote"]) != self.num_workers:
            logger.warning(
                "The checkpoint was made with resources.num_workers=%d, now there are %d: workers "
                "without a counterpart start new episodes.",
                len(state["remote"]),
                self.num_workers,
            )
        for position, worker_state in enumerate(known):
            self._pool.call(position, "load_state_dict", worker_state)
        self.set_filters(self._local.filter.state_dict())
        self.sync_weights()

    def stop(self) -> None:
        """Close all envs and end the remote processes."""
        self._local.stop()
        if self._pool is not None:
            self._pool.stop()

    def _on_samplers(self, method: str) -> list[Any]:
        if self._pool is None:
            return [getattr(self._local, method)()]
        return self._pool.call_all(method)


def _concat_filled(batches: list[Batch]) -> Batch:
    filled = [batch for batch in batches if batch.num_rows]
    return concat(filled) if filled else Batch()
