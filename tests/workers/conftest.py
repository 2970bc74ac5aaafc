"""What the worker tests start from: rollout workers made directly, without Hydra."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlrun.core.actor_critic import ActorCritic
from rlrun.core.algorithm import Algorithm
from rlrun.core.batch import Batch
from rlrun.core.callbacks import Callbacks
from rlrun.core.checkpoint import load_checkpoint, save_checkpoint
from rlrun.core.episode import EpisodeReport
from rlrun.core.exploration import Exploration, StochasticSampling
from rlrun.core.networks import MLP
from rlrun.core.policy import Policy
from rlrun.workers.envs import EnvConfig
from rlrun.workers.rollout_worker import RolloutWorker
from rlrun.workers.sample import Sample
from rlrun.workers.worker_config import WorkerConfig


@dataclass(kw_only=True)
class RawRows(Algorithm):
    """An algorithm that leaves every column as the sampler gave it."""

    rollout_columns = ("next_obs",)

    def make_policy(self, obs_space: Any, action_space: Any, model: Any) -> Policy:
        return ActorCritic(obs_space, action_space, model)


class WatchedWorker(RolloutWorker):
    """Keeps what its samples report of episodes."""

    def sample(self) -> Sample:
        sample = super().sample()
        self.reports = [*getattr(self, "reports", []), *sample.episodes]
        return sample

    def take_metrics(self) -> list[EpisodeReport]:
        """Episodes that ended since the last call."""
        assert self.input is not None
        taken = [*getattr(self, "reports", []), *self.input.take_finished()]
        self.reports = []
        return taken


@pytest.fixture
def make_worker() -> Iterator[Callable[..., RolloutWorker]]:
    """make_worker(env_id, num_envs=, fragment=, batch_mode=, algorithm=, seed=, worker_index=, ...,
    **keys of the env group) -> a RolloutWorker, closed at the end of the test."""
    workers: list[WatchedWorker] = []

    def make(
        env_id: str,
        *,
        num_envs: int = 1,
        fragment: int = 5,
        batch_mode: str = "truncate_episodes",
        algorithm: Algorithm | None = None,
        exploration: Exploration | None = None,
        callbacks: Callbacks | None = None,
        explore: bool = True,
        seed: int = 7,
        worker_index: int = 0,
        num_workers: int = 0,
        **env: Any,
    ) -> RolloutWorker:
        config = WorkerConfig(
            env=EnvConfig(id=env_id, **env),
            algorithm=algorithm
            or RawRows(
                num_envs_per_worker=num_envs,
                rollout_fragment_length=fragment,
                batch_mode=batch_mode,
            ),
            exploration=exploration or StochasticSampling(),
            model=MLP(fcnet_hiddens=[8]),
            callbacks=callbacks or Callbacks(),
            explore=explore,
            seed=seed,
            num_workers=num_workers,
        )
        workers.append(WatchedWorker(config, worker_index))
        return workers[-1]

    yield make
    for worker in workers:
        worker.stop()


@pytest.fixture
def sample_columns() -> Callable[[RolloutWorker, int], Batch]:
    """sample_columns(worker, num_steps) -> the sampler's columns [T, B, ...]."""

    def sample(worker: RolloutWorker, num_steps: int) -> Batch:
        assert worker.input is not None
        return worker.input.sample(num_steps, 0, worker.config.explore)

    return sample


@pytest.fixture
def assert_same_rows() -> Callable[..., None]:
    """assert_same_rows(batch, other): the same columns with the same values, bit for bit."""

    def check(batch: Batch, other: Batch) -> None:
        assert batch.keys() == other.keys()
        for name, column in batch.items():
            assert column.dtype == other[name].dtype, name
            np.testing.assert_array_equal(column, other[name], err_msg=name)

    return check


@pytest.fixture
def carry_over(tmp_path: Path) -> Callable[[RolloutWorker, RolloutWorker], None]:
    """carry_over(worker, other): put the state of one worker into another, through real files."""

    def carry(worker: RolloutWorker, other: RolloutWorker) -> None:
        state = {"worker": worker.state_dict()}
        folder = save_checkpoint(tmp_path / "checkpoint_000001", state, {})
        other.load_state_dict(load_checkpoint(folder)["worker"])

    return carry
