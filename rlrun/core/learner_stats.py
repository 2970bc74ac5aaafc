"""What a learner reports of its updates, as the numbers of one result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

FOLD_AFTER = 16
"""Updates whose raw numbers are kept before they become sums. Small tensors that live on hold the
holes open that an update's large ones leave, so memory grows with each update until they go."""

FOLD_AFTER_ON_GPU = 512
"""The same where a sum has to wait for a GPU."""


def policy_lag(num_updates: int, sampled_at_update: torch.Tensor | np.ndarray) -> dict[str, Any]:
    """How many updates lie between the weights that sampled steps and those that learn from them,
    which have seen `num_updates`; sampled_at_update: [N], int64, of each step."""
    if isinstance(sampled_at_update, np.ndarray):
        # In memory of its own: that of Ray's object store can only be read, which torch warns of.
        sampled_at_update = torch.from_numpy(sampled_at_update.copy())
    ages = num_updates - sampled_at_update
    return {"policy_lag_mean": ages.double().mean(), "policy_lag_max": ages.max()}


class LearnerStats:
    """Means over all updates since the last `take`; of vectors also the least and largest entry.

    Names that begin with `cur_` keep their last value, those that end with `_max` their largest.
    Adding looks at no number, so that a GPU need not be waited for.
    """

    def __init__(self) -> None:
        self._pending: list[Mapping[str, Any]] = []
        self._folded: dict[str, tuple[str, float, int]] = {}

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Note the metrics of one update: numbers, tensors and vectors by name."""
        self._pending.append(metrics)
        if len(self._pending) >= (FOLD_AFTER_ON_GPU if _waits(metrics) else FOLD_AFTER):
            self._fold()

    def take(self) -> dict[str, float]:
        """The numbers by name; of a vector `x` its mean_x, min_x and max_x. Starts anew."""
        self._fold()
        found = {
            name: total / count if kind == "mean" else total
            for name, (kind, total, count) in self._folded.items()
        }
        self._folded = {}
        return found

    def merge(self, noted: Mapping[str, Any]) -> None:
        """Count as well what others noted, as their `state_dict` tells it."""
        self._fold()
        for name, (kind, total, count) in noted.items():
            self._note(name, str(kind), float(total), int(count))

    def state_dict(self) -> dict[str, Any]:
        """What was noted since the last `take`."""
        self._fold()
        return {name: list(entry) for name, entry in self._folded.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._pending = []
        self._folded = {
            name: (str(kind), float(total), int(count))
            for name, (kind, total, count) in state.items()
        }

    def _fold(self) -> None:
        pending, self._pending = self._pending, []
        for name in {name: None for metrics in pending for name in metrics}:
            values = [metrics[name] for metrics in pending if name in metrics]
            if name.startswith("cur_"):
                self._note(name, "last", float(values[-1]), 1)
            elif name.endswith("_max"):
                self._note(name, "max", float(_joined(values).max()), 1)
            elif np.ndim(values[0]) == 0:
                self._note(name, "mean", float(_joined(values).sum(dtype=np.float64)), len(values))
            else:
                flat = _joined(values)
                self._note(f"mean_{name}", "mean", float(flat.sum(dtype=np.float64)), len(flat))
                self._note(f"min_{name}", "min", float(flat.min()), 1)
                self._note(f"max_{name}", "max", float(flat.max()), 1)

    def _note(self, name: str, kind: str, value: float, count: int) -> None:
        _, before, counted = self._folded.get(name, (kind, None, 0))
        if before is None or kind == "last":
            total = value
        elif kind == "mean":
            total = before + value
        else:
            total = min(before, value) if kind == "min" else max(before, value)
        self._folded[name] = (kind, total, counted + count)


def _waits(metrics: Mapping[str, Any]) -> bool:
    return any(isinstance(value, torch.Tensor) and value.is_cuda for value in metrics.values())


def _joined(values: list[Any]) -> np.ndarray:
    """All numbers in one vector; tensors in one operation, which a GPU is waited for once."""
    if all(isinstance(value, torch.Tensor) for value in values):
        if all(value.ndim == 0 for value in values):
            return torch.stack(values).cpu().numpy()
        # To reshape what is a vector takes longer than to join it.
        vectors = [value if value.ndim == 1 else value.reshape(-1) for value in values]
        return torch.cat(vectors).cpu().numpy()
    return np.concatenate([np.ravel(_array(value)) for value in values])


def _array(value: Any) -> np.ndarray:
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else np.asarray(value)
