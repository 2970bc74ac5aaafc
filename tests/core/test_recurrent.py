"""Policies with memory: the same numbers step by step and in sequences, however these are cut."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun.algos.dqn import DQN
from rlrun.core.actor_critic import ActorCritic, make_actor_critic
from rlrun.core.batch import Batch
from rlrun.core.errors import BatchError, ConfigError
from rlrun.core.filters import make_filter
from rlrun.core.gtrxl import GTrXL
from rlrun.core.memory import LSTMMemory, Memory
from rlrun.core.networks import CNN, MLP, Model
from rlrun.core.policy import Previous
from rlrun.core.recurrent import PreviousEncoder, RecurrentActorCritic
from rlrun.workers.cutters import cut_sequences


class LastFeatures(Memory):
    """A memory of one's own: the features of this step and of the last one."""

    state_names = ("last",)

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.output_size = 2 * input_size

    def initial_state(self, num_rows: int) -> dict[str, np.ndarray]:
        return {"last": np.zeros((num_rows, self.output_size // 2), np.float32)}

    def step(self, features: np.ndarray, state: dict[str, np.ndarray]) -> Any:
        return np.concatenate([features, state["last"]], -1), {"last": features.copy()}

    def forward(self, features: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        last = torch.cat([state["last"][:, None], features[:, :-1]], 1)
        return torch.cat([features, last], -1)


@dataclass(kw_only=True)
class OwnModel(MLP):
    """A user's model that brings it."""

    has_memory = True

    def memory(self, input_size: int) -> Memory:
        return LastFeatures(input_size)


VECTORS = spaces.Box(-1.0, 1.0, (3,), np.float32)
IMAGES = spaces.Box(0, 255, (12, 12, 1), np.uint8)
CONV: Any = {"conv_filters": [[4, 3, 2], [4, 3, 2]], "post_fcnet_hiddens": [8]}
LSTM: Any = {"use_lstm": True, "lstm_cell_size": 8, "max_seq_len": 4}
MLP_LSTM: Any = {**LSTM, "fcnet_hiddens": [6]}
ATTENTION: Any = {
    "attention_num_transformer_units": 2,
    "attention_dim": 8,
    "attention_num_heads": 2,
    "attention_head_dim": 4,
    "attention_memory_inference": 5,
    "attention_memory_training": 5,
    "attention_position_wise_mlp_dim": 6,
    "max_seq_len": 4,
    "fcnet_hiddens": [6],
}
SEEING_ALL = {"lstm_use_prev_action": True, "lstm_use_prev_reward": True}
CASES = {
    "lstm, a memory each": (MLP(**MLP_LSTM), VECTORS, spaces.Discrete(3)),
    "lstm, shared": (MLP(**MLP_LSTM, vf_share_layers=True), VECTORS, spaces.Discrete(3)),
    "lstm after discrete actions": (MLP(**MLP_LSTM, **SEEING_ALL), VECTORS, spaces.Discrete(3)),
    "lstm after several actions": (
        MLP(**MLP_LSTM, **SEEING_ALL),
        VECTORS,
        spaces.MultiDiscrete([2, 3]),
    ),
    "lstm after vectors": (
        MLP(**MLP_LSTM, **SEEING_ALL, free_log_std=False),
        VECTORS,
        spaces.Box(-1.0, 1.0, (2,), np.float32),
    ),
    "lstm of images": (CNN(**LSTM, **CONV), IMAGES, spaces.Discrete(2)),
    "one's own": (OwnModel(fcnet_hiddens=[6], max_seq_len=4), VECTORS, spaces.Discrete(3)),
    "gtrxl, a memory each": (GTrXL(**ATTENTION), VECTORS, spaces.Discrete(3)),
    "gtrxl, shared": (GTrXL(**ATTENTION, vf_share_layers=True), VECTORS, spaces.Discrete(3)),
    "gtrxl after actions": (
        GTrXL(**ATTENTION, attention_use_n_prev_actions=1, attention_use_n_prev_rewards=1),
        VECTORS,
        spaces.Discrete(3),
    ),
    "gtrxl of images": (GTrXL(**ATTENTION, **CONV), IMAGES, spaces.Discrete(2)),
}
each_case = pytest.mark.parametrize("case", CASES)


def make(model: Model, obs_space: spaces.Box, action_space: spaces.Space) -> RecurrentActorCritic:
    """A policy with weights that make its outputs differ."""
    torch.manual_seed(1)
    policy = make_actor_critic(obs_space, action_space, model)
    assert isinstance(policy, RecurrentActorCritic)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return policy


def observations(space: spaces.Box, *shape: int) -> np.ndarray:
    rng = np.random.default_rng(2)
    if space.dtype == np.uint8:
        return rng.integers(256, size=(*shape, *space.shape), dtype=np.uint8)
    return rng.normal(size=(*shape, *space.shape)).astype(np.float32)


def walk(policy: RecurrentActorCritic, num_steps: int = 14, num_envs: int = 3) -> Batch:
    """What a worker would gather [T, B, ...], step by step, with episodes that end on the way."""
    rng = np.random.default_rng(3)
    obs = observations(policy.obs_space, num_steps, num_envs)
    ends = rng.random((num_steps, num_envs)) < 0.15
    policy.action_space.seed(4)
    actions = np.array(
        [[policy.action_space.sample() for _ in range(num_envs)] for _ in range(num_steps)]
    )
    rewards = rng.normal(size=(num_steps, num_envs)).astype(np.float32)
    state = policy.initial_state(num_envs)
    previous = Previous(np.zeros_like(actions[0]), np.zeros_like(rewards[0]))
    rows = []
    for t in range(num_steps):
        dist, extras, after = policy.act(obs[t], state, previous)
        row = {"obs": obs[t], "actions": actions[t], "ends": ends[t], "inputs": dist.inputs}
        row |= {"prev_actions": previous.actions, "prev_rewards": previous.rewards, **extras}
        rows.append(row | {f"state_in/{name}": part for name, part in state.items()})
        fresh = policy.initial_state(num_envs)
        for name, part in after.items():
            after[name] = np.where(ends[t].reshape(-1, *[1] * (part.ndim - 1)), fresh[name], part)
        state = after
        kept = ~ends[t]
        previous = Previous(
            actions[t] * kept.reshape(-1, *[1] * (actions.ndim - 2)), rewards[t] * kept
        )
    return Batch({name: np.stack([row[name] for row in rows]) for name in rows[0]})


def sequences(policy: RecurrentActorCritic) -> Batch:
    trajectory = walk(policy)
    rows = cut_sequences(trajectory, trajectory["ends"], None, policy.max_seq_len)
    assert not rows["mask"].all()
    return rows.to()


# The same numbers


@each_case
def test_sequences_give_the_numbers_of_single_steps(case):
    policy = make(*CASES[case])
    rows = sequences(policy)
    dist, values = policy(rows)
    assert values.shape == rows["mask"].shape
    for found, expected in ((dist.inputs, rows["inputs"]), (values, rows["values"])):
        torch.testing.assert_close(rows.real(found), rows.real(expected), rtol=1e-4, atol=1e-5)
    # And they are no constants.
    assert rows.real(rows["values"]).std() > 0.01


@each_case
def test_the_state_makes_a_difference(case):
    policy = make(*CASES[case])
    rows = sequences(policy)
    expected = policy(rows)[1]
    parts = [part for name, part in rows.items() if name.startswith("state_in/")]
    goes_on = torch.stack([part.reshape(len(part), -1).abs().amax(1) for part in parts]).amax(0)
    forgotten = Batch(
        {
            name: torch.zeros_like(column) if name.startswith("state_in/") else column
            for name, column in rows.items()
        }
    )
    moved = (policy(forgotten)[1] - expected).abs()[:, 0]
    assert (goes_on > 0).any()
    assert (moved[goes_on > 0] > 1e-6).all()
    assert (moved[goes_on == 0] == 0).all()


@each_case
def test_rows_of_single_steps_have_a_state_each(case):
    policy = make(*CASES[case])
    trajectory = walk(policy)
    steps = Batch({n: c.reshape(-1, *c.shape[2:]) for n, c in trajectory.items()}).to()
    dist, values = policy(steps)
    torch.testing.assert_close(values, steps["values"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dist.inputs, steps["inputs"], rtol=1e-4, atol=1e-5)


@each_case
def test_values_are_those_of_act(case):
    policy = make(*CASES[case])
    trajectory = walk(policy, num_steps=3)
    state = {
        name.removeprefix("state_in/"): column[2]
        for name, column in trajectory.items()
        if name.startswith("state_in/")
    }
    previous = Previous(trajectory["prev_actions"][2], trajectory["prev_rewards"][2])
    found = policy.values(trajectory["obs"][2], state, previous)
    np.testing.assert_allclose(found, trajectory["values"][2], rtol=1e-5, atol=1e-6)


def test_without_a_state_an_episode_starts():
    policy = make(*CASES["lstm, a memory each"])
    obs = observations(VECTORS, 5)
    expected = policy.act(obs, policy.initial_state(5))[1]["values"]
    np.testing.assert_array_equal(policy.act(obs)[1]["values"], expected)
    np.testing.assert_array_equal(policy.values(obs), expected)
    shapes = {name: part.shape for name, part in policy.get_initial_state().items()}
    assert shapes == dict.fromkeys(("h", "c", "vf_h", "vf_c"), (8,))


# Padding


@each_case
def test_padding_moves_nothing(case):
    policy = make(*CASES[case])
    rows = sequences(policy)
    mask = rows["mask"]
    rows["obs"] = rows["obs"].float().requires_grad_()
    dist, values = policy(rows)
    loss = rows.real(values).square().mean() + rows.real(dist.log_prob(rows["actions"])).mean()
    (of_obs,) = torch.autograd.grad(loss, [rows["obs"]])
    per_step = of_obs.flatten(2).abs().amax(-1)
    assert (per_step[~mask] == 0.0).all()
    assert (per_step[mask] > 0.0).any()
    noise = {"obs": 3.0, "prev_rewards": 3.0, "prev_actions": 1}
    moved = Batch(rows)
    for name, value in noise.items():
        moved[name] = rows[name].detach().clone()
        moved[name][~mask] = value
    assert torch.equal(moved.real(policy(moved)[1]), rows.real(values))


@each_case
def test_a_step_behind_the_real_ones_is_unrolled_as_any_other(case):
    policy = make(*CASES[case])
    rows = sequences(policy)
    expected = policy(rows)[1]
    all_masked = Batch(rows, mask=torch.zeros_like(rows["mask"]))
    assert torch.equal(policy(all_masked)[1], expected)
    shorter = {n: c[:, :-1] if c.shape[:2] == rows["mask"].shape else c for n, c in rows.items()}
    torch.testing.assert_close(policy(Batch(shorter))[1], expected[:, :-1], rtol=1e-5, atol=1e-5)


def test_rows_without_their_states_are_refused():
    policy = make(*CASES["lstm after discrete actions"])
    for name in ("state_in/vf_c", "prev_rewards"):
        rows = sequences(policy)
        del rows[name]
        with pytest.raises(BatchError, match=f"no column '{name}'"):
            policy(rows)


# Around the memory


def test_the_observation_filter_is_applied_on_both_sides():
    policy = make(*CASES["lstm, shared"])
    plain = walk(policy)["values"]
    policy.observation_filter = make_filter("MeanStdFilter", (3,))
    gathered = policy.observation_filter.moments()
    gathered.add(observations(VECTORS, 50) * 3.0 + 1.0)
    policy.observation_filter.merge(gathered)
    rows = sequences(policy)
    assert np.abs(walk(policy)["values"] - plain).min() > 1e-5
    found = rows.real(policy(rows)[1])
    torch.testing.assert_close(found, rows.real(rows["values"]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", ["lstm, a memory each", "gtrxl, shared"])
def test_copies_act_alike_and_apart(case):
    policy = make(*CASES[case])
    obs = observations(VECTORS, 4)
    expected = policy.act(obs)[1]["values"]
    for copied in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        np.testing.assert_array_equal(copied.act(obs)[1]["values"], expected)
        other = make(*CASES[case])
        with torch.no_grad():
            other.flat.values.mul_(0.5)
        copied.copy_weights(other)
        assert (copied.act(obs)[1]["values"] != expected).all()
        np.testing.assert_array_equal(copied.act(obs)[1]["values"], other.act(obs)[1]["values"])
    np.testing.assert_array_equal(policy.act(obs)[1]["values"], expected)


def test_an_lstm_with_a_hook_or_another_forward_runs_in_torch():
    memory = LSTMMemory(5, 8)
    features = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    state = {name: part + 0.5 for name, part in memory.initial_state(3).items()}
    expected, after = memory.step(features, state)
    assert memory.runs_in_numpy
    calls = []
    hook = memory.lstm.register_forward_hook(lambda *args: calls.append(1))
    assert not memory.runs_in_numpy
    found, found_after = memory.step(features, state)
    assert calls == [1]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found_after["c"], after["c"], atol=1e-6)
    hook.remove()

    class Doubled(torch.nn.LSTM):
        def forward(self, *args: Any) -> Any:
            features, state = super().forward(*args)
            return 2 * features, (2 * state[0], state[1])

    memory.lstm.__class__ = Doubled
    np.testing.assert_allclose(memory.step(features, state)[0], 2 * expected, atol=1e-6)


def test_an_lstm_begins_with_orthogonal_gates_and_no_biases():
    memory = LSTMMemory(8, 8)
    for weight in (memory.lstm.weight_ih_l0, memory.lstm.weight_hh_l0):
        for gate in weight.split(8):
            torch.testing.assert_close(gate @ gate.T, torch.eye(8), atol=1e-5, rtol=0.0)
    assert not memory.lstm.bias_ih_l0.any()
    assert not memory.lstm.bias_hh_l0.any()


@pytest.mark.parametrize(
    ("space", "action", "encoded"),
    [
        (spaces.Discrete(3, start=5), 1, [0, 1, 0]),
        (spaces.MultiDiscrete([2, 3]), [1, 2], [0, 1, 0, 0, 1]),
        (spaces.Box(-1.0, 1.0, (2,)), [0.5, -0.25], [0.5, -0.25]),
        (spaces.MultiBinary(3), [1, 0, 1], [1, 0, 1]),
        (
            spaces.Tuple([spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,))]),
            [2.0, 0.5, -0.25],
            [0, 0, 1, 0.5, -0.25],
        ),
    ],
)
def test_previous_actions_are_one_hot_where_they_are_choices(space, action, encoded):
    encoder = PreviousEncoder(space, True, True)
    previous = Previous(np.array([action]), np.array([2.5], np.float32))
    found = encoder(previous.actions, previous.rewards)
    np.testing.assert_array_equal(found, [[*encoded, 2.5]])
    assert found.dtype == np.float32
    both = torch.tensor([[action]]), torch.tensor([[2.5]])
    assert encoder(*both).tolist() == [[[*encoded, 2.5]]]
    assert PreviousEncoder(space, False, True)(*both).tolist() == [[[2.5]]]
    assert encoder.output_size == len(encoded) + 1


# What is refused


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (GTrXL, {"use_lstm": True}, "choose one"),
        (GTrXL, {"attention_dim": 0}, "model.attention_dim=0 must be at least 1"),
        (GTrXL, {"attention_use_n_prev_actions": 2}, "must be 0 or 1"),
        (GTrXL, {"fcnet_hiddens": [0]}, "model.fcnet_hiddens"),
        (GTrXL, {"conv_filters": [[1, 2]]}, "model.conv_filters"),
        (GTrXL, {"lstm_use_prev_action": True}, "needs model.use_lstm=true"),
        (MLP, {"lstm_use_prev_reward": True}, "needs model.use_lstm=true"),
        (MLP, {"use_lstm": True, "lstm_cell_size": 0}, "model.lstm_cell_size=0"),
        (CNN, {"use_lstm": True, "max_seq_len": 0}, "model.max_seq_len=0"),
    ],
)
def test_values_that_make_no_memory_are_refused(model, arguments, message):
    with pytest.raises(ConfigError, match=message):
        model(**arguments)


@pytest.mark.parametrize("model", [MLP(use_lstm=True), GTrXL()])
def test_algorithms_that_learn_from_single_steps_refuse_a_memory(model):
    with pytest.raises(ConfigError, match="needs sequences"):
        DQN().check_model(model)


def test_without_a_memory_the_policy_is_the_plain_one():
    policy = make_actor_critic(VECTORS, spaces.Discrete(2), MLP())
    assert type(policy) is ActorCritic
    assert policy.initial_state(3) == {}
