"""Actions as a network sees them, for policies that look at what they did before."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces


class ActionEncoder:
    """Turns actions in the policy's terms into vectors: choices are one-hot, numbers as they are.

    action_space: as ActionConverter.policy_space gives it.
    """

    def __init__(self, action_space: spaces.Space) -> None:
        parts = action_space.spaces if isinstance(action_space, spaces.Tuple) else [action_space]
        self.nvec = [size for part in parts for size in _sizes(part)]
        """For each column, the number of its choices; 0 where it is a number itself."""
        self.output_size = sum(max(size, 1) for size in self.nvec)
        self._is_number = isinstance(action_space, spaces.Discrete)

    def __call__(self, actions: Any) -> Any:
        """actions [..., k] (Discrete: [...]), NumPy or torch -> [..., output_size], float32."""
        if self._is_number:
            actions = actions[..., None]
        is_torch = isinstance(actions, torch.Tensor)
        parts = []
        for column, size in enumerate(self.nvec):
            part = actions[..., column : column + 1]
            if size and is_torch:
                part = part == torch.arange(size, device=actions.device)
            elif size:
                part = part == np.arange(size)
            parts.append(part.float() if is_torch else part.astype(np.float32))
        return torch.cat(parts, -1) if is_torch else np.concatenate(parts, -1)

    def no_actions(self, num_rows: int) -> torch.Tensor:
        """What stands for no actions, in the policy's terms."""
        shape = (num_rows,) if self._is_number else (num_rows, len(self.nvec))
        return torch.zeros(shape, dtype=torch.int64 if all(self.nvec) else torch.float32)


def _sizes(space: spaces.Space) -> list[int]:
    if isinstance(space, spaces.Discrete):
        return [int(space.n)]
    if isinstance(space, spaces.MultiDiscrete):
        return [int(n) for n in space.nvec.ravel()]
    return [0] * int(np.prod(space.shape or ()))
