"""Envs that are solved at once by whoever sees and acts in their spaces rightly, for tests."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from rlrun.core.actions import Simplex
from rlrun.core.nested import at, leaves_of

ACTION_SPACES: dict[str, spaces.Space] = {
    "multi binary": spaces.MultiBinary([2, 2]),
    "multi discrete": spaces.MultiDiscrete([[2, 3], [3, 2]]),
    "box": spaces.Box(-2.0, 6.0, (2, 2), np.float64),
    "counts": spaces.Box(-1, 2, (2,), np.int8),
    "simplex": Simplex(3),
    "weights": spaces.Box(0.0, 1.0, (3,), np.float32),
    "bounded": spaces.Box(-2.0, 6.0, (2,), np.float32),
    "unbounded": spaces.Box(-np.inf, np.inf, (2,), np.float32),
    "discrete": spaces.Discrete(3, start=1),
    "tuple": spaces.Tuple([spaces.Discrete(3, start=1), spaces.Box(-2.0, 6.0, (2,), np.float32)]),
    "dict": spaces.Dict(
        {
            "turn": spaces.MultiBinary(2),
            "arm": spaces.Tuple([spaces.Box(-1.0, 3.0, (2, 1)), spaces.Discrete(2)]),
            "shares": Simplex(2),
        }
    ),
    "tuple of choices": spaces.Tuple([spaces.Discrete(3), spaces.MultiBinary(2)]),
}


class MatchEnv(gym.Env):
    """Shows which action it wants, one after the other of `num_targets` members of its action space
    in random order; the reward is 1 - the mean distance of the action's parts from it (0 or 1 for
    choices, and for numbers twice the share of their range, at most 1). Episodes have `length`
    steps.

    Raises ValueError for an action that is not in its space.
    """

    def __init__(self, actions: str = "dict", length: int = 8, num_targets: int = 4) -> None:
        self.action_space = ACTION_SPACES[actions]
        self.observation_space = spaces.Box(0.0, 1.0, (num_targets,), np.float32)
        self.length = length
        space = Simplex(3) if actions == "weights" else self.action_space
        space.seed(4)
        self.targets = [space.sample() for _ in range(num_targets)]
        self.steps = self.target = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._next(), {}

    def step(self, action: Any) -> Any:
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not in {self.action_space}")
        wanted = self.targets[self.target]
        distances = []
        for path, leaf in leaves_of(self.action_space):
            gap = np.abs(np.asarray(at(action, path), float) - np.asarray(at(wanted, path), float))
            if isinstance(leaf, spaces.Box) and leaf.dtype.kind == "f":
                width = np.minimum(leaf.high - leaf.low, 4.0)
                distances.append(np.mean(np.minimum(2.0 * gap / width, 1.0)))
            else:
                distances.append(np.mean(gap > 0.0))
        self.steps += 1
        reward = 1.0 - float(np.mean(distances))
        return self._next(), reward, False, self.steps == self.length, {}

    def _next(self) -> np.ndarray:
        self.target = int(self.np_random.integers(len(self.targets)))
        return np.eye(len(self.targets), dtype=np.float32)[self.target]


class MaskedEnv(gym.Env):
    """Wants the highest action that its mask allows: reward 1 for it, else 0, and an error for one
    that the mask does not allow. What it wants can be seen in the mask alone.

    actions: "discrete" (6), "multi" ([3, 4]) or "tuple" (both kinds). kind: "box", "image" or
    "nested", what stands beside the mask. The mask of the state in which an episode terminates
    allows nothing; `stuck_at` is a step from which on none does.
    """

    def __init__(
        self,
        actions: str = "discrete",
        kind: str = "box",
        length: int = 6,
        stuck_at: int | None = None,
        truncates: bool = False,
    ) -> None:
        self.action_space = {
            "discrete": spaces.Discrete(6),
            "multi": spaces.MultiDiscrete([3, 4]),
            "tuple": spaces.Tuple([spaces.Discrete(3), spaces.MultiDiscrete([2, 2])]),
        }[actions]
        self.sizes = {"discrete": [6], "multi": [3, 4], "tuple": [3, 2, 2]}[actions]
        seen = {
            "box": spaces.Box(-1.0, 1.0, (2,), np.float32),
            "image": spaces.Box(0, 255, (12, 12, 1), np.uint8),
            "nested": spaces.Dict(
                {"image": spaces.Box(0, 255, (12, 12), np.uint8), "phase": spaces.Discrete(3)}
            ),
        }[kind]
        self.observation_space = spaces.Dict(
            {"action_mask": spaces.MultiBinary(sum(self.sizes)), "observations": seen}
        )
        self.length = length
        self.stuck_at = stuck_at
        self.truncates = truncates
        self.steps = 0
        self.masks: list[np.ndarray] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        flat = np.concatenate([np.ravel(part) for part in _parts(action)])
        for choice, mask in zip(flat, self.masks, strict=True):
            if not mask[choice]:
                raise ValueError(f"the action {action!r} is masked: {self.masks}")
        best = [int(np.flatnonzero(mask)[-1]) for mask in self.masks]
        reward = float(np.mean(flat == best))
        self.steps += 1
        is_over = self.steps == self.length
        terminated, truncated = is_over and not self.truncates, is_over and self.truncates
        return self._observation(terminated), reward, terminated, truncated, {}

    def _observation(self, is_over: bool = False) -> Any:
        is_stuck = self.stuck_at is not None and self.steps >= self.stuck_at
        self.masks = [self._mask(size, is_over or is_stuck) for size in self.sizes]
        seen = self.observation_space["observations"]
        values: Any = np.zeros(seen.shape, seen.dtype) if seen.shape else None
        if values is None:
            values = {"image": np.full((12, 12), self.steps, np.uint8), "phase": self.steps % 3}
        return {"action_mask": np.concatenate(self.masks), "observations": values}

    def _mask(self, size: int, is_closed: bool) -> np.ndarray:
        if is_closed:
            return np.zeros(size, np.int8)
        mask = self.np_random.integers(2, size=size, dtype=np.int8)
        mask[self.np_random.integers(size)] = 1
        return mask


def _parts(action: Any) -> tuple[Any, ...]:
    return action if isinstance(action, tuple) else (action,)


class NestedImageEnv(gym.Env):
    """Wants the action 1 where the image is bright and the flag is set, or neither; else 0.

    obs: {"camera": (image [12, 12, 3] of bytes, image of floats [3, 12, 12] that says nothing),
    "flag": Discrete(2), "noise": large numbers that say nothing}.
    """

    def __init__(self, length: int = 8) -> None:
        self.observation_space = spaces.Dict(
            {
                "camera": spaces.Tuple(
                    [
                        spaces.Box(0, 255, (12, 12, 3), np.uint8),
                        spaces.Box(0.0, 1.0, (3, 12, 12), np.float32),
                    ]
                ),
                "flag": spaces.Discrete(2),
                "noise": spaces.Box(-1e3, 1e3, (2,), np.float32),
            }
        )
        self.action_space = spaces.Discrete(2)
        self.length = length
        self.steps = self.wanted = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self._observation(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        reward = float(action == self.wanted)
        return self._observation(), reward, False, self.steps == self.length, {}

    def _observation(self) -> Any:
        is_bright, flag = map(int, self.np_random.integers(2, size=2))
        self.wanted = int(is_bright == flag)
        return {
            "camera": (
                np.full((12, 12, 3), 200 * is_bright, np.uint8),
                np.zeros((3, 12, 12), np.float32),
            ),
            "flag": flag,
            "noise": self.np_random.normal(0.0, 300.0, 2).astype(np.float32),
        }


def make_masked(num_envs: int) -> gym.vector.SyncVectorEnv:
    """gymnasium's vector env of masked ones, which resets in the step after an episode's end."""
    return gym.vector.SyncVectorEnv([MaskedEnv] * num_envs)


gym.register("space/NativeMasked-v0", vector_entry_point="space_envs:make_masked")
