"""Whether networks fit into memory, by arithmetic, before they are made."""

from __future__ import annotations

import psutil

from rlrun.core.errors import ResourceError

WORTH_A_LOOK = 1 << 28
"""Fewer bytes are not compared with the memory that is free."""


def require_room(num_bytes: int, what: str) -> None:
    """Raise ResourceError if `what` takes more bytes than are free."""
    if num_bytes < WORTH_A_LOOK:
        return
    free = psutil.virtual_memory().available
    if num_bytes > free:
        raise ResourceError(
            f"{what} takes {num_bytes / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free. Lower the "
            f"widths of the model."
        )
