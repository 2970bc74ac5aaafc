"""A3C against A2C on the same fragments, here and in other processes; lag, silence and death."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from policy_gradient_reference import learner, train_batch

from rlrun.algos.a2c import A2C
from rlrun.algos.a3c import A3C
from rlrun.core.batch import Batch
from rlrun.core.callbacks import Callbacks
from rlrun.core.errors import ConfigError, WorkerError
from rlrun.core.gradients import gradient_of, learn_from
from rlrun.run import make_trainer
from rlrun.trainer import Trainer
from rlrun.workers.rollout_worker import get_global_worker

SMALL = [
    "tuned=none",
    "algo.num_envs_per_worker=2",
    "algo.rollout_fragment_length=5",
    "algo.timesteps_per_iteration=50",
    "algo.entropy_coeff=[[0, 0.5], [100, 0.0]]",
    "algo.lr=[[0, 0.01], [200, 0.001]]",
    "model.fcnet_hiddens=[8]",
    "resources.num_cpus_per_worker=0.5",
]


def trainer_of(algo: str, num_workers: int, *overrides: str, env: str = "CartPole-v1") -> Trainer:
    more = ["algo.train_batch_size=10"] if algo == "a2c" else []
    workers = f"resources.num_workers={num_workers}"
    return make_trainer(algo, env=env, overrides=[*SMALL, *more, workers, *overrides], seed=1)


def sampled_at(rows: Batch, update: int) -> Batch:
    return Batch({**rows, "sampled_at_update": np.full(rows.num_rows, update)})


def learned(algo: str, num_workers: int, *overrides: str) -> tuple[dict[str, Any], np.ndarray]:
    """The last learner statistics and the weights after 40 updates."""
    with trainer_of(algo, num_workers, *overrides) as trainer:
        results = [trainer.train() for _ in range(8)]
        assert trainer.algorithms["default_policy"].num_updates == 40
        stats = stats_of(results[-1])
        assert results[-1]["num_env_steps_trained"] == results[-1]["timesteps_total"] == 400
        return stats, trainer.get_policy().flat.values.numpy().copy()


@pytest.mark.parametrize("filter_", ["NoFilter", "MeanStdFilter"])
def test_without_remote_workers_it_is_a2c_with_one_fragment_an_update(filter_):
    override = f"env.observation_filter={filter_}"
    expected_stats, expected = learned("a2c", 0, override)
    stats, weights = learned("a3c", 0, override)
    assert weights.tobytes() == expected.tobytes()
    assert (stats.pop("policy_lag_mean"), stats.pop("policy_lag_max")) == (0.0, 0.0)
    assert stats == pytest.approx(expected_stats, rel=1e-6)


def test_with_one_remote_worker_it_equals_a2c_on_the_same_fragments(ray_cluster):
    expected_stats, expected = learned("a2c", 1)
    stats, weights = learned("a3c", 1)
    np.testing.assert_allclose(weights, expected, rtol=1e-5, atol=1e-6)
    assert (stats.pop("policy_lag_mean"), stats.pop("policy_lag_max")) == (0.0, 0.0)
    assert stats == pytest.approx(expected_stats, rel=1e-4)


def test_a_gradient_that_travelled_steps_as_one_that_did_not():
    torch.manual_seed(0)
    one, policy, _ = learner(A2C(lr=0.01))
    other, arrived, _ = learner(A3C(lr=0.01))
    arrived.copy_weights(policy)
    rows = train_batch()
    gradient = gradient_of(one, sampled_at(rows, 0))
    assert gradient["num_steps"] == 24
    assert isinstance(gradient["metrics"]["policy_loss"], float)
    metrics = one.learn(rows.to())
    other.num_updates = 3
    learn_from(other, gradient)
    gradient["sampled_at_update"][:] = np.arange(24) // 12
    learn_from(other, {**gradient, "values": 0 * gradient["values"]})
    one.optimizer.flat.grad.zero_()
    one.apply_gradients()
    torch.testing.assert_close(arrived.flat.values, policy.flat.values, rtol=0, atol=0)
    stats = other.learner_stats.take()
    assert (stats["policy_lag_mean"], stats["policy_lag_max"]) == ((3.0 + 3.5) / 2, 4.0)
    assert stats["policy_loss"] == pytest.approx(float(metrics["policy_loss"]))
    assert other.num_rows_trained == 48


def test_frozen_weights_stay_though_workers_send_gradients_for_them():
    torch.manual_seed(0)
    worker, policy, _ = learner(A3C())
    driver, frozen, _ = learner(A3C())
    frozen.copy_weights(policy)
    frozen.pi_head.weight.requires_grad_(False)
    before = policy.flat.values.clone()
    learn_from(driver, gradient_of(worker, sampled_at(train_batch(), 0)))
    assert torch.equal(frozen.pi_head.weight, policy.pi_head.weight)
    assert not torch.equal(frozen.flat.values, before)


# What travels


class Messages:
    """Notes every sample that a worker set gets."""

    def __init__(self, trainer: Trainer) -> None:
        self.samples: list[Any] = []
        note = trainer.workers.note

        def spy(sample: Any) -> None:
            self.samples.append(sample)
            note(sample)

        trainer.workers.note = spy  # type: ignore[method-assign]


@dataclass
class Story:
    """Four iterations of two workers, with a checkpoint after the second."""

    results: list[dict[str, Any]]
    samples: list[Any]
    folder: Path
    weights: torch.Tensor


@pytest.fixture(scope="module")
def story(ray_cluster, tmp_path_factory) -> Story:
    with trainer_of("a3c", 2) as trainer:
        messages = Messages(trainer)
        results = [trainer.train() for _ in range(2)]
        folder = trainer.save(tmp_path_factory.mktemp("story"))
        weights = trainer.get_policy().flat.values.clone()
        results += [trainer.train() for _ in range(2)]
    return Story(results, messages.samples, folder, weights)


def stats_of(result: dict[str, Any]) -> dict[str, float]:
    return result["info"]["learner"]["default_policy"]["learner_stats"]


def test_two_workers_send_gradients_and_no_rows(story):
    assert len(story.samples) == 20
    for sample in story.samples:
        assert sample.batches == {}
        assert sample.gradients["default_policy"]["values"].shape == story.weights.shape
    assert story.results[-1]["timesteps_total"] == 200
    episodes = sum(len(sample.episodes) for sample in story.samples)
    assert story.results[-1]["episodes_total"] == episodes > 0


def test_two_workers_lag_behind_what_the_other_has_taught(story):
    lags = [stats_of(result) for result in story.results]
    assert max(stats["policy_lag_max"] for stats in lags) >= 1
    assert all(0 <= stats["policy_lag_mean"] <= stats["policy_lag_max"] for stats in lags)


def test_a_run_goes_on_from_its_checkpoint_and_names_a_worker_that_dies(ray_cluster, story):
    with trainer_of("a3c", 2) as resumed:
        resumed.restore(story.folder)
        assert torch.equal(resumed.get_policy().flat.values, story.weights)
        assert resumed.algorithms["default_policy"].num_updates == 10
        result = resumed.train()
        assert result["timesteps_total"] == 150
        assert 0 <= stats_of(result)["policy_lag_mean"] <= 5
        ray_cluster.kill(resumed.workers.remote_workers()[1])
        with pytest.raises(WorkerError, match=r"Worker 2 died.*rlrun resume"):
            collections.deque(iter(resumed.train, None), maxlen=0)


class Watch(Callbacks):
    """Counts the train batches that it sees, and reports their sizes."""

    def on_learn_on_batch(self, *, policy, train_batch, result, **kwargs):
        result["rows"] = train_batch.num_rows


@pytest.mark.parametrize("num_workers", [0, 1])
def test_hooks_and_changes_reach_those_who_compute_gradients(num_workers, ray_cluster):
    watch = f"callbacks.watch._target_={__name__}.Watch"
    with trainer_of("a3c", num_workers, watch) as trainer:
        result = trainer.train()
        assert result["info"]["learner"]["default_policy"]["custom_metrics"] == {"rows": 10.0}
        trainer.set_hyperparameters(entropy_coeff=0.25)
        assert stats_of([trainer.train() for _ in range(2)][1])["entropy_coeff"] == 0.25


def test_fragments_in_which_no_episode_is_whole_give_no_update():
    with trainer_of("a3c", 0, "algo.batch_mode=complete_episodes") as trainer:
        messages = Messages(trainer)
        result = trainer.train()
        learner = trainer.algorithms["default_policy"]
        assert 0 < learner.num_updates < len(messages.samples)
        assert result["num_env_steps_trained"] < result["timesteps_total"]
        stats = stats_of(result)
    assert stats["policy_lag_max"] == 0.0


# Slow and dead workers


class GatedEnv(gym.Wrapper):
    """CartPole; the envs of worker 2 wait in a step until the file `gate` exists."""

    def __init__(self, gate: str) -> None:
        super().__init__(gym.make("CartPole-v1"))
        self.gate = Path(gate)

    def step(self, action: Any) -> Any:
        while get_global_worker().worker_index == 2 and not self.gate.exists():
            pass
        return super().step(action)


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "gate"
    (tmp_path / "gate").touch()


def test_a_slow_worker_slows_nobody_else(ray_cluster, gate):
    own = f"env.env_config.gate={gate}"
    with trainer_of("a3c", 2, own, env=f"{__name__}.GatedEnv") as trainer:
        messages = Messages(trainer)
        for _ in range(3):
            trainer.train()
        gradients = [sample.gradients["default_policy"] for sample in messages.samples]
        sampled_at = [set(gradient["sampled_at_update"].tolist()) for gradient in gradients]
        assert sampled_at == [
            {update} for update in range(15)
        ]  # all of worker 1, none of them late
        gate.touch()
        lags = iter(lambda: stats_of(trainer.train())["policy_lag_max"], None)
        # The other's first gradient is as old as all that was learned meanwhile.
        assert next(lag for lag in lags if lag) >= 15


# Refused


@pytest.mark.parametrize("name", ["train_batch_size", "microbatch_size"])
def test_keys_that_it_cannot_use_are_refused(name):
    with pytest.raises(ConfigError, match=rf"algo\.{name}"):
        make_trainer("a3c", env="CartPole-v1", overrides=[f"algo.{name}=20"])
