"""The whole scheduling story: how sampling and learning take turns, one function a family.

A loop takes the learning algorithms by policy id and the worker set; one call is one round. It is
the same for 0 and for n workers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from itertools import islice
from typing import Any

from rlrun.algos import peer_learning, perturbation
from rlrun.core.algorithm import Algorithm
from rlrun.core.gradients import learn_from


def on_policy(algorithms: Mapping[str, Algorithm], workers: Any) -> None:
    """Gather `train_batch_size` fresh rows, learn once, publish the weights."""
    some_algorithm = next(iter(algorithms.values()))
    batches = workers.sample(min_steps=some_algorithm.train_batch_size)
    for policy_id, batch in batches.items():
        if batch:  # No episode may be whole yet.
            algorithms[policy_id].learn_on_batch(batch)
    workers.sync_weights(algorithms)


def replay(algorithms: Mapping[str, Any], workers: Any) -> None:
    """Add one round of fragments to each replay side; learn as often as is due; publish."""
    for policy_id, batch in workers.sample().items():
        algorithm = algorithms[policy_id]
        with workers.timers.measure("replay"):
            algorithm.replay.add(batch)
        for _ in range(algorithm.replay.num_updates_due(batch.num_rows, algorithm.timestep)):
            started = time.perf_counter()
            rows = algorithm.replay.sample(algorithm.timestep)
            workers.timers.add("replay", started)
            algorithm.learn_on_batch(rows)
    workers.sync_weights(algorithms)


def asynchronous(algorithms: Mapping[str, Any], workers: Any) -> None:
    """Until the iteration is over, at least for `train_batch_size` steps, take in fragments as they
    arrive, while a thread learns; whoever brought one gets new weights. Without remote workers both
    take turns."""
    some_algorithm = next(iter(algorithms.values()))
    one_batch = workers.num_env_steps_sampled + some_algorithm.train_batch_size
    end = max(workers.iteration_ends_at, one_batch)
    with ExitStack() as stack:
        learners = {
            policy_id: stack.enter_context(algorithm.at_work(workers))
            for policy_id, algorithm in algorithms.items()
        }

        def is_over() -> bool:
            has_failed = any(learner.error for learner in learners.values())
            return has_failed or workers.is_interrupted or workers.num_env_steps_sampled >= end

        in_flight = some_algorithm.max_sample_requests_in_flight_per_worker
        for position, sample in workers.stream("sample", in_flight=in_flight, is_over=is_over):
            workers.note(sample)
            for policy_id, batch in sample.batches.items():
                learners[policy_id].add(batch)
            if workers.updates_since_told(position) >= some_algorithm.broadcast_interval:
                workers.sync_weights(algorithms, to=position)


def distributed_replay(algorithms: Mapping[str, Any], workers: Any) -> None:
    """Until the iteration is over, hand fragments on to the replay shards as workers bring them,
    while a thread learns from what these give; a worker gets new weights when it is far enough
    behind. Without remote workers all take turns."""
    some_algorithm = next(iter(algorithms.values()))
    with ExitStack() as stack:
        learners = {
            policy_id: stack.enter_context(algorithm.at_work(workers))
            for policy_id, algorithm in algorithms.items()
        }

        def is_over() -> bool:
            has_failed = any(learner.error for learner in learners.values())
            return has_failed or workers.is_interrupted or workers.is_iteration_over

        in_flight = some_algorithm.max_sample_requests_in_flight_per_worker
        for position, sample in workers.stream_samples(in_flight=in_flight, is_over=is_over):
            workers.note(sample)
            for policy_id, rows in sample.batches.items():
                learners[policy_id].add(rows)
            if some_algorithm.is_behind(position, sample.env_steps):
                workers.sync_weights(algorithms, to=position)


def asynchronous_gradients(algorithms: Mapping[str, Algorithm], workers: Any) -> None:
    """Apply the first gradient that arrives; only the worker that sent it gets the new weights."""
    stream = workers.stream("sample", is_over=lambda: workers.is_interrupted)
    for position, sample in islice(stream, 1):
        workers.note(sample)
        for policy_id, gradient in sample.gradients.items():
            learn_from(algorithms[policy_id], gradient)
        # Where no episode is whole yet, it goes on by the weights that it began with.
        if sample.gradients:
            workers.sync_weights(algorithms, to=position)


def decentralized(algorithms: Mapping[str, Any], workers: Any) -> None:
    """Every worker gathers rows and learns from them itself, in step with the others, with which it
    shares gradients; here come only reports."""
    peer_learning.gather(algorithms, workers)
    peer_learning.learn(algorithms, workers)


def evolution(algorithms: Mapping[str, Any], workers: Any) -> None:
    """Let the workers try perturbed weights in whole episodes, step the way that their returns
    point, publish."""
    for policy_id, algorithm in algorithms.items():
        with workers.timers.measure("sample"):
            directions = perturbation.gather(policy_id, algorithm, workers)
        algorithm.learn_on_batch(directions)
    workers.sync_weights(algorithms)
