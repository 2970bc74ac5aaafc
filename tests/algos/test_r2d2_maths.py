"""R2D2's arithmetic against numbers by hand, and against a loss written here with torch alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from rlrun.algos.r2d2 import R2D2
from rlrun.core.batch import Batch, concat
from rlrun.core.errors import ConfigError, SpaceError
from rlrun.core.gtrxl import GTrXL
from rlrun.core.networks import MLP, Model
from rlrun.core.policy import Previous
from rlrun.core.recurrent_q import RecurrentQNetwork
from rlrun.core.sequence_targets import (
    n_step_targets,
    rescale,
    sequence_priorities,
    unrescale,
)
from rlrun.run import make_trainer
from rlrun.workers.cutters import cut_sequences

OBS_SPACE = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTION_SPACE = spaces.Discrete(4)
CPU = torch.device("cpu")
SIZE = 6
"""Width of the memory."""


def lstm(**settings: Any) -> MLP:
    return MLP(
        fcnet_hiddens=[5],
        use_lstm=True,
        lstm_cell_size=SIZE,
        **{"max_seq_len": 6, "lstm_use_prev_action": True, "lstm_use_prev_reward": True} | settings,
    )


def gtrxl(**settings: Any) -> GTrXL:
    return GTrXL(
        fcnet_hiddens=[5],
        attention_dim=4,
        attention_head_dim=4,
        attention_memory_inference=5,
        attention_memory_training=5,
        max_seq_len=6,
        **settings,
    )


@pytest.fixture(autouse=True)
def own_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def learner(model: Model | None = None, **hyperparameters: Any) -> R2D2:
    """A learner whose target network is not the online one."""
    settings = {
        "gamma": 0.9,
        "hiddens": [7],
        "burn_in": 3,
        "sequence_overlap": 2,
        "n_step": 2,
        "prioritized_replay": False,
        "train_batch_size": 4,
        "buffer_size": 64,
        "learning_starts": 0,
        "target_network_update_freq": 10**6,
        **hyperparameters,
    }
    algo = R2D2(**settings)
    model = model or lstm()
    algo.check_model(model)
    algo.setup(algo.make_policy(OBS_SPACE, ACTION_SPACE, model), CPU, 0)
    with torch.no_grad():
        for network in (algo.network, algo.target.network):
            for parameter in network.parameters():
                parameter.add_(0.3 * torch.randn(parameter.shape))
    return algo


def walk(policy: RecurrentQNetwork, lengths: list[int], terminated: list[bool]) -> Batch:
    """Episodes of one env as a trajectory [T, 1, ...], as a worker gathers them."""
    rng = np.random.default_rng(1)
    rows: list[dict[str, np.ndarray]] = []
    for length, has_terminated in zip(lengths, terminated, strict=True):
        state = policy.initial_state(1)
        previous = Previous(np.zeros(1, np.int64), np.zeros(1, np.float32))
        obs = rng.normal(size=(1, 3)).astype(np.float32)
        for t in range(length):
            is_last = t == length - 1
            dist, _, after = policy.act(obs, state, previous)
            actions = rng.integers(0, 4, 1)
            rewards = rng.normal(size=1).astype(np.float32) * 3
            next_obs = rng.normal(size=(1, 3)).astype(np.float32)
            row = {
                "obs": obs,
                "actions": actions,
                "rewards": rewards,
                "next_obs": next_obs,
                "terminated": np.array([is_last and has_terminated]),
                "truncated": np.array([is_last and not has_terminated]),
                "q_values": dist.inputs,
                **{f"state_in/{name}": part for name, part in state.items()},
            }
            if policy.uses_previous:
                row |= {"prev_actions": previous.actions, "prev_rewards": previous.rewards}
            rows.append(row)
            obs, state, previous = next_obs, after, Previous(actions, rewards)
    return Batch({name: np.stack([row[name] for row in rows]) for name in rows[0]})


def sequences(algo: R2D2, trajectory: Batch) -> Batch:
    """Rows as the worker cuts them."""
    ends = trajectory["terminated"] | trajectory["truncated"]
    done = algo.postprocess(algo.policy, trajectory)
    return cut_sequences(
        done, ends, None, algo.policy.max_seq_len, algo.overlapping_steps, bootstraps=True
    )


# The functions


def test_h_of_numbers_by_hand():
    # h(3) = sqrt(4) - 1 + 0.01 * 3, h(-8) = -(sqrt(9) - 1) - 0.08.
    found = rescale(torch.tensor([0.0, 3.0, -8.0]), 0.01)
    torch.testing.assert_close(found, torch.tensor([0.0, 1.03, -2.08]))


@pytest.mark.parametrize("epsilon", [0.0, 1e-3, 1e-2, 1.0])
def test_the_inverse_of_h_undoes_it(epsilon):
    values = torch.tensor([0.0, 1e-4, -1e-4, 0.5, -1.0, 7.0, -300.0, 1e4, -1e5])
    torch.testing.assert_close(
        unrescale(rescale(values, epsilon), epsilon), values, rtol=1e-4, atol=1e-6
    )
    torch.testing.assert_close(
        rescale(unrescale(values[:-2], epsilon), epsilon), values[:-2], rtol=1e-4, atol=1e-6
    )


def test_n_step_targets_of_sequences_by_hand():
    rewards = torch.tensor([[1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 99.0, 99.0]])
    # Values of the states behind each step; behind the sequence's end they mean nothing.
    next_values = torch.tensor([[10.0, 20.0, 30.0, 40.0]]).repeat(3, 1)
    terminated = torch.zeros(3, 4, dtype=torch.bool)
    terminated[1, 3] = True
    terminated[2, 2:] = True  # padding
    mask = torch.ones(3, 4, dtype=torch.bool)
    mask[2, 2:] = False
    found = n_step_targets(rewards, next_values, terminated, mask, 0.5, 3)
    # Cut or truncated: the state behind the last step bootstraps, after fewer steps than three.
    whole = [1 + 1 + 1 + 30 / 8, 2 + 2 + 2 + 40 / 8, 4 + 4 + 40 / 4, 8 + 40 / 2]
    # Terminated: it does not.
    ended = [1 + 1 + 1 + 30 / 8, 2 + 2 + 2, 4 + 4, 8]
    short = [1 + 1 + 20 / 4, 2 + 20 / 2]
    torch.testing.assert_close(found[0], torch.tensor(whole))
    torch.testing.assert_close(found[1], torch.tensor(ended, dtype=torch.float32))
    torch.testing.assert_close(found[2, :2], torch.tensor(short))


def test_a_window_longer_than_the_sequence_ends_with_it():
    one = torch.ones(1, 2)
    no, yes = torch.zeros(1, 2, dtype=torch.bool), torch.ones(1, 2, dtype=torch.bool)
    found = n_step_targets(one, 8 * one, no, yes, 0.5, 10)
    torch.testing.assert_close(found, torch.tensor([[1 + 0.5 + 2.0, 1 + 4.0]]))


def test_priorities_are_a_mixture_of_the_largest_and_the_mean_error_that_is_learned():
    errors = torch.tensor([[9.0, -4.0, 2.0], [1.0, 1.0, 100.0]])
    learned = torch.tensor([[False, True, True], [True, True, False]])
    found = sequence_priorities(errors, learned, 0.9)
    torch.testing.assert_close(found, torch.tensor([0.9 * 4 + 0.1 * 3, 1.0]))


# Sequences


@pytest.mark.parametrize("model", [lstm, gtrxl])
def test_learners_unroll_what_workers_did_step_by_step(model):
    algo = learner(model())
    trajectory = walk(algo.network, [17, 4], [True, False])
    rows = sequences(algo, trajectory)
    # 17 steps: sequences of 3 + 6 from steps 0, 4 and 8 on; the episode of 4 is one.
    assert rows["mask"].sum(1).tolist() == [9, 9, 9, 4]
    assert rows["overlaps"].tolist() == [False, True, True, False]
    expected = trajectory["q_values"][:, 0]
    for burn_in in (0, 3):
        algo.network.burn_in = burn_in
        found = algo.network(rows.to()).detach().numpy()
        for row, (start, length) in enumerate([(0, 9), (4, 9), (8, 9), (17, 4)]):
            np.testing.assert_allclose(
                found[row, :length], expected[start : start + length], rtol=1e-4, atol=1e-5
            )
        # Behind the last step of a sequence that was cut stands what followed it.
        np.testing.assert_allclose(found[0, 9], expected[9], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", [lstm, gtrxl])
def test_burn_in_gives_no_gradient_at_all(model):
    algo = learner(model())
    rows = sequences(algo, walk(algo.network, [17, 4], [True, False])).to()
    rows["obs"].requires_grad_()
    algo.loss(rows)[0].backward()
    sizes = rows["obs"].grad.abs().sum(-1)
    assert torch.all(sizes[1:3, :3] == 0.0)
    assert torch.all(sizes[1:3, 3:9] > 0.0)
    # The first sequence of an episode learns from all of its steps.
    assert torch.all(sizes[0, :9] > 0.0)
    assert torch.all(sizes[3, :4] > 0.0)
    assert torch.all(sizes[3, 5:] == 0.0), "padding"


def test_the_state_after_the_burn_in_is_that_of_the_present_weights():
    algo = learner()
    rows = sequences(algo, walk(algo.network, [17], [True])).to()
    with torch.no_grad():
        before = algo.network(rows)
        rows["state_in/h"].add_(1.0)
        stale = algo.network(rows)
        rows["obs"][1, :3] += 1.0
        other = algo.network(rows)
    assert not torch.allclose(before[1, 3:], stale[1, 3:])
    assert not torch.allclose(stale[1, 3:], other[1, 3:])
    torch.testing.assert_close(stale[2], other[2])


def test_states_of_zeros_take_the_place_of_the_workers():
    algo = learner(zero_init_states=True)
    rows = sequences(algo, walk(algo.network, [17], [True]))
    assert not any(name.startswith("state_in/") for name in rows)
    zeros = Batch(rows, **{f"state_in/{name}": np.zeros((3, SIZE), np.float32) for name in "hc"})
    found = algo.loss(rows.to())[0]
    other = learner()
    other.network.copy_weights(algo.network)
    other.target.network.copy_weights(algo.target.network)
    torch.testing.assert_close(found, other.loss(zeros.to())[0])


# The loss, written once more


def q_by_hand(network: nn.Module, row: dict[str, Any], length: int, burn_in: int) -> torch.Tensor:
    """Action values of a single sequence with one step more, [length + 1, A], by a loop."""
    weights = dict(network.named_parameters())

    def layer(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def stream(name: str, x: torch.Tensor) -> torch.Tensor:
        return layer(f"{name}.2", torch.relu(layer(f"{name}.0", x)))

    h, c = row["state_in/h"], row["state_in/c"]
    found = []
    for t in range(length + 1):
        x = torch.tanh(layer("q_encoder.0", row["obs"][t]))
        hot = nn.functional.one_hot(row["prev_actions"][t], 4).float()
        x = torch.cat([x, hot, row["prev_rewards"][t : t + 1]])
        gates = x @ weights["q_memory.lstm.weight_ih_l0"].T + weights["q_memory.lstm.bias_ih_l0"]
        gates = gates + h @ weights["q_memory.lstm.weight_hh_l0"].T
        gates = gates + weights["q_memory.lstm.bias_hh_l0"]
        i, f, g, o = gates.split(SIZE)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        advantage, value = stream("advantage", h), stream("value", h)
        found.append(value + advantage - advantage.mean())
        if t == burn_in - 1:
            h, c = h.detach(), c.detach()
    return torch.stack(found)


def loss_by_hand(
    algo: R2D2, rows: Batch, weights: torch.Tensor
) -> tuple[torch.Tensor, list[float]]:
    """(the mean over all learned steps, priorities)."""

    def h(x: torch.Tensor) -> torch.Tensor:
        return x.sign() * ((x.abs() + 1).sqrt() - 1) + 1e-3 * x

    def inverse(x: torch.Tensor) -> torch.Tensor:
        x = x.double()
        root = ((1 + 4e-3 * (x.abs() + 1 + 1e-3)).sqrt() - 1) / 2e-3
        return (x.sign() * (root**2 - 1)).float()

    total, count, priorities = torch.zeros(()), 0, []
    for index in range(rows.num_rows):
        row = {name: column[index] for name, column in rows.items()}
        length = int(row["mask"].sum())
        burn_in = 3 if row["overlaps"] else 0
        q = q_by_hand(algo.network, row, length, burn_in)
        with torch.no_grad():
            target_q = q_by_hand(algo.target.network, row, length, burn_in)
            best = (q if algo.double_q else target_q).argmax(-1)
            values = inverse(target_q[torch.arange(length + 1), best])
        errors = []
        for t in range(burn_in, length):
            target, discount, last = torch.zeros(()), 1.0, min(t + algo.n_step, length)
            for k in range(t, last):
                target = target + discount * row["rewards"][k]
                discount *= 0.0 if row["terminated"][k] else algo.gamma
            error = q[t, row["actions"][t]] - h(target + discount * values[last])
            errors.append(abs(error.item()))
            size = error.abs()
            total = total + weights[index] * torch.where(size < 1, size**2 / 2, size - 0.5)
            count += 1
        priorities.append(0.9 * max(errors) + 0.1 * sum(errors) / len(errors))
    return total / count, priorities


@pytest.mark.parametrize("double_q", [True, False])
@pytest.mark.parametrize("n_step", [1, 3])
def test_loss_gradient_and_priorities_equal_those_of_a_loop_over_single_steps(double_q, n_step):
    algo = learner(double_q=double_q, n_step=n_step)
    long = sequences(algo, walk(algo.network, [17, 4, 1], [True, False, True]))
    cut = sequences(algo, walk(algo.network, [11], [False]))
    rows = concat([long, cut]).to()
    assert rows.num_rows == 3 + 1 + 1 + 2
    weights = torch.linspace(0.2, 1.0, 7)
    expected, priorities = loss_by_hand(algo, rows, weights)
    parameters = list(algo.network.parameters())
    gradients = torch.autograd.grad(expected, parameters)
    loss, metrics = algo.loss(Batch(rows, weights=weights))
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(metrics["td_error"], torch.tensor(priorities), rtol=1e-3, atol=1e-4)
    found = torch.autograd.grad(loss, parameters)
    for one, other in zip(found, gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_padding_moves_nothing():
    algo = learner()
    rows = sequences(algo, walk(algo.network, [17, 4], [True, False]))
    loss = algo.loss(rows.to())[0]
    algo.replay.add(rows)
    assert algo.replay.buffer.columns["obs"].shape[1] == 3 + 6 + 1
    wide = Batch({name: column[:4] for name, column in algo.replay.buffer.columns.items()})
    wide["obs"][3, 5:] = 1e6
    torch.testing.assert_close(algo.loss(wide.to())[0], loss)


def test_sequences_are_cut_to_the_longest_of_a_sample_and_its_bootstrap():
    algo = learner()
    algo.replay.add(sequences(algo, walk(algo.network, [4, 2], [True, False])))
    assert {algo.replay.sample(0)["obs"].shape[1] for _ in range(20)} <= {3, 5}


def test_new_priorities_are_those_of_the_sequences_that_were_learned():
    algo = learner(prioritized_replay=True, prioritized_replay_alpha=1.0)
    algo.replay.add(sequences(algo, walk(algo.network, [17, 4], [True, False])))
    rows = algo.replay.sample(0)
    expected = algo.loss(rows.to())[1]["td_error"].numpy() + algo.prioritized_replay_eps
    algo.learn(rows.to())
    found = algo.replay.buffer.sums.leaves(rows["batch_indexes"])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


# What is refused


@pytest.mark.parametrize("values", [{"use_h_function": False}, {"h_function_epsilon": 0.1}])
def test_the_scale_of_values_is_built_in(values):
    with pytest.raises(ConfigError, match="is built in"):
        learner().set_hyperparameters(**values)


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match=r"algo=r2d2 learns a policy with memory"):
        learner(MLP())
    with pytest.raises(ConfigError, match=r"sequence_overlap=6 must be below model.max_seq_len=6"):
        learner(sequence_overlap=6)
    with pytest.raises(ConfigError, match=r"burn_in=3 has no effect in fragments of .*=9 steps"):
        learner(batch_mode="truncate_episodes", rollout_fragment_length=9)
    learner(batch_mode="truncate_episodes", rollout_fragment_length=10)
    with pytest.raises(ConfigError, match=r"rollout_fragment_length=auto .* counts sequences"):
        learner(batch_mode="truncate_episodes", rollout_fragment_length="auto", burn_in=0)
    learner(rollout_fragment_length="auto")
    with pytest.raises(ConfigError, match=r"model.free_log_std=False is for policies of another"):
        learner(lstm(free_log_std=False))
    with pytest.raises(ConfigError, match="prioritized_replay_eta"):
        learner(prioritized_replay_eta=1.5)
    with pytest.raises(ConfigError, match=r"prioritized_replay_eta=0.5 has no effect"):
        learner(prioritized_replay_eta=0.5)
    with pytest.raises(ConfigError, match=r"h_function_epsilon=0.1 has no effect"):
        learner(use_h_function=False, h_function_epsilon=0.1)
    with pytest.raises(SpaceError, match=r"algo=r2d2 needs a Discrete action space"):
        make_trainer("r2d2", env="pendulum", overrides=["tuned=none"], seed=1)
    with pytest.raises(ConfigError, match=r"algo=r2d2 has values of actions"):
        make_trainer("r2d2", overrides=["tuned=none", "exploration=stochastic_sampling"], seed=1)


# The way through workers


SMALL = [
    "tuned=none",
    "model.fcnet_hiddens=[8]",
    "model.lstm_cell_size=8",
    "model.max_seq_len=6",
    "algo.hiddens=[]",
    "algo.burn_in=3",
    "algo.sequence_overlap=2",
    "algo.learning_starts=100",
    "algo.train_batch_size=8",
    "algo.num_envs_per_worker=2",
    "algo.timesteps_per_iteration=120",
    "resources.num_cpus_per_worker=0.5",
]


@pytest.mark.parametrize(
    ("num_workers", "batch_mode"),
    [(0, "complete_episodes"), (0, "truncate_episodes"), (2, "complete_episodes")],
)
def test_workers_bring_sequences_of_one_episode_with_what_followed_them(
    num_workers, batch_mode, ray_cluster
):
    overrides = [
        *SMALL,
        f"resources.num_workers={num_workers}",
        f"algo.batch_mode={batch_mode}",
        "algo.rollout_fragment_length=15",
        "env.env_config.terminates_at=[13,null]",
        "env.env_config.truncates_at=[null,5]",
    ]
    with make_trainer("r2d2", env="toy_envs.CountingEnv", overrides=overrides, seed=1) as trainer:
        for _ in range(3):
            trainer.train()
        buffer = trainer.algorithms["default_policy"].replay.buffer
        columns = {name: column[: buffer.size] for name, column in buffer.columns.items()}
    assert buffer.size > 20
    lengths = columns["mask"].sum(1)
    for row, length in enumerate(lengths):
        episodes, steps = columns["obs"][row, : length + 1].T
        assert len(set(episodes)) == 1
        np.testing.assert_array_equal(np.diff(steps), 1)
        np.testing.assert_array_equal(columns["rewards"][row, :length], steps[1:])
        np.testing.assert_array_equal(columns["prev_rewards"][row, 1 : length + 1], steps[1:])
        has_terminated = episodes[0] % 2 == 0 and steps[-1] == 13
        assert columns["terminated"][row, :length].any() == has_terminated
        assert columns["terminated"][row, length - 1] == has_terminated
        # A sequence that overlaps is none that begins an episode.
        assert not (columns["overlaps"][row] and steps[0] == 0)
    if batch_mode == "complete_episodes":
        assert set(lengths.tolist()) == {9, 5}
        assert set(columns["obs"][:, 0, 1].tolist()) == {0, 4}


def test_a_policy_acts_and_is_evaluated_with_its_memory():
    overrides = [*SMALL, "evaluation.interval=1", "evaluation.duration=2"]
    with make_trainer("r2d2", env="repeat_after_me", overrides=overrides, seed=1) as trainer:
        assert trainer.train()["evaluation"]["episodes_this_iter"] == 2
        state = trainer.get_policy().get_initial_state()
        action, after, _ = trainer.compute_action(1, state, prev_action=0, prev_reward=0.0)
        assert action in (0, 1)
        assert after.keys() == state.keys() == {"h", "c"}
        assert any((after[name] != state[name]).any() for name in state)
