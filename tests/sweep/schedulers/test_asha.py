from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from simulated_sweep import SimulatedSweep, make_trial, set_up

from rlrun.core.errors import ConfigError
from rlrun.sweep.schedulers.asha import ASHA
from rlrun.sweep.schedulers.base import Pause, Scheduler, Stop
from rlrun.sweep.trial import Status, Trial


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


def added(asha: ASHA, num_trials: int) -> list[Trial]:
    """The scheduler set up, with so many trials that wait."""
    set_up(asha)
    trials = [make_trial(number, {}) for number in range(num_trials)]
    for trial in trials:
        asha.on_add(trial)
    return trials


def run_to(asha: ASHA, trial: Trial, time: float, reward: float) -> str:
    """Let it run to a rung; the name of what is decided, which is done."""
    trial.status = Status.RUNNING
    decision = asha.on_result(trial, {"training_iteration": time, "reward": reward})
    if isinstance(decision, Pause):
        trial.status = Status.PAUSED
    return type(decision).__name__


def test_all_begin_before_the_best_third_goes_on() -> None:
    asha = ASHA(max_t=9, reduction_factor=3)
    trials = added(asha, 6)
    # From bad to good, two at once: the worst comes first, and the first five wait.
    assert [run_to(asha, trial, 1, trial.number) for trial in trials[:5]] == ["Pause"] * 5
    assert asha.choose(trials) is trials[5]
    # Of six two go on: the last is one of them, and does not pause.
    assert run_to(asha, trials[5], 1, 5.0) == "Continue"
    waiting = trials[:5]
    assert asha.choose(waiting) is trials[4]
    assert asha.gives_up(waiting) == waiting[:4]
    # Of two at the second rung none is a third, and one goes on when no other comes any more.
    assert run_to(asha, trials[4], 3, 7.0) == "Pause"
    assert asha.choose(trials[:5]) is None
    assert run_to(asha, trials[5], 3, 6.0) == "Pause"
    assert asha.choose(trials) is trials[4]
    assert asha.gives_up(trials[4:]) == [trials[5]]


def test_of_equals_a_third_goes_on_too() -> None:
    asha = ASHA(max_t=9, reduction_factor=3)
    trials = added(asha, 9)
    for trial in trials:
        trial.status = Status.RUNNING
    # All at once: the third and the sixth find that one, and that two, may go on.
    found = [run_to(asha, trial, 1, 500.0) for trial in trials]
    assert found.count("Continue") == 0
    assert [asha.choose([trial]) for trial in trials] == [*trials[:3], *[None] * 6]


def test_one_that_ends_by_itself_is_not_waited_for() -> None:
    asha = ASHA(max_t=9, reduction_factor=3)
    trials = added(asha, 2)
    assert run_to(asha, trials[0], 1, 1.0) == "Pause"
    assert asha.choose(trials[:1]) is None
    trials[1].status = Status.FAILED
    asha.on_end(trials[1])
    assert asha.choose(trials[:1]) is trials[0]


def test_the_next_best_goes_on_in_the_place_of_one_that_failed() -> None:
    asha = ASHA(max_t=9, reduction_factor=3)
    trials = added(asha, 3)
    assert [run_to(asha, trial, 1, trial.number) for trial in trials] == [
        "Pause",
        "Pause",
        "Continue",
    ]
    assert asha.choose(trials[:2]) is None
    trials[2].status = Status.FAILED
    assert asha.choose(trials[:2]) is trials[1]


def test_where_the_search_learns_losers_stop_at_once() -> None:
    asha = ASHA(max_t=9, reduction_factor=3)
    asha.search_learns = True
    added(asha, 6)
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
    added(asha, 2)
    assert told(asha, 0, 1, 5.0) == "Pause"
    assert told(asha, 1, 1, 6.0) == "Pause"
    assert told(asha, 0, 2, -1.0) == "Continue"
    assert asha.on_result(make_trial(1, {}), {"training_iteration": 9, "reward": 9.0}) == Stop(
        "training_iteration is 9"
    )


def test_one_that_jumps_over_a_rung_is_judged_at_the_last_it_reached() -> None:
    asha = ASHA(max_t=1000, grace_period=10, reduction_factor=10, time_attr="steps")
    (trial,) = added(asha, 1)
    result = {"steps": 450, "reward": 1.0}
    assert isinstance(asha.on_result(trial, result), Pause)
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
@pytest.mark.parametrize("order", [0, 1, 2, "from bad to good"])
def test_asha_over_27_curves_finds_fifos_best_with_40_percent_of_its_steps(
    max_concurrent: int, order: int | str
) -> None:
    params = [{"algo.lr": lr, "seed": seed} for lr in range(9) for seed in range(3)]
    random.Random(order).shuffle(params)
    if isinstance(order, str):
        params.sort(key=lambda each: -abs(each["algo.lr"] - 5))

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
