"""V-trace against the plain recursion of the paper, written here."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rlrun.core import returns
from rlrun.core.vtrace import vtrace

GAMMA = 0.9


def sequences(num_rows: int = 5, length: int = 7, seed: int = 0) -> dict[str, np.ndarray]:
    """Random sequences of different lengths, some of which end in termination."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, length + 1, num_rows)
    mask = np.arange(length) < lengths[:, None]
    terminated = np.zeros_like(mask)
    terminated[np.arange(num_rows), lengths - 1] = rng.random(num_rows) < 0.5
    columns = rng.normal(size=(4, num_rows, length)).astype(np.float32)
    names = ("log_ratios", "rewards", "values", "next_values")
    found = dict(zip(names, columns, strict=True))
    # What stands in the padding must not count.
    found["rewards"][~mask] = 1e6
    found["next_values"][:, :-1] = found["values"][:, 1:]
    return {**found, "terminated": terminated, "mask": mask}


def tensors(columns: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(column) for name, column in columns.items()}


def recursion(columns, rho, pg_rho, c):
    """Equation 1 of Espeholt et al. (2018) by remark 1, step by step, and section 4.2."""
    targets, advantages = np.zeros((2, *columns["mask"].shape))
    for row, length in enumerate(columns["mask"].sum(1)):
        x = {name: column[row, :length].astype(np.float64) for name, column in columns.items()}
        ratio = np.exp(x["log_ratios"])
        following, value_after = x["next_values"][-1], x["next_values"][-1]
        for t in reversed(range(length)):
            discount = 0.0 if x["terminated"][t] else GAMMA
            delta = min(rho, ratio[t]) * (x["rewards"][t] + discount * value_after - x["values"][t])
            advantages[row, t] = min(pg_rho, ratio[t]) * (
                x["rewards"][t] + discount * following - x["values"][t]
            )
            targets[row, t] = (
                x["values"][t] + delta + discount * min(c, ratio[t]) * (following - value_after)
            )
            following, value_after = targets[row, t], x["values"][t]
    return targets, advantages


@pytest.mark.parametrize("thresholds", [(1.0, 1.0, 1.0), (2.0, 1.5, 0.5), (0.7, 3.0, 1.1)])
def test_targets_and_advantages_are_those_of_the_recursion(thresholds):
    columns = sequences()
    rho, pg_rho, c = thresholds
    found = vtrace(**tensors(columns), gamma=GAMMA, clip_rho=rho, clip_pg_rho=pg_rho, clip_c=c)
    for one, expected in zip(found, recursion(columns, rho, pg_rho, c), strict=True):
        np.testing.assert_allclose(one.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_two_steps_by_hand():
    # rho = 0.5 and min(1, 2); the episode ends with the second step.
    targets, advantages = vtrace(
        torch.log(torch.tensor([[0.5, 2.0]])),
        torch.tensor([[1.0, 3.0]]),
        torch.tensor([[2.0, 4.0]]),
        torch.tensor([[4.0, 100.0]]),
        torch.tensor([[False, True]]),
        torch.tensor([[True, True]]),
        gamma=0.5,
    )
    # v_1 = 4 + (3 - 4) = 3; v_0 = 2 + 0.5 (1 + 0.5 * 4 - 2) + 0.5 * 0.5 (3 - 4) = 2.25
    torch.testing.assert_close(targets, torch.tensor([[2.25, 3.0]]))
    # 0.5 (1 + 0.5 * 3 - 2) = 0.25; 3 - 4 = -1
    torch.testing.assert_close(advantages, torch.tensor([[0.25, -1.0]]))


def test_on_policy_targets_are_n_step_returns():
    columns = sequences(seed=3) | {"log_ratios": np.zeros((5, 7), np.float32)}
    targets, advantages = vtrace(**tensors(columns), gamma=GAMMA)
    for row, length in enumerate(columns["mask"].sum(1)):
        for t in range(length):
            rewards = columns["rewards"][row, t:length].astype(np.float64)
            last = 0.0 if columns["terminated"][row, length - 1] else GAMMA ** (length - t)
            expected = (rewards * GAMMA ** np.arange(length - t)).sum()
            expected += last * columns["next_values"][row, length - 1]
            assert targets[row, t].item() == pytest.approx(expected, rel=1e-4, abs=1e-4)
            advantage = expected - columns["values"][row, t]
            assert advantages[row, t].item() == pytest.approx(advantage, rel=1e-4, abs=1e-4)


def test_on_policy_with_a_lambda_it_gives_generalised_advantages():
    columns = sequences(seed=4) | {"log_ratios": np.zeros((5, 7), np.float32)}
    columns["mask"][:] = True
    columns["terminated"][:, :-1] = False
    columns["rewards"] = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    found = vtrace(**tensors(columns), gamma=GAMMA, trace_lambda=0.7)
    time_major = {name: column.T for name, column in columns.items()}
    advantages, value_targets = returns.generalized_advantages(
        *(time_major[name] for name in ("rewards", "values", "next_values", "terminated")),
        np.zeros((7, 5), bool),
        GAMMA,
        0.7,
    )
    np.testing.assert_allclose(found[0].numpy().T, value_targets, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found[1].numpy().T, advantages, rtol=1e-4, atol=1e-5)


def test_a_sequence_counts_alone_whatever_stands_beside_it_or_in_its_padding():
    columns = tensors(sequences())
    together = vtrace(**columns, gamma=GAMMA)
    for row, length in enumerate(columns["mask"].sum(1).tolist()):
        alone = {name: column[row : row + 1, :length] for name, column in columns.items()}
        for one, other in zip(vtrace(**alone, gamma=GAMMA), together, strict=True):
            assert torch.equal(one[0], other[row, :length])
            assert not other[row, length:].any()


def test_no_gradient_flows_through_targets():
    columns = tensors(sequences())
    columns["values"].requires_grad_()
    columns["log_ratios"].requires_grad_()
    assert not any(found.requires_grad for found in vtrace(**columns, gamma=GAMMA))
