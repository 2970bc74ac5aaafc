"""Where the processes of trials live."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from rlrun.sweep.channel import Message
from rlrun.sweep.packing import Place
from rlrun.sweep.trial_process import Start


@dataclass(frozen=True)
class Heard:
    """What one trial said, or what became of its process."""

    number: int
    message: Message
    """By its `kind`: a "result", how a run came to its "end", or that the process has "ended"."""


class Executor(ABC):
    """Starts the processes of trials, carries messages between them and the driver, ends them."""

    @abstractmethod
    def start(self, start: Start, place: Place) -> None:
        """Start a trial, which has been given a place."""

    @abstractmethod
    def hear(self, timeout_s: float) -> list[Heard]:
        """What has come, or comes first within the time. A trial's last is {"kind": "ended",
        "status": exit status, or minus a signal's number}; with "is_lost": True where its process
        was ended through no fault of its own."""

    @abstractmethod
    def answer(self, number: int, message: Message) -> None:
        """Answer a trial's result; nothing happens if it has gone."""

    @abstractmethod
    def interrupt(self, number: int) -> None:
        """Ask a trial for its end, which it reaches with a checkpoint."""

    @abstractmethod
    def kill(self, number: int) -> None:
        """End a trial at once."""

    @abstractmethod
    def close(self) -> None:
        """End everything that is still there."""
