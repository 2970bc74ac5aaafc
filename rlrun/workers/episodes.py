"""Episode objects, for callbacks that look at episodes."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlrun.core.callbacks import Callbacks, call
from rlrun.core.episode import Episode, EpisodeReport
from rlrun.core.nested import copied, row_of
from rlrun.workers.task_state import pack_entries, unpack_entries
from rlrun.workers.vector_env import VectorEnv

logger = logging.getLogger("rlrun.workers")

SURVIVORS = ("user_data", "custom_metrics", "hist_data", "media")
"""What of a running episode the hooks have filled, and find again in a resumed run."""

LAST_STEP = ("last_action", "last_reward")
"""What the next step makes the previous ones."""


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
        self.keeps_ended = (
            callbacks.looks_at("on_postprocess_trajectory", "episode")
            and not worker.config.in_evaluation
        )
        self.is_on = self.on_start or self.on_step or self.on_end or self.keeps_ended
        self.episodes: list[Episode] = []
        """The running ones, by env."""
        self._ended: list[tuple[int, Episode | None]] = []
        """(env, episode), None of one that could not be brought back after a resume."""
        self._warned: set[str] = set()

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
        observations, infos = copied(raw), self.env.infos()
        for i, episode in enumerate(self.episodes):
            if void_rows[i]:
                continue
            episode.prev_action, episode.prev_reward = episode.last_action, episode.last_reward
            episode.length += 1
            episode.last_reward = float(rewards[i])
            episode.total_reward += episode.last_reward
            episode.last_observation = row_of(observations, i)
            episode.last_action = row_of(actions, i)
            episode.last_info = infos[i]
            episode.last_terminated = bool(terminated[i])
            episode.last_truncated = bool(truncated[i])
            self._call(self.on_step, "on_episode_step", i)

    def end(self, i: int, total_reward: float, length: int) -> EpisodeReport:
        if not self.is_on:
            return EpisodeReport(total_reward, length, i)
        self._call(self.on_end, "on_episode_end", i)
        episode = self.episodes[i]
        if self.keeps_ended:
            self._ended.append((i, episode))
        return EpisodeReport(
            total_reward, length, i, episode.custom_metrics, episode.hist_data, episode.media
        )

    def lose(self, i: int) -> None:
        """The episode of env `i` does not go on, and its steps are kept."""
        if self.keeps_ended:
            self._ended.append((i, None))

    def take_ended(self) -> list[Episode | None]:
        """The episodes that ended since the last call, env after env."""
        ended, self._ended = self._ended, []
        return [episode for _, episode in sorted(ended, key=lambda each: each[0])]

    def state_dict(self) -> dict[str, Any]:
        """What hooks have put into the running episodes, as far as a checkpoint can hold it."""
        return {
            "num_started": self.num_started,
            "episodes": [self._saved(episode) for episode in self.episodes],
            "ended": [
                None if episode is None else self._saved(episode) for _, episode in self._ended
            ],
            "ended_in": [env for env, _ in self._ended],
        }

    def resume(
        self, state: Mapping[str, Any], returns: np.ndarray, lengths: np.ndarray, cut: np.ndarray
    ) -> None:
        """The running episodes go on where they were, but for those of the mask `cut` [B]."""
        for i, episode in enumerate(self.episodes):
            episode.total_reward = float(returns[i])
            episode.length = int(lengths[i])
            if cut[i] or not state["episodes"]:
                continue
            _fill(episode, state["episodes"][i])
        self._ended = []
        for i, saved in zip(state.get("ended_in", ()), state.get("ended", ()), strict=True):
            self._ended.append((int(i), None if saved is None else self._ended_as(saved, int(i))))
        self.num_started = max(self.num_started, int(state["num_started"]))

    def _saved(self, episode: Episode) -> dict[str, Any]:
        facts: dict[str, Any] = {"id": episode.episode_id}
        for name in SURVIVORS:
            facts[name], left_out = pack_entries(getattr(episode, name))
            self._warn_of(name, left_out)
        last_step, _ = pack_entries({name: getattr(episode, name) for name in LAST_STEP})
        totals = {"total_reward": episode.total_reward, "length": episode.length}
        return facts | {"last_step": last_step} | totals

    def _ended_as(self, saved: Mapping[str, Any], env_index: int) -> Episode:
        episode = Episode(0, env_index, self.worker.worker_index, self.worker)
        _fill(episode, saved)
        episode.total_reward, episode.length = float(saved["total_reward"]), int(saved["length"])
        return episode

    def _warn_of(self, name: str, left_out: list[str]) -> None:
        new = [key for key in left_out if f"{name}/{key}" not in self._warned]
        if new:
            self._warned.update(f"{name}/{key}" for key in new)
            logger.warning(
                "%s: the checkpoint holds no episode.%s[%s] of running episodes: only numbers, "
                "text, arrays, lists, tuples and dicts outlive a resume, where on_episode_start "
                "has to make the rest again.",
                self.worker.name.capitalize(),
                name,
                ", ".join(map(repr, new)),
            )

    def _new(self, env_index: int, raw: Any) -> Episode:
        self.num_started += 1
        return Episode(
            episode_id=self.num_started,
            env_index=env_index,
            worker_index=self.worker.worker_index,
            worker=self.worker,
            last_observation=row_of(copied(raw), env_index),
            last_info=self.env.infos()[env_index],
        )

    def _call(self, is_on: bool, hook: str, env_index: int) -> None:
        if is_on:
            call(
                self.callbacks,
                hook,
                worker=self.worker,
                base_env=self.env,
                policies=self.worker.policies,
                episode=self.episodes[env_index],
                env_index=env_index,
            )


def _fill(episode: Episode, saved: Mapping[str, Any]) -> None:
    """Give an episode what hooks had put into it."""
    episode.episode_id = int(saved["id"])
    for name in SURVIVORS:
        getattr(episode, name).update(unpack_entries(saved[name]))
    for name, value in unpack_entries(saved["last_step"]).items():
        setattr(episode, name, value)
