from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import flatten

from rlrun.core.spaces import Preprocessor

NESTED = spaces.Dict(
    {
        "zebra": spaces.Discrete(3, start=2),
        "ant": spaces.Box(-1, 1, (2, 3), np.float32),
        "pair": spaces.Tuple([spaces.MultiDiscrete([2, 4]), spaces.MultiBinary(3)]),
        "inner": spaces.Dict({"b": spaces.Box(0, 9, (2,), np.float64), "a": spaces.Discrete(2)}),
    }
)
FLAT_SPACES = [
    spaces.Discrete(5),
    spaces.Discrete(4, start=-3),
    spaces.MultiDiscrete([2, 3, 4]),
    spaces.MultiBinary(6),
    spaces.Tuple([spaces.Discrete(3), spaces.Box(-2, 2, (2,), np.float32)]),
    spaces.Dict({"b": spaces.Discrete(3), "a": spaces.Box(-2, 2, (1,), np.float32)}),
    NESTED,
]


def stacked(space: spaces.Space, observations: list[Any]) -> Any:
    """Observations batched per leaf, as vector envs give them."""
    if isinstance(space, spaces.Dict):
        return {
            key: stacked(part, [obs[key] for obs in observations])
            for key, part in space.spaces.items()
        }
    if isinstance(space, spaces.Tuple):
        return tuple(
            stacked(part, [obs[i] for obs in observations]) for i, part in enumerate(space.spaces)
        )
    return np.stack([np.asarray(obs) for obs in observations])


def samples(space: spaces.Space, number: int = 12) -> list[Any]:
    space.seed(0)
    return [space.sample() for _ in range(number)]


@pytest.mark.parametrize("space", FLAT_SPACES, ids=str)
def test_flat_observations_equal_gymnasiums_one_by_one(space):
    preprocess = Preprocessor(space)
    observations = samples(space)
    expected = np.stack([flatten(space, obs) for obs in observations])
    given = preprocess(stacked(space, observations))
    assert given.dtype == np.float32
    assert given.shape == (12, *preprocess.space.shape)
    np.testing.assert_allclose(given, expected, rtol=1e-6)
    for row, obs in zip(expected, observations, strict=True):
        single = preprocess.single(obs)
        assert single.shape == (1, *preprocess.space.shape)
        np.testing.assert_allclose(single[0], row, rtol=1e-6)
        assert preprocess.space.contains(single[0])


def test_dict_parts_follow_the_spaces_order_whatever_the_observations_order():
    space = spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Box(-9, 9, (1,), np.float32)})
    numbers, choices = np.array([[4.0], [5.0]], np.float32), np.array([0, 1])
    expected = [[4.0, 1.0, 0.0], [5.0, 0.0, 1.0]]
    for obs in ({"a": numbers, "b": choices}, {"b": choices, "a": numbers}):
        np.testing.assert_array_equal(Preprocessor(space)(obs), expected)


def test_one_hot_vectors_count_from_the_spaces_start():
    discrete = Preprocessor(spaces.Discrete(3, start=-1))
    np.testing.assert_array_equal(discrete(np.array([1, -1, 0])), np.eye(3)[[2, 0, 1]])
    multi = Preprocessor(spaces.MultiDiscrete([2, 3], start=[5, -1]))
    np.testing.assert_array_equal(
        multi(np.array([[5, 1], [6, -1]])), [[1, 0, 0, 0, 1], [0, 1, 1, 0, 0]]
    )


def test_float_boxes_become_float32_of_the_same_shape():
    space = spaces.Box(-5, 5, (2, 3), np.float64)
    preprocess = Preprocessor(space)
    obs = np.random.default_rng(0).uniform(-5, 5, (4, 2, 3))
    given = preprocess(obs)
    assert given.dtype == preprocess.space.dtype == np.float32
    assert preprocess.space.shape == (2, 3)
    np.testing.assert_array_equal(given, obs.astype(np.float32))
    np.testing.assert_array_equal(preprocess.single(obs[1]), obs[1:2].astype(np.float32))


def test_images_keep_their_integers_and_their_shape():
    space = spaces.Box(0, 255, (8, 6, 3), np.uint8)
    preprocess = Preprocessor(space)
    image = samples(space, 1)[0]
    assert preprocess.space == space
    assert preprocess.single(image).dtype == np.uint8
    np.testing.assert_array_equal(preprocess(image[None]), image[None])


def test_flatten_makes_a_box_of_any_rank_a_vector():
    preprocess = Preprocessor(spaces.Box(-5, 5, (2, 3), np.float32), flatten=True)
    obs = np.arange(12, dtype=np.float32).reshape(2, 2, 3) / 4
    assert preprocess.space.shape == (6,)
    np.testing.assert_array_equal(preprocess(obs), obs.reshape(2, 6))
    np.testing.assert_array_equal(preprocess.single(obs[1]), obs[1].reshape(1, 6))
