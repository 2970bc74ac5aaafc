"""Where the rows of a replay buffer lie: in memory, or in files that are mapped into it."""

from __future__ import annotations

import logging
import math
import os
import shutil
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np
import psutil

from rlrun.core.batch import Batch
from rlrun.core.errors import BatchError, ResourceError

logger = logging.getLogger("rlrun")

LARGE_SHARE = 0.7
"""A buffer that will take more than this share of the free memory is worth a warning."""

Slots = slice | np.ndarray


class Memory:
    """Makes arrays in memory."""

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A new array of zeros. Raises ResourceError if there is no room for it."""
        # Zeroed pages take no memory until they are written.
        return np.zeros(shape, dtype)

    def check(self, capacity: int, row_bytes: int) -> None:
        """Say what `capacity` rows will take, before they fill up.

        Raises ResourceError if that is more than there can be; warns if little would be left of
        what is free now.
        """
        needed, memory = capacity * row_bytes, psutil.virtual_memory()
        takes = (
            f"{_taken_by(capacity, row_bytes)}; this machine has {_gigabytes(memory.total)}, of "
            f"which {_gigabytes(memory.available)} are free now."
        )
        if needed > memory.total:
            raise ResourceError(
                f"{takes} Lower algo.buffer_size, or use algo.replay_storage=memmap."
            )
        if needed > LARGE_SHARE * memory.available:
            logger.warning("%s", takes)


class Disk(Memory):
    """Makes arrays in files in `folder` (None: the system's folder for temporary files).

    The files have no name, so that the disk has its room back however the process ends.
    """

    def __init__(self, folder: str | None = None) -> None:
        self.folder = folder or tempfile.gettempdir()

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        if not num_bytes:  # No file is mapped that is empty.
            return super().zeros(shape, dtype)
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                # All of it at once: a disk that fills up later ends the process by a signal.
                os.posix_fallocate(file.fileno(), 0, num_bytes)
                return np.memmap(file, dtype, "r+", shape=shape)
        except OSError as error:
            raise ResourceError(
                f"algo.replay_storage=memmap: no file of {_gigabytes(num_bytes)} can be made in "
                f"{self.folder} ({error.strerror}). Lower algo.buffer_size, or name a folder on "
                f"another disk by algo.replay_folder."
            ) from error

    def require_folder(self) -> None:
        """Raise ResourceError if the folder is not there."""
        if not os.path.isdir(self.folder):
            raise ResourceError(f"algo.replay_folder={self.folder} is no folder. Make it first.")

    def check(self, capacity: int, row_bytes: int) -> None:
        self.require_folder()
        free = shutil.disk_usage(self.folder).free
        if capacity * row_bytes > free:
            raise ResourceError(
                f"{_taken_by(capacity, row_bytes)}; algo.replay_folder={self.folder} has "
                f"{_gigabytes(free)} of free disk. Lower algo.buffer_size, or name a folder on "
                f"another disk."
            )


class Storage:
    """Rows by slot, `capacity` of them. Columns and dtypes are those of the first that come."""

    def __init__(self, capacity: int, place: Memory | None = None) -> None:
        self.capacity = capacity
        self.place = place or Memory()
        self.num_rows_to_check = capacity
        """Rows for which there must be room when the first ones come: of several storages on one
        machine, one looks for all of them."""
        self.columns: dict[str, np.ndarray] = {}
        self.dtypes: dict[str, np.dtype] = {}
        """Those of the columns, as rows come with them."""

    def write(self, slots: Slots, batch: Mapping[str, np.ndarray]) -> None:
        """Put the rows of `batch` into slots [N]. Raises BatchError if their columns or dtypes are
        others than those of the first rows."""
        if not self.columns:
            self._allocate(batch)
        if (found := _dtypes_of(batch)) != self.dtypes:
            raise _other_columns(found, self.dtypes)
        self._put(slots, batch)

    def _put(self, slots: Slots, batch: Mapping[str, np.ndarray]) -> None:
        for name, column in self.columns.items():
            column[slots] = batch[name]

    def read(self, slots: np.ndarray) -> Batch:
        """The rows at slots [N], as fresh arrays."""
        return Batch({name: column.take(slots, 0) for name, column in self.columns.items()})

    @property
    def num_bytes(self) -> int:
        """What it takes when it is full."""
        return sum(column.nbytes for column in self.columns.values())

    def state_dict(self, size: int) -> dict[str, Any]:
        """The first `size` slots, as views."""
        return {"columns": {name: column[:size] for name, column in self.columns.items()}}

    def load_state_dict(self, state: dict[str, Any], size: int) -> None:
        """Put back what `state_dict` gave. Raises ValueError if it was stored in another way."""
        if state.get("frames") is not None:
            raise ValueError("the saved replay buffer stores frames once: algo.replay_frames=null.")
        self._load_columns(state, size)

    def _load_columns(self, state: dict[str, Any], size: int) -> None:
        self.columns = {}
        if size:
            self._make_columns(state["columns"])
            for name, column in state["columns"].items():
                self.columns[name][:size] = column

    def _allocate(self, batch: Mapping[str, np.ndarray]) -> None:
        """Make the columns that the first rows call for."""
        self._make_columns(batch)

    def _make_columns(self, batch: Mapping[str, np.ndarray], other_bytes: int = 0) -> None:
        """Make columns like those of `batch`; a row takes `other_bytes` elsewhere."""
        row_bytes = sum(column[:1].nbytes for column in batch.values())
        if self.num_rows_to_check:
            self.place.check(self.num_rows_to_check, row_bytes + other_bytes)
        self.columns = {
            name: self.place.zeros((self.capacity, *column.shape[1:]), column.dtype)
            for name, column in batch.items()
        }
        self.dtypes = _dtypes_of(batch)


def _dtypes_of(columns: Mapping[str, np.ndarray]) -> dict[str, np.dtype]:
    return {name: column.dtype for name, column in columns.items()}


def _other_columns(found: Mapping[str, Any], expected: Mapping[str, Any]) -> BatchError:
    for name in [*expected, *found]:
        now, before = (str(dtypes.get(name, "not there")) for dtypes in (found, expected))
        if now != before:
            break
    return BatchError(
        f"The column {name!r} of rows for replay is {now}, and was {before} in the first ones. All "
        f"rows need the same columns and dtypes. Does a callback's on_postprocess_trajectory "
        f"change them?"
    )


def _taken_by(capacity: int, row_bytes: int) -> str:
    return (
        f"algo.buffer_size={capacity} rows of {row_bytes:,} bytes take "
        f"{_gigabytes(capacity * row_bytes)} when the buffer is full"
    )


def _gigabytes(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:,.1f} GB"
