"""Returns and advantages over trajectories: pure functions of NumPy arrays.

Time is axis 0, further axes (envs) follow. A trajectory may hold several episodes: `terminated`
marks the last step of one that ended in the env's own terms (no bootstrap beyond it), `truncated`
the last step of one that was cut (the value of the state after it still counts).
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray


def generalized_advantages(
    rewards: Array,
    values: Array,
    next_values: Array,
    terminated: Array,
    truncated: Array,
    gamma: float,
    gae_lambda: float,
) -> tuple[Array, Array]:
    """Advantages and lambda-returns (Schulman et al., 2016, arXiv:1506.02438, eq. 16).

    All arrays are [T, ...]; `next_values[t]` is the value of the state that step t led to, before
    any reset. delta_t = r_t + gamma * V(s_{t+1}) * (1 - terminated_t) - V(s_t); the sum of
    (gamma * lambda)^k * delta stops at the end of an episode and at the end of the trajectory.
    Returns (advantages, value_targets), both [T, ...] float32, value_targets = advantages + values.
    """
    deltas = rewards + gamma * next_values * ~terminated - values
    decay = np.float32(gamma * gae_lambda) * ~(terminated | truncated)
    advantages = deltas.astype(np.float32, copy=False)
    for t in range(len(deltas) - 2, -1, -1):
        advantages[t] += decay[t] * advantages[t + 1]
    return advantages, advantages + values.astype(np.float32, copy=False)


def rewards_to_go(rewards: Array, ended: Array, gamma: float) -> Array:
    """Discounted sum of the rewards from each step to its episode's end (Sutton & Barto, 2018,
    eq. 3.8).

    rewards, ended: [T, ...]; `ended` marks the last step of each episode. Nothing counts beyond
    the trajectory's end. Returns [T, ...], float32.
    """
    nothing = np.zeros(rewards.shape, np.float32)
    return generalized_advantages(rewards, nothing, nothing, ended, ended, gamma, 1.0)[0]


def n_step_transitions(
    rewards: Array, terminated: Array, truncated: Array, gamma: float, n_step: int
) -> tuple[Array, Array, Array]:
    """What turns 1-step rows into n-step ones (Sutton & Barto, 2018, eq. 7.1).

    rewards, terminated, truncated: [T, ...]. For each start step t < T - n + 1 the window is
    t .. t + n - 1, cut after the first step that ends an episode.
    Returns (returns, last, discounts), each [T - n + 1, ...]: the discounted sum of the window's
    rewards (float32), the index of the window's last step (int64: its next_obs, terminated and
    truncated are the transition's), and gamma ** (window length) for the bootstrap (float32).
    Raises ValueError if n < 1.
    """
    if n_step < 1:
        raise ValueError(f"n_step must be at least 1, got {n_step}.")
    num_starts = max(len(rewards) - n_step + 1, 0)
    shape = (num_starts, *rewards.shape[1:])
    returns = np.zeros(shape, np.float32)
    last = np.zeros(shape, np.int64)
    discounts = np.ones(shape, np.float32)
    running = np.ones(shape, bool)
    ended = terminated | truncated
    starts = np.arange(num_starts).reshape(-1, *[1] * (rewards.ndim - 1))
    for k in range(n_step):
        window = slice(k, k + num_starts)
        returns += running * discounts * rewards[window]
        last = np.where(running, starts + k, last)
        discounts = np.where(running, discounts * np.float32(gamma), discounts)
        running = running & ~ended[window]
    return returns, last, discounts
