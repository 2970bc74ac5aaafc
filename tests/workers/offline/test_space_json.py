"""Spaces survive the way through JSON."""

from __future__ import annotations

import json

import numpy as np
import pytest
from gymnasium import spaces
from space_envs import ACTION_SPACES

from rlrun.core.errors import SpaceError
from rlrun.workers.offline.space_json import space_from_json, space_to_json

SPACES = {
    **ACTION_SPACES,
    "half bounded": spaces.Box(np.array([-1, -np.inf]), np.array([np.inf, 2]), dtype=np.float32),
    "largest integers": spaces.Box(-(2**63), 2**63 - 1, (2,), np.int64),
    "one number": spaces.Box(-1.0, 1.0, (), np.float64),
    "image": spaces.Box(0, 255, (4, 4, 3), np.uint8),
}


@pytest.mark.parametrize("name", SPACES)
def test_a_space_is_the_same_after_the_way_through_json(name):
    space = SPACES[name]
    text = json.dumps(space_to_json(space), allow_nan=False)
    found = space_from_json(json.loads(text))
    assert found == space
    assert type(found) is type(space)
    assert found.dtype == space.dtype


def test_the_parts_of_a_dict_keep_their_order():
    space = spaces.Dict([("b", spaces.Discrete(2)), ("a", spaces.Discrete(3))])
    text = json.dumps(space_to_json(space))
    assert list(space_from_json(json.loads(text)).spaces) == ["b", "a"]


@pytest.mark.parametrize(
    "space",
    [spaces.Text(3), spaces.Dict({1: spaces.Discrete(2)}), spaces.Graph(spaces.Box(0, 1), None)],
)
def test_a_space_that_files_cannot_hold_is_refused(space):
    with pytest.raises(SpaceError, match="cannot be written"):
        space_to_json(space)
