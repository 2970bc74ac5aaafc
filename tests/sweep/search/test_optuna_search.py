"""Points that Optuna's samplers choose."""

from __future__ import annotations

import math
import statistics
import sys
from typing import Any

import pytest

from rlrun.core.errors import ConfigError, MissingExtraError
from rlrun.sweep.search.optuna_search import CLASSES, OptunaSearch
from rlrun.sweep.search.space import Choice, Interval, Space

pytest.importorskip("optuna")

SPACE: Space = {
    "algo.lr": Interval(1e-5, 1e-1, is_log=True),
    "++algo.num_epochs": Interval(1, 10),
    "model.fcnet_hiddens": Choice(([32], [64, 64])),
    "algo.gamma": Choice((0.9, 0.95, 1.0), is_range=True),
    "env": Choice(("cartpole",)),
}


def started(num_samples: int = 12, seed: int = 0, space: Space = SPACE, **settings: Any) -> Any:
    search = OptunaSearch(**settings)
    search.start(space, num_samples=num_samples, seed=seed, mode=settings.get("mode", "max"))
    return search


@pytest.mark.parametrize("sampler", sorted(CLASSES))
def test_every_sampler_gives_points_of_the_space_and_hears_how_they_end(sampler):
    search = started(4, sampler=sampler, space={k: SPACE[k] for k in list(SPACE)[:2]})
    for number in range(4):
        point = search.ask()
        assert 1e-5 <= point["algo.lr"] <= 1e-1
        assert isinstance(point["++algo.num_epochs"], int)
        assert 1 <= point["++algo.num_epochs"] <= 10
        search.tell(number, float(number))
    assert search.ask() is None
    assert search.num_points == 4


def test_values_of_all_kinds_come_back_as_they_were_given():
    search = started()
    points = [search.ask() for _ in range(12)]
    assert all(point["model.fcnet_hiddens"] in ([32], [64, 64]) for point in points)
    assert {point["algo.gamma"] for point in points} == {0.9, 0.95, 1.0}
    assert {point["env"] for point in points} == {"cartpole"}
    assert [list(point) for point in points] == [list(SPACE)] * 12


def test_points_are_given_before_earlier_ones_have_ended():
    search = started(3)
    first, second, third = (search.ask() for _ in range(3))
    assert len({point["algo.lr"] for point in (first, second, third)}) == 3
    search.tell(2, 1.0)
    search.tell(0, None)  # All of its trials failed.
    search.tell(1, 2.0)
    assert search.study.best_trial.number == 1
    states = [trial.state.name for trial in search.study.trials]
    assert states == ["FAIL", "COMPLETE", "COMPLETE"]


def test_asking_and_telling_the_same_again_gives_the_same_points():
    def live(search: OptunaSearch) -> list[Any]:
        """Two trials at a time; the objective is best at a learning rate of 1e-3."""
        points = [search.ask(), search.ask()]
        for number in range(30):
            point = points[number]
            assert point is not None
            search.report(number, 1, 0.0)
            search.tell(number, -abs(math.log10(point["algo.lr"]) + 3))
            points.append(search.ask())
        return points

    assert live(started(40)) == live(started(40))
    assert live(started(40)) != live(started(40, seed=1))


def test_tpe_comes_nearer_to_the_best_point_than_chance_does():
    search = started(60, space={"x": Interval(0.0, 1.0)})
    errors = []
    for number in range(60):
        errors.append(abs(search.ask()["x"] - 0.7))
        search.tell(number, -errors[-1])
    # The median of |x - 0.7| is 0.25 for an x that is uniform in [0, 1].
    assert statistics.median(errors[30:]) < 0.15


def test_less_is_better_if_the_mode_says_so():
    search = OptunaSearch(sampler="random")
    search.start({"x": Interval(0.0, 1.0)}, num_samples=2, seed=0, mode="min")
    for number, objective in enumerate((3.0, 1.0)):
        search.ask()
        search.tell(number, objective)
    assert search.study.best_value == 1.0


def test_intermediate_values_stand_in_the_study_and_a_second_one_of_a_time_is_dropped():
    search = started()
    search.ask()
    search.report(0, 1, 10.0)
    search.report(0, 1, 11.0)
    search.report(0, 2, 12.0)
    assert search.study.trials[0].intermediate_values == {1: 10.0, 2: 12.0}


def test_options_of_the_sampler_reach_it_and_typos_are_named():
    search = started(sampler_options={"n_startup_trials": 3, "multivariate": True})
    assert search.study.sampler._n_startup_trials == 3
    with pytest.raises(ConfigError, match=r"'search.sampler_options.n_startup'. Did you mean"):
        started(sampler_options={"n_startup": 3})
    with pytest.raises(ConfigError, match=r"'search.sampler_options.seed'"):
        started(sampler_options={"seed": 3})
    with pytest.raises(ConfigError, match=r"search.sampler_options=.*'population_size': 1"):
        started(sampler="nsgaii", sampler_options={"population_size": 1})


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'rlrun\[optuna\]'"):
        started()


def test_the_number_of_points_is_asked_for():
    with pytest.raises(ConfigError, match="search=optuna needs to know how many points"):
        OptunaSearch().start(SPACE, num_samples=None, seed=0, mode="max")
