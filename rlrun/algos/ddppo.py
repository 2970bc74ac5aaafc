"""Decentralised distributed PPO (DD-PPO; Wijmans et al., 2020, arXiv:1911.00357)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from rlrun.algos import loops, peer_learning
from rlrun.algos.ppo import PPO
from rlrun.core import seeding
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError
from rlrun.core.peers import Backend, Peers
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_range
from rlrun.core.resources import Resources
from rlrun.core.schedules import ScheduleLike

OWN_STATE = frozenset({"rng", "num_rows_trained", "changes", "learner_stats", "custom_stats"})
"""What of a learner's state is not the same in all peers."""


@dataclass(kw_only=True)
class DDPPO(PPO):
    """PPO without a central learner: every worker gathers rows, and learns from them with weights
    and an optimiser of its own; what they share is the mean of their gradients (eq. 2).

    All weights start alike and take the same steps, so that they stay alike. The driver is sent
    reports, and at the end of each iteration the first worker's state, for checkpoints and
    evaluations. Advantages are normalised over a worker's own minibatch, as in the paper's code.
    The paper's preemption of stragglers (sec. 3.2) is not built. Defaults are the paper's (sec. 5)
    and, where it does not say, those of its code; conf/algo/ddppo.yaml lists them.
    """

    lr: ScheduleLike = 2.5e-4
    """Adam step size, or a schedule over the env steps of all workers."""
    train_batch_size: int = 512
    """Env steps that each worker gathers for each learn() (128 of each env)."""
    num_envs_per_worker: int = 4
    minibatch_size: int = 256
    """Rows of each worker in one gradient step."""
    num_epochs: int = 2
    entropy_coeff: ScheduleLike = 0.01
    grad_clip: float | None = 0.2
    """Largest L2 norm of the mean gradient; null: unbounded."""
    normalize_advantages: bool = False
    torch_distributed_backend: Backend = "gloo"
    """What carries the gradients: gloo everywhere, nccl between GPUs."""
    peer_timeout_s: float = 300.0
    """How long a worker waits for the slowest of the others before the run ends with an error; one
    that dies is noticed at once."""

    loop = staticmethod(loops.decentralized)
    end_iteration = staticmethod(peer_learning.bring_home)
    built_in = PPO.built_in | {"torch_distributed_backend", "peer_timeout_s"}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("peer_timeout_s", self.peer_timeout_s, low=1.0)

    def fragment_length(self, num_workers: int) -> int:
        return super().fragment_length(1)

    def check_resources(self, resources: Resources) -> None:
        """GPUs belong to the workers here, and nccl needs one for each."""
        if resources.num_gpus and resources.num_workers:
            raise ConfigError(
                f"resources.num_gpus={resources.num_gpus:g} is for a learner in the driver, and "
                f"algo=ddppo learns in its workers. Use resources.num_gpus_per_worker."
            )
        on_gpus = resources.num_gpus_per_worker >= 1 and not resources.fake_gpus
        if self.torch_distributed_backend == "nccl" and not (on_gpus and resources.num_workers):
            raise ConfigError(
                f"algo.torch_distributed_backend=nccl needs a GPU for each worker, and "
                f"resources.num_workers={resources.num_workers}, "
                f"num_gpus_per_worker={resources.num_gpus_per_worker:g}. Use gloo, or "
                f"num_gpus_per_worker=1."
            )

    def setup(self, policy: Policy, device: torch.device, seed: int) -> None:
        super().setup(policy, device, seed)
        self.seed = seed
        self.peers = Peers()
        self.newest: Literal["driver", "workers", "both", "nobody"] = "driver"
        """In the driver: who has all that was learned and given, this learner, the workers', or
        both; nobody while they learn, or where that failed."""

    # The learner, in a worker

    def learn(self, rows: Batch) -> dict[str, Any]:
        # The order of rows is each worker's own, and depends on nothing that would have to be kept.
        self.rng = seeding.generator(self.seed, "learner", self.peers.rank, self.num_updates)
        metrics = super().learn(rows)
        for buffer in self.policy.buffers():
            self.peers.spread(buffer)
        return metrics

    def minibatches(self, rows: Batch) -> Iterator[Batch]:
        """As many in all peers, whose numbers of rows may differ: each takes part in every step."""
        num_steps, num_rows = self.peers.gather(np.array([rows.num_steps, rows.num_rows])).T
        wanted = max(round(num_steps.mean() / self.minibatch_size), 1)
        return rows.shuffled_parts(min(wanted, int(num_rows.min())), self.num_epochs, self.rng)

    def compute_gradients(self, rows: Batch) -> dict[str, Any]:
        """The gradient of what all peers have in their minibatches, each step as much as any."""
        metrics = super().compute_gradients(rows)
        self.peers.average(self.policy.flat.grad, rows.num_steps)
        return metrics

    def _adapt_kl_coeff(self, kl: float) -> None:
        super()._adapt_kl_coeff(float(self.peers.gather(np.array([kl])).mean()))

    # Between driver and workers

    def shared_state(self) -> dict[str, Any]:
        """What is the same in all peers: weights, optimiser, coefficients and counts of updates; in
        memory of its own, on the CPU."""
        state = {name: part for name, part in self.state_dict().items() if name not in OWN_STATE}
        return {name: _copied(part) for name, part in state.items()}

    def take_over(self, shared: Mapping[str, Any]) -> None:
        """Become what another learner was when it gave `shared_state`."""
        self.load_state_dict(self.state_dict() | dict(shared))
        self.newest = "both"

    def note(self, report: Mapping[str, Any]) -> None:
        """In the driver: count what a worker reports of a round."""
        self.num_rows_trained += report["num_rows"]
        self.learner_stats.merge(report["learner_stats"])
        self.custom_stats.merge(report["custom_stats"])
        self.timers.merge(report["timers"], 1 / report["num_peers"])
        self.newest = "workers"

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.newest = "driver"

    @property
    def is_up_to_date(self) -> bool:
        return self.newest in ("driver", "both")

    def on_weights_set(self) -> None:
        self.newest = "driver"


def _copied(part: Any) -> Any:
    if isinstance(part, torch.Tensor):
        return part.detach().cpu().clone()
    return (
        {name: _copied(each) for name, each in part.items()} if isinstance(part, Mapping) else part
    )
