"""Which env of which worker it is that a function of the user's gets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class EnvContext(dict[str, Any]):
    """The config of an env (env.env_config), and where the env lives."""

    def __init__(
        self,
        env_config: Mapping[str, Any],
        *,
        worker_index: int,
        vector_index: int,
        num_workers: int = 0,
        in_evaluation: bool = False,
    ) -> None:
        super().__init__(env_config)
        self.worker_index = worker_index
        """0 for the local worker; remote ones count from 1."""
        self.vector_index = vector_index
        """The place of the env among those of its worker."""
        self.num_workers = num_workers
        """Remote workers of the set that it belongs to."""
        self.in_evaluation = in_evaluation
