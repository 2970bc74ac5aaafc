from __future__ import annotations

import numpy as np
import pytest

from rlrun.core.statistics import estimate, interquartile_mean


def test_interquartile_mean_leaves_out_a_quarter_at_each_end():
    # Of 8 values 2 go at each end: (3 + 4 + 5 + 6) / 4.
    assert interquartile_mean(np.array([[1, 2, 3, 4, 5, 6, 7, 800.0]]).T) == [4.5]
    # Of 5 one goes: (2 + 3 + 4) / 3.
    assert interquartile_mean(np.array([[-90, 3, 2, 4, 50.0]]).T) == [3.0]


def test_of_fewer_than_four_values_it_is_the_mean():
    assert interquartile_mean(np.array([[1.0], [2.0], [9.0]])) == [4.0]


def test_runs_without_a_value_at_a_point_do_not_count_there():
    nan = np.nan
    values = np.array([[1.0, nan, nan], [3.0, 5.0, nan]])
    np.testing.assert_array_equal(interquartile_mean(values), [2.0, 5.0, nan])


def test_the_interval_covers_the_center_and_is_the_same_each_time():
    values = np.random.default_rng(7).normal(10.0, 2.0, size=12)
    first, again = estimate(values), estimate(values)
    assert first.low < first.center < first.high
    assert (first.low, first.high) == (again.low, again.high)
    assert first.num_runs == 12


def test_the_interval_of_two_runs_reaches_from_one_to_the_other():
    # A quarter of the resamples is one run twice, and a quarter the other: beyond 2.5 % each.
    found = estimate(np.array([1.0, 3.0]))
    assert (found.low, found.center, found.high) == (1.0, 2.0, 3.0)


def test_a_single_run_has_no_interval_beyond_itself():
    found = estimate(np.array([5.0]))
    assert (found.low, found.center, found.high) == (5.0, 5.0, 5.0)


def test_the_interval_of_three_runs_follows_from_their_resamples():
    values = np.array([0.0, 0.0, 3.0])
    found = estimate(values)
    # The mean of a resample is the number of threes in it; P(0) = 8/27 and P(3) = 1/27.
    assert (found.low, found.high) == (0.0, 3.0)


def test_curves_are_estimated_point_by_point_and_infinite_values_are_none():
    curves = np.array([[1.0, 2.0, np.inf], [3.0, 4.0, np.nan]])
    found = estimate(curves)
    np.testing.assert_array_equal(found.center, [2.0, 3.0, np.nan])
    assert found.low.shape == found.high.shape == (3,)


def test_runs_without_any_value_give_none():
    assert np.isnan(estimate(np.array([np.nan, np.nan])).center)


@pytest.mark.parametrize("num_runs", [1, 4, 9])
def test_runs_that_agree_leave_no_doubt(num_runs):
    found = estimate(np.full(num_runs, 2.5))
    assert (found.low, found.center, found.high) == (2.5, 2.5, 2.5)
