from __future__ import annotations

import copy

import numpy as np
import pytest

from rlrun.core.filters import MeanStdFilter, NoFilter, make_filter


def observations(num_rows: int, shape: tuple[int, ...] = (3,), seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scale = 1 + np.arange(np.prod(shape)).reshape(shape)
    return (rng.normal(size=(num_rows, *shape)) * scale + 10 * scale).astype(np.float32)


def standardized(obs: np.ndarray, seen: np.ndarray) -> np.ndarray:
    seen = seen.astype(np.float64)
    return (obs - seen.mean(axis=0)) / seen.std(axis=0, ddof=1)


@pytest.mark.parametrize("shape", [(3,), (2, 2), (1,)])
def test_observations_are_standardized_by_all_that_was_seen(shape):
    obs = observations(200, shape)
    running = MeanStdFilter(shape)
    for start, end in ((0, 1), (1, 8), (8, 100), (100, 200)):
        given = running(obs[start:end])
        assert given.dtype == np.float32
        assert given.shape == (end - start, *shape)
        if end > 1:
            expected = standardized(obs[start:end], obs[:end])
            np.testing.assert_allclose(given, expected, rtol=1e-3, atol=1e-4)


def test_the_first_row_is_its_own_mean_with_deviation_one():
    running = MeanStdFilter((2,))
    np.testing.assert_allclose(running(np.array([[5.0, -3.0]])), [[0.0, 0.0]], atol=1e-6)
    np.testing.assert_allclose(running(np.array([[7.0, -4.0]]), update=False), [[2.0, -1.0]], 1e-4)


def test_without_update_nothing_is_counted():
    running, probe = MeanStdFilter((3,)), observations(5, seed=3)
    running(observations(50))
    before = running(probe, update=False)
    running(probe + 100, update=False)
    np.testing.assert_array_equal(running(probe, update=False), before)
    running(probe + 100)
    assert (running(probe, update=False) != before).any()


def test_the_input_is_left_as_it_was():
    obs = observations(20)
    before = obs.copy()
    MeanStdFilter((3,))(obs)
    np.testing.assert_array_equal(obs, before)


@pytest.mark.parametrize("clip", [10.0, 2.0])
def test_far_observations_are_clipped_on_both_sides(clip):
    running = MeanStdFilter((1,), clip=clip)
    running(np.array([[-1.0], [1.0]]))
    given = running(np.array([[1e6], [-1e6], [0.5]]), update=False)
    np.testing.assert_allclose(given[:2], [[clip], [-clip]])
    assert abs(given[2, 0]) < 1


def test_a_component_that_never_changes_gives_finite_numbers():
    running = MeanStdFilter((2,))
    given = running(np.array([[4.0, 1.0], [4.0, 2.0], [4.0, 3.0]]))
    np.testing.assert_allclose(given[:, 0], 0.0, atol=1e-6)
    np.testing.assert_allclose(given[:, 1], [-1.0, 0.0, 1.0], atol=1e-4)
    assert np.isfinite(running(np.array([[4.5, 2.0]]), update=False)).all()


def test_a_large_offset_does_not_drown_the_deviation():
    rng = np.random.default_rng(0)
    obs = (1e4 + rng.normal(size=(500, 1))).astype(np.float32)
    running = MeanStdFilter((1,))
    for start in range(0, 500, 10):
        running(obs[start : start + 10])
    given = running(obs, update=False)
    # Neighbouring float32 numbers lie 0.001 apart here.
    np.testing.assert_allclose(given, standardized(obs, obs), atol=2e-3)


def test_integer_observations_are_counted_like_floats():
    obs = np.random.default_rng(0).integers(0, 256, (300, 4)).astype(np.uint8)
    given = MeanStdFilter((4,))(obs)
    np.testing.assert_allclose(given, standardized(obs, obs), rtol=1e-3, atol=1e-4)


def test_no_rows_change_nothing():
    running, probe = MeanStdFilter((3,)), observations(5, seed=3)
    assert running(np.zeros((0, 3), np.float32)).shape == (0, 3)
    running(observations(50))
    before = running(probe, update=False)
    running(np.zeros((0, 3), np.float32))
    np.testing.assert_array_equal(running(probe, update=False), before)


def test_two_filters_that_saw_half_each_equal_one_that_saw_all():
    obs, probe = observations(101), observations(7, seed=5)
    whole, first, second = (MeanStdFilter((3,)) for _ in range(3))
    whole(obs)
    first(obs[:30])
    second(obs[30:])
    first.merge(second.flush())
    expected = whole(probe, update=False)
    np.testing.assert_allclose(first(probe, update=False), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(expected, standardized(probe, obs), rtol=1e-3, atol=1e-4)


def test_flushing_after_every_few_rows_counts_each_row_once():
    obs, probe = observations(90), observations(7, seed=5)
    worker, driver, whole = (MeanStdFilter((3,)) for _ in range(3))
    whole(obs)
    for start in range(0, 90, 30):
        worker(obs[start : start + 30])
        driver.merge(worker.flush())
        driver.merge(worker.flush())  # nothing new
    expected = whole(probe, update=False)
    np.testing.assert_allclose(driver(probe, update=False), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(worker(probe, update=False), expected, rtol=1e-5, atol=1e-6)


def test_what_was_flushed_does_not_change_with_later_rows():
    obs, probe = observations(60), observations(7, seed=5)
    worker, driver, half = (MeanStdFilter((3,)) for _ in range(3))
    worker(obs[:30])
    gathered = worker.flush()
    worker(obs[30:])
    driver.merge(gathered)
    half(obs[:30])
    np.testing.assert_allclose(
        driver(probe, update=False), half(probe, update=False), rtol=1e-5, atol=1e-6
    )


def test_merging_an_empty_flush_into_an_empty_filter_leaves_it_empty():
    first, second = MeanStdFilter((3,)), MeanStdFilter((3,))
    first.merge(second.flush())
    obs = observations(40)
    np.testing.assert_allclose(first(obs), standardized(obs, obs), rtol=1e-3, atol=1e-4)


def test_a_restored_filter_goes_on_as_the_saved_one_and_gathers_only_what_is_new():
    obs = observations(80)
    running = MeanStdFilter((3,))
    running(obs[:30])
    restored = MeanStdFilter((3,))
    restored.load_state_dict(copy.deepcopy(running.state_dict()))
    np.testing.assert_array_equal(running(obs[30:]), restored(obs[30:]))
    new, merged = MeanStdFilter((3,)), MeanStdFilter((3,))
    new(obs[30:])
    merged.merge(restored.flush())
    np.testing.assert_allclose(
        merged(obs, update=False), new(obs, update=False), rtol=1e-5, atol=1e-6
    )


def test_merged_rows_are_not_gathered_a_second_time():
    obs, probe = observations(60), observations(7, seed=5)
    first, second, third, half = (MeanStdFilter((3,)) for _ in range(4))
    first(obs[:30])
    half(obs[:30])
    second(obs[30:])
    first.merge(second.flush())
    third.merge(first.flush())
    np.testing.assert_allclose(
        third(probe, update=False), half(probe, update=False), rtol=1e-5, atol=1e-6
    )


def test_no_filter_gives_observations_as_they_are():
    obs = observations(5)
    given = make_filter("NoFilter", (3,))
    assert type(given) is NoFilter
    np.testing.assert_array_equal(given(obs), obs)
    given.merge(given.flush())
    np.testing.assert_array_equal(given(obs), obs)
