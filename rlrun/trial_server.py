"""The program of the process from which a sweep's trials are forked."""

from __future__ import annotations

import os
import signal
import socket
import sys
from importlib import import_module

HANDLED_BY_DRIVER = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that a terminal or a user sends to the whole group of processes."""


def main(descriptor: int) -> None:
    """Import what trials need, fork them as the driver asks, over the socket of that descriptor; in
    each of them, run it."""
    # See rlrun.cli.main; and with threads of BLAS there would be more than one to fork.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    before = {number: signal.signal(number, signal.SIG_IGN) for number in HANDLED_BY_DRIVER}
    from hydra.core.plugins import Plugins

    from rlrun.sweep.fork_server import serve
    from rlrun.train import run_trial

    for module in ("rlrun.parts", "rlrun.run"):
        import_module(module)
    Plugins.instance()
    served = serve(socket.socket(fileno=descriptor))
    if served is not None:
        for number, handler in before.items():
            signal.signal(number, handler)
        sys.argv = ["rlrun"]
        sys.exit(run_trial(*served))
