"""Recurrent replay distributed DQN (R2D2: Kapturowski et al., 2019, openreview r1lyTjAqYX)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from gymnasium import spaces

from rlrun.algos.off_policy import OffPolicy, check_next_actions
from rlrun.algos.q_learning import UNKNOWN, check_discrete, refuse_greed, refuse_sampling
from rlrun.core import losses
from rlrun.core.algorithm import BatchMode
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError
from rlrun.core.exploration import EpsilonGreedy, Exploration
from rlrun.core.networks import Model
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_range, check_widths, refuse_unused
from rlrun.core.recurrent_q import RecurrentQNetwork
from rlrun.core.schedules import ScheduleLike
from rlrun.core.sequence_targets import (
    n_step_targets,
    rescale,
    sequence_priorities,
    unrescale,
)


@dataclass(kw_only=True)
class R2D2(OffPolicy):
    """Q-learning of a policy with memory, from replayed sequences of `burn_in` and then
    `model.max_seq_len` steps of one episode, which start from the state that the worker had there.

    Rows are sequences; defaults are the paper's (table 2), which conf/algo/r2d2.yaml lists.
    A deviation is Huber's loss in place of the square, as in DQN.
    """

    gamma: float = 0.997
    lr: ScheduleLike = 1e-4
    adam_epsilon: float = 1e-3
    train_batch_size: int = 64
    """Sequences of one update."""
    rollout_fragment_length: int | Literal["auto"] = 4
    """Env steps between updates, per env."""
    batch_mode: BatchMode = "complete_episodes"
    """Whether sequences lie in whole episodes, or in fragments of them, which may be too short for
    a burn-in."""
    double_q: bool = True
    """Whether the online network chooses the next action and the target network values it
    (van Hasselt et al., 2016, arXiv:1509.06461, eq. 4)."""
    dueling: bool = True
    """Whether Q is the sum of a state value and advantages (Wang et al., 2016)."""
    hiddens: list[int] = field(default_factory=lambda: [512])
    """Widths of the layers of each stream behind the memory."""
    n_step: int = 5
    """Rewards that are summed before the bootstrap; fewer at a sequence's end."""
    burn_in: int = 40
    """First steps of a sequence that only prepare the memory's state, where the sequence before in
    the episode has them, too; the first sequence of an episode learns from all of its steps."""
    sequence_overlap: int = 40
    """Steps beside the burn-in that a sequence shares with the one before."""
    zero_init_states: bool = False
    """Whether sequences start from a state of zeros in place of the worker's (which then is not
    stored): sec. 3 shows what that costs."""
    use_h_function: bool = True
    """Whether Q is of returns rescaled by h(x) = sign(x) (sqrt(|x| + 1) - 1) + epsilon x."""
    h_function_epsilon: float = 1e-3
    """Its epsilon."""
    prioritized_replay: bool = True
    prioritized_replay_alpha: float = 0.9
    prioritized_replay_beta: ScheduleLike = 0.6
    prioritized_replay_eta: float = 0.9
    """A sequence's priority is eta times its largest TD error, and 1 - eta times the mean one."""
    buffer_size: int = 100_000
    """Sequences that the replay buffer holds."""
    learning_starts: int = 50_000
    """Env steps before the first update (Horgan et al., 2018)."""
    training_intensity: float | None = None
    """Sequences learned per sequence sampled; null: one update per round of fragments."""
    target_network_update_freq: int = 10_000
    """Env steps between updates of the target network (the paper: 2,500 updates, each for four env
    steps here); updates of the learner where tau is below 1."""
    tau: float = 1.0
    grad_clip: float | None = 40.0
    """Largest L2 norm of the gradient (Horgan et al., 2018: 40); null: unbounded."""

    # Rows hold rewards as they came: the discount is that of the moment.
    built_in = OffPolicy.built_in - {"gamma"} | {
        "double_q",
        "dueling",
        "hiddens",
        "burn_in",
        "sequence_overlap",
        "zero_init_states",
        "use_h_function",
        "h_function_epsilon",
    }
    model_fields = frozenset(
        {
            "mask_actions",
            "use_lstm",
            "lstm_cell_size",
            "max_seq_len",
            "lstm_use_prev_action",
            "lstm_use_prev_reward",
        }
    )
    learns_from_sequences = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("burn_in", "sequence_overlap", "h_function_epsilon"):
            check_range(name, getattr(self, name), low=0)
        check_range("prioritized_replay_eta", self.prioritized_replay_eta, low=0.0, high=1.0)
        if not self.prioritized_replay:
            refuse_unused(self, ["prioritized_replay_eta"], "algo.prioritized_replay=false")
        if not self.use_h_function:
            refuse_unused(self, ["h_function_epsilon"], "algo.use_h_function=false")
        check_widths("algo.hiddens", self.hiddens)
        if self.rollout_fragment_length == "auto" and self.batch_mode == "truncate_episodes":
            raise ConfigError(
                "algo.rollout_fragment_length=auto makes fragments of algo.train_batch_size steps "
                "in all, and that of R2D2 counts sequences. With "
                "algo.batch_mode=truncate_episodes set the steps of a fragment, or use "
                "algo.batch_mode=complete_episodes."
            )

    @property
    def lookahead_steps(self) -> int:
        # Windows of n steps end with their sequence.
        return 0

    @property
    def overlapping_steps(self) -> int:
        return self.burn_in + self.sequence_overlap

    def check_spaces(self, obs_space: spaces.Box, action_space: spaces.Space, env: str) -> None:
        check_discrete("r2d2", action_space, env)

    def check_exploration(self, exploration: Exploration) -> None:
        refuse_sampling("r2d2", exploration, "Use exploration=epsilon_greedy.")

    def check_explores(self, exploration: Exploration) -> None:
        refuse_greed("r2d2", exploration, "Use exploration=epsilon_greedy.")

    def natural_exploration(self) -> Exploration:
        return EpsilonGreedy()

    def check_model(self, model: Model) -> None:
        if not model.has_memory:
            raise ConfigError(
                "algo=r2d2 learns a policy with memory. Use model.use_lstm=true or model=gtrxl; "
                "without memory, algo=dqn."
            )
        self.check_unused(model)
        if self.sequence_overlap >= model.max_seq_len:
            raise ConfigError(
                f"algo.sequence_overlap={self.sequence_overlap} must be below "
                f"model.max_seq_len={model.max_seq_len}, the steps that each sequence learns from."
            )
        length, longest = self.rollout_fragment_length, model.max_seq_len + self.burn_in
        is_cut = self.batch_mode == "truncate_episodes" and self.burn_in > 0
        if is_cut and isinstance(length, int) and length <= longest:
            raise ConfigError(
                f"algo.burn_in={self.burn_in} has no effect in fragments of "
                f"algo.rollout_fragment_length={length} steps, which one sequence holds. Use "
                f"algo.batch_mode=complete_episodes, fragments of more than {longest} steps, or "
                f"algo.burn_in=0."
            )

    def make_policy(
        self, obs_space: spaces.Box, action_space: spaces.Space, model: Model
    ) -> Policy:
        assert isinstance(action_space, spaces.Discrete)
        policy = RecurrentQNetwork(
            obs_space,
            action_space,
            model,
            hiddens=self.hiddens,
            dueling=self.dueling,
            burn_in=self.burn_in,
        )
        policy.max_seq_len += self.burn_in
        return policy

    def postprocess(self, policy: Policy, trajectory: Batch) -> Batch:
        """The steps as they are, without what the loss does not read."""
        trajectory.require("obs", "actions", "rewards", "next_obs", "terminated", "truncated")
        check_next_actions(policy, trajectory["next_obs"], ~trajectory["terminated"])
        unread = {"truncated"}
        if self.zero_init_states:
            unread |= {name for name in trajectory if name.startswith("state_in/")}
        return Batch({name: c for name, c in trajectory.items() if name not in unread})

    def setup(self, policy: Policy, device: torch.device, seed: int) -> None:
        super().setup(policy, device, seed)
        self.network = cast(RecurrentQNetwork, self.policy)

    @property
    def replayed_steps(self) -> int:
        return self.policy.max_seq_len + 1

    @property
    def new_steps(self) -> int:
        return self.policy.max_seq_len - self.overlapping_steps

    def loss(self, rows: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        """Huber loss of the n-step TD errors of all steps that are learned; `td_error` has one
        number for each sequence, its priority."""
        rows = self._with_states(rows)
        steps = Batch({name: rows[name][:, :-1] for name in ("actions", "rewards", "terminated")})
        learned = self._learned_steps(rows)
        q_values = self.network(rows)
        targets = self._targets(rows, steps, q_values.detach())
        chosen = q_values[:, :-1].gather(-1, steps["actions"].unsqueeze(-1)).squeeze(-1)
        weights = learned.float()
        if "weights" in rows:
            weights = weights * rows["weights"].unsqueeze(1)
        # As a mean over what is learned.
        scale = learned.numel() / learned.sum().clamp(min=1)
        loss = losses.huber(chosen, targets, weights) * scale
        errors = (chosen - targets).detach()
        priorities = sequence_priorities(errors, learned, self.prioritized_replay_eta)
        return loss, {"q": chosen.detach()[learned], "td_error": priorities}

    def _with_states(self, rows: Batch) -> Batch:
        if not self.zero_init_states:
            return rows
        states = self.network.initial_state(rows.num_rows)
        return Batch(
            rows,
            **{
                f"state_in/{name}": torch.from_numpy(part).to(self.device)
                for name, part in states.items()
            },
        )

    def _learned_steps(self, rows: Batch) -> torch.Tensor:
        """Which of the steps [S, L] are real, and no burn-in."""
        mask = rows["mask"][:, :-1]
        if "overlaps" not in rows or not self.burn_in:
            return mask
        is_early = torch.arange(mask.shape[1], device=mask.device) < self.burn_in
        return mask & ~(rows["overlaps"].unsqueeze(1) & is_early)

    @torch.no_grad()
    def _targets(self, rows: Batch, steps: Batch, q_values: torch.Tensor) -> torch.Tensor:
        """n-step targets of the steps [S, L], from the online action values [S, L + 1, A]."""
        target_q = self.target.network(rows)
        choosers = self.network.masked(q_values if self.double_q else target_q, rows["obs"])
        values = target_q.gather(-1, choosers.argmax(-1, keepdim=True)).squeeze(-1)
        epsilon = self.h_function_epsilon
        if self.use_h_function:
            values = unrescale(values, epsilon)
        targets = n_step_targets(
            steps["rewards"],
            values[:, 1:],
            steps["terminated"],
            rows["mask"][:, :-1],
            self.gamma,
            self.n_step,
        )
        return rescale(targets, epsilon) if self.use_h_function else targets

    def unknown_metrics(self) -> dict[str, float]:
        return dict.fromkeys(UNKNOWN, math.nan)
