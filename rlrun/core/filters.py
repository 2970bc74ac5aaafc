"""Observation filters: running statistics that workers gather and share."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

FilterName = Literal["NoFilter", "MeanStdFilter"]


class NoFilter:
    """Gives observations as they are."""

    def __call__(self, obs: np.ndarray, update: bool = True) -> np.ndarray:
        return obs

    def flush(self) -> dict[str, Any]:
        """What was gathered since the last flush, for `merge`."""
        return {}

    def merge(self, gathered: dict[str, Any]) -> None:
        """Add what another filter gathered."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""


class MeanStdFilter(NoFilter):
    """Observations minus their running mean, over their running standard deviation, clipped.

    Statistics are merged exactly by Chan et al. (1979), eq. 2.1: count, mean and sum of squared
    deviations, float64. `recent` holds what came since the last flush, for other workers.
    """

    def __init__(self, shape: tuple[int, ...], clip: float = 10.0) -> None:
        self.clip = clip
        self.total = RunningMoments(shape)
        self.recent = RunningMoments(shape)
        self._refresh()

    def __call__(self, obs: np.ndarray, update: bool = True) -> np.ndarray:
        """obs: [N, *shape]; returns the same shape, float32. `update` counts the rows first."""
        if update:
            self.total.add(obs)
            self.recent.add(obs)
            self._refresh()
        filtered = (obs - self._mean) * self._scale
        return np.clip(filtered, -self.clip, self.clip, dtype=np.float32, casting="same_kind")

    def flush(self) -> dict[str, Any]:
        gathered = self.recent.state_dict()
        self.recent = RunningMoments(self.recent.mean.shape)
        return gathered

    def merge(self, gathered: dict[str, Any]) -> None:
        self.total.merge(gathered["count"], gathered["mean"], gathered["squares"])
        self._refresh()

    def state_dict(self) -> dict[str, Any]:
        return self.total.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total.load_state_dict(state)
        self.recent = RunningMoments(self.recent.mean.shape)
        self._refresh()

    def _refresh(self) -> None:
        self._mean = self.total.mean.astype(np.float32)
        self._scale = (1.0 / (self.total.std() + 1e-8)).astype(np.float32)


class RunningMoments:
    """Count, mean and summed squared deviations of rows seen one batch at a time."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = 0
        self.mean = np.zeros(shape, np.float64)
        self.squares = np.zeros(shape, np.float64)

    def add(self, rows: np.ndarray) -> None:
        """rows: [N, *shape]."""
        mean = rows.mean(0, dtype=np.float64)
        self.merge(len(rows), mean, np.square(rows - mean).sum(0))

    def merge(self, count: int, mean: np.ndarray, squares: np.ndarray) -> None:
        """Add the moments of other rows."""
        if count == 0:
            return
        total = self.count + count
        delta = np.asarray(mean) - self.mean
        self.squares = self.squares + squares + delta * delta * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total

    def std(self) -> np.ndarray:
        """Standard deviation (of a sample); 1 until two rows were seen."""
        if self.count < 2:
            return np.ones_like(self.mean)
        return np.sqrt(self.squares / (self.count - 1))

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.count = int(state["count"])
        self.mean = np.asarray(state["mean"], np.float64)
        self.squares = np.asarray(state["squares"], np.float64)


def make_filter(name: FilterName, shape: tuple[int, ...]) -> NoFilter:
    """The filter of that name for observations of `shape`."""
    return MeanStdFilter(shape) if name == "MeanStdFilter" else NoFilter()
