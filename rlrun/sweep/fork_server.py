"""A process that has imported everything, and from which trials are forked.

It has one thread, no CUDA and no Ray, as a fork would break them. Its driver talks to it over a
socket; when that closes, as the driver was killed, it ends its trials and itself.
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import time
from contextlib import suppress

from rlrun.sweep.channel import Channel
from rlrun.sweep.trial_process import Start, begin

ORPHAN_GRACE_S = 5.0
"""How long trials without a driver may take for a checkpoint."""

REQUEST_BYTES = 1 << 20

Children = dict[int, int]
"""Numbers of trials by process id."""


def serve(control: socket.socket) -> tuple[Start, Channel] | None:
    """Fork trials as the driver asks; returns in each of them, and, when the driver has gone and
    all trials have ended, None."""
    children: Children = {}
    woken, waker = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(waker, False)
    previous = signal.signal(signal.SIGCHLD, lambda number, frame: None)
    signal.set_wakeup_fd(waker)
    # What was imported is shared by all trials: collecting it would copy it into each of them.
    gc.collect()
    gc.freeze()
    _tell(control, {"kind": "ready"})
    while True:
        ready, _, _ = select.select([control.fileno(), woken], [], [])
        if woken in ready:
            with suppress(BlockingIOError):
                os.read(woken, 1024)
            for pid, status in _ended(children):
                _tell(control, {"kind": "ended", "number": children.pop(pid), "status": status})
        if control.fileno() not in ready:
            continue
        try:
            message, descriptors, _, _ = socket.recv_fds(control, REQUEST_BYTES, 1)
        except ConnectionError:  # The driver was killed before it had read all.
            message, descriptors = b"", []
        if not message:
            _end_orphans(children)
            return None
        start = Start(**json.loads(message))
        server, pid = os.getpid(), os.fork()
        if pid == 0:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, previous)
            for descriptor in (control.detach(), woken, waker):
                os.close(descriptor)
            begin(start, server)
            return start, Channel(socket.socket(fileno=descriptors[0]))
        os.close(descriptors[0])
        children[pid] = start.number
        _tell(control, {"kind": "started", "number": start.number, "pid": pid})


def _ended(children: Children) -> list[tuple[int, int]]:
    """(process id, status as subprocess has it) of trials whose process has ended."""
    found = []
    for pid in children:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # What it may have left behind.
            found.append((pid, os.waitstatus_to_exitcode(status)))
    return found


def _end_orphans(children: Children) -> None:
    """Ask trials for their end, which they reach with a checkpoint; kill those that are late."""
    for number, grace_s in ((signal.SIGTERM, ORPHAN_GRACE_S), (signal.SIGKILL, ORPHAN_GRACE_S)):
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + grace_s
        while children and time.monotonic() < deadline:
            for pid, _ in _ended(children):
                del children[pid]
            time.sleep(0.02)


def _tell(control: socket.socket, message: dict[str, object]) -> None:
    with suppress(OSError):  # The driver has gone; reading will say so.
        control.send(json.dumps(message).encode())
