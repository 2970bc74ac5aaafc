"""Several envs stepped together, with one contract for every kind of autoreset.

`step` gives the real next observation of every env, also of one whose episode just ended;
`reset_done` then gives the observations to act on. No row of a reset ever looks like a transition.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from rlrun.core import seeding
from rlrun.core.errors import ConfigError
from rlrun.workers.envs import EnvConfig, SubEnv, make_env, make_native_vector_env

StepResult = tuple[Any, np.ndarray, np.ndarray, np.ndarray]
"""(raw observations, rewards [B], terminated [B], truncated [B])."""


class VectorEnv:
    """The envs of one worker. Observations are raw: batched per leaf of the env's space."""

    skips_reset_rows = False
    """Whether the step after an episode's end only resets that env, so that its row is void."""
    can_replay = True
    """Whether running episodes can be saved and restored."""

    def __init__(self, vector_env: gym.vector.VectorEnv, env_id: str) -> None:
        self.vector_env = vector_env
        self.env_id = env_id
        self.num_envs = vector_env.num_envs
        self.observation_space = vector_env.single_observation_space
        self.action_space = vector_env.single_action_space

    def reset(self, seeds: list[int]) -> Any:
        """Start every env anew; returns raw observations."""
        return self.vector_env.reset(seed=seeds)[0]

    def step(self, actions: np.ndarray) -> StepResult:
        """One step of every env."""
        observations, rewards, terminated, truncated, _ = self.vector_env.step(actions)
        return observations, rewards, terminated, truncated

    def reset_done(self, done: np.ndarray) -> Any:
        """Reset the envs of the mask `done` [B]; returns the raw observations of all."""
        return self.vector_env.reset(options={"reset_mask": done})[0]

    def get_sub_environments(self) -> list[gym.Env]:
        """The envs, where they live in this process; empty where they do not."""
        return list(getattr(self.vector_env, "envs", []))

    def episode_starts(self) -> list[dict[str, Any]]:
        """How the running episode of each env began; see SubEnv."""
        return list(self.vector_env.get_attr("episode_start"))

    def restore_episodes(
        self, starts: list[dict[str, Any]], actions: list[np.ndarray]
    ) -> list[Any]:
        """Replay each env's episode; returns each one's raw observation, None where it ended."""
        self.vector_env.reset(seed=list(range(self.num_envs)))
        pending = [
            {"start": start, "actions": taken} for start, taken in zip(starts, actions, strict=True)
        ]
        self.vector_env.set_attr("pending_restore", pending)
        return list(self.vector_env.call("restore_episode"))

    def close(self) -> None:
        """Release the envs and their processes."""
        self.vector_env.close()


class NativeVectorEnv(VectorEnv):
    """An env's own vector implementation, which resets by itself, on the same or the next step."""

    can_replay = False

    def __init__(self, vector_env: gym.vector.VectorEnv, env_id: str) -> None:
        super().__init__(vector_env, env_id)
        mode = AutoresetMode(vector_env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP))
        self.skips_reset_rows = mode == AutoresetMode.NEXT_STEP
        self._observations: Any = None

    def reset(self, seeds: list[int]) -> Any:
        # One generator serves all envs, so one seed does.
        self._observations = self.vector_env.reset(seed=seeds[0])[0]
        return self._observations

    def step(self, actions: np.ndarray) -> StepResult:
        observations, rewards, terminated, truncated, infos = self.vector_env.step(actions)
        self._observations = observations
        done = terminated | truncated
        if not self.skips_reset_rows and done.any():
            final = np.array(observations)
            final[done] = np.stack([infos["final_obs"][i] for i in np.flatnonzero(done)])
            observations = final
        return observations, rewards, terminated, truncated

    def reset_done(self, done: np.ndarray) -> Any:
        return self._observations


def make_vector_env(config: EnvConfig, num_envs: int, worker_index: int) -> VectorEnv:
    """The envs of one worker. Raises ConfigError, MissingExtraError."""
    if config.vectorization == "native":
        return NativeVectorEnv(make_native_vector_env(config, num_envs), config.id)
    makers = [partial(_make_sub_env, config, worker_index, index) for index in range(num_envs)]
    if config.vectorization == "async":
        try:
            return VectorEnv(
                AsyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED, copy=False), config.id
            )
        except RuntimeError as error:
            raise ConfigError(
                f"env.vectorization=async cannot run {config.id!r}: {error} "
                f"Use env.vectorization=sync."
            ) from error
    return VectorEnv(
        SyncVectorEnv(makers, autoreset_mode=AutoresetMode.DISABLED, copy=False), config.id
    )


def env_seeds(seed: int, worker_index: int, num_envs: int) -> list[int]:
    """The seed of each env's first reset, from the seed tree."""
    return [seeding.integer_seed(seed, "env", worker_index, index) for index in range(num_envs)]


def _make_sub_env(config: EnvConfig, worker_index: int, env_index: int) -> gym.Env:
    return SubEnv(make_env(config), config.id, worker_index, env_index)
