from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.spaces import flatten

from rlrun.core.errors import RlrunError
from rlrun.core.spaces import ActionConverter, Preprocessor

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


ACTION_SPACES = [
    spaces.Box(-2.0, 2.0, (2,), np.float32),
    spaces.Box(np.array([0.0, -10.0]), np.array([4.0, 30.0]), dtype=np.float64),
    spaces.Box(np.array([0, -np.inf], np.float32), np.array([np.inf, 1], np.float32)),
    spaces.Box(-np.inf, np.inf, (2,), np.float64),
    spaces.Box(0.1, 0.1, (2,), np.float32),
    spaces.Box(-0.3, 0.7, (2,), np.float16),
    spaces.Discrete(3),
    spaces.Discrete(3, start=-2),
    spaces.Discrete(3, dtype=np.int8),
    spaces.MultiDiscrete([2, 3], start=[5, -1]),
    spaces.MultiDiscrete([2, 3], dtype=np.int32),
]


def policys_actions(space: spaces.Space) -> np.ndarray:
    """Actions as a policy may sample them: indices, or far beyond any bounds."""
    rng = np.random.default_rng(0)
    if isinstance(space, spaces.Discrete):
        return np.arange(space.n)
    if isinstance(space, spaces.MultiDiscrete):
        return np.stack([np.arange(20) % n for n in space.nvec], -1)
    spread = rng.normal(size=(20, *space.shape)).astype(np.float32)
    return np.concatenate([spread, 100 * spread, np.sign(spread)])


@pytest.mark.parametrize("normalize_actions", [True, False])
@pytest.mark.parametrize("space", ACTION_SPACES, ids=str)
def test_an_env_gets_members_of_its_action_space(space, normalize_actions):
    convert = ActionConverter(space, normalize_actions=normalize_actions)
    for action in convert(policys_actions(space)):
        assert space.contains(action)


@pytest.mark.parametrize(
    ("space", "normalize_actions", "policy_space"),
    [
        (spaces.Box(-2.0, 2.0, (2,), np.float64), True, spaces.Box(-1.0, 1.0, (2,), np.float32)),
        (spaces.Box(-2.0, 2.0, (2,), np.float64), False, spaces.Box(-2.0, 2.0, (2,), np.float32)),
        (
            spaces.Box(np.array([0, 0], np.float32), np.array([10, np.inf], np.float32)),
            True,
            spaces.Box(np.array([-1, 0], np.float32), np.array([1, np.inf], np.float32)),
        ),
        (
            spaces.Box(-np.inf, np.inf, (1,), np.float32),
            True,
            spaces.Box(-np.inf, np.inf, (1,), np.float32),
        ),
        (spaces.Discrete(3, start=5), True, spaces.Discrete(3)),
        (
            spaces.MultiDiscrete([2, 3], start=[5, -1]),
            False,
            spaces.MultiDiscrete([2, 3]),
        ),
    ],
    ids=str,
)
def test_the_policys_own_space_is_the_envs_in_its_terms(space, normalize_actions, policy_space):
    converter = ActionConverter(space, normalize_actions=normalize_actions)
    assert converter.policy_space == policy_space


def test_a_nan_action_is_an_error_and_an_infinite_one_is_clipped():
    convert = ActionConverter(spaces.Box(-2.0, 2.0, (2,), np.float32), normalize_actions=True)
    np.testing.assert_array_equal(convert(np.array([[np.inf, -np.inf]], np.float32)), [[2, -2]])
    with pytest.raises(RlrunError, match=r"gave the action \[nan +0.*learning has diverged"):
        convert(np.array([[0, 1], [np.nan, 0]], np.float32))


def test_normalized_actions_are_stretched_to_the_bounds_and_clipped_there():
    space = spaces.Box(np.array([0.0, -10.0]), np.array([4.0, 30.0]), dtype=np.float64)
    convert = ActionConverter(space, normalize_actions=True)
    given = convert(np.array([[-1, -1], [1, 1], [0, 0], [0.5, -0.5], [7, -7]], np.float32))
    np.testing.assert_allclose(given, [[0, -10], [4, 30], [2, 10], [3, 0], [4, -10]], atol=1e-5)


def test_actions_that_are_not_normalised_are_clipped_and_else_unchanged():
    low, high = np.array([[0, -10], [4, 30]], np.float32)
    convert = ActionConverter(spaces.Box(low, high), normalize_actions=False)
    given = convert(np.array([[-1, -11], [5, 31], [0.5, 7]], np.float32))
    np.testing.assert_array_equal(given, np.array([[0, -10], [4, 30], [0.5, 7]], np.float32))


@pytest.mark.parametrize("normalize_actions", [True, False])
def test_converted_actions_lie_in_the_space_whatever_its_bounds(normalize_actions):
    rng = np.random.default_rng(0)
    for dtype in (np.float32, np.float64):
        low = rng.normal(size=50).astype(dtype) * 10
        space = spaces.Box(low, low + rng.random(50).astype(dtype) * 7, dtype=dtype)
        convert = ActionConverter(space, normalize_actions=normalize_actions)
        actions = np.concatenate(
            [np.ones((1, 50)), -np.ones((1, 50)), rng.normal(size=(9, 50)) * 9]
        )
        for action in convert(actions.astype(np.float32)):
            assert space.contains(action)


def test_actions_are_stretched_to_bounds_as_wide_as_float32_itself():
    largest = np.finfo(np.float32).max
    space = spaces.Box(-largest, largest, (1,), np.float32)
    convert = ActionConverter(space, normalize_actions=True)
    given = convert(np.array([[-1.0], [0.0], [0.5], [1.0]], np.float32))
    np.testing.assert_allclose(given, np.array([[-1], [0], [0.5], [1]]) * largest, rtol=1e-6)


@pytest.mark.parametrize("normalize_actions", [True, False])
def test_unbounded_actions_are_not_stretched(normalize_actions):
    space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    actions = np.array([[-3.0, 0.5]], np.float32)
    convert = ActionConverter(space, normalize_actions=normalize_actions)
    np.testing.assert_array_equal(convert(actions), actions)


def test_actions_of_a_half_bounded_box_are_clipped_at_its_one_bound():
    space = spaces.Box(0, np.inf, (2,), np.float32)
    for normalize_actions in (True, False):
        convert = ActionConverter(space, normalize_actions=normalize_actions)
        np.testing.assert_array_equal(convert(np.array([[-3.0, 70.0]], np.float32)), [[0.0, 70.0]])


def test_only_dimensions_bounded_on_both_sides_are_stretched():
    space = spaces.Box(np.array([0, 0], np.float32), np.array([10, np.inf], np.float32))
    convert = ActionConverter(space, normalize_actions=True)
    given = convert(np.array([[0.5, 0.5], [-9.0, -9.0]], np.float32))
    np.testing.assert_allclose(given, [[7.5, 0.5], [0.0, 0.0]])


@pytest.mark.parametrize("start", [0, 5, -2])
def test_discrete_actions_are_shifted_by_the_spaces_start(start):
    space = spaces.Discrete(3, start=start)
    convert = ActionConverter(space, normalize_actions=True)
    given = convert(np.array([0, 1, 2]))
    np.testing.assert_array_equal(given, [start, start + 1, start + 2])
    assert all(space.contains(action) for action in given)


def test_multi_discrete_actions_lie_in_the_space_wherever_it_starts():
    space = spaces.MultiDiscrete([2, 3], start=[5, -1])
    convert = ActionConverter(space, normalize_actions=True)
    given = convert(np.array([[0, 0], [1, 2]]))
    np.testing.assert_array_equal(given, [[5, -1], [6, 1]])
    assert all(space.contains(action) for action in given)


def test_conversion_leaves_the_policys_actions_as_they_were():
    actions = np.array([[-3.0, 0.5]], np.float32)
    convert = ActionConverter(spaces.Box(-2, 2, (2,), np.float32), normalize_actions=True)
    convert(actions)
    np.testing.assert_array_equal(actions, np.array([[-3.0, 0.5]], np.float32))
