from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from toy_envs import ODD_OBSERVATIONS

from rlrun.core.membership import misfit

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
COUNTS = spaces.Box(0, 9, (2,), np.int8)


@pytest.mark.parametrize("odd", ODD_OBSERVATIONS)
def test_what_is_in_the_space_is_held_and_what_is_not_is_named(odd):
    space, usual, outside = ODD_OBSERVATIONS[odd]
    assert misfit(space, usual) is None
    assert misfit(space, outside) is not None


@pytest.mark.parametrize(
    ("space", "value"),
    [
        (BOX, np.zeros(2)),  # float64 where float32 is promised
        (BOX, [0, 1]),
        (BOX, (0.5, True)),
        (BOX, np.array([7.0, -7.0], np.float32)),  # bounds of a Box are not enforced
        (BOX, np.array([np.nan, np.inf], np.float32)),  # the sampler names these
        (BOX, torch.zeros(2)),
        (COUNTS, np.array([3, 9], np.int64)),
        (COUNTS, np.array([3.0, -128.0])),
        (spaces.Discrete(3, start=-1), -1),
        (spaces.Discrete(3), np.int64(2)),
        (spaces.Discrete(3), np.array(2)),
        (spaces.MultiBinary(2), np.array([True, False])),
        (spaces.MultiBinary((2, 1)), [[0], [1]]),
        (spaces.MultiDiscrete([2, 3], start=[5, -1]), [6, -1]),
        (spaces.Tuple([spaces.Discrete(2), BOX]), [1, np.zeros(2, np.float32)]),
        (spaces.Box(0, 1, (2,), bool), np.array([1, 0])),
    ],
)
def test_a_cast_that_changes_nothing_is_allowed(space, value):
    assert misfit(space, value) is None


@pytest.mark.parametrize(
    ("space", "value", "reason"),
    [
        (COUNTS, np.array([3, 0.75]), "the observation is 0.75 at [1], and its space "),
        (COUNTS, np.array([128, 3]), "the observation is 128 at [0], "),
        (COUNTS, np.array([3.0, np.nan]), "the observation is nan at [1], "),
        (COUNTS, np.array([3]), "the observation has the shape (1,), and its space "),
        (BOX, np.zeros((2, 1)), "the observation has the shape (2, 1), "),
        (BOX, None, "the observation is None, "),
        (BOX, [[1.0], [2.0, 3.0]], "the observation is no array: "),
        (BOX, np.zeros(2, complex), "the observation is array([0.+0.j, 0.+0.j]), "),
        (spaces.Discrete(3), 3, "the observation is 3, and its space Discrete(3) holds other"),
        (spaces.Discrete(3), 0.5, "the observation is 0.5, "),
        (spaces.Discrete(3), np.array([1]), "the observation has the shape (1,), "),
        (spaces.Discrete(2), {"a": 1}, "the observation is {'a': 1}, "),
        (
            spaces.Dict({"a": spaces.Discrete(2)}),
            1,
            "the observation is a int, and its space is a Dict",
        ),
        (
            spaces.Dict({"a": spaces.Discrete(2)}),
            {},
            "the observation lacks the key 'a' of its space",
        ),
        (
            spaces.Dict({"a": spaces.Discrete(2)}),
            {"a": 0, "b": 1},
            "the observation has the key 'b', which its space does not have",
        ),
        (
            spaces.Tuple([spaces.Discrete(2)]),
            (1, 1),
            "the observation is a tuple of 2 parts, and its space is a Tuple of 1 parts",
        ),
        (
            spaces.Dict({"a": spaces.Tuple([BOX, COUNTS])}),
            {"a": (np.zeros(2), [1, 1.5])},
            "the observation['a'][1] is 1.5 at [1], ",
        ),
    ],
    ids=str,
)
def test_the_reason_says_where_and_what_was_given(space, value, reason):
    found = misfit(space, value)
    assert found is not None
    assert found.startswith(reason)


def test_a_batch_has_its_axes_in_front_of_every_leaf():
    space = spaces.Dict({"a": spaces.Discrete(3), "b": BOX})
    assert misfit(space, {"a": np.array([0, 2]), "b": np.zeros((2, 2))}, lead=(2,)) is None
    found = misfit(space, {"a": np.array([0, 3]), "b": np.zeros((2, 2))}, lead=(2,))
    assert found == (
        "the observation['a'] is 3 at [1], and its space Discrete(3) holds other numbers"
    )
    found = misfit(space, {"a": np.array([0, 2]), "b": np.zeros((1, 2))}, lead=(2,))
    assert found is not None
    assert "['b'] has the shape (1, 2)" in found
