"""From an env's observation space to a network's: observations to arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from rlrun.core.errors import SpaceError
from rlrun.core.layout import Layout, NestedBox, place_images
from rlrun.core.membership import misfit
from rlrun.core.nested import Path, at, leaves_of

Transform = Callable[[Any], np.ndarray]

MAX_PIXEL_RANGE = 2.0**24
"""Wider ranges of integers than float32 can tell apart are no bounds of an image."""


ACTION_MASK = "action_mask"
"""The key of a Dict observation that says which actions may be taken."""


class Preprocessor:
    """Turns a batch of raw observations into one array [N, *row shape].

    Boxes become float32 and keep their scale, Discrete and MultiDiscrete become one-hot vectors,
    MultiBinary floats, and Dict and Tuple one flat vector of all their parts (Dict in the order of
    its keys). With `flatten` a Box of any rank becomes a vector as well.
    Images (Boxes of integers with two or three axes) keep their integers, which take less memory,
    and ConvolutionalEncoder scales them from their bounds to [0, 1]; where they are flattened, or
    lie within a Dict or Tuple, that is done here. See `PixelScale`.
    With `keeps_images`, those within a Dict or Tuple (there also Boxes of floats with three axes)
    stay images, and with `masks_actions` the part `action_mask` of a Dict is set aside: then rows
    have a `layout`. The array is always fresh memory: vector envs overwrite what they gave.
    Raises SpaceError.
    """

    space: spaces.Box
    """What a network sees, which is what rows hold, unless there is a layout."""
    layout: Layout | None = None
    parts: Parts | None = None
    """What becomes which part of a row; None: the observation is one array, and stays that."""

    def __init__(
        self,
        space: spaces.Space,
        *,
        flatten: bool = False,
        keeps_images: bool = False,
        masks_actions: bool = False,
    ) -> None:
        self.original_space = space
        keeps_images = keeps_images and not flatten
        if masks_actions or (keeps_images and _has_images(space)):
            self.parts = _parts(space, flatten, keeps_images, masks_actions)
            self.layout, self._transform = _laid_out(self.parts)
            self.space = NestedBox(self.layout)
        elif isinstance(space, spaces.Box) and not (flatten and len(space.shape) != 1):
            self.space = space if is_image(space) else _as_float32(space)
            self._transform = _cast(self.space.dtype)
        else:
            size, self._transform = _flat(space)
            self.parts = Parts(leaves_of(space))
            self.space = spaces.Box(-np.inf, np.inf, (size,), np.float32)

    def __call__(self, observations: Any) -> np.ndarray:
        """Raw observations as vector envs give them: batched per leaf of the space."""
        return self._transform(observations)

    def single(self, observation: Any) -> np.ndarray:
        """One raw observation, as a batch of one row. Raises SpaceError if the env's space does not
        hold it (see `misfit`)."""
        reason = misfit(self.original_space, observation)
        if reason is not None:
            raise SpaceError(f"Cannot act: {reason}.")
        return self._transform(_add_axis(self.original_space, observation))

    def transform(self, observation: Any) -> np.ndarray:
        """One raw observation as a network sees it (with a layout: its row), without the axis of
        rows. Raises SpaceError."""
        return self.single(observation)[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """That of what `transform` gives."""
        return self.space.shape if self.layout is None else self.layout.row_space.shape

    def floats(self, rows: np.ndarray) -> np.ndarray:
        """The numbers of preprocessed rows that may be no finite ones."""
        return rows if self.layout is None else self.layout.floats(rows)

    def open_masks(self, rows: np.ndarray, where: np.ndarray) -> None:
        """Allow all actions in the preprocessed rows of the mask `where` [N]."""
        if self.layout is not None and self.layout.mask_size:
            self.layout.mask(rows)[where] = 1.0


get_preprocessor = Preprocessor
"""What users of the classic API look for: get_preprocessor(space).transform(obs)."""


@dataclass(frozen=True)
class Parts:
    """The leaves of an observation space, by what becomes of them."""

    vector: list[tuple[Path, spaces.Space]]
    """Those that stand side by side as floats."""
    mask: tuple[tuple[Path, spaces.Space], ...] = ()
    """Those that say which actions may be taken."""
    images: tuple[tuple[Path, spaces.Box], ...] = ()
    """Those that keep their shape."""


def is_image(space: spaces.Box) -> bool:
    """Whether `space` has two or three axes of integers: pixels, a board or a grid of counts."""
    return len(space.shape) in (2, 3) and np.issubdtype(space.dtype, np.integer)


class PixelScale:
    """Scales images [N, *shape], float32, from the bounds of their space to [0, 1].

    Pixels whose range is wider than MAX_PIXEL_RANGE have no bounds that mean anything, and stay as
    they are; those with but one value become 0. `low` and `factor`: numbers, or arrays of the
    image's shape if its pixels differ in their bounds.
    """

    def __init__(self, space: spaces.Box) -> None:
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        is_scaled = high - low <= MAX_PIXEL_RANGE
        width = np.where(is_scaled & (high > low), high - low, 1.0)
        self.low = _one_number(np.where(is_scaled, low, 0.0))
        self.factor = _one_number(1.0 / width)

    def __call__(self, images: Any) -> Any:
        # Most pixels count from 0, and images are large.
        shifted = images - self.low if np.any(self.low) else images
        return shifted * self.factor


def _one_number(array: np.ndarray) -> float | np.ndarray:
    first = array.flat[0]
    return float(first) if (array == first).all() else array.astype(np.float32)


def _as_float32(space: spaces.Box) -> spaces.Box:
    low, high = space.low.astype(np.float32), space.high.astype(np.float32)
    return spaces.Box(low, high, dtype=np.float32)


def _cast(dtype: np.dtype) -> Transform:
    return lambda observations: np.array(observations, dtype)


def _flat(space: spaces.Space) -> tuple[int, Transform]:
    """Width of the flat vector of `space`, and the batched transform to it."""
    if isinstance(space, spaces.Box | spaces.MultiBinary):
        size = int(np.prod(space.shape))
        if isinstance(space, spaces.Box) and is_image(space):
            scale = PixelScale(space)
            return size, lambda x: scale(np.array(x, np.float32)).reshape(-1, size)
        return size, lambda x: np.array(x, np.float32).reshape(-1, size)
    if isinstance(space, spaces.Discrete):
        return int(space.n), _one_hot(np.array([space.n]), np.array([space.start]))
    if isinstance(space, spaces.MultiDiscrete):
        nvec, start = space.nvec.ravel(), np.asarray(space.start).ravel()
        return int(nvec.sum()), _one_hot(nvec, start)
    if isinstance(space, spaces.Dict):
        return _join({key: _flat(part) for key, part in space.spaces.items()})
    if isinstance(space, spaces.Tuple):
        return _join({i: _flat(part) for i, part in enumerate(space.spaces)})
    raise SpaceError(
        f"Observations of {space} cannot be turned into an array. Supported are Box, Discrete, "
        f"MultiDiscrete, MultiBinary, and Dict and Tuple of these; wrap the env to give one."
    )


def _has_images(space: spaces.Space) -> bool:
    """Whether an image lies within a Dict or Tuple."""
    is_nested = isinstance(space, spaces.Dict | spaces.Tuple)
    return is_nested and any(_is_nested_image(leaf) for _, leaf in leaves_of(space))


def _is_nested_image(space: spaces.Space) -> bool:
    if not isinstance(space, spaces.Box):
        return False
    return is_image(space) or len(space.shape) == 3


def _parts(space: spaces.Space, flatten: bool, keeps_images: bool, masks_actions: bool) -> Parts:
    """What becomes which part of the rows of a nested space."""
    path: Path = ()
    mask: list[tuple[Path, spaces.Space]] = []
    if masks_actions:
        space, path, mask = _without_mask(space)
    # As without a mask: a Box keeps its shape, whatever the network makes of it.
    is_alone = isinstance(space, spaces.Box) and len(space.shape) > 1 and not flatten
    vector, images = [], []
    for place, leaf in leaves_of(space, path):
        is_kept = is_alone or (keeps_images and _is_nested_image(leaf))
        if is_kept and isinstance(leaf, spaces.Box):
            images.append((place, leaf))
        else:
            vector.append((place, leaf))
    return Parts(vector, tuple(mask), tuple(images))


def _laid_out(parts: Parts) -> tuple[Layout, Transform]:
    """The layout of rows of a nested space, and the batched transform to them."""
    mask_size = sum(int(np.prod(part.shape or ())) for _, part in parts.mask)
    mask_parts = [(place, _cast(np.dtype(np.float32))) for place, _ in parts.mask]
    flat = [(place, _flat(leaf)) for place, leaf in parts.vector]
    vector_size = sum(size for _, (size, _) in flat)
    vector_parts = [(place, to_floats) for place, (_, to_floats) in flat]
    placed = place_images([leaf for _, leaf in parts.images], vector_size + mask_size)
    layout = Layout(vector_size, mask_size, tuple(placed))
    pixels: dict[bool, list[tuple[Path, Transform]]] = {True: [], False: []}
    for (place, _), image in zip(parts.images, placed, strict=True):
        dtype = np.dtype(np.uint8 if image.is_bytes else np.float32)
        pixels[image.is_bytes].append((place, _cast(dtype)))
    float_parts = [*vector_parts, *mask_parts, *pixels[False]]

    def transform(values: Any) -> np.ndarray:
        return layout.pack(
            [part(at(values, place)) for place, part in float_parts],
            [part(at(values, place)) for place, part in pixels[True]],
        )

    return layout, transform


def _without_mask(
    space: spaces.Space,
) -> tuple[spaces.Space, Path, list[tuple[Path, spaces.Space]]]:
    """(what is left, its path, the leaves of the mask) of an observation space with a mask."""
    parts = dict(space.spaces) if isinstance(space, spaces.Dict) else {}
    mask = leaves_of(parts.pop(ACTION_MASK, spaces.Dict({})), (ACTION_MASK,))
    kinds = spaces.Box | spaces.MultiBinary
    if not mask or not parts or not all(isinstance(leaf, kinds) for _, leaf in mask):
        raise SpaceError(
            f"model.mask_actions=true needs observations that are a Dict with the keys "
            f"'{ACTION_MASK}' (a MultiBinary or Box: 1 for each action that may be taken, else 0) "
            f"and 'observations'; this env's are {space}. Wrap the env, or use "
            f"model.mask_actions=false."
        )
    if len(parts) == 1:
        key, only = next(iter(parts.items()))
        return only, (key,), mask
    return spaces.Dict(parts), (), mask


def _one_hot(nvec: np.ndarray, start: np.ndarray) -> Transform:
    offsets = np.concatenate([[0], np.cumsum(nvec)[:-1]]) - start
    width = int(nvec.sum())

    def transform(values: Any) -> np.ndarray:
        columns = np.asarray(values).reshape(-1, len(nvec)) + offsets
        encoded = np.zeros((len(columns), width), np.float32)
        np.put_along_axis(encoded, columns, 1.0, axis=1)
        return encoded

    return transform


def _join(parts: dict[Any, tuple[int, Transform]]) -> tuple[int, Transform]:
    def transform(values: Any) -> np.ndarray:
        return np.concatenate([part(values[key]) for key, (_, part) in parts.items()], axis=1)

    return sum(size for size, _ in parts.values()), transform


def _add_axis(space: spaces.Space, observation: Any) -> Any:
    if isinstance(space, spaces.Dict):
        return {key: _add_axis(part, observation[key]) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(
            _add_axis(part, value) for part, value in zip(space.spaces, observation, strict=True)
        )
    return np.asarray(observation, space.dtype)[None]
