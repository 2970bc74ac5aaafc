"""The files that a worker writes its episodes into."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from rlrun.core.errors import RlrunError
from rlrun.workers.offline.config import OutputConfig
from rlrun.workers.offline.episode_lines import (
    Origin,
    RecordedEpisode,
    episode_line,
    metadata_line,
)

logger = logging.getLogger("rlrun.workers")


class EpisodeFiles:
    """Appends episodes to files of one worker, `<stem>_000.jsonl` and those that follow it.

    A file never grows beyond `max_file_size`, unless its only episode does. Each episode reaches
    the system before the next one begins, so that a kill costs at most what it interrupted.
    """

    def __init__(self, config: OutputConfig, origin: Origin, worker_index: int) -> None:
        self.config = config
        self.folder = Path(config.folder)
        self.num_episodes = 0
        """Written so far, which is also the next one's id."""
        self._metadata = metadata_line(origin)
        now = time.strftime("%Y-%m-%d_%H-%M-%S")
        # Runs that share a folder, or start in the same second, have files of their own.
        self._stem = f"episodes_{now}_{os.urandom(4).hex()}_worker{worker_index}"
        self._number = 0
        self._size = 0
        self._file: BinaryIO | None = None

    def write(self, episode: RecordedEpisode) -> None:
        """Append an episode. Raises RlrunError if the disk refuses."""
        line = episode_line(episode, self.num_episodes, self.config.compress_columns)
        is_begun = self._size > len(self._metadata)
        try:
            if is_begun and self._size + len(line) > self.config.max_file_size:
                self._close_file()
                self._number, self._size = self._number + 1, 0
            self._append(line)
        except OSError as error:
            raise RlrunError(f"output={self.folder} cannot be written: {error}") from error
        self.num_episodes += 1

    def state_dict(self) -> dict[str, Any]:
        """How far the files go; what they hold until there is on the disk itself."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        return {
            "stem": self._stem,
            "number": self._number,
            "size": self._size,
            "num_episodes": self.num_episodes,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken: what was written after it is lived again, and goes.

        Where the files are gone, or another process writes them, new ones are begun.
        """
        self._close_file()
        self.num_episodes = int(state["num_episodes"])
        stem, number, size = str(state["stem"]), int(state["number"]), int(state["size"])
        last = self._path(number, stem)
        later = [path for path in self.folder.glob(f"{stem}_*.jsonl") if _number_of(path) > number]
        if size and (not last.is_file() or last.stat().st_size < size):
            logger.warning("%s is gone: episodes go into new files.", last)
            return
        if not all(_is_free(path) for path in (last, *later) if path.exists()):
            logger.warning("%s is still written to: episodes go into new files.", last)
            return
        self._stem, self._number, self._size = stem, number, size
        for path in later:
            path.unlink()
        if size:
            os.truncate(last, size)
        else:
            last.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file."""
        self._close_file()

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path(self._number, self._stem).open("ab")
            _lock(self._file)
            if self._size == 0:
                line = self._metadata + line
        self._file.write(line)
        self._file.flush()
        self._size += len(line)

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _path(self, number: int, stem: str) -> Path:
        return self.folder / f"{stem}_{number:03d}.jsonl"


def _number_of(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def _lock(file: BinaryIO) -> bool:
    """Be the only process that writes to the file; False if another one does."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def _is_free(path: Path) -> bool:
    with path.open("ab") as file:
        return _lock(file)
