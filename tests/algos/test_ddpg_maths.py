"""DDPG's and TD3's arithmetic against updates written here with torch.nn and torch.optim."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from actor_critic_reference import (
    NUM_ROWS,
    WIDTH,
    actor_of,
    assert_same,
    assert_same_moments,
    critics_of,
    follow,
    randomize,
    tensors,
    transitions,
)
from gymnasium import spaces

from rlrun.algos.ddpg import DDPG
from rlrun.core import losses, seeding
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError, SpaceError
from rlrun.core.exploration import StochasticSampling
from rlrun.core.networks import MLP

OBS_SPACE = spaces.Box(-np.inf, np.inf, (WIDTH,), np.float32)
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
CPU = torch.device("cpu")
SEED = 3
TAU = 0.1
LR = 0.01
TD3 = {"twin_q": True, "policy_delay": 2, "smooth_target_policy": True, "l2_reg": 0.0}


@pytest.fixture(autouse=True)
def own_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def learner(**hyperparameters: Any) -> DDPG:
    settings = {
        "actor_lr": LR,
        "critic_lr": 2 * LR,
        "actor_hiddens": [8],
        "critic_hiddens": [8, 6],
        "train_batch_size": NUM_ROWS,
        "buffer_size": 64,
        "tau": TAU,
        "adam_epsilon": 1e-3,
        **hyperparameters,
    }
    algo = DDPG(**settings)
    policy = algo.make_policy(OBS_SPACE, BOX, MLP(fcnet_hiddens=[]))
    policy.act(np.zeros((1, WIDTH), np.float32))  # setup moves weights that were used already
    algo.setup(policy, CPU, SEED)
    randomize(algo.network, algo.target_network)
    return algo


def q_of(critic: torch.nn.Module, obs: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    return critic(torch.cat([obs, actions], -1)).squeeze(-1)


def errors_to_loss(errors: torch.Tensor, huber_threshold: float | None) -> torch.Tensor:
    if huber_threshold is None:
        return errors**2
    return torch.nn.functional.huber_loss(
        errors, torch.zeros_like(errors), reduction="none", delta=huber_threshold
    )


CASES = {
    "ddpg": {"l2_reg": 0.0},
    "ddpg-weight-decay": {"l2_reg": 0.01},
    "td3": TD3,
    "td3-prioritized-huber": {
        **TD3,
        "prioritized_replay": True,
        "use_huber": True,
        "huber_threshold": 0.7,
    },
    "td3-clipped-gradient": {**TD3, "grad_clip": 0.05},
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_three_updates_move_all_that_is_learned_as_an_update_written_with_torch_alone_does(case):
    algo = learner(**case)
    actor, critics = actor_of(algo.network), critics_of(algo.network)
    target_actor = copy.deepcopy(actor_of(algo.target_network))
    target_critics = copy.deepcopy(critics_of(algo.target_network))
    actor_adam = torch.optim.Adam(actor.parameters(), LR, eps=1e-3)
    critic_adam = torch.optim.Adam(critics.parameters(), 2 * LR, eps=1e-3, weight_decay=algo.l2_reg)
    rng = seeding.generator(SEED, "learner")
    for update in range(3):
        batch = transitions(update)
        algo.replay.add(batch)
        rows = tensors(batch)
        importance = torch.ones(NUM_ROWS)
        if algo.prioritized_replay:
            importance = torch.linspace(0.1, 1.0, NUM_ROWS)
            extra = {"weights": importance.numpy(), "batch_indexes": np.arange(NUM_ROWS)}
            batch = Batch({**batch, **extra})
        with torch.no_grad():
            next_actions = target_actor(rows["next_obs"]).tanh()
            if algo.smooth_target_policy:
                noise = torch.as_tensor(rng.standard_normal((NUM_ROWS, 2), dtype=np.float32))
                next_actions = (next_actions + (0.2 * noise).clamp(-0.5, 0.5)).clamp(-1, 1)
            next_q = torch.stack([q_of(c, rows["next_obs"], next_actions) for c in target_critics])
            y = rows["rewards"] + rows["discounts"] * next_q.min(0).values
        errors = [q_of(c, rows["obs"], rows["actions"]) - y for c in critics]
        threshold = algo.huber_threshold if algo.use_huber else None
        loss = sum((importance * errors_to_loss(error, threshold)).mean() for error in errors)
        critic_adam.zero_grad()
        loss.backward()
        if algo.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(critics.parameters(), algo.grad_clip)
        critic_adam.step()
        if (update + 1) % algo.policy_delay == 0:
            actor_adam.zero_grad()
            (-q_of(critics[0], rows["obs"], actor(rows["obs"]).tanh()).mean()).backward()
            if algo.grad_clip is not None:
                torch.nn.utils.clip_grad_norm_(actor.parameters(), algo.grad_clip)
            actor_adam.step()
            follow(target_actor, actor, TAU)
            follow(target_critics, critics, TAU)
        metrics = algo.learn(batch.to())
        expected = torch.stack(errors).detach().abs().mean(0)
        torch.testing.assert_close(metrics["td_error"], expected, rtol=1e-3, atol=1e-4)
        assert ("actor_loss" in metrics) == ((update + 1) % algo.policy_delay == 0)
    assert_same(algo.network, actor, critics)
    assert_same(algo.target_network, target_actor, target_critics)
    assert_same_moments(algo.actor_optimizer, actor, actor_adam)
    assert_same_moments(algo.optimizer, critics, critic_adam)


def test_a_delayed_actor_rests_between_its_updates():
    algo = learner(**TD3)
    weights = []
    for update in range(4):
        algo.learn(transitions(update).to())
        weights.append(torch.cat([p.detach().flatten() for p in algo.network.actor.parameters()]))
    assert not torch.equal(weights[0], weights[1])
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[2], weights[3])


@pytest.mark.parametrize("interval", [None, 2])
def test_targets_follow_when_the_delayed_actor_has_moved(interval):
    algo = learner(**TD3 | {"target_network_update_freq": interval})
    before = algo.target_network.flat.values.clone()
    algo.learn(transitions(0).to())
    assert torch.equal(algo.target_network.flat.values, before)
    algo.learn(transitions(1).to())
    expected = before + TAU * (algo.network.flat.values - before)
    torch.testing.assert_close(algo.target_network.flat.values, expected)


def test_targets_follow_the_actor_by_a_new_delay_too():
    algo = learner(policy_delay=2)
    for update in range(5):
        algo.learn(transitions(update).to())
    algo.set_hyperparameters(policy_delay=3)
    followed = []
    for update in range(5, 13):
        num_updates = algo.target.num_updates
        algo.learn(transitions(update).to())
        followed.append(algo.target.num_updates > num_updates)
    # After the updates 6, 9 and 12, as the actor.
    assert followed == [True, False, False, True, False, False, True, False]


def test_target_actions_are_blurred_within_their_bounds():
    algo = learner(**TD3 | {"smooth_target_policy": True, "target_noise": 5.0})
    obs = torch.zeros(2000, WIDTH)
    certain = algo.target_network.dist(obs).inputs.detach()
    blurred = algo.target_actions(obs).detach()
    assert (blurred.abs() <= 1.0).all()
    moved = (blurred - certain).abs()
    assert float(moved.max()) <= 0.5 + 1e-6
    # With a standard deviation of 5 nearly all noise is cut to +-0.5, half of it each way.
    raised = (blurred - certain)[:, 0] > 0
    assert 0.45 < float(raised.float().mean()) < 0.55
    sharp = learner()
    assert torch.equal(sharp.target_actions(obs), sharp.target_network.dist(obs).inputs)


def test_the_loss_of_critics_sums_their_mean_errors():
    one, twin = torch.tensor([[1.0, 5.0]]), torch.tensor([[1.0, 5.0], [2.0, 3.0]])
    targets = torch.tensor([0.0, 3.0])
    # (1 - 0)^2 and (5 - 3)^2, then those of the second critic.
    assert float(losses.critic_loss(one, targets).loss) == pytest.approx(2.5)
    assert float(losses.critic_loss(twin, targets).loss) == pytest.approx(4.5)
    assert losses.critic_loss(twin, targets).errors.tolist() == [[1.0, 2.0], [2.0, 0.0]]
    weighted = losses.critic_loss(twin, targets, torch.tensor([1.0, 0.5])).loss
    assert float(weighted) == pytest.approx((1 + 4 + 0.5 * (4 + 0)) / 2)
    huber = losses.critic_loss(one, torch.tensor([0.5, 3.0]), huber_threshold=1.0).loss
    assert float(huber) == pytest.approx((0.125 + 1.5) / 2)


@pytest.mark.parametrize("weights", [None, torch.linspace(0.1, 2.0, 20)])
@pytest.mark.parametrize("threshold", [None, 0.7, 2.0])
def test_the_gradient_of_the_critics_loss_is_that_of_torchs_own(threshold, weights):
    rng = np.random.default_rng(0)
    q_values = torch.tensor(2.0 * rng.normal(size=(2, 20)), requires_grad=True)
    targets = torch.tensor(rng.normal(size=20))
    found = losses.critic_loss(q_values.detach(), targets, weights, threshold)
    both = (q_values, targets.expand(2, -1))
    if threshold is None:
        terms = torch.nn.functional.mse_loss(*both, reduction="none")
    else:
        terms = torch.nn.functional.huber_loss(*both, reduction="none", delta=threshold)
    loss = (terms if weights is None else terms * weights).mean(1).sum()
    torch.testing.assert_close(found.loss, loss.detach())
    torch.testing.assert_close(found.gradient, *torch.autograd.grad(loss, [q_values]))


def test_targets_and_weights_of_float64_give_a_gradient_of_the_values_kind():
    q_values = torch.tensor([[1.0, 5.0]])
    doubles = torch.tensor([0.0, 3.0]).double()
    for threshold in (None, 1.0):
        found = losses.critic_loss(q_values, doubles, 1.0 + doubles, threshold)
        assert {each.dtype for each in found} == {torch.float32}


def test_first_actions_and_values_are_near_zero():
    torch.manual_seed(1)
    algo = DDPG()
    policy: Any = algo.make_policy(OBS_SPACE, BOX, MLP(fcnet_hiddens=[]))
    obs = torch.randn(100, WIDTH)
    with torch.no_grad():
        assert float(policy.dist(obs).inputs.abs().max()) < 0.1
        assert float(policy.critics(obs, torch.rand(100, 2)).abs().max()) < 0.1


def test_the_acting_side_computes_the_learners_actions():
    algo = learner()
    obs = np.random.default_rng(0).normal(size=(5, WIDTH)).astype(np.float32)
    dist, _, _ = algo.policy.act(obs)
    expected = algo.network(Batch(obs=torch.as_tensor(obs))).inputs.detach()
    np.testing.assert_allclose(dist.mode(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"policy_delay": 0}, "algo.policy_delay"),
        ({"target_noise": 0.3}, "algo.target_noise=0.3 has no effect"),
        ({"huber_threshold": 2.0}, "algo.huber_threshold=2.0 has no effect"),
        ({"l2_reg": -1.0}, "algo.l2_reg"),
    ],
)
def test_values_that_are_out_of_range_or_unused_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        DDPG(**wrong)


def test_what_it_cannot_act_in_or_explore_by_is_refused():
    with pytest.raises(SpaceError, match="Try algo=ppo"):
        DDPG().check_spaces(OBS_SPACE, spaces.Discrete(2), "Some-v0")
    with pytest.raises(ConfigError, match="nothing would be explored"):
        DDPG().check_exploration(StochasticSampling())
