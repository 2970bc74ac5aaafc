"""Time by phase in the results of real runs."""

from __future__ import annotations

import pytest

import rlrun
from rlrun.core.phases import PHASES

TINY = ["logger=none"]


def phases_of(algo: str, *overrides: str, iterations: int = 2) -> list[dict]:
    env = "Pendulum-v1" if algo in ("sac", "ddpg") else "CartPole-v1"
    with rlrun.make_trainer(algo, env=env, overrides=[*TINY, *overrides], seed=0) as trainer:
        results = [trainer.train() for _ in range(iterations)]
    for result in results:
        phases = result["time_by_phase"]
        assert tuple(phases) == PHASES
        inside = sum(phases.values()) - phases["checkpoint"] - phases["logging"]
        assert inside == pytest.approx(result["time_this_iter_s"], rel=0.02)
        assert all(seconds >= 0.0 for seconds in phases.values())
        assert phases[result["bottleneck"]] == max(phases.values())
    return [result["time_by_phase"] for result in results]


@pytest.mark.parametrize(
    ("algo", "overrides", "expected"),
    [
        ("ppo", ["algo.train_batch_size=256"], {"env", "inference", "postprocessing", "learning"}),
        (
            "dqn",
            ["algo.learning_starts=50", "algo.timesteps_per_iteration=200"],
            {"env", "inference", "replay", "learning", "transfer"},
        ),
        ("a3c", [], {"env", "inference", "learning"}),
        ("impala", ["algo.train_batch_size=200"], {"env", "inference", "learning"}),
        (
            "es",
            ["algo.episodes_per_batch=4", "algo.train_batch_size=10", "algo.noise_size=100000"],
            {"env", "inference", "learning"},
        ),
    ],
)
def test_phases_of_one_process_add_up_to_the_iteration(algo, overrides, expected):
    _, phases = phases_of(algo, *overrides)
    assert {name for name in expected if phases[name] == 0.0} == set()


def test_evaluation_and_checkpoints_have_their_own_phase(tmp_path):
    overrides = [*TINY, "algo.train_batch_size=128", "evaluation.interval=1"]
    with rlrun.make_trainer("ppo", env="CartPole-v1", overrides=overrides, seed=0) as trainer:
        first = trainer.train()["time_by_phase"]
        trainer.save(tmp_path)
        second = trainer.train()["time_by_phase"]
    assert first["evaluation"] > 0.0
    assert first["checkpoint"] == 0.0
    assert second["checkpoint"] > 0.0


@pytest.mark.parametrize("algo", [pytest.param("ppo", marks=pytest.mark.slow), "impala"])
def test_phases_of_ray_workers_are_merged(ray_cluster, algo):
    _, phases = phases_of(algo, "resources.num_workers=2", "algo.train_batch_size=400")
    for name in ("env", "inference", "postprocessing", "learning", "transfer"):
        assert phases[name] > 0.0, name
