"""The seed tree: every random stream of a run has its own place below the run's one seed.

A stream depends on the seed and on its own path (purpose, worker, env), never on how many
others there are: a run with more workers leaves the streams of the first ones unchanged.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np


def seed_sequence(seed: int, *path: str | int) -> np.random.SeedSequence:
    """The node of the seed tree at `path`, e.g. ("env", worker_index, env_index)."""
    keys = [part if isinstance(part, int) else zlib.crc32(part.encode()) for part in path]
    return np.random.SeedSequence(seed, spawn_key=tuple(keys))


def generator(seed: int, *path: str | int) -> np.random.Generator:
    """A NumPy generator of its own for `path`."""
    return np.random.default_rng(seed_sequence(seed, *path))


def integer_seed(seed: int, *path: str | int) -> int:
    """A 31-bit seed for libraries that want one number."""
    return int(seed_sequence(seed, *path).generate_state(1)[0] >> 1)


def seed_process(seed: int, *path: str | int) -> None:
    """Seed the process-wide generators of `random`, NumPy and torch, which user code may use."""
    import torch

    number = integer_seed(seed, "process", *path)
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@contextmanager
def process_streams(seed: int, *path: str | int) -> Iterator[None]:
    """Within, the process-wide generators are those of `path`; those from before go on afterwards
    as if nothing had been drawn. (CUDA's are not seeded here.)"""
    import torch

    before = process_rng_state()
    number = integer_seed(seed, "process", *path)
    random.seed(number)
    np.random.seed(number)
    torch.default_generator.manual_seed(number)
    try:
        yield
    finally:
        restore_process_rng_state(before)


def process_rng_state() -> dict[str, Any]:
    """The state of the process-wide generators, as plain numbers and arrays."""
    import torch

    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "random": [version, list(internal), gauss],
        "numpy": {
            "name": str(name),
            "keys": np.asarray(keys),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached": float(cached),
        },
        "torch": torch.get_rng_state().numpy().copy(),
    }
    if torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state().numpy().copy()
    return state


def restore_process_rng_state(state: dict[str, Any]) -> None:
    """Put back what `process_rng_state` gave."""
    import torch

    version, internal, gauss = state["random"]
    random.setstate((version, tuple(internal), gauss))
    numpy_state = state["numpy"]
    np.random.set_state(
        (
            numpy_state["name"],
            np.asarray(numpy_state["keys"]),
            numpy_state["position"],
            numpy_state["has_gauss"],
            numpy_state["cached"],
        )
    )
    torch.set_rng_state(torch.from_numpy(np.array(state["torch"])))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.from_numpy(np.array(state["cuda"])))
