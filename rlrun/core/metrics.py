"""From finished episodes to the numbers of a result, by their classic names."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from rlrun.core.episode import EpisodeReport

SMOOTHING_EPISODES = 100
"""How many of the last finished episodes make `episode_reward_mean`."""

NAN = float("nan")


def summarize_episodes(
    window: Sequence[EpisodeReport], new: Sequence[EpisodeReport]
) -> dict[str, Any]:
    """episode_reward_*, episode_len_mean, custom_metrics and hist_stats of `window`.

    Returns and lengths are those of `window`, custom metrics and the rest those of the `new`
    episodes of this iteration. Unknown values are nan, so that every key is there from the first
    iteration on.
    """
    rewards = [episode.total_reward for episode in window]
    lengths = [episode.length for episode in window]
    return {
        "episode_reward_max": max(rewards, default=NAN),
        "episode_reward_min": min(rewards, default=NAN),
        "episode_reward_mean": float(np.mean(rewards)) if rewards else NAN,
        "episode_len_mean": float(np.mean(lengths)) if lengths else NAN,
        "episodes_this_iter": len(new),
        "custom_metrics": _summarize_custom_metrics(new),
        "hist_stats": {
            "episode_reward": rewards,
            "episode_lengths": lengths,
            **_join_lists(episode.hist_data for episode in new),
        },
        "episode_media": _join_lists(
            {key: [value] for key, value in episode.media.items()} for episode in new
        ),
    }


def _summarize_custom_metrics(episodes: Sequence[EpisodeReport]) -> dict[str, float]:
    summary: dict[str, float] = {}
    for key in sorted({key for episode in episodes for key in episode.custom_metrics}):
        values = [
            float(episode.custom_metrics[key])
            for episode in episodes
            if key in episode.custom_metrics
        ]
        known = [value for value in values if not np.isnan(value)]
        summary[f"{key}_mean"] = float(np.mean(known)) if known else NAN
        summary[f"{key}_min"] = min(known, default=NAN)
        summary[f"{key}_max"] = max(known, default=NAN)
    return summary


def _join_lists(parts: Any) -> dict[str, list[Any]]:
    joined: dict[str, list[Any]] = {}
    for part in parts:
        for key, values in part.items():
            joined.setdefault(key, []).extend(values)
    return joined


class EpisodeWindow:
    """The last finished episodes of a run, with their total count."""

    def __init__(self, size: int = SMOOTHING_EPISODES) -> None:
        self.size = size
        self.episodes: deque[EpisodeReport] = deque(maxlen=size)
        self.episodes_total = 0

    def add(self, episodes: Sequence[EpisodeReport]) -> dict[str, Any]:
        """Count new episodes; returns and lengths of the window, custom metrics of the new."""
        self.episodes_total += len(episodes)
        self.episodes.extend(episodes)
        return summarize_episodes(self.episodes, episodes)

    def forget(self) -> None:
        """Means are over the episodes from now on; the total count goes on."""
        self.episodes.clear()

    def state_dict(self) -> dict[str, Any]:
        return {
            "episodes_total": self.episodes_total,
            "rewards": [float(episode.total_reward) for episode in self.episodes],
            "lengths": [int(episode.length) for episode in self.episodes],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.episodes_total = int(state["episodes_total"])
        self.episodes = deque(
            (
                EpisodeReport(total_reward, length)
                for total_reward, length in zip(state["rewards"], state["lengths"], strict=True)
            ),
            maxlen=self.size,
        )


class Timers:
    """Seconds spent by phase since the last `flush`."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the time within the block to `phase`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(phase, start)

    def add(self, phase: str, started: float) -> None:
        """The same for a phase that began at `started` (of time.perf_counter) and ends now; for
        what is done thousands of times a second."""
        self.count(phase, time.perf_counter() - started)

    def count(self, phase: str, seconds: float) -> None:
        """Add seconds that were measured elsewhere."""
        self._seconds[phase] = self._seconds.get(phase, 0.0) + seconds

    def seconds(self) -> dict[str, float]:
        """Seconds by phase so far."""
        return dict(self._seconds)

    def merge(self, spent: Mapping[str, float], weight: float = 1.0) -> None:
        """Add what another gave in `flush`, times `weight`."""
        for name, milliseconds in spent.items():
            self.count(name.removesuffix("_time_ms"), weight * milliseconds / 1000.0)

    def flush(self) -> dict[str, float]:
        """Milliseconds by phase as `<phase>_time_ms`, and start anew."""
        spent = {f"{phase}_time_ms": 1000.0 * s for phase, s in sorted(self._seconds.items())}
        self._seconds.clear()
        return spent
