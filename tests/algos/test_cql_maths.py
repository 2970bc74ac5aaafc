"""CQL's arithmetic against brute force, and updates written here with torch alone."""

from __future__ import annotations

import copy
import math
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
    critics_of,
    follow,
    randomize,
    tensors,
    transitions,
)
from gymnasium import spaces
from torch import distributions

from rlrun.algos.cql import CQL
from rlrun.core import conservative, finite, seeding, soft_q
from rlrun.core.errors import ConfigError, RlrunError, SpaceError
from rlrun.core.networks import CNN, MLP
from rlrun.run import make_trainer

OBS_SPACE = spaces.Box(-np.inf, np.inf, (WIDTH,), np.float32)
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
LINE = spaces.Box(-1.0, 1.0, (1,), np.float32)
CHOICES = spaces.Discrete(4)
SEED = 3
TAU = 0.1
LR = 0.01


@pytest.fixture(autouse=True)
def own_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def learner(action_space: spaces.Space = BOX, **hyperparameters: Any) -> CQL:
    settings = {
        "actor_lr": LR,
        "critic_lr": 2 * LR,
        "entropy_lr": 3 * LR,
        "initial_alpha": 0.3,
        "actor_hiddens": [8],
        "critic_hiddens": [8, 6],
        "train_batch_size": NUM_ROWS,
        "buffer_size": 64,
        "tau": TAU,
        "adam_epsilon": 1e-3,
        "bc_iters": 0,
        **({} if action_space is CHOICES else {"num_actions": 5}),
        **hyperparameters,
    }
    torch.manual_seed(0)
    algo = CQL(**settings)
    policy = algo.make_policy(OBS_SPACE, action_space, MLP(fcnet_hiddens=[]))
    algo.setup(policy, torch.device("cpu"), SEED)
    randomize(algo.network, algo.target_network)
    return algo


# The soft maximum


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_sampled_log_sum_is_the_integral_over_all_actions(temperature):
    algo, rows = learner(LINE), tensors(transitions(0))
    network, obs = algo.network, rows["obs"]
    grid = torch.linspace(-1, 1, 1001)
    with torch.no_grad():
        every = obs.repeat_interleave(len(grid), 0)
        q_values = network.critics(every, grid.repeat(len(obs))[:, None])
        q_values = q_values.view(2, len(obs), -1).double() / temperature
    integral = torch.trapezoid(q_values.exp(), grid.double(), dim=-1)
    rng = np.random.default_rng(0)
    num_actions = 5000
    proposals = conservative.propose(network, obs, rows["next_obs"], num_actions, rng)
    values = network.critics.run(obs, proposals.actions).values
    found, _ = conservative.sampled_log_sum(values, proposals.log_probs, temperature)
    expected = temperature * (integral.log() + math.log(3 * num_actions))
    errors = (found.double() - expected).abs()
    assert float(errors.mean()) < 0.06
    assert float(errors.max()) < 0.4


def test_proposals_come_from_where_their_densities_say():
    algo, rows = learner(BOX), tensors(transitions(0))
    obs, next_obs = rows["obs"], rows["next_obs"]
    rng = np.random.default_rng(0)
    actions, log_probs = conservative.propose(algo.network, obs, next_obs, 7, rng)
    assert actions.shape == (NUM_ROWS, 21, 2)
    assert float(actions.abs().max()) <= 1.0
    torch.testing.assert_close(log_probs[:, :7], torch.full((NUM_ROWS, 7), -2 * math.log(2)))
    for given, part in ((obs, slice(7, 14)), (next_obs, slice(14, 21))):
        dist = algo.network.dist(given)
        for k in range(part.start, part.stop):
            is_inside = actions[:, k].abs().amax(-1) < 0.999
            expected = dist.log_prob(actions[:, k]).detach()
            torch.testing.assert_close(
                log_probs[is_inside, k], expected[is_inside], rtol=1e-3, atol=1e-3
            )


def test_the_sum_over_discrete_actions_is_exact():
    q = [[0.5, -1.0, 2.0], [0.0, 0.0, 0.0]]
    found, _ = conservative.exact_log_sum(torch.tensor(q), 0.5)
    expected = [0.5 * math.log(sum(math.exp(value / 0.5) for value in row)) for row in q]
    assert found.tolist() == pytest.approx(expected)


# The weight of the conservative term


def test_the_multiplier_rises_above_the_threshold_and_falls_below():
    algo = learner(lagrangian=True, lagrangian_thresh=2.0, critic_lr=0.1, adam_epsilon=1e-8)
    weight, metrics = algo._weight_of(torch.tensor([5.0, 1.0]))  # their mean is 3
    assert float(weight) == float(metrics["lagrangian_weight"]) == 1.0
    # Adam's first step is its step size, against the gradient -(3 - 2).
    assert float(algo.multiplier.log_alpha) == pytest.approx(0.1, rel=1e-4)
    other = learner(lagrangian=True, lagrangian_thresh=2.0, critic_lr=0.1, adam_epsilon=1e-8)
    other._weight_of(torch.tensor([1.0, 1.0]))
    assert float(other.multiplier.log_alpha) == pytest.approx(-0.1, rel=1e-4)


def test_the_multiplier_weighs_the_conservative_term():
    algo = learner(lagrangian=True)
    algo.multiplier.log_alpha.fill_(math.log(3.0))
    plain = learner()
    batch = transitions(0).to()
    found, expected = (each.learn(batch)["cql_loss"] for each in (algo, plain))
    assert float(found) == pytest.approx(3.0 * float(expected), rel=1e-4)


# Three updates of everything


def values_and_log_probs(actor, critics, obs, rng):
    mean, log_std = actor(obs).chunk(2, -1)
    scale = log_std.clamp(-20, 2).exp()
    noise = torch.as_tensor(rng.standard_normal(tuple(mean.shape), dtype=np.float32))
    unsquashed = mean + scale * noise
    actions = unsquashed.tanh()
    slopes = distributions.TanhTransform().log_abs_det_jacobian(unsquashed, actions)
    log_probs = (distributions.Normal(mean, scale).log_prob(unsquashed) - slopes).sum(-1)
    q = torch.stack([critic(torch.cat([obs, actions], -1)).squeeze(-1) for critic in critics])
    return q.min(0).values, log_probs


def gap_by_loops(actor, critic, rows, num_actions, rng_proposals):
    """min_q_weight 1: the mean over rows of logsumexp - Q(s, a)."""
    uniform, of_obs, of_next = rng_proposals
    gaps = []
    for i in range(NUM_ROWS):
        terms = []
        for k in range(num_actions):
            for action, log_prob in (
                (uniform[i, k], torch.tensor(-2 * math.log(2))),
                of_obs(i, k),
                of_next(i, k),
            ):
                q = critic(torch.cat([rows["obs"][i], action]))[0]
                terms.append(q - log_prob)
        q_data = critic(torch.cat([rows["obs"][i], rows["actions"][i]]))[0]
        gaps.append(torch.logsumexp(torch.stack(terms), 0) - q_data)
    return torch.stack(gaps).mean()


def drawn_from(actor, obs, noise):
    """(i, k) -> the action that row i's policy gives for noise [N, K, d], and its log-density."""

    def draw(i, k):
        with torch.no_grad():
            mean, log_std = actor(obs[i]).chunk(2, -1)
            scale = log_std.clamp(-20, 2).exp()
            unsquashed = mean + scale * noise[i, k]
            slopes = distributions.TanhTransform().log_abs_det_jacobian(
                unsquashed, unsquashed.tanh()
            )
            log_probs = distributions.Normal(mean, scale).log_prob(unsquashed) - slopes
        return unsquashed.tanh(), log_probs.sum()

    return draw


@pytest.mark.parametrize("bc_iters", [0, 2])
def test_three_updates_move_all_as_an_update_written_with_torch_alone_does(bc_iters):
    num_actions, weight = 2, 2.0
    algo = learner(bc_iters=bc_iters, min_q_weight=weight, num_actions=num_actions)
    actor, critics = actor_of(algo.network), critics_of(algo.network)
    targets = copy.deepcopy(critics_of(algo.target_network))
    log_alpha = torch.tensor(math.log(0.3), requires_grad=True)
    actor_adam = torch.optim.Adam(actor.parameters(), LR, eps=1e-3)
    critic_adam = torch.optim.Adam(critics.parameters(), 2 * LR, eps=1e-3)
    alpha_adam = torch.optim.Adam([log_alpha], 3 * LR, eps=1e-3)
    rng = seeding.generator(SEED, "learner")
    shape = (NUM_ROWS, num_actions, 2)
    for seed in range(3):
        batch = transitions(seed)
        rows = tensors(batch)
        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            next_q, _ = values_and_log_probs(actor, targets, rows["next_obs"], rng)
            y = rows["rewards"] + rows["discounts"] * next_q
        uniform = torch.as_tensor(2 * rng.random(shape, dtype=np.float32) - 1)
        noises = [torch.as_tensor(rng.standard_normal(shape, dtype=np.float32)) for _ in range(2)]
        proposals = (
            uniform,
            drawn_from(actor, rows["obs"], noises[0]),
            drawn_from(actor, rows["next_obs"], noises[1]),
        )
        loss = torch.zeros(())
        for critic in critics:
            q = critic(torch.cat([rows["obs"], rows["actions"]], -1)).squeeze(-1)
            loss = loss + ((q - y) ** 2).mean()
            loss = loss + weight * gap_by_loops(actor, critic, rows, num_actions, proposals)
        critic_adam.zero_grad()
        loss.backward()
        critic_adam.step()
        q, log_probs = values_and_log_probs(actor, critics, rows["obs"], rng)
        if seed < bc_iters:
            mean, log_std = actor(rows["obs"]).chunk(2, -1)
            normal = distributions.Normal(mean, log_std.clamp(-20, 2).exp())
            squashed = distributions.TransformedDistribution(
                normal, [distributions.TanhTransform()]
            )
            q = squashed.log_prob(rows["actions"]).sum(-1)
        actor_adam.zero_grad()
        (alpha * log_probs - q).mean().backward()
        actor_adam.step()
        alpha_adam.zero_grad()
        (-log_alpha.exp() * (log_probs.detach() - 2.0)).mean().backward()
        alpha_adam.step()
        follow(targets, critics, TAU)
        algo.replay.add(batch)
        algo.learn(batch.to())
    assert_same(algo.network, actor, critics)
    assert float(algo.entropy_weight.log_alpha) == pytest.approx(
        float(log_alpha.detach()), abs=1e-5
    )


def test_discrete_actions_are_summed_exactly():
    algo = learner(CHOICES)
    rows = tensors(transitions(0, 4))
    obs, next_obs = algo.observed(rows)
    asked = algo._ask(rows["actions"], obs, next_obs)
    q_values, log_sums = asked.q_values, asked.log_sums
    for i, critic in enumerate(critics_of(algo.network)):
        q = critic(rows["obs"])
        torch.testing.assert_close(log_sums[i], q.logsumexp(-1), rtol=1e-4, atol=1e-5)
        chosen = q[torch.arange(NUM_ROWS), rows["actions"]]
        torch.testing.assert_close(q_values[i], chosen, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("action_space", [BOX, CHOICES])
def test_the_gradient_of_what_critics_are_asked_is_autograds(action_space):
    algo = learner(action_space, temperature=0.7)
    rows = tensors(transitions(0, 4 if action_space is CHOICES else 0))
    asked = algo._ask(rows["actions"], *algo.observed(rows))
    values = asked.run.values.detach().requires_grad_()
    if action_space is CHOICES:
        q_values = values[:, torch.arange(NUM_ROWS), rows["actions"]]
        log_sums = 0.7 * torch.logsumexp(values / 0.7, -1)
    else:
        rng = seeding.generator(SEED, "learner")
        proposals = conservative.propose(algo.network, *algo.observed(rows), 5, rng)
        q_values = values[..., -1]
        log_sums = 0.7 * torch.logsumexp(values[..., :-1] / 0.7 - proposals.log_probs, -1)
    torch.testing.assert_close(asked.q_values, q_values.detach())
    torch.testing.assert_close(asked.log_sums, log_sums.detach())
    by_q_values = torch.randn_like(q_values)
    (expected,) = torch.autograd.grad((by_q_values * q_values).sum() + 0.3 * log_sums.sum(), values)
    torch.testing.assert_close(asked.by_values(by_q_values, 0.3), expected)


@pytest.mark.parametrize("action_space", [BOX, CHOICES])
def test_the_gradient_of_imitation_is_autograds(action_space):
    algo = learner(action_space)
    rows = tensors(transitions(0, 4 if action_space is CHOICES else 0))
    outputs = 3.0 * torch.randn(NUM_ROWS, 4)
    outputs.requires_grad_()
    dist, alpha = algo.network.distribution(outputs), torch.tensor(0.3)
    if action_space is CHOICES:
        negative_entropies = -dist.entropy()
    else:
        noise = seeding.generator(SEED, "learner").standard_normal((NUM_ROWS, 2), dtype=np.float32)
        _, negative_entropies = dist.draw(torch.from_numpy(noise))
    loss = (alpha * negative_entropies - dist.log_prob(rows["actions"])).mean()
    found = soft_q.imitation_loss(
        algo.network,
        outputs.detach(),
        rows["actions"],
        alpha,
        seeding.generator(SEED, "learner"),
    )
    torch.testing.assert_close(found.loss, loss.detach())
    torch.testing.assert_close(found.negative_entropies, negative_entropies.detach())
    expected = torch.autograd.grad(loss, outputs)[0]
    torch.testing.assert_close(found.gradient, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("bc_iters", "column"), [(0, "rewards"), (1, "actions")])
def test_a_loss_that_is_nan_is_named_where_everything_is_checked(bc_iters, column):
    algo, rows = learner(bc_iters=bc_iters), transitions(0)
    rows[column][3] = np.nan
    finite.check_everywhere(True)
    try:
        with pytest.raises(RlrunError, match="The loss of ActorWithCritics is nan"):
            algo.update(rows.to())
    finally:
        finite.check_everywhere(False)


def test_images_are_encoded_once_for_all_actions_and_their_values_are_the_same():
    images = spaces.Box(0, 255, (42, 42, 1), np.uint8)
    algo = CQL(num_actions=2, critic_hiddens=[8], actor_hiddens=[8], buffer_size=256)
    policy = algo.make_policy(images, BOX, CNN(vf_share_layers=False))
    algo.setup(policy, torch.device("cpu"), SEED)
    rng = np.random.default_rng(0)
    obs, next_obs = torch.from_numpy(rng.integers(256, size=(2, 3, *images.shape), dtype=np.uint8))
    actions = torch.zeros(3, 2)
    critics, sizes = algo.network.critics, []
    critics.encoder.register_forward_hook(lambda *given: sizes.append(len(given[2])))
    algo.rng = np.random.default_rng(1)
    asked = algo._ask(actions, obs, next_obs)
    assert sizes == [3]
    q_values, log_sums = asked.q_values, asked.log_sums
    for parameter in critics.parameters():
        parameter.grad.zero_()
    asked.run.backward(asked.by_values(torch.zeros_like(q_values), 1.0))
    found = [parameter.grad.clone() for parameter in critics.parameters()]
    # The same actions once more, each with an image of its own.
    proposals = conservative.propose(algo.network, obs, next_obs, 2, np.random.default_rng(1))
    values = torch.stack([critics(obs, proposals.actions[:, k]) for k in range(6)], -1)
    expected = torch.logsumexp(values - proposals.log_probs, -1)
    torch.testing.assert_close(log_sums, expected)
    torch.testing.assert_close(q_values, critics(obs, actions))
    by_hand = torch.autograd.grad(expected.sum(), list(critics.parameters()))
    torch.testing.assert_close(tuple(found), by_hand, rtol=1e-4, atol=1e-5)


def test_conservative_critics_value_the_datas_actions_above_others():
    def advantage_of_data(weight):
        algo, batch = learner(min_q_weight=weight), transitions(0)
        algo.replay.add(batch)
        for _ in range(100):
            algo.learn(batch.to())
        rows = tensors(batch)
        uniform = torch.as_tensor(np.random.default_rng(9).uniform(-1, 1, (NUM_ROWS, 2))).float()
        values = [algo.values_of(rows["obs"], each).values for each in (rows["actions"], uniform)]
        return float((values[0] - values[1]).mean())

    assert advantage_of_data(5.0) > advantage_of_data(0.0) + 1.0


# What it refuses


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"bc_iters": -1}, "algo.bc_iters"),
        ({"temperature": 0.0}, "algo.temperature"),
        ({"num_actions": 0}, "algo.num_actions"),
        ({"lagrangian_thresh": 1.0}, "algo.lagrangian_thresh=1.0 has no effect"),
        ({"entropy_lr": -1.0}, "algo.entropy_lr"),
        ({"entropy_lr": 0, "target_entropy": 0.3}, "algo.target_entropy=0.3 has no effect"),
    ],
)
def test_values_out_of_range_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        CQL(**wrong)


def test_a_number_of_drawn_actions_is_for_boxes():
    with pytest.raises(ConfigError, match="sums over Discrete actions are exact"):
        learner(CHOICES, num_actions=3)


def test_action_spaces_that_no_squashed_gaussian_fits_are_refused(tmp_path):
    with pytest.raises(SpaceError, match="algo=cql needs actions"):
        make_trainer(
            "cql",
            env="space_envs.MatchEnv",
            overrides=["env.env_config.actions=dict", f"input={_file(tmp_path)}"],
        )


def _file(folder):
    path = folder / "empty.jsonl"
    path.touch()
    return path
