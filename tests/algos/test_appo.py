"""APPO's arithmetic against losses written here, and what it learns and keeps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from helpers_cli import config
from test_impala import (
    GAMMA,
    LENGTHS,
    gradient_of,
    make_learner,
    outputs,
    own_random_numbers,  # noqa: F401  # a fixture
    real_steps,
    sequences,
)
from test_resume import assert_resumed_equals_uninterrupted

from rlrun.algos.appo import APPO
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError
from rlrun.run import make_trainer

LAMBDA = 0.8
KEYS = {"gamma": GAMMA, "gae_lambda": LAMBDA, "clip_range": 0.2, "entropy_coeff": 0.03}


def generalised_advantages(rows: Batch, values: torch.Tensor) -> dict[tuple[int, int], float]:
    """Schulman et al. (2016), eq. 16, step by step."""
    found = {}
    for row, length in enumerate(LENGTHS):
        carried = 0.0
        for t in reversed(range(length)):
            after = 0.0 if rows["terminated"][row, t] else values[row, t + 1].item()
            delta = rows["rewards"][row, t].item() + GAMMA * after - values[row, t].item()
            carried = found[row, t] = delta + GAMMA * LAMBDA * carried
    return found


def move(policy: Any) -> None:
    with torch.no_grad():
        policy.flat.values.add_(0.2 * torch.randn(policy.flat.values.shape))


def expected_loss(
    learner: APPO, rows: Batch, target: Any, kl_coeff: float = 0.0
) -> tuple[torch.Tensor, dict[str, float]]:
    """IMPACT's loss (Luo et al., 2020, eq. 4) on generalised advantages, as a mean over steps."""
    log_probs, values = outputs(learner.policy, rows["obs"])
    old_log_probs, _ = outputs(target, rows["obs"])
    advantages = generalised_advantages(rows, values)
    loss, clipped, kl = torch.zeros(()), 0, 0.0
    for row, t in real_steps(rows):
        action, advantage = rows["actions"][row, t], advantages[row, t]
        new, old = log_probs[row, t, action], old_log_probs[row, t, action].detach()
        worker = rows["log_probs"][row, t]
        ratio = new.exp() / max(float(old.exp()), float(worker.exp()) / 2.0)
        clipped += int(abs(ratio.item() - 1.0) > 0.2)
        loss = loss - torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
        target_value = advantage + values[row, t].item()
        loss = loss + learner.vf_coeff * (values[row, t] - target_value).square()
        loss = loss + 0.03 * (log_probs[row, t].exp() * log_probs[row, t]).sum()
        old_probs = old_log_probs[row, t].detach().exp()
        divergence = (old_probs * (old_log_probs[row, t].detach() - log_probs[row, t])).sum()
        loss, kl = loss + kl_coeff * divergence, kl + divergence.item()
    count = sum(LENGTHS)
    return loss / count, {"clip_fraction": clipped / count, "kl": kl / count}


def test_at_lag_0_it_is_the_policy_gradient_of_generalised_advantages():
    for vtrace in (True, False):
        learner = make_learner(APPO(**KEYS, vtrace=vtrace))
        learner.target.follow()
        rows = sequences(learner.policy)
        log_probs, values = outputs(learner.policy, rows["obs"])
        advantages = generalised_advantages(rows, values)
        loss = torch.zeros(())
        for row, t in real_steps(rows):
            advantage = advantages[row, t]
            loss = loss - advantage * log_probs[row, t, rows["actions"][row, t]]
            loss = loss + 0.5 * (values[row, t] - (values[row, t].item() + advantage)).square()
            loss = loss + 0.03 * (log_probs[row, t].exp() * log_probs[row, t]).sum()
        metrics = learner.compute_gradients(rows)
        expected = gradient_of(learner, loss / sum(LENGTHS))
        torch.testing.assert_close(learner.policy.flat.grad, expected, rtol=1e-4, atol=1e-5)
        assert metrics["clip_fraction"] == 0.0
        assert abs(metrics["kl"]) < 1e-6


def test_a_learner_at_its_target_has_moved_nothing_however_old_the_rows():
    learner = make_learner(APPO(**KEYS))
    learner.target.follow()
    metrics = learner.compute_gradients(sequences(learner.policy, age=0.5))
    assert metrics["clip_fraction"] == 0.0


def test_a_kl_penalty_needs_a_target_that_stays_behind():
    with pytest.raises(ConfigError, match="target_network_update_freq"):
        APPO(use_kl_loss=True)


@pytest.mark.parametrize("use_kl_loss", [False, True])
def test_old_rows_are_clipped_against_the_target(use_kl_loss):
    keys = {"vtrace": False, "use_kl_loss": use_kl_loss, "target_network_update_freq": 2}
    learner = make_learner(APPO(**KEYS, **keys))
    learner.target.follow()
    target = copy.deepcopy(learner.policy)
    move(learner.policy)
    rows = sequences(learner.policy, age=1.0)
    metrics = learner.compute_gradients(rows)
    loss, found = expected_loss(learner, rows, target, 1.0 if use_kl_loss else 0.0)
    expected = gradient_of(learner, loss)
    torch.testing.assert_close(learner.policy.flat.grad, expected, rtol=1e-4, atol=1e-5)
    assert 0.0 < found["clip_fraction"] < 1.0
    for name, value in found.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-4)


def test_vtrace_weights_rows_by_the_target_and_not_by_the_policy_that_learns():
    learner = make_learner(APPO(**KEYS))
    learner.target.follow()
    rows = sequences(learner.policy, age=1.0)
    seen = []
    estimate = learner.estimate

    def watched(rows: Batch, values: torch.Tensor, log_ratios: torch.Tensor, **keys: Any) -> Any:
        seen.append(log_ratios)
        return estimate(rows, values, log_ratios, **keys)

    object.__setattr__(learner, "estimate", watched)
    old_log_probs, _ = outputs(learner.target.network, rows["obs"])
    move(learner.policy)
    learner.compute_gradients(rows)
    taken = old_log_probs.gather(-1, rows["actions"][..., None])[..., 0] - rows["log_probs"]
    expected = torch.where(rows["mask"], taken, 0.0)[:, :-1]
    torch.testing.assert_close(seen[0], expected, rtol=1e-4, atol=1e-5)


def test_what_stands_in_the_padding_moves_nothing():
    gradients = []
    for padding in (0, 3):
        torch.manual_seed(0)
        learner = make_learner(APPO(**KEYS, use_kl_loss=True, target_network_update_freq=2))
        rows = sequences(learner.policy, 1.0, padding=padding)
        for row, length in enumerate(LENGTHS):
            rows["obs"][row, length + 1 :] = 1e3
            rows["rewards"][row, length:] = 1e3
            rows["log_probs"][row, length:] = 1e3
        learner.compute_gradients(rows)
        gradients.append(learner.policy.flat.grad.clone())
    assert torch.equal(*gradients)


def test_the_target_follows_after_what_the_learner_goes_round():
    learner = make_learner(APPO(num_sgd_iter=2, minibatch_buffer_size=3))
    seen = []
    for _ in range(13):
        learner.learn(sequences(learner.policy))
        seen.append(learner.target.num_updates)
    assert seen == [0] * 5 + [1] * 6 + [2] * 2
    learner.set_hyperparameters(target_network_update_freq=1, tau=0.5)
    before = learner.target.network.flat.values.clone()
    learner.learn(sequences(learner.policy))
    expected = (before + learner.policy.flat.values) / 2
    torch.testing.assert_close(learner.target.network.flat.values, expected)


def test_the_penalty_follows_the_kl_that_an_old_target_has():
    learner = make_learner(APPO(use_kl_loss=True, target_network_update_freq=2, kl_target=1e-9))
    coefficients = []
    for _ in range(4):
        learner.learn(sequences(learner.policy))
        coefficients.append(learner.current_kl_coeff)
    assert coefficients == [1.0, 2.0, 2.0, 4.0]


def test_values_that_cannot_be_are_refused():
    with pytest.raises(ConfigError, match="target_network_update_freq=0 must be at least 1"):
        APPO(target_network_update_freq=0)
    for tau in (0.0, 1.5):  # A target that never moves, and one that overshoots.
        with pytest.raises(ConfigError, match=rf"tau={tau} must be between 1e-09 and 1"):
            APPO(tau=tau)


# In runs


def tiny_appo(**values: Any) -> dict[str, Any]:
    sizes = {
        "algo__num_envs_per_worker": 2,
        "algo__rollout_fragment_length": 8,
        "algo__train_batch_size": 40,
        "algo__timesteps_per_iteration": 64,
        "algo__num_sgd_iter": 3,
        "algo__use_kl_loss": True,
        "algo__tau": 0.7,
        "algo__clip_range": [[0, 0.3], [300, 0.1]],
    }
    return config("algo=appo", **{**sizes, **values})


@pytest.mark.parametrize("vtrace", [True, False])
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, vtrace):
    assert_resumed_equals_uninterrupted(tmp_path, tiny_appo(algo__vtrace=vtrace))


def test_it_learns_to_balance_a_pole():
    overrides = ["algo.timesteps_per_iteration=2000"]
    with make_trainer("appo", "cartpole", overrides, seed=1) as trainer:
        returns: list[float] = [trainer.train()["episode_reward_mean"] for _ in range(6)]
    assert returns[0] < 50.0
    assert returns[-1] > 110.0
