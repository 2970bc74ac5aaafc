"""Rewards for observations that are far from all others, in random features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError
from rlrun.core.exploration.features import check_encoder, feature_net
from rlrun.core.exploration.intrinsic import IntrinsicReward
from rlrun.core.flat import FlatParameters
from rlrun.core.networks import Model
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_not_negative
from rlrun.core.schedules import ScheduleLike, check_schedule_range, make_schedule


@dataclass(kw_only=True)
class RE3(IntrinsicReward):
    """Random encoders for efficient exploration (Seo et al., 2021, arXiv:2102.09430).

    The reward of a step is beta log(1 + |y - y_k|), where y are the features that a fixed random
    network has for its observation, and y_k is the k-th nearest to it (eq. 3 and 4) among those of
    the fragment and of the steps before it, `num_neighbors` in all. That estimates the entropy of
    where the worker has been lately. Nothing is learned.
    """

    random_timesteps: int = 10_000
    embeds_dim: int = 128
    """Width of the random features; the paper: 50."""
    encoder_net_config: Model | None = None
    """Their network, a node like those of the group model; null: one layer of 256 for vectors,
    convolutions for images."""
    beta: ScheduleLike = 0.2
    """What rewards are multiplied by, or a schedule over env steps; the paper lets it fall
    exponentially (eq. 5): {_target_: rlrun.core.schedules.ExponentialSchedule, ...}."""
    k_nn: int = 50
    """Which of the nearest counts; the paper: 3."""
    num_neighbors: int = 2048
    """Steps among which neighbours are looked for; longer fragments count as a whole."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_schedule_range("exploration.beta", self.beta, low=0.0)
        check_not_negative(self, "embeds_dim", "k_nn", "num_neighbors", exclusive=True)
        if self.k_nn >= self.num_neighbors:
            raise ConfigError(
                f"exploration.k_nn={self.k_nn} must be below exploration.num_neighbors="
                f"{self.num_neighbors}, the steps among which it looks."
            )
        check_encoder("exploration.encoder_net_config", self.encoder_net_config)
        self._beta = make_schedule(self.beta)
        self.past = torch.zeros(0)
        """Features of the steps before, [N, embeds_dim]."""

    columns = ()

    def make(self, policy: Policy) -> None:
        self.encoder = feature_net(policy.obs_space, self.encoder_net_config, self.embeds_dim)
        self.flat = FlatParameters(self.encoder)
        self.past = torch.zeros(0, self.embeds_dim)

    def rewards(self, fragment: Batch, timestep: int) -> tuple[np.ndarray, dict[str, Any]]:
        with torch.no_grad():
            found = self.encoder(self.seen(fragment, "obs"))
        self.past = torch.cat([self.past, found])[-max(self.num_neighbors, len(found)) :]
        distances = distances_to_neighbor(found, self.past, self.k_nn)
        rewards = self._beta(timestep) * torch.log1p(distances)
        return self.spread(fragment, rewards), {}

    def state_dict(self) -> dict[str, Any]:
        if self.policy is None:
            return super().state_dict()
        own = {"encoder": self.flat.values.clone(), "past": self.past.clone()}
        return super().state_dict() | own

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.policy is not None:
            self.flat.values.copy_(torch.as_tensor(state["encoder"]))
            self.past = torch.as_tensor(state["past"]).clone()


def distances_to_neighbor(found: torch.Tensor, past: torch.Tensor, k: int) -> torch.Tensor:
    """Distance [N] of each row of `found` [N, d] to the k-th nearest other row of `past` [M, d],
    whose last N rows are the same; to the farthest where there are fewer."""
    k = min(k, len(past) - 1)
    # The nearest of all is the row itself. Exact distances: those by products round to above 0.
    distances = torch.cdist(found, past, compute_mode="donot_use_mm_for_euclid_dist")
    return distances.kthvalue(k + 1, dim=1).values
