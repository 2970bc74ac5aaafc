"""Trials as processes, when the process that forks them is killed."""

from __future__ import annotations

import os
import signal
import time
from contextlib import closing

import pytest

from rlrun.core.errors import RlrunError
from rlrun.sweep import local_executor
from rlrun.sweep.executor import Heard
from rlrun.sweep.local_executor import LocalExecutor
from rlrun.sweep.packing import Place
from rlrun.sweep.trial import TrialResources
from rlrun.sweep.trial_process import Start

READY_AND_DEAF = """
import socket, time
control = socket.socket(fileno={socket})
control.send(b'{{"kind": "ready"}}')
time.sleep(60)
"""
KILLED = {"kind": "ended", "status": -signal.SIGKILL, "is_lost": True}
PLACE = Place(resources=TrialResources(cpus=1))


@pytest.fixture
def executor(monkeypatch):
    monkeypatch.setattr(local_executor, "SERVER", READY_AND_DEAF)
    with closing(LocalExecutor()) as made:
        yield made
        made._server.kill()


def start(executor: LocalExecutor, number: int) -> None:
    executor.start(Start(number=number, folder="", arguments=[]), PLACE)


def hear_all(executor: LocalExecutor, num_ends: int) -> list[Heard]:
    heard: list[Heard] = []
    deadline = time.monotonic() + 60
    while len(heard) < num_ends and time.monotonic() < deadline:
        heard += executor.hear(0.1)
    return heard


def test_trials_that_a_killed_server_had_not_forked_yet_are_heard_of(executor):
    start(executor, 0)
    start(executor, 1)
    os.kill(executor._server.pid, signal.SIGKILL)
    assert hear_all(executor, 2) == [Heard(0, KILLED), Heard(1, KILLED)]


def test_a_trial_started_after_the_server_was_killed_is_heard_of(executor):
    start(executor, 0)
    executor._server.kill()
    executor._server.wait()
    start(executor, 1)
    assert hear_all(executor, 2) == [Heard(0, KILLED), Heard(1, KILLED)]
    start(executor, 1)  # From the one that took its place.
    assert executor.hear(0.1) == []


def test_only_the_first_losses_are_no_failures_of_trials(executor):
    for losses in range(1, local_executor.MAX_LOSSES + 2):
        start(executor, 0)
        executor._server.kill()
        (heard,) = hear_all(executor, 1)
        assert heard.message["is_lost"] == (losses <= local_executor.MAX_LOSSES)


DIES_AT_FIRST = """
import os, signal, socket, time
from pathlib import Path
mark = Path({mark!r})
if mark.read_text():
    mark.write_text(mark.read_text()[1:])
    os.kill(os.getpid(), signal.SIGKILL)
control = socket.socket(fileno={{socket}})
control.send(b'{{{{"kind": "ready"}}}}')
time.sleep(60)
"""


@pytest.mark.parametrize("num_kills", [1, 2])
def test_a_server_that_is_killed_while_it_imports_is_started_once_more(
    monkeypatch, tmp_path, num_kills
):
    mark = tmp_path / "kills_to_come"
    mark.write_text("x" * num_kills)
    monkeypatch.setattr(local_executor, "SERVER", DIES_AT_FIRST.format(mark=str(mark)))
    with closing(LocalExecutor()) as executor:
        if num_kills == 1:
            start(executor, 0)
            assert executor.hear(0.1) == []
        else:
            with pytest.raises(RlrunError, match="from which trials are started failed"):
                start(executor, 0)
        executor._server.kill()


def test_a_server_that_cannot_import_is_not_started_again(monkeypatch, capfd):
    monkeypatch.setattr(local_executor, "SERVER", "raise SystemExit('no such module')")
    failed = pytest.raises(RlrunError, match="from which trials are started failed")
    with closing(LocalExecutor()) as executor, failed:
        start(executor, 0)
    assert capfd.readouterr().err.count("no such module") == 1
