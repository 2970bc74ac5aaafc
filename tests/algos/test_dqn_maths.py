"""DQN's arithmetic against updates written here with torch alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from rlrun.algos.apex import Apex
from rlrun.algos.dqn import DQN
from rlrun.algos.r2d2 import R2D2
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError
from rlrun.core.networks import MLP, NoisyLinear
from rlrun.run import make_trainer

OBS_SPACE = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTION_SPACE = spaces.Discrete(4)
NUM_ROWS = 16
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def learner(**hyperparameters: Any) -> DQN:
    settings = {
        "lr": 0.01,
        "hiddens": [8],
        "train_batch_size": NUM_ROWS,
        "prioritized_replay": False,
        "buffer_size": 64,
        "learning_starts": 0,
        "target_network_update_freq": 10**6,
        **hyperparameters,
    }
    algo = DQN(**settings)
    policy = algo.make_policy(OBS_SPACE, ACTION_SPACE, MLP(fcnet_hiddens=[16]))
    policy.act(np.zeros((1, 3), np.float32))  # setup moves weights that were used already
    algo.setup(policy, CPU, 0)
    return algo


def atoms(num_atoms: int, bound: float) -> dict[str, Any]:
    """The settings of that many atoms between -bound and bound."""
    return {"num_atoms": num_atoms} | ({"v_min": -bound, "v_max": bound} if num_atoms > 1 else {})


def diverged(algo: DQN) -> DQN:
    """The learner with a target network that is not the online one, and wider action gaps."""
    rng = np.random.default_rng(5)
    with torch.no_grad():
        for net in (algo.network, algo.target.network):
            for parameter in net.parameters():
                noise = torch.as_tensor(rng.normal(size=tuple(parameter.shape))).float()
                parameter.add_(0.3 * noise)
    return algo


def reference_of(net: nn.Module) -> dict[str, nn.Parameter]:
    return {
        name: nn.Parameter(numbers.detach().clone()) for name, numbers in net.named_parameters()
    }


def layer(weights: dict[str, nn.Parameter], name: str, inputs: torch.Tensor) -> torch.Tensor:
    return inputs @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def stream(weights: dict[str, nn.Parameter], name: str, obs: Any) -> torch.Tensor:
    features = torch.tanh(layer(weights, "encoder.0", torch.as_tensor(obs)))
    return layer(weights, f"{name}.2", torch.relu(layer(weights, f"{name}.0", features)))


def outputs_of(weights: dict[str, nn.Parameter], obs: Any, num_atoms: int = 1) -> torch.Tensor:
    """Q [N, A], or logits [N, A, atoms]: V + A - mean over actions of A (Wang et al., eq. 9)."""
    shape = (-1, 4, num_atoms)
    advantage = stream(weights, "advantage", obs).view(shape)
    if "value.0.weight" in weights:
        value = stream(weights, "value", obs).view(-1, 1, num_atoms)
        advantage = value + advantage - advantage.mean(dim=1, keepdim=True)
    return advantage if num_atoms > 1 else advantage[..., 0]


def transitions(num_rows: int = NUM_ROWS, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    discounts = np.where(rng.random(num_rows) < 0.3, 0.0, 0.97**3)
    return Batch(
        obs=rng.normal(size=(num_rows, 3)).astype(np.float32),
        actions=rng.integers(0, 4, num_rows),
        rewards=(rng.normal(size=num_rows) * 2).astype(np.float32),
        next_obs=rng.normal(size=(num_rows, 3)).astype(np.float32),
        discounts=discounts.astype(np.float32),
    )


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(column) for name, column in batch.items()}


def td_errors(weights, target_weights, batch, double_q=True) -> torch.Tensor:
    rows = tensors(batch)
    q = outputs_of(weights, rows["obs"])[torch.arange(len(rows["obs"])), rows["actions"]]
    with torch.no_grad():
        next_q = outputs_of(target_weights, rows["next_obs"])
        chooser = outputs_of(weights, rows["next_obs"]) if double_q else next_q
        next_actions = chooser.argmax(dim=1)
        bootstrap = next_q[torch.arange(len(next_q)), next_actions]
    return q - (rows["rewards"] + rows["discounts"] * bootstrap)


def projected(next_probs, rewards, discounts, support) -> torch.Tensor:
    """Each atom's mass goes to its neighbours with triangular weights: algorithm 1, all at once."""
    spacing = support[1] - support[0]
    moved = (rewards[:, None] + discounts[:, None] * support).clamp(support[0], support[-1])
    shares = (1 - (moved[:, None, :] - support[None, :, None]).abs() / spacing).clamp(min=0)
    return (shares * next_probs[:, None, :]).sum(dim=2)


def distributional_row_losses(weights, target_weights, batch, support, double_q=True):
    rows, num_atoms = tensors(batch), len(support)
    every = torch.arange(len(rows["obs"]))
    log_probs = outputs_of(weights, rows["obs"], num_atoms).log_softmax(-1)[every, rows["actions"]]
    with torch.no_grad():
        next_probs = outputs_of(target_weights, rows["next_obs"], num_atoms).softmax(-1)
        chooser = outputs_of(weights, rows["next_obs"], num_atoms).softmax(-1)
        next_actions = ((chooser if double_q else next_probs) @ support).argmax(dim=1)
        target = projected(
            next_probs[every, next_actions], rows["rewards"], rows["discounts"], support
        )
    return -(target * log_probs).sum(dim=1)


def quantile_row_losses(weights, target_weights, batch, num_quantiles, double_q):
    """A loop over rows and pairs of quantiles (QR-DQN, algorithm 1)."""
    rows = tensors(batch)
    outputs = outputs_of(weights, rows["obs"], num_quantiles)
    with torch.no_grad():
        next_quantiles = outputs_of(target_weights, rows["next_obs"], num_quantiles)
        chooser = outputs_of(weights, rows["next_obs"], num_quantiles)
        best = (chooser if double_q else next_quantiles).mean(-1).argmax(-1)
    found = []
    for n in range(len(best)):
        row_loss = torch.zeros(())
        for i in range(num_quantiles):
            tau = (2 * i + 1) / (2 * num_quantiles)
            for j in range(num_quantiles):
                target = rows["rewards"][n] + rows["discounts"][n] * next_quantiles[n, best[n], j]
                u = target - outputs[n, rows["actions"][n], i]
                weight = 1 - tau if u < 0 else tau
                row_loss = row_loss + weight * huber_of(u) / num_quantiles
        found.append(row_loss)
    return torch.stack(found)


def huber_of(errors: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.huber_loss(errors, torch.zeros_like(errors), reduction="none")


def step(weights, optimizer, loss, grad_clip=40.0) -> None:
    optimizer.zero_grad()
    loss.backward()
    if grad_clip is not None:
        nn.utils.clip_grad_norm_(weights.values(), grad_clip)
    optimizer.step()


def adam(weights, lr: float = 0.01) -> torch.optim.Adam:
    return torch.optim.Adam(weights.values(), lr=lr, eps=1e-3)


def assert_same(net: nn.Module, weights: dict[str, Any]) -> None:
    for name, numbers in net.named_parameters():
        torch.testing.assert_close(
            numbers.detach(), weights[name].detach(), rtol=1e-4, atol=1e-5, msg=name
        )


@pytest.mark.parametrize("dueling", [True, False])
@pytest.mark.parametrize("double_q", [True, False])
def test_learning_equals_a_q_learning_update_written_with_torch_alone(dueling, double_q):
    algo = diverged(learner(dueling=dueling, double_q=double_q, adam_epsilon=1e-3))
    weights, target_weights = reference_of(algo.network), reference_of(algo.target.network)
    optimizer = adam(weights)
    for seed in (0, 1):
        batch = transitions(seed=seed)
        loss = huber_of(td_errors(weights, target_weights, batch, double_q)).mean()
        step(weights, optimizer, loss)
        algo.learn(batch.to())
    assert_same(algo.network, weights)
    assert_same(algo.target.network, target_weights)


def test_the_two_networks_of_these_tests_prefer_different_actions():
    algo = diverged(learner())
    weights, target_weights = reference_of(algo.network), reference_of(algo.target.network)
    batch = transitions()
    double = td_errors(weights, target_weights, batch, double_q=True)
    single = td_errors(weights, target_weights, batch, double_q=False)
    assert (double != single).any()
    assert (double.abs() > 1).any()
    assert (double.abs() < 1).any()


@pytest.mark.parametrize("double_q", [True, False])
@pytest.mark.parametrize("dueling", [True, False])
def test_learning_with_atoms_equals_a_c51_update_written_with_torch_alone(dueling, double_q):
    algo = diverged(
        learner(
            num_atoms=11, v_min=-4.0, v_max=4.0, dueling=dueling, double_q=double_q,
            adam_epsilon=1e-3,
        )
    )  # fmt: skip
    weights, target_weights = reference_of(algo.network), reference_of(algo.target.network)
    optimizer, support = adam(weights), torch.linspace(-4, 4, 11)
    for seed in (0, 1):
        batch = transitions(seed=seed)
        row_losses = distributional_row_losses(weights, target_weights, batch, support, double_q)
        step(weights, optimizer, row_losses.mean())
        algo.learn(batch.to())
    assert_same(algo.network, weights)


@pytest.mark.parametrize("double_q", [True, False])
@pytest.mark.parametrize("dueling", [True, False])
def test_learning_with_quantiles_equals_a_qr_dqn_update_written_with_torch_alone(dueling, double_q):
    algo = diverged(learner(num_quantiles=5, dueling=dueling, double_q=double_q, adam_epsilon=1e-3))
    weights, target_weights = reference_of(algo.network), reference_of(algo.target.network)
    optimizer = adam(weights)
    for seed in (0, 1):
        batch = transitions(seed=seed)
        row_losses = quantile_row_losses(weights, target_weights, batch, 5, double_q)
        step(weights, optimizer, row_losses.mean())
        algo.learn(batch.to())
    assert_same(algo.network, weights)


def test_a_policy_with_quantiles_takes_the_action_of_the_largest_mean():
    algo = diverged(learner(num_quantiles=5))
    obs = transitions()["obs"]
    dist, _, _ = algo.network.act(obs)
    expected = outputs_of(reference_of(algo.network), obs, 5).mean(-1).detach().numpy()
    np.testing.assert_allclose(dist.inputs, expected, rtol=1e-4, atol=1e-5)


def test_atoms_and_quantiles_exclude_each_other():
    with pytest.raises(ConfigError, match=r"num_atoms=51 and algo.num_quantiles=9 both"):
        learner(num_atoms=51, num_quantiles=9)


@pytest.mark.parametrize("grad_clip", [None, 0.05])
def test_the_gradient_is_clipped_to_its_limit(grad_clip):
    algo = diverged(learner(grad_clip=grad_clip, adam_epsilon=1e-3))
    weights, target_weights = reference_of(algo.network), reference_of(algo.target.network)
    batch = transitions()
    loss = huber_of(td_errors(weights, target_weights, batch)).mean()
    step(weights, adam(weights), loss, grad_clip)
    algo.learn(batch.to())
    assert_same(algo.network, weights)


@pytest.mark.parametrize("num_atoms", [1, 11])
def test_importance_weights_scale_the_loss_of_each_row(num_atoms):
    algo = diverged(learner(prioritized_replay=True, adam_epsilon=1e-3, **atoms(num_atoms, 4.0)))
    weights, target_weights = reference_of(algo.network), reference_of(algo.target.network)
    batch = transitions()
    algo.replay.add(batch)
    importance = np.linspace(0.1, 1.0, NUM_ROWS).astype(np.float32)
    if num_atoms == 1:
        row_losses = huber_of(td_errors(weights, target_weights, batch))
    else:
        support = torch.linspace(-4, 4, 11)
        row_losses = distributional_row_losses(weights, target_weights, batch, support)
    step(weights, adam(weights), (torch.as_tensor(importance) * row_losses).mean())
    algo.learn(Batch(batch, weights=importance, batch_indexes=np.arange(NUM_ROWS)).to())
    assert_same(algo.network, weights)


def test_new_priorities_are_the_absolute_td_errors_of_the_learned_rows():
    algo = diverged(
        learner(
            prioritized_replay=True,
            prioritized_replay_alpha=0.6,
            prioritized_replay_beta=1.0,
            prioritized_replay_eps=0.01,
        )
    )
    batch = transitions()
    algo.replay.add(batch)
    weights, target_weights = reference_of(algo.network), reference_of(algo.target.network)
    errors = td_errors(weights, target_weights, batch).detach().abs().numpy()
    algo.learn(
        Batch(batch, weights=np.ones(NUM_ROWS, np.float32), batch_indexes=np.arange(NUM_ROWS)).to()
    )
    sample = algo.replay.buffer.sample(200, 1.0)
    # With beta = 1 a weight is the smallest priority over the row's own.
    expected = ((errors.min() + 0.01) / (errors + 0.01)) ** 0.6
    np.testing.assert_allclose(sample["weights"], expected[sample["batch_indexes"]], rtol=1e-3)


@pytest.mark.parametrize(
    ("shape", "new_frames"), [((10, 10, 3), 3), ((4, 10, 10), 1), ((10, 10, 4), 1), ((10, 10), 1)]
)
def test_room_is_counted_for_each_frame_that_a_step_brings(shape, new_frames):
    algo = learner()
    algo.policy.obs_space = spaces.Box(0, 255, shape, np.uint8)
    assert algo.storage_maker()(8).new_frames == new_frames


def test_a_sampled_train_batch_holds_added_rows_and_can_be_learned():
    for prioritized_replay in (False, True):
        algo = learner(prioritized_replay=prioritized_replay, n_step=1)
        batch = transitions(40)
        algo.replay.add(batch)
        sample = algo.replay.sample(0)
        assert sample["obs"].shape == (NUM_ROWS, 3)
        known = {tuple(row): i for i, row in enumerate(batch["obs"])}
        for row, obs in enumerate(sample["obs"]):
            original = known[tuple(obs)]
            for name in ("actions", "rewards", "next_obs", "discounts"):
                np.testing.assert_array_equal(sample[name][row], batch[name][original])
        before = reference_of(algo.network)
        algo.learn(sample.to())
        assert any(
            not torch.equal(numbers, before[name])
            for name, numbers in algo.network.named_parameters()
        )


@pytest.mark.parametrize("num_atoms", [1, 5])
@pytest.mark.parametrize("dueling", [True, False])
def test_dueling_streams_are_joined_with_the_mean_advantage_subtracted(dueling, num_atoms):
    algo = diverged(learner(dueling=dueling, **atoms(num_atoms, 2.0)))
    weights, obs = reference_of(algo.network), transitions()["obs"]
    with torch.no_grad():
        outputs = algo.network(Batch(obs=torch.as_tensor(obs)))
        expected = outputs_of(weights, obs, num_atoms)
        torch.testing.assert_close(outputs, expected, rtol=1e-4, atol=1e-5)
        if dueling:
            value = stream(weights, "value", obs)
            mean = outputs.mean(dim=1)
            torch.testing.assert_close(mean.view_as(value), value, rtol=1e-4, atol=1e-5)
        if num_atoms > 1:
            expected = expected.softmax(dim=-1) @ torch.linspace(-2, 2, num_atoms)
        torch.testing.assert_close(algo.network.q_values(outputs), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("num_atoms", [1, 5])
def test_the_policy_acts_greedily_on_the_values_that_it_has_just_learned(num_atoms):
    algo = diverged(learner(num_atoms=num_atoms, lr=0.02))
    obs = transitions(200, seed=3)["obs"]
    for _ in range(3):
        algo.learn(transitions().to())
    with torch.no_grad():
        expected = algo.network.q_values(algo.network(Batch(obs=torch.as_tensor(obs)))).argmax(
            dim=1
        )
    dist, _, _ = algo.policy.act(obs, explore=False)
    np.testing.assert_array_equal(dist.mode(), expected.numpy())
    assert len(set(expected.tolist())) > 1


def trajectory(num_steps: int, num_envs: int = 2) -> Batch:
    rng = np.random.default_rng(0)
    shape = (num_steps, num_envs)
    return Batch(
        obs=rng.normal(size=(*shape, 3)).astype(np.float32),
        actions=rng.integers(0, 4, shape),
        rewards=rng.normal(size=shape).astype(np.float32),
        next_obs=rng.normal(size=(*shape, 3)).astype(np.float32),
        terminated=np.zeros(shape, bool),
        truncated=np.zeros(shape, bool),
    )


def test_postprocessing_sums_three_steps_and_stops_at_each_kind_of_ending():
    algo = learner(n_step=3, gamma=0.5)
    steps = trajectory(6)
    steps["rewards"] = np.stack([[1, 2, 4, 8, 16, 32], np.ones(6)], axis=1).astype(np.float32)
    steps["terminated"][2, 0] = True
    steps["truncated"][3, 1] = True
    rows = algo.postprocess(algo.policy, Batch(steps))
    # Env 0: windows 0-2, 1-2, 2-2 end in the termination; 3-5 is whole.
    np.testing.assert_allclose(rows["rewards"][:, 0], [1 + 1 + 1, 2 + 2, 4, 8 + 8 + 8])
    np.testing.assert_allclose(rows["discounts"][:, 0], [0, 0, 0, 0.5**3])
    np.testing.assert_array_equal(rows["next_obs"][:, 0], steps["next_obs"][[2, 2, 2, 5], 0])
    # Env 1: 0-2 whole, 1-3 whole and cut there, 2-3 and 3-3 cut: all still bootstrap.
    np.testing.assert_allclose(rows["rewards"][:, 1], [1.75, 1.75, 1.5, 1.0])
    np.testing.assert_allclose(rows["discounts"][:, 1], [1 / 8, 1 / 8, 1 / 4, 1 / 2])
    np.testing.assert_array_equal(rows["next_obs"][:, 1], steps["next_obs"][[2, 3, 3, 3], 1])
    for name in ("obs", "actions"):
        np.testing.assert_array_equal(rows[name], steps[name][:4])


def test_postprocessing_of_single_steps_only_adds_discounts():
    algo = learner(n_step=1, gamma=0.9)
    steps = trajectory(4)
    steps["terminated"][1, 0] = steps["truncated"][2, 1] = True
    rows = algo.postprocess(algo.policy, Batch(steps))
    expected = np.full((4, 2), 0.9)
    expected[1, 0] = 0.0
    np.testing.assert_allclose(rows["discounts"], expected, rtol=1e-6)
    for name in ("obs", "actions", "rewards", "next_obs"):
        np.testing.assert_array_equal(rows[name], steps[name])


def test_a_step_that_both_terminated_and_was_truncated_does_not_bootstrap():
    algo = learner(n_step=1, gamma=0.9)
    steps = trajectory(2)
    steps["terminated"][1, 0] = steps["truncated"][1, 0] = True
    assert algo.postprocess(algo.policy, Batch(steps))["discounts"][1, 0] == 0


def test_the_target_network_is_copied_each_time_its_period_has_passed():
    algo = learner(target_network_update_freq=100)
    initial = reference_of(algo.network)
    assert_same(algo.target.network, initial)
    for timestep in (10, 50, 99):
        algo.clock = partial(int, timestep)
        algo.learn(transitions(seed=timestep).to())
        assert_same(algo.target.network, initial)
    algo.clock = lambda: 100
    algo.learn(transitions(seed=100).to())
    copied = reference_of(algo.network)
    assert_same(algo.target.network, copied)
    assert not torch.equal(copied["encoder.0.weight"], initial["encoder.0.weight"])
    algo.clock = lambda: 199
    algo.learn(transitions(seed=199).to())
    assert_same(algo.target.network, copied)
    algo.clock = lambda: 200
    algo.learn(transitions(seed=200).to())
    assert_same(algo.target.network, reference_of(algo.network))


def test_the_copied_target_does_not_follow_the_online_network():
    algo = learner(target_network_update_freq=1)
    algo.clock = lambda: 1
    algo.learn(transitions().to())
    before = reference_of(algo.target.network)
    with torch.no_grad():
        for parameter in algo.network.parameters():
            parameter.add_(1.0)
    assert_same(algo.target.network, before)


def test_a_soft_update_moves_the_target_by_tau_and_counts_updates():
    algo = diverged(learner(target_network_update_freq=2, tau=0.25))
    old = reference_of(algo.target.network)
    algo.clock = lambda: 1000
    algo.learn(transitions(seed=1).to())
    assert_same(algo.target.network, old)
    algo.learn(transitions().to())
    new = reference_of(algo.network)
    mixed = {name: 0.75 * old[name].detach() + 0.25 * new[name].detach() for name in old}
    assert_same(algo.target.network, mixed)


@pytest.mark.parametrize("kind", [DQN, Apex, R2D2])
def test_an_interval_of_env_steps_is_none_of_updates(kind):
    usual = kind().target_network_update_freq
    message = rf"target_network_update_freq={usual} is of env steps .* algo\.tau=0\.5 it counts"
    with pytest.raises(ConfigError, match=message):
        kind(tau=0.5)
    with pytest.raises(ConfigError, match=message):
        kind().set_hyperparameters(tau=0.5)
    kind(tau=0.5, target_network_update_freq=1)


@pytest.mark.parametrize(
    ("tau", "interval", "is_unusual"), [(0.01, 100, True), (0.01, 1, False), (1.0, 100, False)]
)
def test_a_target_that_hardly_moves_is_warned_of(caplog, tau, interval, is_unusual):
    learner(tau=tau, target_network_update_freq=interval)
    assert ("once in so many updates" in caplog.text) == is_unusual


@pytest.mark.parametrize(("tau", "new_tau", "count"), [(1.0, 0.5, 1), (0.5, 1.0, 5000)])
def test_a_new_tau_begins_a_new_interval_in_what_is_then_counted(tau, new_tau, count):
    algo = learner(target_network_update_freq=2, tau=tau)
    algo.clock = lambda: 5000
    algo.learn(transitions().to())
    algo.set_hyperparameters(tau=new_tau)
    assert algo.target.last_update == count
    num_updates = algo.target.num_updates
    for timestep, expected in ((5001, num_updates), (5002, num_updates + 1)):
        algo.clock = partial(int, timestep)
        algo.learn(transitions(seed=timestep).to())
        assert algo.target.num_updates == expected


def test_a_restored_learner_counts_as_the_saved_one_did():
    algo = learner(target_network_update_freq=100, tau=1.0)
    algo.clock = lambda: 5000
    algo.learn(transitions().to())
    algo.set_hyperparameters(tau=0.5)
    algo.learn(transitions(seed=1).to())
    restored = learner(target_network_update_freq=100, tau=1.0)
    restored.load_state_dict(algo.state_dict())
    restored.set_hyperparameters(tau=0.5)
    assert restored.target.last_update == algo.target.last_update == 1
    other = learner(target_network_update_freq=100, tau=0.5)
    other.load_state_dict(learner(tau=1.0).state_dict() | {"num_updates": 7})
    other.learn(transitions().to())
    assert (other.target.tau, other.target.last_update) == (0.5, 7)


def test_a_restored_learner_makes_the_same_next_update():
    algo = diverged(learner(num_atoms=5, noisy=True, prioritized_replay=True))
    algo.replay.add(transitions(40))
    for _ in range(3):
        algo.learn(algo.replay.sample(0).to())
    state = copy.deepcopy(algo.state_dict())
    torch.manual_seed(7)
    restored = learner(num_atoms=5, noisy=True, prioritized_replay=True)
    restored.load_state_dict(state)
    for one in (algo, restored):
        one.clock = lambda: 50
        for _ in range(3):
            one.learn(one.replay.sample(0).to())
    for name, numbers in algo.network.state_dict().items():
        assert torch.equal(numbers, restored.network.state_dict()[name]), name
    for name, numbers in algo.target.network.state_dict().items():
        assert torch.equal(numbers, restored.target.network.state_dict()[name]), name


def noisy_layer(seed: int = 0) -> NoisyLinear:
    """A layer of 4 inputs and 3 outputs with other sigmas than the initial ones."""
    torch.manual_seed(seed)
    made = NoisyLinear(4, 3, 0.5)
    with torch.no_grad():
        made.sigma_weight.copy_(torch.rand(3, 4) + 0.1)
        made.sigma_bias.copy_(torch.rand(3) + 0.1)
    return made


def test_noisy_linear_without_noise_is_its_mean_layer():
    made = noisy_layer()
    made.draw_noise(np.random.default_rng(0))
    inputs = torch.randn(5, 4)
    mean = inputs @ made.weight.T + made.bias
    assert not torch.allclose(made(inputs), mean)
    made.use_noise = False
    torch.testing.assert_close(made(inputs), mean)


def test_noisy_linear_multiplies_its_sigmas_by_the_outer_product_of_the_noise():
    made = noisy_layer()
    # 0, 1 and -1 are where f(x) = sgn(x) sqrt(|x|) is x.
    noise_in, noise_out = torch.tensor([1.0, -1.0, 0.0, 1.0]), torch.tensor([-1.0, 0.0, 1.0])
    made.noise_in.copy_(noise_in)
    made.noise_out.copy_(noise_out)
    weight = made.weight + made.sigma_weight * torch.outer(noise_out, noise_in)
    bias = made.bias + made.sigma_bias * noise_out
    inputs = torch.randn(5, 4)
    torch.testing.assert_close(made(inputs), inputs @ weight.T + bias)


def test_noise_is_factorised_and_its_factors_are_signed_roots_of_normal_numbers():
    made = NoisyLinear(40, 30, 0.5)
    rng = np.random.default_rng(0)
    factors_in, factors_out = [], []
    with torch.no_grad():
        for _ in range(40):
            made.draw_noise(rng)
            bias = made(torch.zeros(1, 40))[0]
            factor_out = (bias - made.bias) / made.sigma_bias
            noise = (made(torch.eye(40)) - bias - made.weight.T) / made.sigma_weight.T
            # Every row of the noise is one number times factor_out.
            factor_in = (noise @ factor_out) / (factor_out @ factor_out)
            torch.testing.assert_close(
                noise, torch.outer(factor_in, factor_out), rtol=1e-3, atol=1e-4
            )
            factors_in.append(factor_in)
            factors_out.append(factor_out)
    for factors in (torch.cat(factors_in), torch.cat(factors_out)):
        # f(e)^2 = |e|, whose mean is sqrt(2 / pi), and f(e)^4 = e^2, whose mean is 1.
        assert float(factors.mean()) == pytest.approx(0, abs=0.1)
        assert float((factors**2).mean()) == pytest.approx(np.sqrt(2 / np.pi), abs=0.06)
        assert float((factors**4).mean()) == pytest.approx(1, abs=0.15)


def test_initial_sigmas_are_sigma0_over_the_root_of_the_inputs():
    made = NoisyLinear(16, 3, 0.4)
    torch.testing.assert_close(made.sigma_weight.detach(), torch.full((3, 16), 0.1))
    torch.testing.assert_close(made.sigma_bias.detach(), torch.full((3,), 0.1))
    # Sec. 3.2: the means are uniform in +-1/sqrt(inputs).
    assert made.weight.abs().max() <= 0.25
    assert made.bias.abs().max() <= 0.25


def test_each_update_of_a_noisy_learner_draws_new_noise_for_both_networks():
    algo = learner(noisy=True)
    seen = []
    for _ in range(3):
        algo.learn(transitions().to())
        for net in (algo.network, algo.target.network):
            first = next(part for part in net.modules() if isinstance(part, NoisyLinear))
            seen.append(first.noise_in.clone())
    for i, one in enumerate(seen):
        assert not any(torch.equal(one, other) for other in seen[:i])


def test_replay_holds_observations_as_they_came_whatever_the_filter_has_seen():
    overrides = ["env.observation_filter=MeanStdFilter", "algo.learning_starts=8", "algo.n_step=1"]
    overrides += ["algo.train_batch_size=8", "algo.timesteps_per_iteration=64"]
    with make_trainer("dqn", env="toy_envs.TwoStepMdp", overrides=overrides, seed=1) as trainer:
        for _ in range(3):
            trainer.train()
        buffer = trainer.algorithms["default_policy"].replay.buffer
        stored = buffer.columns["obs"][: buffer.size]
        # Two states, and each is one, at the start and in the end.
        np.testing.assert_array_equal(np.unique(stored, axis=0), [[0, 1], [1, 0]])
        assert trainer.get_policy().observation_filter.count > 100
