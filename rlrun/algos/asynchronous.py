"""What IMPALA and APPO have in common: a learner that takes rows as they come, however old."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from gymnasium import spaces

from rlrun.algos import loops
from rlrun.core import seeding
from rlrun.core.actor_critic import make_actor_critic
from rlrun.core.algorithm import Algorithm
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError
from rlrun.core.intake import Intake
from rlrun.core.networks import Model
from rlrun.core.optim import FlatOptimizer, FlatRMSProp
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_range, refuse_unused
from rlrun.core.schedules import ScheduleLike, check_schedule_range
from rlrun.core.threaded_learner import ThreadedLearner
from rlrun.core.vtrace import vtrace

METRICS = (
    *("total_loss", "policy_loss", "vf_loss", "vf_explained_var", "entropy", "entropy_coeff"),
    *("grad_norm", "cur_lr"),
    *("policy_lag_mean", "policy_lag_max", "learner_queue_size_mean", "learner_queue_size_max"),
)
"""What is reported of updates, by all heirs."""


@dataclass(kw_only=True)
class AsynchronousActorCritic(ThreadedLearner, Algorithm):
    """Base of actor-critics that learn in a thread while workers sample. An heir adds `loss`."""

    train_batch_size: int = 500
    """Least number of steps of one update; fragments are put together until they are as many."""
    rollout_fragment_length: int | Literal["auto"] = 50
    """Steps of each env that a worker samples before it reports; sequences are no longer."""
    timesteps_per_iteration: int = 10_000
    """Least number of env steps of one training iteration (0: one train batch)."""
    lr: ScheduleLike = 5e-4
    vf_coeff: float = 0.5
    """Weight of the value loss, the mean squared error."""
    entropy_coeff: ScheduleLike = 0.01
    """Weight of the entropy bonus, or a schedule."""
    grad_clip: float | None = 40.0
    opt_type: Literal["adam", "rmsprop"] = "adam"
    """Which optimiser; decay, momentum and epsilon are those of RMSProp."""
    decay: float = 0.99
    """How much of its mean squares RMSProp keeps at each step."""
    momentum: float = 0.0
    """How much of its last step RMSProp takes again."""
    epsilon: float = 0.1
    """What RMSProp adds to its mean squares."""
    vtrace_clip_rho_threshold: float = 1.0
    """Largest importance weight in value targets (rho-bar of eq. 1)."""
    vtrace_clip_pg_rho_threshold: float = 1.0
    """Largest importance weight of the policy gradient."""
    vtrace_clip_c_threshold: float = 1.0
    """Largest importance weight with which later steps count (c-bar of eq. 1)."""
    num_sgd_iter: int = 1
    """Updates from each train batch."""
    minibatch_buffer_size: int = 1
    """Train batches that the learner goes round while it learns `num_sgd_iter` times from each."""
    learner_queue_size: int = 16
    """Train batches that may wait for the learner; more, and gathering waits for it."""
    learner_queue_drops: bool = False
    """Whether what comes to a full queue is dropped, in place of waiting."""
    replay_proportion: float = 0.0
    """Share of old fragments in what is learned from, below 1."""
    replay_buffer_num_slots: int = 0
    """How many of the last fragments old ones are drawn from."""
    max_sample_requests_in_flight_per_worker: int = 2
    """Fragments that a worker is asked for at a time: with 2 it need not wait to be asked again."""
    broadcast_interval: int = 1
    """Updates after which a worker gets new weights, when it has brought a fragment."""

    learns_from_sequences: ClassVar[bool] = True
    built_in: ClassVar[frozenset[str]] = Algorithm.built_in | {
        "opt_type",
        "decay",
        "momentum",
        "epsilon",
        "train_batch_size",
        "num_sgd_iter",
        "minibatch_buffer_size",
        "learner_queue_size",
        "learner_queue_drops",
        "replay_proportion",
        "replay_buffer_num_slots",
    }
    rollout_columns = ("log_probs", "next_obs", "sampled_at_update")
    loop = staticmethod(loops.asynchronous)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_schedule_range("algo.entropy_coeff", self.entropy_coeff, low=0.0)
        for name in ("vf_coeff", "epsilon"):
            check_range(name, getattr(self, name), low=0.0)
        for name in ("decay", "momentum"):
            check_range(name, getattr(self, name), low=0.0, high=1.0)
        for name in ("rho", "pg_rho", "c"):
            key = f"vtrace_clip_{name}_threshold"
            check_range(key, getattr(self, key), low=0.0)
        for name in ("num_sgd_iter", "minibatch_buffer_size", "learner_queue_size"):
            check_range(name, getattr(self, name), low=1)
        for name in ("max_sample_requests_in_flight_per_worker", "broadcast_interval"):
            check_range(name, getattr(self, name), low=1)
        unused = {"adam": ("decay", "momentum", "epsilon"), "rmsprop": ("adam_epsilon",)}
        refuse_unused(self, unused[self.opt_type], f"algo.opt_type={self.opt_type}")
        check_range("replay_proportion", self.replay_proportion, low=0.0, high=0.99)
        check_range("replay_buffer_num_slots", self.replay_buffer_num_slots, low=0)
        if (self.replay_proportion > 0.0) != (self.replay_buffer_num_slots > 0):
            raise ConfigError(
                f"algo.replay_proportion={self.replay_proportion} and algo.replay_buffer_num_slots="
                f"{self.replay_buffer_num_slots} go together: both 0, or both above."
            )

    def make_policy(
        self, obs_space: spaces.Box, action_space: spaces.Space, model: Model
    ) -> Policy:
        return make_actor_critic(obs_space, action_space, model)

    def postprocess(self, policy: Policy, trajectory: Batch) -> Batch:
        """Drop what the loss does not read."""
        trajectory.require("next_obs", "log_probs", "rewards", "terminated")
        return Batch({name: trajectory[name] for name in trajectory if name != "truncated"})

    # The learner

    def setup(self, policy: Policy, device: torch.device, seed: int) -> None:
        super().setup(policy, device, seed)
        self.intake = Intake(
            train_batch_size=self.train_batch_size,
            queue_size=self.learner_queue_size,
            drops_when_full=self.learner_queue_drops,
            buffer_size=self.minibatch_buffer_size,
            num_passes=self.num_sgd_iter,
            replay_proportion=self.replay_proportion,
            replay_slots=self.replay_buffer_num_slots,
            rng=seeding.generator(seed, "intake"),
        )

    def make_optimizer(self) -> FlatOptimizer:
        if self.opt_type == "adam":
            return super().make_optimizer()
        return FlatRMSProp(
            self.policy.flat, decay=self.decay, momentum=self.momentum, eps=self.epsilon
        )

    def learn_on_batch(self, batch: Batch) -> None:
        # The same rows come again: what the hook makes of them is for one update.
        super().learn_on_batch(batch.copied() if self.on_learn_on_batch is not None else batch)

    def learn(self, rows: Batch) -> dict[str, Any]:
        queue_size = len(self.intake.line)
        return super().learn(rows) | {
            "entropy_coeff": self.scheduled("entropy_coeff"),
            "learner_queue_size_mean": queue_size,
            "learner_queue_size_max": queue_size,
        }

    def estimate(
        self,
        rows: Batch,
        values: torch.Tensor,
        log_ratios: torch.Tensor,
        trace_lambda: float = 1.0,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Value targets and advantages [S, L] by V-trace, from values [S, L + 1] and the ratios
        log pi / mu [S, L] of the policy that they are for."""
        return vtrace(
            log_ratios,
            rows["rewards"][:, :-1],
            values[:, :-1],
            values[:, 1:],
            rows["terminated"][:, :-1],
            rows["mask"][:, :-1],
            gamma=self.gamma,
            trace_lambda=trace_lambda,
            clip_rho=self.vtrace_clip_rho_threshold,
            clip_pg_rho=self.vtrace_clip_pg_rho_threshold,
            clip_c=self.vtrace_clip_c_threshold,
        )

    def stats(self) -> dict[str, Any]:
        return {**super().stats(), "num_rows_dropped": self.intake.num_rows_dropped}

    def unknown_metrics(self) -> dict[str, float]:
        return dict.fromkeys(METRICS, float("nan"))

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "intake": self.intake.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.intake.load_state_dict(state["intake"])
