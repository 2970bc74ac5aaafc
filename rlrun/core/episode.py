"""What workers report of episodes, and the objects that callbacks see of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

AGENT_ID = "agent0"
"""The one agent of an env that knows no others."""


@dataclass
class Episode:
    """A running episode of one env, made only if a callback asks for episodes.

    Lives in the process of its worker. `custom_metrics` are reported as mean, min and max,
    `hist_data` as lists, `media` (images [H, W] or [H, W, C], videos [T, H, W, C], of bytes) as it
    is; `user_data` is the user's own and not reported. A resumed run has what of these four is made
    of numbers, text, arrays, lists, tuples and dicts.
    """

    episode_id: int
    """From 1 on in each worker, and in each of its evaluations."""
    env_index: int
    worker_index: int
    worker: Any = field(default=None, repr=False, compare=False)
    """The RolloutWorker that it runs on."""
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
    last_info: dict[str, Any] = field(default_factory=dict)
    """The info that came with it."""
    last_terminated: bool = False
    last_truncated: bool = False
    prev_action: Any = None
    """The action before `last_action`; None before there was one."""
    prev_reward: float = 0.0

    @property
    def env_id(self) -> int:
        """The place of its env among those of the worker."""
        return self.env_index

    @property
    def agent_rewards(self) -> dict[tuple[str, str], float]:
        """The return so far by (agent id, policy id)."""
        return {(AGENT_ID, self.policy_for()): self.total_reward}

    def get_agents(self) -> list[str]:
        """Ids of the agents that act in it."""
        return [AGENT_ID]

    def policy_for(self, agent_id: str = AGENT_ID) -> str:
        """The id of the policy that acts for an agent."""
        _check_agent(agent_id)
        return next(iter(self.worker.policies))

    def last_raw_obs_for(self, agent_id: str = AGENT_ID) -> Any:
        """The newest observation as the env gave it."""
        _check_agent(agent_id)
        return self.last_observation

    def last_observation_for(self, agent_id: str = AGENT_ID) -> np.ndarray:
        """The newest observation as policies get it: preprocessed; filters are part of policies."""
        preprocessor = self.worker.actors[self.policy_for(agent_id)].preprocessor
        return preprocessor.single(self.last_observation)[0]

    def last_action_for(self, agent_id: str = AGENT_ID) -> Any:
        """The newest action, as the policy chose it; None before there was one."""
        _check_agent(agent_id)
        return self.last_action

    def last_reward_for(self, agent_id: str = AGENT_ID) -> float:
        """The newest reward, unclipped."""
        _check_agent(agent_id)
        return self.last_reward

    def last_info_for(self, agent_id: str = AGENT_ID) -> dict[str, Any]:
        """What the env said beside its newest observation, in `info`."""
        _check_agent(agent_id)
        return self.last_info

    def last_done_for(self, agent_id: str = AGENT_ID) -> bool:
        """Whether the newest step was the last one."""
        _check_agent(agent_id)
        return self.last_terminated or self.last_truncated

    def prev_action_for(self, agent_id: str = AGENT_ID) -> Any:
        """The action before the newest one; None before there was one."""
        _check_agent(agent_id)
        return self.prev_action

    def prev_reward_for(self, agent_id: str = AGENT_ID) -> float:
        """The reward before the newest one."""
        _check_agent(agent_id)
        return self.prev_reward


def _check_agent(agent_id: str) -> None:
    if agent_id != AGENT_ID:
        raise KeyError(f"There is no agent {agent_id!r} in this episode; there is {AGENT_ID!r}.")


@dataclass
class EpisodeReport:
    """What is kept of a finished episode; the return is of unclipped rewards."""

    total_reward: float
    length: int
    env_index: int = 0
    custom_metrics: dict[str, float] = field(default_factory=dict)
    hist_data: dict[str, list[float]] = field(default_factory=dict)
    media: dict[str, Any] = field(default_factory=dict)
