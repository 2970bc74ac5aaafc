"""What is far away is found by those who are rewarded for what is new, and by nobody else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlrun.run import make_trainer

LURE = 40 * 0.001
"""The return of whoever stays at the start of the corridor."""


def best_mean(num_steps: int, *overrides: str) -> float:
    """The best mean return of PPO on corridor within `num_steps`; it stops above 0.9."""
    best = 0.0
    with make_trainer(algo="ppo", overrides=["env=corridor", *overrides], seed=1) as trainer:
        while best < 0.9 and trainer.workers.num_env_steps_sampled < num_steps:
            best = max(best, trainer.train()["episode_reward_mean"])
    return best


def test_without_exploration_of_states_ppo_stays_with_the_lure():
    assert best_mean(16_000) == pytest.approx(LURE, abs=0.01)


@pytest.mark.parametrize(
    "overrides",
    [
        pytest.param(["exploration=rnd"], id="rnd"),
        pytest.param(["exploration=re3", "exploration.random_timesteps=0"], id="re3"),
        pytest.param(["exploration=curiosity"], id="curiosity", marks=pytest.mark.slow),
    ],
)
def test_what_is_new_leads_to_the_end(overrides):
    assert best_mean(100_000, *overrides) > 0.9


def test_remote_workers_are_curious_each_for_itself(ray_cluster):
    def prediction_weights(worker: Any) -> np.ndarray | None:
        exploration = worker.actors["default_policy"].exploration
        return exploration.learned.flat.values.numpy().copy()

    overrides = ["env=corridor", "exploration=rnd", "resources.num_workers=2"]
    sizes = ["algo.train_batch_size=320", "algo.minibatch_size=80"]
    with make_trainer(algo="ppo", overrides=[*overrides, *sizes], seed=1) as trainer:
        before = trainer.workers.foreach_worker(prediction_weights)[1:]
        result = trainer.train()
        after = trainer.workers.foreach_worker(prediction_weights)[1:]
    assert result["info"]["exploration"]["default_policy"]["intrinsic_reward_mean"] > 0.0
    for one, other in zip(before, after, strict=True):
        assert (one != other).any()
    assert (after[0] != after[1]).any()
