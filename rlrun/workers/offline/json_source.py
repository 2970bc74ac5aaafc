"""Files of JSON lines: those that `output` writes, and the batches of the reference."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

from rlrun.core.errors import ConfigError, RlrunError, SpaceError
from rlrun.workers.offline.config import files_of
from rlrun.workers.offline.episode_lines import (
    UNREADABLE,
    Origin,
    RecordedEpisode,
    episode_of,
    origin_of,
)
from rlrun.workers.offline.reference_batches import BATCH_TYPES, episodes_of_batch
from rlrun.workers.offline.source import Key, Place

logger = logging.getLogger("rlrun.workers")

NUM_TELLING_BYTES = 40
"""By so many it is told whether a line holds metadata."""


class JsonSource:
    """The lines of one or several files, in any mixture of the two kinds. A record is a line.

    Only the line that is asked for is in memory. A last line that a kill cut short is left out.
    """

    def __init__(self, name: str, *, has_normalized_actions: bool) -> None:
        self.name = name
        self.files = files_of(name)
        self.parts = [path.name for path in self.files]
        self.sizes = [path.stat().st_size for path in self.files]
        self.has_normalized_actions = has_normalized_actions
        self._origins: dict[int, Origin | None] = {}
        self._open: tuple[int, BinaryIO] | None = None

    def origin(self) -> Origin | None:
        return None if self._first is None else self._first[1]

    def walk(self, order: Sequence[int], place: Place) -> Iterator[tuple[Key, int, Place]]:
        begin, offset, number = place or [0, 0, 0]
        for position in range(begin, len(order)):
            file = order[position]
            with _opened(self.files[file]) as lines:
                lines.seek(offset)
                while line := lines.readline():
                    key, offset = [file, offset], offset + len(line)
                    if line.isspace() or _is_metadata(line):
                        continue
                    if not line.endswith(b"\n") and not _is_json(line):
                        logger.warning("%s ends in half a line, which is left out.", lines.name)
                        break
                    # Files of one line each are dealt out as well.
                    yield key, file + number, [position, offset, number + 1]
                    number += 1
            offset = number = 0

    def read(self, key: Key) -> list[RecordedEpisode]:
        file, offset = key
        try:
            plain = json.loads(self._line(file, offset))
            kind = plain.get("type")
            if kind in BATCH_TYPES:
                return episodes_of_batch(plain, has_policy_actions=self.has_normalized_actions)
            if kind == "episode":
                return [episode_of(plain, self._origin_of_episodes(file))]
            raise ValueError(f"its type is {kind!r}, not 'episode' or one of {BATCH_TYPES}")
        except ConfigError as error:
            raise type(error)(f"{self.where(key)}: {error}.") from error
        except UNREADABLE as error:
            raise RlrunError(
                f"{self.where(key)} is no episode: {type(error).__name__}: {error}. Mend the line, "
                f"or remove it."
            ) from error

    def where(self, key: Key) -> str:
        """A record, for people."""
        return f"input={self.files[key[0]]}, the line at byte {key[1]}"

    def close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def _line(self, file: int, offset: int) -> bytes:
        if self._open is None or self._open[0] != file:
            self.close()
            self._open = file, _opened(self.files[file])
        lines = self._open[1]
        lines.seek(offset)
        return lines.readline()

    def _origin_of_episodes(self, file: int) -> Origin:
        """What the file says of its episodes. Raises ConfigError, or ValueError if it says
        nothing."""
        origin = self._origin(file)
        if origin is None:
            raise ValueError("its file does not begin with a line of metadata")
        if self.has_normalized_actions:
            raise ConfigError(
                "actions_in_input_normalized=true is for the reference's files; in those that "
                "output= wrote actions are the env's own. Set it to false"
            )
        assert self._first is not None
        path, first = self._first
        if not _are_alike(first, origin):
            raise SpaceError(
                f"its spaces are {origin.observation_space} and {origin.action_space}, those of "
                f"{path} {first.observation_space} and {first.action_space}"
            )
        return origin

    @cached_property
    def _first(self) -> tuple[Path, Origin] | None:
        """The first file that says where its episodes come from, and what it says."""
        origins = ((path, self._origin(file)) for file, path in enumerate(self.files))
        return next(((path, origin) for path, origin in origins if origin is not None), None)

    def _origin(self, file: int) -> Origin | None:
        """What the first line of a file says. Raises ConfigError."""
        if file not in self._origins:
            with _opened(self.files[file]) as lines:
                line = lines.readline(NUM_TELLING_BYTES)
                # Other lines are not read to their ends: a batch may have many megabytes.
                if _is_metadata(line) and not line.endswith(b"\n"):
                    line += lines.readline()
            self._origins[file] = _read_origin(line, self.files[file])
        return self._origins[file]


def _read_origin(line: bytes, path: Path) -> Origin | None:
    is_cut_short = not line.endswith(b"\n") and not _is_json(line)
    if is_cut_short or not _is_metadata(line):
        return None
    try:
        return origin_of(json.loads(line))
    except ConfigError as error:
        raise ConfigError(f"input={path} has {error}. Update rlrun.") from error
    except UNREADABLE as error:
        raise ConfigError(
            f"input={path} begins with metadata that cannot be read: {type(error).__name__}: "
            f"{error}."
        ) from error


def _is_metadata(line: bytes) -> bool:
    return line[:NUM_TELLING_BYTES].replace(b" ", b"").startswith(b'{"type":"metadata"')


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def _are_alike(one: Any, other: Any) -> bool:
    return (
        one.observation_space == other.observation_space and one.action_space == other.action_space
    )


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise RlrunError(f"input={path} cannot be read: {error}") from error
