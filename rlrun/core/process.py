"""What a trainer changes for the whole process, and gives back when it stops."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import sys
from typing import Any

from rlrun.core import finite, seeding
from rlrun.core.errors import ConfigError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""glibc's names of what `mallopt` sets (malloc.h)."""
_LARGEST_MMAP_THRESHOLD = 32 * 2**20
"""Bytes, the most that glibc takes; larger arrays come from the system, and go back at once."""
_KEPT_MEMORY = 256 * 2**20
"""Bytes of freed memory, at most, that the process keeps."""


class ProcessState:
    """Random generators, thread counts and torch's precision, as they were when this was made.

    A trainer seeds `random`, NumPy and torch, which envs and callbacks may draw from, and caps the
    threads of torch. Made before that, this gives all of it back in `restore`. NumPy's BLAS has one
    thread until then: it acts on a few rows at a time, and on a busy machine a second thread makes
    that ten times slower. What user code draws while a trainer lives comes from the trainer's seed.
    """

    def __init__(self) -> None:
        import torch

        keep_freed_memory()
        self._rng: dict[str, Any] | None = seeding.process_rng_state()
        self._num_threads = torch.get_num_threads()
        self._matmul_precision = torch.get_float32_matmul_precision()
        self._is_checked_everywhere = finite.is_checked_everywhere
        self._blas = None if "OPENBLAS_NUM_THREADS" in os.environ else _one_blas_thread()

    def restore(self) -> None:
        """Put everything back, once; later calls change nothing."""
        import torch

        if self._rng is None:
            return
        seeding.restore_process_rng_state(self._rng)
        torch.set_num_threads(self._num_threads)
        torch.set_float32_matmul_precision(self._matmul_precision)
        if finite.is_checked_everywhere != self._is_checked_everywhere:
            finite.check_everywhere(self._is_checked_everywhere)
        if self._blas is not None:
            self._blas.restore_original_limits()
        self._rng = None


def set_matmul_precision(precision: str | None) -> None:
    """torch.set_float32_matmul_precision; None leaves it as it is."""
    import torch

    if precision is not None:
        torch.set_float32_matmul_precision(precision)


def keep_freed_memory() -> None:
    """Let the process keep what it frees, where its allocator is glibc's and the user has not tuned
    it. By default glibc hands tensors of half a megabyte back to the system with every update and
    asks for them anew, which the system clears page by page: a tenth of SAC's time."""
    is_tuned = "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(
        name in os.environ for name in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")
    )
    if sys.platform == "linux" and not is_tuned:
        allocator = ctypes.CDLL(None)
        if hasattr(allocator, "mallopt"):  # Other libraries of C have none.
            allocator.mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
            allocator.mallopt(_M_TRIM_THRESHOLD, _KEPT_MEMORY)


def require_compiler(device: Any) -> None:
    """Raise ConfigError if torch.compile lacks what it makes code with for a torch device."""
    if device.type == "cpu":
        compilers = (os.environ.get("CXX", "g++"), "g++", "clang++")
        is_there, what = any(map(shutil.which, compilers)), "a C++ compiler (g++ or clang++)"
    else:
        is_there, what = importlib.util.find_spec("triton") is not None, "the package triton"
    if not is_there:
        raise ConfigError(
            f"model.compile=true needs {what}, which is not there. Install it, or use "
            f"model.compile=false."
        )


def _one_blas_thread() -> Any:
    from threadpoolctl import threadpool_limits

    return threadpool_limits(limits=1, user_api="blas")
