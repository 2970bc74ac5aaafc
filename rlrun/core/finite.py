"""Whether numbers are finite, and which are not. Where a run is debugged, everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rlrun.core.errors import RlrunError

if TYPE_CHECKING:
    from rlrun.core.flat import FlatParameters

is_checked_everywhere = False
"""Whether this process checks batches, losses and gradients as well (debug=true)."""


def check_everywhere(is_on: bool) -> None:
    """Let this process check batches, losses and gradients, and autograd find what made one nan."""
    global is_checked_everywhere
    import torch

    is_checked_everywhere = is_on
    torch.autograd.set_detect_anomaly(is_on, check_nan=is_on)


def first_not_finite(column: np.ndarray) -> tuple[int, ...] | None:
    """Where the first entry of a float array lies that is no finite number; None if all are."""
    if column.dtype.kind != "f":
        return None
    # A quick look: the sum of squares is finite only if all is, though large ones overflow.
    flat = column.reshape(-1)
    if math.isfinite(np.dot(flat, flat)):
        return None
    places = np.argwhere(~np.isfinite(column))
    return tuple(places[0]) if len(places) else None


def require_columns(columns: Mapping[str, np.ndarray], of_what: str) -> None:
    """Raise RlrunError that names the first column with an entry that is not finite."""
    for name, column in columns.items():
        if (place := first_not_finite(np.asarray(column))) is not None:
            at = ", ".join(map(str, place))
            raise RlrunError(f"{of_what}: the column {name!r} has {column[place]} at [{at}].")


def require_loss(loss: Any, module: Any) -> None:
    """Raise RlrunError unless a loss (a scalar tensor) of a network is finite."""
    if not math.isfinite(value := loss.item()):
        raise RlrunError(f"The loss of {type(module).__name__} is {value}.")


def require_gradients(flat: FlatParameters) -> None:
    """Raise RlrunError that names the first parameter whose gradient is not finite."""
    for name, parameter in flat.module.named_parameters():
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            num_wrong = int((~parameter.grad.isfinite()).sum())
            raise RlrunError(
                f"The gradient of {name} is not finite in {num_wrong} of its {parameter.numel()} "
                f"entries."
            )
