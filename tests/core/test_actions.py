"""What a policy chooses becomes what an env takes, and back again."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import rlrun
from rlrun.core.action_encoder import ActionEncoder
from rlrun.core.actions import ActionConverter, Simplex
from rlrun.core.distributions import DistributionFamily
from rlrun.core.errors import RlrunError, SpaceError
from rlrun.core.nested import row_of

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


NESTED = spaces.Dict(
    {
        "zebra": spaces.Discrete(3, start=2),
        "arm": spaces.Tuple(
            [spaces.Box(-2, 6, (2, 2), np.float32), spaces.MultiBinary([2, 2]), spaces.Discrete(2)]
        ),
        "inner": spaces.Dict(
            {
                "grid": spaces.MultiDiscrete([[2, 3], [4, 5]], start=[[1, 2], [3, 4]]),
                "count": spaces.Box(-1, 2, (3,), np.int8),
                "shares": Simplex(3, np.float64),
                "one": spaces.Box(0.0, 1.0, (), np.float32),
            }
        ),
    }
)
CHOICES = spaces.Tuple(
    [spaces.Discrete(4, start=-1), spaces.MultiBinary(3), spaces.MultiDiscrete([[3], [2]])]
)
SEVERAL_AXES = [
    spaces.MultiBinary(4),
    spaces.MultiBinary([2, 3]),
    spaces.MultiDiscrete([[2, 3], [4, 5]]),
    spaces.Box(-2.0, 6.0, (2, 3), np.float64),
    spaces.Box(-2.0, 6.0, (), np.float32),
    spaces.Box(-1, 2, (2, 2), np.int8),
    spaces.Box(0, 255, (2,), np.uint8),
    spaces.Box(np.int64(2**62), np.int64(2**62 + 5), (2,), np.int64),
    spaces.Box(0, 1, (3,), np.bool_),
    Simplex(3),
    NESTED,
    CHOICES,
]


def drawn(converter: ActionConverter, num_rows: int) -> np.ndarray:
    """What a policy without any skill gives."""
    family = DistributionFamily(converter.policy_space)
    inputs = np.random.default_rng(0).normal(size=(num_rows, family.num_inputs))
    return family(inputs.astype(np.float32)).sample(np.random.default_rng(1))[0]


@pytest.mark.parametrize("normalize_actions", [True, False])
@pytest.mark.parametrize("space", SEVERAL_AXES, ids=str)
def test_every_kind_of_space_gets_members_from_flat_rows(space, normalize_actions):
    converter = ActionConverter(space, normalize_actions=normalize_actions)
    actions = drawn(converter, 50)
    assert actions.ndim == 2
    assert actions.dtype == converter.dtype
    assert converter.zeros(2).shape == (2, actions.shape[1])
    env_actions = converter(actions)
    for index in range(50):
        assert space.contains(row_of(env_actions, index)), row_of(env_actions, index)


def assert_equal(one: Any, other: Any) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_equal(one[key], other[key])
    elif isinstance(one, tuple):
        for part, same in zip(one, other, strict=True):
            assert_equal(part, same)
    else:
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("normalize_actions", [True, False])
@pytest.mark.parametrize("space", [*SEVERAL_AXES, spaces.Discrete(3, start=5)], ids=str)
def test_env_actions_come_back_from_what_the_policy_would_have_given(space, normalize_actions):
    space.seed(3)
    converter = ActionConverter(space, normalize_actions=normalize_actions)
    rows = [space.sample() for _ in range(20)]
    actions = converter.invert(rows)
    assert actions.dtype == converter.dtype
    env_actions = converter(actions)
    for index, row in enumerate(rows):
        assert_equal(row_of(env_actions, index), row)


def test_a_flat_row_holds_the_parts_in_the_order_of_the_space():
    space = spaces.Dict(
        {
            "b": spaces.Box(0.0, 4.0, (2,)),
            "a": spaces.Discrete(3, start=5),
            "c": spaces.MultiBinary(1),
        }
    )
    converter = ActionConverter(space, normalize_actions=True)
    assert converter.policy_space == spaces.Tuple(
        [spaces.Discrete(3), spaces.Box(-1, 1, (2,)), spaces.MultiBinary(1)]
    )
    # a, then the two of b from [-1, 1] to [0, 4], then c.
    given = converter(np.array([[2.0, -1.0, 0.5, 1.0], [0.0, 9.0, 0.0, 0.0]], np.float32))
    assert list(given) == ["a", "b", "c"]
    np.testing.assert_array_equal(given["a"], [7, 5])
    np.testing.assert_array_equal(given["b"], [[0.0, 3.0], [4.0, 2.0]])
    np.testing.assert_array_equal(given["c"], [[1], [0]])


def test_choices_alone_stay_whole_numbers_and_floats_make_the_row_floats():
    assert ActionConverter(CHOICES, normalize_actions=True).dtype == np.int64
    assert ActionConverter(NESTED, normalize_actions=True).dtype == np.float32


def test_a_box_of_whole_numbers_is_counted_from_its_lower_bounds():
    space = spaces.Box(np.array([-1, 3], np.int16), np.array([2, 4], np.int16), dtype=np.int16)
    converter = ActionConverter(space, normalize_actions=True)
    assert converter.policy_space == spaces.MultiDiscrete([4, 2])
    np.testing.assert_array_equal(converter(np.array([[0, 0], [3, 1]])), [[-1, 3], [2, 4]])


@pytest.mark.parametrize(
    "space",
    [spaces.Box(0, 256, (2,), np.int32), spaces.Box(-np.inf, np.inf, (1,), np.int64)],
    ids=str,
)
def test_too_many_whole_numbers_are_refused_in_words(space):
    with pytest.raises(SpaceError, match="at most 256 can be told apart as choices"):
        ActionConverter(space, normalize_actions=True)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(3),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Text(3)}),
    ],
    ids=str,
)
def test_spaces_of_other_kinds_are_refused(space):
    with pytest.raises(SpaceError, match="No policy can act in"):
        ActionConverter(space, normalize_actions=True)


def test_an_empty_dict_leaves_nothing_to_choose():
    with pytest.raises(SpaceError, match="nothing to choose"):
        ActionConverter(spaces.Dict({}), normalize_actions=True)


@pytest.mark.parametrize("normalize_actions", [True, False])
def test_a_box_becomes_a_simplex_where_the_user_says_so(normalize_actions):
    space = spaces.Box(0.0, 1.0, (3,), np.float64)
    converter = ActionConverter(
        space, normalize_actions=normalize_actions, distribution="dirichlet"
    )
    assert isinstance(converter.policy_space, Simplex)
    weights = np.array([[0.2, 0.3, 0.5]], np.float32)
    np.testing.assert_allclose(converter(weights), weights, rtol=1e-6)
    assert converter(weights).sum() == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-1.0, 0.5, (3,)),
        spaces.Box(0.0, 1.0, (1,)),
        spaces.Box(0.0, 1.0, (2, 2)),
        spaces.Box(0.5, 1.0, (2,)),
    ],
    ids=str,
)
def test_a_box_that_does_not_hold_all_weights_is_no_simplex(space):
    with pytest.raises(SpaceError, match=r"model\.action_distribution=dirichlet"):
        ActionConverter(space, normalize_actions=True, distribution="dirichlet")


def test_nan_in_a_part_of_an_action_is_an_error():
    space = spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(-1, 1, (1,)), "c": Simplex(2)})
    converter = ActionConverter(space, normalize_actions=True)
    converter(np.array([[0, 0, 0.5, 0.5]], np.float32))
    for row in ([0, np.nan, 0.5, 0.5], [0, 0, np.nan, 0.5]):
        with pytest.raises(RlrunError, match="learning has diverged"):
            converter(np.array([row], np.float32))


def test_a_simplex_holds_what_sums_to_one_and_samples_it():
    simplex = rlrun.Simplex(3)
    simplex.seed(0)
    samples = np.stack([simplex.sample() for _ in range(2_000)])
    assert all(simplex.contains(sample) for sample in samples)
    np.testing.assert_allclose(samples.mean(0), 1 / 3, atol=0.02)
    assert not simplex.contains(np.array([0.5, 0.5, 0.5], np.float32))
    assert not simplex.contains(np.array([1.5, -0.5, 0.0], np.float32))
    assert simplex == Simplex(3)
    with pytest.raises(ValueError, match="nothing to choose"):
        Simplex(1)


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("lead", [(2,), (1, 2)])
@pytest.mark.parametrize(
    ("space", "actions", "expected"),
    [
        (spaces.Discrete(3), [2, 0], [[0, 0, 1], [1, 0, 0]]),
        (spaces.MultiDiscrete([2, 3]), [[1, 0], [0, 2]], [[0, 1, 1, 0, 0], [1, 0, 0, 0, 1]]),
        (spaces.MultiBinary(2), [[1, 0], [1, 1]], [[1, 0], [1, 1]]),
        (spaces.Box(-1.0, 1.0, (2,)), [[0.5, -2.0], [0.0, 1.0]], [[0.5, -2.0], [0.0, 1.0]]),
        (
            spaces.Tuple([spaces.Discrete(2), spaces.Box(-1.0, 1.0, (1,)), spaces.Discrete(3)]),
            [[1.0, 0.25, 2.0], [0.0, -0.5, 0.0]],
            [[0, 1, 0.25, 0, 0, 1], [1, 0, -0.5, 1, 0, 0]],
        ),
    ],
    ids=str,
)
def test_an_encoder_shows_choices_as_one_hot_and_numbers_as_they_are(
    space, actions, expected, lead, convert
):
    encode = ActionEncoder(space)
    rows = np.array(actions)
    found = encode(convert(rows.reshape(*lead, *rows.shape[1:])))
    assert str(found.dtype).endswith("float32")
    assert tuple(found.shape) == (*lead, encode.output_size)
    np.testing.assert_array_equal(found.reshape(2, -1), expected)
