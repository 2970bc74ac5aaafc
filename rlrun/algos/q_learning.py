"""What all algorithms ask of envs and exploration that learn a value for each action."""

from __future__ import annotations

from gymnasium import spaces

from rlrun.core.errors import ConfigError, SpaceError
from rlrun.core.exploration import EpsilonGreedy, Exploration, StochasticSampling

UNKNOWN = (
    *("total_loss", "grad_norm", "cur_lr"),
    *("mean_q", "min_q", "max_q"),
    *("mean_td_error", "min_td_error", "max_td_error"),
)
"""The names of learner statistics, before there are any."""


def check_discrete(algo: str, action_space: spaces.Space, env: str) -> None:
    """Raise SpaceError unless actions are Discrete."""
    if not isinstance(action_space, spaces.Discrete):
        raise SpaceError(
            f"algo={algo} needs a Discrete action space; {env!r} has {action_space}. Try algo=ppo."
        )


def refuse_sampling(algo: str, exploration: Exploration, instead: str) -> None:
    """Raise ConfigError if actions are to be drawn from probabilities, which there are none of."""
    if isinstance(exploration, StochasticSampling):
        raise ConfigError(
            f"exploration=stochastic_sampling draws from a policy's probabilities, and algo={algo} "
            f"has values of actions. {instead}"
        )


def refuse_greed(algo: str, exploration: Exploration, instead: str) -> None:
    """Raise ConfigError if all that explores is epsilon-greedy with an epsilon of 0."""
    if isinstance(exploration, EpsilonGreedy) and exploration.is_greedy:
        raise ConfigError(
            f"With an epsilon of 0 (exploration=greedy) algo={algo} would always take the best "
            f"action, and see nothing else. {instead}"
        )
