"""Learning in the workers, in step: what the driver tells them, and what each does.

The driver's learner is told what has become of them by `bring_home`. What it is given in between,
by a checkpoint or the user, goes to all of them before the next round. So does what it knew last,
after a round that failed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np
import torch

from rlrun.core import peers
from rlrun.core.batch import concat
from rlrun.core.errors import Interrupted, RlrunError
from rlrun.core.filters import RunningMoments

# In the driver


def gather(algorithms: Mapping[str, Any], workers: Any) -> None:
    """Have every worker gather a train batch, which it keeps, beside a learner that is the same in
    all. Raises Interrupted, after which the next call goes on, also over a checkpoint."""
    learners = list(algorithms.values())
    if any(learner.newest in ("driver", "nobody") for learner in learners):
        _begin(algorithms, workers)
    while True:
        done = workers.map(_go_on_gathering, workers.piece_s, workers.num_env_steps_sampled)
        if None in done:  # One has come in the place of another, and knows nothing.
            _begin(algorithms, workers)
        elif all(done):
            return
        if workers.is_interrupted:
            raise Interrupted("Not all workers had gathered their batches.")


def learn(algorithms: Mapping[str, Any], workers: Any) -> None:
    """Have every worker learn from what it gathered, and count what became of it."""
    for learner in algorithms.values():
        learner.newest = "nobody"
    for samples, reports in workers.map(_learn_on_own_rows, workers.num_env_steps_sampled):
        for sample in samples:
            workers.note(sample)
        for policy_id, report in reports.items():
            algorithms[policy_id].note(report)


def bring_home(algorithms: Mapping[str, Any], workers: Any) -> None:
    """Let the driver's learners be as those of the workers. Raises RlrunError if these differ."""
    if any(learner.newest != "workers" for learner in algorithms.values()):
        return  # Nothing was learned since the driver's were given something.
    states, checksums = zip(*workers.map(_shared_states), strict=True)
    if any(other != checksums[0] for other in checksums):
        for learner in algorithms.values():
            learner.newest = "nobody"  # The next round goes on from what the driver knows.
        raise RlrunError(
            f"The weights of the workers that learn together have drifted apart (checksums "
            f"{', '.join(map(str, checksums))}). Does a callback change those of some?"
        )
    local = workers.local_worker()
    for policy_id, algorithm in algorithms.items():
        algorithm.take_over(states[0][policy_id])
        local.actors[policy_id].policy.copy_weights(algorithm.policy)


def _begin(algorithms: Mapping[str, Any], workers: Any) -> None:
    """Make learners like the driver's in the workers."""
    states = {id_: algorithm.shared_state() for id_, algorithm in algorithms.items()}
    address = workers.map(_disband)[0]
    workers.map(_make_learners, states, address)
    for learner in algorithms.values():
        learner.newest = "both"


# In a worker


def _go_on_gathering(worker: Any, max_s: float, timestep: int) -> bool | None:
    """Sample for about `max_s` seconds; whether there is a train batch then, None where there is no
    learner. `timestep` is the global count of env steps before the batch."""
    if not worker.learners:
        return None
    # Whatever the worker was told since: what it has gathered is not counted yet.
    gathered = sum(sample.env_steps for sample in worker.gathered)
    worker.timestep = timestep + gathered * max(worker.num_workers, 1)
    end = time.perf_counter() + max_s
    with _first_learner(worker).timers.measure("sample"):
        while not _has_batch(worker):
            sample = worker.go_on_sampling(max(end - time.perf_counter(), 0.0))
            if sample is None:
                return False
            worker.gathered.append(sample)
    return True


def _has_batch(worker: Any) -> bool:
    rows = sum(batch.num_steps for each in worker.gathered for batch in each.batches.values())
    void_steps = sum(sample.void_steps for sample in worker.gathered)
    # One row at least, as each worker takes part in every gradient step.
    return rows > 0 and rows + void_steps >= _first_learner(worker).train_batch_size


def _learn_on_own_rows(worker: Any, timestep: int) -> tuple[list[Any], dict[str, Any]]:
    """Learn from what was gathered, in step with the other workers; `timestep` is the global count
    of env steps before that. Returns samples without rows, and reports by policy id."""
    samples, worker.gathered = worker.gathered, []
    try:
        with _first_learner(worker).timers.measure("wait_for_peers"):
            worker.timestep = timestep + _total_env_steps(worker, samples)
        for policy_id, learner in worker.learners.items():
            _learn(worker, policy_id, learner, samples)
    except BaseException:
        for learner in worker.learners.values():
            learner.peers.leave()  # The others wait for this one.
        raise
    reports = {policy_id: _report(learner) for policy_id, learner in worker.learners.items()}
    return [replace(sample, batches={}, gathered={}) for sample in samples], reports


def _first_learner(worker: Any) -> Any:
    return next(iter(worker.learners.values()))


def _total_env_steps(worker: Any, samples: list[Any]) -> int:
    mine = sum(sample.env_steps for sample in samples)
    return int(_first_learner(worker).peers.gather(np.array([mine])).sum())


def _learn(worker: Any, policy_id: str, learner: Any, samples: list[Any]) -> None:
    observation_filter = learner.policy.observation_filter
    gathered = _all_gathered(learner, policy_id, samples)
    if not observation_filter.has_statistics:
        # As in WorkerSet.note: the first update would see observations as they came.
        observation_filter.merge(gathered.pop(0))
    learner.learn_on_batch(concat([sample.batches[policy_id] for sample in samples]))
    for moments in gathered:
        observation_filter.merge(moments)
    worker.actors[policy_id].policy.copy_weights(learner.policy)


def _all_gathered(learner: Any, policy_id: str, samples: list[Any]) -> list[RunningMoments]:
    """What the observation filters of all peers are to count; the same in every one of them."""
    mine = learner.policy.observation_filter.moments()
    if mine is None:
        return []
    for sample in samples:
        moments = sample.gathered[policy_id]
        mine.merge(moments.count, moments.mean, moments.squares)
    shape = mine.mean.shape
    packed = np.concatenate([[mine.count], mine.mean.ravel(), mine.squares.ravel()])
    total = RunningMoments(shape)
    for count, *rest in learner.peers.gather(packed):
        mean, squares = np.reshape(rest, (2, *shape))
        total.merge(int(count), mean, squares)
    return [total]


def _report(learner: Any) -> dict[str, Any]:
    """What the driver's learner is to count."""
    report = {
        "num_rows": learner.num_rows_trained,
        "learner_stats": learner.learner_stats.state_dict(),
        "custom_stats": learner.custom_stats.state_dict(),
        "timers": learner.timers.flush(),
        "num_peers": learner.peers.size,
    }
    learner.num_rows_trained = 0
    learner.learner_stats.take()
    learner.custom_stats.take()
    return report


def _disband(worker: Any) -> tuple[str, int] | None:
    """Forget what was learned here; in the first of several workers, say where all are to meet."""
    for learner in worker.learners.values():
        learner.peers.leave()
    worker.learners = {}
    worker.store = None
    if worker.worker_index != 1:
        return None
    worker.store, host, port = peers.open_store()
    return host, port


def _make_learners(
    worker: Any, states: Mapping[str, Mapping[str, Any]], address: tuple[str, int] | None
) -> None:
    """Learners that go on from `states`, connected with those of the workers that meet at
    `address`."""
    config = worker.config
    device = torch.device(config.device if worker.worker_index else config.local_device)
    group = peers.Peers() if address is None else _join(worker, address, device)
    for policy_id, state in states.items():
        actor = worker.actors[policy_id]
        learner = worker.learners[policy_id] = worker.make_learner(actor)
        learner.peers = group
        learner.take_over(state)
        actor.policy.copy_weights(learner.policy)


def _join(worker: Any, address: tuple[str, int], device: torch.device) -> peers.Peers:
    algorithm = worker.config.algorithm
    return peers.join(
        worker.store,
        address,
        worker.worker_index - 1,
        worker.num_workers,
        backend=algorithm.torch_distributed_backend,
        device=device,
        timeout_s=algorithm.peer_timeout_s,
    )


def _shared_states(worker: Any) -> tuple[dict[str, Any] | None, dict[str, int]]:
    """The state of the learners here, from the first worker alone, and checksums of the weights."""
    learners = worker.learners
    checksums = {
        policy_id: crc32(learner.policy.flat.values.cpu().numpy())
        for policy_id, learner in learners.items()
    }
    if worker.worker_index > 1:
        return None, checksums
    return {id_: learner.shared_state() for id_, learner in learners.items()}, checksums
