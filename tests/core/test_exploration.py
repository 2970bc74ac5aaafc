from __future__ import annotations

import math

import numpy as np
import pytest
from gymnasium import spaces
from numpy.testing import assert_allclose, assert_array_equal

from rlrun.core.actions import ActionConverter
from rlrun.core.distributions import Categorical, DiagGaussian, Distribution, MultiCategorical
from rlrun.core.errors import ConfigError, RlrunError
from rlrun.core.exploration import EpsilonGreedy, StochasticSampling

ROWS = 20_000
NO_ACTION = -np.inf


def drawn(exploration, space: spaces.Space, dist: Distribution, timestep: int = 0, explore=True):
    """(actions, log-probabilities) of a worker's copy for that space."""
    mine = exploration.for_worker(action_space=space, rng=np.random.default_rng(0))
    return mine.get_exploration_action(dist, timestep, explore)


def rows(*inputs: float, number: int = ROWS) -> np.ndarray:
    return np.tile(np.array(inputs, np.float32), (number, 1))


def assert_reported_as_drawn(actions: np.ndarray, log_probs: np.ndarray, expected: dict) -> None:
    """Each action has the expected log-probability, and is drawn as often as that says."""
    for action, probability in expected.items():
        is_it = actions == action
        assert is_it.mean() == pytest.approx(probability, abs=4 * 0.5 / math.sqrt(len(actions)))
        assert_allclose(log_probs[is_it], math.log(probability), rtol=1e-5)
    assert set(np.unique(actions)) <= expected.keys()


# Epsilon-greedy


def test_epsilon_greedy_reports_the_probability_of_its_rule():
    actions, log_probs = drawn(
        EpsilonGreedy(initial_epsilon=0.3), spaces.Discrete(3), Categorical(rows(0.0, 5.0, 1.0))
    )
    assert_reported_as_drawn(actions, log_probs, {0: 0.1, 1: 0.8, 2: 0.1})


@pytest.mark.parametrize("masked", [NO_ACTION, float(np.finfo(np.float32).min)])
def test_masked_actions_take_no_share_of_the_random_ones(masked):
    # Two of four are valid: the random share of 0.4 is theirs alone.
    actions, log_probs = drawn(
        EpsilonGreedy(initial_epsilon=0.4),
        spaces.Discrete(4),
        Categorical(rows(masked, 1.0, 2.0, masked)),
    )
    assert_reported_as_drawn(actions, log_probs, {1: 0.2, 2: 0.8})


def test_each_row_has_its_own_mask():
    inputs = np.concatenate([rows(1.0, 0.0, 2.0), rows(1.0, 0.0, NO_ACTION)])
    actions, log_probs = drawn(
        EpsilonGreedy(initial_epsilon=0.6), spaces.Discrete(3), Categorical(inputs)
    )
    assert_reported_as_drawn(actions[:ROWS], log_probs[:ROWS], {0: 0.2, 1: 0.2, 2: 0.6})
    assert_reported_as_drawn(actions[ROWS:], log_probs[ROWS:], {0: 0.7, 1: 0.3})


def test_a_single_valid_action_is_certain():
    actions, log_probs = drawn(
        EpsilonGreedy(), spaces.Discrete(2), Categorical(rows(NO_ACTION, -7.0, number=50))
    )
    assert_array_equal(actions, 1)
    assert_array_equal(log_probs, 0.0)


def test_of_equally_good_actions_the_first_is_the_greedy_one():
    actions, log_probs = drawn(
        EpsilonGreedy(initial_epsilon=0.3), spaces.Discrete(3), Categorical(rows(2.0, 2.0, 2.0))
    )
    assert_reported_as_drawn(actions, log_probs, {0: 0.8, 1: 0.1, 2: 0.1})


@pytest.mark.parametrize("nothing", [NO_ACTION, np.nan])
def test_a_row_without_a_valid_action_is_an_error(nothing):
    inputs = np.array([[1.0, 2.0], [nothing, nothing]], np.float32)
    with pytest.raises(RlrunError, match=r"No action may be taken .* a mask must leave"):
        drawn(EpsilonGreedy(), spaces.Discrete(2), Categorical(inputs))


# Random actions


def random_start(**settings) -> StochasticSampling:
    return StochasticSampling(random_timesteps=100, **settings)


def test_random_timesteps_are_uniform_and_report_that_and_then_the_policy_acts():
    dist = Categorical(rows(9.0, 0.0, 0.0, 0.0))
    actions, log_probs = drawn(random_start(), spaces.Discrete(4), dist, timestep=99)
    assert_reported_as_drawn(actions, log_probs, dict.fromkeys(range(4), 0.25))
    actions, log_probs = drawn(random_start(), spaces.Discrete(4), dist, timestep=100)
    assert (actions == 0).mean() > 0.99
    assert_allclose(log_probs, dist.log_prob(actions), rtol=1e-4)


def test_random_timesteps_leave_masked_actions_out():
    dist = Categorical(rows(9.0, NO_ACTION, 0.0))
    actions, log_probs = drawn(random_start(), spaces.Discrete(3), dist)
    assert_reported_as_drawn(actions, log_probs, {0: 0.5, 2: 0.5})


def test_random_actions_of_several_dimensions_multiply_their_probabilities():
    dist = MultiCategorical(rows(5.0, 0.0, 1.0, NO_ACTION, 0.0, 3.0, 0.0), [2, 5])
    actions, log_probs = drawn(random_start(), spaces.MultiDiscrete([2, 5]), dist)
    assert actions.shape == (ROWS, 2)
    assert_allclose(log_probs, -math.log(2 * 4), rtol=1e-6)
    assert_allclose([(actions[:, 0] == k).mean() for k in range(2)], 0.5, atol=0.02)
    shares = [(actions[:, 1] == k).mean() for k in range(5)]
    assert_allclose(shares, [0.25, 0.0, 0.25, 0.25, 0.25], atol=0.02)


@pytest.mark.parametrize(
    ("normalize_actions", "low", "high"), [(True, -1.0, 1.0), (False, [-2.0, 0.0], [2.0, 10.0])]
)
def test_random_vectors_fill_the_policys_space_and_report_their_density(
    normalize_actions, low, high
):
    env_space = spaces.Box(np.array([-2, 0], np.float32), np.array([2, 10], np.float32))
    space = ActionConverter(env_space, normalize_actions=normalize_actions).policy_space
    actions, log_probs = drawn(random_start(), space, DiagGaussian(rows(0, 0, 0, 0)))
    assert actions.dtype == log_probs.dtype == np.float32
    assert_allclose(actions.min(0), np.broadcast_to(low, 2), atol=0.01)
    assert_allclose(actions.max(0), np.broadcast_to(high, 2), atol=0.01)
    volume = np.prod(np.broadcast_to(np.subtract(high, low), 2))
    assert_allclose(log_probs, -math.log(volume), rtol=1e-6)


def test_random_numbers_without_bounds_follow_gymnasiums_sample():
    low = np.array([-np.inf, 1.0, -np.inf, 3.0], np.float32)
    high = np.array([np.inf, np.inf, 2.0, 3.0], np.float32)
    actions, log_probs = drawn(
        random_start(), spaces.Box(low, high), DiagGaussian(rows(*[0.0] * 8))
    )
    normal, above, below, constant = actions.T.astype(np.float64)
    assert (normal.mean(), normal.std()) == pytest.approx((0.0, 1.0), abs=0.03)
    assert (above.min(), above.mean()) == pytest.approx((1.0, 2.0), abs=0.03)
    assert (below.max(), below.mean()) == pytest.approx((2.0, 1.0), abs=0.03)
    assert_array_equal(constant, 3.0)
    expected = -0.5 * normal**2 - 0.5 * math.log(2 * math.pi) - (above - 1.0) - (2.0 - below)
    assert_allclose(log_probs, expected, atol=1e-5)


@pytest.mark.parametrize("exploration", [random_start(), StochasticSampling()])
def test_without_exploration_the_mode_is_certain(exploration):
    dist = Categorical(rows(0.0, 2.0, 1.0, number=5))
    actions, log_probs = drawn(exploration, spaces.Discrete(3), dist, explore=False)
    assert_array_equal(actions, 1)
    assert_array_equal(log_probs, 0.0)


def test_random_timesteps_are_not_negative():
    with pytest.raises(ConfigError, match=r"exploration\.random_timesteps=-1"):
        StochasticSampling(random_timesteps=-1)
