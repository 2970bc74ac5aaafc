"""Rewards for observations whose random features are not known yet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from rlrun.core.batch import Batch
from rlrun.core.exploration.features import check_encoder, feature_net
from rlrun.core.exploration.intrinsic import IntrinsicReward, Learned
from rlrun.core.filters import RunningMoments
from rlrun.core.flat import FlatParameters
from rlrun.core.layout import layout_of
from rlrun.core.networks import Layers, Model, linear
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_not_negative

CLIP = 5.0
"""Normalised observations are clipped to it (sec. 2.4)."""


@dataclass(kw_only=True)
class RND(IntrinsicReward):
    """Random network distillation (Burda et al., 2019, arXiv:1810.12894).

    The reward of a step is the mean squared error with which a predictor gives the features that a
    fixed random network has for the next observation. It is divided by the running standard
    deviation of its own discounted returns, which go on over the ends of episodes (sec. 2.4). Both
    networks see observations normalised by their running mean and standard deviation (images within
    Dicts and Tuples: as they are). Other than in the paper, the sum of both rewards has one value
    function and one discount, the algorithm's.
    """

    embed_dim: int = 128
    """Width of the random features; the paper: 512."""
    feature_net_config: Model | None = None
    """Network of both, a node like those of the group model; null: one layer of 256 for vectors,
    convolutions for images."""
    predictor_hiddens: int = 256
    """Width of one more layer of the predictor."""
    intrinsic_reward_coeff: float = 0.5
    """What the reward is multiplied by; the paper: 1, with 2 for the env's."""
    intrinsic_gamma: float = 0.99
    """Discount of the returns that rewards are normalised by."""
    lr: float = 1e-4
    """Adam step size of the predictor."""
    minibatch_size: int = 64
    """Steps of one update; each fragment is gone through once."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "intrinsic_reward_coeff", "intrinsic_gamma")
        for name in ("lr", "embed_dim", "predictor_hiddens", "minibatch_size"):
            check_not_negative(self, name, exclusive=True)
        check_encoder("exploration.feature_net_config", self.feature_net_config)
        self.learned: Learned
        self.target: FlatParameters
        """The weights of the fixed network."""
        self.obs_moments: RunningMoments | None = None
        """Of what was observed; None where rows of images are taken as they are."""
        self.return_moments = RunningMoments(())
        self.returns = np.zeros(0)
        """Discounted intrinsic rewards of each env so far, [B]."""

    def make(self, policy: Policy) -> None:
        space, layout = policy.obs_space, layout_of(policy.obs_space)
        self.obs_moments = None
        if layout is None or not layout.images or layout.is_lone_image:
            self.obs_moments = RunningMoments(space.shape)
            space = spaces.Box(-CLIP, CLIP, space.shape, np.float32)
        target = feature_net(space, self.feature_net_config, self.embed_dim)
        predictor = Layers(
            feature_net(space, self.feature_net_config, self.predictor_hiddens),
            nn.ReLU(),
            linear(self.predictor_hiddens, self.embed_dim, gain=1.0),
        )
        self.target, self.learned = FlatParameters(target), Learned(predictor, self.lr)
        self.return_moments = RunningMoments(())

    def rewards(self, fragment: Batch, timestep: int) -> tuple[np.ndarray, dict[str, Any]]:
        seen = self.seen(fragment, "next_obs")
        if self.obs_moments is not None:
            self.obs_moments.add(seen.numpy())
            seen = self._normalised(seen)
        with torch.no_grad():
            novelty = self.spread(fragment, self.errors(seen))
        loss = self.learned.learn(
            lambda index: self.errors(seen[index]).mean(), len(seen), self.minibatch_size, self.rng
        )
        self._count_returns(novelty)
        rewards = self.intrinsic_reward_coeff * novelty / (self.return_moments.std() + 1e-8)
        return rewards, {"prediction_loss": loss}

    def errors(self, seen: torch.Tensor) -> torch.Tensor:
        """Mean squared errors of the predictor [N] at normalised observations [N, ...]."""
        with torch.no_grad():
            features = self.target.module(seen)
        return (self.learned.module(seen) - features).square().mean(-1)

    def _normalised(self, seen: torch.Tensor) -> torch.Tensor:
        assert self.obs_moments is not None
        centred = (seen.numpy() - self.obs_moments.mean) / (self.obs_moments.std() + 1e-8)
        return torch.from_numpy(np.clip(centred, -CLIP, CLIP).astype(np.float32))

    def _count_returns(self, novelty: np.ndarray) -> None:
        """novelty: [T, B]."""
        if len(self.returns) != novelty.shape[1]:
            self.returns = np.zeros(novelty.shape[1])
        for row in novelty:
            self.returns = self.intrinsic_gamma * self.returns + row
            self.return_moments.add(self.returns)

    def state_dict(self) -> dict[str, Any]:
        if self.policy is None:
            return super().state_dict()
        obs_moments = self.obs_moments
        return super().state_dict() | {
            "predictor": self.learned.state_dict(),
            "target": self.target.values.clone(),
            "obs_moments": None if obs_moments is None else obs_moments.state_dict(),
            "return_moments": self.return_moments.state_dict(),
            "returns": self.returns,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        if self.policy is None:
            return
        self.learned.load_state_dict(state["predictor"])
        self.target.values.copy_(torch.as_tensor(state["target"]))
        if self.obs_moments is not None:
            self.obs_moments.load_state_dict(state["obs_moments"])
        self.return_moments.load_state_dict(state["return_moments"])
        self.returns = np.array(state["returns"], np.float64)
