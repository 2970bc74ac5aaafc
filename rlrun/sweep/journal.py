"""What has happened in a sweep, line by line; from it a killed sweep is put together again."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from rlrun.core.errors import CheckpointError, RlrunError
from rlrun.loggers.base import to_json

JOURNAL = "journal.jsonl"
SYNC_INTERVAL_S = 1.0
"""How long a result may wait until it is on the disk itself; a killed process loses none."""

Event = dict[str, Any]


class Journal:
    """Appends events to `journal.jsonl`. What a kill left half-written is cut off first."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / JOURNAL
        try:
            self._file = self._path.open("ab")
            self._file.truncate(_whole_bytes(self._path))
        except OSError as error:
            raise self._unwritable(error) from error
        self._synced_at = time.monotonic()

    def write(self, event: str, *, in_haste: bool = False, **facts: Any) -> None:
        """Note an event. It is on the disk when this returns; `in_haste`: within a second.

        Raises RlrunError if the disk refuses.
        """
        line = json.dumps({"event": event, **to_json(facts)}) + "\n"
        try:
            self._file.write(line.encode())
            self._file.flush()
            if not in_haste or time.monotonic() - self._synced_at > SYNC_INTERVAL_S:
                os.fsync(self._file.fileno())
                self._synced_at = time.monotonic()
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Write no more."""
        with suppress(OSError):  # It is what `write` has raised already.
            self._file.close()

    def _unwritable(self, error: OSError) -> RlrunError:
        return RlrunError(f"The sweep's journal {self._path} cannot be written: {error}")


def read_journal(folder: Path) -> Iterator[Event]:
    """The events of a sweep in their order, less a last one that a kill left half-written.

    Raises CheckpointError for any other line that is no event.
    """
    path = folder / JOURNAL
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if not line.endswith(b"\n"):
                return
            try:
                event = json.loads(line)
                event["event"]
            except (ValueError, KeyError, TypeError) as error:
                raise CheckpointError(
                    f"{path} has a line that is no event: {line[:60]!r}. Mend it to resume."
                ) from error
            yield event


def _whole_bytes(path: Path) -> int:
    """The length of a file up to the end of its last whole line."""
    return path.read_bytes().rfind(b"\n") + 1
