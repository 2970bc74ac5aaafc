"""What feeds a worker with experience: an env sampler, an offline reader, later a policy server."""

from __future__ import annotations

import math
from typing import Any, Protocol

from rlrun.core.batch import Batch
from rlrun.core.episode import EpisodeReport


class Input(Protocol):
    """Gives trajectories of one policy id, and says what it saw on the way."""

    def sample(
        self,
        num_steps: int,
        timestep: int,
        explore: bool,
        *,
        ends_with_episode: bool = False,
        max_s: float = math.inf,
    ) -> Batch | None:
        """`num_steps` steps of every env as columns [T, B, ...]; `valid` [T, B], where it is there,
        marks the rows that are no step of an episode. None if that takes longer than `max_s`
        seconds: the next call goes on with it.

        `ends_with_episode`: fewer steps, if an episode of the policy that acts ends before; it is
        asked for where there is one env.
        """
        ...

    @property
    def is_midway(self) -> bool:
        """Whether the last call of `sample` has left something unfinished."""
        ...

    def take_finished(self) -> list[EpisodeReport]:
        """Reports of the episodes that ended since the last call."""
        ...

    def take_seconds(self) -> tuple[dict[str, float], int]:
        """(seconds by phase, vector steps) since the last call."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed input needs."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Put back what `state_dict` gave. Returns the mask [B] of envs whose running episode could
        not be brought back."""
        ...

    def close(self) -> None:
        """Release envs, files and connections."""
        ...
