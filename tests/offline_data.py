"""What tests of data share: algorithms that leave columns as they came, and files."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlrun.core.actor_critic import ActorCritic
from rlrun.core.algorithm import Algorithm
from rlrun.core.policy import Policy
from rlrun.workers.offline.config import InputConfig, OutputConfig


@dataclass(kw_only=True)
class RawRows(Algorithm):
    """Leaves every column as the input gave it."""

    rollout_columns = ("next_obs",)

    def make_policy(self, obs_space: Any, action_space: Any, model: Any) -> Policy:
        return ActorCritic(obs_space, action_space, model)


@dataclass(kw_only=True)
class ValuedRows(RawRows):
    """The same, with all that an input can give."""

    rollout_columns = ("next_obs", "log_probs", "values", "next_values")


def output_to(folder: Path, **keys: Any) -> OutputConfig:
    general = {"max_file_size": 1 << 26, "compress_columns": ()}
    return OutputConfig(folder=str(folder), **{**general, **keys})


def input_from(*paths: Path | str, shares: list[float] | None = None, **keys: Any) -> InputConfig:
    shares = shares or [1.0 / len(paths)] * len(paths)
    general = {"shuffle_buffer_size": 1, "actions_in_input_normalized": False}
    sources = dict(zip(map(str, paths), shares, strict=True))
    return InputConfig(sources=sources, **{**general, **keys})


def lines_of(folder: Path) -> list[dict[str, Any]]:
    """All lines of all files, in the order of their names."""
    return [json.loads(line) for path in sorted(folder.iterdir()) for line in path.open()]


def episodes_of(folder: Path) -> list[dict[str, Any]]:
    return [line for line in lines_of(folder) if line["type"] == "episode"]
