from __future__ import annotations

import math

import numpy as np
import pytest
from gymnasium import spaces
from numpy.testing import assert_allclose, assert_array_equal

from rlrun.core.actions import ActionConverter, Simplex
from rlrun.core.deterministic import Deterministic
from rlrun.core.distributions import Categorical, DiagGaussian, Distribution, MultiCategorical
from rlrun.core.errors import ConfigError, RlrunError, SpaceError
from rlrun.core.exploration import (
    EpsilonGreedy,
    GaussianNoise,
    OrnsteinUhlenbeckNoise,
    PerWorkerEpsilonGreedy,
    PerWorkerGaussianNoise,
    PerWorkerOrnsteinUhlenbeckNoise,
    Random,
    SoftQ,
    StochasticSampling,
)
from rlrun.core.exploration.per_worker import degrees

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


# Additive noise


BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
TWO = spaces.Discrete(2)


def continuous(*actions: float, number: int = ROWS) -> Deterministic:
    return Deterministic(rows(*actions, number=number))


def density(noise: np.ndarray, stddev: float) -> np.ndarray:
    """Of independent normal noise [N, d]."""
    terms = -0.5 * (noise / stddev) ** 2 - math.log(stddev * math.sqrt(2.0 * math.pi))
    return terms.sum(-1)


def test_gaussian_noise_is_scaled_by_time_and_reports_its_density():
    noise = GaussianNoise(stddev=0.1, random_timesteps=0, final_scale=0.5, scale_timesteps=100)
    for timestep, stddev in ((0, 0.1), (50, 0.075), (1000, 0.05)):
        actions, log_probs = drawn(noise, BOX, continuous(0.1, -0.2), timestep)
        added = actions - np.array([0.1, -0.2], np.float32)
        assert added.std(0) == pytest.approx(stddev, rel=0.03)
        assert added.mean(0) == pytest.approx(0.0, abs=4 * stddev / math.sqrt(ROWS))
        assert_allclose(log_probs, density(added, stddev), atol=1e-3)
        assert actions.dtype == log_probs.dtype == np.float32


@pytest.mark.parametrize("kind", [GaussianNoise, OrnsteinUhlenbeckNoise])
def test_the_fall_of_noise_begins_when_random_actions_end(kind):
    noise = kind(random_timesteps=100, initial_scale=1.0, final_scale=0.5, scale_timesteps=10)
    assert [noise.scale(timestep, 1) for timestep in (100, 105, 110, 999)] == [1.0, 0.75, 0.5, 0.5]


def test_ornstein_uhlenbeck_noise_that_loses_all_is_gaussian_noise():
    noise = OrnsteinUhlenbeckNoise(
        ou_theta=1.0, ou_sigma=0.1, ou_base_scale=0.5, random_timesteps=0, final_scale=1.0
    ).for_worker(action_space=BOX, rng=np.random.default_rng(3))
    noise.get_exploration_action(continuous(0.0, 0.0, number=ROWS), 0)
    actions, log_probs = noise.get_exploration_action(continuous(0.0, 0.0, number=ROWS), 99)
    assert actions.std(0) == pytest.approx(0.1, rel=0.03)
    assert_allclose(log_probs, density(actions, 0.1), atol=1e-3)


def test_noise_is_clipped_to_the_bounds():
    actions, _ = drawn(GaussianNoise(random_timesteps=0), BOX, continuous(1.0, -1.0))
    assert actions.max() == 1.0
    assert actions.min() == -1.0
    assert 0.4 < (actions[:, 0] == 1.0).mean() < 0.6


def test_noise_of_scale_0_is_the_mode_for_certain():
    noise = GaussianNoise(random_timesteps=0, scale_schedule=0.0)
    actions, log_probs = drawn(noise, BOX, continuous(0.3, 0.4, number=5))
    assert_array_equal(actions, rows(0.3, 0.4, number=5))
    assert_array_equal(log_probs, 0.0)


@pytest.mark.parametrize("kind", [GaussianNoise, OrnsteinUhlenbeckNoise])
def test_noise_is_only_added_when_exploring_and_after_the_random_steps(kind):
    noise = kind(random_timesteps=10)
    modes, log_probs = drawn(noise, BOX, continuous(0.3, 0.4), 20, explore=False)
    assert_array_equal(modes, rows(0.3, 0.4))
    assert_array_equal(log_probs, 0.0)
    uniform, log_probs = drawn(noise, BOX, continuous(0.3, 0.4), 9)
    assert uniform.std(0) == pytest.approx(2.0 / math.sqrt(12.0), rel=0.03)
    assert_allclose(log_probs, -2.0 * math.log(2.0), rtol=1e-6)


def test_ornstein_uhlenbeck_noise_follows_its_recursion():
    noise = OrnsteinUhlenbeckNoise(
        ou_theta=0.5, ou_sigma=0.4, ou_base_scale=0.1, random_timesteps=0, scale_schedule=0.5
    ).for_worker(action_space=BOX, rng=np.random.default_rng(3))
    twin = np.random.default_rng(3)
    x = np.zeros((4, 2))
    for step in range(5):
        normal = twin.standard_normal((4, 2), dtype=np.float32)
        x = 0.5 * x + 0.4 * normal
        actions, log_probs = noise.get_exploration_action(continuous(0.0, 0.1, number=4), step)
        # Bounds are 2 wide.
        assert_allclose(actions, rows(0.0, 0.1, number=4) + 0.5 * 0.1 * 2.0 * x, atol=1e-6)
        assert_allclose(log_probs, density(0.04 * normal, 0.04), atol=1e-5)
        if step == 2:
            ended = np.array([False, True, False, True])
            noise.reset(ended)
            x[ended] = 0.0


def test_ornstein_uhlenbeck_noise_goes_on_where_it_was_saved():
    def made() -> OrnsteinUhlenbeckNoise:
        noise = OrnsteinUhlenbeckNoise(random_timesteps=0)
        return noise.for_worker(action_space=BOX, rng=np.random.default_rng(3))

    one, other = made(), made()
    for _ in range(3):
        one.get_exploration_action(continuous(0.0, 0.0, number=2), 0)
    other.load_state_dict(one.state_dict())
    other.rng.bit_generator.state = one.rng.bit_generator.state
    found = [
        each.get_exploration_action(continuous(0.0, 0.0, number=2), 0) for each in (one, other)
    ]
    assert_array_equal(found[0][0], found[1][0])


@pytest.mark.parametrize("space", [spaces.Discrete(2), Simplex(3), spaces.MultiBinary(2)])
def test_noise_needs_continuous_actions(space):
    with pytest.raises(SpaceError, match="adds noise to continuous actions"):
        GaussianNoise().for_worker(action_space=space, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (GaussianNoise, {"stddev": 0.0}),
        (GaussianNoise, {"random_timesteps": -1}),
        (GaussianNoise, {"initial_scale": math.nan}),
        (GaussianNoise, {"scale_schedule": -1.0}),
        (OrnsteinUhlenbeckNoise, {"ou_sigma": 0.0}),
        (OrnsteinUhlenbeckNoise, {"ou_theta": -0.1}),
        (SoftQ, {"temperature": 0.0}),
        (SoftQ, {"random_timesteps": -1}),
    ],
)
def test_values_out_of_range_are_refused(kind, given):
    with pytest.raises(ConfigError, match=f"exploration.{next(iter(given))}"):
        kind(**given)


# Per worker


def test_each_env_of_each_worker_has_its_own_epsilon():
    """0.4 ** (1 + 7 i / (N - 1)) of the paper for i = 0 .. 3 of N = 4: two workers of two envs."""
    expected = [0.4**1, 0.4 ** (1 + 7 / 3), 0.4 ** (1 + 14 / 3), 0.4**8]
    found = []
    for worker_index in (1, 2):
        epsilon = PerWorkerEpsilonGreedy().for_worker(
            action_space=spaces.Discrete(2),
            rng=np.random.default_rng(worker_index),
            worker_index=worker_index,
            num_workers=2,
        )
        draws = [
            epsilon.get_exploration_action(Categorical(rows(1.0, 0.0, number=2)), step)
            for step in range(ROWS)
        ]
        found += list(np.mean([actions for actions, _ in draws], axis=0))
        for actions, log_probs in draws[:50]:
            shares = np.array(expected[2 * worker_index - 2 : 2 * worker_index])
            probabilities = np.where(actions == 0, 1.0 - shares / 2, shares / 2)
            assert_allclose(log_probs, np.log(probabilities), rtol=1e-5)
    assert found == pytest.approx([share / 2 for share in expected], abs=0.01)


def test_a_worker_that_is_alone_explores_most():
    epsilon = PerWorkerEpsilonGreedy()
    actions, _ = drawn(epsilon, spaces.Discrete(2), Categorical(rows(1.0, 0.0, number=1)))
    assert degrees(epsilon.for_worker(action_space=TWO, rng=np.random.default_rng(0)), 1) == 0.4
    modes, log_probs = drawn(epsilon, TWO, Categorical(rows(1.0, 0.0)), explore=False)
    assert actions.shape == (1,)
    assert_array_equal(modes, 0)
    assert_array_equal(log_probs, 0.0)


@pytest.mark.parametrize("kind", [PerWorkerGaussianNoise, PerWorkerOrnsteinUhlenbeckNoise])
def test_each_env_has_its_own_scale_of_noise(kind):
    noise = kind(random_timesteps=0).for_worker(
        action_space=BOX, rng=np.random.default_rng(0), worker_index=1, num_workers=2
    )
    first = []
    for step in range(2000):
        actions, _ = noise.get_exploration_action(continuous(0.0, 0.0, number=2), 10**6 + step)
        first.append(actions)
        noise.reset(np.ones(2, bool))
    spread = np.std(first, axis=(0, 2))
    assert spread[0] / spread[1] == pytest.approx(0.4 ** (-7 / 3), rel=0.1)


# Soft Q, random


def test_soft_q_draws_by_values_over_the_temperature():
    dist = Categorical(rows(1.0, 2.0, NO_ACTION))
    actions, log_probs = drawn(SoftQ(temperature=0.5), spaces.Discrete(3), dist)
    better = math.exp(4.0) / (math.exp(2.0) + math.exp(4.0))
    assert_reported_as_drawn(actions, log_probs, {0: 1.0 - better, 1: better})
    modes, _ = drawn(SoftQ(temperature=0.5), spaces.Discrete(3), dist, explore=False)
    assert_array_equal(modes, 1)


def test_soft_q_softens_each_part_of_several_discrete_actions():
    dist = MultiCategorical(rows(0.0, 2.0, 1.0, 0.0, 0.0), [2, 3])
    actions, log_probs = drawn(SoftQ(temperature=2.0), spaces.MultiDiscrete([2, 3]), dist)
    first = math.e / (1.0 + math.e)
    second = math.exp(0.5) / (math.exp(0.5) + 2.0)
    assert (actions[:, 0] == 1).mean() == pytest.approx(first, abs=0.015)
    is_it = (actions == [1, 0]).all(-1)
    assert_allclose(log_probs[is_it], math.log(first * second), rtol=1e-5)


def test_random_has_nothing_to_do_with_the_policy():
    dist = Categorical(rows(9.0, 0.0, NO_ACTION))
    actions, log_probs = drawn(Random(), spaces.Discrete(3), dist, timestep=10**9)
    assert_reported_as_drawn(actions, log_probs, {0: 0.5, 1: 0.5})
    modes, _ = drawn(Random(), spaces.Discrete(3), dist, explore=False)
    assert_array_equal(modes, 0)
