"""Deep Q-learning with every part of Rainbow as a switch (Mnih et al., 2015, Nature 518; Hessel
et al., 2018, arXiv:1710.02298)."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from gymnasium import spaces

from rlrun.algos.off_policy import OffPolicy
from rlrun.algos.q_learning import UNKNOWN, check_discrete, refuse_greed, refuse_sampling
from rlrun.core import losses
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError
from rlrun.core.exploration import EpsilonGreedy, Exploration
from rlrun.core.networks import Model
from rlrun.core.policy import Policy
from rlrun.core.q_network import QNetwork
from rlrun.core.ranges import check_range, check_widths, refuse_unused
from rlrun.core.schedules import ScheduleLike


@dataclass(kw_only=True)
class DQN(OffPolicy):
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
    num_quantiles: int = 1
    """Quantiles of the value distribution in place of atoms, which need no bounds; 1 learns
    expected values (QR-DQN: 200)."""
    noisy: bool = False
    """Whether the streams are noisy layers (Fortunato et al., 2018)."""
    sigma0: float = 0.5
    """Initial noise of noisy layers."""
    learning_starts: int = 20_000
    """Env steps before the first update (the paper: 80,000 frames)."""
    target_network_update_freq: int = 8_000
    """Env steps between updates of the target network (the paper: 32,000 frames); updates of the
    learner where tau is below 1."""
    tau: float = 1.0
    grad_clip: float | None = 10.0
    """Largest L2 norm of the gradient (Wang et al., 2016: 10); null: unbounded."""
    adam_epsilon: float = 1.5e-4

    built_in = OffPolicy.built_in | {
        "double_q",
        "dueling",
        "hiddens",
        "num_atoms",
        "v_min",
        "v_max",
        "num_quantiles",
        "noisy",
        "sigma0",
    }
    model_fields = frozenset({"mask_actions"})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("num_atoms", self.num_atoms, low=1)
        check_range("num_quantiles", self.num_quantiles, low=1)
        check_range("sigma0", self.sigma0, low=0)
        if self.num_atoms == 1:
            refuse_unused(self, ("v_min", "v_max"), "algo.num_atoms=1")
        if not self.noisy:
            refuse_unused(self, ("sigma0",), "algo.noisy=false")
        check_widths("algo.hiddens", self.hiddens)
        if self.num_atoms > 1 and self.num_quantiles > 1:
            raise ConfigError(
                f"algo.num_atoms={self.num_atoms} and algo.num_quantiles={self.num_quantiles} both "
                f"describe the distribution of returns: leave one of them at 1."
            )
        if self.num_atoms > 1 and self.v_min >= self.v_max:
            raise ConfigError(
                f"algo.v_min={self.v_min} must be below algo.v_max={self.v_max}, which together "
                f"bound the returns that {self.num_atoms} atoms can express."
            )

    def check_spaces(self, obs_space: spaces.Box, action_space: spaces.Space, env: str) -> None:
        check_discrete("dqn", action_space, env)

    def check_exploration(self, exploration: Exploration) -> None:
        refuse_sampling(
            "dqn",
            exploration,
            "Use exploration=epsilon_greedy, or exploration=greedy with algo.noisy=true.",
        )

    def check_explores(self, exploration: Exploration) -> None:
        if not self.noisy:
            instead = "Use exploration=epsilon_greedy, or algo.noisy=true, whose layers explore."
            refuse_greed("dqn", exploration, instead)

    def natural_exploration(self) -> Exploration:
        if self.noisy:
            return EpsilonGreedy(initial_epsilon=0.0, final_epsilon=0.0, epsilon_timesteps=0)
        return EpsilonGreedy()

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
            num_quantiles=self.num_quantiles,
        )

    @property
    def network(self) -> QNetwork:
        """The policy, by what it is."""
        return cast(QNetwork, self.policy)

    def learn(self, rows: Batch) -> dict[str, Any]:
        for network in (self.network, self.target.network):
            network.draw_noise(self.rng)
        return super().learn(rows)

    def loss(self, rows: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        """Huber loss of the TD errors, cross-entropy of value distributions (C51), or quantile
        Huber loss (QR-DQN)."""
        if self.num_atoms > 1:
            loss, errors, q_values = self._distributional_loss(rows)
        elif self.num_quantiles > 1:
            loss, errors, q_values = self._quantile_loss(rows)
        else:
            loss, errors, q_values = self._expected_loss(rows)
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
        targets = losses.categorical_projection(
            self._best_next(rows).softmax(-1), rows["rewards"], rows["discounts"], support
        )
        log_probs = self.network(rows)[row_index, rows["actions"]].log_softmax(-1)
        cross_entropy = -(targets * log_probs).sum(-1)
        q_values = (log_probs.detach().exp() * support).sum(-1)
        # Rainbow's priorities are the KL divergence: the loss less the targets' own entropy.
        target_entropy = -torch.special.xlogy(targets, targets).sum(-1)
        errors = cross_entropy.detach() - target_entropy
        return losses.weighted_mean(cross_entropy, rows.get("weights")), errors, q_values

    def _quantile_loss(self, rows: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(quantile Huber loss, errors of the means [N], mean Q of the actions taken [N])."""
        row_index = torch.arange(rows.num_rows, device=self.device)
        targets = rows["rewards"].unsqueeze(1) + rows["discounts"].unsqueeze(1) * (
            self._best_next(rows)
        )
        quantiles = self.network(rows)[row_index, rows["actions"]]
        row_losses = losses.quantile_huber(quantiles, targets)
        q_values = quantiles.detach().mean(1)
        errors = q_values - targets.mean(1)
        return losses.weighted_mean(row_losses, rows.get("weights")), errors, q_values

    @torch.no_grad()
    def _best_next(self, rows: Batch) -> torch.Tensor:
        """What the target network gives for the best next actions: logits or quantiles [N, n]."""
        next_rows = Batch(obs=rows["next_obs"])
        found = self.target.network(next_rows)
        chooser = self.network(next_rows) if self.double_q else found
        best = self.network.masked(self.network.q_values(chooser), rows["next_obs"]).argmax(1)
        return found[torch.arange(rows.num_rows, device=self.device), best]

    def unknown_metrics(self) -> dict[str, float]:
        return dict.fromkeys(UNKNOWN, math.nan)
