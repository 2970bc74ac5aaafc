"""Signals by which a sweep is asked for its end."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ECHO_S = 1.0
"""How long after a signal another one, unless it is Ctrl-C, means the same wish: a terminal that
closes, `timeout` and batch systems send two."""


class Signals:
    """Ctrl-C, SIGTERM and a lost terminal, as they come."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        """Their numbers; a second one wants the end at once."""
        self._echoes_until = 0.0

    @contextmanager
    def are_taken(self) -> Iterator[None]:
        """Take them within the block, if this is the main thread: only there it is possible."""
        try:
            numbers = [signal.SIGINT, signal.SIGTERM]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
                numbers.append(signal.SIGHUP)
            previous = {each: signal.signal(each, self.take) for each in numbers}
        except ValueError:
            yield
            return
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def take(self, number: int, frame: FrameType | None = None) -> None:
        """Note a signal, unless it is but an echo."""
        now = time.monotonic()
        if number == signal.SIGINT or now >= self._echoes_until:
            self.taken.append(number)
        self._echoes_until = now + ECHO_S
