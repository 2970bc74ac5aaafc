"""Monotonic advantage re-weighted imitation learning (Wang et al., 2018, NeurIPS 31); behaviour
cloning where the advantages do not count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces

from rlrun.algos import loops
from rlrun.core import losses, returns, seeding
from rlrun.core.actor_critic import make_actor_critic
from rlrun.core.algorithm import Algorithm, BatchMode
from rlrun.core.batch import Batch
from rlrun.core.distributions import DiagGaussian, Distribution
from rlrun.core.errors import ConfigError
from rlrun.core.networks import Model
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_range, refuse_unused
from rlrun.core.replay import ReplayBuffer
from rlrun.core.replay_side import ReplaySide
from rlrun.core.schedules import ScheduleLike, make_schedule

OF_ADVANTAGES = (
    "vf_coeff",
    "moving_average_sqd_adv_norm_start",
    "moving_average_sqd_adv_norm_update_rate",
)
"""Hyperparameters that mean something only where advantages count."""

LARGEST_EXPONENT = 20.0
"""Of a row's weight, which then is 5e8."""


@dataclass(kw_only=True)
class MARWIL(Algorithm):
    """Imitation of recorded actions, each weighted by exp(beta A / c): A is the advantage of what
    followed over the learned value function, c a moving average of its size.

    With beta 0 it is behaviour cloning, and no value function is learned. Defaults are those of the
    paper (sec. 5), and of the classic RLlib where that gives none; conf/algo/marwil.yaml lists
    them.
    """

    lr: ScheduleLike = 1e-4
    """Adam step size, or a schedule over rows read."""
    beta: float = 1.0
    """How much advantages count (algorithm 1); 0: not at all."""
    vf_coeff: float = 1.0
    """Weight of the value function's squared error."""
    moving_average_sqd_adv_norm_start: float = 100.0
    """The average of squared advantages (c^2) that is assumed before any was seen."""
    moving_average_sqd_adv_norm_update_rate: float = 1e-8
    """How fast c^2 follows the mean squared advantage of each train batch (paper: 1e-8)."""
    bc_logstd_coeff: float = 0.0
    """Weight of a bonus on the log standard deviations of a Gaussian policy, against collapse."""
    train_batch_size: int = 2000
    """Rows of one update."""
    rollout_fragment_length: int | Literal["auto"] = "auto"
    batch_mode: BatchMode = "complete_episodes"
    """Rewards to go are known only of whole episodes."""
    timesteps_per_iteration: int = 10_000
    buffer_size: int = 10_000
    """Rows that were read last, from which train batches are drawn."""
    learning_starts: int = 0
    """Rows read before the first update."""
    training_intensity: float | None = None
    """Rows learned per row read; null: one update per round of fragments."""

    built_in: ClassVar[frozenset[str]] = Algorithm.built_in | {"beta", "buffer_size", "gamma"}
    learns_from_data: ClassVar[bool] = True
    needs_data: ClassVar[bool] = True

    loop = staticmethod(loops.replay)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta", "vf_coeff", "bc_logstd_coeff", "learning_starts"):
            check_range(name, getattr(self, name), low=0.0)
        check_range("training_intensity", self.training_intensity, low=0.0)
        check_range(OF_ADVANTAGES[1], self.moving_average_sqd_adv_norm_start, low=1e-12)
        rate = self.moving_average_sqd_adv_norm_update_rate
        check_range(OF_ADVANTAGES[2], rate, low=0.0, high=1.0)
        if self.beta == 0.0:
            refuse_unused(self, OF_ADVANTAGES, "algo.beta=0")
        elif self.batch_mode != "complete_episodes":
            raise ConfigError(
                f"algo.batch_mode={self.batch_mode} cuts episodes whose rewards to go are not "
                f"known yet. Use batch_mode=complete_episodes, or algo.beta=0."
            )
        if self.buffer_size < self.train_batch_size:
            raise ConfigError(
                f"algo.buffer_size={self.buffer_size} is smaller than "
                f"algo.train_batch_size={self.train_batch_size}. Raise it."
            )

    @property
    def rollout_columns(self) -> tuple[str, ...]:
        return ("next_obs",) if self.beta > 0.0 else ()

    def make_policy(
        self, obs_space: spaces.Box, action_space: spaces.Space, model: Model
    ) -> Policy:
        policy = make_actor_critic(obs_space, action_space, model)
        is_gaussian = isinstance(action_space, spaces.Box) and policy.family.num_log_stds > 0
        if self.bc_logstd_coeff > 0.0 and not is_gaussian:
            raise ConfigError(
                f"algo.bc_logstd_coeff={self.bc_logstd_coeff} is for Gaussian policies, and the "
                f"action space {action_space} has another. Leave it at 0."
            )
        return policy

    def postprocess(self, policy: Policy, trajectory: Batch) -> Batch:
        """Whole episodes [T, B, ...]: their `returns`, with `last_obs` and `last_discounts`, by
        which the value of the state that a time limit cut off counts (0 where the episode
        terminated). With beta 0 only what is to be imitated."""
        trajectory.require("obs", "actions")
        rows = Batch(obs=trajectory["obs"], actions=trajectory["actions"])
        if self.beta == 0.0:
            return rows
        trajectory.require("rewards", "next_obs", "terminated", "truncated")
        ended = trajectory["terminated"] | trajectory["truncated"]
        last = last_steps(ended)
        envs = np.arange(ended.shape[1])
        steps_left = last - np.arange(len(ended))[:, None] + 1
        discounts = np.power(self.gamma, steps_left, dtype=np.float64).astype(np.float32)
        rows["returns"] = returns.rewards_to_go(trajectory["rewards"], ended, self.gamma)
        rows["last_obs"] = trajectory["next_obs"][last, envs]
        rows["last_discounts"] = discounts * ~trajectory["terminated"][last, envs]
        return rows

    def setup(self, policy: Policy, device: torch.device, seed: int) -> None:
        super().setup(policy, device, seed)
        self.sqd_adv_norm = self.moving_average_sqd_adv_norm_start
        self.replay = ReplaySide(
            ReplayBuffer(self.buffer_size, seeding.generator(seed, "replay")),
            train_batch_size=self.train_batch_size,
            learning_starts=self.learning_starts,
            training_intensity=self.training_intensity,
            beta=make_schedule(1.0),
        )

    def apply_hyperparameters(self) -> None:
        if hasattr(self, "replay"):  # not on a worker
            self.replay.train_batch_size = self.train_batch_size
            self.replay.learning_starts = self.learning_starts
            self.replay.training_intensity = self.training_intensity

    def loss(self, rows: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        """-mean(w (log pi(a|s) + bc_logstd_coeff sum log std)) + vf_coeff mean(A^2) / 2 with
        w = exp(beta A / c), through which nothing flows (algorithm 1); c^2 counts these rows."""
        dist, values = self.policy(rows)
        log_probs = dist.log_prob(rows["actions"])
        if self.bc_logstd_coeff > 0.0:
            log_probs = log_probs + self.bc_logstd_coeff * log_std_of(dist).sum(-1)
        if self.beta == 0.0:
            policy_loss = -log_probs.mean()
            return policy_loss, {"policy_loss": policy_loss.detach()}
        targets = rows["returns"] + rows["last_discounts"] * self._last_values(rows)
        advantages = targets - values
        self.sqd_adv_norm = moving_average(
            self.sqd_adv_norm,
            advantages.detach().square().mean().item(),
            self.moving_average_sqd_adv_norm_update_rate,
        )
        weights = advantage_weights(advantages.detach(), self.beta, self.sqd_adv_norm)
        policy_loss = -(weights * log_probs).mean()
        vf_loss = 0.5 * advantages.square().mean()
        return policy_loss + self.vf_coeff * vf_loss, {
            "policy_loss": policy_loss.detach(),
            "vf_loss": vf_loss.detach(),
            "vf_explained_var": losses.explained_variance(values.detach(), targets),
            "mean_weight": weights.mean(),
            "moving_average_sqd_adv_norm": self.sqd_adv_norm,
        }

    @torch.no_grad()
    def _last_values(self, rows: Batch) -> torch.Tensor:
        """Values [N] of the states in which time limits cut episodes; 0 elsewhere."""
        values = torch.zeros_like(rows["last_discounts"])
        is_cut = rows["last_discounts"] > 0.0
        if is_cut.any():
            values[is_cut] = self.policy(Batch(obs=rows["last_obs"][is_cut]))[1]
        return values

    def stats(self) -> dict[str, Any]:
        return {"replay_buffer": self.replay.buffer.stats()}

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "replay": self.replay.state_dict(),
            "sqd_adv_norm": self.sqd_adv_norm,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.replay.load_state_dict(state["replay"])
        self.sqd_adv_norm = float(state["sqd_adv_norm"])


def advantage_weights(advantages: torch.Tensor, beta: float, sqd_adv_norm: float) -> torch.Tensor:
    """exp(beta A / c) for advantages [N], c^2 being `sqd_adv_norm` (Wang et al., 2018, alg. 1).

    A deviation is that exponents end at 20: the average c follows slowly, and where it is far too
    small the weights would be infinite.
    """
    return (beta * advantages / sqd_adv_norm**0.5).clamp(max=LARGEST_EXPONENT).exp()


def moving_average(average: float, new: float, rate: float) -> float:
    """The average after it has gone the share `rate` of the way to `new`."""
    return average + rate * (new - average)


def last_steps(ended: np.ndarray) -> np.ndarray:
    """For each step of [T, B] the index of the step that ends its episode, or of the last one."""
    num_steps = len(ended)
    times = np.where(ended, np.arange(num_steps)[:, None], num_steps - 1)
    return np.minimum.accumulate(times[::-1], axis=0)[::-1]


def log_std_of(dist: Distribution) -> torch.Tensor:
    """Log standard deviations of a Gaussian, [..., d] or [d]."""
    assert isinstance(dist, DiagGaussian), "make_policy has seen to it"
    return dist.log_std
