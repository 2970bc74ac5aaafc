"""Cutting the stream of fragments: into trajectories that postprocessing may see, and into the
rows, single steps or sequences, that a learner gets."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from rlrun.core.algorithm import BatchMode
from rlrun.core.batch import ACTING_REWARDS, STATE, Batch, concat
from rlrun.workers.task_state import pack_entries, unpack_entries

logger = logging.getLogger("rlrun.workers")

FOLLOWING = {"obs": "next_obs", "prev_actions": "actions", "prev_rewards": "rewards"}
"""Which columns of a step hold what others have in the step that follows it; previous rewards are
the column ACTING_REWARDS, where there is one."""

_Part = tuple[Batch, int, int, int]
"""(fragment [T, B, ...], env, first step, end): steps of one env."""


class TrajectoryCutter:
    """Gives the trajectories [T, B, ...] that are complete with each fragment.

    truncate_episodes: each fragment, with the last `lookahead` steps of the one before in front,
    so that windows of n steps cross the seams. complete_episodes: each episode alone, [T, 1, ...].
    """

    def __init__(self, batch_mode: BatchMode, lookahead: int, num_envs: int) -> None:
        self.lookahead = lookahead
        self.by_episode = batch_mode == "complete_episodes"
        self._num_envs = num_envs
        self.forget()

    def forget(self) -> None:
        """Nothing waits for steps that follow it."""
        self._seam: Batch | None = None
        self._open: list[list[_Part]] = [[] for _ in range(self._num_envs)]
        self._whole: list[Batch] = []

    def complete(self, fragment: Batch) -> list[Batch]:
        """The trajectories that are complete with `fragment`, a batch [T, B, ...]."""
        if self.by_episode:
            return self._episodes(fragment)
        if self.lookahead == 0:
            return [fragment]
        joined = fragment if self._seam is None else concat([self._seam, fragment])
        self._seam = joined.take(slice(max(joined.num_rows - self.lookahead, 0), None)).copied()
        return [joined] if joined.num_rows > self.lookahead else []

    def truncate(self, cut: np.ndarray) -> None:
        """The running episodes of the envs in the mask `cut` [B] do not go on."""
        if self._seam is not None and self._seam.num_rows:
            self._seam["truncated"][-1] |= cut & ~self._seam["terminated"][-1]
        for env in map(int, np.flatnonzero(cut)):
            # A native env may only have reset since its last episode.
            if self._open[env] and (steps := self._take_open(env)).num_rows:
                steps["truncated"][-1] = True
                self._whole.append(self._as_episode(steps))

    def state_dict(self) -> dict[str, Any]:
        """The steps that wait for those after them."""
        waiting = [as_plain(_steps_of(parts)) if parts else None for parts in self._open]
        return {
            "seam": None if self._seam is None else as_plain(self._seam),
            "open": waiting if self.by_episode else [],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.forget()
        self._seam = None if state["seam"] is None else as_batch(state["seam"]).copied()
        for env, steps in enumerate(state["open"]):
            if steps is not None:
                columns = as_batch(steps)
                waiting = Batch({name: c[:, None] for name, c in columns.items()}).copied()
                self._open[env] = [(waiting, 0, 0, waiting.num_rows)]

    def _episodes(self, fragment: Batch) -> list[Batch]:
        """Whole episodes, by env and time; the rest of each env waits."""
        whole, self._whole = self._whole, []
        ends = fragment["terminated"] | fragment["truncated"]
        num_steps, num_envs = ends.shape
        for env in range(num_envs):
            start = 0
            for last in np.flatnonzero(ends[:, env]):
                self._open[env].append((fragment, env, start, int(last) + 1))
                whole.append(self._as_episode(self._take_open(env)))
                start = int(last) + 1
            if start < num_steps:
                self._open[env].append((fragment, env, start, num_steps))
        return whole

    def _take_open(self, env: int) -> Batch:
        """The open steps of an env, [T, ...], which are then not open any more."""
        steps, self._open[env] = _steps_of(self._open[env]), []
        return steps.take(steps.pop("valid")) if "valid" in steps else steps

    def _as_episode(self, steps: Batch) -> Batch:
        """Steps [T, ...] as one episode, [T + lookahead, 1, ...]."""
        # Windows of n steps stop at the episode's end, so the rows put behind it are never read.
        rows = np.minimum(np.arange(steps.num_rows + self.lookahead), steps.num_rows - 1)
        return Batch({name: column[rows, None] for name, column in steps.items()})


def cut_steps(trajectory: Batch, valid: np.ndarray | None) -> Batch:
    """[T, B, ...] -> rows [N, ...], one a step; of `valid` [T, B] only those that are steps."""
    if valid is not None:
        return trajectory.take(valid)
    return Batch({name: c.reshape(-1, *c.shape[2:]) for name, c in trajectory.items()})


def cut_sequences(
    trajectory: Batch,
    ends: np.ndarray,
    valid: np.ndarray | None,
    max_seq_len: int,
    overlap: int = 0,
    bootstraps: bool = False,
) -> Batch:
    """[T, B, ...] -> rows [S, max_seq_len, ...], each a sequence within one episode.

    ends: [T, B], the last steps of episodes. A sequence begins at an episode's start, at the
    trajectory's start, or `max_seq_len - overlap` steps after the one before; with an overlap,
    learners may burn the policy's state in on the steps that they know already (Kapturowski et al.,
    2019, sec. 3): the column `overlaps` [S] says which sequences begin with such steps. What is
    missing at its end is zero, and False in the column `mask`; columns of the state hold that at
    its start, [S, ...].

    `bootstraps`: rows are as long as the longest sequence and one step more. Behind the last step
    of each stands what followed it, the observation out of the column `next_obs` (which rows do not
    have), where `mask` is False.
    """
    envs, times, starts, lengths, numbers = _sequences(ends, valid, max_seq_len, overlap)
    width = int(lengths.max(initial=0)) + 1 if bootstraps else max_seq_len
    steps = np.arange(width)
    mask = steps < lengths[:, None]
    # Up to the last step, which is repeated.
    places = starts[:, None] + np.minimum(steps, lengths[:, None] - 1)
    when, where = times[places], envs[starts]
    is_padding = steps >= (lengths + bootstraps)[:, None]
    has_padding = bool(is_padding.any())
    rows = Batch()
    for name, column in trajectory.items():
        if name.startswith(STATE):
            rows[name] = column[when[:, 0], where]
        elif name != ACTING_REWARDS and not (bootstraps and name == "next_obs"):
            rows[name] = found = column[when, where[:, None]]
            if bootstraps and name in FOLLOWING:
                last = np.arange(len(starts)), lengths
                following = trajectory[FOLLOWING[name]]
                if name == "prev_rewards":
                    following = trajectory.get(ACTING_REWARDS, following)
                found[last] = following[when[last], where]
            if has_padding:
                found[is_padding] = 0
    rows["mask"] = mask
    if overlap:
        rows["overlaps"] = numbers > 0
    return rows


def _sequences(
    ends: np.ndarray, valid: np.ndarray | None, max_seq_len: int, overlap: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(envs [N], times [N]) of all steps, episode after episode, and (first step, length, number
    within the episode) [S] of the sequences among them."""
    envs, times = np.nonzero(np.ones(ends.shape[::-1], bool) if valid is None else valid.T)
    begins = np.ones(len(envs), bool)
    begins[1:] = ends[times[:-1], envs[:-1]] | (envs[1:] != envs[:-1])
    firsts = np.flatnonzero(begins)
    episode_lengths = np.diff(firsts, append=len(envs))
    stride = max_seq_len - overlap
    # The last steps need no sequence of their own if the one before holds them already.
    counts = -(-np.maximum(episode_lengths - overlap, 1) // stride)
    numbers = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    offsets = numbers * stride
    lengths = np.minimum(np.repeat(episode_lengths, counts) - offsets, max_seq_len)
    return envs, times, np.repeat(firsts, counts) + offsets, lengths, numbers


def _steps_of(parts: list[_Part]) -> Batch:
    """Consecutive steps of one env, [T, ...], in memory of their own."""
    return Batch(
        {
            name: np.concatenate([part[name][start:end, env] for part, env, start, end in parts])
            for name in parts[0][0]
        }
    )


def as_plain(columns: Batch) -> dict[str, Any]:
    """What a checkpoint holds of steps: of infos the entries that it can."""
    return {
        name: _packed(column) if column.dtype == object else column
        for name, column in columns.items()
    }


def as_batch(plain: Mapping[str, Any]) -> Batch:
    """What `as_plain` was of."""
    return Batch(
        {
            name: _unpacked(column) if isinstance(column, dict) else column
            for name, column in plain.items()
        }
    )


def _packed(infos: np.ndarray) -> dict[str, Any]:
    found = [pack_entries(info) for info in infos.flat]
    if left_out := sorted({key for _, keys in found for key in keys}):
        logger.warning(
            "The checkpoint holds no infos[%s] of steps that wait for those after them: only "
            "numbers, text, arrays, lists, tuples and dicts outlive a resume.",
            ", ".join(map(repr, left_out)),
        )
    return {"shape": list(infos.shape), "infos": [packed for packed, _ in found]}


def _unpacked(plain: Mapping[str, Any]) -> np.ndarray:
    infos = np.empty(len(plain["infos"]), object)
    infos[:] = [unpack_entries(packed) for packed in plain["infos"]]
    return infos.reshape(plain["shape"])
