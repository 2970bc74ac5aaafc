"""What trials ask for, and what there is: they are packed so that nothing is given twice."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rlrun.core.errors import ResourceError
from rlrun.sweep.trial import Trial, TrialResources

PARTS = 10_000
"""Amounts are counted in parts of this size, as Ray does: ten times 0.1 is exactly 1."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """What a trial has been given."""

    resources: TrialResources
    gpus: tuple[int, ...] = ()
    """Of its driver and of each worker that asked for one: positions among the machine's."""


class Room:
    """The CPUs, GPUs and custom resources that trials share.

    gpus: their names, as CUDA_VISIBLE_DEVICES takes them.
    """

    def __init__(
        self, cpus: float, gpus: Iterable[str] = (), custom: Mapping[str, float] | None = None
    ) -> None:
        self.gpu_names = list(gpus)
        self._total = {"CPU": _parts(cpus)} | {k: _parts(v) for k, v in (custom or {}).items()}
        self._free = dict(self._total)
        self._free_gpus = [PARTS for _ in self.gpu_names]

    @property
    def total(self) -> dict[str, float]:
        """All that there is, by name."""
        return _amounts(self._total | {"GPU": PARTS * len(self.gpu_names)})

    @property
    def used(self) -> dict[str, float]:
        """What has been given away."""
        taken = {name: self._total[name] - free for name, free in self._free.items()}
        taken["GPU"] = PARTS * len(self.gpu_names) - sum(self._free_gpus)
        return _amounts(taken)

    def refuse_impossible(self, trials: Iterable[Trial]) -> None:
        """Raise ResourceError for a trial for which there never is room."""
        empty = Room(
            self._total["CPU"] / PARTS,
            self.gpu_names,
            {name: parts / PARTS for name, parts in self._total.items() if name != "CPU"},
        )
        for trial in trials:
            if reason := empty.lacks(trial.resources):
                raise ResourceError(
                    f"Trial {trial.number} ({' '.join(trial.overrides)}) can never run here: it "
                    f"{reason}. Lower what it asks for (resources.num_workers, "
                    f"resources.num_cpus_per_worker, resources.num_gpus ...)."
                )

    def lacks(self, need: TrialResources) -> str:
        """Why there is no room now: "needs 0.4 GPU; 0.2 free on GPU 0". "" if there is."""
        for name, parts in self._plain_needs(need).items():
            free = self._free.get(name, 0)
            if parts > free:
                return f"needs {_count(parts, name)}; {free / PARTS:g} free"
        if self._gpus_for(need) is None:
            return f"needs {_gpu_text(need)}; {self._free_gpu_text()}"
        return ""

    def take(self, need: TrialResources) -> Place:
        """A place for which there is room."""
        gpus = self._gpus_for(need)
        assert gpus is not None
        for name, parts in self._plain_needs(need).items():
            self._free[name] -= parts
        for gpu, share in zip(gpus, _gpu_shares(need), strict=True):
            self._free_gpus[gpu] -= share
        return Place(resources=need, gpus=gpus)

    def give_back(self, place: Place) -> None:
        """A place is free again."""
        for name, parts in self._plain_needs(place.resources).items():
            self._free[name] += parts
        for gpu, share in zip(place.gpus, _gpu_shares(place.resources), strict=True):
            self._free_gpus[gpu] += share

    def visible_gpus(self, place: Place) -> str:
        """CUDA_VISIBLE_DEVICES of a trial's driver: the GPU that it shares, or none."""
        return self.gpu_names[place.gpus[0]] if place.resources.driver_gpus else ""

    def _plain_needs(self, need: TrialResources) -> dict[str, int]:
        """CPUs and custom resources. If the workers of a trial alone fit, its driver does too."""
        cpus, of_driver = _parts(need.cpus), _parts(need.driver_cpus)
        if need.needs_ray and cpus - of_driver <= self._total["CPU"]:
            cpus = min(cpus, self._total["CPU"])
        return {"CPU": cpus} | {name: _parts(amount) for name, amount in need.custom.items()}

    def _gpus_for(self, need: TrialResources) -> tuple[int, ...] | None:
        """A GPU for each share, so that little is left over on it; None if one fits nowhere."""
        free, chosen = list(self._free_gpus), []
        for share in _gpu_shares(need):
            fitting = [gpu for gpu, parts in enumerate(free) if parts >= share]
            if not fitting:
                return None
            chosen.append(min(fitting, key=lambda gpu: (free[gpu], gpu)))
            free[chosen[-1]] -= share
        return tuple(chosen)

    def _free_gpu_text(self) -> str:
        if not self._free_gpus:
            return "there is none"
        texts = [f"{free / PARTS:g} on GPU {gpu}" for gpu, free in enumerate(self._free_gpus)]
        return ", ".join(texts).replace(" on", " free on", 1)


def cpus_of_machine() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def gpus_of_machine() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names is not None:
        return [name.strip() for name in names.split(",") if name.strip()]
    return [str(index) for index in range(torch.cuda.device_count())]


def _gpu_shares(need: TrialResources) -> list[int]:
    return [_parts(share) for share in (need.driver_gpus, *need.worker_gpus) if share]


def _gpu_text(need: TrialResources) -> str:
    shares = [share for share in (need.driver_gpus, *need.worker_gpus) if share]
    return f"{' + '.join(f'{share:g}' for share in shares)} GPU"


def _count(parts: int, name: str) -> str:
    amount = parts / PARTS
    return f"{amount:g} {name}{'s' if name == 'CPU' and amount != 1 else ''}"


def _amounts(parts: Mapping[str, int]) -> dict[str, float]:
    return {name: number / PARTS for name, number in parts.items()}


def _parts(amount: float) -> int:
    return round(amount * PARTS)
