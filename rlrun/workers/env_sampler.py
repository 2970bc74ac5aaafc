"""From env steps to trajectories: the inner loop of every run.

No Python per env and step: array operations over the vector of envs, one policy call a step.
"""

from __future__ import annotations

import logging
import math
import time
from typing import Any

import numpy as np

from rlrun.core import finite
from rlrun.core.batch import STATE, Batch
from rlrun.core.callbacks import Callbacks
from rlrun.core.episode import EpisodeReport
from rlrun.core.errors import RlrunError, WorkerError
from rlrun.core.policy import Previous, State
from rlrun.workers.actor import Actor, Decision
from rlrun.workers.envs import clip_rewards
from rlrun.workers.episode_log import EpisodeLog
from rlrun.workers.episodes import EpisodeTracker
from rlrun.workers.fragment import Cut, Fragment
from rlrun.workers.offline.recorder import EpisodeRecorder
from rlrun.workers.sample import report_of, report_state
from rlrun.workers.vector_env import VectorEnv

logger = logging.getLogger("rlrun.workers")

PHASES = ("raw_obs_processing", "inference", "action_processing", "env_wait", "env_render")
"""Where the time of a vector step goes, by the classic names; nothing is rendered in training."""

LONG_EPISODE_STEPS = 50_000
"""An episode that goes on for longer may well never end, and the log says so once."""

BY_WORKER = frozenset({"next_obs", "next_values", "sampled_at_update", "infos"})
"""Columns that an algorithm may ask for and the actor does not give."""


class EnvSampler:
    """Steps the envs of one worker with its actor: the `Input` of workers that have envs.

    `learns` off is for evaluation: nothing is gathered for filters, nor kept for a resume.
    """

    def __init__(
        self,
        env: VectorEnv,
        actor: Actor,
        *,
        reward_clip: bool | float,
        callbacks: Callbacks,
        worker: Any,
        seeds: list[int],
        learns: bool = True,
        recorder: EpisodeRecorder | None = None,
    ) -> None:
        self.env = env
        self.actor = actor
        self.reward_clip = reward_clip
        self._floats = actor.preprocessor.floats
        self.episodes = EpisodeTracker(env, callbacks, worker)
        self._worker = worker
        self.worker_index: int = worker.worker_index
        self.seeds = seeds
        self.learns = learns
        self.recorder = recorder
        self.num_finished = 0
        """Episodes that ended so far, reported or not."""
        self.has_begun = False
        self.obs = np.zeros(0)
        """The observations to act on next, preprocessed [B, *shape]."""
        self.state: State = {}
        """The policy's state to act with next."""
        self.previous: Previous | None = None
        self._columns: tuple[str, ...] = ()
        self._finished: list[EpisodeReport] = []
        self._log = EpisodeLog(env, actor.preprocessor, actor.converter)
        self._returns = np.zeros(env.num_envs)
        self.lengths = np.zeros(env.num_envs, np.int64)
        """Steps that the running episodes have taken."""
        self._one_step = np.ones(env.num_envs, np.int64)
        self._void_rows = np.zeros(env.num_envs, bool)
        self.fragment: Fragment | None = None
        """What the last call of `sample` has left unfinished."""
        self._has_warned = False
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._steps_timed = 0

    def sample(
        self,
        num_steps: int,
        timestep: int,
        explore: bool,
        *,
        only_usual: bool = False,
        ends_with_episode: bool = False,
        max_s: float = math.inf,
    ) -> Batch | None:
        """`num_steps` steps of every env as columns [T, B, ...]; `ends_with_episode`: fewer, if the
        episode of the first env ends before. None if that takes longer than `max_s` seconds: the
        next call goes on with it.

        `timestep` counts env steps of all workers before this fragment. Columns: obs, actions,
        rewards, terminated, truncated, those of the actor's `rollout_columns` (unless
        `only_usual`), `state_in/<name>` of a policy with memory, and `valid` where some rows are
        only resets. Raises WorkerError if an env gives a reward or an observation that is not a
        finite number.
        """
        if not self.has_begun:
            self._begin()
        self._columns = () if only_usual else self.actor.rollout_columns
        if self.fragment is None:
            self.fragment = Fragment(num_steps, timestep, ends_with_episode)
        fragment = self.fragment
        try:
            self._fill(fragment, explore, time.perf_counter() + max_s)
        except BaseException:
            self.fragment = None  # It lacks a step of its middle.
            raise
        if not fragment.is_whole:
            return None
        self.fragment = None
        self._log.forget(self.lengths)
        columns = fragment.columns
        self._check_columns(columns)
        if "next_values" in self._columns:
            columns["next_values"] = self._next_values(columns["values"], fragment.cuts)
        if self.learns:
            self.actor.gather(_real_rows(columns["obs"], columns.get("valid")))
        # A step that does both is a termination.
        columns["truncated"] &= ~columns["terminated"]
        return columns

    def _fill(self, fragment: Fragment, explore: bool, end: float) -> None:
        """Put steps into a fragment until it is whole or the clock says `end`; one at least."""
        steps_per_row = self.env.num_envs * max(self.actor.config.num_workers, 1)
        asked = [name for name in self._columns if name not in BY_WORKER]
        while not fragment.is_whole:
            started = time.perf_counter()
            timestep = fragment.timestep + fragment.num_done * steps_per_row
            decision = self.actor.act(self.obs, self.state, self.previous, timestep, explore)
            row = {"obs": self.obs, "actions": decision.actions}
            for name in asked:
                row[name] = decision.columns[name]
            for name, part in self.state.items():
                row[f"{STATE}{name}"] = part
            if self.previous is not None:
                row["prev_actions"] = self.previous.actions
                row["prev_rewards"] = self.previous.rewards
            if "sampled_at_update" in self._columns:
                # New weights may come between two calls.
                num_updates = self._worker.num_updates.get(self.actor.policy_id, 0)
                row["sampled_at_update"] = np.full(self.env.num_envs, num_updates)
            self._seconds["inference"] += time.perf_counter() - started
            self._step(fragment, row, decision)
            fragment.put(row)
            self._steps_timed += 1
            if time.perf_counter() >= end:
                break

    @property
    def is_midway(self) -> bool:
        """Whether the last call of `sample` has left a fragment unfinished."""
        return self.fragment is not None

    def take_finished(self) -> list[EpisodeReport]:
        """Reports of the episodes that ended since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def take_seconds(self) -> tuple[dict[str, float], int]:
        """(seconds by phase, vector steps) since the last call."""
        taken = self._seconds, self._steps_timed
        self._seconds, self._steps_timed = dict.fromkeys(PHASES, 0.0), 0
        return taken

    def forget(self) -> None:
        """Begin anew with the next call of `sample`, as if nothing had been sampled."""
        self._forget_episodes()
        self._finished = []
        self.has_begun, self.num_finished = False, 0

    def restart(self, seeds: list[int]) -> None:
        """Begin fresh episodes in every env, by these seeds."""
        self.seeds = seeds
        self._forget_episodes()
        self._begin()

    def state_dict(self) -> dict[str, Any]:
        """The middle of every running episode, in plain numbers and arrays; see `SubEnv`."""
        recorded = None if self.recorder is None else self.recorder.state_dict()
        if not self.has_begun:
            return {"started": False, "recorder": recorded}
        previous = self.previous
        return {
            "started": True,
            "obs": self.obs.copy(),
            "state": {name: part.copy() for name, part in self.state.items()},
            "previous": None if previous is None else [previous.actions, previous.rewards],
            "returns": self._returns.copy(),
            "lengths": self.lengths.copy(),
            "num_finished": self.num_finished,
            "log": self._log.state_dict(self.lengths),
            "fragment": None if self.fragment is None else self.fragment.state_dict(),
            "finished": [report_state(report) for report in self._finished],
            "episodes": self.episodes.state_dict(),
            "recorder": recorded,
        }

    def load_state_dict(self, state: dict[str, Any]) -> np.ndarray:
        """Go on where `state_dict` was taken. Returns the mask [B] of envs whose episode could
        not be reproduced: those were cut, and start a new episode."""
        self.forget()
        self.take_seconds()
        self._finished = [report_of(report) for report in state.get("finished", ())]
        if not state["started"]:
            if self.recorder is not None and state.get("recorder"):
                self.recorder.files.load_state_dict(state["recorder"]["files"])
            return np.zeros(self.env.num_envs, bool)
        if len(state["lengths"]) != self.env.num_envs:
            raise ValueError(
                f"it was saved with algo.num_envs_per_worker={len(state['lengths'])}, "
                f"not {self.env.num_envs}."
            )
        self.has_begun = True
        self.num_finished = int(state["num_finished"])
        # Envs that cannot replay must not see the run's first episodes again.
        raw = self.env.reset([(seed + self.num_finished + 1) % 2**31 for seed in self.seeds])
        started = self._log.start_again(state["log"])
        self.episodes.start_all(raw if started is None else started)
        cut = self._log.play_again(state["log"], state)
        self._returns = np.where(cut, 0.0, state["returns"])
        self.lengths = np.where(cut, 0, state["lengths"])
        self.episodes.resume(state["episodes"], self._returns, self.lengths, cut)
        if started is not None and cut.any():
            raw = self.env.reset_done(cut)
            self.episodes.start(raw, cut)
        if self.recorder is not None and state.get("recorder"):
            self.recorder.load_state_dict(state["recorder"], raw, cut)
        self.obs = self.actor.preprocessor(raw)
        self.obs[~cut] = state["obs"][~cut]
        self._reset_memory()
        for name, part in self.state.items():
            part[~cut] = state["state"][name][~cut]
        if self.previous is not None:
            self.previous.actions[~cut] = state["previous"][0][~cut]
            self.previous.rewards[~cut] = state["previous"][1][~cut]
        if (begun := state.get("fragment")) is not None:
            self.fragment = Fragment.from_state(begun)
            previous = self.previous and Previous(*state["previous"])
            for env in self.fragment.cut_off(cut, state["obs"], state["state"], previous):
                self.episodes.lose(env)
        return cut

    def close(self) -> None:
        """Close the envs, and the files that are written to."""
        self.env.close()
        if self.recorder is not None:
            self.recorder.close()

    def _begin(self) -> None:
        self.has_begun = True
        raw = self.env.reset(self.seeds)
        self._observe(raw)
        self._reset_memory()
        self.episodes.start_all(raw)
        if self.recorder is not None:
            self.recorder.start_all(raw)

    def _forget_episodes(self) -> None:
        self.fragment = None
        self._returns[:] = 0.0
        self.lengths[:] = 0
        self._void_rows[:] = False
        self._log.clear()

    def _reset_memory(self) -> None:
        """The policy knows of nothing yet, in every env."""
        self.actor.exploration.reset(np.ones(self.env.num_envs, bool))
        self.state = self.actor.policy.initial_state(self.env.num_envs)
        self.previous = self.actor.no_previous(self.env.num_envs)

    def _observe(self, raw: Any) -> None:
        """Preprocess the observations to act on next."""
        started = time.perf_counter()
        self.obs = self.actor.preprocessor(raw)
        self._seconds["raw_obs_processing"] += time.perf_counter() - started

    def _step(self, fragment: Fragment, row: dict[str, np.ndarray], decision: Decision) -> None:
        """One step of every env, whose `row` gets what they gave, [B, ...]."""
        begun = time.perf_counter()
        raw, rewards, terminated, truncated = self.env.step(decision.env_actions)
        self._seconds["env_wait"] += time.perf_counter() - begun
        done = terminated | truncated
        row["rewards"] = clip_rewards(rewards, self.reward_clip)
        row["terminated"] = terminated
        row["truncated"] = truncated
        if self.env.skips_reset_rows:
            row["valid"] = ~self._void_rows
        if "infos" in self._columns:
            row["infos"] = _as_column(self.env.infos())
        if self.learns:  # Evaluation is never resumed midway.
            self._log.note(decision.actions, decision.env_actions)
        self._returns += rewards
        self.lengths += row.get("valid", self._one_step)
        if self.episodes.is_on:
            self.episodes.start(raw, self._void_rows)
            chosen = decision.actions
            if self.actor.converter.is_structured:
                chosen = decision.env_actions
            self.episodes.step(raw, chosen, rewards, terminated, truncated, self._void_rows)
        if self.recorder is not None:
            self.recorder.step(
                raw,
                decision.env_actions,
                rewards,
                decision.columns["log_probs"],
                terminated,
                truncated,
                self._void_rows,
            )
        self.state = decision.state
        if self.previous is not None:
            rewards = row["rewards"].astype(np.float32)
            self.previous = Previous(np.array(decision.actions), rewards)
        if np.count_nonzero(done):
            row["next_obs"] = self._end_episodes(fragment, raw, done, truncated & ~terminated)
        else:
            self._observe(raw)
            row["next_obs"] = self.obs
            if self.env.skips_reset_rows and np.count_nonzero(self._void_rows):
                self._forget(self._void_rows)
        if "next_obs" not in self._columns:
            del row["next_obs"]
        if self.env.skips_reset_rows:
            self._void_rows = done

    def _end_episodes(
        self, fragment: Fragment, raw: Any, done: np.ndarray, truncated: np.ndarray
    ) -> np.ndarray:
        """Report and reset the envs of the mask `done`; returns the real next observations."""
        next_obs, ended = self.actor.preprocessor(raw), np.flatnonzero(done)
        self.check_finite("observation", self._floats(next_obs[ended]), 0, ended)
        for i in ended.tolist():
            if truncated[i]:
                cut = Cut.at(fragment.num_done, i, next_obs, self.state, self.previous)
                fragment.cuts.append(cut)
            self._finished.append(
                self.episodes.end(i, float(self._returns[i]), int(self.lengths[i]))
            )
        self._returns[ended] = 0.0
        self.lengths[ended] = 0
        self.num_finished += len(ended)
        begun = time.perf_counter()
        after_reset = self.env.reset_done(done)
        self._seconds["env_wait"] += time.perf_counter() - begun
        self._observe(after_reset)
        self._forget(done | self._void_rows)
        # Of envs that go on, next_obs is the very row that is acted on next.
        next_obs[~done] = self.obs[~done]
        if self.env.skips_reset_rows:
            # Their next step only resets, whatever is done, where a mask may allow nothing.
            self.actor.preprocessor.open_masks(self.obs, done)
        else:
            self.episodes.start(after_reset, done)
            if self.recorder is not None:
                self.recorder.start(after_reset, done)
        return next_obs

    def _forget(self, envs: np.ndarray) -> None:
        """The policy's memory of the envs in the mask [B] begins anew, and exploration's."""
        # Of envs that reset themselves by a step of their own once, not also before that step.
        begun = self._void_rows if self.env.skips_reset_rows else envs
        if np.count_nonzero(begun):
            self.actor.exploration.reset(begun)
        if self.state:
            fresh = self.actor.policy.initial_state(self.env.num_envs)
            for name, part in self.state.items():
                mask = envs.reshape(-1, *[1] * (part.ndim - 1))
                self.state = {**self.state, name: np.where(mask, fresh[name], part)}
        if self.previous is not None:
            self.previous.actions[envs] = 0
            self.previous.rewards[envs] = 0.0

    def _next_values(self, values: np.ndarray, cuts: list[Cut]) -> np.ndarray:
        """Value of the state after each step [T, B], of the real one where an episode was cut.

        Inside an episode that is the next row's value, which the policy has given already; only
        the last row and truncated ones are evaluated.
        """
        following = np.empty_like(values)
        following[:-1] = values[1:]
        obs = np.concatenate([self.obs, *(cut.obs for cut in cuts)])
        state = {
            name: np.concatenate([part, *(cut.state[name] for cut in cuts)])
            for name, part in self.state.items()
        }
        previous = None
        if self.previous is not None:
            all_previous = [self.previous, *(cut.previous for cut in cuts if cut.previous)]
            previous = Previous(
                np.concatenate([each.actions for each in all_previous]),
                np.concatenate([each.rewards for each in all_previous]),
            )
        found = self.actor.policy.values(obs, state, previous)
        following[-1] = found[: self.env.num_envs]
        for cut, value in zip(cuts, found[self.env.num_envs :], strict=True):
            following[cut.step, cut.env] = value
        return following

    def _check_columns(self, columns: Batch) -> None:
        self.check_finite("reward", columns["rewards"], 1)
        self.check_finite("observation", self._floats(columns["obs"]), 1)
        self.check_finite("observation", self._floats(self.obs))
        if finite.is_checked_everywhere:
            finite.require_columns(columns, f"What worker {self.worker_index} sampled [step, env]")
        longest = int(self.lengths.max())
        if longest > LONG_EPISODE_STEPS and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "Worker %d: an episode of %r has gone on for %d steps. If its episodes never end, "
                "set env.horizon, the steps after which they are truncated.",
                self.worker_index,
                self.env.env_id,
                longest,
            )

    def check_finite(
        self, what: str, column: np.ndarray, axis: int = 0, envs: np.ndarray | None = None
    ) -> None:
        """Raise WorkerError unless all of `column`, rewards or the floats of observations, is
        finite; `axis` is that of the envs, which are those of `envs` (None: all)."""
        place = finite.first_not_finite(column)
        if place is None:
            return
        if not self.actor.has_finite_weights():
            raise RlrunError(
                "The weights of the policy are not finite any more: learning has diverged. Go on "
                "from an earlier checkpoint, or start anew, with a lower algo.lr or algo.grad_clip."
            )
        env = place[axis] if envs is None else envs[place[axis]]
        raise WorkerError(
            f"Worker {self.worker_index} failed: env {env} of {self.env.env_id!r} "
            f"gave {column[place]} as {what}. Both must be finite numbers."
        )


def _real_rows(column: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """[T, B, ...] -> [N, ...], without the rows that are no steps."""
    return column.reshape(-1, *column.shape[2:]) if valid is None else column[valid]


def _as_column(infos: list[dict[str, Any]]) -> np.ndarray:
    """Copies of the infos of all envs, which may change theirs, as objects [B]."""
    column = np.empty(len(infos), object)
    column[:] = [dict(info) for info in infos]
    return column
