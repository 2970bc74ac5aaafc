"""PG's arithmetic against numbers worked out by hand, and an update written with torch alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from policy_gradient_reference import ACTION_SPACES, Reference, as_sequences, learner, train_batch

from rlrun.algos.pg import PG
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError
from rlrun.run import make_trainer


@pytest.fixture(autouse=True)
def own_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def trajectory(**ends: list[int]) -> Batch:
    """Five steps of one env, each state worth 8."""
    flags = {name: np.zeros((5, 1), bool) for name in ("terminated", "truncated")}
    for name, steps in ends.items():
        flags[name][steps] = True
    return Batch(
        obs=np.zeros((5, 1, 3), np.float32),
        rewards=np.array([[1.0], [2.0], [4.0], [8.0], [16.0]], np.float32),
        values=np.full((5, 1), 8.0, np.float32),
        next_values=np.full((5, 1), 8.0, np.float32),
        **flags,
    )


def test_rewards_to_go_are_discounted_and_stop_at_the_end_of_an_episode():
    algo = PG(gamma=0.5)
    rows = algo.postprocess(None, trajectory(terminated=[2], truncated=[4]))
    # 4 alone; 2 + 4/2; 1 + 2/2 + 4/4. The second episode: 16, and 8 + 16/2.
    np.testing.assert_array_equal(rows["advantages"][:, 0], [3.0, 4.0, 4.0, 16.0, 16.0])
    assert rows.keys() & {"rewards", "terminated", "truncated", "next_values"} == set()


def test_a_baseline_is_taken_off_and_stands_for_what_follows_a_time_limit():
    algo = PG(gamma=0.5, use_baseline=True)
    rows = algo.postprocess(None, trajectory(terminated=[2], truncated=[4]))
    # Behind the time limit 8/2 follow: 16 + 4 = 20 and 8 + 20/2 = 18; all less 8.
    np.testing.assert_allclose(rows["value_targets"][:, 0], [3.0, 4.0, 4.0, 18.0, 20.0])
    np.testing.assert_allclose(rows["advantages"][:, 0], [-5.0, -4.0, -4.0, 10.0, 12.0])


@pytest.mark.parametrize("kind", ACTION_SPACES)
@pytest.mark.parametrize("use_baseline", [False, True])
def test_an_update_equals_one_written_with_torch_alone(kind, use_baseline):
    algo, policy, reference = learner(
        PG(
            lr=0.01,
            entropy_coeff=0.02,
            use_baseline=use_baseline,
            vf_coeff=0.7 if use_baseline else 0.5,
        ),
        kind,
    )
    batch = train_batch(kind)
    losses = reference.losses(batch, 0.02, 0.7 if use_baseline else None)
    norm = reference.grad(
        reference.losses(batch, 0.02, 0.7 if use_baseline else None)["total_loss"]
    )
    reference.step(losses["total_loss"], 0.01, 1e-8, None)
    metrics = algo.learn(batch.to())
    reference.assert_equals(policy)
    for name, loss in losses.items():
        assert float(metrics[name]) == pytest.approx(loss.item(), rel=1e-4), name
    assert float(metrics["grad_norm"]) == pytest.approx(norm.norm().item(), rel=1e-4)
    assert metrics["cur_lr"] == 0.01
    assert ("vf_loss" in metrics) == use_baseline


def test_the_gradient_of_one_choice_between_two_is_known():
    # With logits (0, 0) the gradient of -A log pi(0) is A (pi - onehot) = 3 (-1/2, 1/2).
    algo, policy, _ = learner(PG())
    with torch.no_grad():
        policy.flat.values.zero_()
        policy.pi_head.bias[2:] = -100.0  # two actions are left
    rows = Batch(
        obs=np.zeros((1, 3), np.float32),
        actions=np.array([0]),
        advantages=np.array([3.0], np.float32),
    )
    algo.compute_gradients(rows.to())
    torch.testing.assert_close(policy.pi_head.bias.grad[:2], torch.tensor([-1.5, 1.5]))


def test_normalised_rewards_to_go_have_mean_zero_and_deviation_one():
    algo, _, reference = learner(PG(normalize_advantages=True))
    batch = train_batch()
    raw = batch["advantages"]
    scaled = Batch({**batch, "advantages": (raw - raw.mean()) / (raw.std(ddof=1) + 1e-8)})
    expected = reference.grad(reference.losses(scaled, 0.0, None)["total_loss"])
    algo.compute_gradients(batch.to())
    torch.testing.assert_close(algo.policy.flat.grad, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("normalize_advantages", [False, True])
def test_padding_moves_nothing(normalize_advantages):
    settings = {"use_baseline": True, "entropy_coeff": 0.1}
    algo, policy, _ = learner(PG(normalize_advantages=normalize_advantages, **settings))
    batch = train_batch()
    algo.compute_gradients(batch.to())
    expected = policy.flat.grad.clone()
    for filler in (0.0, 3.0):
        algo.compute_gradients(as_sequences(batch, [5, 8, 8, 1, 2], 8, filler).to())
        torch.testing.assert_close(policy.flat.grad, expected, rtol=1e-4, atol=1e-6)


def test_schedules_are_read_at_the_timestep_of_now():
    algo, policy, reference = learner(
        PG(lr=[[0, 0.02], [1000, 0.0]], entropy_coeff=[[0, 0.0], [1000, 0.1]])
    )
    algo.clock = lambda: 500
    batch = train_batch()
    reference.step(reference.losses(batch, 0.05, None)["total_loss"], 0.01, 1e-8, None)
    metrics = algo.learn(batch.to())
    reference.assert_equals(policy)
    assert (metrics["cur_lr"], metrics["entropy_coeff"]) == (0.01, 0.05)


@pytest.mark.parametrize("algo", ["pg", "a2c"])
@pytest.mark.parametrize(("num_envs", "is_newest"), [(1, True), (8, False)])
def test_whole_episodes_of_one_env_are_of_the_newest_weights_and_results_say_so(
    algo, num_envs, is_newest
):
    overrides = ["tuned=none", "algo.train_batch_size=40", f"algo.num_envs_per_worker={num_envs}"]
    overrides += ["algo.batch_mode=complete_episodes", "algo.timesteps_per_iteration=800"]
    with make_trainer(algo, env="CartPole-v1", overrides=overrides, seed=1) as trainer:
        stats = trainer.train()["info"]["learner"]["default_policy"]["learner_stats"]
        assert trainer.algorithms["default_policy"].num_updates > 3
    assert (stats["policy_lag_max"] == 0.0) is is_newest
    assert (stats["policy_lag_mean"] == 0.0) is is_newest


def test_a_wrong_reference_would_be_noticed():
    _, policy, _ = learner(PG())
    reference = Reference(policy)
    reference.step(reference.losses(train_batch(), 0.0, None)["total_loss"], 0.01, 1e-8, None)
    with pytest.raises(AssertionError):
        reference.assert_equals(policy)


def test_episodes_cannot_be_cut_without_a_baseline():
    with pytest.raises(ConfigError, match=r"algo\.batch_mode=truncate_episodes.*use_baseline=true"):
        PG(batch_mode="truncate_episodes")
    assert PG(batch_mode="truncate_episodes", use_baseline=True).batch_mode == "truncate_episodes"


@pytest.mark.parametrize(
    ("name", "value"), [("vf_coeff", -1.0), ("entropy_coeff", -0.1), ("gamma", 2.0)]
)
def test_values_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=rf"algo\.{name}={value}"):
        PG(**{name: value})
