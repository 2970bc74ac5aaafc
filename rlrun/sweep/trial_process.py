"""What a trial's own process does for the sweep: where it writes, what it sees, whom it tells."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rlrun.loggers.base import to_json, without
from rlrun.sweep.channel import Channel, ChannelClosedError, Message

OUTPUT = "trial.log"
"""What a trial prints and logs, in its folder."""

NOT_TOLD = ("config", "hist_stats", "timers", "sampler_perf")
"""What of a result is only in the trial's own files."""

_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class Start:
    """How a trial's process is to begin."""

    number: int
    folder: str
    arguments: list[str]
    """What is typed after `rlrun` for it; for one that goes on `key=value` to go on with."""
    resumes: bool = False
    """Whether it goes on from the newest checkpoint in its folder."""
    environ: dict[str, str] = field(default_factory=dict)
    """What its environment has otherwise than the driver's."""

    def to_message(self) -> Message:
        """For a channel."""
        return asdict(self)


class TrialReporter:
    """The driver's ear in a trial's process (see `rlrun.run.Reporter`)."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def report(self, result: dict[str, Any]) -> Any:
        """Tell the driver a result; what it answers."""
        told = to_json(without(result, *NOT_TOLD))
        try:
            self._channel.send({"kind": "result", "result": told})
            return self._channel.receive()["answer"]
        except ChannelClosedError:
            return "pause"  # The driver was killed; a resumed sweep goes on from the checkpoint.

    def end(self, status: str, *, passed: bool) -> None:
        """Tell the driver how the run ended."""
        with suppress(ChannelClosedError):
            self._channel.send({"kind": "end", "status": status, "passed": passed})


def begin(start: Start, parent: int) -> None:
    """Make a process just forked that of a trial: in a session of its own, with its own output and
    environment, and not to outlive its parent."""
    os.setsid()
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    write_into(start)
    os.environ.update(start.environ)


def write_into(start: Start) -> None:
    """Let all that this process prints go to the end of the trial's log."""
    path = Path(start.folder) / OUTPUT
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    log = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.close(log)
    os.close(nothing)
    # Line by line, so that a traceback is there at once.
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
