"""What a worker is made of, and what an actor must know of its env."""

from __future__ import annotations

from dataclasses import dataclass

from gymnasium import spaces

from rlrun.core.algorithm import Algorithm
from rlrun.core.callbacks import Callbacks
from rlrun.core.exploration import Exploration
from rlrun.core.networks import Model
from rlrun.workers.envs import EnvConfig
from rlrun.workers.offline.config import InputConfig, OutputConfig
from rlrun.workers.video import VideoConfig


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """All that a worker is made of; plain objects, so that it travels to other processes."""

    env: EnvConfig
    algorithm: Algorithm
    exploration: Exploration
    model: Model
    callbacks: Callbacks
    explore: bool
    seed: int
    num_workers: int = 0
    """Remote workers of the set; 0: the local one samples."""
    device: str = "cpu"
    """Where networks act in remote workers that are too large for NumPy."""
    local_device: str = "cpu"
    """Where they act in the local one: the learner's device."""
    in_evaluation: bool = False
    """Whether the worker serves evaluation: own streams of randomness, nothing is gathered, read or
    written."""
    input: InputConfig | None = None
    """Data that take the place of envs; None: workers sample from envs."""
    output: OutputConfig | None = None
    """Where what is sampled is written."""
    rollout_columns: tuple[str, ...] = ()
    """Columns that trajectories have for callbacks, beside those of the algorithm."""
    videos: VideoConfig | None = None
    """Which episodes become videos; None: none."""
    debug: bool = False
    """Whether all numbers are checked, not only those that come from envs."""


@dataclass(frozen=True)
class Spaces:
    """What an actor needs to know of an env."""

    observation_space: spaces.Space
    action_space: spaces.Space
