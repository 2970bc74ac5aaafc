from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from simulated_sweep import SimulatedSweep, make_trial, set_up

from rlrun.core.errors import ConfigError
from rlrun.sweep.schedulers.asha import ASHA
from rlrun.sweep.schedulers.base import Continue, Scheduler, Stop


def told(scheduler: ASHA, number: int, time: float, reward: float) -> str:
    result = {"training_iteration": time, "reward": reward}
    return type(scheduler.on_result(make_trial(number, {}), result)).__name__


def test_rungs_are_at_r_times_eta_to_the_k() -> None:
    # Li et al. (2020), sec. 3.1: r = 1, R = 9, eta = 3 has rungs at 1 and 3, and the end at 9.
    (rungs,) = ASHA(max_t=9, grace_period=1, reduction_factor=3)._brackets
    assert [rung.milestone for rung in rungs] == [1, 3]


def test_each_further_bracket_begins_one_rung_later() -> None:
    brackets = ASHA(max_t=81, grace_period=1, reduction_factor=3, brackets=3)._brackets
    milestones = [[rung.milestone for rung in rungs] for rungs in brackets]
    assert milestones == [[1, 3, 9, 27], [3, 9, 27], [9, 27]]


def test_who_is_among_the_best_third_so_far_goes_on() -> None:
    asha = ASHA(max_t=9, reduction_factor=3)
    set_up(asha)
    # One of three passes: 5 comes first, 4 is worse, 6 better than all.
    assert told(asha, 0, 1, 5.0) == "Continue"
    assert told(asha, 1, 1, 4.0) == "Stop"
    assert told(asha, 2, 1, 6.0) == "Continue"
    # The fourth and fifth have to be the best of 4 and 5; of six, the second best passes.
    assert told(asha, 3, 1, 5.5) == "Stop"
    assert told(asha, 4, 1, 5.5) == "Stop"
    assert told(asha, 5, 1, 5.9) == "Continue"
    # At the second rung only those count that came there.
    assert told(asha, 0, 3, 1.0) == "Continue"
    assert told(asha, 2, 3, 0.9) == "Stop"


def test_a_trial_is_judged_once_at_each_rung_and_ends_at_max_t() -> None:
    asha = ASHA(max_t=9, reduction_factor=3)
    set_up(asha)
    assert told(asha, 0, 1, 5.0) == "Continue"
    assert told(asha, 1, 1, 6.0) == "Continue"
    assert told(asha, 0, 2, -1.0) == "Continue"
    assert asha.on_result(make_trial(1, {}), {"training_iteration": 9, "reward": 9.0}) == Stop(
        "training_iteration is 9"
    )


def test_one_that_jumps_over_a_rung_is_judged_at_the_last_it_reached() -> None:
    asha = ASHA(max_t=1000, grace_period=10, reduction_factor=10, time_attr="steps")
    set_up(asha)
    result = {"steps": 450, "reward": 1.0}
    assert asha.on_result(make_trial(0, {}), result) == Continue()
    assert [rung.scores for rung in asha._brackets[0]] == [{}, {0: 1.0}]


def test_brackets_get_trials_in_hyperbands_proportions() -> None:
    asha = ASHA(max_t=81, grace_period=1, reduction_factor=3, brackets=2)
    set_up(asha)
    sizes = Counter(len(asha._rungs_of(make_trial(number, {}))) for number in range(2000))
    # 3**4 / 5 to 3**3 / 4.
    assert sizes[4] / 2000 == pytest.approx(16.2 / (16.2 + 6.75), abs=0.03)


class Curves:
    """27 learning curves, 9 learning rates with 3 seeds: noise, and for each lr its own asymptote
    and speed; a few of the good ones begin slowly."""

    def __init__(self) -> None:
        self.chance = random.Random(11)
        self.offsets = {(lr, seed): self.chance.gauss(0, 4) for lr in range(9) for seed in range(3)}

    def score(self, state: tuple[float, dict[str, Any]]) -> float:
        iteration, values = state
        lr, seed = values["algo.lr"], values["seed"]
        asymptote = 200 - 12 * (lr - 5) ** 2 + self.offsets[lr, seed]
        speed = 1 / (6 + 1.5 * abs(lr - 6))
        return asymptote * (1 - math.exp(-speed * iteration))

    def __call__(self, state: Any, iteration: int, values: dict[str, Any]) -> Any:
        return (iteration + 1, dict(values))


@pytest.mark.parametrize("max_concurrent", [1, 4, 9])
@pytest.mark.parametrize("order", [0, 1, 2])
def test_asha_over_27_curves_finds_fifos_best_with_40_percent_of_its_steps(
    max_concurrent: int, order: int
) -> None:
    params = [{"algo.lr": lr, "seed": seed} for lr in range(9) for seed in range(3)]
    random.Random(order).shuffle(params)

    def sweep(scheduler: Scheduler) -> SimulatedSweep:
        return SimulatedSweep(
            scheduler, Curves(), params, max_concurrent=max_concurrent, max_iterations=81
        ).run()

    fifo = sweep(Scheduler())
    asha = sweep(ASHA(max_t=81, grace_period=3, reduction_factor=3))
    assert asha.best.params == fifo.best.params
    assert asha.best.result == fifo.best.result
    assert asha.num_steps <= 0.4 * fifo.num_steps


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"grace_period": 0}, r"scheduler\.grace_period=0 must be above 0"),
        ({"reduction_factor": 1}, r"scheduler\.reduction_factor=1 above 1"),
        ({"grace_period": 100}, r"scheduler\.grace_period=100 must be below scheduler\.max_t=100"),
        ({"brackets": 9}, r"scheduler\.brackets=9: there are only 4 rungs"),
        ({"brackets": 0}, r"scheduler\.brackets=0 must be at least 1"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ASHA(**settings)
