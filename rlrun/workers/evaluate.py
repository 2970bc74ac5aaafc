"""Evaluation on one worker: an exact number of episodes or steps, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from rlrun.core import seeding
from rlrun.core.episode import EpisodeReport
from rlrun.workers.env_sampler import EnvSampler
from rlrun.workers.sample import Sample
from rlrun.workers.vector_env import env_seeds


class EvaluationRound:
    """Exactly `num_episodes` episodes or `num_steps` env steps, from fresh episodes on.

    Both are dealt out to the envs beforehand, so that short episodes are not favoured; what an env
    does beyond its share is not counted. Each round has its own streams of randomness, those of the
    process too, so that no state of evaluation needs to be saved, and training sees nothing of it.
    """

    def __init__(
        self, sampler: EnvSampler, seed: int, num_episodes: int | None, num_steps: int | None
    ) -> None:
        self.sampler = sampler
        self.by_episodes = num_episodes is not None
        actor, num_envs = sampler.actor, sampler.env.num_envs
        self.share = shares((num_episodes if self.by_episodes else num_steps) or 0, num_envs)
        self.num_done = np.zeros(num_envs, np.int64)
        self.num_steps = 0
        self.counted: list[EpisodeReport] = []
        with seeding.process_streams(seed, sampler.worker_index):
            self._streams = seeding.process_rng_state()
        actor.rng.bit_generator.state = seeding.generator(
            seed, "actions", sampler.worker_index
        ).bit_generator.state
        with self._own_streams():
            sampler.take_finished()
            sampler.restart(env_seeds(seed, sampler.worker_index, num_envs))

    def go_on(self, max_steps: int, timestep: int, explore: bool) -> Sample | None:
        """Up to `max_steps` vector steps; what came out in all, or None if it is not over."""
        with self._own_streams():
            for _ in range(max_steps):
                is_running = self.num_done < self.share
                if not is_running.any():
                    return Sample({}, self.num_steps, episodes=self.counted)
                self._step(is_running, timestep, explore)
        return None

    def _step(self, is_running: np.ndarray, timestep: int, explore: bool) -> None:
        row = self.sampler.sample(1, timestep, explore, only_usual=True)
        steps = is_running & row.get("valid", np.ones((1, len(is_running)), bool))[0]
        self.num_steps += int(steps.sum())
        if not self.by_episodes:
            self.num_done += steps
        for report in self.sampler.take_finished():
            if is_running[report.env_index]:
                self.counted.append(report)
                self.num_done[report.env_index] += self.by_episodes

    @contextmanager
    def _own_streams(self) -> Iterator[None]:
        """Within, the process-wide generators are those of this round."""
        before = seeding.process_rng_state()
        seeding.restore_process_rng_state(self._streams)
        try:
            yield
        finally:
            self._streams = seeding.process_rng_state()
            seeding.restore_process_rng_state(before)


def shares(total: int, num_takers: int) -> np.ndarray:
    """`total` dealt out to `num_takers` as evenly as can be."""
    return total // num_takers + (np.arange(num_takers) < total % num_takers)
