"""What DQN, DDPG, SAC and their relatives share: transitions, replay, a target network."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from rlrun.algos import loops
from rlrun.core import returns, seeding
from rlrun.core.algorithm import Algorithm
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError, RlrunError, SpaceError
from rlrun.core.frames import FrameStorage
from rlrun.core.layout import layout_of
from rlrun.core.networks import Model
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_range, refuse_unused
from rlrun.core.replay import PrioritizedReplayBuffer, ReplayBuffer
from rlrun.core.replay_side import ReplaySide
from rlrun.core.schedules import ScheduleLike, check_schedule_range
from rlrun.core.storage import Disk, Memory, Storage
from rlrun.core.target import LEAST_TAU, Target

logger = logging.getLogger("rlrun")


@dataclass(kw_only=True)
class OffPolicy(Algorithm):
    """Base of algorithms that learn from replayed transitions against a target network. An heir
    adds `make_policy`, and `loss` or (with several losses) `update`, whose metrics have `td_error`,
    a vector [N]."""

    train_batch_size: int = 256
    """Rows of one update."""
    timesteps_per_iteration: int = 1000
    n_step: int = 1
    """Rewards that are summed before the bootstrap."""
    prioritized_replay: bool = False
    """Whether rows are sampled in proportion to their TD error (Schaul et al., 2016,
    arXiv:1511.05952)."""
    prioritized_replay_alpha: float = 0.5
    """Exponent of the priorities: 0 is uniform."""
    prioritized_replay_beta: ScheduleLike = 0.4
    """Exponent of the importance weights, or a schedule (the paper: from 0.4 to 1)."""
    prioritized_replay_eps: float = 1e-6
    """Added to every priority."""
    buffer_size: int = 1_000_000
    """Rows that the replay buffer holds."""
    replay_storage: Literal["memory", "memmap"] = "memory"
    """Where the rows lie: in memory, or in files that are mapped into it and may be larger."""
    replay_folder: str | None = None
    """Where these files are made, which vanish with the process; null: among temporary files."""
    replay_frames: bool | None = None
    """Whether each frame of observations that are images, or stacks of them, is stored once; null:
    where observations are images."""
    learning_starts: int = 1_500
    """Env steps before the first update."""
    training_intensity: float | None = None
    """Rows learned per row sampled; null: one update per round of fragments."""
    target_network_update_freq: int = 1
    """Updates of the learner between updates of the target network; env steps where tau is 1."""
    tau: float = 0.005
    """Share of the online weights in each update of the target network; 1 copies."""

    built_in: ClassVar[frozenset[str]] = Algorithm.built_in | {
        "gamma",  # Rows in replay hold its powers.
        "n_step",
        "prioritized_replay",
        "prioritized_replay_alpha",
        "prioritized_replay_eps",
        "buffer_size",
        "replay_storage",
        "replay_folder",
        "replay_frames",
    }
    model_fields: ClassVar[frozenset[str]] = frozenset()
    """What of the fields that all models share the policies look at."""

    learns_from_data: ClassVar[bool] = True
    replay_side: ClassVar[type[ReplaySide]] = ReplaySide

    loop = staticmethod(loops.replay)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_step", "buffer_size", "target_network_update_freq"):
            check_range(name, getattr(self, name), low=1)
        for name in ("learning_starts", "training_intensity"):
            check_range(name, getattr(self, name), low=0)
        check_range("prioritized_replay_alpha", self.prioritized_replay_alpha, low=0.0, high=1.0)
        check_range("tau", self.tau, low=LEAST_TAU, high=1.0)
        self._check_interval_is_of_tau()
        check_range("prioritized_replay_eps", self.prioritized_replay_eps, low=1e-12)
        check_schedule_range(
            "algo.prioritized_replay_beta", self.prioritized_replay_beta, low=0.0, high=1.0
        )
        if not self.prioritized_replay:
            # Beta stays: presets bring a schedule of it, and may be run without their parts.
            unused = ["prioritized_replay_alpha", "prioritized_replay_eps"]
            refuse_unused(self, unused, "algo.prioritized_replay=false")
        if self.buffer_size < self.train_batch_size:
            raise ConfigError(
                f"algo.buffer_size={self.buffer_size} is smaller than "
                f"algo.train_batch_size={self.train_batch_size}. Raise it."
            )
        if self.replay_folder is not None and self.replay_storage == "memory":
            raise ConfigError(
                f"algo.replay_folder={self.replay_folder} has no effect with "
                f"algo.replay_storage=memory. Use algo.replay_storage=memmap, or leave it null."
            )

    def _check_interval_is_of_tau(self) -> None:
        """Raise ConfigError if targets follow by updates, and the interval is one of env steps."""
        usual = type(self).target_network_update_freq
        is_usual = type(self).tau == 1.0 and self.target_network_update_freq == usual
        if is_usual and self.tau < 1.0:
            raise ConfigError(
                f"algo.target_network_update_freq={usual} is of env steps between copies "
                f"(algo.tau=1), and with algo.tau={self.tau} it counts updates of the learner. Set "
                f"it too, such as algo.target_network_update_freq=1."
            )

    @property
    def lookahead_steps(self) -> int:
        return self.n_step - 1

    @property
    def rollout_columns(self) -> tuple[str, ...]:
        return ("next_obs",)

    def check_model(self, model: Model) -> None:
        name = type(self).__name__
        if model.has_memory:
            raise ConfigError(
                f"{name} learns from single steps, and a policy with memory needs sequences. Use "
                f"a model without (model.use_lstm=false, or model=mlp in place of model=gtrxl), or "
                f"algo=ppo or algo=r2d2."
            )
        self.check_unused(model)

    def check_unused(self, model: Model) -> None:
        """Raise ConfigError if the model has a value that policies of this kind do not look at."""
        name = type(self).__name__
        for each in fields(Model):
            default, value = getattr(type(model), each.name), getattr(model, each.name)
            is_looked_at = each.name in self.model_fields | Algorithm.switches
            if value != default and not is_looked_at:
                raise ConfigError(
                    f"model.{each.name}={value} is for policies of another kind; those of {name} "
                    f"do not look at it. Leave it at {default}."
                )

    def postprocess(self, policy: Policy, trajectory: Batch) -> Batch:
        """n-step transitions: rewards summed, next_obs of the window's end, and `discounts`,
        the factor of the bootstrap (0 where the episode terminated)."""
        trajectory.require("obs", "actions", "rewards", "next_obs", "terminated", "truncated")
        if self.n_step == 1:
            columns = ("obs", "actions", "rewards", "next_obs")
            transitions = Batch({name: trajectory[name] for name in columns})
            transitions["discounts"] = np.float32(self.gamma) * ~trajectory["terminated"]
            return _with_next_actions(policy, transitions)
        rewards, last, discounts = returns.n_step_transitions(
            trajectory["rewards"],
            trajectory["terminated"],
            trajectory["truncated"],
            self.gamma,
            self.n_step,
        )
        envs = np.arange(rewards.shape[1])
        starts = slice(0, len(rewards))
        transitions = Batch(
            obs=trajectory["obs"][starts],
            actions=trajectory["actions"][starts],
            rewards=rewards,
            next_obs=trajectory["next_obs"][last, envs],
            discounts=discounts * ~trajectory["terminated"][last, envs],
        )
        return _with_next_actions(policy, transitions)

    def setup(self, policy: Policy, device: torch.device, seed: int) -> None:
        super().setup(policy, device, seed)
        if self.replay_storage == "memmap":
            Disk(self.replay_folder).require_folder()
        self.target = self.make_target()
        if self.tau < 1.0 and self.target_interval > 1:
            # A file of conf/tuned may bring the interval, and the user the rest.
            logger.warning(
                "algo.tau=%g and algo.target_network_update_freq=%d: the target takes over that "
                "share of the weights once in so many updates of the learner. Usual beside such a "
                "tau is algo.target_network_update_freq=1.",
                self.tau,
                self.target_interval,
            )
        self.replay = self.replay_side(
            self.make_buffer(seeding.generator(seed, "replay")),
            train_batch_size=self.train_batch_size,
            learning_starts=self.learning_starts,
            training_intensity=self.training_intensity,
            beta=self.schedule("prioritized_replay_beta"),
            num_steps=self.replayed_steps,
        )

    def make_target(self) -> Target:
        """What follows the policy, for the targets."""
        return Target(self.policy, interval=self.target_interval, tau=self.tau)

    @property
    def target_interval(self) -> int:
        """How much is counted (see `target_count`) between updates of the target."""
        return self.target_network_update_freq

    @property
    def replayed_steps(self) -> int | None:
        """Where replayed rows are sequences: their steps; shorter ones are padded."""
        return None

    @property
    def new_steps(self) -> int:
        """Env steps that a replayed row has and the one before has not."""
        return 1

    def make_buffer(self, rng: np.random.Generator) -> Any:
        """The buffer of the replay side."""
        storage = self.storage_maker()(self.buffer_size)
        if not self.prioritized_replay:
            return ReplayBuffer(self.buffer_size, rng, storage)
        return PrioritizedReplayBuffer(
            self.buffer_size,
            rng,
            storage,
            alpha=self.prioritized_replay_alpha,
            eps=self.prioritized_replay_eps,
        )

    def storage_maker(self) -> Callable[[int], Storage]:
        """What makes room for a number of rows; it may travel to other processes. Raises SpaceError
        if there are no frames to store once."""
        place = Disk(self.replay_folder) if self.replay_storage == "memmap" else Memory()
        space = self.policy.obs_space
        # Rows of nested observations are bytes and floats side by side.
        are_images = len(space.shape) in (2, 3) and layout_of(space) is None
        if self.replay_frames and not are_images:
            raise SpaceError(
                f"algo.replay_frames=true needs observations that are images, and nothing else; "
                f"these are {space}. Use algo.replay_frames=null."
            )
        if are_images and self.replay_frames is not False:
            # A step's colours are all new, of a stack one frame is.
            frames_a_step = 3 if len(space.shape) == 3 and space.shape[-1] == 3 else 1
            new_frames = self.new_steps * frames_a_step
            return partial(FrameStorage, shape=space.shape, place=place, new_frames=new_frames)
        return partial(Storage, place=place)

    def apply_hyperparameters(self) -> None:
        if not hasattr(self, "replay"):  # on a worker
            return
        if (self.tau == 1.0) != (self.target.tau == 1.0):
            self.target.last_update = self.target_count
        self.target.interval, self.target.tau = self.target_interval, self.tau
        self.replay.train_batch_size = self.train_batch_size
        self.replay.learning_starts = self.learning_starts
        self.replay.training_intensity = self.training_intensity
        self.replay.beta = self.schedule("prioritized_replay_beta")

    def on_weights_set(self) -> None:
        self.target.follow()

    def td_errors(self, rows: Batch) -> torch.Tensor:
        """What would become the priorities of rows of torch tensors, [N]."""
        with torch.no_grad():
            return self.loss(rows)[1]["td_error"]

    def learn(self, rows: Batch) -> dict[str, Any]:
        if self.tau != self.target.tau:  # Restored, and to go on with another.
            self.apply_hyperparameters()
        self.target.take_first_statistics()
        metrics = self.update(rows)
        self.replay.update_priorities(rows, metrics["td_error"])
        self.target.follow_if_due(self.target_count)
        return metrics

    @property
    def target_count(self) -> int:
        """What the target's interval is counted in, as it is now."""
        # Lillicrap et al. (2016) average after each update; Mnih et al. (2015) copy by env steps.
        return self.timestep if self.tau == 1.0 else self.num_updates

    def update(self, rows: Batch) -> dict[str, Any]:
        """One update of the policy; returns learner statistics."""
        return super().learn(rows)

    def stats(self) -> dict[str, Any]:
        return {
            "num_target_updates": self.target.num_updates,
            "last_target_update_ts": self.target.last_update,
            "replay_buffer": self.replay.buffer.stats(),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "target": self.target.state_dict(),
            "tau": self.tau,
            "replay": self.replay.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.target.load_state_dict(state["target"])
        # That of the interval under way, whatever is asked for from now on.
        self.target.tau = state["tau"]
        self.replay.load_state_dict(state["replay"])


def _with_next_actions(policy: Policy, transitions: Batch) -> Batch:
    """The same transitions, checked."""
    check_next_actions(policy, transitions["next_obs"], transitions["discounts"] > 0.0)
    return transitions


def check_next_actions(policy: Policy, next_obs: np.ndarray, is_bootstrapped: np.ndarray) -> None:
    """Raise RlrunError if a step [...] is to be bootstrapped from a state next_obs [..., *shape] in
    which no action may be taken, whose value nobody can tell."""
    mask = getattr(policy, "action_mask", None)
    if mask is not None and (is_bootstrapped & ~mask.allows_any(next_obs)).any():
        raise RlrunError(
            "The env's action_mask allows no action in a state that it does not call terminal "
            "(a truncated episode's last one counts too). Only where an episode terminates may "
            "it be all zeros."
        )
