"""Where the parts of a nested observation lie in the one flat row that it becomes.

A row holds the floats: the vector of all parts that are no images, then the action mask, then
images of floats. Where there are images of bytes, the row is one of bytes, floats first: kept as
floats, pixels would take four times the memory in rollouts and replay buffers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

Rows = Any
"""Rows [..., width] of NumPy or torch."""

FLOAT_BYTES = 4


@dataclass(frozen=True, eq=False)
class Image:
    """One image of a row."""

    space: spaces.Box
    """Its shape, and the bounds of its pixels."""
    start: int
    """Its first pixel among the floats, or among the bytes."""
    is_bytes: bool


@dataclass(frozen=True, eq=False)
class Layout:
    """The parts of a row; counts are of floats."""

    vector_size: int
    mask_size: int
    """1 for each choice of a Discrete or MultiDiscrete action; 0: there is no mask."""
    images: tuple[Image, ...]

    @cached_property
    def num_floats(self) -> int:
        """Floats in front."""
        floats = sum(_size(image) for image in self.images if not image.is_bytes)
        return self.vector_size + self.mask_size + floats

    @cached_property
    def num_bytes(self) -> int:
        """Bytes behind them."""
        return sum(_size(image) for image in self.images if image.is_bytes)

    @cached_property
    def is_lone_image(self) -> bool:
        """Whether an image is all that there is to be seen, beside the mask."""
        return len(self.images) == 1 and self.vector_size == 0

    @cached_property
    def row_space(self) -> spaces.Box:
        """The space of rows as they are stored."""
        if not self.num_bytes:
            return spaces.Box(-np.inf, np.inf, (self.num_floats,), np.float32)
        # Whole floats, so that the floats of every row can be viewed where they are.
        padded = -(-self.num_bytes // FLOAT_BYTES) * FLOAT_BYTES
        return spaces.Box(0, 255, (FLOAT_BYTES * self.num_floats + padded,), np.uint8)

    def pack(self, floats: list[np.ndarray], pixels: list[np.ndarray]) -> np.ndarray:
        """Rows of the parts in order: float32 [N, ...], and bytes [N, ...]."""
        num_rows = len([*floats, *pixels][0])
        joined = [part.reshape(num_rows, -1) for part in floats]
        if not pixels:
            return np.concatenate(joined, axis=1, dtype=np.float32)
        rows = np.zeros((num_rows, *self.row_space.shape), np.uint8)
        start = FLOAT_BYTES * self.num_floats
        if joined:
            rows[:, :start].view(np.float32)[:] = np.concatenate(joined, axis=1)
        for part in pixels:
            flat = part.reshape(num_rows, -1)
            rows[:, start : start + flat.shape[1]] = flat
            start += flat.shape[1]
        return rows

    def floats(self, rows: Rows) -> Rows:
        """A view of the floats, [..., num_floats]."""
        if not self.num_bytes:
            return rows
        front = rows[..., : FLOAT_BYTES * self.num_floats]
        is_torch = isinstance(rows, torch.Tensor)
        return front.view(torch.float32 if is_torch else np.float32)

    def vector(self, rows: Rows) -> Rows:
        """A view of the vector, [..., vector_size]."""
        return self.floats(rows)[..., : self.vector_size]

    def mask(self, rows: Rows) -> Rows:
        """A view of the action mask, [..., mask_size], float32."""
        return self.floats(rows)[..., self.vector_size : self.vector_size + self.mask_size]

    def image(self, rows: Rows, image: Image) -> Rows:
        """A view of one image, [..., *shape]."""
        source = self.floats(rows)
        start = image.start
        if image.is_bytes:
            source, start = rows, start + FLOAT_BYTES * self.num_floats
        return source[..., start : start + _size(image)].reshape(
            *rows.shape[:-1], *image.space.shape
        )

    def seen(self, rows: Rows) -> Rows:
        """What of the rows a network sees, of the space `seen_space`: all but the mask."""
        if self.is_lone_image:
            return self.image(rows, self.images[0])
        return rows if self.images else self.vector(rows)

    def in_floats(self) -> Layout:
        """The same parts in rows of nothing but floats, for programs that cannot see floats in
        bytes."""
        first = self.vector_size + self.mask_size
        images = []
        for image in self.images:
            images.append(Image(image.space, first, is_bytes=False))
            first += _size(image)
        return Layout(self.vector_size, self.mask_size, tuple(images))

    @property
    def signature(self) -> tuple[Any, ...]:
        """What two layouts must have in common for one policy to serve both."""
        images = tuple((image.space.shape, image.is_bytes) for image in self.images)
        return self.vector_size, self.mask_size, images


class NestedBox(spaces.Box):
    """What a network sees of nested observations, with the layout of the rows that hold it.

    With images beside a vector that is the row itself; a lone image beside an action mask is just
    that image, and a vector that vector.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        if layout.is_lone_image:
            like = layout.images[0].space
        elif layout.images:
            like = layout.row_space
        else:
            like = spaces.Box(-np.inf, np.inf, (layout.vector_size,), np.float32)
        super().__init__(like.low, like.high, dtype=like.dtype.type)


def place_images(images: list[spaces.Box], first_float: int) -> list[Image]:
    """Images one after the other: bytes among the bytes, all else among the floats."""
    placed, next_float, next_byte = [], first_float, 0
    for space in images:
        is_bytes = space.dtype == np.uint8
        placed.append(Image(space, next_byte if is_bytes else next_float, is_bytes))
        if is_bytes:
            next_byte += int(np.prod(space.shape))
        else:
            next_float += int(np.prod(space.shape))
    return placed


def layout_of(obs_space: spaces.Space) -> Layout | None:
    """The layout of rows of that space; None where a row is what it seems."""
    return obs_space.layout if isinstance(obs_space, NestedBox) else None


def _size(image: Image) -> int:
    return int(np.prod(image.space.shape))
