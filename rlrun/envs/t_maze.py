"""The T-maze: what was seen at the entrance tells which way to turn at the far end."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import gymnasium as gym
from gymnasium import spaces


class Sight(IntEnum):
    """What is to be seen."""

    CORRIDOR = 0
    LEFT_SIGN = 1
    RIGHT_SIGN = 2
    JUNCTION = 3


class Move(IntEnum):
    """What can be done."""

    WALK = 0
    TURN_LEFT = 1
    TURN_RIGHT = 2


class TMaze(gym.Env):
    """A corridor with a sign at its entrance and a junction at its end (Bakker, 2002, NeurIPS 14,
    sec. 4.1).

    Observations: Discrete(4), see `Sight`; the sign is seen in the first step alone. Actions:
    Discrete(3), see `Move`. It takes `corridor_length` steps to the junction; there, a turn to the
    side of the sign gives 1, to the other -1, and ends the episode. A turn in the corridor and a
    step against the junction's wall go nowhere and cost 0.1. An episode is truncated after four
    times the steps that the way takes. The optimal return is 1; without memory of the sign the
    best is 0 on average.
    """

    def __init__(self, corridor_length: int = 10) -> None:
        if corridor_length < 1:
            raise ValueError(f"corridor_length={corridor_length} must be at least 1.")
        self.observation_space = spaces.Discrete(len(Sight))
        self.action_space = spaces.Discrete(len(Move))
        self.corridor_length = corridor_length
        self.sign = Sight.LEFT_SIGN
        self.place = 0
        self.num_steps = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed)
        self.sign = Sight(int(self.np_random.choice([Sight.LEFT_SIGN, Sight.RIGHT_SIGN])))
        self.place = self.num_steps = 0
        return int(self.sign), {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        move = Move(int(action))
        self.num_steps += 1
        truncated = self.num_steps >= 4 * (self.corridor_length + 1)
        is_at_junction = self.place == self.corridor_length
        if is_at_junction and move is not Move.WALK:
            is_right = (move is Move.TURN_LEFT) == (self.sign is Sight.LEFT_SIGN)
            return int(Sight.JUNCTION), 1.0 if is_right else -1.0, True, False, {}
        if move is Move.WALK and not is_at_junction:
            self.place += 1
            return self._sight(), 0.0, False, truncated, {}
        return self._sight(), -0.1, False, truncated, {}

    def _sight(self) -> int:
        at_end = self.place == self.corridor_length
        return int(Sight.JUNCTION if at_end else Sight.CORRIDOR)
