"""What an algorithm is: its hyperparameters, and what workers and learner do with a policy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces

from rlrun.core import seeding
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError, RlrunError
from rlrun.core.networks import Model
from rlrun.core.policy import Policy
from rlrun.core.schedules import ScheduleLike, check_schedule_range, make_schedule

if TYPE_CHECKING:
    from rlrun.core.exploration import Exploration

Metrics = dict[str, dict[str, Any]]
"""Learner statistics by policy id."""

BatchMode = Literal["truncate_episodes", "complete_episodes"]


@dataclass(kw_only=True)
class Algorithm:
    """Base of all algorithms. Fields are hyperparameters, and conf/algo/<name>.yaml lists them.

    Before `setup` it is only these, and travels to workers, which call `make_policy` and
    `postprocess`. `setup` makes it a learner: in the driver it then owns optimiser and targets.
    """

    trainer_factory: ClassVar[Callable[..., Any] | None] = None
    """What `build` calls; rlrun.run, which is above, puts it here."""

    gamma: float = 0.99
    """Discount per env step."""
    lr: ScheduleLike = 3e-4
    """Adam step size, or a schedule over env steps."""
    train_batch_size: int = 256
    """Rows of one call of learn()."""
    rollout_fragment_length: int | Literal["auto"] = 200
    """Steps of each env that a worker samples before it reports; auto: what makes one round of
    all workers a train batch."""
    num_envs_per_worker: int = 1
    """Envs that each worker steps together."""
    batch_mode: BatchMode = "truncate_episodes"
    """Whether fragments may cut episodes, or hold whole ones only."""
    timesteps_per_iteration: int = 0
    """Least number of env steps of one training iteration (0: one round of the loop)."""

    def __post_init__(self) -> None:
        check_range("gamma", self.gamma, low=0.0, high=1.0)
        check_schedule_range("algo.lr", self.lr, low=0.0)
        for name in ("train_batch_size", "num_envs_per_worker"):
            check_range(name, getattr(self, name), low=1)
        if self.rollout_fragment_length != "auto":
            check_range("rollout_fragment_length", self.rollout_fragment_length, low=1)
        check_range("timesteps_per_iteration", self.timesteps_per_iteration, low=0)
        self.policy: Policy
        self.device = torch.device("cpu")
        self.rng = np.random.default_rng(0)
        self.timestep = 0
        """Env steps sampled so far, over all workers; the loop keeps it up to date."""
        self.num_rows_trained = 0
        self.on_learn_on_batch: Callable[..., None] | None = None
        self.lr_schedule = make_schedule(self.lr)

    def fragment_length(self, num_workers: int) -> int:
        """Steps of each env in one fragment, where `num_workers` workers (0: one) sample."""
        if self.rollout_fragment_length != "auto":
            return self.rollout_fragment_length
        num_envs = self.num_envs_per_worker * max(num_workers, 1)
        return -(-self.train_batch_size // num_envs)

    @property
    def lookahead_steps(self) -> int:
        """Steps after a row that its postprocessing must see (n - 1 for n-step returns)."""
        return 0

    @property
    def rollout_columns(self) -> tuple[str, ...]:
        """Columns beside the usual ones that postprocess or learn need: log_probs, dist_inputs, or
        extras of the policy such as values."""
        return ()

    @staticmethod
    def loop(algorithms: Mapping[str, Any], workers: Any) -> Metrics:
        """One round of sampling and learning: one of rlrun.algos.loops, or the user's own.

        Takes the algorithms by policy id and the worker set; returns metrics by policy id.
        """
        raise NotImplementedError

    def check_spaces(self, obs_space: spaces.Box, action_space: spaces.Space, env: str) -> None:
        """Raise SpaceError if the algorithm cannot act in the action space; `env` names the env."""

    def check_exploration(self, exploration: Exploration) -> None:
        """Raise ConfigError if the algorithm's policies cannot be explored in this way."""

    def check_model(self, model: Model) -> None:
        """Raise ConfigError if the model has a value that the algorithm would ignore."""

    def make_policy(
        self, obs_space: spaces.Box, action_space: spaces.Space, model: Model
    ) -> Policy:
        """A policy with fresh weights, from torch's global generator."""
        raise NotImplementedError

    def postprocess(self, policy: Policy, trajectory: Batch) -> Batch:
        """On the worker: columns [T, B, ...] -> columns that learn() needs, [T', B, ...].

        T' is T, less `lookahead_steps`. A row of which `valid` is False is dropped afterwards.
        """
        return trajectory

    def setup(self, policy: Policy, device: torch.device, seed: int) -> None:
        """Become a learner of `policy`, which is moved to `device`."""
        self.device = device
        self.policy = policy.to(device)
        self.rng = seeding.generator(seed, "learner")

    def learn(self, batch: Batch) -> dict[str, Any]:
        """Update the policy from a NumPy batch; returns learner statistics: numbers, or vectors
        of which mean, least and largest are reported."""
        raise NotImplementedError

    def learn_on_batch(self, batch: Batch) -> dict[str, Any]:
        """`learn`, with the hook on_learn_on_batch before it."""
        self.num_rows_trained += batch.num_rows
        if self.on_learn_on_batch is None:
            return self.learn(batch)
        custom_metrics: dict[str, Any] = {}
        self.on_learn_on_batch(policy=self.policy, train_batch=batch, result=custom_metrics)
        return self.learn(batch) | {"custom_metrics": custom_metrics}

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed learner needs: weights, optimiser, targets, generator."""
        return {
            "weights": self.policy.state_dict(),
            "rng": self.rng.bit_generator.state,
            "num_rows_trained": self.num_rows_trained,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.policy.set_weights(state["weights"])
        self.rng.bit_generator.state = state["rng"]
        self.num_rows_trained = int(state["num_rows_trained"])

    def build(self, env: str, overrides: list[str] | None = None, **settings: Any) -> Any:
        """A Trainer of this algorithm: DQN(lr=1e-3).build(env="CartPole-v1"); arguments as in
        `rlrun.make_trainer`. Raises ConfigError.

        Fields that have their default take the value that is tuned for the env, where there is one.
        """
        if Algorithm.trainer_factory is None:
            raise RlrunError(
                f"{type(self).__name__}.build needs rlrun.run, which nothing has imported yet. "
                f"Write `import rlrun.run`, or take the base class from the package: rlrun.DQN."
            )
        return Algorithm.trainer_factory(self, env, overrides, **settings)

    def unknown_metrics(self) -> dict[str, Any]:
        """What stands in results before the first learn(): its names with nan, where an algorithm
        samples for a while first."""
        return {}

    def stats(self) -> dict[str, Any]:
        """Numbers about the learner for each result, beside what learn() gives."""
        return {}


def check_range(
    name: str, value: float | None, *, low: float, high: float = float("inf"), key: str = "algo"
) -> None:
    """Raise ConfigError unless `value` is None or lies in [low, high]."""
    if value is not None and not (low <= value <= high and math.isfinite(value)):
        bounds = f"between {low:g} and {high:g}" if high < math.inf else f"at least {low:g}"
        bounds += ", and finite" if value == math.inf else ""
        raise ConfigError(f"{key}.{name}={value} must be {bounds}.")
