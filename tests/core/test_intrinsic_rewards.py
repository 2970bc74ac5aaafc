"""Explorations that change weights or rewards, against numbers that are worked out here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from numpy.testing import assert_allclose, assert_array_equal

from rlrun.core.actor_critic import make_actor_critic
from rlrun.core.batch import Batch
from rlrun.core.exploration import (
    RE3,
    RND,
    Curiosity,
    EpsilonGreedy,
    Exploration,
    GaussianNoise,
    OrnsteinUhlenbeckNoise,
    ParameterNoise,
    PerWorkerEpsilonGreedy,
    SoftQ,
    StochasticSampling,
)
from rlrun.core.exploration.intrinsic import Learned
from rlrun.core.networks import MLP
from rlrun.core.policy import Policy
from rlrun.core.q_network import QNetwork

OBS = spaces.Box(-1.0, 1.0, (3,), np.float32)
THREE = spaces.Discrete(3)
BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


def q_network() -> Policy:
    torch.manual_seed(0)
    parts: dict[str, Any] = dict.fromkeys(("dueling", "noisy"), False)
    sizes = {"hiddens": [], "sigma0": 0.5, "num_atoms": 1, "v_min": 0.0, "v_max": 1.0}
    return QNetwork(OBS, THREE, MLP(fcnet_hiddens=[4]), **parts, **sizes)


def at_work(exploration: Exploration, policy: Policy | None = None, **given: Any) -> Any:
    """A worker's copy that gathers experience."""
    policy = policy or q_network()
    rng = np.random.default_rng(0)
    is_choice = isinstance(policy.action_space, spaces.Discrete)
    natural = EpsilonGreedy() if is_choice else StochasticSampling()
    return exploration.for_worker(
        action_space=policy.action_space, rng=rng, policy=policy, natural=natural, **given
    )


def fragment(num_steps: int = 4, num_envs: int = 2, seed: int = 0, width: int = 3) -> Batch:
    rng = np.random.default_rng(seed)
    shape = (num_steps, num_envs)
    return Batch(
        obs=rng.uniform(-1.0, 1.0, (*shape, width)).astype(np.float32),
        next_obs=rng.uniform(-1.0, 1.0, (*shape, width)).astype(np.float32),
        actions=rng.integers(3, size=shape),
        rewards=np.zeros(shape),
        terminated=np.zeros(shape, bool),
        truncated=np.zeros(shape, bool),
    )


def rows_of(batch: Batch, name: str) -> torch.Tensor:
    return torch.from_numpy(batch[name].reshape(-1, *batch[name].shape[2:]))


# Parameter noise


def act(noise: ParameterNoise, obs: np.ndarray, explore: bool = True) -> Any:
    return noise.act(obs, None, None, explore)


def test_weights_with_noise_act_and_the_policys_own_stay():
    policy = q_network()
    before = policy.flat.values.clone()
    noise = at_work(ParameterNoise(initial_stddev=0.5), policy)
    obs = fragment()["obs"][0]
    plain = policy.act(obs)[0].inputs
    noise.before_fragment()
    found = act(noise, obs)[0].inputs
    drawn = np.random.default_rng(0).standard_normal(len(before), dtype=np.float32)
    other = q_network()
    other.flat.values.copy_(before + 0.5 * torch.from_numpy(drawn))
    assert_allclose(found, other.act(obs)[0].inputs, rtol=1e-4, atol=1e-6)
    assert_array_equal(act(noise, obs, explore=False)[0].inputs, plain)
    assert_array_equal(policy.flat.values, before)


def test_noise_follows_new_weights_and_is_drawn_anew_when_episodes_end():
    policy = q_network()
    noise = at_work(ParameterNoise(initial_stddev=0.5), policy)
    obs = fragment()["obs"][0]
    act(noise, obs)
    first = noise.noise
    with torch.no_grad():
        policy.flat.values.zero_()
    noise.before_fragment()
    act(noise, obs)
    assert noise.noise is first
    assert_allclose(noise._perturbed.flat.values, 0.5 * first, rtol=1e-6)
    noise.reset(np.array([True, False]))
    act(noise, obs)
    assert noise.noise is first
    noise.reset(np.array([True, False]))
    act(noise, obs)
    assert (noise.noise != first).all()


def distance_by_hand(noise: ParameterNoise, obs: np.ndarray) -> float:
    one, other = (
        torch.from_numpy(policy.act(obs)[0].inputs).double().log_softmax(-1)
        for policy in (noise.policy, noise._perturbed)
    )
    return float((one.exp() * (one - other)).sum(-1).mean())


@pytest.mark.parametrize(("target", "factor"), [(100.0, 1.01), (1e-9, 1.0 / 1.01)])
def test_the_scale_of_noise_keeps_the_distance_of_actions(target, factor):
    noise = at_work(ParameterNoise(target_distance=target))
    batch = fragment()
    noise.before_fragment()
    for obs in batch["obs"]:
        act(noise, obs)
    numbers = noise.postprocess(batch, 0)
    expected = np.mean([distance_by_hand(noise, obs) for obs in batch["obs"]])
    assert numbers["action_distance"] == pytest.approx(expected, rel=1e-4)
    # Once every 50 steps; these are 8.
    assert numbers["parameter_noise_stddev"] == pytest.approx(factor ** (8 / 50))


def test_continuous_actions_differ_by_the_root_of_their_mean_square():
    policy = make_actor_critic(OBS, BOX, MLP(fcnet_hiddens=[4]))
    noise = at_work(ParameterNoise(initial_stddev=0.3), policy)
    obs = fragment()["obs"][0]
    noise.before_fragment()
    found, extras, _ = act(noise, obs)
    plain, own_extras, _ = policy.act(obs)
    assert_array_equal(extras["values"], own_extras["values"])
    expected = math.sqrt(np.square(found.mode() - plain.mode()).mean())
    numbers = noise.postprocess(fragment(1), 0)
    assert numbers["action_distance"] == pytest.approx(expected, rel=1e-5)


def test_rows_that_only_reset_say_nothing_of_the_scale_of_noise():
    noise = at_work(ParameterNoise(target_distance=100.0))
    batch = fragment(2)
    batch["valid"] = np.array([[True, True], [False, True]])
    noise.before_fragment()
    for obs in batch["obs"]:
        act(noise, obs)
    numbers = noise.postprocess(batch, 0)
    each = [distance_by_hand(noise, obs[None]) for obs in batch["obs"][batch["valid"]]]
    assert numbers["action_distance"] == pytest.approx(np.mean(each), rel=1e-4)
    assert numbers["parameter_noise_stddev"] == pytest.approx(1.01 ** (3 / 50))
    batch["valid"][:] = False
    assert noise.postprocess(batch, 0) == {}


@pytest.mark.parametrize(
    ("sub", "policy", "expected"),
    [
        (EpsilonGreedy(initial_epsilon=0.3), None, -math.log(1.0 - 0.3 + 0.3 / 3)),
        (SoftQ(), None, 0.1),
        (GaussianNoise(stddev=0.2, scale_schedule=0.5), BOX, 0.1),
    ],
)
def test_the_distance_aimed_at_is_that_of_the_exploration_within(sub, policy, expected):
    if policy is not None:
        policy = make_actor_critic(OBS, policy, MLP(fcnet_hiddens=[4]))
    noise = at_work(ParameterNoise(sub_exploration=sub), policy)
    assert noise._target(0, 1) == pytest.approx(expected)


def test_the_distance_of_drifting_noise_is_what_it_comes_to_in_the_long_run():
    sub = OrnsteinUhlenbeckNoise(
        ou_base_scale=0.5, ou_theta=0.2, ou_sigma=0.3, scale_schedule=0.5, random_timesteps=0
    )
    policy = make_actor_critic(OBS, BOX, MLP(fcnet_hiddens=[4]))
    noise = at_work(ParameterNoise(sub_exploration=sub), policy)
    # Both dimensions are 2 wide; x has the variance 0.09 / (1 - 0.64) = 0.25.
    assert noise._target(0, 1) == pytest.approx(0.5 * 2.0 * 0.5 * 0.5)
    steps = np.concatenate([noise.sub.draw(400, 2)[0] for _ in range(100)][50:])
    assert steps.std() == pytest.approx(noise.sub.stddev, rel=0.03)


@pytest.mark.parametrize("kind", [GaussianNoise, OrnsteinUhlenbeckNoise])
def test_the_algorithms_own_noise_falls_after_all_random_actions(kind):
    policy = make_actor_critic(OBS, BOX, MLP(fcnet_hiddens=[4]))
    natural = kind(random_timesteps=10, final_scale=0.5, scale_timesteps=100)
    noise = ParameterNoise(random_timesteps=50).for_worker(
        action_space=BOX, rng=np.random.default_rng(0), natural=natural, policy=policy
    )
    assert [noise.sub.scale(timestep, 1) for timestep in (50, 100, 150)] == [1.0, 0.75, 0.5]


def test_the_distance_of_workers_is_that_of_their_own_epsilons():
    noise = at_work(
        ParameterNoise(sub_exploration=PerWorkerEpsilonGreedy()), worker_index=2, num_workers=2
    )
    epsilon = 0.5 * (0.4 ** (1 + 7 * 2 / 3) + 0.4**8)
    assert noise._target(0, 2) == pytest.approx(-math.log(1.0 - epsilon + epsilon / 3))


def test_beside_noise_epsilon_greedy_choices_are_few_and_their_own_epsilon_sets_the_distance():
    noise = at_work(ParameterNoise())
    assert noise.sub.epsilon(0) == noise.sub.epsilon(10**6) == 0.01
    # EpsilonGreedy() of three actions: from 1 to 0.01 within 62,500 steps.
    for timestep, epsilon in ((31_250, 0.505), (62_500, 0.01)):
        expected = -math.log(1.0 - epsilon + epsilon / 3)
        assert noise._target(timestep, 1) == pytest.approx(expected)


def test_where_nothing_is_gathered_there_is_no_noise():
    noise = ParameterNoise().for_worker(
        action_space=THREE, rng=np.random.default_rng(0), natural=EpsilonGreedy()
    )
    assert noise.actor is None


# Modules that learn


def test_a_fragment_is_gone_through_once_in_shuffled_minibatches():
    learned = Learned(torch.nn.Linear(1, 1), 1e-3)
    before, seen = learned.flat.values.clone(), []

    def loss(index: torch.Tensor) -> torch.Tensor:
        seen.append(index)
        return learned.module(torch.ones(1)).sum() * 0.0 + float(index.float().mean())

    mean = learned.learn(loss, 10, 3, np.random.default_rng(0))
    assert [len(index) for index in seen] == [4, 4, 2]
    assert sorted(torch.cat(seen).tolist()) == list(range(10))
    assert torch.cat(seen).tolist() != list(range(10))
    assert mean == pytest.approx(4.5)
    assert learned.optimizer.num_steps == 3
    assert_array_equal(learned.flat.values, before)


# Curiosity


def test_curiosity_rewards_the_error_of_the_forward_model_and_learns_both():
    icm = at_work(
        Curiosity(
            feature_dim=4, inverse_net_hiddens=[5], forward_net_hiddens=[5], beta=0.3, eta=2.0
        )
    )
    batch = fragment()
    actions = rows_of(batch, "actions")
    features, following = (icm.features(rows_of(batch, name)) for name in ("obs", "next_obs"))
    first, _, second = icm.inverse
    logits = second(torch.relu(first(torch.cat([features, following], 1))))
    inverse_loss = torch.nn.functional.cross_entropy(logits, actions)
    first, _, second = icm.forward
    one_hot = torch.nn.functional.one_hot(actions, 3).float()
    foretold = second(torch.relu(first(torch.cat([features.detach(), one_hot], 1))))
    errors = 0.5 * (foretold - following.detach()).square().sum(1)
    loss = 0.7 * inverse_loss + 0.3 * errors.mean()
    gradient = torch.cat(
        [part.reshape(-1) for part in torch.autograd.grad(loss, list(icm.learned.flat.trainable))]
    )
    before = icm.learned.flat.values.clone()
    numbers = icm.postprocess(batch, 0)
    assert_allclose(batch["rewards"].ravel(), 2.0 * errors.detach(), rtol=1e-5)
    assert numbers["inverse_loss"] == pytest.approx(inverse_loss.item(), rel=1e-5)
    assert numbers["forward_loss"] == pytest.approx(errors.mean().item(), rel=1e-5)
    assert numbers["intrinsic_reward_mean"] == pytest.approx(2.0 * errors.mean().item(), rel=1e-5)
    # The first step of Adam: lr times the sign of the gradient.
    moved = gradient.abs() > 1e-4
    step = (icm.learned.flat.values - before)[moved]
    assert_allclose(step, -1e-3 * gradient[moved].sign(), rtol=1e-2)


def test_curiosity_about_what_is_foretold_wanes():
    icm = at_work(Curiosity(feature_dim=4))
    found = []
    for _ in range(150):
        batch = fragment()
        icm.postprocess(batch, 0)
        found.append(batch["rewards"].mean())
    assert found[-1] < 0.3 * max(found)


def test_curiosity_takes_continuous_actions_as_they_are():
    policy = make_actor_critic(OBS, BOX, MLP(fcnet_hiddens=[4]))
    icm = at_work(Curiosity(feature_dim=4, inverse_net_hiddens=[]), policy)
    batch = fragment()
    actions = np.random.default_rng(1).normal(size=(4, 2, 2)).astype(np.float32)
    batch["actions"] = actions
    both = [icm.features(rows_of(batch, name)) for name in ("obs", "next_obs")]
    means = icm.inverse(torch.cat(both, 1)).detach().numpy()
    expected = 0.5 * np.square(actions.reshape(8, 2) - means).sum(1) + math.log(2 * math.pi)
    numbers = icm.postprocess(batch, 0)
    assert numbers["inverse_loss"] == pytest.approx(expected.mean(), rel=1e-5)


def test_the_rewards_that_policies_see_are_kept_beside_those_that_are_learned():
    icm = at_work(Curiosity(feature_dim=4, sub_exploration=RND(embed_dim=4)))
    batch, blind = fragment(), fragment()
    batch["rewards"] = np.arange(8.0).reshape(4, 2)
    batch["prev_rewards"] = np.zeros((4, 2))
    icm.postprocess(batch, 0)
    assert_array_equal(batch["acting_rewards"], np.arange(8.0).reshape(4, 2))
    assert (batch["rewards"] > batch["acting_rewards"]).all()
    icm.postprocess(blind, 0)
    assert "acting_rewards" not in blind


# RND


def test_rnd_rewards_the_error_of_its_predictor_over_the_spread_of_its_returns():
    rnd = at_work(RND(embed_dim=4, predictor_hiddens=5, intrinsic_gamma=0.9))
    first = fragment(seed=1)
    rnd.postprocess(first, 0)
    batch = fragment()
    seen = np.concatenate([first["next_obs"].reshape(8, 3), batch["next_obs"].reshape(8, 3)])
    normal = (batch["next_obs"].reshape(8, 3) - seen.mean(0)) / seen.std(0, ddof=1)
    normal = torch.from_numpy(np.clip(normal, -5.0, 5.0).astype(np.float32))
    with torch.no_grad():
        difference = rnd.learned.module(normal) - rnd.target.module(normal)
    novelty = difference.square().mean(1).numpy().reshape(4, 2)
    target = rnd.target.values.clone()
    returns, running = [], rnd.returns.copy()
    known = rnd.return_moments.state_dict()
    for row in novelty:
        running = 0.9 * running + row
        returns.append(running)
    numbers = rnd.postprocess(batch, 0)
    assert numbers["prediction_loss"] == pytest.approx(novelty.mean(), rel=1e-4)
    assert rnd.return_moments.count == known["count"] + 8 == 16
    all_returns = np.concatenate([earlier_returns(first, 0.9), np.ravel(returns)])
    spread = all_returns.std(ddof=1)
    assert_allclose(batch["rewards"], 0.5 * novelty / spread, rtol=1e-4)
    assert_array_equal(rnd.target.values, target)


def earlier_returns(batch: Batch, gamma: float) -> np.ndarray:
    """Returns of the first fragment's novelty, by a module that has seen nothing else."""
    rnd = at_work(RND(embed_dim=4, predictor_hiddens=5, intrinsic_gamma=gamma))
    rows = batch["next_obs"].reshape(8, 3)
    normal = ((rows - rows.mean(0)) / rows.std(0, ddof=1)).astype(np.float32)
    with torch.no_grad():
        novelty = rnd.errors(torch.from_numpy(normal)).numpy().reshape(4, 2)
    running, found = np.zeros(2), []
    for row in novelty:
        running = gamma * running + row
        found.append(running)
    return np.ravel(found)


def test_rnd_is_drawn_to_what_it_has_not_seen():
    rnd = at_work(RND(embed_dim=8, predictor_hiddens=16, lr=1e-3))
    for _ in range(300):
        batch = fragment()
        batch["next_obs"][..., 0] = -0.5
        batch["next_obs"][0, 0, 0] = 0.5
        rnd.postprocess(batch, 0)
    usual = np.ones((4, 2), bool)
    usual[0, 0] = False
    strange = fragment(seed=5)
    strange["next_obs"] *= -1.0
    rnd.postprocess(strange, 0)
    assert strange["rewards"].mean() > 2.0 * batch["rewards"][usual].mean()


# RE3


def test_re3_rewards_the_distance_to_the_kth_neighbor():
    re3 = at_work(RE3(embeds_dim=4, k_nn=2, num_neighbors=10, beta=[[0, 0.5], [100, 0.1]]))
    first, batch = fragment(seed=1), fragment()
    re3.postprocess(first, 0)
    with torch.no_grad():
        points = [re3.encoder(rows_of(each, "obs")).numpy() for each in (first, batch)]
    # The last ten of sixteen: two of the first fragment.
    known = np.concatenate([points[0][6:], points[1]])
    expected = []
    for point in points[1]:
        distances = np.sort(np.linalg.norm(known - point, axis=1))
        expected.append(0.3 * math.log(1.0 + distances[2]))
    re3.postprocess(batch, 50)
    assert_allclose(batch["rewards"].ravel(), expected, rtol=1e-4)


# All of them

INTRINSIC = [Curiosity(feature_dim=4), RND(embed_dim=4), RE3(embeds_dim=4, k_nn=2)]


@pytest.mark.parametrize("exploration", INTRINSIC, ids=lambda each: type(each).__name__)
def test_steps_that_are_none_get_no_reward_and_count_for_nothing(exploration):
    found = []
    for garbage in (0.0, 0.9):
        mine = at_work(exploration)
        for _ in range(2):
            batch = fragment()
            batch["valid"] = np.ones((4, 2), bool)
            batch["valid"][1, 0] = batch["valid"][3, 1] = False
            batch["obs"][1, 0] = batch["next_obs"][1, 0] = garbage
            mine.postprocess(batch, 0)
        assert batch["rewards"][1, 0] == batch["rewards"][3, 1] == 0.0
        assert batch["rewards"][0, 0] > 0.0
        found.append(batch["rewards"])
    assert_array_equal(*found)


@pytest.mark.parametrize("exploration", INTRINSIC, ids=lambda each: type(each).__name__)
def test_onlookers_only_choose_actions(exploration):
    mine = exploration.for_worker(
        action_space=THREE,
        rng=np.random.default_rng(0),
        natural=EpsilonGreedy(initial_epsilon=0.0),
    )
    dist = q_network().act(fragment()["obs"][0])[0]
    actions, _ = mine.get_exploration_action(dist, 10**6, explore=True)
    assert_array_equal(actions, dist.mode())
    assert mine.rollout_columns == ()
    assert mine.state_dict() == {"sub": {}}
