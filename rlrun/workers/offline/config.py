"""What a run reads in place of an env, and where it writes what it samples."""

from __future__ import annotations

import glob
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlrun.core.errors import ConfigError
from rlrun.workers.offline.episode_lines import COLUMNS

MINARI = "minari:"
"""What the name of a Minari data set begins with."""

ENDINGS = (".jsonl", ".json")
"""Files of a folder that are read: ours, and the reference's."""

CLASSIC_COLUMNS = {"new_obs": "obs", "action_logp": "log_probs", "action_prob": "log_probs"}


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """The keys `output*`: every worker writes the episodes that it samples, into files of its
    own."""

    folder: str
    """An absolute path."""
    max_file_size: int
    """Bytes after which a file is followed by the next one."""
    compress_columns: tuple[str, ...]
    """Which of `COLUMNS` are packed."""
    run: str | None = None
    """The run whose episodes they are, by its folder. Only that run, resumed, goes on with its
    files; None: a trainer in Python, which nobody else is."""

    def __post_init__(self) -> None:
        if self.max_file_size < 1:
            raise ConfigError(f"output_max_file_size={self.max_file_size} must be at least 1.")
        for name in self.compress_columns:
            if name not in COLUMNS:
                meant = CLASSIC_COLUMNS.get(name)
                hint = f" Did you mean {meant}?" if meant else ""
                raise ConfigError(
                    f"output_compress_columns: there is no column {name!r}.{hint} Allowed: "
                    f"{', '.join(COLUMNS)}."
                )
        folder = Path(self.folder)
        if file := next((p for p in (folder, *folder.parents) if p.exists() and not p.is_dir()), 0):
            raise ConfigError(f"output={folder} must name a folder, and {file} is a file.")


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """The keys `input`, `shuffle_buffer_size` and `actions_in_input_normalized`."""

    sources: dict[str, float]
    """Absolute paths, globs and minari:<name>, each with the probability that an episode comes
    from there."""
    shuffle_buffer_size: int
    """Episodes (of the reference's files: lines) from which the next one is drawn; 1: as they
    stand there."""
    actions_in_input_normalized: bool
    """Whether Box actions in the reference's files are in the policy's terms, [-1, 1]."""

    def __post_init__(self) -> None:
        if self.shuffle_buffer_size < 1:
            raise ConfigError(
                f"shuffle_buffer_size={self.shuffle_buffer_size} must be at least 1 (no shuffling)."
            )
        if not self.sources:
            raise ConfigError("input={} names no data.")
        for name, probability in self.sources.items():
            if not 0.0 < probability <= 1.0:
                raise ConfigError(f"input.{name}={probability} must be above 0 and at most 1.")
        total = math.fsum(self.sources.values())
        if abs(total - 1.0) > 1e-6:
            raise ConfigError(
                f"input: the probabilities of {', '.join(self.sources)} sum to {total:g}, not 1."
            )

    def check_files(self) -> None:
        """Raise ConfigError if one of the sources is not there."""
        for name in self.sources:
            if not name.startswith(MINARI):
                files_of(name)


def resolved(given: str | Mapping[str, float], shipped: Path) -> dict[str, float]:
    """Sources of `input`, with absolute paths: as given, or in the folder of the tuned examples
    `shipped`. Raises ConfigError for a name that is empty."""
    sources = {given: 1.0} if isinstance(given, str) else given
    if not all(str(name).strip() for name in sources):
        raise ConfigError("input is empty. Name data: input=PATH, or input=null to sample.")
    return {_absolute(str(name), shipped): float(share) for name, share in sources.items()}


def files_of(name: str) -> list[Path]:
    """The files of a source, by name, and those that follow each other by number. Raises
    ConfigError if there are none."""
    path = Path(name)
    if path.is_file():
        return [path]
    if path.is_dir():
        found = [file for file in path.iterdir() if file.suffix in ENDINGS and file.is_file()]
        if not found:
            raise ConfigError(f"input={name} holds no file that ends in {' or '.join(ENDINGS)}.")
        return sorted(found, key=_by_name_and_number)
    found = [Path(file) for file in glob.glob(name, recursive=True) if Path(file).is_file()]
    if not found:
        raise ConfigError(
            f"input={name}: there is no such file or folder. Give a file or a folder of episodes "
            f"that output=DIR wrote, a pattern such as 'DIR/*.jsonl', or {MINARI}NAME."
        )
    return sorted(found, key=_by_name_and_number)


def _by_name_and_number(path: Path) -> Any:
    """A key by which `x_999.jsonl` comes before `x_1000.jsonl`."""
    name = path.stem.rstrip("0123456789")
    number = int(path.stem[len(name) :] or -1)
    return [*((part, -1) for part in path.parent.parts), (name, number)], path.name


def _absolute(name: str, shipped: Path) -> str:
    if name.startswith(MINARI):
        return name
    path = Path(name).expanduser().absolute()
    if path.exists() or glob.glob(str(path), recursive=True):
        return str(path)
    parts = Path(name).parts
    inner = shipped.joinpath(*parts[1:]) if parts[:1] == ("tuned_examples",) else path
    return str(inner if inner.exists() else path)
