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

from rlrun.core.checkpoint import sync
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
    the system before the next one begins, so that a kill costs at most what it interrupted; a file
    that is full, and what is there at a checkpoint, are on the disk itself.
    """

    def __init__(self, config: OutputConfig, origin: Origin, worker_index: int) -> None:
        self.config = config
        self.folder = Path(config.folder)
        self.num_episodes = 0
        """Written so far, which is also the next one's id."""
        self._metadata = metadata_line(origin)
        self._worker_index = worker_index
        self._stem = _new_stem(worker_index)
        self._number = 0
        self._size = 0
        self._file: BinaryIO | None = None
        self._has_failed = False
        self._is_resumed = False
        """Whether the files may still hold what was written after the state that was loaded."""

    def write(self, episode: RecordedEpisode) -> None:
        """Append an episode. Raises RlrunError if the disk refuses."""
        line = episode_line(episode, self.num_episodes, self.config.compress_columns)
        try:
            if self._is_resumed:
                self._cut()
            is_begun = self._size > len(self._metadata)
            if is_begun and self._size + len(line) > self.config.max_file_size:
                self._close_file()
                self._number, self._size = self._number + 1, 0
            self._append(line)
        except OSError as error:
            self._has_failed = True
            raise RlrunError(f"output={self.folder} cannot be written: {error}") from error
        self.num_episodes += 1

    def state_dict(self) -> dict[str, Any]:
        """How far the files go; what they hold until there is on the disk itself."""
        if self._file is not None:
            os.fsync(self._file.fileno())
        return {
            "run": self.config.run,
            "stem": self._stem,
            "number": self._number,
            "size": self._size,
            "num_episodes": self.num_episodes,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken. What the same run wrote after it is lived again, and
        goes when the first episode is written that takes its place: who writes none deletes none.

        New files are begun where the old ones are those of another run, which keeps all that it
        has, are gone by then, or are still written to.
        """
        self._close_file()
        self.num_episodes = int(state["num_episodes"])
        self._is_resumed = self._is_of_this_run(state)
        if self._is_resumed:
            self._stem = str(state["stem"])
            self._number, self._size = int(state["number"]), int(state["size"])
        else:
            self._begin_new_files()

    def close(self) -> None:
        """Close the file. Once writing has failed, that it fails again is only logged."""
        try:
            self._close_file()
        except OSError as error:
            if not self._has_failed:
                raise RlrunError(f"output={self.folder} cannot be written: {error}") from error
            logger.warning("A file of output=%s cannot be closed: %s", self.folder, error)

    def _is_of_this_run(self, state: Mapping[str, Any]) -> bool:
        """Whether the files of a state are this run's: that of the same folder, or this object."""
        run = self.config.run
        return state["stem"] == self._stem or (run is not None and state.get("run") == run)

    def _begin_new_files(self) -> None:
        self._stem, self._number, self._size = _new_stem(self._worker_index), 0, 0

    def _cut(self) -> None:
        """Remove what was written after the state that was loaded, or begin new files."""
        last = self._path(self._number, self._stem)
        files = self.folder.glob(f"{self._stem}_*.jsonl")
        found = [path for path in files if _number_of(path) >= self._number]
        is_gone = self._size and (not last.is_file() or last.stat().st_size < self._size)
        if is_gone or not all(_is_free(path) for path in found):
            what = "gone" if is_gone else "still written to"
            logger.warning("%s is %s: episodes go into new files.", last, what)
            self._begin_new_files()
        else:
            for path in found:
                if path == last and self._size:
                    os.truncate(path, self._size)
                else:
                    path.unlink()
        self._is_resumed = False

    def _append(self, line: bytes) -> None:
        if self._file is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = self._path(self._number, self._stem).open("ab")
            _lock(self._file)
            sync(self.folder)
            if self._size == 0:
                line = self._metadata + line
        self._file.write(line)
        self._file.flush()
        self._size += len(line)

    def _close_file(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            with file:
                file.flush()
                os.fsync(file.fileno())

    def _path(self, number: int, stem: str) -> Path:
        return self.folder / f"{stem}_{number:03d}.jsonl"


def _new_stem(worker_index: int) -> str:
    """Runs that share a folder, or start in the same second, have files of their own."""
    now = time.strftime("%Y-%m-%d_%H-%M-%S")
    return f"episodes_{now}_{os.urandom(4).hex()}_worker{worker_index}"


def _number_of(path: Path) -> int:
    return int(path.stem.rpartition("_")[2])


def _lock(file: BinaryIO) -> bool:
    """Be the only one that writes to the file; False if somebody else does, in this process or in
    another: the lock is that of the open file, not of the process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EACCES, errno.EAGAIN)
    return True


def _is_free(path: Path) -> bool:
    with path.open("ab") as file:
        return _lock(file)
