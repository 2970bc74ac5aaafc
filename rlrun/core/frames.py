"""Storage of images in which each frame lies once, however many observations show it.

Of Atari's stacks of four frames, and of `obs` and `next_obs`, seven eighths are frames that other
rows have, too (Mnih et al., 2015, Nature 518, keep 1,000,000 transitions in this way).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from rlrun.core.batch import Batch
from rlrun.core.storage import Memory, Slots, Storage

BLOCK_BYTES = 1 << 26
"""Frames get their room in blocks of about this size, as they come."""

OBSERVATIONS = ("obs", "next_obs")
"""Columns of images."""


class FrameStorage(Storage):
    """Storage whose observations are images of integers, [H, W] or stacks [k, H, W] or [H, W, k].

    A column of images [N, ..., *shape] is one of places [N, ..., k] in `frames`. Which frames are
    the same is seen by their contents as they come: rows need no order, windows of n steps and
    sequences share frames like any others, and what is read is what was written. Observations of
    floats are stored as they are.
    """

    def __init__(
        self,
        capacity: int,
        shape: tuple[int, ...],
        place: Memory | None = None,
        new_frames: int = 1,
    ) -> None:
        super().__init__(capacity, place)
        self.shape = shape
        self.new_frames = new_frames
        """Frames that a row brings, but for those at an episode's start, which are few."""
        self.frames: Frames | None = None

    def _put(self, slots: Slots, batch: Mapping[str, np.ndarray]) -> None:
        if self.frames is not None:
            batch = dict(batch)
            for name in self._images:
                self.frames.release(self.columns[name][slots])
                batch[name] = self.frames.put(self._split(batch[name]))
        super()._put(slots, batch)

    def read(self, slots: np.ndarray) -> Batch:
        rows = super().read(slots)
        if self.frames is not None:
            for name in self._images:
                rows[name] = self._join(self.frames.get(rows[name]))
        return rows

    @property
    def num_bytes(self) -> int:
        return super().num_bytes + (0 if self.frames is None else self.frames.num_bytes)

    def state_dict(self, size: int) -> dict[str, Any]:
        frames = None if self.frames is None else self.frames.state_dict()
        return {**super().state_dict(size), "frames": frames}

    def load_state_dict(self, state: dict[str, Any], size: int) -> None:
        frames = state.get("frames")
        if size and frames is None and state["columns"]["obs"].dtype.kind in "iu":
            raise ValueError(
                "the saved replay buffer stores whole images: algo.replay_frames=false."
            )
        self._load_columns(state, size)
        self.frames = None
        if size and frames is not None:
            self.frames = self._make_frames(frames["blocks"][0].dtype)
            self.frames.load_state_dict(frames)
            self.dtypes |= dict.fromkeys(self._images, self.frames.dtype)

    def _allocate(self, batch: Mapping[str, np.ndarray]) -> None:
        if batch["obs"].dtype.kind not in "iu":
            super()._allocate(batch)
            return
        self.frames = self._make_frames(batch["obs"].dtype)
        places = {
            name: np.zeros(self._split(batch[name][:1]).shape[: -len(self._frame_shape)], np.int32)
            for name in OBSERVATIONS
            if name in batch
        }
        self._make_columns({**batch, **places}, self.new_frames * self.frames.frame_bytes)
        self.dtypes |= dict.fromkeys(self._images, self.frames.dtype)

    def _make_frames(self, dtype: Any) -> Frames:
        return Frames(self._frame_shape, np.dtype(dtype), self.place)

    @property
    def _images(self) -> list[str]:
        return [name for name in OBSERVATIONS if name in self.columns]

    @property
    def _is_stack(self) -> bool:
        return len(self.shape) == 3

    @property
    def _is_last(self) -> bool:
        """Whether the axis of the stack is the last one: it is the smaller of first and last."""
        return self._is_stack and self.shape[2] < self.shape[0]

    @property
    def _frame_shape(self) -> tuple[int, ...]:
        if not self._is_stack:
            return self.shape
        return self.shape[:2] if self._is_last else self.shape[1:]

    def _split(self, images: np.ndarray) -> np.ndarray:
        """[N, ..., *shape] -> [N, ..., k, H, W]."""
        if not self._is_stack:
            return np.expand_dims(images, -3)
        return np.moveaxis(images, -1, -3) if self._is_last else images

    def _join(self, frames: np.ndarray) -> np.ndarray:
        """[N, ..., k, H, W] -> [N, ..., *shape]."""
        if not self._is_stack:
            return frames.squeeze(-3)
        return np.moveaxis(frames, -3, -1) if self._is_last else frames


class Frames:
    """Frames [H, W] by place, with a count of the references to each; without any, its place is
    free for another. Place 0 holds a blank frame for ever, to which empty slots refer."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype, place: Memory) -> None:
        self.shape = shape
        self.dtype = dtype
        self.place = place
        self.frame_bytes = int(np.prod(shape)) * dtype.itemsize
        self.block_size = max(BLOCK_BYTES // self.frame_bytes, 1)
        self._word = next(width for width in (8, 4, 2, 1) if self.frame_bytes % width == 0)
        num_words = self.frame_bytes // self._word
        self._weights = np.random.default_rng(0).integers(2**64, size=num_words, dtype=np.uint64)
        self._free: list[int] = []
        self._clear()

    def put(self, frames: np.ndarray) -> np.ndarray:
        """Refer once more to each of frames [..., *shape]; returns their places [...], int32."""
        lead = frames.shape[: -len(self.shape)]
        flat = np.ascontiguousarray(frames).reshape(-1, *self.shape)
        found = map(self._place_of, flat, self._keys_of(flat).tolist())
        places = np.fromiter(found, np.int32, len(flat))
        np.add.at(self.counts, places, 1)
        return places.reshape(lead)

    def release(self, places: np.ndarray) -> None:
        """Take back a reference to each of `places` [...]."""
        np.subtract.at(self.counts, places, 1)
        touched = np.unique(places)
        for place in touched[(self.counts[touched] == 0) & (touched > 0)].tolist():
            key = int(self.keys[place])
            if self._known.get(key) == place:
                del self._known[key]
            self._free.append(place)

    def __len__(self) -> int:
        """How many frames there are that somebody refers to."""
        return int(np.count_nonzero(self.counts[1:]))

    def get(self, places: np.ndarray) -> np.ndarray:
        """The frames at `places` [...], as a fresh array [..., *shape]."""
        found = np.empty((places.size, *self.shape), self.dtype)
        for row, place in enumerate(places.ravel().tolist()):
            found[row] = self._at(place)
        return found.reshape(*places.shape, *self.shape)

    @property
    def num_bytes(self) -> int:
        """What it takes now."""
        per_frame = self.frame_bytes + self.counts.itemsize + self.keys.itemsize
        return self._num_used * per_frame

    def state_dict(self) -> dict[str, Any]:
        """All places that were ever used, as views, and their references."""
        sizes = np.clip(self._num_used - self.block_size * np.arange(len(self.blocks)), 0, None)
        blocks = [block[:size] for block, size in zip(self.blocks, sizes.tolist(), strict=True)]
        return {
            "blocks": [block for block in blocks if len(block)],
            "counts": self.counts[: self._num_used].copy(),
            # The last is taken first.
            "free": np.array(self._free, np.int64),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self._clear()
        counts = np.asarray(state["counts"])
        self._num_used = len(counts)
        for index, saved in enumerate(state["blocks"]):
            if index == len(self.blocks):
                self._add_block()
            self.blocks[index][: len(saved)] = saved
            keys = self._keys_of(self.blocks[index][: len(saved)])
            start = index * self.block_size
            self.keys[start : start + len(saved)] = keys
        self.counts[: self._num_used] = counts
        self._free = np.asarray(state["free"]).tolist()
        used = np.flatnonzero(counts[1:]) + 1
        self._known |= dict(zip(self.keys[used].tolist(), used.tolist(), strict=True))

    def _clear(self) -> None:
        self.blocks: list[np.ndarray] = []
        self.counts = np.zeros(0, np.int64)
        self.keys = np.zeros(0, np.uint64)
        self._known: dict[int, int] = {}
        self._free = []
        self._num_used = 0
        self._place_of(np.zeros(self.shape, self.dtype), 0)

    def _at(self, place: int) -> np.ndarray:
        return self.blocks[place // self.block_size][place % self.block_size]

    def _place_of(self, frame: np.ndarray, key: int) -> int:
        """Where `frame` lies, which is put into a new place if it lies nowhere."""
        place = self._known.get(key)
        # Two frames may have one key: then the second is not found again, and lies there twice.
        if place is not None and self._at(place).tobytes() == frame.tobytes():
            return place
        new = self._new_place()
        self._at(new)[...] = frame
        self.keys[new] = key
        self._known.setdefault(key, new)
        return new

    def _new_place(self) -> int:
        if self._free:
            return self._free.pop()
        if self._num_used == len(self.blocks) * self.block_size:
            self._add_block()
        self._num_used += 1
        return self._num_used - 1

    def _add_block(self) -> None:
        # Blocks stay where they are: views of them may be on their way into a checkpoint.
        self.blocks.append(self.place.zeros((self.block_size, *self.shape), self.dtype))
        self.counts = np.append(self.counts, np.zeros(self.block_size, np.int64))
        self.keys = np.append(self.keys, np.zeros(self.block_size, np.uint64))

    def _keys_of(self, frames: np.ndarray) -> np.ndarray:
        """A number for each of frames [N, *shape] that differs, nearly always, where they do."""
        words = frames.reshape(len(frames), -1).view(f"u{self._word}")
        return np.einsum("ij,j->i", words, self._weights)
