"""Distributed prioritised replay (Ape-X; Horgan et al., 2018, arXiv:1803.00933): many workers
gather for an algorithm that learns from replay."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from rlrun.algos import loops
from rlrun.algos.off_policy import OffPolicy
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_range
from rlrun.core.replay_learner import ReplayLearnerInTurn, ReplayLearnerThread
from rlrun.core.replay_side import ReplaySide
from rlrun.core.schedules import ScheduleLike
from rlrun.core.shards import ShardedReplaySide, ShardPlan, Shards
from rlrun.core.target import OwnTarget
from rlrun.core.threaded_learner import ThreadedLearner

if TYPE_CHECKING:
    _Base = OffPolicy
else:
    # As a base of a dataclass OffPolicy would bring its own values of fields before those of DQN.
    _Base = object


@dataclass(kw_only=True)
class DistributedReplay(ThreadedLearner, _Base):
    """What stands before an heir of OffPolicy: class Apex(DistributedReplay, DQN).

    Rows go from the workers to replay shards, with first priorities that the workers computed
    (algorithm 1). The learner learns in a thread from what the shards have ready (algorithm 2).
    With num_workers=0 all of it is in this process, in turns.
    """

    train_batch_size: int = 512
    """Rows of one update."""
    rollout_fragment_length: int | Literal["auto"] = 50
    """Steps of each env that a worker sends at a time (the paper's local buffer)."""
    timesteps_per_iteration: int = 25_000
    n_step: int = 3
    """Rewards that are summed before the bootstrap."""
    prioritized_replay: bool = True
    """Always: first priorities are what workers send."""
    prioritized_replay_alpha: float = 0.6
    """Exponent of the priorities."""
    prioritized_replay_beta: ScheduleLike = 0.4
    """Exponent of the importance weights, or a schedule."""
    buffer_size: int = 2_000_000
    """Rows that all shards hold together."""
    learning_starts: int = 50_000
    """Env steps before the first update."""
    num_replay_buffer_shards: int = 4
    """Parts of the replay memory, each a process of its own if workers are remote."""
    max_weight_sync_delay: int = 400
    """Env steps of a worker after which it gets new weights."""
    learner_queue_size: int = 16
    """Train batches that shards get ready for the learner."""
    max_sample_requests_in_flight_per_worker: int = 2
    """Fragments that a worker is asked for at a time: with 2 it need not wait to be asked again."""

    built_in: ClassVar[frozenset[str]] = OffPolicy.built_in | {
        "num_replay_buffer_shards",
        "learner_queue_size",
    }
    learns_from_data: ClassVar[bool] = False
    replay_side: ClassVar[type[ReplaySide]] = ShardedReplaySide
    loop = staticmethod(loops.distributed_replay)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "num_replay_buffer_shards",
            "max_weight_sync_delay",
            "learner_queue_size",
            "max_sample_requests_in_flight_per_worker",
        ):
            check_range(name, getattr(self, name), low=1)
        if not self.prioritized_replay:
            raise ConfigError(
                "algo.prioritized_replay=false: the first priorities, which workers of Ape-X send, "
                "would count for nothing. Leave it at true, or use prioritized_replay_alpha=0."
            )
        if self.buffer_size < self.num_replay_buffer_shards:
            raise ConfigError(
                f"algo.buffer_size={self.buffer_size} is less than one row for each of "
                f"algo.num_replay_buffer_shards={self.num_replay_buffer_shards}. Raise it."
            )

    @property
    def num_shards(self) -> int:
        return self.num_replay_buffer_shards

    # On the workers

    def postprocess(self, policy: Policy, trajectory: Batch) -> Batch:
        """The heir's transitions, with their first `priorities`."""
        transitions = super().postprocess(policy, trajectory)
        transitions["priorities"] = self.first_priorities(policy, transitions)
        return transitions

    def first_priorities(self, policy: Policy, transitions: Batch) -> np.ndarray:
        """Absolute TD errors [T, B], float32, of transitions [T, B, ...] by the policy that acts.

        It is its own target (sec. 3), and noisy layers give their mean.
        """
        shape = transitions["rewards"].shape
        flat = {name: part.reshape(-1, *part.shape[2:]) for name, part in transitions.items()}
        judge = copy.copy(self)
        judge.policy = policy
        judge.device = policy.flat.values.device
        judge.target = OwnTarget(policy)  # type: ignore[assignment]
        judge.rng = np.random.default_rng(0)
        policy.mute_noise()
        errors = judge.td_errors(Batch(flat).to(judge.device))
        return errors.abs().cpu().numpy().astype(np.float32).reshape(shape)

    # The learner

    def make_buffer(self, rng: np.random.Generator) -> Shards:
        return Shards(
            ShardPlan(
                num_shards=self.num_replay_buffer_shards,
                capacity=self.buffer_size,
                alpha=self.prioritized_replay_alpha,
                eps=self.prioritized_replay_eps,
                seed=int(rng.integers(2**31)),
                make_storage=self.storage_maker(),
            )
        )

    def connect(self, workers: Any) -> None:
        self._steps_behind: dict[int, int] = {}
        if workers.num_workers:
            plan = self._shards.plan
            self.replay.buffer = workers.start_shards(plan, self.learner_queue_size)

    @property
    def _shards(self) -> Any:
        return self.replay.buffer

    def learner_in_turn(self) -> ReplayLearnerInTurn:
        return ReplayLearnerInTurn(self.replay, self.learn_on_batch, self.clock)

    def learner_thread(
        self, learn: Callable[[Batch], None], is_interrupted: Callable[[], bool]
    ) -> ReplayLearnerThread:
        return ReplayLearnerThread(
            self.replay,
            learn,
            is_interrupted,
            clock=self.clock,
            on_idle=self.renew_snapshot,
            max_owed=self.learner_queue_size,
        )

    def is_behind(self, position: int, env_steps: int) -> bool:
        """Count the steps of the worker at `position`; whether it is to get new weights now."""
        steps = self._steps_behind.get(position, 0) + env_steps
        is_due = steps >= self.max_weight_sync_delay
        self._steps_behind[position] = 0 if is_due else steps
        return is_due

    def learn(self, rows: Batch) -> dict[str, Any]:
        num_waiting = self._shards.num_waiting
        return super().learn(rows) | {
            "learner_queue_size_mean": num_waiting,
            "learner_queue_size_max": num_waiting,
        }

    def stats(self) -> dict[str, Any]:
        num_added = self._shards.num_added
        return {
            **super().stats(),
            "rows_learned_per_row_sampled": self.num_rows_trained / max(num_added, 1),
        }

    def unknown_metrics(self) -> dict[str, float]:
        queue = dict.fromkeys(("learner_queue_size_mean", "learner_queue_size_max"), float("nan"))
        return super().unknown_metrics() | queue

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "steps_behind": list(self._steps_behind.items())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._steps_behind = {int(place): int(steps) for place, steps in state["steps_behind"]}
