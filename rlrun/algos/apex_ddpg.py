"""Ape-X DPG: distributed prioritised experience replay for continuous actions (Horgan et al., 2018,
arXiv:1803.00933)."""

from __future__ import annotations

from dataclasses import dataclass

from rlrun.algos.ddpg import DDPG
from rlrun.algos.distributed_replay import DistributedReplay
from rlrun.core.exploration import Exploration, PerWorkerOrnsteinUhlenbeckNoise


@dataclass(kw_only=True)
class ApexDDPG(DistributedReplay, DDPG):
    """DDPG that many workers gather for. Each explores with noise of its own scale.

    Defaults are DDPG's, but for those of how rows are gathered and replayed;
    conf/algo/apex_ddpg.yaml lists them.
    """

    built_in = DDPG.built_in | DistributedReplay.built_in

    def natural_exploration(self) -> Exploration:
        return PerWorkerOrnsteinUhlenbeckNoise()
