"""What the person at the keyboard is told when something fails, and the exit status."""

from __future__ import annotations

import os
import sys
import traceback

from rlrun.core.errors import (
    CallbackError,
    ConfigError,
    MissingExtraError,
    ResourceError,
    RlrunError,
    WorkerError,
)

USER_WANTS_TRACEBACKS = os.environ.get("HYDRA_FULL_ERROR", "") not in ("", "0")
"""What the user has set, before `rlrun.train` sets the variable for Hydra."""


def report(error: Exception, full_error: bool | None = None) -> int:
    """Print an error for the person at the keyboard; returns the exit status.

    What is none of ours comes with its traceback: a bug in the user's code, or in rlrun. So does
    everything with `full_error` (null: where the user has set HYDRA_FULL_ERROR).
    """
    full_error = USER_WANTS_TRACEBACKS if full_error is None else full_error
    is_refusal = isinstance(error, ConfigError | MissingExtraError | ResourceError)
    if isinstance(error, MemoryError):
        error = RlrunError(
            f"The memory does not suffice: {error}. Batches (algo.train_batch_size), replay "
            f"(algo.buffer_size) and envs (algo.num_envs_per_worker) take the most."
        )
    if not isinstance(error, RlrunError):
        traceback.print_exception(error)
        error = RlrunError(f"ended by the error above: {type(error).__name__}: {error}")
    elif full_error:
        traceback.print_exception(error)
    elif isinstance(error, CallbackError | WorkerError) and error.__cause__ is not None:
        # An env, worker or callback failed: its own traceback says where.
        traceback.print_exception(error.__cause__)
    sys.stderr.write(f"rlrun: {error}\n")
    return 2 if is_refusal else 1
