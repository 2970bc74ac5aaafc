"""The maths of ES and ARS: ranks, gradient estimates, steps by hand, the noise table."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun.algos.ars import ARS
from rlrun.algos.es import ES
from rlrun.core.batch import Batch
from rlrun.core.distributions import Categorical, DiagGaussian
from rlrun.core.errors import ConfigError
from rlrun.core.evolution import antithetic_weights, centered_ranks, top_direction_weights
from rlrun.core.exploration import StochasticSampling
from rlrun.core.networks import MLP
from rlrun.core.noise_table import NoiseTable, shared_noise_table
from rlrun.core.optim import FlatSGD
from rlrun.core.search_policy import CertainChoice, SearchPolicy

# Ranks and weights


def test_ranks_are_centered_and_equal_returns_share_theirs():
    returns = np.array([[3.0, -1.0], [7.0, 3.0], [0.0, 3.0]])
    # In order: -1 (rank 0), 0 (1), 3 three times (2, 3, 4: mean 3), 7 (5); of 5, less a half.
    expected = np.array([[0.1, -0.5], [0.5, 0.1], [-0.3, 0.1]])
    np.testing.assert_allclose(centered_ranks(returns), expected, atol=1e-12)


def test_ranks_do_not_see_how_far_returns_lie_apart():
    returns = np.random.default_rng(0).normal(size=(20, 2))
    np.testing.assert_array_equal(centered_ranks(np.exp(5 * returns)), centered_ranks(returns))
    assert centered_ranks(returns).sum() == pytest.approx(0.0, abs=1e-9)
    assert (centered_ranks(np.full((4, 2), 500.0)) == 0.0).all()


def test_antithetic_weights_by_hand():
    shaped = np.array([[1.0, 3.0], [0.5, -0.5]])
    np.testing.assert_array_equal(antithetic_weights(shaped), [-0.5, 0.25])


def test_the_estimate_is_the_gradient_of_a_quadratic():
    # F(x) = -x'Ax / 2 + b'x has the gradient b - Ax, and smoothing by Gaussians keeps it.
    rng = np.random.default_rng(0)
    root = rng.normal(size=(3, 3))
    matrix, vector, point = root @ root.T, rng.normal(size=3), rng.normal(size=3)
    table, sigma = NoiseTable(3, 100_000), 0.1
    indices = table.draw_indices(rng, 20_000, 3)
    noise = np.stack([table.piece(index, 3).numpy() for index in indices]).astype(np.float64)

    def value(x: np.ndarray) -> np.ndarray:
        return -0.5 * np.einsum("ni,ij,nj->n", x, matrix, x) + x @ vector

    returns = np.stack([value(point + sigma * noise), value(point - sigma * noise)], axis=1)
    estimate = table.weighted_sum(antithetic_weights(returns), indices, 3).numpy() / sigma
    gradient = vector - matrix @ point
    assert np.linalg.norm(estimate - gradient) < 0.05 * np.linalg.norm(gradient)


def test_top_directions_by_hand():
    returns = np.array([[1.0, 2.0], [9.0, 4.0], [3.0, 5.0], [0.0, 0.0]])
    # The better ones are 2, 9, 5, 0: directions 1 and 2 count. Their returns 9, 4, 3, 5 have the
    # mean 5.25 and the variance (14.0625 + 1.5625 + 5.0625 + 0.0625) / 4 = 5.1875.
    deviation = 5.1875**0.5
    expected = [0.0, 5 / (2 * deviation), -2 / (2 * deviation), 0.0]
    np.testing.assert_allclose(top_direction_weights(returns, 2), expected)


def test_directions_that_all_return_the_same_give_no_step():
    assert (top_direction_weights(np.full((3, 2), 500.0), 2) == 0.0).all()


# The noise table


def test_a_noise_table_follows_from_its_seed_and_travels_as_that():
    table = NoiseTable(5, 1000)
    assert torch.equal(table.values, NoiseTable(5, 1000).values)
    assert not torch.equal(table.values, NoiseTable(6, 1000).values)
    expected = np.random.default_rng(5).standard_normal(1000, dtype=np.float32)
    np.testing.assert_array_equal(table.values.numpy(), expected)
    # Other processes make their own.
    travelling = pickle.dumps(table)
    assert len(travelling) < 200
    assert torch.equal(pickle.loads(travelling).values, table.values)


def test_a_process_has_one_table_as_long_as_somebody_holds_it():
    table = shared_noise_table(7, 100)
    assert shared_noise_table(7, 100) is table
    assert copy.copy(table) is table
    assert shared_noise_table(7, 101) is not table


def test_pieces_begin_everywhere_and_end_within_the_table():
    table, rng = NoiseTable(0, 12), np.random.default_rng(0)
    indices = table.draw_indices(rng, 1000, 10)
    assert set(indices.tolist()) == {0, 1, 2}
    assert {len(table.piece(index, 10)) for index in indices} == {10}


def test_a_weighted_sum_of_pieces():
    table = NoiseTable(0, 50)
    found = table.weighted_sum(np.array([2.0, -0.5, 1.0]), np.array([3, 0, 3]), 4)
    expected = 3.0 * table.values[3:7] - 0.5 * table.values[0:4]
    torch.testing.assert_close(found, expected)


# One step of a learner


def learner(algorithm: Any) -> Any:
    """A learner with a linear policy of 3 inputs and 2 actions: 8 weights."""
    torch.manual_seed(0)
    space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    policy = algorithm.make_policy(space, spaces.Discrete(2), MLP(fcnet_hiddens=[]))
    algorithm.setup(policy, torch.device("cpu"), 1)
    return algorithm


def tried(returns: list[list[float]], lengths: list[list[int]] | None = None) -> Batch:
    """Directions that begin at 0, 10, 20 ... in the noise table."""
    count = np.array(returns)
    return Batch(
        noise_index=10 * np.arange(len(returns)),
        returns=count,
        lengths=np.ones(count.shape, np.int64) if lengths is None else np.array(lengths),
    )


def noise_of(algorithm: Any) -> np.ndarray:
    table = NoiseTable(algorithm.noise_seed, algorithm.noise_size).values.numpy()
    return np.stack([table[start : start + 8] for start in (0, 10, 20)]).astype(np.float64)


RETURNS = [[1.0, 5.0], [8.0, 2.0], [3.0, 4.0]]


def test_a_step_of_ars_by_hand():
    ars = learner(
        ARS(sgd_stepsize=0.5, num_rollouts=3, rollouts_used=2, offset=0.5, noise_size=100)
    )
    before = ars.policy.flat.values.numpy().astype(np.float64)
    ars.learn_on_batch(tried(RETURNS, [[2, 2], [4, 2], [2, 8]]))
    # Less half of the lengths: (0, 4), (6, 1), (2, 0). The first two count: 0, 4, 6, 1 have the
    # mean 2.75 and the variance (7.5625 + 1.5625 + 10.5625 + 3.0625) / 4 = 5.6875.
    first, second, _ = noise_of(ars)
    step = 0.5 / (2 * 5.6875**0.5) * (-4 * first + 5 * second)
    np.testing.assert_allclose(ars.policy.flat.values.numpy(), before + step, rtol=1e-5)
    stats = ars.learner_stats.take()
    assert stats["weights_norm"] == pytest.approx(np.linalg.norm(before), rel=1e-5)
    assert stats["grad_norm"] == pytest.approx(np.linalg.norm(step / 0.5), rel=1e-5)
    ratio = np.linalg.norm(step) / np.linalg.norm(before)
    assert stats["update_ratio"] == pytest.approx(ratio, rel=1e-4)
    assert (stats["min_perturbed_return"], stats["max_perturbed_return"]) == (1.0, 8.0)
    assert stats["mean_perturbed_len"] == pytest.approx(20 / 6)
    assert stats["cur_sgd_stepsize"] == 0.5
    assert (ars.num_rows_trained, ars.num_updates, ars.num_perturbed_episodes) == (20, 1, 6)


@pytest.mark.parametrize("return_proc_mode", ["centered_rank", "sign"])
def test_a_step_of_es_by_sgd_by_hand(return_proc_mode):
    es = learner(
        ES(
            stepsize=[[0, 2.0], [100, 1.0]],
            opt_type="sgd",
            l2_coeff=0.1,
            return_proc_mode=return_proc_mode,
            noise_size=100,
        )
    )
    es.clock = lambda: 50
    before = es.policy.flat.values.numpy().astype(np.float64)
    returns = [[-1.0, 5.0], [8.0, 2.0], [3.0, 4.0]]
    es.learn_on_batch(tried(returns))
    # Ranks of 5: (0, 4), (5, 1), (2, 3). Signs: (-1, 1), (1, 1), (1, 1).
    ranked = np.array([-4, 4, -1]) / 5
    differences = ranked if return_proc_mode == "centered_rank" else np.array([-2.0, 0.0, 0.0])
    gradient = 0.1 * before - differences @ noise_of(es) / 6
    after = before - 1.5 * gradient
    np.testing.assert_allclose(es.policy.flat.values.numpy(), after, rtol=1e-5, atol=1e-7)


def test_es_steps_by_adam_unless_told_otherwise():
    es = learner(ES(l2_coeff=0.0, noise_size=100))
    before = es.policy.flat.values.clone()
    es.learn_on_batch(tried(RETURNS))
    # Adam's first step goes as far in every direction, uphill.
    uphill = (np.array([-4, 4, -1]) / 5) @ noise_of(es)
    moved = (es.policy.flat.values - before).numpy()
    np.testing.assert_allclose(moved, 0.01 * np.sign(uphill), rtol=1e-3)


def test_weights_decay_alone_where_returns_say_nothing():
    es = learner(ES(stepsize=0.1, opt_type="sgd", l2_coeff=0.5, noise_size=100))
    before = es.policy.flat.values.clone()
    es.learn_on_batch(tried([[500.0, 500.0]] * 3))
    torch.testing.assert_close(es.policy.flat.values, 0.95 * before)


def test_frozen_weights_stay():
    ars = learner(ARS(num_rollouts=3, rollouts_used=3, noise_size=100))
    ars.policy.head.bias.requires_grad_(False)
    bias, weight = ars.policy.head.bias.clone(), ars.policy.head.weight.clone()
    ars.learn_on_batch(tried(RETURNS))
    assert torch.equal(ars.policy.head.bias, bias)
    assert not torch.equal(ars.policy.head.weight, weight)


def test_sgd_is_a_step_along_the_gradient():
    ars = learner(ARS(noise_size=100))
    optimizer, before = FlatSGD(ars.policy.flat), ars.policy.flat.values.clone()
    gradient = torch.arange(8.0)
    optimizer.take_gradients(gradient)
    assert optimizer.apply_gradients(0.1) == pytest.approx(140.0**0.5)
    torch.testing.assert_close(ars.policy.flat.values, before - 0.1 * gradient)


def test_jobs_are_directions_and_then_some_episodes_with_the_weights_as_they_are():
    es = learner(ES(episodes_per_batch=41, eval_prob=0.1, noise_size=100))
    jobs = es.draw_jobs()
    places = [place for _, place in jobs]
    assert len(jobs) == 21 + 4
    assert all(0 <= place <= 92 for place in places[:21])
    assert places[21:] == [None] * 4
    assert len({seed for seed, _ in jobs}) == 25
    assert es.draw_jobs() != jobs
    rare = learner(ARS(num_rollouts=2, rollouts_used=1, eval_prob=0.0, noise_size=100))
    assert [place is None for _, place in rare.draw_jobs()] == [False, False, True]


# The policy


def test_a_policy_does_for_certain_what_its_network_says():
    inputs = np.array([[0.1, 0.3, 0.2], [2.0, 1.0, 0.0]], np.float32)
    choice = CertainChoice(Categorical(inputs), None)
    actions, log_probs = choice.sample(np.random.default_rng(0))
    assert actions.tolist() == choice.mode().tolist() == [1, 0]
    assert log_probs.tolist() == [0.0, 0.0]
    assert choice.inputs is inputs


def test_noise_on_actions_is_gaussian_and_its_density_is_told():
    means = np.zeros((20_000, 2), np.float32)
    means[:, 1] = 3.0
    gaussian = DiagGaussian(means, np.zeros(2, np.float32))
    choice = CertainChoice(gaussian, np.array([0.5, 0.0], np.float32))
    actions, log_probs = choice.sample(np.random.default_rng(0))
    assert (actions[:, 1] == 3.0).all()
    assert actions[:, 0].std() == pytest.approx(0.5, rel=0.02)
    expected = -0.5 * (actions[:, 0] / 0.5) ** 2 - np.log(0.5 * np.sqrt(2 * np.pi))
    np.testing.assert_allclose(log_probs, expected, rtol=1e-4, atol=1e-5)
    assert (choice.mode() == means).all()


def test_only_continuous_parts_of_an_action_get_noise():
    obs_space = spaces.Box(-1.0, 1.0, (3,), np.float32)
    parts = spaces.Tuple([spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,), np.float32)])
    policy = SearchPolicy(obs_space, parts, MLP(fcnet_hiddens=[4]), action_noise_std=0.25)
    obs = np.ones((500, 3), np.float32)
    dist, extras, state = policy.act(obs)
    assert (extras, state) == ({}, {})
    actions, _ = dist.sample(np.random.default_rng(0))
    modes = dist.mode()
    assert (actions[:, 0] == modes[:, 0]).all()
    assert (actions[:, 1:] - modes[:, 1:]).std(0) == pytest.approx(0.25, rel=0.1)
    # No weights for a Gaussian's width, nor for a value function.
    assert policy.flat.values.numel() == (3 * 4 + 4) + (4 * 5 + 5)


# Refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ARS(num_rollouts=2, rollouts_used=3), "exceeds algo.num_rollouts=2"),
        (lambda: ARS(rollouts_used=0), "algo.rollouts_used=0 must be at least 1"),
        (lambda: ES(episodes_per_batch=1), "algo.episodes_per_batch=1 must be at least 2"),
        (lambda: ES(noise_stdev=0.0), "algo.noise_stdev=0.0 must be at least"),
        (lambda: ES(stepsize=-1.0), "algo.stepsize=-1.0 must be at least 0"),
        (lambda: ARS(sgd_stepsize=-1.0), "algo.sgd_stepsize=-1.0 must be at least 0"),
        (lambda: ES(eval_prob=1.5), "algo.eval_prob=1.5 must be between 0 and 1"),
        (lambda: learner(ES(noise_size=7)), "less than the 8 weights"),
        (
            lambda: ES().check_exploration(StochasticSampling(random_timesteps=5)),
            "Use exploration=stochastic_sampling without random_timesteps",
        ),
        (lambda: ES().check_model(MLP(vf_share_layers=True)), "model.vf_share_layers=True has no"),
    ],
)
def test_what_has_no_meaning_is_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
