"""The best action, except for a shrinking share of random ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from rlrun.core.distributions import Distribution
from rlrun.core.errors import ConfigError, SpaceError
from rlrun.core.exploration.base import Exploration
from rlrun.core.exploration.random_actions import choose_valid, count_valid
from rlrun.core.schedules import ScheduleLike, check_schedule_range, make_schedule


@dataclass(kw_only=True)
class EpsilonGreedy(Exploration):
    """A uniformly random valid action with probability epsilon, else the mode.

    Epsilon stays at `initial_epsilon` for `warmup_timesteps`, falls linearly to `final_epsilon`
    within `epsilon_timesteps`, and stays there. Actions whose input is -inf (or float32's least)
    are masked: they are never drawn. Log-probabilities are those of this rule.
    """

    initial_epsilon: float = 1.0
    """Share of random actions at the start."""
    final_epsilon: float = 0.01
    """Share of random actions in the end."""
    warmup_timesteps: int = 0
    """Env steps before epsilon starts to fall."""
    epsilon_timesteps: int = 62_500
    """Env steps that the fall takes (Hessel et al., 2018: 250,000 frames)."""
    epsilon_schedule: ScheduleLike | None = None
    """A schedule of epsilon that replaces the four values above."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("initial_epsilon", "final_epsilon"):
            check_schedule_range(f"exploration.{name}", getattr(self, name), low=0.0, high=1.0)
        if self.warmup_timesteps < 0 or self.epsilon_timesteps < 0:
            raise ConfigError(
                f"exploration.warmup_timesteps={self.warmup_timesteps} and "
                f"exploration.epsilon_timesteps={self.epsilon_timesteps} must be at least 0."
            )
        if self.epsilon_schedule is not None:
            check_schedule_range(
                "exploration.epsilon_schedule", self.epsilon_schedule, low=0.0, high=1.0
            )
            self._epsilon = make_schedule(self.epsilon_schedule)
        else:
            end = self.warmup_timesteps + max(self.epsilon_timesteps, 1)
            self._epsilon = make_schedule(
                [[self.warmup_timesteps, self.initial_epsilon], [end, self.final_epsilon]]
            )

    def check_space(self) -> None:
        if not isinstance(self.action_space, spaces.Discrete):
            raise SpaceError(
                f"exploration=epsilon_greedy needs a Discrete action space, this env has "
                f"{self.action_space}. Try exploration=stochastic_sampling."
            )

    def epsilon(self, timestep: int) -> float:
        """Share of random actions at `timestep`."""
        return self._epsilon(timestep)

    @property
    def is_greedy(self) -> bool:
        """Whether no action is ever random."""
        return self._epsilon.value_range() == (0.0, 0.0)

    def get_exploration_action(
        self, action_dist: Distribution, timestep: int, explore: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """Modes, but where chance says otherwise, with the probabilities of this rule."""
        epsilon = self._epsilon(timestep) if explore else 0.0
        return draw_epsilon_greedily(action_dist, epsilon, self.rng)


def draw_epsilon_greedily(
    dist: Distribution, epsilon: float | np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Actions [N] and their log-probabilities [N] by the rule of `EpsilonGreedy`, with one epsilon
    for all rows, or one above 0 for each, [N]."""
    modes = dist.mode()
    if isinstance(epsilon, float) and epsilon == 0.0:
        return modes, np.zeros(len(modes), np.float32)
    num_valid = count_valid(dist.inputs)
    share = epsilon / num_valid
    log, log1p = (math.log, math.log1p) if isinstance(share, float) else (np.log, np.log1p)
    log_probs = np.empty(len(modes), np.float32)
    # A mode is drawn at random as well. Of equally good actions the first is the mode.
    log_probs[:] = log1p(share - epsilon)
    is_random = rng.random(len(modes)) < epsilon
    if not np.count_nonzero(is_random):
        return modes, log_probs
    choices = choose_valid(dist.inputs, num_valid, rng)
    actions = np.where(is_random, choices, modes)
    return actions, np.where(actions == modes, log_probs, np.float32(log(share)))
