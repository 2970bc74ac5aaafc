"""Messages between the driver of a sweep and its trials: JSON, a line each, over a socket."""

from __future__ import annotations

import json
import socket
from contextlib import suppress
from typing import Any

from rlrun.core.errors import RlrunError

Message = dict[str, Any]

CHUNK_BYTES = 1 << 16


class ChannelClosedError(RlrunError):
    """The other side has gone."""


class Channel:
    """One end of a connection; both are the same."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._rest = b""
        self.is_open = True
        """Whether the other side may still say something."""

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def send(self, message: Message) -> None:
        """Say something. Raises ChannelClosedError."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise ChannelClosedError(f"The other side has gone: {error}") from error

    def receive(self) -> Message:
        """The next message, once it has come. Raises ChannelClosedError."""
        while b"\n" not in self._rest:
            self._read()
            if not self.is_open:
                raise ChannelClosedError("The other side has gone.")
        line, _, self._rest = self._rest.partition(b"\n")
        return dict(json.loads(line))

    def take(self) -> list[Message]:
        """The messages that have come, when a selector says that there is something."""
        self._read()
        *lines, self._rest = self._rest.split(b"\n")
        return [dict(json.loads(line)) for line in lines]

    def take_rest(self) -> list[Message]:
        """What the other side has said before its process ended; it does not say anything more.

        Does not wait: a process that it has left behind may hold the connection open.
        """
        self._socket.setblocking(False)
        messages: list[Message] = []
        with suppress(BlockingIOError):
            while self.is_open:
                messages += self.take()
        self.is_open = False
        return messages

    def close(self) -> None:
        """Say and hear no more."""
        self.is_open = False
        self._socket.close()

    def _read(self) -> None:
        try:
            received = self._socket.recv(CHUNK_BYTES)
        except ConnectionError:
            received = b""
        self.is_open = bool(received)
        self._rest += received
