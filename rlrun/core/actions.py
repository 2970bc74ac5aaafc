"""Actions, from a policy's terms to an env's and back.

In a policy's terms every action is one number (Discrete) or one flat row [k]: int64 where all of it
is discrete, else float32. The parts of Tuple and Dict actions stand in it one after the other, in
the order of the space. What the env takes is made here, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from gymnasium import spaces

from rlrun.core.errors import RlrunError, SpaceError
from rlrun.core.nested import Path, at, leaves_of

ActionDistribution = Literal["auto", "beta", "dirichlet"]
"""How Boxes of floats are drawn: auto is a Gaussian (on a Simplex: Dirichlet)."""

MAX_CHOICES = 256
"""Boxes of whole numbers with more in one dimension are no set of choices."""

ArrayTransform = Callable[[np.ndarray], np.ndarray]


class Simplex(spaces.Box):
    """Weights that are not negative and sum to 1, [size]: shares of a whole, such as a portfolio.

    An action space of envs; policies draw from a Dirichlet distribution there.
    """

    def __init__(self, size: int, dtype: Any = np.float32, seed: Any = None) -> None:
        if size < 2:
            raise ValueError(f"A simplex of {size} weights leaves nothing to choose.")
        super().__init__(0.0, 1.0, (size,), dtype, seed)

    def sample(self, mask: None = None, probability: None = None) -> np.ndarray:
        """Uniform over the simplex."""
        return self.np_random.dirichlet(np.ones(self.shape)).astype(self.dtype)

    def contains(self, x: Any) -> bool:
        """Whether x is a vector of weights that sum to 1, within rounding."""
        return super().contains(x) and bool(abs(float(np.sum(x, dtype=np.float64)) - 1.0) < 1e-4)

    def __repr__(self) -> str:
        return f"Simplex({self.shape[0]}, {self.dtype})"


class ActionConverter:
    """Turns a policy's actions [N, ...] into what the env takes: always members of its space.

    A Box of floats: with `normalize_actions` the policy acts in [-1, 1] in every dimension that is
    bounded on both sides, which is stretched to the bounds; else actions are taken as they are.
    Either way they are clipped to the bounds that there are. Weights of a Simplex (and of a Box
    that `distribution` says is one) are never stretched. Discrete actions and Boxes of whole
    numbers are counted from 0, and shifted by the space's start. Tuples and Dicts are made of their
    parts. Raises RlrunError for an action that is nan, SpaceError for a space of other kinds.
    """

    policy_space: spaces.Space
    """The action space in the policy's terms, what it may usefully give: Discrete, or a space with
    one axis, or of a Tuple or Dict a Tuple of these, one for each leaf."""

    def __init__(
        self,
        space: spaces.Space,
        *,
        normalize_actions: bool,
        distribution: ActionDistribution = "auto",
    ) -> None:
        self.space = space
        self.normalize_actions = normalize_actions
        self.is_structured = isinstance(space, spaces.Dict | spaces.Tuple)
        """Whether an env action is a dict or a tuple, a batch of them one of arrays."""
        is_simplex = distribution == "dirichlet"
        self.leaves = _action_leaves(space, normalize_actions, is_simplex)
        """The parts of an action, in the order in which they lie in a row."""
        self.dtype = np.dtype(np.int64 if all(x.is_discrete for x in self.leaves) else np.float32)
        if self.is_structured:
            if not self.leaves:
                raise SpaceError(f"There is nothing to choose in the action space {space}.")
            self.policy_space = spaces.Tuple([leaf.policy_space for leaf in self.leaves])
        else:
            self.policy_space = self.leaves[0].policy_space
        self._convert = self.leaves[0].to_env

    def __call__(self, actions: np.ndarray) -> Any:
        """Env actions as vector envs take them: an array [N, ...], or a dict or tuple of these."""
        if self.is_structured:
            return self._build(self.space, actions, iter(self.leaves))
        return actions if self._convert is None else self._convert(actions)

    def invert(self, env_actions: Sequence[Any]) -> np.ndarray:
        """What the policy would have had to give for N actions of the env, [N, ...]."""
        if not self.is_structured:
            return self.leaves[0].to_policy(np.asarray(env_actions))
        columns = []
        for leaf in self.leaves:
            stacked = np.stack([np.asarray(at(action, leaf.path)) for action in env_actions])
            columns.append(leaf.to_policy(stacked).reshape(len(stacked), leaf.width))
        return np.concatenate(columns, axis=1).astype(self.dtype)

    def zeros(self, num_rows: int) -> np.ndarray:
        """What stands for no actions, in the policy's terms."""
        if isinstance(self.policy_space, spaces.Discrete):
            return np.zeros(num_rows, self.dtype)
        return np.zeros((num_rows, self.leaves[-1].stop), self.dtype)

    def _build(self, space: spaces.Space, actions: np.ndarray, leaves: Any) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: self._build(part, actions, leaves) for key, part in space.spaces.items()}
        if isinstance(space, spaces.Tuple):
            return tuple(self._build(part, actions, leaves) for part in space)
        leaf: ActionLeaf = next(leaves)
        part = actions[:, leaf.start : leaf.stop]
        if isinstance(leaf.policy_space, spaces.Discrete):
            part = part[:, 0]
        if leaf.is_discrete:
            part = part.astype(np.int64, copy=False)
        return part if leaf.to_env is None else leaf.to_env(part)


@dataclass(frozen=True)
class ActionLeaf:
    """A part of an action space that is neither a Tuple nor a Dict."""

    path: Path
    space: spaces.Space
    """As the env has it."""
    start: int
    """Its first column in a flat row."""
    policy_space: spaces.Space
    to_env: ArrayTransform | None
    """[N, width] (Discrete: [N]) -> [N, *shape]; None: nothing changes."""
    to_policy: ArrayTransform
    """The way back."""

    @property
    def width(self) -> int:
        """Columns that it takes."""
        return int(np.prod(self.policy_space.shape or (1,)))

    @property
    def stop(self) -> int:
        """The column behind its last."""
        return self.start + self.width

    @property
    def is_discrete(self) -> bool:
        """Whether it takes whole numbers."""
        return not isinstance(self.policy_space, spaces.Box)


def _action_leaves(space: spaces.Space, normalize: bool, is_simplex: bool) -> list[ActionLeaf]:
    """The leaves of `space`, each behind the one before."""
    found: list[ActionLeaf] = []
    for path, part in leaves_of(space):
        start = found[-1].stop if found else 0
        found.append(ActionLeaf(path, part, start, *_converted(part, normalize, is_simplex)))
    return found


def _converted(
    space: spaces.Space, normalize: bool, is_simplex: bool
) -> tuple[spaces.Space, ArrayTransform | None, ArrayTransform]:
    """(the space in the policy's terms, from these to the env's, and back)."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n)), _shifted(space), lambda x: x - space.start
    if isinstance(space, spaces.MultiDiscrete):
        flat = spaces.MultiDiscrete(space.nvec.ravel())
        return flat, _shifted(space), lambda x: _rows(x - space.start)
    if isinstance(space, spaces.MultiBinary):
        shape, width = space.shape, int(np.prod(space.shape))
        return (
            spaces.MultiBinary(width),
            lambda x: x.reshape(-1, *shape).astype(space.dtype),
            lambda x: _rows(x).astype(np.int64),
        )
    if isinstance(space, spaces.Box) and not np.issubdtype(space.dtype, np.floating):
        return _counted(space)
    if isinstance(space, Simplex) or (isinstance(space, spaces.Box) and is_simplex):
        return _weights(space)
    if isinstance(space, spaces.Box):
        return _bounded(space, normalize)
    raise SpaceError(
        f"No policy can act in {space}. Supported are Discrete, MultiDiscrete, MultiBinary, Box, "
        f"rlrun.Simplex, and Tuple and Dict of these; wrap the env so that it has one of them."
    )


def _rows(array: np.ndarray) -> np.ndarray:
    """[N, ...] -> [N, width]."""
    return array.reshape(len(array), -1)


def _shifted(space: spaces.Discrete | spaces.MultiDiscrete) -> ArrayTransform | None:
    shape = space.shape or ()
    if not np.any(space.start) and space.dtype == np.int64 and len(shape) < 2:
        return None
    return lambda actions: (actions.reshape(-1, *shape) + space.start).astype(space.dtype)


def _counted(space: spaces.Box) -> tuple[spaces.Space, ArrayTransform, ArrayTransform]:
    """A Box of whole numbers, as choices counted from its lower bounds."""
    low = space.low.astype(object)  # Differences of int64 bounds may need more bits.
    counts = (space.high.astype(object) - low + 1).ravel()
    if len(counts) == 0 or max(counts) > MAX_CHOICES:
        raise SpaceError(
            f"The action space {space} has up to {max(counts, default=0)} whole numbers in one "
            f"dimension; at most {MAX_CHOICES} can be told apart as choices. Wrap the env: tighter "
            f"bounds, a MultiDiscrete, or a Box of floats that the env rounds."
        )
    shape, start = space.shape, space.low.astype(np.int64)
    return (
        spaces.MultiDiscrete(counts.astype(np.int64)),
        lambda actions: (actions.reshape(-1, *shape) + start).astype(space.dtype),
        lambda actions: _rows(actions.astype(np.int64) - start),
    )


def _weights(space: spaces.Box) -> tuple[spaces.Space, ArrayTransform, ArrayTransform]:
    """Weights that sum to 1; rounding of float32 is taken out where the env's floats are wider."""
    size = int(np.prod(space.shape))
    if size < 2 or len(space.shape) != 1 or np.any(space.low > 0.0) or np.any(space.high < 1.0):
        raise SpaceError(
            f"model.action_distribution=dirichlet gives weights from 0 to 1 that sum to 1; the "
            f"action space {space} is no Box with one axis that holds all of these. Use "
            f"model.action_distribution=auto."
        )

    def convert(actions: np.ndarray) -> np.ndarray:
        weights = actions.astype(np.float64)
        _refuse_nan(weights, actions)
        weights = np.maximum(weights, 0.0)
        return (weights / weights.sum(-1, keepdims=True)).astype(space.dtype)

    return Simplex(size), convert, lambda actions: actions.astype(np.float32)


def _bounded(
    space: spaces.Box, normalize: bool
) -> tuple[spaces.Space, ArrayTransform, ArrayTransform]:
    low, high, is_stretched, middle, half = stretch_of(space, normalize)
    shape = None if len(space.shape) == 1 else space.shape

    def convert(actions: np.ndarray) -> np.ndarray:
        stretched = middle + half * actions
        # A quarter of the time of np.clip.
        members = np.minimum(np.maximum(stretched, low), high)
        _refuse_nan(members, actions)
        members = members.astype(space.dtype)
        return members if shape is None else members.reshape(-1, *shape)

    with np.errstate(over="ignore"):  # Bounds beyond float32 are none to a policy.
        policy_low = np.where(is_stretched, -1.0, low).astype(np.float32)
        policy_high = np.where(is_stretched, 1.0, high).astype(np.float32)

    def invert(actions: np.ndarray) -> np.ndarray:
        return ((_rows(actions) - middle) / np.where(half == 0.0, 1.0, half)).astype(np.float32)

    return spaces.Box(policy_low, policy_high, dtype=np.float32), convert, invert


def stretch_of(space: spaces.Box, normalize: bool) -> tuple[np.ndarray, ...]:
    """(low, high, whether it is stretched, middle, half width) of each number of a Box, float64: an
    action a of a policy is middle + half * a, clipped to low and high."""
    low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
    is_stretched = np.isfinite(low) & np.isfinite(high) & normalize
    start, end = np.where(is_stretched, low, -1.0), np.where(is_stretched, high, 1.0)
    return low, high, is_stretched, (end + start) / 2, (end - start) / 2


def _refuse_nan(members: np.ndarray, actions: np.ndarray) -> None:
    flat = members.ravel()
    if math.isnan(np.dot(flat, flat)):
        raise RlrunError(
            f"The policy gave the action {actions[np.isnan(members).any(-1)][0]}: learning has "
            f"diverged. Go on from an earlier checkpoint, or start anew, with a lower algo.lr "
            f"or algo.grad_clip."
        )
