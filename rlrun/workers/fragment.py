"""A fragment while it is being sampled: it may be gone on with later, also after a resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError
from rlrun.core.policy import Previous, State
from rlrun.workers.cutters import as_batch, as_plain


@dataclass(frozen=True)
class Cut:
    """A truncated step, and what its state's value is computed from; arrays have one row."""

    step: int
    env: int
    obs: np.ndarray
    state: State
    previous: Previous | None

    @classmethod
    def at(
        cls, step: int, env: int, obs: np.ndarray, state: State, previous: Previous | None
    ) -> Cut:
        """The cut of one env, out of what all envs [B, ...] have after the step."""
        rows = slice(env, env + 1)
        return cls(
            step,
            env,
            obs[rows].copy(),
            {name: part[rows].copy() for name, part in state.items()},
            previous and Previous(previous.actions[rows].copy(), previous.rewards[rows].copy()),
        )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        previous = self.previous
        return {
            **vars(self),
            "previous": None if previous is None else [previous.actions, previous.rewards],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Cut:
        """What `state_dict` was of."""
        previous = state["previous"]
        return cls(**{**state, "previous": None if previous is None else Previous(*previous)})


@dataclass
class Fragment:
    """Columns [T, B, ...], allocated at their first row; float64 becomes float32."""

    num_steps: int
    """How many it is to have."""
    timestep: int
    """Env steps of all workers before it."""
    ends_with_episode: bool = False
    """Whether it is whole as soon as the episode of the first env ends."""
    num_done: int = 0
    """Steps that it has."""
    columns: Batch = field(default_factory=Batch)
    cuts: list[Cut] = field(default_factory=list)
    _is_restored: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it has all its steps."""
        return self.num_done >= self.num_steps

    def put(self, row: Mapping[str, np.ndarray]) -> None:
        """Copy the arrays [B, ...] of the next step."""
        if not self.num_done:
            self._allocate(row)
        elif self._is_restored:
            self._check_names(row)
        columns, step = self.columns, self.num_done
        for name, part in row.items():
            columns[name][step] = part
        self.num_done += 1
        if self.ends_with_episode and (row["terminated"][0] or row["truncated"][0]):
            self._end()

    def cut_off(self, envs: np.ndarray, obs: np.ndarray, state: State, previous: Any) -> list[int]:
        """The running episodes of the envs in the mask [B] do not go on after the last step, behind
        which come `obs`, `state` and `previous`, [B, ...]. Returns the envs that had such."""
        last = self.num_done - 1
        columns = self.columns
        is_running = ~(columns["terminated"][last] | columns["truncated"][last])
        if "valid" in columns:
            is_running &= columns["valid"][last]
        found = [int(env) for env in np.flatnonzero(envs & is_running)]
        columns["truncated"][last, found] = True
        if self.ends_with_episode and 0 in found:
            self._end()
        self.cuts += [Cut.at(last, env, obs, state, previous) for env in found]
        return found

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return {
            "num_steps": self.num_steps,
            "timestep": self.timestep,
            "ends_with_episode": self.ends_with_episode,
            "columns": as_plain(self.columns.take(slice(self.num_done)).copied()),
            "cuts": [cut.state_dict() for cut in self.cuts],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Fragment:
        """What `state_dict` was of."""
        done = as_batch(state["columns"])
        found = cls(
            int(state["num_steps"]),
            int(state["timestep"]),
            bool(state["ends_with_episode"]),
            num_done=done.num_rows,
            cuts=[Cut.from_state(cut) for cut in state["cuts"]],
            _is_restored=True,
        )
        found._allocate({name: column[0] for name, column in done.items()})
        for name, column in done.items():
            found.columns[name][: done.num_rows] = column
        return found

    def _allocate(self, row: Mapping[str, np.ndarray]) -> None:
        for name, part in row.items():
            dtype = np.float32 if part.dtype == np.float64 else part.dtype
            self.columns[name] = np.empty((self.num_steps, *part.shape), dtype)

    def _end(self) -> None:
        """It is whole with the steps that it has."""
        self.num_steps = self.num_done
        self.columns = self.columns.take(slice(self.num_done))

    def _check_names(self, row: Mapping[str, np.ndarray]) -> None:
        if row.keys() != self.columns.keys():
            raise ConfigError(
                f"The checkpoint was made in the middle of a fragment, whose steps have "
                f"{', '.join(sorted(self.columns))}; the algorithm, exploration and callbacks of "
                f"this run ask for {', '.join(sorted(row))}. Go on with those that the checkpoint "
                f"is of, or from an earlier one."
            )
        self._is_restored = False
