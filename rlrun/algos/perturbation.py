"""Trying perturbed weights in the workers: what the driver tells them, and what each does.

Down go the weights, once a round, and numbers that say where in the noise table each perturbation
begins; up come returns and lengths, and what observation filters are to count. All random numbers
of a round are drawn in the driver, where its results are put in order: how many workers there are
changes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from rlrun.core.batch import Batch, concat
from rlrun.core.errors import Interrupted
from rlrun.core.flat import FlatParameters

Job = tuple[int, int | None]
"""(seed of the episodes, where in the noise table the direction begins); None: one episode with the
weights as they are, else two, with the noise added and with it taken off."""

Outcome = tuple[list[Any], list[float]]
"""(a Sample, the return that the algorithm sees) of each episode of a job."""

# In the driver


def gather(policy_id: str, algorithm: Any, workers: Any) -> Batch:
    """Have directions tried until the algorithm has enough of them. Columns: noise_index [N],
    returns and lengths [N, 2].

    Raises Interrupted; what was tried till then is tried again by the next call, which draws the
    same.
    """
    batches: list[Batch] = []
    done: list[Outcome] = []
    num_steps = 0
    before = algorithm.rng.bit_generator.state
    try:
        while num_steps < algorithm.least_steps:
            jobs = algorithm.draw_jobs()
            outcomes = _try_out(workers, policy_id, jobs, algorithm.noise_seed)
            batches.append(_directions(jobs, outcomes))
            done += outcomes
            num_steps += int(batches[-1]["lengths"].sum())
    except Exception:
        algorithm.rng.bit_generator.state = before
        raise
    for samples, _ in done:
        for sample in samples:
            workers.note(sample)
    return concat(batches)


def _try_out(workers: Any, policy_id: str, jobs: list[Job], noise_seed: int) -> list[Outcome]:
    """What came of the jobs. Raises Interrupted."""
    try:
        workers.map(_begin, policy_id, jobs, noise_seed)
        while not all(workers.map(_go_on, workers.piece_s)):
            if workers.is_interrupted:
                raise Interrupted("Not all directions of a round were tried.")
    except Exception:
        # Nobody is waited for: one may hang.
        for position in range(max(workers.num_workers, 1)):
            workers.send(position, "give_up_jobs")
        raise
    return _in_order(workers.map(_take_outcomes))


def _in_order(parts: list[list[Outcome]]) -> list[Outcome]:
    """What was dealt out by `_mine`, in the order of the jobs again."""
    outcomes: list[Any] = [None] * sum(map(len, parts))
    for position, part in enumerate(parts):
        outcomes[position :: len(parts)] = part
    return outcomes


def _directions(jobs: list[Job], outcomes: list[Outcome]) -> Batch:
    tried = [(index, *each) for (_, index), each in zip(jobs, outcomes, strict=True)]
    tried = [each for each in tried if each[0] is not None]
    return Batch(
        noise_index=np.array([index for index, _, _ in tried], np.int64),
        returns=np.array([returns for _, _, returns in tried], np.float64),
        lengths=np.array([[each.env_steps for each in samples] for _, samples, _ in tried]),
    )


# In a worker


def _begin(worker: Any, policy_id: str, jobs: list[Job], noise_seed: int) -> None:
    """Take over this worker's share of the jobs."""
    worker.give_up_jobs()
    worker.jobs = _do_jobs(worker, policy_id, _mine(worker, jobs), noise_seed)


def _go_on(worker: Any, max_s: float) -> bool:
    """Whether this worker's jobs are done, after `max_s` seconds at the most."""
    end = time.perf_counter() + max_s
    return all(time.perf_counter() < end for _ in worker.jobs)


def _take_outcomes(worker: Any) -> list[Outcome]:
    """What came of this worker's jobs."""
    taken, worker.outcomes, worker.jobs = worker.outcomes, [], None
    return taken  # type: ignore[no-any-return]


def _do_jobs(
    worker: Any, policy_id: str, jobs: list[Job], noise_seed: int
) -> Generator[None, None, None]:
    """Do the jobs, an env step each time that it is gone on with, and put down what comes of
    them."""
    worker.outcomes = []
    actor = worker.actors[policy_id]
    noise = actor.algorithm.noise(noise_seed)
    flat = actor.policy.flat
    with _perturbable(flat) as perturb:
        for seed, index in jobs:
            if index is None:
                perturb(None, 0.0)
                sample, seen_return = yield from worker.run_episode(seed, explore=False)
                worker.outcomes.append(([sample], [seen_return]))
                continue
            piece = noise.piece(index, flat.values.numel())
            pair = []
            # Both begin alike: what differs is due to the weights alone.
            for sign in (1.0, -1.0):
                perturb(piece, sign * actor.algorithm.noise_stdev)
                sample, seen_return = yield from worker.run_episode(seed, explore=True)
                # Results speak of the weights as they are.
                pair.append((replace(sample, episodes=[]), seen_return))
            worker.outcomes.append(([sample for sample, _ in pair], [each for _, each in pair]))


def _mine(worker: Any, jobs: list[Job]) -> list[Job]:
    """Every n-th job, where n workers sample."""
    return jobs[max(worker.worker_index - 1, 0) :: max(worker.num_workers, 1)]


@contextmanager
def _perturbable(flat: FlatParameters) -> Iterator[Callable[[torch.Tensor | None, float], None]]:
    """Within, perturb(noise [P], scale) gives a network its weights with scale * noise added, or
    (None) without; frozen ones stay. Afterwards it has those from before."""
    flat.bind()
    values, centre, frozen = flat.values, flat.values.clone(), flat.frozen()

    def perturb(noise: torch.Tensor | None, scale: float) -> None:
        if noise is None:
            values.copy_(centre)
            return
        torch.add(centre, noise.to(values.device), alpha=scale, out=values)
        for part in frozen:
            values[part] = centre[part]

    try:
        yield perturb
    finally:
        values.copy_(centre)
