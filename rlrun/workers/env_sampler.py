"""From env steps to trajectories: the inner loop of every run.

No Python per env and step: array operations over the vector of envs, one policy call a step.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import numpy as np

from rlrun.core.batch import Batch
from rlrun.core.callbacks import Callbacks
from rlrun.core.episode import Episode, EpisodeReport
from rlrun.core.errors import RlrunError, WorkerError
from rlrun.core.exploration import Exploration
from rlrun.core.filters import NoFilter
from rlrun.core.policy import Policy
from rlrun.core.spaces import ActionConverter, Preprocessor
from rlrun.workers.envs import EnvConfig, clip_rewards
from rlrun.workers.vector_env import VectorEnv

logger = logging.getLogger("rlrun.workers")

PHASES = ("raw_obs_processing", "inference", "action_processing", "env_wait", "env_render")
"""Where the time of a vector step goes, by the classic names; nothing is rendered in training."""

MAX_REPLAY_STEPS = 100_000
"""Longer episodes are not kept for replay: on resume they are cut, and the log says so."""


class EnvSampler:
    """Steps the envs of one worker with its policy. Lives as long as the worker."""

    def __init__(
        self,
        env: VectorEnv,
        config: EnvConfig,
        policy: Policy,
        exploration: Exploration,
        *,
        preprocessor: Preprocessor,
        observation_filter: NoFilter,
        update_filter: bool,
        convert_actions: ActionConverter,
        rollout_columns: tuple[str, ...],
        callbacks: Callbacks,
        worker: Any,
        seeds: list[int],
    ) -> None:
        self.env = env
        self.policy = policy
        self.exploration = exploration
        self.preprocessor = preprocessor
        self.observation_filter = observation_filter
        self.rollout_columns = rollout_columns
        self.clip_rewards = config.clip_rewards
        self.update_filter = update_filter
        self.convert_actions = convert_actions
        self.episodes = _EpisodeTracker(env, callbacks, worker)
        self.worker_index: int = worker.worker_index
        self.seeds = seeds
        self.finished: list[EpisodeReport] = []
        self.num_finished = 0
        """Episodes that ended so far, reported or not."""
        self.has_begun = False
        self.obs = np.zeros(0)
        """The observations to act on next, preprocessed and filtered [B, *shape]."""
        self._unfiltered = np.zeros(0)
        self._returns = np.zeros(env.num_envs)
        self._lengths = np.zeros(env.num_envs, np.int64)
        self._one_step = np.ones(env.num_envs, np.int64)
        self._void_rows = np.zeros(env.num_envs, bool)
        self._actions_taken: list[np.ndarray] = []
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._steps_timed = 0

    def sample(self, num_steps: int, timestep: int, explore: bool) -> Batch:
        """`num_steps` steps of every env as columns [T, B, ...].

        `timestep` counts env steps of all workers before this fragment. Columns: obs, actions,
        rewards, terminated, truncated, next_obs (the real one, also at an episode's end), those
        of `rollout_columns`, and `valid` where some rows are only resets. Raises WorkerError if an
        env gives a reward or an observation that is not a finite number.
        """
        if not self.has_begun:
            self._begin()
        fragment = _Fragment(num_steps)
        steps_per_row = self.env.num_envs * max(self.exploration.num_workers, 1)
        for t in range(num_steps):
            started = time.perf_counter()
            dist, extras = self.policy.act(self.obs, explore)
            actions, log_probs = self.exploration.get_exploration_action(
                dist, timestep + t * steps_per_row, explore
            )
            row = {"obs": self.obs, "actions": actions}
            if self.rollout_columns:
                extras["log_probs"] = log_probs
                if "dist_inputs" in self.rollout_columns:
                    extras["dist_inputs"] = dist.inputs
                row |= {name: extras[name] for name in self.rollout_columns}
            self._seconds["inference"] += time.perf_counter() - started
            self._step(row)
            fragment.put(t, row)
        self._steps_timed += num_steps
        self._forget_old_actions()
        for name in ("rewards", "obs", "next_obs"):
            self._check_finite(name, fragment.columns)
        # A step that does both is a termination.
        fragment.columns["truncated"] &= ~fragment.columns["terminated"]
        return fragment.columns

    def take_finished(self) -> list[EpisodeReport]:
        """Reports of the episodes that ended since the last call."""
        finished, self.finished = self.finished, []
        return finished

    def take_perf(self) -> dict[str, float]:
        """Milliseconds of one vector step by phase, over the steps since the last call."""
        num_steps = max(self._steps_timed, 1)
        perf = {f"mean_{name}_ms": 1e3 * s / num_steps for name, s in self._seconds.items()}
        self._seconds = dict.fromkeys(self._seconds, 0.0)
        self._steps_timed = 0
        return perf

    def state_dict(self) -> dict[str, Any]:
        """The middle of every running episode, in plain numbers and arrays; see `SubEnv`."""
        if not self.has_begun:
            return {"started": False}
        state: dict[str, Any] = {
            "started": True,
            "can_replay": self.env.can_replay,
            "obs": self.obs.copy(),
            "unfiltered": self._unfiltered.copy(),
            "returns": self._returns.copy(),
            "lengths": self._lengths.copy(),
            "num_finished": self.num_finished,
        }
        if self.env.can_replay:
            state["episode_starts"] = self.env.episode_starts()
            state["actions_taken"] = [
                np.array([taken[i] for taken in self._actions_since_start(i)])
                for i in range(self.env.num_envs)
            ]
        return state

    def load_state_dict(self, state: dict[str, Any]) -> np.ndarray:
        """Go on where `state_dict` was taken. Returns the mask [B] of envs whose episode could
        not be reproduced: those were cut, and start a new episode."""
        self._void_rows[:] = False
        if state["started"] and len(state["lengths"]) != self.env.num_envs:
            raise ValueError(
                f"it was saved with algo.num_envs_per_worker={len(state['lengths'])}, "
                f"not {self.env.num_envs}."
            )
        if not state["started"]:
            self.has_begun = False
            self.num_finished = 0
            self._returns[:] = 0.0
            self._lengths[:] = 0
            self._actions_taken.clear()
            return np.zeros(self.env.num_envs, bool)
        cut = self._restore_envs(state)
        for i in np.flatnonzero(cut):
            logger.warning(
                "Env %d (%s) did not reproduce its running episode; that episode is cut as "
                "truncated after %d steps, and a new one starts.",
                i,
                self.env.env_id,
                state["lengths"][i],
            )
        self._returns = np.where(cut, 0.0, state["returns"])
        self._lengths = np.where(cut, 0, state["lengths"])
        self.episodes.resume(self._returns, self._lengths)
        return cut

    def restart(self, seeds: list[int]) -> None:
        """Begin fresh episodes in every env, by these seeds."""
        self.seeds = seeds
        self._returns[:] = 0.0
        self._lengths[:] = 0
        self._void_rows[:] = False
        self._actions_taken.clear()
        self._begin()

    def _begin(self) -> None:
        self.has_begun = True
        raw = self.env.reset(self.seeds)
        self._observe(raw)
        self.episodes.start_all(raw)

    def _observe(self, raw: Any) -> None:
        """Preprocess and filter the observations to act on next."""
        started = time.perf_counter()
        self._unfiltered = self.preprocessor(raw)
        self.obs = self.observation_filter(self._unfiltered, self.update_filter)
        self._seconds["raw_obs_processing"] += time.perf_counter() - started

    def _step(self, row: dict[str, np.ndarray]) -> None:
        """One step of every env by the actions in `row`, which gets what they gave, [B, ...]."""
        begun = time.perf_counter()
        actions = row["actions"]
        env_actions = self.convert_actions(actions)
        converted = time.perf_counter()
        raw, rewards, terminated, truncated = self.env.step(env_actions)
        self._seconds["action_processing"] += converted - begun
        self._seconds["env_wait"] += time.perf_counter() - converted
        done = terminated | truncated
        row["rewards"] = clip_rewards(rewards, self.clip_rewards)
        row["terminated"] = terminated
        row["truncated"] = truncated
        if self.env.skips_reset_rows:
            row["valid"] = ~self._void_rows
        if self.env.can_replay and self.update_filter:  # Evaluation is never resumed midway.
            self._actions_taken.append(np.array(env_actions))
        self._returns += rewards
        self._lengths += row.get("valid", self._one_step)
        if self.episodes.is_on:
            self.episodes.start(raw, self._void_rows)
            self.episodes.step(raw, actions, rewards, terminated, truncated, self._void_rows)
        if np.count_nonzero(done):
            row["next_obs"] = self._end_episodes(raw, done)
        else:
            self._observe(raw)
            row["next_obs"] = self.obs
        if self.env.skips_reset_rows:
            self._void_rows = done

    def _end_episodes(self, raw: Any, done: np.ndarray) -> np.ndarray:
        """Report and reset the envs of the mask `done`; returns the real next observations."""
        next_obs = self.observation_filter(self.preprocessor(raw), update=False)
        for i in np.flatnonzero(done):
            self.finished.append(
                self.episodes.end(int(i), float(self._returns[i]), int(self._lengths[i]))
            )
        self._returns[done] = 0.0
        self._lengths[done] = 0
        self.num_finished += int(np.count_nonzero(done))
        after_reset = self.env.reset_done(done)
        self._observe(after_reset)
        # Of envs that go on, next_obs is the very row that is acted on next.
        next_obs[~done] = self.obs[~done]
        if not self.env.skips_reset_rows:
            self.episodes.start(after_reset, done)
        return next_obs

    def _check_finite(self, name: str, columns: Batch) -> None:
        column = columns[name]
        if column.dtype != np.float32:
            return
        # A quick look: the sum of squares is finite only if all is, though large ones overflow.
        flat = column.reshape(-1)
        if math.isfinite(np.dot(flat, flat)):
            return
        not_finite = np.argwhere(~np.isfinite(column))
        if not len(not_finite):
            return
        weights = self.policy.get_weights()
        if not all(np.isfinite(array).all() for array in weights.values()):
            raise RlrunError(
                "The weights of the policy are not finite any more: learning has diverged. Go on "
                "from an earlier checkpoint, or start anew, with a lower algo.lr or algo.grad_clip."
            )
        what = "reward" if name == "rewards" else "observation"
        raise WorkerError(
            f"Worker {self.worker_index} failed: env {not_finite[0][1]} of {self.env.env_id!r} "
            f"gave {column[tuple(not_finite[0])]} as {what}. Both must be finite numbers."
        )

    def _forget_old_actions(self) -> None:
        longest = min(int(self._lengths.max()), MAX_REPLAY_STEPS)
        del self._actions_taken[: len(self._actions_taken) - longest]

    def _actions_since_start(self, env_index: int) -> list[np.ndarray]:
        length = int(self._lengths[env_index])
        is_kept = 0 < length <= MAX_REPLAY_STEPS
        return self._actions_taken[len(self._actions_taken) - length :] if is_kept else []

    def _restore_envs(self, state: dict[str, Any]) -> np.ndarray:
        """Replay the running episodes; returns the mask of envs that came out elsewhere."""
        self.has_begun = True
        self.num_finished = int(state["num_finished"])
        # Envs that cannot replay must not see the run's first episodes again.
        raw = self.env.reset([(seed + self.num_finished + 1) % 2**31 for seed in self.seeds])
        cut = np.ones(self.env.num_envs, bool)
        if self.env.can_replay and state["can_replay"]:
            actions = state["actions_taken"]
            replayed = self.env.restore_episodes(state["episode_starts"], actions)
            self._actions_taken = _by_step(actions)
            for i, end in enumerate(replayed):
                cut[i] = end is None or not (
                    len(actions[i]) == state["lengths"][i]
                    and end[1] == state["returns"][i]
                    and np.array_equal(
                        self.preprocessor.single(end[0])[0], state["unfiltered"][i], equal_nan=True
                    )
                )
            if cut.any():
                raw = self.env.reset_done(cut)
        self._unfiltered = self.preprocessor(raw)
        self.obs = np.array(self.observation_filter(self._unfiltered, update=False))
        self._unfiltered[~cut] = state["unfiltered"][~cut]
        self.obs[~cut] = state["obs"][~cut]
        self.episodes.start_all(raw)
        return cut


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


class _Fragment:
    """Columns [T, B, ...], allocated at their first row; float64 becomes float32."""

    def __init__(self, num_steps: int) -> None:
        self.num_steps = num_steps
        self.columns = Batch()

    def put(self, t: int, row: dict[str, np.ndarray]) -> None:
        """Copy the arrays [B, ...] of step `t`."""
        columns = self.columns
        if t == 0:
            for name, part in row.items():
                dtype = np.float32 if part.dtype == np.float64 else part.dtype
                columns[name] = np.empty((self.num_steps, *part.shape), dtype)
        for name, part in row.items():
            columns[name][t] = part


class _EpisodeTracker:
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
        actions: np.ndarray,
        rewards: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        void_rows: np.ndarray,
    ) -> None:
        for i, episode in enumerate(self.episodes):
            if void_rows[i]:
                continue
            episode.length += 1
            episode.total_reward += float(rewards[i])
            episode.last_observation = _row(raw, i)
            episode.last_action = actions[i]
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
                policies=self.worker.policy_map,
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
