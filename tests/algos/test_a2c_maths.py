"""A2C's arithmetic against numbers worked out by hand, and an update written with torch alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from policy_gradient_reference import ACTION_SPACES, as_sequences, learner, train_batch

from rlrun.algos.a2c import A2C
from rlrun.core.batch import Batch
from rlrun.core.errors import BatchError, ConfigError


@pytest.fixture(autouse=True)
def own_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def test_advantages_are_those_of_n_steps():
    # Three steps without an end, gamma 1/2, and 8 behind them: 4 + 8/2 = 8; 2 + 8/2 = 6;
    # 1 + 6/2 = 4; all less the value 1.
    trajectory = Batch(
        rewards=np.array([[1.0], [2.0], [4.0]], np.float32),
        values=np.ones((3, 1), np.float32),
        next_values=np.array([[1.0], [1.0], [8.0]], np.float32),
        terminated=np.zeros((3, 1), bool),
        truncated=np.zeros((3, 1), bool),
    )
    rows = A2C(gamma=0.5).postprocess(None, trajectory)
    np.testing.assert_allclose(rows["value_targets"][:, 0], [4.0, 6.0, 8.0])
    np.testing.assert_allclose(rows["advantages"][:, 0], [3.0, 5.0, 7.0])


@pytest.mark.parametrize("kind", ACTION_SPACES)
@pytest.mark.parametrize("grad_clip", [0.5, None])
def test_an_update_equals_one_written_with_torch_alone(kind, grad_clip):
    algo, policy, reference = learner(
        A2C(lr=0.01, entropy_coeff=0.02, vf_coeff=0.7, grad_clip=grad_clip), kind
    )
    batch = train_batch(kind)
    norm = reference.grad(reference.losses(batch, 0.02, 0.7)["total_loss"]).norm().item()
    assert norm > 0.5
    losses = reference.losses(batch, 0.02, 0.7)
    reference.step(losses["total_loss"], 0.01, 1e-5, grad_clip)
    metrics = algo.learn(batch.to())
    reference.assert_equals(policy)
    for name, loss in losses.items():
        assert float(metrics[name]) == pytest.approx(loss.item(), rel=1e-4), name
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-4)
    assert (metrics["cur_lr"], metrics["entropy_coeff"]) == (0.01, 0.02)
    residuals = batch["value_targets"] - batch["values"]
    explained = 1 - residuals.var() / batch["value_targets"].var()
    assert float(metrics["vf_explained_var"]) == pytest.approx(max(explained, -1.0), rel=1e-4)


@pytest.mark.parametrize("microbatch_size", [1, 7, 8, 24])
@pytest.mark.parametrize("normalize_advantages", [False, True])
def test_gradients_of_microbatches_add_up_to_that_of_the_whole_batch(
    microbatch_size, normalize_advantages
):
    settings = {"normalize_advantages": normalize_advantages, "entropy_coeff": 0.1}
    algo, policy, _ = learner(A2C(**settings))
    batch = train_batch()
    expected_metrics = algo.compute_gradients(batch.to())
    expected = policy.flat.grad.clone()
    algo.set_hyperparameters(microbatch_size=microbatch_size)
    taken, forward = [], policy.forward

    def spy(rows: Batch):
        taken.append(rows.num_rows)
        return forward(rows)

    policy.forward = spy
    metrics = algo.compute_gradients(batch.to())
    torch.testing.assert_close(policy.flat.grad, expected, rtol=1e-4, atol=1e-6)
    assert metrics.keys() == expected_metrics.keys()
    for name, value in expected_metrics.items():
        assert float(metrics[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-5), name
    assert taken == [microbatch_size] * (24 // microbatch_size) + [3] * (microbatch_size == 7)


@pytest.mark.parametrize("microbatch_size", [None, 1, 9, 16, 24])
@pytest.mark.parametrize("normalize_advantages", [False, True])
def test_padding_moves_nothing(microbatch_size, normalize_advantages):
    settings = {"normalize_advantages": normalize_advantages, "entropy_coeff": 0.1}
    algo, policy, _ = learner(A2C(**settings))
    batch = train_batch()
    algo.compute_gradients(batch.to())
    expected = policy.flat.grad.clone()
    algo.set_hyperparameters(microbatch_size=microbatch_size)
    for filler in (0.0, 3.0):
        metrics = algo.compute_gradients(as_sequences(batch, [5, 8, 8, 1, 2], 8, filler).to())
        torch.testing.assert_close(policy.flat.grad, expected, rtol=1e-4, atol=1e-6)
        assert all(np.isfinite(float(value)) for value in metrics.values())


def test_schedules_are_read_at_the_timestep_of_now():
    algo, policy, reference = learner(
        A2C(lr=[[0, 0.02], [1000, 0.0]], entropy_coeff=[[0, 0.0], [1000, 0.1]])
    )
    algo.clock = lambda: 500
    batch = train_batch()
    reference.step(reference.losses(batch, 0.05, 0.5)["total_loss"], 0.01, 1e-5, 0.5)
    algo.learn(batch.to())
    reference.assert_equals(policy)


def test_a_batch_without_advantages_is_refused_by_name():
    algo, _, _ = learner(A2C())
    batch = train_batch()
    del batch["advantages"]
    with pytest.raises(BatchError, match="'advantages'"):
        algo.learn(batch.to())


def test_a_microbatch_larger_than_the_train_batch_is_refused():
    with pytest.raises(ConfigError, match=r"algo\.microbatch_size=50 exceeds algo\.train_batch"):
        A2C(microbatch_size=50)


@pytest.mark.parametrize(
    ("name", "value"),
    [("gae_lambda", 1.5), ("vf_coeff", -1.0), ("entropy_coeff", -0.1), ("microbatch_size", 0)],
)
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=rf"algo\.{name}={value}"):
        A2C(**{name: value})
