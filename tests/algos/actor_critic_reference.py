"""Actor and critics of torch.nn with the weights of ours, for updates written with torch alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from rlrun.core.actor_with_critics import ActorWithCritics
from rlrun.core.batch import Batch

WIDTH = 3
NUM_ROWS = 16


def transitions(seed: int, num_actions: int = 0) -> Batch:
    """Rows of random numbers; actions are of two dimensions, or of `num_actions` choices."""
    rng = np.random.default_rng(seed)
    actions: Any = rng.uniform(-1, 1, (NUM_ROWS, 2)).astype(np.float32)
    if num_actions:
        actions = rng.integers(0, num_actions, NUM_ROWS)
    return Batch(
        obs=rng.normal(size=(NUM_ROWS, WIDTH)).astype(np.float32),
        actions=actions,
        rewards=(2 * rng.normal(size=NUM_ROWS)).astype(np.float32),
        next_obs=rng.normal(size=(NUM_ROWS, WIDTH)).astype(np.float32),
        discounts=np.where(rng.random(NUM_ROWS) < 0.3, 0.0, 0.9**2).astype(np.float32),
    )


def tensors(batch: Batch) -> dict[str, torch.Tensor]:
    return {name: torch.as_tensor(column) for name, column in batch.items()}


def network_of(weights: list[torch.Tensor], biases: list[torch.Tensor]) -> nn.Sequential:
    """Linear layers [out, in] with rectified units between them."""
    layers: list[nn.Module] = []
    for weight, bias in zip(weights, biases, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0])
        layer.weight = nn.Parameter(weight.detach().clone())
        layer.bias = nn.Parameter(bias.detach().clone())
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def actor_of(network: ActorWithCritics) -> nn.Sequential:
    parameters = list(network.actor.parameters())
    return network_of(parameters[0::2], parameters[1::2])


def critics_of(network: ActorWithCritics) -> nn.ModuleList:
    weights, biases = network.critics.layers.weights, network.critics.layers.biases
    return nn.ModuleList(
        network_of(
            [*(weight[i].T for weight in weights[:-1]), weights[-1][i]],
            [bias[i].flatten() for bias in biases],
        )
        for i in range(len(weights[0]))
    )


def randomize(*networks: ActorWithCritics) -> None:
    """Weights far from those at the start, so that actions, critics and targets all differ."""
    rng = np.random.default_rng(5)
    for network in networks:
        for parameter in network.parameters():
            noise = torch.as_tensor(rng.normal(size=tuple(parameter.shape))).float()
            parameter.data.add_(0.3 * noise)


def assert_same(network: ActorWithCritics, actor: nn.Module, critics: nn.Module) -> None:
    found = [*actor_of(network).parameters(), *critics_of(network).parameters()]
    expected = [*actor.parameters(), *critics.parameters()]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.detach(), other.detach(), rtol=2e-4, atol=2e-5)


def assert_same_moments(ours: Any, module: nn.Module, theirs: torch.optim.Adam) -> None:
    """Adam's two moments, as sums over each of our parts (their order differs)."""
    assert int(ours.num_steps) == int(theirs.state[next(module.parameters())]["step"])
    for name in ("exp_avg", "exp_avg_sq"):
        expected = torch.cat([theirs.state[p][name].flatten() for p in module.parameters()])
        torch.testing.assert_close(
            getattr(ours, name).sort().values, expected.sort().values, rtol=2e-3, atol=1e-5
        )


def follow(targets: nn.Module, online: nn.Module, tau: float) -> None:
    with torch.no_grad():
        for one, other in zip(targets.parameters(), online.parameters(), strict=True):
            one.mul_(1 - tau).add_(tau * other)
