"""Episode objects, for callbacks that look at episodes."""

from __future__ import annotations

from typing import Any

import numpy as np

from rlrun.core.callbacks import Callbacks
from rlrun.core.episode import Episode, EpisodeReport
from rlrun.core.nested import row_of
from rlrun.workers.vector_env import VectorEnv


class EpisodeTracker:
    """Episode objects, kept only while some callback looks at episodes."""

    def __init__(self, env: VectorEnv, callbacks: Callbacks, worker: Any) -> None:
        self.env = env
        self.callbacks = callbacks
        self.worker = worker
        self.num_started = 0
        self.on_start = callbacks.overrides("on_episode_start")
        self.on_step = callbacks.overrides("on_episode_step")
        self.on_end = callbacks.overrides("on_episode_end")
        self.is_on = self.on_start or self.on_step or self.on_end
        self.episodes: list[Episode] = []

    def start_all(self, raw: Any) -> None:
        self.episodes = []
        if self.is_on:
            for i in range(self.env.num_envs):
                self.episodes.append(self._new(i, raw))
                self._call(self.on_start, "on_episode_start", i)

    def start(self, raw: Any, done: np.ndarray) -> None:
        if self.is_on:
            for i in np.flatnonzero(done):
                self.episodes[i] = self._new(int(i), raw)
                self._call(self.on_start, "on_episode_start", int(i))

    def resume(self, returns: np.ndarray, lengths: np.ndarray) -> None:
        """The running episodes go on where they were; their user_data is what on_episode_start
        has just put there."""
        for i, episode in enumerate(self.episodes):
            episode.total_reward = float(returns[i])
            episode.length = int(lengths[i])

    def step(
        self,
        raw: Any,
        actions: Any,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        void_rows: np.ndarray,
    ) -> None:
        """Note in every running episode what its env gave, and call the hook."""
        for i, episode in enumerate(self.episodes):
            if void_rows[i]:
                continue
            episode.length += 1
            episode.total_reward += float(rewards[i])
            episode.last_observation = _row(raw, i)
            episode.last_action = row_of(actions, i)
            episode.last_reward = float(rewards[i])
            episode.last_terminated = bool(terminated[i])
            episode.last_truncated = bool(truncated[i])
            self._call(self.on_step, "on_episode_step", i)

    def end(self, i: int, total_reward: float, length: int) -> EpisodeReport:
        if not self.is_on:
            return EpisodeReport(total_reward, length, i)
        self._call(self.on_end, "on_episode_end", i)
        episode = self.episodes[i]
        return EpisodeReport(
            total_reward, length, i, episode.custom_metrics, episode.hist_data, episode.media
        )

    def _new(self, env_index: int, raw: Any) -> Episode:
        self.num_started += 1
        return Episode(
            episode_id=self.num_started,
            env_index=env_index,
            worker_index=self.worker.worker_index,
            last_observation=_row(raw, env_index),
        )

    def _call(self, is_on: bool, hook: str, env_index: int) -> None:
        if is_on:
            getattr(self.callbacks, hook)(
                worker=self.worker,
                base_env=self.env,
                policies=self.worker.policies,
                episode=self.episodes[env_index],
                env_index=env_index,
            )


def _row(raw: Any, index: int) -> Any:
    """One env's observation out of raw batched ones (a copy)."""
    if isinstance(raw, dict):
        return {key: _row(part, index) for key, part in raw.items()}
    if isinstance(raw, tuple):
        return tuple(_row(part, index) for part in raw)
    return np.array(raw[index])
