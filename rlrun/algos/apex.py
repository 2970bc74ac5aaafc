"""Ape-X DQN: distributed prioritised experience replay (Horgan et al., 2018, arXiv:1803.00933)."""

from __future__ import annotations

from dataclasses import dataclass

from rlrun.algos.distributed_replay import DistributedReplay
from rlrun.algos.dqn import DQN
from rlrun.core.exploration import Exploration, PerWorkerEpsilonGreedy


@dataclass(kw_only=True)
class Apex(DistributedReplay, DQN):
    """DQN that many workers gather for. Each explores with an epsilon of its own.

    Defaults are the paper's for Atari (sec. 4.1, appendix C), with Adam in place of RMSProp;
    conf/algo/apex.yaml lists them.
    """

    dueling: bool = True
    """Whether Q is the sum of a state value and advantages (Wang et al., 2016)."""
    target_network_update_freq: int = 500_000
    """Env steps between updates of the target network (the paper: 2,500 updates of the learner);
    updates of the learner where tau is below 1."""
    grad_clip: float | None = 40.0

    built_in = DQN.built_in | DistributedReplay.built_in

    def natural_exploration(self) -> Exploration:
        return PerWorkerEpsilonGreedy()
