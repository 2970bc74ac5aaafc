"""Asynchronous advantage actor-critic (Mnih et al., 2016, arXiv:1602.01783)."""

from __future__ import annotations

from dataclasses import dataclass, field

from rlrun.algos import loops
from rlrun.algos.a2c import A2C


@dataclass(kw_only=True)
class A3C(A2C):
    """A2C whose workers compute the gradients (algorithm S3), each with weights of its own.

    The learner applies a gradient as soon as it arrives. Without remote workers it is A2C with one
    fragment an update. Each fragment is a train batch, so there is no `train_batch_size`, and
    `resources.num_workers` takes the place of the paper's threads. conf/algo/a3c.yaml lists the
    defaults.
    """

    train_batch_size: int = field(init=False, default=1)
    microbatch_size: int | None = field(init=False, default=None)
    rollout_fragment_length: int = 5
    """Steps of each env in a fragment, which gives one gradient (t_max of the paper, 5)."""
    num_envs_per_worker: int = 1

    learns_on_workers = True

    @property
    def age_columns(self) -> tuple[str, ...]:
        return ("sampled_at_update",)

    loop = staticmethod(loops.asynchronous_gradients)
