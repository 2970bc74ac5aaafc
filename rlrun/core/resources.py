"""Which devices and processes a run may use."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from rlrun.core.errors import ConfigError, ResourceError

if TYPE_CHECKING:
    import torch


MAX_THREADS = 1024
"""More crash torch on some machines, and make no sense on any."""


@dataclass(kw_only=True)
class Resources:
    """The resources group. Amounts of CPUs and GPUs may be fractions."""

    num_workers: int = 0
    """Remote rollout workers (Ray actors); 0: everything in this process, without Ray."""
    num_gpus: float = 0.0
    """GPUs of the learner: a fraction also caps its share of the GPU's memory; 0: CPU."""
    num_gpus_per_worker: float = 0.0
    """GPUs of each rollout worker."""
    num_cpus_per_worker: float = 1.0
    """CPUs that Ray sets aside for each rollout worker; its torch uses as many threads."""
    num_cpus_per_replay_shard: float = 1.0
    """CPUs that Ray sets aside for each replay shard (`algo.num_replay_buffer_shards`)."""
    num_cpus_for_driver: int = 1
    """Threads of the learner's torch: 1 is best for small networks, more for images."""
    matmul_precision: Literal["highest", "high", "medium"] | None = None
    """How exactly torch multiplies matrices of float32, where the hardware has a faster way (see
    torch.set_float32_matmul_precision): high: TF32 on GPUs; medium: bfloat16 on CPUs with AMX, too;
    null: as torch is set, which is highest."""
    custom_resources_per_worker: dict[str, float] = field(default_factory=dict)
    """Ray custom resources of each rollout worker."""
    fake_gpus: bool | int = False
    """Whether GPUs are pretended to be there, everything running on CPU (for tests); a number: how
    many of them the trials of a sweep share."""
    create_env_on_driver: bool = False
    """Whether the local worker gets envs even if remote workers sample."""
    ray_address: str | None = None
    """Address of a Ray cluster; null: a local one is started if num_workers is above 0."""
    ray_num_cpus: int | None = None
    """CPUs that a local Ray believes to have; null: those of this machine."""

    def __post_init__(self) -> None:
        for name in (
            *("num_workers", "num_gpus", "num_gpus_per_worker", "num_cpus_per_worker"),
            "num_cpus_per_replay_shard",
        ):
            value = getattr(self, name)
            if not value >= 0:
                raise ConfigError(f"resources.{name}={value} must be at least 0.")
        if not 1 <= self.num_cpus_for_driver <= MAX_THREADS:
            raise ConfigError(
                f"resources.num_cpus_for_driver={self.num_cpus_for_driver} must be between 1 and "
                f"{MAX_THREADS}."
            )
        if self.ray_address is not None and self.ray_num_cpus is not None:
            raise ConfigError(
                f"resources.ray_num_cpus={self.ray_num_cpus} is for a local Ray, and "
                f"resources.ray_address={self.ray_address} names a cluster. Leave one of them null."
            )
        if not self.num_gpus <= 1:
            raise ConfigError(
                f"resources.num_gpus={self.num_gpus:g}: a learner on several GPUs is not built "
                f"yet. Use a value between 0 and 1."
            )


def learner_device(resources: Resources) -> torch.device:
    """Where the learner lives. Raises ResourceError if a GPU was asked for and there is none."""
    import torch

    if resources.num_gpus == 0 or resources.fake_gpus:
        return torch.device("cpu")
    require_gpu("resources.num_gpus", resources.num_gpus)
    return torch.device("cuda")


def cap_gpu_memory(resources: Resources, device: torch.device) -> None:
    """Keep this process within its share of the GPU's memory.

    This wakes CUDA up, after which no process should be forked that uses it as well.
    """
    import torch

    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(resources.num_gpus)


def require_gpu(key: str, amount: float) -> None:
    """Raise ResourceError, which says what was asked and what is there, unless there is a GPU."""
    import torch

    if torch.cuda.is_available() and torch.cuda.device_count() >= amount:
        return
    kind = "" if torch.version.cuda else " (this torch is a CPU build)"
    raise ResourceError(
        f"{key}={amount:g} was asked for, and torch finds {torch.cuda.device_count()} GPUs on this "
        f"machine{kind}. Use {key}=0 to run on the CPU, or install a CUDA build of torch."
    )
