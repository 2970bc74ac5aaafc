"""What all schedulers have in common."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import pytest
from simulated_sweep import SimulatedSweep, make_trial, replayed, set_up

from rlrun.core.errors import ConfigError
from rlrun.sweep.schedulers.asha import ASHA
from rlrun.sweep.schedulers.base import Continue, Scheduler
from rlrun.sweep.schedulers.hyperband import HyperBand
from rlrun.sweep.schedulers.median import MedianStopping
from rlrun.sweep.schedulers.pbt import PBT

SCHEDULERS: dict[str, tuple[type[Scheduler], dict[str, Any]]] = {
    "fifo": (Scheduler, {}),
    "asha": (ASHA, {"max_t": 27, "reduction_factor": 3, "brackets": 2}),
    "median": (MedianStopping, {"grace_period": 3}),
    "hyperband": (HyperBand, {"max_t": 27}),
    "pbt": (
        PBT,
        {
            "hyperparam_mutations": {"algo.lr": {"min": 1e-4, "max": 1.0, "log": True}},
            "perturbation_interval": 4,
        },
    ),
}


class Noisy:
    """Curves that rise by chance, the faster the larger the learning rate is."""

    def __init__(self) -> None:
        self.chance = random.Random(3)

    def __call__(self, state: float, iteration: int, values: dict[str, Any]) -> float:
        return state + values["algo.lr"] * self.chance.uniform(0.0, 2.0)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("max_concurrent", [1, 4, 20])
def test_state_after_a_replay_of_the_journal_equals_the_state_before(
    name: str, max_concurrent: int, tmp_path: Path
) -> None:
    kind, settings = SCHEDULERS[name]
    params = [{"algo.lr": 10 ** -(1 + number / 10)} for number in range(20)]
    sweep = SimulatedSweep(
        kind(**settings),
        Noisy(),
        params,
        folder=tmp_path,
        max_concurrent=max_concurrent,
        max_iterations=30,
    ).run()
    for length in (0, len(sweep.told) // 3, len(sweep.told)):
        again = replayed(sweep.told[:length], kind(**settings), tmp_path)
        once_more = replayed(sweep.told[:length], kind(**settings), tmp_path)
        assert vars(again) == vars(once_more)
    assert vars(again) == vars(sweep.scheduler)
    assert all(trial.status.is_final for trial in sweep.trials)


def test_fifo_lets_every_trial_run_to_its_end() -> None:
    params = [{"algo.lr": 0.1}, {"algo.lr": 0.2}, {"algo.lr": 0.3}]
    sweep = SimulatedSweep(Scheduler(), Noisy(), params, max_concurrent=2, max_iterations=5).run()
    assert sweep.num_steps == 15
    assert {decision for _, _, decision in sweep.decisions} == {Continue()}


def test_less_is_better_with_mode_min() -> None:
    scheduler = Scheduler(metric="evaluation/loss", mode="min")
    assert scheduler.score_of({"evaluation": {"loss": 2.0}}) == -2.0
    assert scheduler.score_of({"evaluation": {"loss": math.nan}}) is None
    assert scheduler.score_of({"evaluation": {}}) is None


def test_a_result_without_the_time_attribute_is_an_error() -> None:
    scheduler = Scheduler(time_attr="timesteps_total")
    with pytest.raises(ConfigError, match=r"scheduler\.time_attr=timesteps_total is in no result"):
        scheduler.time_of({"training_iteration": 3})


@pytest.mark.parametrize("kind", [ASHA, HyperBand, MedianStopping])
def test_results_before_the_first_finished_episode_are_not_judged(kind: type[Scheduler]) -> None:
    scheduler = kind()
    set_up(scheduler)
    for number in range(5):
        scheduler.on_add(make_trial(number, {}))
    result = {"training_iteration": 1, "reward": math.nan}
    decisions = [scheduler.on_result(make_trial(n, {}), result) for n in range(5)]
    assert "Stop" not in {type(decision).__name__ for decision in decisions}
