"""What an algorithm is: its hyperparameters, and what workers and learner do with a policy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces

from rlrun.core import finite, seeding
from rlrun.core.batch import Batch
from rlrun.core.callbacks import Callbacks, call
from rlrun.core.denormals import denormals_flushed
from rlrun.core.errors import ConfigError, RlrunError
from rlrun.core.exploration import Exploration, StochasticSampling
from rlrun.core.filters import RunningMoments
from rlrun.core.learner_stats import LearnerStats, policy_lag
from rlrun.core.metrics import Timers
from rlrun.core.networks import Model
from rlrun.core.optim import FlatAdam, FlatOptimizer
from rlrun.core.policy import Policy
from rlrun.core.process import require_compiler
from rlrun.core.ranges import check_range
from rlrun.core.room import require_room
from rlrun.core.schedules import Schedule, ScheduleLike, check_schedule_range, make_schedule

if TYPE_CHECKING:
    from rlrun.core.resources import Resources

BatchMode = Literal["truncate_episodes", "complete_episodes"]


def _at_the_start() -> int:
    return 0


@dataclass(kw_only=True)
class Algorithm:
    """Base of all algorithms. Fields are hyperparameters, and conf/algo/<name>.yaml lists them.

    Before `setup` it is only these, and travels to workers, which call `make_policy` and
    `postprocess`. `setup` makes it a learner: in the driver it then owns optimiser and targets.
    Most algorithms only add a `loss`. A living learner's hyperparameters change by
    `set_hyperparameters` alone.
    """

    trainer_factory: ClassVar[Callable[..., Any] | None] = None
    """What `build` calls; rlrun.python_api, which is above, puts it here."""

    gamma: float = 0.99
    """Discount per env step."""
    lr: ScheduleLike = 3e-4
    """Adam step size, or a schedule over env steps."""
    grad_clip: float | None = None
    """Largest L2 norm of the gradient; null: unbounded."""
    adam_epsilon: float = 1e-8
    """Adam's epsilon."""
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

    built_in: ClassVar[frozenset[str]] = frozenset(
        {"adam_epsilon", "rollout_fragment_length", "num_envs_per_worker", "batch_mode"}
    )
    """Hyperparameters with which something is built, so that they cannot change later."""

    learns_from_sequences: ClassVar[bool] = False
    """Whether rows are sequences also where the policy has no memory: of up to a fragment's length
    (policy.max_seq_len with memory), within one episode, with one step behind the last that holds
    the real next observation. It needs the column next_obs, which rows then do not have."""
    learns_on_workers: ClassVar[bool] = False
    """Whether workers send the gradients of their fragments in place of rows, which must have
    sampled_at_update."""
    learns_from_data: ClassVar[bool] = False
    """Whether it can learn from what another policy did (input=PATH)."""
    needs_data: ClassVar[bool] = False
    """Whether it learns from nothing else."""
    switches: ClassVar[frozenset[str]] = frozenset({"compile", "amp"})
    """Which of the model's switches for speed the learner has: `amp` needs one `loss` from which
    all gradients come, `compile` needs gradients."""
    samples_fragments: ClassVar[bool] = True
    """Whether workers sample fragments for it, which output=DIR writes."""

    def __post_init__(self) -> None:
        check_range("gamma", self.gamma, low=0.0, high=1.0)
        check_schedule_range("algo.lr", self.lr, low=0.0)
        check_range("grad_clip", self.grad_clip, low=0.0)
        check_range("adam_epsilon", self.adam_epsilon, low=0.0)
        for name in ("train_batch_size", "num_envs_per_worker"):
            check_range(name, getattr(self, name), low=1)
        if self.rollout_fragment_length != "auto":
            check_range("rollout_fragment_length", self.rollout_fragment_length, low=1)
        check_range("timesteps_per_iteration", self.timesteps_per_iteration, low=0)
        self.policy: Policy
        self.optimizer: FlatOptimizer
        self.device = torch.device("cpu")
        self.rng = np.random.default_rng(0)
        self.clock: Callable[[], int] = _at_the_start
        self.num_updates = 0
        self.num_rows_trained = 0
        self.timers = Timers()
        self.learner_stats = LearnerStats()
        self.custom_stats = LearnerStats()
        self.on_learn_on_batch: Callable[..., None] | None = None
        self.changes: dict[str, Any] = {}
        """Hyperparameters that were set while it learns, with their present values."""
        self._schedules: dict[str, tuple[Any, Schedule]] = {}
        self._is_complete = True

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.__dataclass_fields__ and "_is_complete" in self.__dict__:
            raise AttributeError(
                f"algo.{name} cannot be assigned: workers and schedules would keep the old value. "
                f"Use trainer.set_hyperparameters({name}={value!r})."
            )
        object.__setattr__(self, name, value)

    # What it is

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
    def overlapping_steps(self) -> int:
        """Where rows are sequences: how many first steps each shares with the one before it in its
        episode."""
        return 0

    @property
    def rollout_columns(self) -> tuple[str, ...]:
        """Columns beside obs, actions, rewards, terminated and truncated that postprocess or learn
        need: next_obs (the real one, also at an episode's end), log_probs, dist_inputs, next_values
        (the policy's value of the state after each step), sampled_at_update (how many updates the
        weights had seen that acted; `learn` reports their policy lag), or extras of the policy such
        as values.
        """
        return ()

    @property
    def age_columns(self) -> tuple[str, ...]:
        """What tells how old steps are, for algorithms whose rows should be of the newest weights
        and which nothing corrects where they are not: in episodes that are under way at an update.
        """
        return ("sampled_at_update",) if self.batch_mode == "complete_episodes" else ()

    @staticmethod
    def loop(algorithms: Mapping[str, Any], workers: Any) -> None:
        """One round of sampling and learning: one of rlrun.algos.loops, or the user's own.

        Takes the algorithms by policy id and the worker set.
        """
        raise NotImplementedError

    @staticmethod
    def end_iteration(algorithms: Mapping[str, Any], workers: Any) -> None:
        """What follows the last round of an iteration, also where it is interrupted; before anybody
        looks at the learners."""

    def check_spaces(self, obs_space: spaces.Box, action_space: spaces.Space, env: str) -> None:
        """Raise SpaceError if the algorithm cannot act in the action space; `env` names the env."""

    def check_exploration(self, exploration: Exploration) -> None:
        """Raise ConfigError if the algorithm's policies cannot be explored in this way."""

    def check_explores(self, exploration: Exploration) -> None:
        """Raise ConfigError if a run that samples from envs would only ever take the best action
        with it."""

    def natural_exploration(self) -> Exploration:
        """What chooses actions where an exploration asks for another to do so, and none is
        given."""
        return StochasticSampling()

    def check_model(self, model: Model) -> None:
        """Raise ConfigError if the model has a value that the algorithm would ignore."""

    def check_switches(self, model: Model) -> None:
        """Raise ConfigError if the model has a switch for speed that the learner has not."""
        for name in ("compile", "amp"):
            if getattr(model, name) and name not in self.switches:
                raise ConfigError(
                    f"model.{name}=true: {type(self).__name__} cannot learn in this way. Use "
                    f"model.{name}=false."
                )

    def check_resources(self, resources: Resources) -> None:
        """Raise ConfigError if the algorithm would leave something unused."""

    def connect(self, workers: Any) -> None:
        """The learner and its workers are there: start what they need beside them."""

    @property
    def num_shards(self) -> int:
        """Processes of its own that the learner's replay takes, if workers are remote."""
        return 0

    # On the workers

    def make_policy(
        self, obs_space: spaces.Box, action_space: spaces.Space, model: Model
    ) -> Policy:
        """A policy with fresh weights, from torch's global generator."""
        raise NotImplementedError

    def postprocess(self, policy: Policy, trajectory: Batch) -> Batch:
        """On the worker: columns [T, B, ...] -> columns that learn() needs, [T', B, ...].

        T' is T, less `lookahead_steps`.
        """
        return trajectory

    # The learner

    def setup(self, policy: Policy, device: torch.device, seed: int) -> None:
        """Become a learner of `policy`, which is moved to `device`."""
        self.device = device
        self.policy = policy.to(device)
        if policy.wants_compile:
            require_compiler(device)
            policy.compile_layers()
        self.optimizer = self.make_optimizer()
        self.rng = seeding.generator(seed, "learner")

    def make_learner(
        self,
        policy: Policy,
        device: torch.device,
        seed: int,
        clock: Callable[[], int],
        callbacks: Callbacks,
    ) -> Algorithm:
        """A learner of `policy` with these hyperparameters, which stay a bundle of them."""
        if device.type == "cpu":
            num_bytes = sum(parameter.nbytes for parameter in policy.parameters())
            what = f"Learning a policy of {num_bytes / 1e9:,.1f} GB (vector, gradient, two moments)"
            require_room(4 * num_bytes, what)
        learner = replace(self)
        learner.setup(policy, device, seed)
        learner.clock = clock
        if callbacks.overrides("on_learn_on_batch"):
            learner.on_learn_on_batch = partial(call, callbacks, "on_learn_on_batch")
        return learner

    def make_optimizer(self) -> FlatOptimizer:
        """The optimiser of `policy`."""
        return FlatAdam(self.policy.flat, eps=self.adam_epsilon)

    @property
    def timestep(self) -> int:
        """Env steps sampled so far, over all workers."""
        return self.clock()

    def scheduled(self, name: str) -> float:
        """The value now of the hyperparameter `name`, which may be a schedule over env steps."""
        return self.schedule(name)(self.timestep)

    def schedule(self, name: str) -> Schedule:
        """The hyperparameter `name` as a schedule over env steps."""
        value = getattr(self, name)
        known = self._schedules.get(name)
        if known is None or known[0] is not value:
            self._schedules[name] = known = (value, make_schedule(value))
        return known[1]

    def set_hyperparameters(self, **values: Any) -> None:
        """Change hyperparameters of a living learner or worker. Raises ConfigError if one is
        unknown, out of range, or one with which something was built."""
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        for name in values:
            if name not in known or name in self.built_in:
                changeable = ", ".join(sorted(known.keys() - self.built_in))
                what = "is built in" if name in known else "does not exist"
                raise ConfigError(f"algo.{name} {what}. What can change in a run: {changeable}.")
        type(self)(**(known | values))
        for name, value in values.items():
            object.__setattr__(self, name, value)
        self.changes |= values
        self.apply_hyperparameters()

    def apply_hyperparameters(self) -> None:
        """Hand hyperparameters on to the parts that the learner holds; called after
        each change."""

    def learn_on_batch(self, batch: Batch) -> None:
        """One call of `learn` on a NumPy batch, with the hook on_learn_on_batch before it."""
        self.num_rows_trained += batch.num_steps
        if self.on_learn_on_batch is not None:
            self.custom_stats.add(self.run_hook(batch))
        if finite.is_checked_everywhere:
            finite.require_columns(batch, f"The train batch of update {self.num_updates + 1}")
        started = time.perf_counter()
        rows = batch.to(self.device)
        self.timers.add("to_device", started)
        started = time.perf_counter()
        with denormals_flushed():
            self.learner_stats.add(self.learn(rows))
        self.timers.add("learn", started)

    def run_hook(self, batch: Batch) -> dict[str, Any]:
        """Call on_learn_on_batch, if there is one; returns its custom metrics."""
        custom_metrics: dict[str, Any] = {}
        if self.on_learn_on_batch is not None:
            self.on_learn_on_batch(policy=self.policy, train_batch=batch, result=custom_metrics)
        return custom_metrics

    def learn(self, rows: Batch) -> dict[str, Any]:
        """Update the policy from rows of torch tensors on the learner's device; returns learner
        statistics: numbers, or vectors of which mean, least and largest are reported."""
        lag = {}
        if "sampled_at_update" in rows:
            lag = policy_lag(self.num_updates, rows.real(rows["sampled_at_update"]))
        return self.compute_gradients(rows) | self.apply_gradients() | lag

    def compute_gradients(self, rows: Batch) -> dict[str, Any]:
        """Put the gradient of `loss` into `policy.flat.grad`; returns learner statistics."""
        loss, metrics = self.loss_of(rows)
        self.optimizer.compute_gradients(loss)
        return {"total_loss": loss.detach(), **metrics}

    def apply_gradients(self) -> dict[str, Any]:
        """One optimiser step along `policy.flat.grad`; returns learner statistics."""
        self.num_updates += 1
        lr = self.scheduled("lr")
        return {"grad_norm": self.optimizer.apply_gradients(lr, self.grad_clip), "cur_lr": lr}

    def loss_of(self, rows: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        """What `loss` gives, in bfloat16 where `model.amp` asks for it."""
        if not self.policy.uses_amp:
            return self.loss(rows)
        with torch.autocast(self.device.type, torch.bfloat16):
            loss, metrics = self.loss(rows)
        return loss.float(), {
            name: each.float() if isinstance(each, torch.Tensor) else each
            for name, each in metrics.items()
        }

    def loss(self, rows: Batch) -> tuple[torch.Tensor, dict[str, Any]]:
        """The loss (a scalar) of rows of torch tensors, and learner statistics."""
        raise NotImplementedError

    # What others see of the learner

    @property
    def num_updates_to_give(self) -> int:
        """How many updates the weights have seen that `give_weights` gives."""
        return self.num_updates

    def give_weights(self, policy: Policy) -> int:
        """Give an acting policy the weights; returns how many updates they have seen."""
        policy.copy_weights(self.policy)
        return self.num_updates

    def count(self, gathered: RunningMoments) -> None:
        """Count what workers' filters gathered, before the next update."""
        self.policy.observation_filter.merge(gathered)

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed learner needs: weights, optimiser, targets, generator."""
        return {
            "weights": self.policy.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": self.rng.bit_generator.state,
            "num_updates": self.num_updates,
            "num_rows_trained": self.num_rows_trained,
            "changes": self.changes,
            "learner_stats": self.learner_stats.state_dict(),
            "custom_stats": self.custom_stats.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave, but for `changes`, which the trainer sets everywhere."""
        self.policy.set_weights(state["weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.bit_generator.state = state["rng"]
        self.num_updates = int(state["num_updates"])
        self.num_rows_trained = int(state["num_rows_trained"])
        self.learner_stats.load_state_dict(state["learner_stats"])
        self.custom_stats.load_state_dict(state["custom_stats"])

    @property
    def is_up_to_date(self) -> bool:
        """Whether the driver's learner knows all that was learned, so that it can be saved."""
        return True

    def on_weights_set(self) -> None:
        """The user has given the policy other weights: whatever is derived from them follows."""

    def build(self, env: str | type, overrides: list[str] | None = None, **settings: Any) -> Any:
        """A Trainer of this algorithm: DQN(lr=1e-3).build(env="CartPole-v1"); arguments as in
        `rlrun.make_trainer`. Raises ConfigError.

        Fields that have their default take the value that is tuned for the env, where there is one.
        """
        if Algorithm.trainer_factory is None:
            raise RlrunError(
                f"{type(self).__name__}.build needs rlrun.python_api, which nothing has imported "
                f"yet. Import it, or take the base class from the package: rlrun.DQN."
            )
        return Algorithm.trainer_factory(self, env, overrides, **settings)

    def unknown_metrics(self) -> dict[str, float]:
        """What stands in results before the first learn(): its names with nan, where an algorithm
        samples for a while first."""
        return {}

    def stats(self) -> dict[str, Any]:
        """Numbers about the learner for each result, beside what learn() gives."""
        return {}
