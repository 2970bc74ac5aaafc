from __future__ import annotations

import numpy as np
import pytest

from rlrun.core.returns import generalized_advantages, n_step_transitions

NEVER = np.zeros(3, bool)
COLUMNS = ("rewards", "values", "next_values", "terminated", "truncated")


def random_trajectory(
    seed: int, shape: tuple[int, ...], end_rate: float = 0.3
) -> dict[str, np.ndarray]:
    """A trajectory [T, ...] whose next_values are the next row's values inside an episode."""
    rng = np.random.default_rng(seed)
    ends = rng.random(shape) < end_rate
    terminated = ends & (rng.random(shape) < 0.5)
    values = rng.normal(size=shape).astype(np.float32)
    next_values = rng.normal(size=shape).astype(np.float32)
    next_values[:-1] = np.where(ends[:-1], next_values[:-1], values[1:])
    return {
        "rewards": rng.normal(size=shape).astype(np.float32),
        "values": values,
        "next_values": next_values,
        "terminated": terminated,
        "truncated": ends & ~terminated,
    }


def advantages_of(trajectory, gamma, gae_lambda):
    return generalized_advantages(*(trajectory[name] for name in COLUMNS), gamma, gae_lambda)


def summed_deltas(trajectory, gamma, gae_lambda):
    """Equation 16 as the sum it is, for one [T] trajectory, in float64."""
    rewards, values, next_values, terminated, truncated = (
        np.asarray(trajectory[name], np.float64) for name in COLUMNS
    )
    deltas = rewards + gamma * next_values * (1 - terminated) - values
    advantages = []
    for start in range(len(rewards)):
        total = 0.0
        for step in range(start, len(rewards)):
            total += (gamma * gae_lambda) ** (step - start) * deltas[step]
            if terminated[step] or truncated[step]:
                break
        advantages.append(total)
    return np.array(advantages)


def test_gae_of_three_steps_is_what_equation_16_gives_by_hand():
    advantages, value_targets = generalized_advantages(
        np.array([1.0, 2.0, 3.0]),
        np.array([4.0, 5.0, 6.0]),
        np.array([5.0, 6.0, 8.0]),
        NEVER,
        NEVER,
        0.5,
        0.5,
    )
    # delta = [1 + 5/2 - 4, 2 + 6/2 - 5, 3 + 8/2 - 6] = [-0.5, 0, 1], each later one times 1/4.
    np.testing.assert_allclose(advantages, [-0.5 + 0.0 + 1 / 16, 0.0 + 1 / 4, 1.0])
    np.testing.assert_allclose(value_targets, [4 - 0.4375, 5 + 0.25, 6 + 1])
    assert advantages.dtype == value_targets.dtype == np.float32


def test_gae_bootstraps_at_truncation_but_not_at_termination():
    rewards, values = np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0])
    next_values = np.array([5.0, 20.0, 8.0])
    middle = np.array([False, True, False])
    cut, _ = generalized_advantages(rewards, values, next_values, NEVER, middle, 0.5, 0.5)
    # delta_1 = 2 + 20/2 - 5 = 7, and nothing of delta_2 = 1 comes back past the cut.
    np.testing.assert_allclose(cut, [-0.5 + 7 / 4, 7.0, 1.0])
    ended, _ = generalized_advantages(rewards, values, next_values, middle, NEVER, 0.5, 0.5)
    # delta_1 = 2 - 5 = -3: the state after a termination is worth nothing.
    np.testing.assert_allclose(ended, [-0.5 - 3 / 4, -3.0, 1.0])


def test_gae_does_not_bootstrap_where_a_step_both_terminated_and_was_truncated():
    last = np.array([False, False, True])
    both, _ = generalized_advantages(
        np.ones(3), np.zeros(3), np.array([0.0, 0.0, 100.0]), last, last, 1.0, 1.0
    )
    np.testing.assert_allclose(both, [3.0, 2.0, 1.0])


def test_gae_reads_every_next_value_but_that_of_a_termination():
    trajectory = random_trajectory(3, (6,), end_rate=0.0)
    trajectory["terminated"][3] = True
    finite, _ = advantages_of(trajectory, 0.9, 0.8)
    trajectory["next_values"][3] = 1e30
    changed, _ = advantages_of(trajectory, 0.9, 0.8)
    np.testing.assert_array_equal(changed, finite)
    trajectory["next_values"][2] += 1.0
    moved, _ = advantages_of(trajectory, 0.9, 0.8)
    assert moved[2] == pytest.approx(finite[2] + 0.9, abs=1e-5)
    assert moved[1] == pytest.approx(finite[1] + 0.9 * 0.8 * 0.9, abs=1e-5)
    np.testing.assert_array_equal(moved[3:], finite[3:])


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(0.99, 0.95), (0.9, 0.3), (1.0, 1.0), (0.5, 0)])
def test_gae_equals_the_explicit_sum_over_each_episode(gamma, gae_lambda):
    trajectory = random_trajectory(0, (40,), end_rate=0.15)
    assert trajectory["terminated"].any()
    assert trajectory["truncated"].any()
    advantages, value_targets = advantages_of(trajectory, gamma, gae_lambda)
    expected = summed_deltas(trajectory, gamma, gae_lambda)
    np.testing.assert_allclose(advantages, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(value_targets, expected + trajectory["values"], rtol=1e-4, atol=1e-5)


def test_gae_with_lambda_one_is_the_monte_carlo_return_minus_the_value():
    trajectory = random_trajectory(1, (30,), end_rate=0.2)
    advantages, value_targets = advantages_of(trajectory, 0.9, 1.0)
    returns = np.zeros(30)
    for start in range(30):
        for step in range(start, 30):
            returns[start] += 0.9 ** (step - start) * trajectory["rewards"][step]
            over = trajectory["terminated"][step]
            if over or trajectory["truncated"][step] or step == 29:
                bootstrap = 0.0 if over else trajectory["next_values"][step]
                returns[start] += 0.9 ** (step - start + 1) * bootstrap
                break
    np.testing.assert_allclose(value_targets, returns, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(advantages, returns - trajectory["values"], rtol=1e-4, atol=1e-5)


def test_gae_with_lambda_zero_is_the_one_step_td_error():
    trajectory = random_trajectory(2, (30, 2))
    advantages, value_targets = advantages_of(trajectory, 0.9, 0.0)
    target = trajectory["rewards"] + 0.9 * trajectory["next_values"] * ~trajectory["terminated"]
    np.testing.assert_allclose(value_targets, target, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(advantages, target - trajectory["values"], rtol=1e-5, atol=1e-6)


def test_gae_of_one_env_equals_its_column_among_many():
    trajectory = random_trajectory(4, (20, 3, 2))
    together, targets = advantages_of(trajectory, 0.99, 0.95)
    assert together.shape == targets.shape == (20, 3, 2)
    for env in np.ndindex(3, 2):
        alone = {name: column[(slice(None), *env)] for name, column in trajectory.items()}
        advantages, value_targets = advantages_of(alone, 0.99, 0.95)
        np.testing.assert_allclose(together[(slice(None), *env)], advantages, rtol=1e-6)
        np.testing.assert_allclose(targets[(slice(None), *env)], value_targets, rtol=1e-6)


@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_gae_of_two_episodes_in_one_trajectory_equals_each_alone(ending):
    trajectory = random_trajectory(5, (12,), end_rate=0.0)
    trajectory[ending][4] = True
    whole, _ = advantages_of(trajectory, 0.95, 0.9)
    parts = [
        advantages_of({name: column[rows] for name, column in trajectory.items()}, 0.95, 0.9)[0]
        for rows in (slice(0, 5), slice(5, 12))
    ]
    np.testing.assert_allclose(whole, np.concatenate(parts), rtol=1e-6)


def test_gae_leaves_its_inputs_as_they_were():
    trajectory = random_trajectory(6, (8, 2))
    before = {name: column.copy() for name, column in trajectory.items()}
    advantages_of(trajectory, 0.9, 0.9)
    for name, column in trajectory.items():
        np.testing.assert_array_equal(column, before[name])


def test_n_step_windows_are_summed_by_hand():
    ends = np.array([False, False, True, False, False, False])
    never = np.zeros(6, bool)
    rewards = np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0])
    returns, last, discounts = n_step_transitions(rewards, ends, never, 0.5, 3)
    # Windows 0-2 (whole), 1-2 and 2-2 (cut by the end of step 2), 3-5 (whole).
    np.testing.assert_allclose(returns, [1 + 1 + 1, 2 + 2, 4, 8 + 8 + 8])
    np.testing.assert_array_equal(last, [2, 2, 2, 5])
    np.testing.assert_allclose(discounts, [1 / 8, 1 / 4, 1 / 2, 1 / 8])
    assert (returns.dtype, last.dtype, discounts.dtype) == (np.float32, np.int64, np.float32)


@pytest.mark.parametrize("ending", ["terminated", "truncated"])
def test_n_step_window_stops_at_either_kind_of_ending(ending):
    flags = {"terminated": np.zeros(4, bool), "truncated": np.zeros(4, bool)}
    flags[ending][1] = True
    returns, last, discounts = n_step_transitions(
        np.ones(4), flags["terminated"], flags["truncated"], 0.5, 2
    )
    np.testing.assert_allclose(returns, [1.5, 1.0, 1.5])
    np.testing.assert_array_equal(last, [1, 1, 3])
    np.testing.assert_allclose(discounts, [0.25, 0.5, 0.25])


@pytest.mark.parametrize("n_step", [1, 2, 3, 5, 12])
def test_n_step_transitions_equal_a_loop_over_steps(n_step):
    trajectory = random_trajectory(7, (12, 3), end_rate=0.25)
    rewards, terminated, truncated = (
        trajectory[name] for name in ("rewards", "terminated", "truncated")
    )
    returns, last, discounts = n_step_transitions(rewards, terminated, truncated, 0.9, n_step)
    assert returns.shape == last.shape == discounts.shape == (12 - n_step + 1, 3)
    for start, env in np.ndindex(12 - n_step + 1, 3):
        total, step = 0.0, start
        for step in range(start, start + n_step):
            total += 0.9 ** (step - start) * float(rewards[step, env])
            if terminated[step, env] or truncated[step, env]:
                break
        assert returns[start, env] == pytest.approx(total, abs=1e-5)
        assert last[start, env] == step
        assert discounts[start, env] == pytest.approx(0.9 ** (step - start + 1), rel=1e-5)


def test_one_step_transitions_are_the_steps_themselves():
    trajectory = random_trajectory(8, (9, 2))
    returns, last, discounts = n_step_transitions(
        trajectory["rewards"], trajectory["terminated"], trajectory["truncated"], 0.97, 1
    )
    np.testing.assert_array_equal(returns, trajectory["rewards"])
    np.testing.assert_array_equal(last, np.tile(np.arange(9)[:, None], (1, 2)))
    np.testing.assert_allclose(discounts, np.full((9, 2), 0.97), rtol=1e-6)


def test_n_step_columns_of_one_env_equal_its_column_among_many():
    trajectory = random_trajectory(9, (15, 4))
    names = ("rewards", "terminated", "truncated")
    together = n_step_transitions(*(trajectory[name] for name in names), 0.9, 4)
    for env in range(4):
        alone = n_step_transitions(*(trajectory[name][:, env] for name in names), 0.9, 4)
        for several, one in zip(together, alone, strict=True):
            np.testing.assert_allclose(several[:, env], one, rtol=1e-6)


def test_n_step_gives_no_rows_where_the_trajectory_is_too_short_for_one_window():
    returns, last, discounts = n_step_transitions(
        np.ones((3, 2)), *[np.zeros((3, 2), bool)] * 2, 1, 4
    )
    assert returns.shape == last.shape == discounts.shape == (0, 2)


@pytest.mark.parametrize("n_step", [0, -1])
def test_n_step_below_one_is_an_error(n_step):
    with pytest.raises(ValueError, match="n_step"):
        n_step_transitions(np.ones(3), NEVER, NEVER, 0.9, n_step)
