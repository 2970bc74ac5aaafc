"""How running episodes are saved and played again: by the actions that led to where they are."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np

from rlrun.core.actions import ActionConverter
from rlrun.core.nested import row_of
from rlrun.core.spaces import Preprocessor
from rlrun.workers.vector_env import VectorEnv

logger = logging.getLogger("rlrun.workers")

MAX_REPLAY_STEPS = 100_000
"""Longer episodes are not kept for replay: on resume they are cut, and the log says so."""


class EpisodeLog:
    """The actions of every env since its running episode began. Lives in an env sampler."""

    def __init__(
        self, env: VectorEnv, preprocessor: Preprocessor, converter: ActionConverter
    ) -> None:
        self.env = env
        self.preprocessor = preprocessor
        self.converter = converter
        self._actions: list[np.ndarray] = []

    def note(self, actions: np.ndarray, env_actions: Any) -> None:
        """Keep the actions of one vector step, [B, ...] as the envs took them; of a Dict or Tuple
        space as the policy chose them, in one array."""
        if self.env.can_replay:
            is_structured = self.converter.is_structured
            self._actions.append(np.array(actions if is_structured else env_actions))

    def forget(self, lengths: np.ndarray) -> None:
        """Drop what lies before the longest of the running episodes, whose lengths are [B]."""
        longest = min(int(lengths.max()), MAX_REPLAY_STEPS)
        del self._actions[: len(self._actions) - longest]

    def clear(self) -> None:
        """All episodes begin anew."""
        self._actions.clear()

    def state_dict(self, lengths: np.ndarray) -> dict[str, Any]:
        """How the episodes began, and the actions since, where envs can play them again."""
        if not self.env.can_replay:
            return {"can_replay": False}
        return {
            "can_replay": True,
            "episode_starts": self.env.episode_starts(),
            "actions_taken": [
                np.array([taken[i] for taken in self._since_start(i, int(length))])
                for i, length in enumerate(lengths)
            ],
        }

    def start_again(self, state: dict[str, Any]) -> Any:
        """Bring every env back to the start of its saved episode; returns the raw first
        observations, or None where envs cannot play again."""
        if not (self.env.can_replay and state["can_replay"]):
            return None
        self._actions = _by_step(state["actions_taken"])
        taken = [self._as_taken(actions) for actions in state["actions_taken"]]
        return self.env.restore_starts(state["episode_starts"], taken)

    def play_again(self, state: dict[str, Any], expected: dict[str, np.ndarray]) -> np.ndarray:
        """Then bring it to where it was; returns the mask [B] of envs that came out elsewhere than
        `expected` (obs, returns and lengths, [B, ...]) says."""
        cut = np.ones(self.env.num_envs, bool)
        if self.env.can_replay and state["can_replay"]:
            for i, end in enumerate(self.env.restore_courses()):
                cut[i] = end is None or not (
                    len(state["actions_taken"][i]) == expected["lengths"][i]
                    and end[1] == expected["returns"][i]
                    and self._is_at(end[0], expected["obs"][i])
                )
        for i in map(int, np.flatnonzero(cut)):
            logger.warning(
                "Env %d (%s) did not reproduce its running episode; that episode is cut as "
                "truncated after %d steps, and a new one starts.",
                i,
                self.env.env_id,
                expected["lengths"][i],
            )
        return cut

    def _is_at(self, observation: Any, obs: np.ndarray) -> bool:
        return np.array_equal(self.preprocessor.single(observation)[0], obs, equal_nan=True)

    def _as_taken(self, actions: np.ndarray) -> Any:
        """One env's actions as it took them, for each step."""
        if not (self.converter.is_structured and len(actions)):
            return actions
        env_actions = self.converter(actions)
        return [row_of(env_actions, step) for step in range(len(actions))]

    def _since_start(self, env_index: int, length: int) -> list[np.ndarray]:
        is_kept = 0 < length <= MAX_REPLAY_STEPS
        return self._actions[len(self._actions) - length :] if is_kept else []


def _by_step(actions: list[np.ndarray]) -> list[np.ndarray]:
    """Each env's actions [length, ...] as one list of [B, ...] that ends with the newest step.

    Shorter episodes are padded in front with actions that nobody reads.
    """
    longest = max(len(taken) for taken in actions)
    if longest == 0:
        return []
    like = next(taken for taken in actions if len(taken) == longest)
    padded = [
        np.concatenate([np.zeros_like(like[: longest - len(taken)]), taken])
        if len(taken)
        else np.zeros_like(like)
        for taken in actions
    ]
    return list(np.stack(padded, axis=1))
