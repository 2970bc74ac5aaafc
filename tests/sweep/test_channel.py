"""Messages between a sweep's driver and its trials."""

from __future__ import annotations

import socket

from rlrun.sweep.channel import Channel


def test_what_was_said_before_an_end_is_heard_though_somebody_holds_the_line_open():
    ours, theirs = socket.socketpair()
    with theirs, theirs.dup():
        said = Channel(theirs)
        said.send({"kind": "result"})
        said.send({"kind": "end"})
        heard = Channel(ours)
        assert heard.take_rest() == [{"kind": "result"}, {"kind": "end"}]
        assert not heard.is_open
        heard.close()
