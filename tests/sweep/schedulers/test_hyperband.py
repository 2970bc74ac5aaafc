from __future__ import annotations

from typing import Any

import pytest
from simulated_sweep import SimulatedSweep, make_trial, set_up

from rlrun.core.errors import ConfigError
from rlrun.sweep.schedulers.base import Continue, Pause, Stop
from rlrun.sweep.schedulers.hyperband import HyperBand
from rlrun.sweep.trial import Status, Trial


class Slope:
    """Each trial's reward grows by its own number."""

    def __call__(self, state: float, iteration: int, values: dict[str, Any]) -> float:
        return state + values["slope"]


def result(time: int, reward: float) -> dict[str, Any]:
    return {"training_iteration": time, "reward": reward}


def test_brackets_are_those_of_the_paper() -> None:
    # Li et al. (2018), algorithm 1 with R = 81 and eta = 3: n = ceil(5 * 3**s / (s + 1)).
    band = HyperBand(max_t=81, reduction_factor=3)
    brackets = [band._bracket(index) for index in range(6)]
    assert [bracket.size for bracket in brackets] == [81, 34, 15, 8, 5, 81]
    assert brackets[0].milestones == [1, 3, 9, 27, 81]
    assert brackets[2].milestones == [9, 27, 81]
    assert brackets[4].milestones == [81]


def in_one_bracket(num_trials: int = 9) -> tuple[HyperBand, list[Trial]]:
    """R = 9, eta = 3: the first bracket is for 9 trials, with rungs at 1, 3 and 9."""
    band = HyperBand(max_t=9, reduction_factor=3)
    set_up(band)
    trials = [make_trial(number, {}) for number in range(num_trials)]
    for trial in trials:
        band.on_add(trial)
    return band, trials


def test_trials_pause_at_a_rung_until_all_are_there_and_a_third_goes_on() -> None:
    band, trials = in_one_bracket()
    for trial in trials[:8]:
        assert isinstance(band.on_result(trial, result(1, trial.number)), Pause)
        assert band.choose([trial]) is None
        assert not band.gives_up([trial])
    # The last one is the best: 8, 7 and 6 of nine go on, the others never do.
    assert band.on_result(trials[8], result(1, 8.0)) == Continue()
    assert band.gives_up(trials) == trials[:6]
    assert band.choose(trials[:8]) is trials[6]
    # Of three, one goes on at 3; it ends at 9.
    assert isinstance(band.on_result(trials[6], result(3, 1.0)), Pause)
    assert isinstance(band.on_result(trials[7], result(3, 0.0)), Pause)
    assert isinstance(band.on_result(trials[8], result(3, 0.5)), Stop)
    assert band.choose(trials[6:8]) is trials[6]
    assert isinstance(band.on_result(trials[6], result(9, 1.0)), Stop)


def test_a_failed_trial_is_not_waited_for() -> None:
    band, trials = in_one_bracket()
    for trial in trials[1:]:
        band.on_result(trial, result(1, trial.number))
    trials[0].status = Status.INTERRUPTED  # comes back when the sweep is resumed
    band.on_end(trials[0])
    assert band.choose(trials[1:]) is None
    trials[0].status = Status.FAILED
    band.on_end(trials[0])
    assert band.choose(trials[1:]) is trials[7]  # 8 // 3: the two best


def test_a_bracket_that_is_not_full_is_halved_once_nobody_else_can_start() -> None:
    band, trials = in_one_bracket(4)
    for trial in trials[:3]:
        assert isinstance(band.on_result(trial, result(1, -trial.number)), Pause)
    assert band.choose(trials) is trials[3]
    assert isinstance(band.on_result(trials[3], result(1, -9.0)), Pause)
    assert band.choose(trials) is trials[0]
    assert band.on_result(trials[0], result(2, 0.0)) == Continue()
    assert band.gives_up(trials) == trials[1:]


@pytest.mark.parametrize("max_concurrent", [1, 3, 30])
def test_the_best_of_a_whole_band_runs_to_the_end(max_concurrent: int) -> None:
    # R = 9: brackets of 9, 5 and 3; the best of each runs 9 iterations, and all of the last.
    params = [{"slope": (number * 7) % 17} for number in range(17)]
    sweep = SimulatedSweep(
        HyperBand(max_t=9), Slope(), params, max_concurrent=max_concurrent, max_iterations=50
    ).run()
    lengths = [trial.result["training_iteration"] for trial in sweep.trials]
    # Algorithm 1: 9 * 1 + 3 * 2 + 1 * 6; 5 * 3 + 1 * 6; 3 * 9.
    assert sum(lengths) == sweep.num_steps == 21 + 21 + 27
    assert sorted(lengths[:9]) == [1] * 6 + [3] * 2 + [9]
    assert sweep.best.params == {"slope": 16}


def test_values_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"scheduler\.max_t=2 must be at least 3"):
        HyperBand(max_t=2)
