"""The whole scheduling story: how sampling and learning take turns, one function a family.

A loop takes the learning algorithms by policy id and the worker set; one call is one round. It is
the same for 0 and for n workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlrun.algos import peer_learning
from rlrun.core.algorithm import Algorithm


def on_policy(algorithms: Mapping[str, Algorithm], workers: Any) -> None:
    """Gather `train_batch_size` fresh rows, learn once, publish the weights."""
    some_algorithm = next(iter(algorithms.values()))
    batches = workers.sample(min_steps=some_algorithm.train_batch_size)
    for policy_id, batch in batches.items():
        algorithms[policy_id].learn_on_batch(batch)
    workers.sync_weights(algorithms)


def replay(algorithms: Mapping[str, Any], workers: Any) -> None:
    """Add one round of fragments to each replay side; learn as often as is due; publish."""
    for policy_id, batch in workers.sample().items():
        algorithm = algorithms[policy_id]
        algorithm.replay.add(batch)
        for _ in range(algorithm.replay.num_updates_due(batch.num_steps, algorithm.timestep)):
            algorithm.learn_on_batch(algorithm.replay.sample(algorithm.timestep))
    workers.sync_weights(algorithms)


def decentralized(algorithms: Mapping[str, Any], workers: Any) -> None:
    """Every worker gathers rows and learns from them itself, in step with the others, with which it
    shares gradients; here come only reports."""
    peer_learning.begin(algorithms, workers)
    done = workers.map(peer_learning.learn_on_own_rows, workers.num_env_steps_sampled)
    for samples, reports in done:
        for sample in samples:
            workers.note(sample)
        for policy_id, report in reports.items():
            algorithms[policy_id].note(report)
