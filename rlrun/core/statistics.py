"""What several seeds say together: interquartile mean and its bootstrap interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
"""How much of the bootstrap distribution an interval covers."""

NUM_RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A centre of several runs, and where it may as well lie."""

    center: np.ndarray
    """Their interquartile mean; the mean of fewer than four."""
    low: np.ndarray
    high: np.ndarray
    num_runs: int


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Mean of the middle half along axis -2; with fewer than four values that is the mean.

    values: [..., runs, points]; nan where a run has no value, and nan where none has. A quarter of
    the values, rounded down, is left out at each end (Agarwal et al., 2021, arXiv:2108.13264).
    """
    ranked = np.sort(values, axis=-2)  # nan comes last
    count = np.isfinite(values).sum(axis=-2, keepdims=True)
    cut = count // 4
    rank = np.arange(values.shape[-2])[:, None]
    is_middle = (rank >= cut) & (rank < count - cut)
    total = np.where(is_middle, ranked, 0.0).sum(axis=-2)
    num_middle = is_middle.sum(axis=-2)
    return np.where(num_middle > 0, total / np.maximum(num_middle, 1), np.nan)


def estimate(values: np.ndarray, num_resamples: int = NUM_RESAMPLES) -> Estimate:
    """Interquartile mean over runs, with a percentile bootstrap interval over them (Efron, 1979).

    values: [runs] or [runs, points], as in `interquartile_mean`. Runs are drawn whole, so that
    their points stay together. The same values always give the same interval.
    """
    curves = np.asarray(values, dtype=np.float64)
    curves = np.where(np.isfinite(curves), curves, np.nan).reshape(len(curves), -1)
    center = interquartile_mean(curves)
    bounds = np.array([center, center])
    if len(curves) > 1:
        drawn = np.random.default_rng(0).integers(len(curves), size=(num_resamples, len(curves)))
        centers = np.concatenate([interquartile_mean(curves[few]) for few in np.split(drawn, 20)])
        edges = [50 * (1 - LEVEL), 50 * (1 + LEVEL)]
        if (is_known := np.isfinite(center)).any():
            bounds[:, is_known] = np.nanpercentile(centers[:, is_known], edges, axis=0)
    shape = np.shape(values)[1:]
    return Estimate(
        center=center.reshape(shape),
        low=bounds[0].reshape(shape),
        high=bounds[1].reshape(shape),
        num_runs=len(curves),
    )
