"""What comes through the doors of the house, once each: many policies, asynchronous learners,
evolution strategies. The product's own versions are elsewhere, and so is memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from rlrun.algos.ppo import PPO
from rlrun.core.actor_critic import ActorCritic
from rlrun.core.algorithm import Algorithm
from rlrun.core.batch import Batch
from rlrun.core.policy import Policy
from rlrun.run import make_trainer
from rlrun.workers.evaluate import Amount

SMALL_PPO = [
    "algo.lr=0.003",
    "algo.train_batch_size=512",
    "algo.minibatch_size=128",
    "algo.num_envs_per_worker=8",
    "algo.num_epochs=4",
    "algo.timesteps_per_iteration=0",
    "algo.entropy_coeff=0.01",
]


# Asynchronous learners


def learn_from_whoever_is_ready(algorithms: Mapping[str, Algorithm], workers: Any) -> None:
    """Learn from each fragment as it arrives; only its worker gets the new weights."""
    learner = algorithms["default_policy"]
    for count, (position, sample) in enumerate(workers.stream("sample"), 1):
        workers.note(sample)
        rows = sample.batches["default_policy"]
        LAGS.append(learner.num_updates - int(rows.pop("sampled_at_update").min()))
        learner.learn_on_batch(rows)
        workers.sync_weights(algorithms, to=position)
        SAMPLERS.append(position)
        if count == 8:
            break


LAGS: list[int] = []
SAMPLERS: list[int] = []


class AsyncPPO(PPO):
    """PPO that waits for nobody."""

    @property
    def rollout_columns(self) -> tuple[str, ...]:
        return (*super().rollout_columns, "sampled_at_update")

    loop = staticmethod(learn_from_whoever_is_ready)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_loop_of_ones_own_learns_asynchronously(num_workers, ray_cluster):
    LAGS.clear(), SAMPLERS.clear()
    overrides = [
        *SMALL_PPO,
        "algo._target_=test_doors.AsyncPPO",
        "algo.rollout_fragment_length=16",
        f"resources.num_workers={num_workers}",
        "resources.num_cpus_per_worker=0.5",
    ]
    with make_trainer("ppo", env="CartPole-v1", overrides=overrides, seed=1) as trainer:
        before = trainer.get_weights()["default_policy"]
        results = [trainer.train() for _ in range(3)]
        after = trainer.get_weights()["default_policy"]
    assert [result["timesteps_this_iter"] for result in results] == [8 * 16 * 8] * 3
    assert any((after[name] != before[name]).any() for name in before)
    assert set(SAMPLERS) == set(range(max(num_workers, 1)))
    # A fragment is as old as what was learned since its worker was told: nothing with one worker.
    assert (max(LAGS) > 0) == (num_workers == 2)


# Several policies in one worker


def test_two_policies_of_one_worker_are_driven_by_hand():
    with make_trainer("ppo", env="CartPole-v1", seed=1) as trainer:
        worker = trainer.workers.local_worker()
        worker.actors["other"] = worker.make_actor("other")
        one, other = worker.actors["default_policy"], worker.actors["other"]
        obs = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
        decisions = [actor.act(obs, {}, None, 0, True) for actor in (one, other)]
        # Neither weights nor random numbers are shared.
        assert (decisions[0].columns["values"] != decisions[1].columns["values"]).all()
        assert (one.rng.random(4) != other.rng.random(4)).all()
        weights = worker.get_weights()
        assert weights.keys() == {"default_policy", "other"}
        worker.set_weights({"other": weights["default_policy"]})
        np.testing.assert_array_equal(
            other.act(obs, {}, None, 0, True).columns["values"], decisions[0].columns["values"]
        )


# Evolution strategies


@dataclass(kw_only=True)
class ES(Algorithm):
    """Evolution strategies (Salimans et al., 2017, arXiv:1703.03864, algorithm 2)."""

    num_perturbations: int = 10
    sigma: float = 0.1
    step_size: float = 0.1

    def make_policy(self, obs_space, action_space, model) -> Policy:
        return ActorCritic(obs_space, action_space, model)

    @staticmethod
    def loop(algorithms: Mapping[str, Any], workers: Any) -> None:
        learner = algorithms["default_policy"]
        count, seed = learner.num_perturbations, int(learner.rng.integers(2**31))
        values = learner.policy.flat.values
        gradient = torch.zeros_like(values)
        tried = workers.map(returns_of_perturbed_weights, seed, count, learner.sigma)
        returns = np.array([pair for pairs, _ in tried for pair in pairs])
        workers.num_env_steps_sampled += sum(steps for _, steps in tried)
        ranks = returns.ravel().argsort().argsort().reshape(returns.shape) / (returns.size - 1)
        for index, (plus, minus) in enumerate(ranks):
            worker, number = divmod(index, count)
            gradient += (plus - minus) * noise_of(seed, worker, number, len(values))
        values.add_(learner.step_size * gradient / (len(returns) * learner.sigma))
        learner.learner_stats.add({"perturbed_return": returns.mean()})
        workers.sync_weights(algorithms)


def noise_of(seed: int, worker: int, number: int, size: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng([seed, worker, number]).normal(size=size)).float()


def returns_of_perturbed_weights(worker: Any, seed: int, count: int, sigma: float) -> Any:
    """On a worker: (returns [count, 2] of weights moved there and back, env steps taken)."""
    flat = worker.get_policy().flat.values
    centre, index = flat.clone(), max(worker.worker_index - 1, 0)
    pairs, steps = [], 0
    for number in range(count):
        move = sigma * noise_of(seed, index, number, len(flat))
        samples = []
        for sign in (1, -1):
            flat.copy_(centre + sign * move)
            samples.append(worker.run_evaluation(seed % 1000 + number, Amount("episodes", 1)))
        pairs.append([sample.episodes[0].total_reward for sample in samples])
        steps += sum(sample.env_steps for sample in samples)
    flat.copy_(centre)
    return pairs, steps


@pytest.mark.parametrize("num_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_evolution_strategies_are_a_map_over_workers(num_workers, ray_cluster):
    overrides = ["model.fcnet_hiddens=[]", "model.vf_share_layers=true", "explore=false"]
    overrides += [f"resources.num_workers={num_workers}", "resources.num_cpus_per_worker=0.5"]
    algorithm = ES(num_perturbations=5 if num_workers else 10)
    with algorithm.build("CartPole-v1", overrides, seed=1) as trainer:
        stats = [
            trainer.train()["info"]["learner"]["default_policy"]["learner_stats"]
            for _ in range(15 if num_workers == 0 else 3)
        ]
        acting, learning = trainer.workers.local_worker().get_policy(), trainer.get_policy()
        assert torch.equal(acting.flat.values, learning.flat.values)
    returns = [each["perturbed_return"] for each in stats]
    assert num_workers or np.mean(returns[-3:]) > 3 * np.mean(returns[:1])


def test_batches_of_sequences_are_cut_and_joined_as_those_of_steps():
    rows = Batch(
        x=np.arange(12).reshape(4, 3),
        mask=np.array([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]], bool),
    )
    assert (rows.num_rows, rows.num_steps) == (4, 9)
    np.testing.assert_array_equal(rows.real(rows["x"]), [0, 1, 2, 3, 6, 7, 9, 10, 11])
    parts = list(rows.to().minibatches(4, 1, np.random.default_rng(0)))
    assert [part.num_rows for part in parts] == [2, 2]
    assert sum(part.num_steps for part in parts) == 9
