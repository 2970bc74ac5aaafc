"""SAC's arithmetic against numbers by hand, and updates written here with torch alone."""

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
    assert_same_moments,
    critics_of,
    follow,
    randomize,
    tensors,
    transitions,
)
from gymnasium import spaces
from torch import distributions

from rlrun.algos.sac import SAC
from rlrun.core import seeding, soft_q
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError, SpaceError
from rlrun.core.networks import MLP
from rlrun.core.squashed_gaussian import SquashedGaussian
from rlrun.run import make_trainer

OBS_SPACE = spaces.Box(-np.inf, np.inf, (WIDTH,), np.float32)
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)
CHOICES = spaces.Discrete(4)
CPU = torch.device("cpu")
SEED = 3
TAU = 0.1
LR = 0.01


@pytest.fixture(autouse=True)
def own_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def learner(action_space: spaces.Space = BOX, **hyperparameters: Any) -> SAC:
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
        **hyperparameters,
    }
    algo = SAC(**settings)
    policy = algo.make_policy(OBS_SPACE, action_space, MLP(fcnet_hiddens=[]))
    policy.act(np.zeros((1, WIDTH), np.float32))  # setup moves weights that were used already
    algo.setup(policy, CPU, SEED)
    randomize(algo.network, algo.target_network)
    return algo


# The squashed Gaussian


def test_the_squashed_density_integrates_to_one_and_to_its_own_moments():
    mean, log_std = 0.4, -0.3
    dist = SquashedGaussian(np.array([[mean, log_std]], np.float64))
    # In u the density is smooth to the bounds: p(a) da = p(tanh(u)) (1 - tanh(u)^2) du.
    u = np.linspace(-9, 9, 200_001)
    log_probs = SquashedGaussian(np.array([mean, log_std])).log_prob(np.tanh(u)[:, None])
    density = np.exp(log_probs) * (1 - np.tanh(u) ** 2)
    inside = np.abs(u) < 7  # Beyond, actions in [-1, 1] round to what `log_prob` cuts.
    assert np.trapezoid(density[inside], u[inside]) == pytest.approx(1.0, abs=1e-5)
    entropy = -np.trapezoid((density * log_probs)[inside], u[inside])
    assert dist.entropy()[0] == pytest.approx(entropy, abs=1e-4)


def test_drawn_log_probabilities_are_those_of_torchs_transformed_normal():
    rng = np.random.default_rng(0)
    inputs = rng.uniform(-1.5, 1.5, (50, 4)).astype(np.float32)
    mean, std = torch.as_tensor(inputs[:, :2]).double(), torch.as_tensor(inputs[:, 2:]).double()
    normal = distributions.Normal(mean, std.exp())
    reference = distributions.TransformedDistribution(normal, [distributions.TanhTransform()])
    noise = rng.standard_normal((50, 2))
    unsquashed = mean + std.exp() * torch.as_tensor(noise)
    squash = distributions.TanhTransform()
    slopes = squash.log_abs_det_jacobian(unsquashed, unsquashed.tanh())
    expected = (normal.log_prob(unsquashed) - slopes).sum(-1)
    for given in (inputs, torch.as_tensor(inputs)):
        own_noise = noise.astype(np.float32)
        dist = SquashedGaussian(given)
        actions, log_probs = dist.draw(
            own_noise if isinstance(given, np.ndarray) else torch.as_tensor(own_noise)
        )
        np.testing.assert_allclose(actions, unsquashed.tanh().numpy(), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(log_probs, expected, rtol=1e-3, atol=1e-4)
        moderate = torch.as_tensor(np.abs(np.asarray(actions)).max(-1) < 0.999)
        again = torch.as_tensor(dist.log_prob(actions))[moderate]
        theirs = reference.log_prob(torch.as_tensor(np.asarray(actions)).double()).sum(-1)
        np.testing.assert_allclose(again, theirs[moderate], rtol=1e-3, atol=1e-3)


def test_the_log_probability_is_exact_where_the_action_rounds_to_one():
    dist = SquashedGaussian(np.array([[12.0, 0.0]], np.float32))
    actions, log_probs = dist.draw(np.zeros((1, 1), np.float32))
    assert actions == 1.0
    # log N(0) - log(1 - tanh(12)^2), and 1 - tanh(u)^2 is 4 exp(-2 u) there.
    assert log_probs[0] == pytest.approx(-0.5 * math.log(2 * math.pi) - math.log(4) + 24)


def test_the_kl_divergence_is_the_mean_difference_of_log_probabilities():
    one = SquashedGaussian(np.array([0.3, -0.5], np.float64))
    other = SquashedGaussian(np.array([-0.2, 0.1], np.float64))
    noise = np.random.default_rng(0).standard_normal((400_000, 1))
    actions, log_probs = one.draw(noise)
    assert one.kl(other) == pytest.approx((log_probs - other.log_prob(actions)).mean(), abs=0.01)


# Values and the temperature


def test_expected_values_are_those_summed_action_by_action():
    log_probs = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]).log()
    q = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 0.0, 1.0]], [[2.0, 1.0, 5.0], [3.0, 2.0, 0.0]]])
    alpha = 0.5
    least = [[1.0, 1.0, 3.0], [3.0, 0.0, 0.0]]
    expected = [
        sum(
            math.exp(log_p) * (value - alpha * log_p)
            for log_p, value in zip(log_probs[row].tolist(), least[row], strict=True)
        )
        for row in range(2)
    ]
    found = soft_q.expected_values(q, log_probs, torch.tensor(alpha))
    assert found.tolist() == pytest.approx(expected)


def test_drawn_values_are_the_lower_critics_less_the_price_of_certainty():
    q = torch.tensor([[1.0, 5.0], [2.0, 3.0]])
    values = soft_q.drawn_values(q, torch.tensor([-1.0, 2.0]), torch.tensor(0.1))
    assert values.tolist() == pytest.approx([1.1, 2.8])


def test_the_temperature_falls_while_entropy_is_above_its_target_and_rises_below():
    alpha = torch.tensor(0.5)
    # -0.5 * (mean(1, 3) - 1.5)
    loss = soft_q.temperature_loss(alpha, torch.tensor([1.0, 3.0]), -1.5)
    assert float(loss) == pytest.approx(-0.25)
    log_alpha = torch.tensor(math.log(0.5), requires_grad=True)
    soft_q.temperature_loss(log_alpha.exp(), torch.tensor([1.0, 3.0]), -1.5).backward()
    assert log_alpha.grad is not None
    assert float(log_alpha.grad) == pytest.approx(float(loss))
    for negative_entropy, goes_up in ((5.0, True), (-5.0, False)):
        temperature = learner().temperature
        before = float(temperature.alpha)
        temperature.update(torch.full((4,), negative_entropy), 0.1)
        assert (float(temperature.alpha) > before) == goes_up


def test_the_target_entropy_follows_the_action_space():
    assert learner(BOX).temperature.target_entropy == -2.0
    assert learner(CHOICES).temperature.target_entropy == pytest.approx(0.98 * math.log(4))
    assert learner(CHOICES, target_entropy=0.5).temperature.target_entropy == 0.5


# Three updates of everything


def soft_values_of(actor, critics, obs, alpha, rng):
    """V and log pi [N] of a drawn action, as the paper has them."""
    mean, log_std = actor(obs).chunk(2, -1)
    normal = distributions.Normal(mean, log_std.clamp(-20, 2).exp())
    noise = torch.as_tensor(rng.standard_normal(tuple(mean.shape), dtype=np.float32))
    unsquashed = normal.loc + normal.scale * noise
    actions = unsquashed.tanh()
    # log(1 - tanh(u)^2) through torch's own transform.
    slopes = distributions.TanhTransform().log_abs_det_jacobian(unsquashed, actions)
    log_probs = (normal.log_prob(unsquashed) - slopes).sum(-1)
    q = torch.stack([critic(torch.cat([obs, actions], -1)).squeeze(-1) for critic in critics])
    return q.min(0).values - alpha * log_probs, log_probs


def expectations_of(actor, critics, obs, alpha, rng):
    """V and the negative entropy [N] over all actions."""
    probabilities = actor(obs).softmax(-1)
    q = torch.stack([critic(obs) for critic in critics]).min(0).values
    values = (probabilities * (q - alpha * probabilities.log())).sum(-1)
    return values, (probabilities * probabilities.log()).sum(-1)


@pytest.mark.parametrize("twin_q", [True, False])
@pytest.mark.parametrize("prioritized_replay", [False, True])
@pytest.mark.parametrize("action_space", [BOX, CHOICES], ids=["box", "discrete"])
def test_three_updates_move_all_that_is_learned_as_an_update_written_with_torch_alone_does(
    action_space, prioritized_replay, twin_q
):
    algo = learner(action_space, twin_q=twin_q, prioritized_replay=prioritized_replay)
    is_discrete = action_space is CHOICES
    actor, critics = actor_of(algo.network), critics_of(algo.network)
    targets = copy.deepcopy(critics_of(algo.target_network))
    log_alpha = torch.tensor(math.log(0.3), requires_grad=True)
    actor_adam = torch.optim.Adam(actor.parameters(), LR, eps=1e-3)
    critic_adam = torch.optim.Adam(critics.parameters(), 2 * LR, eps=1e-3)
    alpha_adam = torch.optim.Adam([log_alpha], 3 * LR, eps=1e-3)
    rng = seeding.generator(SEED, "learner")
    values_of = expectations_of if is_discrete else soft_values_of
    target_entropy = 0.98 * math.log(4) if is_discrete else -2.0
    for seed in range(3):
        batch = transitions(seed, 4 if is_discrete else 0)
        algo.replay.add(batch)
        rows = tensors(batch)
        importance = torch.ones(NUM_ROWS)
        if prioritized_replay:
            importance = torch.linspace(0.1, 1.0, NUM_ROWS)
            extra = {"weights": importance.numpy(), "batch_indexes": np.arange(NUM_ROWS)}
            batch = Batch({**batch, **extra})
        alpha = log_alpha.detach().exp()
        with torch.no_grad():
            next_values, _ = values_of(actor, targets, rows["next_obs"], alpha, rng)
            y = rows["rewards"] + rows["discounts"] * next_values
        loss = torch.zeros(())
        errors = []
        for critic in critics:
            if is_discrete:
                q = critic(rows["obs"])[torch.arange(NUM_ROWS), rows["actions"]]
            else:
                q = critic(torch.cat([rows["obs"], rows["actions"]], -1)).squeeze(-1)
            loss = loss + (importance * (q - y) ** 2).mean()
            errors.append((q - y).abs().detach())
        critic_adam.zero_grad()
        loss.backward()
        critic_adam.step()
        values, log_probs = values_of(actor, critics, rows["obs"], alpha, rng)
        actor_adam.zero_grad()
        (-values.mean()).backward()
        actor_adam.step()
        alpha_adam.zero_grad()
        (-log_alpha.exp() * (log_probs.detach() + target_entropy)).mean().backward()
        alpha_adam.step()
        follow(targets, critics, TAU)
        metrics = algo.learn(batch.to())
        torch.testing.assert_close(
            metrics["td_error"], torch.stack(errors).mean(0), rtol=1e-3, atol=1e-4
        )
    assert_same(algo.network, actor, critics)
    for one, other in zip(
        critics_of(algo.target_network).parameters(), targets.parameters(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5)
    assert float(algo.temperature.log_alpha) == pytest.approx(float(log_alpha.detach()), abs=1e-5)
    assert_same_moments(algo.actor_optimizer, actor, actor_adam)
    assert_same_moments(algo.optimizer, critics, critic_adam)
    mine = algo.temperature.optimizer
    torch.testing.assert_close(mine.exp_avg[0], alpha_adam.state[log_alpha]["exp_avg"])


def test_the_gradient_of_a_draw_is_autograds_also_where_the_width_is_cut():
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(50, 6))
    numbers[:, 3:] *= 15.0
    inputs = torch.tensor(numbers, requires_grad=True)
    dist = SquashedGaussian(inputs)
    is_cut = (dist.log_std != inputs[:, 3:]).float().mean()
    assert 0.2 < float(is_cut) < 0.9
    noise, by_actions = torch.tensor(rng.normal(size=(2, 50, 3)))
    actions, log_probs = dist.draw(noise)
    total = (actions * by_actions).sum() + 0.3 * log_probs.sum()
    (expected,) = torch.autograd.grad(total, [inputs])
    actions = actions.detach()
    certain = SquashedGaussian(inputs.detach())
    found = certain.gradient_of_draw(noise, actions, by_actions, torch.tensor(0.3))
    torch.testing.assert_close(found, expected)
    in_numpy = SquashedGaussian(numbers).gradient_of_draw(
        noise.numpy(), actions.numpy(), by_actions.numpy(), 0.3
    )
    np.testing.assert_allclose(in_numpy, expected)


@pytest.mark.parametrize("action_space", [BOX, CHOICES])
@pytest.mark.parametrize("twin_q", [True, False])
def test_the_gradient_of_the_actors_loss_is_autograds(twin_q, action_space):
    algo, rows = learner(action_space, twin_q=twin_q), tensors(transitions(1))
    obs, alpha = rows["obs"], torch.tensor(0.3)
    outputs = algo.network.actor_outputs(obs).detach().requires_grad_()
    critics = algo.network.critics
    if action_space is CHOICES:
        log_probs = outputs.log_softmax(-1)
        soft_values = critics(obs).amin(0) - alpha * log_probs
        loss = -(log_probs.exp() * soft_values).sum(-1).mean()
    else:
        noise = seeding.generator(SEED, "learner").standard_normal((NUM_ROWS, 2), dtype=np.float32)
        actions, log_probs = SquashedGaussian(outputs).draw(torch.from_numpy(noise))
        loss = (alpha * log_probs - critics(obs, actions).amin(0)).mean()
    found = soft_q.actor_loss(
        algo.network, outputs.detach(), obs, alpha, seeding.generator(SEED, "learner")
    )
    torch.testing.assert_close(found.loss, loss.detach())
    torch.testing.assert_close(found.gradient, *torch.autograd.grad(loss, [outputs]))


def test_the_critics_of_these_tests_disagree_on_which_is_the_lower():
    algo, rows = learner(), tensors(transitions(0))
    q = algo.network.critics(rows["obs"], rows["actions"])
    assert 0 < int((q[0] < q[1]).sum()) < NUM_ROWS


def test_learned_priorities_are_the_mean_errors_of_the_critics():
    algo = learner(
        prioritized_replay=True, prioritized_replay_alpha=1.0, prioritized_replay_eps=0.01
    )
    batch = transitions(0)
    algo.replay.add(batch)
    extra = {"weights": np.ones(NUM_ROWS, np.float32), "batch_indexes": np.arange(NUM_ROWS)}
    metrics = algo.learn(Batch({**batch, **extra}).to())
    sums = algo.replay.buffer.sums
    expected = metrics["td_error"].numpy() + 0.01
    np.testing.assert_allclose(sums.leaves(np.arange(NUM_ROWS)), expected, rtol=1e-5)


def test_a_temperature_with_a_step_size_of_0_stays():
    algo = learner(entropy_lr=0.0)
    for seed in range(2):
        algo.learn(transitions(seed).to())
    assert float(algo.temperature.alpha) == pytest.approx(0.3)


def test_three_step_rows_are_bootstrapped_from_the_soft_value_three_steps_on():
    algo = learner(n_step=3, gamma=0.5)
    rng = np.random.default_rng(0)
    steps = Batch(
        obs=rng.normal(size=(4, 1, WIDTH)).astype(np.float32),
        actions=np.zeros((4, 1, 2), np.float32),
        rewards=np.array([1, 2, 4, 8], np.float32)[:, None],
        next_obs=rng.normal(size=(4, 1, WIDTH)).astype(np.float32),
        terminated=np.zeros((4, 1), bool),
        truncated=np.zeros((4, 1), bool),
    )
    rows = algo.postprocess(algo.policy, steps)
    np.testing.assert_allclose(rows["rewards"][:, 0], [1 + 1 + 1, 2 + 2 + 2])
    np.testing.assert_allclose(rows["discounts"], 0.125)
    np.testing.assert_array_equal(rows["next_obs"], steps["next_obs"][2:])
    flat = Batch({name: column[:, 0] for name, column in rows.items()}).to()
    q = algo.values_of(flat["obs"], flat["actions"]).values
    values = soft_q.soft_values(
        algo.network,
        algo.target_network.critics,
        flat["next_obs"],
        torch.tensor(0.3),
        seeding.generator(SEED, "learner"),
    )
    expected = (q - (torch.tensor([3.0, 6.0]) + 0.125 * values)).abs().mean(0)
    torch.testing.assert_close(algo.learn(flat)["td_error"], expected)


# What it refuses


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"actor_hiddens": [8, 0]}, "algo.actor_hiddens"),
        ({"critic_lr": -1.0}, "algo.critic_lr"),
        ({"entropy_lr": -1.0}, "algo.entropy_lr"),
        ({"entropy_lr": 0, "target_entropy": 0.3}, "algo.target_entropy=0.3 has no effect"),
        ({"initial_alpha": 0.0}, "algo.initial_alpha"),
    ],
)
def test_values_out_of_range_are_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        SAC(**wrong)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        ("unbounded", "Give it some"),
        ("simplex", "Try algo=ppo"),
        ("dict", "Try algo=ppo"),
        ("counts", "Try algo=ppo"),
        ("multi binary", "Try algo=ppo"),
    ],
)
def test_action_spaces_that_no_squashed_gaussian_fits_are_refused(actions, message):
    with pytest.raises(SpaceError, match=message):
        make_trainer(
            "sac", env="space_envs.MatchEnv", overrides=[f"env.env_config.actions={actions}"]
        )


def test_actions_that_are_not_stretched_are_refused():
    with pytest.raises(SpaceError, match=r"env\.normalize_actions=true"):
        make_trainer("sac", env="pendulum", overrides=["env.normalize_actions=false"])
