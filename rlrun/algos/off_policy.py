"""What DQN, DDPG, SAC and their relatives share: transitions, replay, a target network."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import torch

from rlrun.algos import loops
from rlrun.core import returns, seeding
from rlrun.core.algorithm import Algorithm, check_range, refuse_unused
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError, RlrunError
from rlrun.core.networks import Model
from rlrun.core.policy import Policy
from rlrun.core.replay import PrioritizedReplayBuffer, ReplayBuffer
from rlrun.core.replay_side import ReplaySide
from rlrun.core.schedules import ScheduleLike, check_schedule_range
from rlrun.core.target import Target


@dataclass(kw_only=True)
class OffPolicy(Algorithm):
    """Base of algorithms that learn from replayed transitions against a target network. An heir
    adds `make_policy`, and `loss` or (with several losses) `update`, whose metrics have `td_error`,
    a vector [N]."""

    train_batch_size: int = 256
    """Rows of one update."""
    timesteps_per_iteration: int = 1000
    n_step: int = 1
    """Rewards that are summed before the bootstrap."""
    prioritized_replay: bool = False
    """Whether rows are sampled in proportion to their TD error (Schaul et al., 2016,
    arXiv:1511.05952)."""
    prioritized_replay_alpha: float = 0.5
    """Exponent of the priorities: 0 is uniform."""
    prioritized_replay_beta: ScheduleLike = 0.4
    """Exponent of the importance weights, or a schedule (the paper: from 0.4 to 1)."""
    prioritized_replay_eps: float = 1e-6
    """Added to every priority."""
    buffer_size: int = 1_000_000
    """Rows that the replay buffer holds."""
    learning_starts: int = 1_500
    """Env steps before the first update."""
    training_intensity: float | None = None
    """Rows learned per row sampled; null: one update per round of fragments."""
    target_network_update_freq: int = 1
    """Updates of the learner between updates of the target network; env steps where tau is 1."""
    tau: float = 0.005
    """Share of the online weights in each update of the target network; 1 copies."""

    built_in: ClassVar[frozenset[str]] = Algorithm.built_in | {
        "n_step",
        "prioritized_replay",
        "prioritized_replay_alpha",
        "prioritized_replay_eps",
        "buffer_size",
    }
    model_fields: ClassVar[frozenset[str]] = frozenset()
    """What of the fields that all models share the policies look at."""

    replay_side: ClassVar[type[ReplaySide]] = ReplaySide

    loop = staticmethod(loops.replay)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_step", "buffer_size", "target_network_update_freq"):
            check_range(name, getattr(self, name), low=1)
        for name in ("learning_starts", "training_intensity"):
            check_range(name, getattr(self, name), low=0)
        for name in ("prioritized_replay_alpha", "tau"):
            check_range(name, getattr(self, name), low=0.0, high=1.0)
        check_range("prioritized_replay_eps", self.prioritized_replay_eps, low=1e-12)
        check_schedule_range(
            "algo.prioritized_replay_beta", self.prioritized_replay_beta, low=0.0, high=1.0
        )
        if not self.prioritized_replay:
            unused = [f"prioritized_replay_{name}" for name in ("alpha", "beta", "eps")]
            refuse_unused(self, unused, "algo.prioritized_replay=false")
        if self.buffer_size < self.train_batch_size:
            raise ConfigError(
                f"algo.buffer_size={self.buffer_size} is smaller than "
                f"algo.train_batch_size={self.train_batch_size}. Raise it."
            )

    @property
    def lookahead_steps(self) -> int:
        return self.n_step - 1

    @property
    def rollout_columns(self) -> tuple[str, ...]:
        return ("next_obs",)

    def check_model(self, model: Model) -> None:
        name = type(self).__name__
        if model.has_memory:
            raise ConfigError(
                f"{name} learns from single steps, and a policy with memory needs sequences. Use "
                f"a model without (model.use_lstm=false, or model=mlp in place of model=gtrxl), or "
                f"algo=ppo."
            )
        for each in fields(Model):
            default, value = getattr(type(model), each.name), getattr(model, each.name)
            if value != default and each.name not in self.model_fields:
                raise ConfigError(
                    f"model.{each.name}={value} is for policies of another kind; those of {name} "
                    f"do not look at it. Leave it at {default}."
                )

    def postprocess(self, policy: Policy, trajectory: Batch) -> Batch:
        """n-step transitions: rewards summed, next_obs of the window's end, and `discounts`,
        the factor of the bootstrap (0 where the episode terminated)."""
        trajectory.require("obs", "actions", "rewards", "next_obs", "terminated", "truncated")
        if self.n_step == 1:
            columns = ("obs", "actions", "rewards", "next_obs")
            transitions = Batch({name: trajectory[name] for name in columns})
            transitions["discounts"] = np.float32(self.gamma) * ~trajectory["terminated"]
            return _with_next_actions(policy, transitions)
        rewards, last, discounts = returns.n_step_transitions(
            trajectory["rewards"],
            trajectory["terminated"],
            trajectory["truncated"],
            self.gamma,
            self.n_step,
        )
        envs = np.arange(rewards.shape[1])
        starts = slice(0, len(rewards))
        transitions = Batch(
            obs=trajectory["obs"][starts],
            actions=trajectory["actions"][starts],
            rewards=rewards,
            next_obs=trajectory["next_obs"][last, envs],
            discounts=discounts * ~trajectory["terminated"][last, envs],
        )
        return _with_next_actions(policy, transitions)

    def setup(self, policy: Policy, device: torch.device, seed: int) -> None:
        super().setup(policy, device, seed)
        self.target = self.make_target()
        self.replay = self.replay_side(
            self.make_buffer(seeding.generator(seed, "replay")),
            train_batch_size=self.train_batch_size,
            learning_starts=self.learning_starts,
            training_intensity=self.training_intensity,
            beta=self.schedule("prioritized_replay_beta"),
        )

    def make_target(self) -> Target:
        """What follows the policy, for the targets."""
        return Target(self.policy, interval=self.target_network_update_freq, tau=self.tau)

    def make_buffer(self, rng: np.random.Generator) -> Any:
        """The buffer of the replay side."""
        if not self.prioritized_replay:
            return ReplayBuffer(self.buffer_size, rng)
        return PrioritizedReplayBuffer(
            self.buffer_size,
            rng,
            alpha=self.prioritized_replay_alpha,
            eps=self.prioritized_replay_eps,
        )

    def apply_hyperparameters(self) -> None:
        if not hasattr(self, "replay"):  # on a worker
            return
        self.target.interval, self.target.tau = self.target_network_update_freq, self.tau
        self.replay.train_batch_size = self.train_batch_size
        self.replay.learning_starts = self.learning_starts
        self.replay.training_intensity = self.training_intensity
        self.replay.beta = self.schedule("prioritized_replay_beta")

    def on_weights_set(self) -> None:
        self.target.follow()

    def td_errors(self, rows: Batch) -> torch.Tensor:
        """What would become the priorities of rows of torch tensors, [N]."""
        with torch.no_grad():
            return self.loss(rows)[1]["td_error"]

    def learn(self, rows: Batch) -> dict[str, Any]:
        metrics = self.update(rows)
        self.replay.update_priorities(rows, metrics["td_error"])
        # Lillicrap et al. (2016) average after each update; Mnih et al. (2015) copy by env steps.
        self.target.follow_if_due(self.timestep if self.tau == 1.0 else self.num_updates)
        return metrics

    def update(self, rows: Batch) -> dict[str, Any]:
        """One update of the policy; returns learner statistics."""
        return super().learn(rows)

    def stats(self) -> dict[str, Any]:
        return {
            "num_target_updates": self.target.num_updates,
            "last_target_update_ts": self.target.last_update,
            "replay_buffer": self.replay.buffer.stats(),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "target": self.target.state_dict(),
            "replay": self.replay.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.target.load_state_dict(state["target"])
        self.replay.load_state_dict(state["replay"])


def _with_next_actions(policy: Policy, transitions: Batch) -> Batch:
    """The same transitions. Raises RlrunError if one is to be bootstrapped from a state in which
    no action may be taken, whose value nobody can tell."""
    mask = getattr(policy, "action_mask", None)
    if mask is not None:
        is_stuck = (transitions["discounts"] > 0.0) & ~mask.allows_any(transitions["next_obs"])
        if is_stuck.any():
            raise RlrunError(
                "The env's action_mask allows no action in a state that it does not call terminal "
                "(a truncated episode's last one counts too). Only where an episode terminates may "
                "it be all zeros."
            )
    return transitions
