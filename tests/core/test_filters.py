from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from rlrun.core.filters import MeanStdFilter, NoFilter, RunningMoments, make_filter


def observations(num_rows: int, shape: tuple[int, ...] = (3,), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale = 1 + np.arange(np.prod(shape)).reshape(shape)
    return (rng.normal(size=(num_rows, *shape)) * scale + 10 * scale).astype(np.float32)


def standardized(obs: np.ndarray, seen: np.ndarray) -> np.ndarray:
    seen = seen.astype(np.float64)
    return (obs - seen.mean(axis=0)) / seen.std(axis=0, ddof=1)


def gathered(obs: np.ndarray) -> RunningMoments:
    moments = RunningMoments(obs.shape[1:])
    moments.add(obs)
    return moments


def filter_that_saw(obs: np.ndarray, clip: float = 10.0) -> MeanStdFilter:
    running = MeanStdFilter(obs.shape[1:], clip)
    running.merge(gathered(obs))
    return running


@pytest.mark.parametrize("shape", [(3,), (2, 2), (1,)])
def test_observations_are_standardized_by_all_that_was_seen(shape):
    obs = observations(200, shape)
    running = MeanStdFilter(shape)
    for start, end in ((0, 1), (1, 8), (8, 100), (100, 200)):
        running.merge(gathered(obs[start:end]))
        given = running.act(obs[start:end])
        assert given.dtype == np.float32
        assert given.shape == (end - start, *shape)
        if end > 1:
            expected = standardized(obs[start:end], obs[:end])
            np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-4)


def test_before_anything_was_seen_observations_stay_as_they_are():
    obs = np.array([[3.0, -2.0]], np.float32)
    np.testing.assert_array_equal(MeanStdFilter((2,)).act(obs), obs)


def test_the_first_row_is_its_own_mean_with_deviation_one():
    running = filter_that_saw(np.array([[5.0, -3.0]], np.float32))
    np.testing.assert_allclose(running.act(np.array([[5.0, -3.0]])), [[0.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(running.act(np.array([[7.0, -4.0]])), [[2.0, -1.0]], 1e-4)


def test_acting_counts_nothing_and_leaves_its_input_as_it_was():
    running, probe = filter_that_saw(observations(50)), observations(5, seed=3)
    kept = probe.copy()
    before = running.act(probe)
    running.act(probe + 100)
    np.testing.assert_array_equal(running.act(probe), before)
    np.testing.assert_array_equal(probe, kept)


def test_learners_see_the_numbers_that_workers_act_on():
    running, probe = filter_that_saw(observations(50)), observations(5, seed=3)
    np.testing.assert_array_equal(running(torch.from_numpy(probe)).numpy(), running.act(probe))


@pytest.mark.parametrize("clip", [10.0, 2.0])
def test_far_observations_are_clipped_on_both_sides(clip):
    running = filter_that_saw(np.array([[-1.0], [1.0]]), clip)
    given = running.act(np.array([[1e6], [-1e6], [0.5]], np.float32))
    np.testing.assert_allclose(given[:2], [[clip], [-clip]])
    assert abs(given[2, 0]) < 1


def test_a_component_that_never_changes_gives_finite_numbers():
    seen = np.array([[4.0, 1.0], [4.0, 2.0], [4.0, 3.0]], np.float32)
    running = filter_that_saw(seen)
    given = running.act(seen)
    np.testing.assert_allclose(given[:, 0], 0.0, atol=1e-6)
    np.testing.assert_allclose(given[:, 1], [-1.0, 0.0, 1.0], atol=1e-4)
    assert np.isfinite(running.act(np.array([[4.5, 2.0]]))).all()


def test_a_large_offset_does_not_drown_the_deviation():
    rng = np.random.default_rng(0)
    obs = (1e4 + rng.normal(size=(500, 1))).astype(np.float32)
    running = MeanStdFilter((1,))
    for start in range(0, 500, 10):
        running.merge(gathered(obs[start : start + 10]))
    # Neighbouring float32 numbers lie 0.001 apart here.
    np.testing.assert_allclose(running.act(obs), standardized(obs, obs), atol=2e-3)


def test_integer_observations_are_counted_like_floats():
    obs = np.random.default_rng(0).integers(0, 256, (300, 4)).astype(np.uint8)
    given = filter_that_saw(obs).act(obs)
    assert given.dtype == np.float32
    np.testing.assert_allclose(given, standardized(obs, obs), rtol=1e-3, atol=1e-4)


def test_no_rows_change_nothing():
    running, probe = filter_that_saw(observations(50)), observations(5, seed=3)
    before = running.act(probe)
    running.merge(gathered(np.zeros((0, 3), np.float32)))
    np.testing.assert_array_equal(running.act(probe), before)
    assert running.act(np.zeros((0, 3), np.float32)).shape == (0, 3)


def test_two_workers_that_saw_half_each_give_what_one_that_saw_all_does():
    obs, probe = observations(101), observations(7, seed=5)
    halves = filter_that_saw(obs[:30])
    halves.merge(gathered(obs[30:]))
    expected = filter_that_saw(obs).act(probe)
    np.testing.assert_allclose(halves.act(probe), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(expected, standardized(probe, obs), rtol=1e-3, atol=1e-4)


def test_moments_of_few_rows_at_a_time_are_those_of_all():
    obs = observations(90)
    moments = RunningMoments((3,))
    for start in range(0, 90, 7):
        moments.add(obs[start : start + 7])
    assert moments.count == 90
    np.testing.assert_allclose(moments.mean, obs.mean(0, dtype=np.float64))
    np.testing.assert_allclose(moments.std(), obs.std(0, dtype=np.float64, ddof=1))


def test_restored_moments_go_on_as_the_saved_ones():
    obs = observations(80)
    moments, restored = gathered(obs[:30]), RunningMoments((3,))
    restored.load_state_dict(copy.deepcopy(moments.state_dict()))
    for each in (moments, restored):
        each.add(obs[30:])
    np.testing.assert_array_equal(moments.mean, restored.mean)
    np.testing.assert_array_equal(moments.squares, restored.squares)


def test_a_restored_filter_is_the_saved_one():
    running, probe = filter_that_saw(observations(50)), observations(5, seed=3)
    restored = MeanStdFilter((3,))
    restored.load_state_dict(copy.deepcopy(running.state_dict()))
    np.testing.assert_array_equal(running.act(probe), restored.act(probe))
    for each in (running, restored):
        each.merge(gathered(observations(9, seed=8)))
    np.testing.assert_array_equal(running.act(probe), restored.act(probe))


def test_no_filter_gives_observations_as_they_are_and_gathers_nothing():
    obs = observations(5)
    given = make_filter("NoFilter", (3,))
    assert type(given) is NoFilter
    assert given.act(obs) is obs
    assert given.moments() is None
