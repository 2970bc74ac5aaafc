"""Noise on the weights that act, in place of noise on actions."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlrun.core.batch import Batch
from rlrun.core.distributions import Distribution
from rlrun.core.errors import ConfigError
from rlrun.core.exploration.base import Acts, Exploration, valid_steps
from rlrun.core.exploration.epsilon_greedy import EpsilonGreedy
from rlrun.core.exploration.gaussian_noise import GaussianNoise
from rlrun.core.exploration.nested import NestedExploration
from rlrun.core.exploration.ornstein_uhlenbeck_noise import OrnsteinUhlenbeckNoise
from rlrun.core.exploration.per_worker import PerWorkerEpsilonGreedy, degrees
from rlrun.core.policy import Extras, Policy, Previous, State
from rlrun.core.ranges import check_not_negative
from rlrun.core.schedules import ScheduleLike, check_schedule_range, make_schedule

ADAPTATION_STEPS = 50
"""Steps for which the standard deviation grows or shrinks once by its factor."""

SMALL_EPSILON = 0.01
"""What is left of random actions beside the noise where epsilon-greedy is usual."""

USUAL_DISTANCE = 0.1
"""What is aimed at where `sub_exploration` says nothing of it."""


@dataclass(kw_only=True)
class ParameterNoise(NestedExploration):
    """Acts by a copy of the policy with Gaussian noise on all weights (Plappert et al., 2018,
    arXiv:1706.01905).

    Noise is drawn anew where an episode ends (of several envs: where as many have ended as there
    are envs), and laid over the newest weights before each fragment. Its standard deviation grows
    after fragments in which the actions differed no more than `target_distance` from those of the
    policy itself, and else shrinks (sec. 3, adaptive noise scaling): by a factor for every 50
    steps. The policy itself, and so the learner, never sees the noise: it acts beside the copy, for
    that distance and for extras such as values, which are those of the weights that learn.

    Without a `sub_exploration`, algorithms that choose epsilon-greedily take 1% of random actions
    beside the noise, which aims at the distance that their own epsilon gives (appendix C).

    Discrete actions differ by KL(policy || copy), of values after softmax (appendix C), continuous
    ones by the root of the mean squared difference of the modes.
    """

    random_timesteps: int = 10_000
    initial_stddev: float = 1.0
    """Standard deviation of the noise at the start."""
    target_distance: ScheduleLike | None = None
    """How far actions may differ, or a schedule over env steps; null: as far as by
    `sub_exploration`, or by what the algorithm explores by on its own: -log(1 - epsilon + epsilon /
    n) for epsilon-greedy choices, the standard deviation of noise on actions (of noise that drifts,
    in the long run); 0.1 for others."""
    adaptation_coeff: float = 1.01
    """The factor by which the standard deviation grows or shrinks every 50 steps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "initial_stddev", exclusive=True)
        if self.target_distance is not None:
            check_schedule_range("exploration.target_distance", self.target_distance, low=0.0)
        if not (math.isfinite(self.adaptation_coeff) and self.adaptation_coeff > 1.0):
            raise ConfigError(
                f"exploration.adaptation_coeff={self.adaptation_coeff} must be above 1."
            )
        self.stddev = self.initial_stddev
        """The standard deviation now."""
        self.stddev_of_noise = self.stddev
        """What it was when the copy got its weights."""
        self.noise = np.zeros(0, np.float32)
        """Standard normal, [P]; empty until it is drawn."""
        self.num_ended = 0
        """Episodes that ended since it was drawn."""
        self._perturbed: Policy
        self._distances: list[np.ndarray] = []
        """Of the actions of each step of the fragment, [B]."""
        self._is_stale = True

    def usual(self) -> Exploration:
        if isinstance(self.natural, EpsilonGreedy):
            return EpsilonGreedy(initial_epsilon=SMALL_EPSILON, final_epsilon=SMALL_EPSILON)
        return self.natural

    def set_up(self, policy: Policy) -> None:
        if policy.noisy_layers:
            raise ConfigError(
                "exploration=parameter_noise puts noise on all weights, and algo.noisy=true has "
                "layers that learn their own. Use exploration=greedy, or algo.noisy=false."
            )
        if self.sub.actor is not None:
            raise ConfigError(
                f"exploration.sub_exploration={type(self.sub).__name__} acts with weights of its "
                f"own, as parameter_noise does. Leave one of them out."
            )
        self._perturbed = copy.deepcopy(policy)
        self._perturbed.requires_grad_(False)

    @property
    def actor(self) -> Acts | None:
        return None if self.policy is None else self

    def before_fragment(self) -> None:
        super().before_fragment()
        self._distances = []
        self._is_stale = True

    def reset(self, envs: np.ndarray) -> None:
        super().reset(envs)
        self.num_ended += int(np.count_nonzero(envs))
        if self.num_ended >= len(envs):
            self.noise = np.zeros(0, np.float32)
            self._is_stale = True

    def act(
        self, obs: np.ndarray, state: State | None, previous: Previous | None, explore: bool
    ) -> tuple[Distribution, Extras, State]:
        """As `Policy.act`, by the weights with noise; extras are the policy's own."""
        assert self.policy is not None
        if not explore:
            return self.policy.act(obs, state, previous, explore)
        if self._is_stale:
            self._perturb()
        dist, extras, _ = self.policy.act(obs, state, previous, explore)
        noisy_dist, _, noisy_state = self._perturbed.act(obs, state, previous, explore)
        self._distances.append(self._squares_of_distances(dist, noisy_dist))
        return noisy_dist, extras, noisy_state

    def postprocess(self, fragment: Batch, timestep: int) -> dict[str, Any]:
        numbers = super().postprocess(fragment, timestep)
        valid = valid_steps(fragment)
        num_steps = int(np.count_nonzero(valid))
        if not num_steps:
            return numbers
        distance = float(np.stack(self._distances)[valid].mean())
        if not self._is_discrete:
            distance = math.sqrt(distance)
        is_near = distance <= self._target(timestep, fragment["rewards"].shape[1])
        times = num_steps / ADAPTATION_STEPS
        self.stddev *= self.adaptation_coeff ** (times if is_near else -times)
        return numbers | {"parameter_noise_stddev": self.stddev, "action_distance": distance}

    def _perturb(self) -> None:
        """Put the newest weights with noise into the copy."""
        assert self.policy is not None
        self._is_stale = False
        weights = self._perturbed
        weights.copy_weights(self.policy)
        if not len(self.noise):
            self.noise = self.rng.standard_normal(weights.flat.values.numel(), dtype=np.float32)
            self.num_ended = 0
        self.stddev_of_noise = self.stddev
        noise = torch.from_numpy(self.noise).to(weights.flat.values.device)
        weights.flat.values.add_(noise, alpha=self.stddev_of_noise)

    @property
    def _is_discrete(self) -> bool:
        return not isinstance(self.action_space, spaces.Box)

    def _squares_of_distances(self, dist: Distribution, noisy_dist: Distribution) -> np.ndarray:
        """Of each row [N]; of discrete actions the KL divergences themselves."""
        if self._is_discrete:
            return np.asarray(dist.kl(noisy_dist))
        return np.square(dist.mode() - noisy_dist.mode()).mean(-1)  # type: ignore[no-any-return]

    def _target(self, timestep: int, num_envs: int) -> float:
        if self.target_distance is not None:
            return make_schedule(self.target_distance)(timestep)
        like = self.natural if self.sub_exploration is None else self.sub
        if isinstance(like, EpsilonGreedy) and isinstance(self.action_space, spaces.Discrete):
            epsilon = like.epsilon(timestep)
            if isinstance(like, PerWorkerEpsilonGreedy):
                epsilon = float(degrees(like, num_envs).mean())
            return -math.log(max(1.0 - epsilon + epsilon / int(self.action_space.n), 1e-8))
        if isinstance(like, GaussianNoise | OrnsteinUhlenbeckNoise):
            return like.stddev * float(np.mean(like.scale(timestep, num_envs)))
        return USUAL_DISTANCE

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {
            "stddev": self.stddev,
            "noise": self.noise,
            "num_ended": self.num_ended,
            # Of a fragment that is under way.
            "distances": np.array(self._distances),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.stddev = float(state["stddev"])
        self.noise = np.array(state["noise"], np.float32)
        self.num_ended = int(state["num_ended"])
        self._distances = list(state.get("distances", ()))
        self._is_stale = True
