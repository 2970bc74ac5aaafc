"""What policy gradient methods add to a trajectory on the worker, before it is cut into rows."""

from __future__ import annotations

from rlrun.core import returns
from rlrun.core.batch import Batch

UNREAD = ("rewards", "next_values", "terminated", "truncated")
"""Columns that no loss reads once advantages are known."""


def with_advantages(trajectory: Batch, gamma: float, gae_lambda: float) -> Batch:
    """The trajectory [T, B, ...] with `advantages` and `value_targets` (Schulman et al., 2016,
    arXiv:1506.02438, eq. 16), without `UNREAD`."""
    trajectory.require("rewards", "values", "next_values", "terminated", "truncated")
    advantages, value_targets = returns.generalized_advantages(
        trajectory["rewards"],
        trajectory["values"],
        trajectory["next_values"],
        trajectory["terminated"],
        trajectory["truncated"],
        gamma,
        gae_lambda,
    )
    kept = _without_unread(trajectory)
    kept["advantages"] = advantages
    kept["value_targets"] = value_targets
    return kept


def with_rewards_to_go(trajectory: Batch, gamma: float) -> Batch:
    """The trajectory [T, B, ...] of whole episodes with their rewards to go as `advantages`,
    without `UNREAD`. A time limit ends an episode as any other end does."""
    trajectory.require("rewards", "terminated", "truncated")
    kept = _without_unread(trajectory)
    kept["advantages"] = returns.rewards_to_go(
        trajectory["rewards"], trajectory["terminated"] | trajectory["truncated"], gamma
    )
    return kept


def _without_unread(trajectory: Batch) -> Batch:
    return Batch({name: trajectory[name] for name in trajectory if name not in UNREAD})
