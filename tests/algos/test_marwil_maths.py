"""MARWIL's and BC's arithmetic, against numbers by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun.algos.marwil import MARWIL, advantage_weights, last_steps, moving_average
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError
from rlrun.core.networks import MLP

OBS_SPACE = spaces.Box(-np.inf, np.inf, (2,), np.float32)
CHOICES = spaces.Discrete(3)
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


def learner(
    action_space: spaces.Space = CHOICES, model: MLP | None = None, **hyperparameters: Any
) -> MARWIL:
    algo = MARWIL(**{"train_batch_size": 4, "buffer_size": 8, **hyperparameters})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = algo.make_policy(OBS_SPACE, action_space, model or MLP(fcnet_hiddens=[8]))
        algo.setup(policy, torch.device("cpu"), 0)
        for parameter in algo.policy.parameters():
            parameter.data.add_(0.3 * torch.randn(parameter.shape))
    return algo


def rows(**columns: Any) -> Batch:
    rng = np.random.default_rng(1)
    return Batch(
        {
            "obs": rng.normal(size=(4, 2)).astype(np.float32),
            "actions": np.array([0, 2, 1, 1]),
            "returns": np.array([3.0, -1.0, 0.5, 2.0], np.float32),
            "last_obs": rng.normal(size=(4, 2)).astype(np.float32),
            "last_discounts": np.array([0.0, 0.25, 0.0, 0.5], np.float32),
            **columns,
        }
    ).to()


def trajectory(rewards: list[float], terminated: list[int], truncated: list[int]) -> Batch:
    num_steps = len(rewards)
    flags = {}
    for name, steps in (("terminated", terminated), ("truncated", truncated)):
        flags[name] = np.isin(np.arange(num_steps), steps)[:, None]
    obs = np.arange(num_steps, dtype=np.float32)[:, None, None]
    return Batch(
        obs=obs,
        next_obs=obs + 100,
        actions=np.zeros((num_steps, 1), np.int64),
        rewards=np.array(rewards, np.float32)[:, None],
        **flags,
    )


def test_rewards_to_go_stop_at_each_episodes_end_and_time_limits_leave_a_bootstrap():
    algo = MARWIL(gamma=0.5)
    found = algo.postprocess(None, trajectory([1, 2, 4, 8, 16], terminated=[1], truncated=[4]))
    assert found["returns"][:, 0].tolist() == [2.0, 2.0, 4 + 4 + 4, 8 + 8, 16]
    # What the state behind the cut is worth, three, two and one steps before.
    assert found["last_discounts"][:, 0].tolist() == [0, 0, 0.125, 0.25, 0.5]
    assert found["last_obs"][:, 0, 0].tolist() == [101, 101, 104, 104, 104]
    assert set(found) == {"obs", "actions", "returns", "last_obs", "last_discounts"}


def test_the_last_step_of_an_episode_is_found_for_every_env():
    ended = np.array([[0, 1], [0, 0], [1, 0], [0, 1]], bool)
    assert last_steps(ended).T.tolist() == [[2, 2, 2, 3], [0, 3, 3, 3]]


def test_weights_grow_with_advantages_over_their_usual_size():
    weights = advantage_weights(torch.tensor([0.0, 2.0, -4.0]), beta=0.5, sqd_adv_norm=4.0)
    assert weights.tolist() == pytest.approx([1.0, math.exp(0.5), math.exp(-1.0)])


def test_weights_are_finite_whatever_the_advantages_are():
    weights = advantage_weights(torch.tensor([1e3, 21.0, 19.0, -1e3]), beta=1.0, sqd_adv_norm=1.0)
    expected = [math.exp(20.0), math.exp(20.0), math.exp(19.0), 0.0]
    assert weights.tolist() == pytest.approx(expected)


def test_the_moving_average_goes_the_share_of_its_rate():
    assert moving_average(100.0, 20.0, 0.1) == pytest.approx(92.0)
    assert moving_average(100.0, 20.0, 1e-8) == pytest.approx(100.0 - 80e-8, abs=1e-12)


def test_the_loss_is_that_of_the_paper_row_by_row():
    algo = learner(
        beta=0.7,
        vf_coeff=0.3,
        moving_average_sqd_adv_norm_start=2.0,
        moving_average_sqd_adv_norm_update_rate=0.25,
    )
    batch = rows()
    with torch.no_grad():
        dist, values = algo.policy(Batch(obs=batch["obs"]))
        _, last_values = algo.policy(Batch(obs=batch["last_obs"]))
        logits = dist.inputs
    advantages, log_probs = [], []
    for i in range(4):
        target = float(batch["returns"][i]) + float(batch["last_discounts"][i] * last_values[i])
        advantages.append(target - float(values[i]))
        log_probs.append(float(torch.log_softmax(logits[i], -1)[batch["actions"][i]]))
    squares = [advantage**2 for advantage in advantages]
    norm = 2.0 + 0.25 * (sum(squares) / 4 - 2.0)
    weights = [math.exp(0.7 * advantage / math.sqrt(norm)) for advantage in advantages]
    policy_loss = -sum(w * p for w, p in zip(weights, log_probs, strict=True)) / 4
    loss, metrics = algo.loss(batch)
    assert algo.sqd_adv_norm == pytest.approx(norm, rel=1e-5)
    assert float(metrics["policy_loss"]) == pytest.approx(policy_loss, rel=1e-4)
    assert float(metrics["vf_loss"]) == pytest.approx(sum(squares) / 8, rel=1e-5)
    assert loss.item() == pytest.approx(policy_loss + 0.3 * sum(squares) / 8, rel=1e-4)
    assert float(metrics["mean_weight"]) == pytest.approx(sum(weights) / 4, rel=1e-4)


def test_no_gradient_reaches_the_value_function_through_the_weights():
    algo = learner(beta=1.0, vf_coeff=0.0)
    loss, _ = algo.loss(rows())
    loss.backward()
    assert algo.policy.vf_head.weight.grad.abs().max() == 0.0
    assert algo.policy.pi_head.weight.grad.abs().max() > 0.0


def test_the_value_function_learns_half_the_mean_squared_advantage():
    algo = learner(beta=1.0, vf_coeff=2.0)
    batch = rows(last_discounts=np.zeros(4, np.float32))
    loss, _ = algo.loss(batch)
    loss.backward()
    _, values = algo.policy(Batch(obs=batch["obs"]))
    expected = 2.0 * (values - batch["returns"]).mean()  # by the head's bias
    assert float(algo.policy.vf_head.bias.grad) == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("action_space", [CHOICES, BOX])
def test_behaviour_cloning_is_the_mean_log_likelihood(action_space):
    algo = learner(action_space, beta=0.0)
    actions = np.array([0, 2, 1, 1])
    if action_space is BOX:
        actions = np.random.default_rng(2).uniform(-1, 1, (4, 2)).astype(np.float32)
    found = algo.postprocess(None, trajectory([1, 1], [1], []))
    assert set(found) == {"obs", "actions"}
    batch = rows(actions=actions)
    batch = Batch(obs=batch["obs"], actions=batch["actions"])
    loss, _ = algo.loss(batch)
    with torch.no_grad():
        dist, _ = algo.policy(batch)
    if action_space is BOX:
        normal = torch.distributions.Normal(dist.mean, dist.log_std.exp())
        expected = normal.log_prob(batch["actions"]).sum(-1).mean()
    else:
        categorical = torch.distributions.Categorical(logits=dist.inputs)
        expected = categorical.log_prob(batch["actions"]).mean()
    assert float(loss) == pytest.approx(-float(expected), rel=1e-5)


def test_behaviour_cloning_leaves_the_value_function_as_it_is():
    algo = learner(beta=0.0)
    before = {name: array.copy() for name, array in algo.policy.get_weights().items()}
    batch = rows()
    algo.learn(Batch(obs=batch["obs"], actions=batch["actions"]))
    for name, array in algo.policy.get_weights().items():
        assert (array == before[name]).all() == name.startswith("vf_"), name


def test_the_bonus_on_deviations_is_their_sum_times_the_weights():
    settings = {"beta": 0.0, "bc_logstd_coeff": 0.1}
    algo, plain = learner(BOX, **settings), learner(BOX, beta=0.0)
    batch = rows(actions=np.zeros((4, 2), np.float32))
    difference = float(plain.loss(batch)[0] - algo.loss(batch)[0])
    assert difference == pytest.approx(0.1 * float(algo.policy.log_std.sum()), rel=1e-4)


def test_a_deviation_that_the_network_gives_gets_the_bonus_too():
    model = MLP(fcnet_hiddens=[8], free_log_std=False)
    algo = learner(BOX, model, beta=0.0, bc_logstd_coeff=0.1)
    plain = learner(BOX, model, beta=0.0)
    batch = rows(actions=np.zeros((4, 2), np.float32))
    with torch.no_grad():
        log_std = algo.policy(batch)[0].log_std.sum(-1).mean()
    difference = float(plain.loss(batch)[0] - algo.loss(batch)[0])
    assert difference == pytest.approx(0.1 * float(log_std), rel=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"beta": -1.0}, "algo.beta|beta=-1.0 must be"),
        ({"beta": 0.0, "vf_coeff": 0.5}, "algo.vf_coeff=0.5 has no effect: algo.beta=0"),
        (
            {"beta": 0.0, "moving_average_sqd_adv_norm_start": 1.0},
            "moving_average_sqd_adv_norm_start=1.0 has no effect",
        ),
        ({"batch_mode": "truncate_episodes"}, "rewards to go are not known"),
        ({"buffer_size": 100}, "smaller than algo.train_batch_size=2000"),
        ({"moving_average_sqd_adv_norm_update_rate": 2.0}, "between 0 and 1"),
    ],
)
def test_values_that_mean_nothing_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        MARWIL(**wrong)


def test_a_bonus_on_deviations_needs_a_gaussian():
    with pytest.raises(ConfigError, match=r"bc_logstd_coeff=0\.1 is for Gaussian policies"):
        learner(CHOICES, bc_logstd_coeff=0.1)
    with pytest.raises(ConfigError, match=r"bc_logstd_coeff=0\.1 is for Gaussian policies"):
        learner(BOX, MLP(action_distribution="beta"), bc_logstd_coeff=0.1)
