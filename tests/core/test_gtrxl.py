"""GTrXL against its papers' equations, written apart in loops, and the reach of its memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlrun.core.actor_critic import make_actor_critic
from rlrun.core.batch import Batch
from rlrun.core.gtrxl import GRUGate, GTrXL, RelativeAttention, TransformerUnit, seen_steps
from rlrun.core.policy import Policy

SMALL: Any = {
    "attention_num_transformer_units": 2,
    "attention_dim": 8,
    "attention_num_heads": 2,
    "attention_head_dim": 4,
    "attention_memory_inference": 5,
    "attention_memory_training": 5,
    "attention_position_wise_mlp_dim": 6,
    "max_seq_len": 4,
    "fcnet_hiddens": [6],
    "vf_share_layers": True,
}
VECTORS = spaces.Box(-1.0, 1.0, (3,), np.float32)


def make(**changes: Any) -> Policy:
    torch.manual_seed(1)
    policy = make_actor_critic(VECTORS, spaces.Discrete(3), GTrXL(**{**SMALL, **changes}))
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return policy


def numbers(module: torch.nn.Module) -> dict[str, np.ndarray]:
    return {name: p.detach().double().numpy() for name, p in module.named_parameters()}


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp(-x))


def gate_by_hand(weights: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Equations of section 3.2 of Parisotto et al. for one vector x and y."""
    w_r, w_z, w_g = np.split(weights["w.weight"], 3)
    u_r, u_z = np.split(weights["u_rz.weight"], 2)
    u_g, bias = weights["u_g.weight"], weights["bias"]
    r = sigmoid(w_r @ y + u_r @ x)
    z = sigmoid(w_z @ y + u_z @ x - bias)
    return (1.0 - z) * x + z * np.tanh(w_g @ y + u_g @ (r * x))


def distance_by_hand(distance: int, dim: int) -> np.ndarray:
    rates = np.array([1.0 / 10000.0 ** (2 * i / dim) for i in range(dim // 2)])
    return np.concatenate([np.sin(distance * rates), np.cos(distance * rates)])


def attention_by_hand(
    weights: dict[str, np.ndarray], steps: np.ndarray, number: int, seen: list[int], num_heads: int
) -> np.ndarray:
    """What step `number` of steps [K, dim] attends to among those `seen` (Dai et al., sec. 3.3)."""
    keys_of, values_of = np.split(weights["key_value.weight"], 2)
    size = len(keys_of) // num_heads
    found = []
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        query = weights["query.weight"][part] @ steps[number]
        u, v = weights["content_bias"][head, 0], weights["distance_bias"][head, 0]
        scores = []
        for j in seen:
            by_content = (query + u) @ (keys_of[part] @ steps[j])
            encoded = distance_by_hand(number - j, steps.shape[1])
            by_distance = (query + v) @ (weights["distance.weight"][part] @ encoded)
            scores.append((by_content + by_distance) / np.sqrt(size))
        probabilities = np.exp(scores) / np.exp(scores).sum()
        found.append(probabilities @ (steps[seen] @ values_of[part].T))
    return weights["output.weight"] @ np.concatenate(found)


def normed(x: np.ndarray) -> np.ndarray:
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5)


def randomised(module: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(5)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def test_the_gate_is_that_of_the_paper():
    gate = randomised(GRUGate(6, 2.0))
    x, y = torch.randn(2, 6)
    expected = gate_by_hand(numbers(gate), x.numpy(), y.numpy())
    np.testing.assert_allclose(gate(x, y).detach(), expected, rtol=1e-5, atol=1e-6)


def test_a_gate_with_a_large_bias_is_the_identity_map():
    gate = GRUGate(6, 30.0)
    x, y = torch.randn(2, 6)
    torch.testing.assert_close(gate(x, y), x)
    assert (GRUGate(6, 2.0).bias == 2.0).all()


def test_attention_is_that_of_the_paper():
    attention = randomised(RelativeAttention(8, num_heads=2, head_dim=3))
    steps = torch.randn(1, 5 + 3, 8)
    distances = torch.from_numpy(np.stack([distance_by_hand(d, 8) for d in range(5, -1, -1)]))
    # A memory of five steps, two of which are of this episode, before three of a sequence.
    found = attention(steps, distances.float(), seen_steps(3, 5, torch.tensor([2])))[0]
    seen = [[3, 4, 5], [3, 4, 5, 6], [3, 4, 5, 6, 7]]
    for t in range(3):
        expected = attention_by_hand(numbers(attention), steps[0].numpy(), 5 + t, seen[t], 2)
        np.testing.assert_allclose(found[t].detach(), expected, rtol=1e-4, atol=1e-5)


def test_a_unit_is_that_of_the_paper():
    model = GTrXL(**SMALL)
    unit = randomised(TransformerUnit(model))
    for norm in (unit.attention_norm, unit.mlp[0]):
        torch.nn.init.ones_(norm.weight), torch.nn.init.zeros_(norm.bias)
    memory, x = torch.randn(1, 5, 8), torch.randn(1, 3, 8)
    is_seen = seen_steps(3, 5, torch.tensor([5]))
    memory_module: Any = model.memory(3)
    found = unit(x, memory, memory_module.distances, is_seen)[0].detach()
    all_steps = torch.cat([memory, x], 1)[0].double().numpy()
    steps = np.stack([normed(step) for step in all_steps])
    for t in range(3):
        seen = list(range(t, 6 + t))  # Each sees five steps before itself, and no more.
        attended = attention_by_hand(numbers(unit.attention), steps, 5 + t, seen, 2)
        y = gate_by_hand(numbers(unit.attention_gate), all_steps[5 + t], attended.clip(min=0.0))
        weights = numbers(unit.mlp)
        hidden = (weights["1.weight"] @ normed(y) + weights["1.bias"]).clip(min=0.0)
        out = (weights["3.weight"] @ hidden + weights["3.bias"]).clip(min=0.0)
        expected = gate_by_hand(numbers(unit.mlp_gate), y, out)
        np.testing.assert_allclose(found[t], expected, rtol=1e-4, atol=1e-5)


def test_it_forgets_what_is_older_than_its_memory():
    policy = make(attention_num_transformer_units=1)
    obs = np.random.default_rng(2).normal(size=(8, 1, 3)).astype(np.float32)
    changed = obs.copy()
    changed[1] += 1.0
    values: list[list[float]] = []
    for each in (obs, changed):
        state = policy.initial_state(1)
        values.append([])
        for t in range(8):
            _, extras, state = policy.act(each[t], state)
            values[-1].append(float(extras["values"][0]))
    moved = np.abs(np.subtract(*values))
    # A memory of five steps: from the second step on, up to the seventh.
    assert (moved[1:7] > 1e-6).all()
    assert moved[0] == moved[7] == 0.0


def test_it_may_attend_to_fewer_steps_in_training():
    policy = make(attention_memory_training=2)
    state = policy.initial_state(3)
    assert state["memory"].shape == (3, 2, 5, 8)
    rng = np.random.default_rng(3)
    rows = Batch(obs=rng.normal(size=(3, 4, 3)).astype(np.float32), mask=np.ones((3, 4), bool))
    rows["state_in/memory"] = rng.normal(size=(3, 2, 5, 8)).astype(np.float32)
    rows["state_in/filled"] = np.full(3, 5)
    rows = rows.to()
    values = policy(rows)[1].detach()
    rows["state_in/memory"][:, :, :3] = 7.0
    assert torch.equal(policy(rows)[1], values)
    rows["state_in/memory"][:, :, 3:] *= -1.0
    assert (policy(rows)[1][:, 0] != values[:, 0]).all()
