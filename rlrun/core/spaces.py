"""From an env's spaces to a network's: observations to arrays, actions back to the env's bounds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces

from rlrun.core.distributions import is_float_vector
from rlrun.core.errors import RlrunError, SpaceError
from rlrun.core.membership import misfit

Transform = Callable[[Any], np.ndarray]
MAX_PIXEL_RANGE = 2.0**24
"""Wider ranges of integers than float32 can tell apart are no bounds of an image."""

ActionTransform = Callable[[np.ndarray], np.ndarray]


class Preprocessor:
    """Turns a batch of raw observations into one array [N, *space.shape].

    Boxes become float32 and keep their scale, Discrete and MultiDiscrete become one-hot vectors,
    MultiBinary floats, and Dict and Tuple one flat vector of all their parts (Dict in the order of
    its keys). With `flatten` a Box of any rank becomes a vector as well.
    Images (Boxes of integers with two or three axes) keep their integers, which take less memory,
    and ConvolutionalEncoder scales them from their bounds to [0, 1]; where they are flattened, or
    lie within a Dict or Tuple, that is done here. See `PixelScale`.
    The array is always fresh memory: vector envs overwrite what they gave.
    """

    space: spaces.Box

    def __init__(self, space: spaces.Space, *, flatten: bool = False) -> None:
        self.original_space = space
        if isinstance(space, spaces.Box) and not (flatten and len(space.shape) != 1):
            self.space = space if is_image(space) else _as_float32(space)
            self._transform: Transform = _cast(self.space.dtype)
        else:
            size, self._transform = _flat(space)
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


class ActionConverter:
    """Turns a policy's actions [N, ...] into what the env takes: always members of its space.

    A Box of floats: with `normalize_actions` the policy acts in [-1, 1] in every dimension that is
    bounded on both sides, which is stretched to the bounds; else actions are taken as they are.
    Either way they are clipped to the bounds that there are. Discrete actions are counted from 0,
    and shifted by the space's start. Raises RlrunError for an action that is nan.
    """

    policy_space: spaces.Space
    """The action space in the policy's terms: what it may usefully give."""

    def __init__(self, space: spaces.Space, *, normalize_actions: bool) -> None:
        self.policy_space = space
        self._convert: ActionTransform | None = None
        self._invert: ActionTransform = np.asarray
        if isinstance(space, spaces.Discrete):
            self.policy_space = spaces.Discrete(int(space.n))
            self._convert = _shifted(space)
            self._invert = lambda actions: np.asarray(actions) - space.start
        elif isinstance(space, spaces.MultiDiscrete):
            self.policy_space = spaces.MultiDiscrete(space.nvec)
            self._convert = _shifted(space)
            self._invert = lambda actions: np.asarray(actions) - space.start
        elif isinstance(space, spaces.Box) and is_float_vector(space):
            self.policy_space, self._convert, self._invert = _bounded(space, normalize_actions)

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        return actions if self._convert is None else self._convert(actions)

    def invert(self, env_actions: Any) -> np.ndarray:
        """What the policy would have had to give for these actions of the env, [N, ...]."""
        return self._invert(env_actions)


def _shifted(space: spaces.Discrete | spaces.MultiDiscrete) -> ActionTransform | None:
    if not np.any(space.start) and space.dtype == np.int64:
        return None
    return lambda actions: (actions + space.start).astype(space.dtype)


def _bounded(
    space: spaces.Box, normalize: bool
) -> tuple[spaces.Box, ActionTransform, ActionTransform]:
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    is_stretched = np.isfinite(low) & np.isfinite(high) & normalize
    start, end = np.where(is_stretched, low, -1.0), np.where(is_stretched, high, 1.0)
    middle, half = (end + start) / 2, (end - start) / 2

    def convert(actions: np.ndarray) -> np.ndarray:
        stretched = middle + half * actions
        # A quarter of the time of np.clip.
        members = np.minimum(np.maximum(stretched, low), high)
        flat = members.ravel()
        if math.isnan(np.dot(flat, flat)):
            raise RlrunError(
                f"The policy gave the action {actions[np.isnan(members).any(-1)][0]}: learning has "
                f"diverged. Go on from an earlier checkpoint, or start anew, with a lower algo.lr "
                f"or algo.grad_clip."
            )
        return members.astype(space.dtype)

    with np.errstate(over="ignore"):  # Bounds beyond float32 are none to a policy.
        policy_low = np.where(is_stretched, -1.0, low).astype(np.float32)
        policy_high = np.where(is_stretched, 1.0, high).astype(np.float32)

    def invert(actions: np.ndarray) -> np.ndarray:
        return ((np.asarray(actions) - middle) / np.where(half == 0.0, 1.0, half)).astype(
            np.float32
        )

    return spaces.Box(policy_low, policy_high, dtype=np.float32), convert, invert


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
