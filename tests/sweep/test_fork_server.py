"""The process from which trials are forked, when its driver is killed."""

from __future__ import annotations

import subprocess
import sys

DRIVER_DIES = """
import socket, threading
from rlrun.sweep.fork_server import serve

ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

def die():
    ours.recv(1, socket.MSG_PEEK)
    ours.close()

threading.Thread(target=die).start()
print(serve(theirs))
"""


def test_a_driver_that_dies_with_unread_messages_is_noticed_in_order():
    done = subprocess.run(
        [sys.executable, "-c", DRIVER_DIES], capture_output=True, text=True, timeout=120
    )
    assert (done.stdout, done.stderr) == ("None\n", "")
