"""Points that are listed."""

from __future__ import annotations

import pytest

from rlrun.core.errors import ConfigError
from rlrun.sweep.search.base import Search
from rlrun.sweep.search.grid import Grid, Zip
from rlrun.sweep.search.space import Choice, Interval, Space


def started(search: Search, space: Space, num_samples: int | None = None, seed: int = 0) -> Search:
    search.start(space, num_samples=num_samples, seed=seed, mode="max")
    return search


def points_of(search: Search) -> list[dict]:
    return list(iter(search.ask, None))


def test_a_grid_is_all_combinations_and_the_last_key_changes_fastest():
    search = started(Grid(), {"a": Choice((1, 2)), "b": Choice(("x", "y"))})
    assert search.num_points == 4
    assert points_of(search) == [
        {"a": 1, "b": "x"},
        {"a": 1, "b": "y"},
        {"a": 2, "b": "x"},
        {"a": 2, "b": "y"},
    ]
    assert search.ask() is None


def test_a_grid_of_nothing_has_one_point():
    search = started(Grid(), {})
    assert search.num_points == 1
    assert points_of(search) == [{}]


def test_a_grid_that_begins_anew_gives_the_same_points():
    space = {"a": Choice((3, 1, 2), is_shuffled=True), "b": Choice((1, 2))}
    search = started(Grid(), space)
    before = points_of(search)
    assert points_of(started(search, space)) == before
    assert points_of(started(Grid(), space)) == before


def test_shuffled_values_come_in_an_order_that_the_seed_draws():
    space = {"a": Choice(tuple(range(20)), is_shuffled=True)}
    orders = [[point["a"] for point in points_of(started(Grid(), space, seed=s))] for s in (0, 1)]
    assert orders[0] != orders[1]
    assert all(order != list(range(20)) and sorted(order) == list(range(20)) for order in orders)


def test_zipped_lists_go_in_step_and_single_values_are_in_all_points():
    space = {"a": Choice((1, 2, 3)), "b": Choice((0,)), "c": Choice(("x", "y", "z"))}
    search = started(Zip(), space)
    assert search.num_points == 3
    assert points_of(search) == [
        {"a": 1, "b": 0, "c": "x"},
        {"a": 2, "b": 0, "c": "y"},
        {"a": 3, "b": 0, "c": "z"},
    ]


def test_zipped_lists_of_different_lengths_are_refused():
    with pytest.raises(ConfigError, match="lists of one length, and a has 2, b has 3 values"):
        started(Zip(), {"a": Choice((1, 2)), "b": Choice((1, 2, 3))})


@pytest.mark.parametrize("search", [Grid(), Zip()])
def test_an_interval_is_refused_where_values_are_listed(search):
    with pytest.raises(ConfigError, match=r"^algo.lr: .*search=random sweep.num_samples=20"):
        started(search, {"algo.lr": Interval(0.0, 1.0)})


@pytest.mark.parametrize("search", [Grid(), Zip()])
def test_a_number_of_samples_is_refused_where_points_are_listed(search):
    with pytest.raises(ConfigError, match=r"sweep.num_samples=3: .*sweep.seeds=3"):
        started(search, {"a": Choice((1, 2))}, num_samples=3)
