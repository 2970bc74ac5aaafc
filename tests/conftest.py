"""What all tests share: toy envs by the import path `toy_envs.<class>`, one local Ray, and what has
been composed."""

from __future__ import annotations

import copy
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Small networks on two cores: a second thread only gets in the way. Before NumPy is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Ray workers take over the driver's sys.path, so toy_envs is found there too.
TESTS = str(Path(__file__).resolve().parent)
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """One local Ray of four CPUs for the whole session; rlrun uses the Ray that it finds."""
    import ray

    auth_mode = os.environ.get("RAY_AUTH_MODE")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        ray.init(
            num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
    if auth_mode is None:
        os.environ.pop("RAY_AUTH_MODE", None)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session", autouse=True)
def composed_once() -> Iterator[None]:
    """make_trainer does not compose again what it has composed, which takes 0.3 s: composing was a
    fifth of the suite's time. What names a class, whose source counts, is composed each time."""
    from rlrun import python_api

    compose, known = python_api.compose, {}

    def compose_once(overrides: list[str]) -> Any:
        given = tuple(overrides)
        if any("_target_" in override for override in given):
            return compose(overrides)
        if given not in known:
            known[given] = compose(overrides)
        return copy.deepcopy(known[given])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(python_api, "compose", compose_once)
        yield
