"""What the tests of data start from: workers that write and workers that read, made directly."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from offline_data import RawRows

from rlrun.core.algorithm import Algorithm
from rlrun.core.callbacks import Callbacks
from rlrun.core.exploration import StochasticSampling
from rlrun.core.networks import MLP, Model
from rlrun.workers.envs import EnvConfig
from rlrun.workers.offline.config import InputConfig, OutputConfig
from rlrun.workers.rollout_worker import RolloutWorker
from rlrun.workers.worker_config import WorkerConfig


@pytest.fixture
def make_worker() -> Iterator[Callable[..., RolloutWorker]]:
    """make_worker(env_id, output=, input=, num_envs=, fragment=, ..., **keys of the env group)."""
    workers: list[RolloutWorker] = []

    def make(
        env_id: str,
        *,
        output: OutputConfig | None = None,
        input: InputConfig | None = None,  # noqa: A002
        num_envs: int = 1,
        fragment: int = 5,
        algorithm: type[Algorithm] = RawRows,
        worker_index: int = 0,
        num_workers: int = 0,
        in_evaluation: bool = False,
        seed: int = 7,
        mask_actions: bool = False,
        model: Model | None = None,
        **env: Any,
    ) -> RolloutWorker:
        config = WorkerConfig(
            env=EnvConfig(id=env_id, **env),
            algorithm=algorithm(num_envs_per_worker=num_envs, rollout_fragment_length=fragment),
            exploration=StochasticSampling(),
            model=model or MLP(fcnet_hiddens=[8], mask_actions=mask_actions),
            callbacks=Callbacks(),
            explore=True,
            seed=seed,
            num_workers=num_workers,
            in_evaluation=in_evaluation,
            input=input,
            output=output,
        )
        workers.append(RolloutWorker(config, worker_index))
        return workers[-1]

    yield make
    for worker in workers:
        worker.stop()
