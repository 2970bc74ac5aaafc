"""What all logger tests start from: a run in a fresh folder, and a result as a Trainer makes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rlrun.loggers.base import RunInfo


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., RunInfo]:
    def make(start_iteration: int = 0, **changes: Any) -> RunInfo:
        settings = {
            "folder": tmp_path,
            "name": "PPO_cartpole",
            "config": {"algo": {"lr": 0.001}},
            "stop": {"timesteps_total": 10_240},
        }
        return RunInfo(start_iteration=start_iteration, **{**settings, **changes})

    return make


@pytest.fixture
def make_result() -> Callable[..., dict[str, Any]]:
    def make(iteration: int, **changes: Any) -> dict[str, Any]:
        result = {
            "training_iteration": iteration,
            "timesteps_total": 1024 * iteration,
            "episodes_total": 20 * iteration,
            "episode_reward_mean": 37.5,
            "episode_reward_min": 9.0,
            "episode_reward_max": 112.0,
            "episode_len_mean": 37.5,
            "episodes_this_iter": 20,
            "timesteps_this_iter": 1024,
            "time_this_iter_s": 0.5,
            "time_total_s": 0.5 * iteration,
            "done": False,
            "custom_metrics": {},
            "hist_stats": {"episode_reward": [9.0, 112.0], "episode_lengths": [9, 112]},
            "info": {"learner": {"default_policy": {"learner_stats": {"policy_loss": 0.1}}}},
            "config": {"algo": {"lr": 0.001}},
        }
        return {**result, **changes}

    return make
