"""Points that chance gives."""

from __future__ import annotations

import pytest

from rlrun.core.errors import ConfigError
from rlrun.sweep.search.random_search import RandomSearch
from rlrun.sweep.search.space import Choice, Interval

SPACE = {"lr": Interval(1e-5, 1e-2, is_log=True), "algo": Choice(("ppo", "dqn")), "n": Choice((3,))}


def points(seed: int, num_samples: int = 20) -> list[dict]:
    search = RandomSearch()
    search.start(SPACE, num_samples=num_samples, seed=seed, mode="max")
    assert search.num_points == num_samples
    return list(iter(search.ask, None))


def test_as_many_points_are_drawn_as_were_asked_for():
    drawn = points(0)
    assert len(drawn) == 20
    assert {point["algo"] for point in drawn} == {"ppo", "dqn"}
    assert all(1e-5 <= point["lr"] <= 1e-2 and point["n"] == 3 for point in drawn)
    assert len({point["lr"] for point in drawn}) == 20


def test_the_seed_decides_on_all_points_and_more_of_them_do_not_change_the_first_ones():
    assert points(7) == points(7)
    assert points(7) != points(8)
    assert points(7, num_samples=30)[:20] == points(7)


def test_the_number_of_points_is_asked_for():
    with pytest.raises(ConfigError, match="search=random needs to know how many points"):
        RandomSearch().start(SPACE, num_samples=None, seed=0, mode="max")
