"""Target networks: a slower copy of the network that learns."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from rlrun.core.policy import Policy

LEAST_TAU = 1e-9
"""The smallest share of the weights that a target may take over: by 0 it would never move."""


class OwnTarget:
    """Stands for a target where a network is its own: in a worker, which has one set of weights."""

    def __init__(self, network: Policy) -> None:
        self.network = network


class Target:
    """A copy of `online` that follows it: every `interval` it takes over the share `tau` of the
    online weights, and all of its statistics.

    Whoever holds it says in `follow_if_due` what counts: env steps (as Mnih et al., 2015) or
    updates (as Lillicrap et al., 2016, arXiv:1509.02971). `part` is the module of the policy that
    is to follow, where the rest of the copy is of no use.
    """

    def __init__(
        self, online: Policy, *, interval: int, tau: float, part: nn.Module | None = None
    ) -> None:
        self.online = online
        self.part = slice(None) if part is None else online.flat.part_of(part)
        self.network = copy.deepcopy(online)
        self.network.requires_grad_(False)
        self.network.eval()
        # Products round by where weights lie: there from the first, as after it has followed.
        self.network.flat.bind()
        self.interval = interval
        self.tau = tau
        self.last_update = 0
        """The count at which it followed last."""
        self.num_updates = 0
        self._lacks_statistics = self._is_without_statistics

    @property
    def _is_without_statistics(self) -> bool:
        return not self.network.observation_filter.has_statistics

    def take_first_statistics(self) -> None:
        """Take over the online network's statistics, if the target has none yet: until it follows
        for the first time, it would see observations as they came."""
        if self._lacks_statistics:
            self.network.copy_statistics(self.online)
            self._lacks_statistics = self._is_without_statistics

    def follow_if_due(self, count: int) -> None:
        """Follow the online network if `interval` has passed since the last time."""
        if count - self.last_update >= self.interval:
            self.last_update = count
            self.num_updates += 1
            self.follow(self.tau)

    def follow(self, tau: float = 1.0) -> None:
        """Take over the share `tau` of the online weights now; 1 copies them."""
        if tau == 1.0:
            self.network.copy_weights(self.online)
        else:
            own, weights = self.network.flat, self.online.flat
            own.bind()
            weights.bind()
            own.values[self.part].lerp_(weights.values[self.part], tau)
            self.network.copy_statistics(self.online)

    def state_dict(self) -> dict[str, Any]:
        """Weights and counts."""
        return {
            "weights": self.network.state_dict(),
            "last_update": self.last_update,
            "num_updates": self.num_updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.network.set_weights(state["weights"])
        self.last_update = int(state["last_update"])
        self.num_updates = int(state["num_updates"])
        self._lacks_statistics = self._is_without_statistics
