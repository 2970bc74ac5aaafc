"""What workers report of episodes, and the objects that callbacks see of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass
class Episode:
    """A running episode of one env, made only if a callback asks for episodes.

    Lives in the process of its worker. `custom_metrics` are reported as mean, min and max,
    `hist_data` as lists, `media` as it is; `user_data` is the user's own and not reported.
    """

    episode_id: int
    env_index: int
    worker_index: int
    total_reward: float = 0.0
    length: int = 0
    user_data: dict[str, Any] = field(default_factory=dict)
    custom_metrics: dict[str, float] = field(default_factory=dict)
    hist_data: dict[str, list[float]] = field(default_factory=dict)
    media: dict[str, Any] = field(default_factory=dict)
    last_observation: np.ndarray | None = None
    """The newest raw observation (what the env gave)."""
    last_action: Any = None
    """The action that led to it, as the policy chose it; of a Dict or Tuple what the env took."""
    last_reward: float = 0.0
    """The reward that came with it, unclipped."""
    last_terminated: bool = False
    last_truncated: bool = False


@dataclass
class EpisodeReport:
    """What is kept of a finished episode; the return is of unclipped rewards."""

    total_reward: float
    length: int
    env_index: int = 0
    custom_metrics: dict[str, float] = field(default_factory=dict)
    hist_data: dict[str, list[float]] = field(default_factory=dict)
    media: dict[str, Any] = field(default_factory=dict)
