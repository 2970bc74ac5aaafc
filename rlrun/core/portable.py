"""A policy with all that stands around it as one torch module: what exports are made of.

Its parts are the twins in torch of `Preprocessor` and `ActionConverter`, which are NumPy.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from rlrun.core.actions import ActionConverter, ActionLeaf, Simplex, stretch_of
from rlrun.core.batch import STATE, Batch
from rlrun.core.errors import RlrunError
from rlrun.core.nested import Path, leaves_of
from rlrun.core.policy import Policy
from rlrun.core.spaces import PixelScale, Preprocessor, is_image


class PortablePolicy(nn.Module):
    """Observations as the env gives them -> the most likely actions as the env takes them.

    Inputs and outputs are a batch [N, ...] of each leaf of the env's spaces, named `obs` and
    `actions` or (of Dict and Tuple spaces) `obs.<key>` and `actions.<key>`. A policy with memory
    takes `state_in.<name>` besides and gives `state_out.<name>`; where it looks at what it did
    before, it takes `prev_actions` (as the env took them) and `prev_rewards` too.
    """

    def __init__(
        self, policy: Policy, preprocessor: Preprocessor, converter: ActionConverter
    ) -> None:
        super().__init__()
        self.policy = copy.deepcopy(policy).cpu().eval()
        self.policy.mute_noise()
        self.policy.requires_grad_(False)
        self.encode = ObservationEncoder(preprocessor)
        self.decode = ActionDecoder(converter)
        if preprocessor.layout is not None:
            _lay_out_in_floats(self.policy)
        self._state = self.policy.initial_state(1)
        self._obs_leaves = leaves_of(preprocessor.original_space)

    @property
    def input_names(self) -> list[str]:
        """The names of what `forward` takes, in order."""
        names = [_named("obs", path) for path, _ in self._obs_leaves]
        names += [f"state_in.{name}" for name in self._state]
        if self.policy.uses_previous:
            names += [_named("prev_actions", leaf.path) for leaf in self.decode.leaves]
            names.append("prev_rewards")
        return names

    @property
    def output_names(self) -> list[str]:
        """The names of what `forward` gives, in order."""
        names = [_named("actions", leaf.path) for leaf in self.decode.leaves]
        return names + [f"state_out.{name}" for name in self._state]

    def example_inputs(self, num_rows: int) -> tuple[torch.Tensor, ...]:
        """What an episode's start looks like to `forward`, with zeros for observations."""
        found = [_zeros(leaf, num_rows) for _, leaf in self._obs_leaves]
        found += [torch.from_numpy(part) for part in self.policy.initial_state(num_rows).values()]
        if self.policy.uses_previous:
            found += [_zeros(leaf.space, num_rows) for leaf in self.decode.leaves]
            found.append(torch.zeros(num_rows))
        return tuple(found)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """See `input_names` and `output_names`."""
        given = iter(inputs)
        observations = [next(given) for _ in self._obs_leaves]
        rows = Batch(obs=self.encode(observations))
        for name in self._state:
            rows[f"{STATE}{name}"] = next(given)
        if self.policy.uses_previous:
            rows["prev_actions"] = self.decode.invert([next(given) for _ in self.decode.leaves])
            rows["prev_rewards"] = next(given)
        dist, state = self.policy.decide(rows)
        return (*self.decode(dist.mode()), *(state[name] for name in self._state))


class ObservationEncoder(nn.Module):
    """A batch of each leaf of an observation space -> what the policy takes, [N, ...]."""

    def __init__(self, preprocessor: Preprocessor) -> None:
        super().__init__()
        parts = preprocessor.parts
        self.order: list[int] | None = None
        """Which leaf comes when; None: there is only one, which stays as it is."""
        self.dtype = _torch_dtype(preprocessor.space.dtype)
        if parts is None:
            return
        places = [path for path, _ in leaves_of(preprocessor.original_space)]
        as_they_are = [*parts.mask, *parts.images]
        self.order = [places.index(path) for path, _ in [*parts.vector, *as_they_are]]
        self.leaves = nn.ModuleList(
            [*(_flat(leaf) for _, leaf in parts.vector), *(AsFloats() for _ in as_they_are)]
        )

    def forward(self, observations: list[torch.Tensor]) -> torch.Tensor:
        """In the order of `leaves_of`."""
        if self.order is None:
            return observations[0].to(self.dtype)
        flat = [leaf(observations[i]) for i, leaf in zip(self.order, self.leaves, strict=True)]
        return torch.cat(flat, 1) if len(flat) > 1 else flat[0]


class AsFloats(nn.Module):
    """Numbers [N, ...] -> [N, size], float32."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values.to(torch.float32).flatten(1)


class ScaledPixels(AsFloats):
    """The same, scaled from the bounds of an image to [0, 1]."""

    low: torch.Tensor
    factor: torch.Tensor

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        scale = PixelScale(space)
        for name in ("low", "factor"):
            flat = np.broadcast_to(np.float32(getattr(scale, name)), space.shape).reshape(-1)
            self.register_buffer(name, torch.from_numpy(flat.copy()))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return (super().forward(values) - self.low) * self.factor


class OneHot(nn.Module):
    """Choices [N, ...] -> a one for each of them, [N, sum(nvec)], float32."""

    offsets: torch.Tensor
    columns: torch.Tensor

    def __init__(self, nvec: np.ndarray, start: np.ndarray) -> None:
        super().__init__()
        offsets = np.concatenate([[0], np.cumsum(nvec)[:-1]]) - start
        self.register_buffer("offsets", torch.from_numpy(offsets.astype(np.int64)))
        self.register_buffer("columns", torch.arange(int(nvec.sum())))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        chosen = values.long().reshape(values.shape[0], -1) + self.offsets
        return (chosen.unsqueeze(-1) == self.columns).float().sum(1)


class ActionDecoder(nn.Module):
    """A policy's actions [N, ...] -> a batch of each leaf of the action space, as envs take it."""

    def __init__(self, converter: ActionConverter) -> None:
        super().__init__()
        self.leaves: list[ActionLeaf] = converter.leaves
        self.is_structured = converter.is_structured
        self.is_discrete = all(leaf.is_discrete for leaf in self.leaves)
        self.parts = nn.ModuleList(
            _Stretch(leaf.space, converter.normalize_actions) if _is_box(leaf) else _Shift(leaf)
            for leaf in self.leaves
        )

    def forward(self, actions: torch.Tensor) -> list[torch.Tensor]:
        if not self.is_structured:
            return [self.parts[0](actions)]
        return [
            part(self._own(leaf, actions))
            for leaf, part in zip(self.leaves, self.parts, strict=True)
        ]

    def invert(self, env_actions: list[torch.Tensor]) -> torch.Tensor:
        """What the policy gave for actions of the env, [N, ...]."""
        found = [
            part.invert(own)  # type: ignore[operator]
            for part, own in zip(self.parts, env_actions, strict=True)
        ]
        if not self.is_structured:
            return found[0]
        columns = [each.reshape(each.shape[0], -1) for each in found]
        return torch.cat([each if self.is_discrete else each.float() for each in columns], 1)

    def _own(self, leaf: ActionLeaf, actions: torch.Tensor) -> torch.Tensor:
        part = actions[:, leaf.start : leaf.stop]
        return part.squeeze(1) if isinstance(leaf.policy_space, spaces.Discrete) else part


class _Shift(nn.Module):
    """Choices, and Boxes of whole numbers, counted from 0; and the shares of a Simplex."""

    start: torch.Tensor

    def __init__(self, leaf: ActionLeaf) -> None:
        super().__init__()
        space = leaf.space
        self.shape = tuple(space.shape or ())
        self.is_simplex = isinstance(leaf.policy_space, Simplex)
        self.dtype = _torch_dtype(space.dtype)
        start: Any = getattr(space, "start", 0)
        if isinstance(space, spaces.Box) and not self.is_simplex:
            start = space.low
        self.register_buffer("start", torch.from_numpy(np.asarray(start).astype(np.int64)))

    def forward(self, actions: torch.Tensor) -> torch.Tensor:
        if self.is_simplex:
            weights = actions.double().clamp(min=0.0)
            return (weights / weights.sum(-1, keepdim=True)).to(self.dtype)
        return (actions.long().reshape(-1, *self.shape) + self.start).to(self.dtype)

    def invert(self, env_actions: torch.Tensor) -> torch.Tensor:
        if self.is_simplex:
            return env_actions.float()
        found = env_actions.long() - self.start
        return found.reshape(found.shape[0], -1) if self.shape else found


class _Stretch(nn.Module):
    """A Box of floats; see `stretch_of`. Buffers: float64, [size]."""

    low: torch.Tensor
    high: torch.Tensor
    middle: torch.Tensor
    half_width: torch.Tensor

    def __init__(self, space: Any, normalize: bool) -> None:
        super().__init__()
        self.shape = space.shape
        self.dtype = _torch_dtype(space.dtype)
        low, high, _, middle, half = stretch_of(space, normalize)
        for name, array in (("low", low), ("high", high), ("middle", middle), ("half_width", half)):
            self.register_buffer(name, torch.from_numpy(array))

    def forward(self, actions: torch.Tensor) -> torch.Tensor:
        stretched = self.middle + self.half_width * actions.double()
        members = torch.minimum(torch.maximum(stretched, self.low), self.high)
        return members.to(self.dtype).reshape(-1, *self.shape)

    def invert(self, env_actions: torch.Tensor) -> torch.Tensor:
        width = torch.where(self.half_width == 0.0, 1.0, self.half_width)
        return ((env_actions.double().flatten(1) - self.middle) / width).float()


def _flat(space: spaces.Space) -> nn.Module:
    """What `Preprocessor` makes of a leaf that becomes part of a vector."""
    if isinstance(space, spaces.Discrete):
        return OneHot(np.array([space.n]), np.array([space.start]))
    if isinstance(space, spaces.MultiDiscrete):
        return OneHot(space.nvec.ravel(), np.asarray(space.start).ravel())
    if isinstance(space, spaces.Box) and is_image(space):
        return ScaledPixels(space)
    return AsFloats()


def _is_box(leaf: ActionLeaf) -> bool:
    return isinstance(leaf.policy_space, spaces.Box) and not isinstance(leaf.policy_space, Simplex)


def _lay_out_in_floats(policy: Policy) -> None:
    """Let a policy take rows of floats alone: whoever holds a layout of it gets the other one."""
    holders: list[Any] = [*policy.modules()]
    if getattr(policy, "action_mask", None) is not None:
        holders.append(policy.action_mask)
    for holder in holders:
        layout = vars(holder).get("layout")
        if layout is not None:
            holder.layout = layout.in_floats()


def _zeros(space: spaces.Space, num_rows: int) -> torch.Tensor:
    return torch.zeros(num_rows, *(space.shape or ()), dtype=_torch_dtype(space.dtype))


def _torch_dtype(dtype: Any) -> torch.dtype:
    try:
        return torch.from_numpy(np.zeros(0, dtype)).dtype
    except TypeError as error:
        raise RlrunError(
            f"torch has no numbers like {np.dtype(dtype)}, so none are given."
        ) from error


def _named(what: str, path: Path) -> str:
    return ".".join([what, *map(str, path)])
