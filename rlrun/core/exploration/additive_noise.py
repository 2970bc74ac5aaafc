"""What explorations have in common that add noise to continuous actions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from gymnasium import spaces

from rlrun.core.actions import Simplex
from rlrun.core.distributions import Distribution, is_float_vector
from rlrun.core.errors import SpaceError
from rlrun.core.exploration.base import Exploration
from rlrun.core.exploration.random_actions import random_actions
from rlrun.core.ranges import check_not_negative
from rlrun.core.schedules import ScheduleLike, check_schedule_range, make_schedule


@dataclass(kw_only=True)
class AdditiveNoise(Exploration):
    """The policy's mode with noise on it, clipped to the bounds. An heir draws the noise.

    The noise is scaled by `initial_scale`, which falls linearly to `final_scale` within
    `scale_timesteps` from the end of `random_timesteps` on. It is in the policy's terms, where a
    bounded dimension reaches from -1 to 1 (env.normalize_actions). Log-densities are those of the
    actions before they are clipped.
    """

    random_timesteps: int = 1000
    """Env steps at the start of training with random actions instead (see `random_actions`)."""
    initial_scale: float = 1.0
    """What noise is multiplied by at first, after the random actions."""
    final_scale: float = 0.02
    """And in the end."""
    scale_timesteps: int = 10_000
    """Env steps that the fall takes, which begins after the random actions."""
    scale_schedule: ScheduleLike | None = None
    """A schedule of the scale, from the first env step on, that replaces the three values above."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(
            self, "random_timesteps", "initial_scale", "final_scale", "scale_timesteps"
        )
        if self.scale_schedule is not None:
            check_schedule_range("exploration.scale_schedule", self.scale_schedule, low=0.0)
            self._scale = make_schedule(self.scale_schedule)
        else:
            start = self.random_timesteps
            end = start + max(self.scale_timesteps, 1)
            self._scale = make_schedule([[start, self.initial_scale], [end, self.final_scale]])

    def check_space(self) -> None:
        space = self.action_space
        if isinstance(space, Simplex) or not is_float_vector(space):
            raise SpaceError(
                f"{type(self).__name__} adds noise to continuous actions, and the action space (in "
                f"the policy's terms) is {space}. Try exploration=epsilon_greedy for policies that "
                f"value discrete actions, else exploration=stochastic_sampling."
            )

    def scale(self, timestep: int, num_rows: int) -> np.ndarray | float:
        """What the noise of each row is multiplied by at `timestep`: a number, or [N, 1]."""
        return self._scale(timestep)

    def draw(self, num_rows: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Noise [N, d] before it is scaled, and the log-density of each row's draw [N]."""
        raise NotImplementedError

    def get_exploration_action(
        self, action_dist: Distribution, timestep: int, explore: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        modes = action_dist.mode()
        if not explore:
            return modes, np.zeros(len(modes), np.float32)
        if timestep < self.random_timesteps:
            return random_actions(self.action_space, action_dist, self.rng)
        num_rows, width = modes.shape
        scale = self.scale(timestep, num_rows)
        noise, log_probs = self.draw(num_rows, width)
        scales = np.broadcast_to(np.asarray(scale, np.float32).reshape(-1), num_rows)
        # Where the scale is 0 the mode is certain.
        is_noisy = scales > 0.0
        log_scales = np.log(scales, where=is_noisy, out=np.zeros(num_rows, np.float32))
        assert isinstance(self.action_space, spaces.Box)
        actions = np.clip(modes + scale * noise, self.action_space.low, self.action_space.high)
        log_probs = np.where(is_noisy, log_probs - width * log_scales, 0.0)
        return actions.astype(np.float32), log_probs.astype(np.float32)
