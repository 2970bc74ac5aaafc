"""Denormals, numbers nearer to 0 than 1e-38, which a CPU works out a hundred times as slowly as
others. Learners take them for zeros.

Adam's mean gradient of a unit that no longer learns halves its way to them and stays there: in some
hundred updates a step comes to take ten times as long. Envs and callbacks keep them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_NUMBERS_PER_THREAD = 2**16
"""Enough that torch gives some to each thread."""


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """In it this thread, and threads that it starts, take denormals for zeros."""
    was_flushing = is_flushing()
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_flushing)


def is_flushing() -> bool:
    """Whether this thread takes denormals for zeros."""
    return sys.float_info.min * 0.5 == 0.0


def set_num_threads(num_threads: int) -> None:
    """torch.set_num_threads, with threads that flush denormals if they are new: torch starts them
    with its first work, and has no way to tell them later."""
    torch.set_num_threads(num_threads)
    if num_threads > 1:
        with denormals_flushed():
            torch.zeros(num_threads * _NUMBERS_PER_THREAD).add_(1.0)
