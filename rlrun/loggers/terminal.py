"""What is written to a terminal: numbers and times as text, and outputs that may go away."""

from __future__ import annotations

import io
import math
import os
import sys
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

_FOREVER_S = 1e9  # a stop rule that is never to be met shows no time
_LARGEST_IN_FULL = 1e12  # what has diverged would fill the screen with digits


def number(value: float | None, kind: str = "") -> str:
    """A number in few letters, "-" for none; kind "d": without decimals."""
    if value is None or math.isnan(value):
        return "-"
    if abs(value) >= _LARGEST_IN_FULL:
        return f"{value:.3g}"
    if kind == "d":
        return f"{value:,.0f}"
    return f"{value:,.1f}".removesuffix(".0") if abs(value) >= 10 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """0:01:23; "-" for nan and for what is no time to wait for."""
    return str(timedelta(seconds=round(seconds))) if seconds < _FOREVER_S else "-"


def from_here(folder: Path) -> Path:
    """A folder as seen from the working directory, where it lies below it."""
    with suppress(OSError, ValueError):
        return folder.relative_to(Path.cwd())
    return folder


def print_line(line: str) -> None:
    """Print where there is an output, whatever its encoding."""
    if sys.stdout is not None:  # as under `>&-`
        encoding = sys.stdout.encoding or "utf-8"
        print(line.encode(encoding, "replace").decode(encoding), flush=True)


def is_stdout_closed() -> bool:
    """Whether nothing can be written there any more."""
    return sys.stdout is None or sys.stdout.closed


def is_terminal() -> bool:
    """Whether stdout is a terminal that can be redrawn."""
    is_capable = os.environ.get("TERM") not in ("dumb", "unknown")
    return is_capable and not is_stdout_closed() and sys.stdout.isatty()


def steady_console() -> Console:
    """A Rich console on stdout that raises BrokenPipeError if that goes away, does not ask again
    whether it is a terminal, and shows "?" for what the terminal's encoding lacks."""
    from rich.console import Console

    if isinstance(sys.stdout, io.TextIOWrapper) and not sys.stdout.encoding.lower().startswith(
        "utf"
    ):
        sys.stdout.reconfigure(errors="replace")

    class SteadyConsole(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError("stdout was closed")  # Rich would end the process here

    # Forced, else Rich asks again at each write, and takes a terminal that is gone for a file.
    return SteadyConsole(force_terminal=True)


def discard_stdout() -> None:
    """Send the rest to /dev/null: else Python's own flush at exit fails, and it exits with 120."""
    # Suppressed: a stand-in for stdout may have no file descriptor.
    with suppress(OSError, ValueError), open(os.devnull, "wb") as devnull:
        os.dup2(devnull.fileno(), sys.stdout.fileno())
