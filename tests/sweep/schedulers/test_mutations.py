from __future__ import annotations

import random
from typing import Any

import pytest

from rlrun.core.errors import ConfigError
from rlrun.sweep.schedulers.mutations import explore, read_mutations

FACTORS = (1.2, 0.8)


def explored(node: Any, value: Any, resample_probability: float = 0.0) -> set[Any]:
    mutations = read_mutations({"algo.lr": node})
    values = {} if value is None else {"algo.lr": value}
    return {
        explore(values, mutations, resample_probability, FACTORS, random.Random(seed))["algo.lr"]
        for seed in range(200)
    }


def test_a_number_is_multiplied_by_one_of_the_factors() -> None:
    assert explored({"min": 0.0, "max": 100.0}, 10.0) == {12.0, 8.0}
    assert explored(None, 10.0) == {12.0, 8.0}


def test_a_number_stays_within_its_range() -> None:
    assert explored({"min": 9.0, "max": 11.0}, 10.0) == {11.0, 9.0}


def test_a_whole_number_stays_whole_and_moves() -> None:
    assert explored({"min": 1, "max": 10}, 2) == {3, 1}
    assert explored({"min": 1, "max": 1000}, 100) == {120, 80}


def test_a_choice_moves_to_a_neighbour_in_the_list() -> None:
    assert explored([16, 32, 64, 128], 32) == {16, 64}
    assert explored([16, 32, 64, 128], 128) == {64, 128}
    assert explored(["a", "b", "c"], "z") == {"a", "b", "c"}


def test_what_is_drawn_anew_comes_from_the_whole_list_or_range() -> None:
    assert explored([16, 32, 64, 128], 16, 1.0) == {16, 32, 64, 128}
    assert explored({"min": 1, "max": 4}, 1, 1.0) == {1, 2, 3, 4}
    lrs = explored({"min": 1e-5, "max": 1e-1, "log": True}, 1e-3, 1.0)
    below = sum(lr < 1e-3 for lr in lrs) / len(lrs)
    assert 0.35 < below < 0.65
    assert all(1e-5 <= lr <= 1e-1 for lr in lrs)


def test_a_value_that_is_not_known_is_drawn() -> None:
    assert explored([1, 2], None) == {1, 2}


def test_groups_of_keys_may_be_nested_or_dotted() -> None:
    nested = {"algo": {"lr": [1, 2], "gamma": {"min": 0.9, "max": 0.99}}}
    dotted = {"algo.lr": [1, 2], "algo.gamma": {"min": 0.9, "max": 0.99}}
    assert read_mutations(nested) == read_mutations(dotted)


@pytest.mark.parametrize(
    "node",
    [
        1e-3,
        [],
        {"min": 1},
        {"min": 2, "max": 1},
        {"min": 0, "max": 1, "log": True},
        {"min": "a", "max": "b"},
    ],
)
def test_what_is_no_list_or_range_is_refused(node: Any) -> None:
    with pytest.raises(ConfigError, match=r"scheduler\.hyperparam_mutations\.algo\.lr=.*must be"):
        read_mutations({"algo": {"lr": node}})


def test_a_number_between_whole_ends_does_not_jump_to_one_of_them() -> None:
    mutation = read_mutations({"algo.gamma": {"min": 0, "max": 1}})["algo.gamma"]
    assert mutation.perturb(0.5, [1.2], random.Random(0)) == pytest.approx(0.6)
    assert mutation.perturb(0.9, [1.2], random.Random(0)) == 1.0
