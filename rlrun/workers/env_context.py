"""What a function that goes through all envs is told of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class EnvContext(dict[str, Any]):
    """The `env.env_config` of an env, and which of all envs it is."""

    def __init__(
        self,
        env_config: Mapping[str, Any],
        worker_index: int,
        vector_index: int,
        num_workers: int,
        remote: bool,
    ) -> None:
        super().__init__(env_config)
        self.worker_index = worker_index
        """0 for the local worker; remote ones count from 1."""
        self.vector_index = vector_index
        """Which of the worker's envs."""
        self.num_workers = num_workers
        self.remote = remote
        """Whether the env lives in a process of its own."""
