"""Segment trees: sums and minima over the slots of a replay buffer."""

from __future__ import annotations

import numpy as np


class SegmentTree:
    """A complete binary tree over `capacity` leaves, changed and searched many leaves at a time."""

    empty: float

    def __init__(self, capacity: int) -> None:
        self.depth = max(int(np.ceil(np.log2(max(capacity, 1)))), 0)
        self.first_leaf = 1 << self.depth
        self.nodes = np.full(2 * self.first_leaf, self.empty, np.float64)

    @property
    def total(self) -> float:
        """The root: all leaves combined."""
        return float(self.nodes[1])

    def leaves(self, slots: np.ndarray) -> np.ndarray:
        """Values of leaves."""
        return self.nodes[self.first_leaf + slots]

    def set(self, slots: np.ndarray, values: np.ndarray) -> None:
        """Set leaves (of a repeated slot the last value counts) and everything above them."""
        nodes = self.first_leaf + slots
        self.nodes[nodes] = values
        for _ in range(self.depth):
            nodes = nodes >> 1
            self.nodes[nodes] = self.combine(self.nodes[2 * nodes], self.nodes[2 * nodes + 1])

    @staticmethod
    def combine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """What a node is of its two children."""
        raise NotImplementedError


class SumTree(SegmentTree):
    """Sums; finds the leaf in which a running total falls."""

    empty = 0.0

    @staticmethod
    def combine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return left + right

    def find(self, totals: np.ndarray) -> np.ndarray:
        """For each total in [0, self.total) the first slot whose cumulative sum exceeds it."""
        nodes = np.ones(len(totals), np.int64)
        rest = totals.astype(np.float64)
        for _ in range(self.depth):
            left = self.nodes[2 * nodes]
            goes_right = rest >= left
            rest = np.where(goes_right, rest - left, rest)
            nodes = 2 * nodes + goes_right
        return nodes - self.first_leaf


class MinTree(SegmentTree):
    """Minima."""

    empty = float("inf")

    @staticmethod
    def combine(left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return np.minimum(left, right)
