"""Policy gradients written with torch.distributions and autograd alone, for tests to compare."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from rlrun.core.algorithm import Algorithm
from rlrun.core.batch import Batch
from rlrun.core.networks import MLP

OBS_SPACE = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTION_SPACES = {"discrete": spaces.Discrete(4), "box": spaces.Box(-1, 1, (2,), np.float32)}
CPU = torch.device("cpu")


class Reference:
    """An actor-critic with the weights of a policy, and its losses, without rlrun's code."""

    def __init__(self, policy: nn.Module) -> None:
        self.weights = {
            name: nn.Parameter(numbers.detach().clone())
            for name, numbers in policy.named_parameters()
        }

    def layer(self, name: str, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def values(self, obs: torch.Tensor) -> torch.Tensor:
        return self.layer("vf_head", torch.tanh(self.layer("vf_encoder.0", obs)))[..., 0]

    def dist(self, obs: torch.Tensor) -> torch.distributions.Distribution:
        outputs = self.layer("pi_head", torch.tanh(self.layer("pi_encoder.0", obs)))
        if "log_std" in self.weights:
            normal = torch.distributions.Normal(outputs, self.weights["log_std"].exp())
            return torch.distributions.Independent(normal, 1)
        return torch.distributions.Categorical(logits=outputs)

    def losses(self, rows: Batch, entropy_coeff: float, vf_coeff: float | None) -> dict[str, Any]:
        """Means over rows; `vf_coeff` None leaves the value loss out."""
        obs = torch.as_tensor(rows["obs"])
        dist = self.dist(obs)
        log_probs = dist.log_prob(torch.as_tensor(rows["actions"]))
        losses = {
            "policy_loss": -(log_probs * torch.as_tensor(rows["advantages"])).mean(),
            "entropy": dist.entropy().mean(),
        }
        total = losses["policy_loss"] - entropy_coeff * losses["entropy"]
        if vf_coeff is not None:
            targets = torch.as_tensor(rows["value_targets"])
            losses["vf_loss"] = ((self.values(obs) - targets) ** 2).mean()
            total = total + vf_coeff * losses["vf_loss"]
        return {**losses, "total_loss": total}

    def grad(self, loss: torch.Tensor) -> torch.Tensor:
        """The gradient of `loss` as one vector; zeros where it does not reach."""
        parts = torch.autograd.grad(loss, list(self.weights.values()), allow_unused=True)
        return torch.cat(
            [
                torch.zeros(weight.numel()) if part is None else part.reshape(-1)
                for part, weight in zip(parts, self.weights.values(), strict=True)
            ]
        )

    def step(self, loss: torch.Tensor, lr: float, eps: float, grad_clip: float | None) -> None:
        """One first step of torch's Adam."""
        optimizer = torch.optim.Adam(self.weights.values(), lr=lr, eps=eps)
        loss.backward()
        if grad_clip is not None:
            nn.utils.clip_grad_norm_(self.weights.values(), grad_clip)
        optimizer.step()

    def assert_equals(self, policy: nn.Module) -> None:
        for name, numbers in policy.named_parameters():
            torch.testing.assert_close(
                numbers.detach(), self.weights[name].detach(), rtol=1e-4, atol=1e-5, msg=name
            )


def learner(algorithm: Algorithm, kind: str = "discrete") -> tuple[Any, nn.Module, Reference]:
    """(the algorithm set up, its policy, a reference with equal weights)."""
    policy = algorithm.make_policy(OBS_SPACE, ACTION_SPACES[kind], MLP(fcnet_hiddens=[16]))
    with torch.no_grad():  # a policy that is nearly uniform would hide mistakes
        policy.pi_head.weight.mul_(100.0)
    reference = Reference(policy)
    algorithm.setup(policy, CPU, 0)
    return algorithm, policy, reference


def train_batch(kind: str = "discrete", num_rows: int = 24, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    actions = {
        "discrete": rng.integers(0, 4, num_rows),
        "box": rng.normal(size=(num_rows, 2)).astype(np.float32),
    }[kind]
    return Batch(
        obs=rng.normal(size=(num_rows, 3)).astype(np.float32),
        actions=actions,
        values=rng.normal(size=num_rows).astype(np.float32),
        advantages=(rng.normal(size=num_rows) * 2 + 1).astype(np.float32),
        value_targets=rng.normal(size=num_rows).astype(np.float32),
    )


def as_sequences(rows: Batch, lengths: list[int], max_seq_len: int, filler: float) -> Batch:
    """The same steps as sequences of these lengths, padded with `filler`."""
    mask = np.arange(max_seq_len) < np.array(lengths)[:, None]
    sequences = Batch(mask=mask)
    for name, column in rows.items():
        padded = np.full((*mask.shape, *column.shape[1:]), filler, column.dtype)
        padded[mask] = column
        sequences[name] = padded
    return sequences
