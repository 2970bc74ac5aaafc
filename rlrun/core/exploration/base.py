"""The contract of exploration classes; subclass it and name the subclass in YAML by import path."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from gymnasium import spaces

from rlrun.core.batch import Batch
from rlrun.core.distributions import Distribution

if TYPE_CHECKING:
    from rlrun.core.policy import Extras, Policy, Previous, State


def valid_steps(fragment: Batch) -> np.ndarray:
    """A mask [T, B] of the rows of a fragment that are steps."""
    valid = fragment.get("valid")
    return np.ones(fragment["rewards"].shape, bool) if valid is None else valid


class Acts(Protocol):
    """What may act in a policy's place."""

    def act(
        self, obs: np.ndarray, state: State | None, previous: Previous | None, explore: bool
    ) -> tuple[Distribution, Extras, State]:
        """As `Policy.act`."""
        ...


@dataclass(kw_only=True)
class Exploration:
    """Chooses actions from a policy's distribution. Fields are hyperparameters; each worker has
    its own copy, made by `for_worker`, with the worker's action space, index and generator.

    Beside the choice of actions there are hooks: `before_fragment`, `reset` where episodes end, and
    `postprocess`, which sees each fragment before the algorithm does, and may add to its rewards.
    """

    def for_worker(
        self,
        *,
        action_space: spaces.Space,
        rng: np.random.Generator,
        worker_index: int = 0,
        num_workers: int = 0,
        policy: Policy | None = None,
        natural: Exploration | None = None,
    ) -> Exploration:
        """A copy that serves one worker. `action_space` is in the policy's terms, as
        `ActionConverter.policy_space` gives it. `policy` is the acting one of a worker that gathers
        experience; None for evaluation and for users who look on, where nothing is learned.
        `natural` is the algorithm's own exploration. Raises SpaceError if it cannot handle the
        space, ConfigError if it cannot explore that policy."""
        mine = copy.copy(self)
        mine.action_space = action_space
        mine.rng = rng
        mine.worker_index = worker_index
        mine.num_workers = num_workers
        mine.check_space()
        return mine

    @property
    def rollout_columns(self) -> tuple[str, ...]:
        """Columns that `postprocess` needs beside obs, actions, rewards, terminated and truncated;
        see `Algorithm.rollout_columns`."""
        return ()

    @property
    def actor(self) -> Acts | None:
        """What acts in the policy's place; None: the policy itself."""
        return None

    @property
    def parts(self) -> list[Exploration]:
        """This one, and those given within it."""
        return [self]

    def __post_init__(self) -> None:
        self.action_space: spaces.Space = spaces.Space()
        self.rng: np.random.Generator = np.random.default_rng(0)
        self.worker_index = 0
        self.num_workers = 0

    def check_space(self) -> None:
        """Raise SpaceError if `self.action_space` is not one that this class explores."""

    def reset(self, envs: np.ndarray) -> None:
        """The episodes of the envs in the mask [N] have ended; what is carried from step to step
        begins anew."""

    def before_fragment(self) -> None:
        """The worker is about to sample a fragment, perhaps with new weights."""

    def postprocess(self, fragment: Batch, timestep: int) -> dict[str, Any]:
        """Look at a fragment [T, B, ...] of a worker that gathers experience, in which rewards may
        be changed (returns of episodes are counted before); `timestep` as at its start. Steps that
        the column `valid` [T, B] calls False are none. Returns numbers for the result."""
        return {}

    def get_exploration_action(
        self, action_dist: Distribution, timestep: int, explore: bool = True
    ) -> tuple[np.ndarray, np.ndarray]:
        """(actions [N, ...], log-probabilities [N]) for a distribution over N rows.

        The log-probabilities (of continuous actions: densities) are those with which this class
        drew, whatever the policy's are. `timestep` counts env steps over all workers, as far as
        this worker knows. With `explore` off the choice is certain, and its log-probability 0.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs beside the hyperparameters and the generator."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
