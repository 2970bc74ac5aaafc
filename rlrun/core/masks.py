"""Actions that must not be taken: the mask that an env gives, laid over what a network gives."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlrun.core.errors import RlrunError, SpaceError
from rlrun.core.layout import Layout, layout_of

LEAST_FLOAT = float(np.finfo(np.float32).min)
"""What stands for -inf, which times a discount of 0 would be nan."""


def mask_inputs(inputs: Any, mask: Any) -> Any:
    """`inputs` [..., n] (logits or action values) with float32's least where mask [..., n] is 0.

    NumPy or torch, both of the same; no gradient passes where the mask is 0.
    """
    if isinstance(inputs, torch.Tensor):
        return torch.where(mask != 0, inputs, LEAST_FLOAT)
    return np.where(mask != 0, inputs, np.float32(LEAST_FLOAT))


class ActionMask:
    """Knows where the mask lies in preprocessed rows, and lays it over a policy's outputs."""

    def __init__(self, layout: Layout, action_space: spaces.Space) -> None:
        num_choices = choices_of(action_space)
        if sum(num_choices) != layout.mask_size:
            raise SpaceError(
                f"model.mask_actions=true: 'action_mask' has {layout.mask_size} entries, and the "
                f"action space {action_space} has {sum(num_choices)} choices. The mask must have "
                f"one number for each (MultiDiscrete: for those of all its dimensions, in order), "
                f"as MultiBinary or Box."
            )
        self.layout = layout
        self._starts = np.cumsum([0, *num_choices[:-1]])

    def __call__(self, inputs: Any, obs: Any) -> Any:
        """inputs [..., n] with what the mask in the preprocessed rows obs [..., width] excludes set
        to float32's least. Raises RlrunError for a NumPy row that allows nothing."""
        mask = self.layout.mask(obs)
        if isinstance(inputs, np.ndarray):
            self._check(mask)
        return mask_inputs(inputs, mask)

    def allows_any(self, obs: np.ndarray) -> np.ndarray:
        """Whether the mask in obs [..., width] leaves an action in every dimension, [...]."""
        is_allowed = self.layout.mask(obs) != 0
        return np.all(np.logical_or.reduceat(is_allowed, self._starts, axis=-1), axis=-1)

    def _check(self, mask: np.ndarray) -> None:
        allowed = np.logical_or.reduceat(mask != 0, self._starts, axis=-1)
        if not allowed.all():
            row = mask[~allowed.all(-1)][0].astype(np.int64).tolist()
            raise RlrunError(
                f"The env's action_mask {row} allows no action: where an action is due, it must "
                f"leave at least one (in every dimension of a MultiDiscrete)."
            )


def action_mask(obs_space: spaces.Space, action_space: spaces.Space) -> ActionMask | None:
    """What a policy lays over its outputs; None where actions are not masked. Raises SpaceError."""
    layout = layout_of(obs_space)
    return ActionMask(layout, action_space) if layout is not None and layout.mask_size else None


def choices_of(action_space: spaces.Space) -> list[int]:
    """How many choices each dimension has, in the order of a distribution's inputs.

    Raises SpaceError if there is more to an action than choices.
    """
    if isinstance(action_space, spaces.Discrete):
        return [int(action_space.n)]
    if isinstance(action_space, spaces.MultiDiscrete):
        return [int(n) for n in action_space.nvec.ravel()]
    if isinstance(action_space, spaces.Tuple):
        return [n for part in action_space.spaces for n in choices_of(part)]
    raise SpaceError(
        f"model.mask_actions=true is for Discrete and MultiDiscrete actions (also several of them "
        f"in a Tuple or Dict); {action_space} has no choices to mask. Use model.mask_actions=false."
    )
