"""Evaluation on one worker: an exact number of episodes or steps, a piece at a time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlrun.core import seeding
from rlrun.core.episode import EpisodeReport
from rlrun.workers.env_sampler import EnvSampler
from rlrun.workers.sample import Sample
from rlrun.workers.vector_env import env_seeds

PIECE_S = 0.05
"""Seconds of an evaluation between two looks at whether it is to end."""

Unit = Literal["episodes", "timesteps"]


@dataclass(frozen=True)
class Amount:
    """How long an evaluation lasts."""

    unit: Unit
    total: int | None
    """How many of the unit, counted exactly; None: until it is told that it is enough."""

    def dealt_to(self, num_takers: int) -> list[Amount]:
        """The same amount over several workers."""
        if self.total is None:
            return [self] * num_takers
        return [Amount(self.unit, int(share)) for share in shares(self.total, num_takers)]


class EvaluationRound:
    """Exactly an amount of episodes or env steps, from fresh episodes on.

    It is dealt out to the envs beforehand, so that short episodes are not favoured; what an env
    does beyond its share is not counted. Each round has its own streams of randomness, those of the
    process too, so that no state of evaluation needs to be saved, and training sees nothing of it.
    """

    def __init__(self, sampler: EnvSampler, seed: int, amount: Amount) -> None:
        self.sampler = sampler
        self.by_episodes = amount.unit == "episodes"
        self.is_open = amount.total is None
        actor, num_envs = sampler.actor, sampler.env.num_envs
        self.share = np.full(num_envs, np.iinfo(np.int64).max)
        """What each env is to do, in the unit."""
        if amount.total is not None:
            self.share = shares(amount.total, num_envs)
        self.num_done = np.zeros(num_envs, np.int64)
        with seeding.process_streams(seed, sampler.worker_index):
            self._streams = seeding.process_rng_state()
        actor.rng.bit_generator.state = seeding.generator(
            seed, "actions", sampler.worker_index
        ).bit_generator.state
        with self._own_streams():
            sampler.take_finished()
            sampler.episodes.num_started = 0
            sampler.restart(env_seeds(seed, sampler.worker_index, num_envs))

    @property
    def is_over(self) -> bool:
        """Whether all envs have done their share."""
        return bool((self.num_done >= self.share).all())

    def end_soon(self) -> None:
        """It is enough of an open amount: steps are not counted any more, nor episodes that have
        not begun; each env does one at least.

        Episodes that run are counted when they end: to leave them out would favour short ones.
        """
        if not self.is_open:
            return
        is_wanted = self.num_done == 0
        if self.by_episodes:
            is_wanted |= self.sampler.lengths > 0
        self.share = np.minimum(self.share, self.num_done + is_wanted)

    def go_on(self, max_s: float, timestep: int, explore: bool) -> Sample:
        """What comes out in about `max_s` seconds more, or until it is over; one step at least."""
        end = time.perf_counter() + max_s
        num_steps = 0
        counted: list[EpisodeReport] = []
        with self._own_streams():
            while not self.is_over:
                num_steps += self._step(counted, timestep, explore)
                if time.perf_counter() >= end:
                    break
        return Sample({}, num_steps, episodes=counted)

    def _step(self, counted: list[EpisodeReport], timestep: int, explore: bool) -> int:
        """Step every env; gives how many of these steps count."""
        is_running = self.num_done < self.share
        row = self.sampler.sample(1, timestep, explore, only_usual=True)
        assert row is not None
        steps = is_running & row.get("valid", np.ones((1, len(is_running)), bool))[0]
        if not self.by_episodes:
            self.num_done += steps
        for report in self.sampler.take_finished():
            if is_running[report.env_index]:
                counted.append(report)
                self.num_done[report.env_index] += self.by_episodes
        return int(steps.sum())

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
