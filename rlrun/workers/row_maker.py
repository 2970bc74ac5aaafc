"""From the fragments of a worker to the rows that a learner gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rlrun.core.batch import Batch, concat
from rlrun.core.callbacks import call
from rlrun.core.episode import AGENT_ID, Episode
from rlrun.workers.actor import Actor
from rlrun.workers.cutters import TrajectoryCutter, cut_sequences, cut_steps
from rlrun.workers.env_sampler import EnvSampler

if TYPE_CHECKING:
    from rlrun.workers.rollout_worker import RolloutWorker


class RowMaker:
    """Cuts fragments into trajectories, has the algorithm and callbacks make of them what they
    will, and cuts that into rows: steps, or sequences."""

    def __init__(self, worker: RolloutWorker) -> None:
        self._worker = worker
        self._callbacks = worker.callbacks
        algorithm = worker.config.algorithm
        self.cutter = TrajectoryCutter(
            algorithm.batch_mode, algorithm.lookahead_steps, algorithm.num_envs_per_worker
        )

    def rows(self, actor: Actor, fragment: Batch) -> Batch:
        """The rows of all trajectories that are complete with a fragment [T, B, ...]."""
        trajectories = self.cutter.complete(fragment)
        episodes = self._episodes_of(trajectories)
        return concat(
            [
                self._rows_of(actor, trajectory, episode)
                for trajectory, episode in zip(trajectories, episodes, strict=True)
            ]
        )

    def postprocess(self, actor: Actor, trajectory: Batch) -> Batch:
        """What the algorithm makes of a trajectory [T, B, ...]: the columns that it learns from."""
        extra = self._extra_columns(actor)
        if extra:
            trajectory = Batch({name: c for name, c in trajectory.items() if name not in extra})
        return actor.algorithm.postprocess(actor.policy, trajectory)

    def _extra_columns(self, actor: Actor) -> list[str]:
        """The columns that only callbacks look at."""
        known = actor.algorithm.rollout_columns
        return [name for name in self._worker.config.rollout_columns if name not in known]

    def _episodes_of(self, trajectories: list[Batch]) -> list[Episode | None]:
        """The episode that on_postprocess_trajectory gets with each."""
        source = self._worker.input
        tracker = source.episodes if isinstance(source, EnvSampler) else None
        if tracker is None or not tracker.episodes:
            return [None] * len(trajectories)
        ended: list[Episode | None] = [*tracker.take_ended()]
        if not self.cutter.by_episode:
            return [tracker.episodes[0]] * len(trajectories)
        # In front are those that could not be brought back after a resume.
        return [None] * (len(trajectories) - len(ended)) + ended

    def _rows_of(self, actor: Actor, trajectory: Batch, episode: Episode | None) -> Batch:
        """Postprocess a trajectory [T, B, ...] and cut it into the learner's rows."""
        valid = trajectory.pop("valid", None)
        ends = trajectory["terminated"] | trajectory["truncated"]
        done = self.postprocess(actor, trajectory)
        if self._callbacks.overrides("on_postprocess_trajectory"):
            self._show(actor, trajectory, done, episode)
        if valid is not None:
            valid = valid[: done.num_rows]
        has_memory = bool(actor.policy.initial_state(1))
        bootstraps = actor.algorithm.learns_from_sequences
        if not (has_memory or bootstraps):
            return cut_steps(done, valid)
        longest = actor.algorithm.fragment_length(self._worker.num_workers)
        if has_memory:
            longest = actor.policy.max_seq_len
        overlap = actor.algorithm.overlapping_steps
        return cut_sequences(
            done, ends[: done.num_rows], valid, longest, overlap=overlap, bootstraps=bootstraps
        )

    def _show(self, actor: Actor, trajectory: Batch, done: Batch, episode: Episode | None) -> None:
        """Let callbacks see, and change, what was made of a trajectory."""
        extra = self._extra_columns(actor)
        original = Batch(trajectory)
        done.update({name: original[name][: done.num_rows] for name in extra})
        call(
            self._callbacks,
            "on_postprocess_trajectory",
            worker=self._worker,
            episode=episode,
            agent_id=AGENT_ID,
            policy_id=actor.policy_id,
            policies=self._worker.policies,
            policy=actor.policy,
            postprocessed_batch=done,
            original_batches={AGENT_ID: (actor.policy, original)},
        )
        for name in extra:
            done.pop(name, None)
