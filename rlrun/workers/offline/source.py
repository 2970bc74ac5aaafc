"""What an offline reader reads from: records, each of which holds one episode or several."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from rlrun.workers.offline.episode_lines import Origin, RecordedEpisode

Key = list[int]
"""Names a record of a source, in plain numbers."""

Place = list[int]
"""A place between two records of one pass over a source; [] is its beginning."""


class Source(Protocol):
    """Records that can be walked through in order, and read one by one."""

    name: str
    parts: list[str]
    """What the records lie in: file names. Others than at a checkpoint: other data."""
    sizes: list[int]
    """How large each of these is. Only the last may have grown since a checkpoint."""

    def origin(self) -> Origin | None:
        """Where the episodes come from; None where the data do not say."""
        ...

    def walk(self, order: Sequence[int], place: Place) -> Iterator[tuple[Key, int, Place]]:
        """(key, number, place behind it) of all records after `place`; `order` is that of the
        parts. By their numbers records are dealt out to workers."""
        ...

    def read(self, key: Key) -> list[RecordedEpisode]:
        """The episodes of a record. Raises RlrunError if it is damaged."""
        ...

    def where(self, key: Key) -> str:
        """A record, for people."""
        ...

    def close(self) -> None:
        """Close files."""
        ...
