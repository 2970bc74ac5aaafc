"""From env steps to whole episodes on disk, as the envs gave them. Lives in an env sampler."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from rlrun.core.nested import copied, row_of
from rlrun.workers.base_vector_env import VectorEnv
from rlrun.workers.offline.columns import stacked
from rlrun.workers.offline.config import OutputConfig
from rlrun.workers.offline.episode_files import EpisodeFiles
from rlrun.workers.offline.episode_lines import Origin, RecordedEpisode

logger = logging.getLogger("rlrun.workers")

ARRAY_BYTES = 128
"""What an array takes beside its numbers."""

MAX_BYTES = 1 << 28
"""What an episode may take in memory before it is written in pieces."""


@dataclass
class _Open:
    """A running episode, step by step, in the env's terms."""

    obs: list[Any]
    actions: list[Any] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    num_bytes: int = 0
    """What its steps take in memory."""

    def add(self, obs: Any, action: Any, reward: float, log_prob: float) -> None:
        """A step, which led to `obs`."""
        self.obs.append(obs)
        self.actions.append(action)
        self.rewards.append(reward)
        self.log_probs.append(log_prob)
        self.num_bytes += _bytes_of(obs) + _bytes_of(action)


class EpisodeRecorder:
    """Collects the episodes of a vector of envs, and writes each when it has ended. One that grows
    too large for memory is written in pieces, which are truncated and follow each other.

    Observations are those of the env, neither preprocessed nor filtered, rewards are not clipped,
    and actions are what the env took.
    """

    def __init__(self, files: EpisodeFiles, origin: Origin, num_envs: int) -> None:
        self.files = files
        self.origin = origin
        self._open: list[_Open | None] = [None] * num_envs
        """None: it began before anybody recorded it."""
        self._cut: dict[int, _Open] = {}
        """What a restart cut off, by env, until the next step writes it."""
        self._has_warned = False

    def start_all(self, raw: Any) -> None:
        """All envs were reset; `raw` are their observations."""
        self.start(raw, np.ones(len(self._open), bool))

    def start(self, raw: Any, envs: np.ndarray) -> None:
        """The envs of the mask [B] were reset."""
        for i in map(int, np.flatnonzero(envs)):
            self._open[i] = _Open([copied(row_of(raw, i))])

    def step(
        self,
        raw: Any,
        env_actions: Any,
        rewards: np.ndarray,
        log_probs: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        void_rows: np.ndarray,
    ) -> None:
        """One step of every env, but for those in the mask `void_rows`, which were reset by it."""
        for episode in self._cut.values():
            self._write(episode, is_terminated=False)
        self._cut.clear()
        self.start(raw, void_rows)
        for i, running in enumerate(self._open):
            if running is None or void_rows[i]:
                continue
            obs, action = copied(row_of(raw, i)), copied(row_of(env_actions, i))
            running.add(obs, action, float(rewards[i]), float(log_probs[i]))
            if terminated[i] or truncated[i]:
                self._write(running, is_terminated=bool(terminated[i]))
                self._open[i] = None
            elif running.num_bytes > MAX_BYTES:
                self._warn_of_pieces(len(running.rewards))
                self._write(running, is_terminated=False)
                self._open[i] = _Open([obs])

    def state_dict(self) -> dict[str, Any]:
        """The running episodes, and how far the files go."""
        episodes = [self._cut.get(i, episode) for i, episode in enumerate(self._open)]
        return {
            "files": self.files.state_dict(),
            "open": [None if episode is None else self._plain(episode) for episode in episodes],
        }

    def load_state_dict(self, state: Mapping[str, Any], raw: Any, cut: np.ndarray) -> None:
        """Go on where `state_dict` was taken; the episodes of the envs in the mask `cut` [B] end
        there, and new ones start from `raw`. Nothing is written before the next step."""
        self.files.load_state_dict(state["files"])
        self._open = [None if each is None else self._from_plain(each) for each in state["open"]]
        ended = {i: each for i, each in enumerate(self._open) if cut[i] and each is not None}
        self._cut = {i: each for i, each in ended.items() if each.rewards}
        self.start(raw, cut)

    def close(self) -> None:
        """Close the files; episodes that still run are not whole, and are not written."""
        self.files.close()

    def _warn_of_pieces(self, num_steps: int) -> None:
        if not self._has_warned:
            logger.warning(
                "An episode of %r goes on after %d steps, which take %d MB: it is written to "
                "output=%s in truncated pieces. Does env.horizon end its episodes?",
                self.origin.env,
                num_steps,
                MAX_BYTES // 10**6,
                self.files.folder,
            )
            self._has_warned = True

    def _write(self, episode: _Open, *, is_terminated: bool) -> None:
        log_probs = np.array(episode.log_probs, np.float32)
        self.files.write(
            RecordedEpisode(
                obs=stacked(self.origin.observation_space, episode.obs),
                actions=stacked(self.origin.action_space, episode.actions),
                rewards=np.array(episode.rewards),
                terminated=is_terminated,
                truncated=not is_terminated,
                log_probs=log_probs if np.isfinite(log_probs).all() else None,
            )
        )

    def _plain(self, episode: _Open) -> dict[str, Any]:
        return {
            "obs": stacked(self.origin.observation_space, episode.obs),
            "actions": stacked(self.origin.action_space, episode.actions),
            "rewards": np.array(episode.rewards),
            "log_probs": np.array(episode.log_probs),
        }

    def _from_plain(self, plain: Mapping[str, Any]) -> _Open:
        length = len(plain["rewards"])
        obs = _as_of_space(self.origin.observation_space, plain["obs"])
        actions = _as_of_space(self.origin.action_space, plain["actions"])
        episode = _Open([row_of(obs, 0)])
        rewards, log_probs = (np.asarray(plain[name]).tolist() for name in ("rewards", "log_probs"))
        for t in range(length):
            episode.add(row_of(obs, t + 1), row_of(actions, t), rewards[t], log_probs[t])
        return episode


def make_recorder(
    config: OutputConfig | None, env: VectorEnv, env_id: str, worker_index: int
) -> EpisodeRecorder | None:
    """What records the episodes of a worker's envs; None where nothing is to be written."""
    if config is None:
        return None
    origin = Origin(
        env=env_id, observation_space=env.observation_space, action_space=env.action_space
    )
    return EpisodeRecorder(EpisodeFiles(config, origin, worker_index), origin, env.num_envs)


def _bytes_of(row: Any) -> int:
    """What a value of a space takes in memory."""
    if isinstance(row, dict):
        return sum(map(_bytes_of, row.values()))
    if isinstance(row, tuple):
        return sum(map(_bytes_of, row))
    return ARRAY_BYTES + int(np.asarray(row).nbytes)


def _as_of_space(space: spaces.Space, column: Any) -> Any:
    """A column out of a checkpoint, which knows of no tuples."""
    if isinstance(space, spaces.Dict):
        return {key: _as_of_space(part, column[key]) for key, part in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_as_of_space(part, column[i]) for i, part in enumerate(space))
    return column
