"""What a file of episodes holds: JSON lines, the first of which says where they come from.

    {"type": "metadata", "format_version": 1, "env": ..., "observation_space": {...}, ...}
    {"type": "episode", "episode_id": 0, "obs": [T + 1 rows], "actions": [T rows], "rewards": [...],
     "log_probs": [...], "terminated": false, "truncated": true}

Everything is in the env's own terms. A line of an episode is complete or, after a kill, not ended.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from zipfile import BadZipFile

import numpy as np
from gymnasium import spaces

from rlrun.core.errors import ConfigError
from rlrun.workers.offline.columns import Column, decode, decode_array, encode
from rlrun.workers.offline.space_json import space_from_json, space_to_json

FORMAT_VERSION = 1

COLUMNS = ("obs", "actions", "rewards", "log_probs")
"""Columns of an episode, each of which can be packed."""

UNREADABLE = (
    AttributeError,
    BadZipFile,
    EOFError,
    IndexError,
    KeyError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What reading raises of a line that is not what it should be."""


@dataclass(kw_only=True)
class RecordedEpisode:
    """An episode of T steps as data hold it, or a piece of one; `truncated` where it goes on
    elsewhere."""

    obs: Column
    """The T + 1 observations, the last of which ended it; in the env's terms, or rows as the
    preprocessor gives them, [T + 1, *shape]."""
    actions: Column
    """[T, ...], in the env's terms or the policy's."""
    rewards: np.ndarray
    """[T], as the env gave them."""
    terminated: bool
    truncated: bool
    log_probs: np.ndarray | None = None
    """[T], of the actions as they were drawn, before clipping; None where nobody knows."""
    has_policy_actions: bool = False
    """Whether actions are in the policy's terms."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where episodes come from."""

    env: str
    observation_space: spaces.Space
    action_space: spaces.Space


def metadata_line(origin: Origin) -> bytes:
    """The first line of a file. Raises SpaceError if the spaces cannot be written."""
    return _line(
        {
            "type": "metadata",
            "format_version": FORMAT_VERSION,
            "env": origin.env,
            "observation_space": space_to_json(origin.observation_space),
            "action_space": space_to_json(origin.action_space),
        }
    )


def origin_of(plain: dict[str, Any]) -> Origin:
    """What a metadata line says. Raises ConfigError for one of a newer version, or `UNREADABLE`."""
    version = int(plain["format_version"])
    if version > FORMAT_VERSION:
        raise ConfigError(f"format {version}; this rlrun reads up to {FORMAT_VERSION}")
    return Origin(
        env=str(plain["env"]),
        observation_space=space_from_json(plain["observation_space"]),
        action_space=space_from_json(plain["action_space"]),
    )


def episode_line(episode: RecordedEpisode, episode_id: int, packed: tuple[str, ...]) -> bytes:
    """An episode as one line; `packed` names the columns that are compressed."""
    columns = {name: getattr(episode, name) for name in COLUMNS}
    return _line(
        {
            "type": "episode",
            "episode_id": episode_id,
            **{
                name: encode(column, is_packed=name in packed)
                for name, column in columns.items()
                if column is not None
            },
            "terminated": episode.terminated,
            "truncated": episode.truncated,
        }
    )


def episode_of(plain: dict[str, Any], origin: Origin) -> RecordedEpisode:
    """What a line says that `episode_line` gave. Raises `UNREADABLE`."""
    rewards = _numbers(plain, "rewards")
    log_probs = _numbers(plain, "log_probs") if "log_probs" in plain else None
    if log_probs is not None and len(log_probs) != len(rewards):
        raise ValueError(f"it has {len(rewards)} rewards and {len(log_probs)} log_probs")
    return RecordedEpisode(
        obs=decode(origin.observation_space, plain["obs"]),
        actions=decode(origin.action_space, plain["actions"]),
        rewards=rewards,
        terminated=bool(plain["terminated"]),
        truncated=bool(plain["truncated"]),
        log_probs=log_probs,
    )


def _numbers(plain: dict[str, Any], name: str) -> np.ndarray:
    array = decode_array(plain[name])
    if array.ndim != 1 or array.dtype.kind not in "biuf":
        raise ValueError(f"its {name} are no list of numbers")
    return array


def _line(plain: dict[str, Any]) -> bytes:
    return json.dumps(plain, separators=(",", ":")).encode() + b"\n"
