"""What explorations have in common that leave the choice of actions to another one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rlrun.core.batch import Batch
from rlrun.core.distributions import Distribution
from rlrun.core.exploration.additive_noise import AdditiveNoise
from rlrun.core.exploration.base import Acts, Exploration
from rlrun.core.exploration.random_actions import random_actions
from rlrun.core.exploration.stochastic_sampling import StochasticSampling
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_not_negative


@dataclass(kw_only=True)
class NestedExploration(Exploration):
    """Base of those that change the policy, or its rewards. Where nothing is gathered (evaluation,
    `compute_action`) they do what `sub_exploration` does. Heirs begin their work in `set_up`."""

    sub_exploration: Exploration | None = None
    """What chooses actions, a node like those of the group exploration; null: what the algorithm
    explores by on its own."""
    random_timesteps: int = 0
    """Env steps at the start of training with random actions instead (see `random_actions`)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "random_timesteps")
        self.sub: Exploration
        """The worker's copy of `sub_exploration`."""
        self.natural: Exploration
        """What the algorithm explores by on its own; there only without `sub_exploration`."""
        self.policy: Policy | None = None
        """The acting policy; None where no experience is gathered."""

    def for_worker(self, **given: Any) -> Exploration:
        mine = super().for_worker(**given)
        assert isinstance(mine, NestedExploration)
        if self.sub_exploration is not None:
            mine.sub = self.sub_exploration.for_worker(**given)
        else:
            natural = given.get("natural") or StochasticSampling()
            if isinstance(natural, AdditiveNoise):
                # Its noise falls from where there is some.
                start = max(natural.random_timesteps, self.random_timesteps)
                natural = replace(natural, random_timesteps=start)
            mine.natural = natural.for_worker(**given)
            mine.sub = mine.usual().for_worker(**given)
        mine.policy = given.get("policy")
        if mine.policy is not None:
            mine.set_up(mine.policy)
        return mine

    def usual(self) -> Exploration:
        """What chooses actions where no `sub_exploration` is given."""
        return self.natural

    def set_up(self, policy: Policy) -> None:
        """Make what gathering experience with `policy` takes. Raises ConfigError, SpaceError."""

    @property
    def parts(self) -> list[Exploration]:
        within = [] if self.sub_exploration is None else self.sub_exploration.parts
        return [self, *within]

    @property
    def rollout_columns(self) -> tuple[str, ...]:
        return self.sub.rollout_columns

    @property
    def actor(self) -> Acts | None:
        return self.sub.actor

    def reset(self, envs: np.ndarray) -> None:
        self.sub.reset(envs)

    def before_fragment(self) -> None:
        self.sub.before_fragment()

    def postprocess(self, fragment: Batch, timestep: int) -> dict[str, Any]:
        return self.sub.postprocess(fragment, timestep)

    def get_exploration_action(
        self, action_dist: Distribution, timestep: int, explore: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        if explore and timestep < self.random_timesteps:
            return random_actions(self.action_space, action_dist, self.rng)
        return self.sub.get_exploration_action(action_dist, timestep, explore)

    def state_dict(self) -> dict[str, Any]:
        return {"sub": self.sub.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sub.load_state_dict(state["sub"])
