"""Trials as processes of this machine, forked from one that has imported everything."""

from __future__ import annotations

import json
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
from contextlib import suppress

from rlrun.core.errors import RlrunError
from rlrun.sweep.channel import Channel, ChannelClosedError, Message
from rlrun.sweep.executor import Executor, Heard
from rlrun.sweep.fork_server import REQUEST_BYTES
from rlrun.sweep.packing import Place
from rlrun.sweep.trial_process import Start

logger = logging.getLogger("rlrun")

SERVER = """
import sys
sys.path[:] = {path!r}
from rlrun.trial_server import main
main({socket})
"""
"""It finds the modules that this process finds, the user's own among them."""

START_TIMEOUT_S = 300.0
"""How long the process from which trials are forked may import."""

MAX_LOSSES = 3
"""How often the process from which trials are forked may be killed and trials go on all the same;
more often, and something is wrong, such as too little memory."""

CLOSE_TIMEOUT_S = 15.0
"""How long it may take to end."""


class LocalExecutor(Executor):
    """Trials without Ray, each in a session of its own."""

    def __init__(self) -> None:
        self._heard: list[Heard] = []
        self._unended: set[int] = set()
        """Trials that were to start and have not been heard to end."""
        self._channels: dict[int, Channel] = {}
        self._pids: dict[int, int] = {}
        self._selector = selectors.DefaultSelector()
        self._num_losses = 0
        self._was_killed_importing = False
        self._start_server()

    def _start_server(self) -> None:
        """It imports for seconds, in which the driver has other things to do."""
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-c", SERVER.format(path=sys.path, socket=theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._is_ready = False
        self._selector.register(self._control, selectors.EVENT_READ, None)

    def start(self, start: Start, place: Place) -> None:
        if not self._is_ready:
            self._wait_until_ready()
        ours, theirs = socket.socketpair()
        request = json.dumps(start.to_message()).encode()
        self._unended.add(start.number)
        with theirs, suppress(ConnectionError):  # It was killed, as `hear` will find.
            socket.send_fds(self._control, [request], [theirs.fileno()])
        channel = self._channels[start.number] = Channel(ours)
        self._selector.register(channel, selectors.EVENT_READ, start.number)

    def hear(self, timeout_s: float) -> list[Heard]:
        ready = self._selector.select(0.0 if self._heard else timeout_s)
        for number in [key.data for key, _ in ready if key.data is not None]:
            self._hear_trial(number)
        if any(key.data is None for key, _ in ready):
            self._hear_server()
        heard, self._heard = self._heard, []
        return heard

    def answer(self, number: int, message: Message) -> None:
        with suppress(ChannelClosedError, KeyError):
            self._channels[number].send(message)

    def interrupt(self, number: int) -> None:
        self._send(number, signal.SIGTERM)

    def kill(self, number: int) -> None:
        self._send(number, signal.SIGKILL)

    def close(self) -> None:
        self._control.close()
        for channel in self._channels.values():
            channel.close()
        self._selector.close()
        if not self._is_ready:
            self._server.kill()
        try:
            self._server.wait(CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()

    def _hear_trial(self, number: int) -> None:
        channel = self._channels[number]
        self._heard += [Heard(number, message) for message in channel.take()]
        if not channel.is_open:
            self._forget(number)

    def _hear_rest(self, number: int) -> None:
        """Hear what a trial said before it ended, which may lie there still."""
        if number in self._channels:
            rest = self._channels[number].take_rest()
            self._heard += [Heard(number, message) for message in rest]
            self._forget(number)

    def _forget(self, number: int) -> None:
        channel = self._channels.pop(number)
        self._selector.unregister(channel)
        channel.close()

    def _hear_server(self) -> None:
        try:
            received = self._control.recv(REQUEST_BYTES)
        except ConnectionError:  # It was killed before it had read all.
            received = b""
        if not received:
            self._replace_server()
            return
        message = json.loads(received)
        if message["kind"] == "ready":
            self._is_ready = True
        elif message["kind"] == "started":
            self._pids[message["number"]] = message["pid"]
        else:
            number = message.pop("number")
            self._hear_rest(number)
            del self._pids[number]
            self._unended.remove(number)
            self._heard.append(Heard(number, message))

    def _wait_until_ready(self) -> None:
        try:
            while not self._is_ready:
                self._control.settimeout(START_TIMEOUT_S)
                self._hear_server()
        except TimeoutError as error:
            raise RlrunError(
                f"No trial could be started within {START_TIMEOUT_S:.0f} s."
            ) from error
        self._control.settimeout(None)

    def _send(self, number: int, what: signal.Signals) -> None:
        while number not in self._pids and number in self._channels:
            self._hear_server()  # It is being forked.
        with suppress(ProcessLookupError, KeyError):
            os.kill(self._pids[number], what)

    def _replace_server(self) -> None:
        """It was killed, and all trials with it: they are heard of, and another takes its place.
        One that is killed while it imports, which harms no trial, is started once more."""
        self._selector.unregister(self._control)
        self._control.close()
        was_killed = self._server.wait() < 0
        if self._is_ready:
            self._num_losses += 1
            logger.warning(
                "The process from which trials are forked was killed (%d), and %d trials with it.",
                self._num_losses,
                len(self._unended),
            )
        elif was_killed and not self._was_killed_importing:
            self._was_killed_importing = True
        else:
            raise RlrunError("The process from which trials are started failed; see above.")
        is_lost = self._num_losses <= MAX_LOSSES
        ended = {"kind": "ended", "status": -signal.SIGKILL, "is_lost": is_lost}
        for number in sorted(self._unended):
            self._hear_rest(number)
            self._heard.append(Heard(number, ended))
        self._unended.clear()
        self._pids.clear()
        self._start_server()
