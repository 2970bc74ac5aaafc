"""The whole scheduling story: how sampling and learning take turns, one function a family.

A loop takes the learning algorithms by policy id and the worker set; one call is one round, and
it returns the learners' metrics by policy id. It is the same for 0 and for n workers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlrun.core.algorithm import Metrics


def on_policy(algorithms: Mapping[str, Any], workers: Any) -> Metrics:
    """Gather `train_batch_size` fresh rows, learn once, publish the weights."""
    some_algorithm = next(iter(algorithms.values()))
    batches = workers.sample(min_rows=some_algorithm.train_batch_size)
    metrics = {}
    for policy_id, batch in batches.items():
        algorithm = algorithms[policy_id]
        algorithm.timestep = workers.num_env_steps_sampled
        metrics[policy_id] = algorithm.learn_on_batch(batch)
    workers.sync_weights()
    return metrics


def replay(algorithms: Mapping[str, Any], workers: Any) -> Metrics:
    """Add one round of fragments to each replay buffer; learn as often as is due; publish."""
    metrics: Metrics = {}
    batches = workers.sample()
    for policy_id, batch in batches.items():
        algorithm = algorithms[policy_id]
        algorithm.timestep = workers.num_env_steps_sampled
        algorithm.add(batch)
        for _ in range(algorithm.num_updates_due(batch.num_rows)):
            metrics[policy_id] = algorithm.learn_on_batch(algorithm.sample_train_batch())
    if metrics:
        workers.sync_weights()
    return metrics
