"""Results as plain files in the run's folder: result.json (one JSON line each) and progress.csv."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rlrun.core.errors import CheckpointError
from rlrun.loggers.base import Logger, RunInfo, flatten, to_json, to_scalar, without
from rlrun.loggers.media import shortened


@dataclass(kw_only=True)
class JsonLogger(Logger):
    """Appends every result as one JSON line to `result.json`; `config` is in params.json.

    Of hist_data and media that callbacks gave it has what they are, see `media.shortened`.

    A process killed in mid-write loses at most the last line. A resumed run first drops the
    results that came after its checkpoint, so each iteration stands in the file once.
    """

    def start(self, run: RunInfo) -> None:
        path = run.folder / "result.json"
        with replace_file(path) as file:
            if run.start_iteration > 0:
                file.writelines(json_lines(path, run.start_iteration))
        self._file = _open_to_append(path)

    def log_result(self, result: dict[str, Any]) -> None:
        self._file.write(json.dumps(to_json(shortened(without(result, "config")))) + "\n")

    def close(self, status: str) -> None:
        self._file.close()


@dataclass(kw_only=True)
class CsvLogger(Logger):
    """Appends every result as one row to `progress.csv`, keys flattened with "/".

    `config`, `hist_stats` and lists are left out. A key that appears later widens the whole file;
    rows without it have an empty cell there. Resuming is as exact as in JsonLogger.
    """

    def start(self, run: RunInfo) -> None:
        self._path = run.folder / "progress.csv"
        if run.start_iteration == 0:
            self._path.unlink(missing_ok=True)
        self._rewrite(last_iteration=run.start_iteration)

    def log_result(self, result: dict[str, Any]) -> None:
        row = _cells(result)
        if new_columns := [key for key in row if key not in self._columns]:
            self._file.close()
            self._rewrite(new_columns)
        self._writer.writerow([row.get(column) for column in self._columns])

    def close(self, status: str) -> None:
        self._file.close()

    def _rewrite(
        self, new_columns: list[str] | None = None, last_iteration: float = math.inf
    ) -> None:
        """Replace the file by one with `new_columns` and no row after `last_iteration`, open it."""
        rows = csv.reader(_complete_lines(self._path))
        old_columns = next(rows, [])
        self._columns = dict.fromkeys(old_columns + (new_columns or []))
        with replace_file(self._path) as file:
            writer = csv.writer(file, lineterminator="\n")
            if self._columns:
                writer.writerow(self._columns)
            for row in rows:
                if self._iteration(row, old_columns) <= last_iteration:
                    writer.writerow(row + [""] * (len(self._columns) - len(row)))
        self._file = _open_to_append(self._path)
        self._writer = csv.writer(self._file, lineterminator="\n")

    def _iteration(self, row: list[str], columns: list[str]) -> int:
        try:
            return int(dict(zip(columns, row, strict=True))["training_iteration"])
        except (ValueError, KeyError) as error:
            raise _damaged(self._path, ",".join(row)) from error


@contextmanager
def replace_file(path: Path) -> Iterator[TextIO]:
    """A new text file that takes the place of `path` in one step when the block ends well."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _open_to_append(path: Path) -> TextIO:
    return path.open("a", buffering=1, encoding="utf-8", newline="")  # 1: flushed at each line


def _cells(result: dict[str, Any]) -> dict[str, Any]:
    flat = flatten(without(result, "config", "hist_stats"))
    cells = {key: to_scalar(value) for key, value in flat.items()}
    return {key: cell for key, cell in cells.items() if isinstance(cell, int | float | str)}


def _complete_lines(path: Path) -> Iterator[str]:
    """The lines of a file, if it exists, less a last one that a kill left half-written."""
    if path.exists():
        with path.open("rb") as file:
            for line in file:
                if not line.endswith(b"\n"):
                    return
                try:
                    yield line.decode()
                except UnicodeDecodeError as error:
                    raise _damaged(path, repr(line)) from error


def json_lines(path: Path, last_iteration: int) -> Iterator[str]:
    """The lines of a `result.json`, if it exists, up to the iteration `last_iteration`.

    A last line that a kill left half-written is left out. Raises CheckpointError for any other
    line that is no result.
    """
    for line in _complete_lines(path):
        try:
            is_wanted = json.loads(line)["training_iteration"] <= last_iteration
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise _damaged(path, line) from error
        if is_wanted:
            yield line


def _damaged(path: Path, line: str) -> CheckpointError:
    return CheckpointError(
        f"{path} has a line that is no result: {line[:60]!r}. "
        f"Mend it, or move the file away to resume without the results of before."
    )
