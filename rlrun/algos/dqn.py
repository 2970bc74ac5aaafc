"""Deep Q-learning with every part of Rainbow as a switch (Mnih et al., 2015, Nature 518; Hessel
et al., 2018, arXiv:1710.02298)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast

import numpy as np
import torch
from gymnasium import spaces

from rlrun.algos import loops
from rlrun.core import losses, returns, seeding
from rlrun.core.algorithm import Algorithm, check_range
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError, RlrunError, SpaceError
from rlrun.core.exploration import Exploration, StochasticSampling
from rlrun.core.networks import Model
from rlrun.core.policy import Policy
from rlrun.core.q_network import QNetwork
from rlrun.core.replay import PrioritizedReplayBuffer, ReplayBuffer
from rlrun.core.replay_side import ReplaySide
from rlrun.core.schedules import ScheduleLike, check_schedule_range
from rlrun.core.target import Target


@dataclass(kw_only=True)
class DQN(Algorithm):
    """Q-learning from replay against a target network.

    Defaults are those of Rainbow's DQN with double Q (Hessel et al., 2018, table 1), 4 frames an
    env step; conf/algo/dqn.yaml lists them.
    """

    lr: ScheduleLike = 6.25e-5
    """Adam step size, or a schedule over env steps."""
    train_batch_size: int = 32
    """Rows of one update."""
    rollout_fragment_length: int | Literal["auto"] = 4
    """Env steps between updates, per env."""
    timesteps_per_iteration: int = 1000
    double_q: bool = True
    """Whether the online network chooses the next action and the target network values it
    (van Hasselt et al., 2016, arXiv:1509.06461, eq. 4)."""
    dueling: bool = False
    """Whether Q is the sum of a state value and advantages (Wang et al., 2016)."""
    hiddens: list[int] = field(default_factory=lambda: [512])
    """Widths of the layers of each stream after the model's encoder."""
    n_step: int = 1
    """Rewards that are summed before the bootstrap (Rainbow: 3)."""
    num_atoms: int = 1
    """Atoms of the value distribution; 1 learns expected values (C51: 51)."""
    v_min: float = -10.0
    """Lowest return of the distribution's support."""
    v_max: float = 10.0
    """Highest return of the distribution's support."""
    noisy: bool = False
    """Whether the streams are noisy layers (Fortunato et al., 2018)."""
    sigma0: float = 0.5
    """Initial noise of noisy layers."""
    prioritized_replay: bool = False
    """Whether rows are sampled in proportion to their TD error (Schaul et al., 2016)."""
    prioritized_replay_alpha: float = 0.5
    """Exponent of the priorities: 0 is uniform."""
    prioritized_replay_beta: ScheduleLike = 0.4
    """Exponent of the importance weights, or a schedule (the paper: from 0.4 to 1)."""
    prioritized_replay_eps: float = 1e-6
    """Added to every priority."""
    buffer_size: int = 1_000_000
    """Rows that the replay buffer holds."""
    learning_starts: int = 20_000
    """Env steps before the first update (the paper: 80,000 frames)."""
    training_intensity: float | None = None
    """Rows learned per row sampled; null: one update per round of fragments."""
    target_network_update_freq: int = 8_000
    """Env steps between updates of the target network (the paper: 32,000 frames); updates of the
    learner where tau is below 1."""
    tau: float = 1.0
    """Share of the online weights in each update of the target network; 1 copies."""
    grad_clip: float | None = 10.0
    """Largest L2 norm of the gradient (Wang et al., 2016: 10); null: unbounded."""
    adam_epsilon: float = 1.5e-4

    built_in = Algorithm.built_in | {
        "double_q",
        "dueling",
        "hiddens",
        "n_step",
        "num_atoms",
        "v_min",
        "v_max",
        "noisy",
        "sigma0",
        "prioritized_replay",
        "prioritized_replay_alpha",
        "prioritized_replay_eps",
        "buffer_size",
    }

    loop = staticmethod(loops.replay)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_step", "num_atoms", "buffer_size", "target_network_update_freq"):
            check_range(name, getattr(self, name), low=1)
        for name in ("sigma0", "learning_starts", "training_intensity"):
            check_range(name, getattr(self, name), low=0)
        for name in ("prioritized_replay_alpha", "tau"):
            check_range(name, getattr(self, name), low=0.0, high=1.0)
        check_range("prioritized_replay_eps", self.prioritized_replay_eps, low=1e-12)
        check_schedule_range(
            "algo.prioritized_replay_beta", self.prioritized_replay_beta, low=0.0, high=1.0
        )
        if any(width < 1 for width in self.hiddens):
            raise ConfigError(f"algo.hiddens={self.hiddens}: every width must be at least 1.")
        if self.num_atoms > 1 and self.v_min >= self.v_max:
            raise ConfigError(
                f"algo.v_min={self.v_min} must be below algo.v_max={self.v_max}, which together "
                f"bound the returns that {self.num_atoms} atoms can express."
            )
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

    def check_spaces(self, obs_space: spaces.Box, action_space: spaces.Space, env: str) -> None:
        if not isinstance(action_space, spaces.Discrete):
            raise SpaceError(
                f"algo=dqn needs a Discrete action space; {env!r} has {action_space}. Try algo=ppo."
            )

    def check_exploration(self, exploration: Exploration) -> None:
        if isinstance(exploration, StochasticSampling):
            raise ConfigError(
                "exploration=stochastic_sampling draws from a policy's probabilities, and algo=dqn "
                "has values of actions. Use exploration=epsilon_greedy, or exploration=greedy with "
                "algo.noisy=true."
            )

    def check_model(self, model: Model) -> None:
        if model.has_memory:
            raise ConfigError(
                "algo=dqn learns from single steps, and a policy with memory needs sequences. Use "
                "a model without (model.use_lstm=false, or model=mlp in place of model=gtrxl), or "
                "algo=ppo."
            )
        for each in fields(Model):
            default, value = getattr(type(model), each.name), getattr(model, each.name)
            if value != default and each.name != "mask_actions":
                raise ConfigError(
                    f"model.{each.name}={value} is for policies with a value function or a "
                    f"distribution, and algo=dqn has neither. Leave it at {default}."
                )

    def make_policy(
        self, obs_space: spaces.Box, action_space: spaces.Space, model: Model
    ) -> Policy:
        assert isinstance(action_space, spaces.Discrete)
        return QNetwork(
            obs_space,
            action_space,
            model,
            hiddens=self.hiddens,
            dueling=self.dueling,
            noisy=self.noisy,
            sigma0=self.sigma0,
            num_atoms=self.num_atoms,
            v_min=self.v_min,
            v_max=self.v_max,
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
        self.network = cast(QNetwork, self.policy)
        self.target = Target(self.policy, interval=self.target_network_update_freq, tau=self.tau)
        rng = seeding.generator(seed, "replay")
        buffer = (
            PrioritizedReplayBuffer(
                self.buffer_size,
                rng,
                alpha=self.prioritized_replay_alpha,
                eps=self.prioritized_replay_eps,
            )
            if self.prioritized_replay
            else ReplayBuffer(self.buffer_size, rng)
        )
        self.replay = ReplaySide(
            buffer,
            train_batch_size=self.train_batch_size,
            learning_starts=self.learning_starts,
            training_intensity=self.training_intensity,
            beta=self.schedule("prioritized_replay_beta"),
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

    def learn(self, rows: Batch) -> dict[str, Any]:
        for network in (self.network, self.target.network):
            network.draw_noise(self.rng)
        metrics = super().learn(rows)
        self.replay.update_priorities(rows, metrics["td_error"])
        # Lillicrap et al. (2016) average after each update; Mnih et al. (2015) copy by env steps.
        self.target.follow_if_due(self.timestep if self.tau == 1.0 else self.num_updates)
        return metrics

    def loss(self, rows: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        """Huber loss of the TD errors, or cross-entropy of value distributions (C51)."""
        loss, errors, q_values = (
            self._distributional_loss(rows) if self.num_atoms > 1 else self._expected_loss(rows)
        )
        return loss, {"q": q_values.detach(), "td_error": errors.detach()}

    def _expected_loss(self, rows: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(Huber loss, TD errors [N], Q of the actions taken [N])."""
        with torch.no_grad():
            next_rows = Batch(obs=rows["next_obs"])
            next_q = self.target.network(next_rows)
            if self.double_q:
                choosers = self.network.masked(self.network(next_rows), rows["next_obs"])
                best = choosers.argmax(1, keepdim=True)
                next_values = next_q.gather(1, best).squeeze(1)
            else:
                next_values = self.network.masked(next_q, rows["next_obs"]).amax(1)
        targets = (rows["rewards"] + rows["discounts"] * next_values).unsqueeze(1)
        q_values = self.network(rows).gather(1, rows["actions"].unsqueeze(1))
        # Huber with delta 1 clips the gradient of an error at 1 (Mnih et al., 2015, methods).
        weights = rows["weights"].unsqueeze(1) if "weights" in rows else None
        loss = losses.huber(q_values, targets, weights)
        errors = q_values.detach() - targets
        return loss, errors.squeeze(1), q_values.squeeze(1)

    def _distributional_loss(self, rows: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(cross-entropy loss, KL to the targets [N], expected Q of the actions taken [N])."""
        support = self.network.support
        row_index = torch.arange(rows.num_rows, device=self.device)
        with torch.no_grad():
            next_rows = Batch(obs=rows["next_obs"])
            next_logits = self.target.network(next_rows)
            chooser_logits = self.network(next_rows) if self.double_q else next_logits
        choosers = self.network.masked(self.network.q_values(chooser_logits), rows["next_obs"])
        best = choosers.argmax(1)
        targets = losses.categorical_projection(
            next_logits[row_index, best].softmax(-1), rows["rewards"], rows["discounts"], support
        )
        log_probs = self.network(rows)[row_index, rows["actions"]].log_softmax(-1)
        cross_entropy = -(targets * log_probs).sum(-1)
        q_values = (log_probs.detach().exp() * support).sum(-1)
        # Rainbow's priorities are the KL divergence: the loss less the targets' own entropy.
        target_entropy = -torch.special.xlogy(targets, targets).sum(-1)
        errors = cross_entropy.detach() - target_entropy
        return losses.weighted_mean(cross_entropy, rows.get("weights")), errors, q_values

    def unknown_metrics(self) -> dict[str, float]:
        vectors = [
            f"{kind}_{name}" for name in ("q", "td_error") for kind in ("mean", "min", "max")
        ]
        return dict.fromkeys(("total_loss", "grad_norm", "cur_lr", *vectors), math.nan)

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
