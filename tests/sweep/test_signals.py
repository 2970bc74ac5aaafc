"""Signals to a sweep: how many of them are wishes."""

from __future__ import annotations

import os
import signal

from rlrun.sweep import signals
from rlrun.sweep.signals import Signals


def test_a_terminal_that_closes_sends_two_signals_and_means_one(monkeypatch):
    now = 100.0
    monkeypatch.setattr(signals.time, "monotonic", lambda: now)
    seen = Signals()
    seen.take(signal.SIGHUP)
    seen.take(signal.SIGTERM)
    assert seen.taken == [signal.SIGHUP]
    now += signals.ECHO_S
    seen.take(signal.SIGTERM)
    assert seen.taken == [signal.SIGHUP, signal.SIGTERM]


def test_each_ctrl_c_counts():
    seen = Signals()
    seen.take(signal.SIGINT)
    seen.take(signal.SIGINT)
    assert seen.taken == [signal.SIGINT] * 2


def test_signals_are_taken_within_the_block_only():
    seen, before = Signals(), signal.getsignal(signal.SIGTERM)
    with seen.are_taken():
        os.kill(os.getpid(), signal.SIGTERM)
    assert seen.taken == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is before
