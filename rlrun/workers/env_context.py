"""What a function that goes through all envs is told of each, and of its worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class WorkerOutline:
    """What an env in a process of its own knows of its worker, which lives in another."""

    name: str
    worker_index: int
    num_workers: int
    config: Any
    """The WorkerConfig."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"worker.{name} is in another process: with env.vectorization=async an env lives in "
            f"one of its own, which knows {', '.join(self.__dataclass_fields__)} of its worker."
        )
