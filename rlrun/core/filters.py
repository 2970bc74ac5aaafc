"""Observation filters: running statistics that belong to a policy, and travel with its weights.

Rows of trajectories and replay buffers hold observations as they came; whoever acts or learns
normalises them with the statistics of now. Workers gather `RunningMoments` of what they see; the
learner merges them between two updates, so that a policy acts on a fragment and learns from it
with the same statistics.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from rlrun.core.errors import SpaceError
from rlrun.core.layout import Layout


class NoFilter(nn.Module):
    """Gives observations as they are."""

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """obs [..., *shape] -> the same shape; float32 where something is changed."""
        return obs

    def act(self, obs: np.ndarray) -> np.ndarray:
        """The same for NumPy arrays."""
        return obs

    def moments(self) -> RunningMoments | None:
        """Empty statistics to gather observations with; None if nothing is to be gathered."""
        return None

    def merge(self, gathered: RunningMoments) -> None:
        """Count what was gathered."""

    @property
    def has_statistics(self) -> bool:
        """Whether anything was counted yet."""
        return True


class MeanStdFilter(NoFilter):
    """Observations minus their running mean, over their running standard deviation, clipped."""

    count: torch.Tensor
    mean: torch.Tensor
    squares: torch.Tensor
    shift: torch.Tensor
    scale: torch.Tensor

    def __init__(self, shape: tuple[int, ...], clip: float = 10.0) -> None:
        super().__init__()
        self.clip = clip
        self.was_applied = False
        """Whether any policy has used it yet."""
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("squares", torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("shift", torch.zeros(shape))
        self.register_buffer("scale", torch.ones(shape))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return ((obs - self.shift) * self.scale).clamp(-self.clip, self.clip)

    def act(self, obs: np.ndarray) -> np.ndarray:
        self.was_applied = True
        normalised = (obs - self.shift.cpu().numpy()) * self.scale.cpu().numpy()
        return np.minimum(np.maximum(normalised, -self.clip, out=normalised), self.clip)

    def moments(self) -> RunningMoments:
        return RunningMoments(tuple(self.mean.shape))

    @property
    def has_statistics(self) -> bool:
        return bool(self.count > 0)

    def merge(self, gathered: RunningMoments) -> None:
        """Count what was gathered, and normalise by all that was counted from now on."""
        total = RunningMoments(tuple(self.mean.shape))
        total.merge(int(self.count), self.mean.cpu().numpy(), self.squares.cpu().numpy())
        total.merge(gathered.count, gathered.mean, gathered.squares)
        found = {
            "count": np.float64(total.count),
            "mean": total.mean,
            "squares": total.squares,
            "shift": total.mean.astype(np.float32),
            "scale": (1.0 / (total.std() + 1e-8)).astype(np.float32),
        }
        for name, value in found.items():
            self.get_buffer(name).copy_(torch.as_tensor(value))


class NoLayoutFilter(NoFilter):
    """Gives what a network sees of rows with a layout; nothing is normalised."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.layout.seen(obs)

    def act(self, obs: np.ndarray) -> np.ndarray:
        return self.layout.seen(obs)


class LayoutFilter(MeanStdFilter):
    """The same, with the vector of the rows normalised; images and masks stay as they are."""

    def __init__(self, layout: Layout, clip: float = 10.0) -> None:
        super().__init__((layout.vector_size,), clip)
        self.layout = layout

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        normalised = super().forward(self.layout.vector(obs))
        if not self.layout.images:
            return normalised
        rows = obs.clone(memory_format=torch.contiguous_format)
        self.layout.vector(rows).copy_(normalised)
        return rows

    def act(self, obs: np.ndarray) -> np.ndarray:
        normalised = super().act(self.layout.vector(obs))
        if not self.layout.images:
            return normalised
        rows = obs.copy()
        self.layout.vector(rows)[:] = normalised
        return rows


class RunningMoments:
    """Count, mean and summed squared deviations of rows seen one batch at a time, float64.

    Merged exactly by Chan et al. (1979), eq. 2.1.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.count = 0
        self.mean = np.zeros(shape, np.float64)
        self.squares = np.zeros(shape, np.float64)

    def add(self, rows: np.ndarray) -> None:
        """rows: [N, *shape]."""
        if len(rows):
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
        """Put back what `state_dict` gave."""
        self.count = int(state["count"])
        self.mean = np.asarray(state["mean"], np.float64)
        self.squares = np.asarray(state["squares"], np.float64)


def make_filter(name: str, shape: tuple[int, ...], layout: Layout | None = None) -> NoFilter:
    """The filter of that name (NoFilter, MeanStdFilter) for observations of `shape`, or for rows of
    `layout`.

    Raises SpaceError if there is nothing in the rows that it could normalise.
    """
    if layout is None:
        return MeanStdFilter(shape) if name == "MeanStdFilter" else NoFilter()
    if name == "NoFilter":
        return NoLayoutFilter(layout)
    if layout.vector_size == 0:
        raise SpaceError(
            "env.observation_filter=MeanStdFilter leaves images as they are, and these "
            "observations hold nothing else. Use env.observation_filter=NoFilter."
        )
    return LayoutFilter(layout)
