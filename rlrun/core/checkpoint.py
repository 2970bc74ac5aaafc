"""Checkpoints: folders of plain data that are either complete or not there at all.

A checkpoint is written beside its place and renamed into it. It holds no pickle: tensors are
safetensors, large arrays .npy files, everything else JSON; the manifest lists every file with its
size and checksum.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlrun.core.errors import CheckpointError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
STATE = "state.json"
LARGE_ARRAY_BYTES = 1 << 24
"""Arrays from this size on get a file of their own, which is written and read without a copy."""

REPLACED = ".replaced.tmp"
"""Ending of a checkpoint's name while a new one of the same iteration takes its place."""

UNEXPECTED_CONTENT = (
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What reading a file raises that is not as it was written."""

FOLDER = re.compile(r"checkpoint_(\d{6,})")


def checkpoint_name(iteration: int) -> str:
    """The folder's name, with the iteration padded by zeros: checkpoint_000010."""
    return f"checkpoint_{iteration:06d}"


def save_checkpoint(
    folder: Path,
    state: dict[str, Any],
    facts: dict[str, Any],
    own_files: tuple[str, Callable[[Path], None]] | None = None,
) -> Path:
    """Write `state` as the checkpoint `folder`, atomically; returns the folder.

    state: parts by name, each a tree of dicts and lists with numbers, strings, None, NumPy arrays
    and torch tensors. `facts` go into the manifest. own_files: a folder within,
    and a function that fills it. Raises CheckpointError if the disk refuses.
    """
    from safetensors import SafetensorError

    temporary = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    replaced = folder.parent / f".{folder.name}{REPLACED}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        if own_files is not None:
            name, fill = own_files
            (temporary / name).mkdir()
            fill(temporary / name)
        _write(temporary, state, facts)
        if folder.exists():
            # Set aside until the new one is in its place; `list_checkpoints` finds it if not.
            shutil.rmtree(replaced, ignore_errors=True)
            folder.replace(replaced)
        temporary.replace(folder)
        sync(folder.parent)
        shutil.rmtree(replaced, ignore_errors=True)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"The checkpoint {folder} could not be written: {error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def load_checkpoint(folder: Path, parts: tuple[str, ...] | None = None) -> dict[str, Any]:
    """The state that `save_checkpoint` wrote (arrays as NumPy), or only some of its parts.

    Every file that is read is checked against the manifest. Raises CheckpointError if something is
    missing, damaged or of a newer format.
    """
    from safetensors import SafetensorError

    manifest = read_manifest(folder)
    try:
        tree = json.loads(_checked(folder, STATE, manifest).read_text())
        names = tree.keys() if parts is None else parts
        return {name: _load_part(folder, name, tree[name], manifest) for name in names}
    except (OSError, SafetensorError, *UNEXPECTED_CONTENT) as error:
        raise CheckpointError(f"The checkpoint {folder} is damaged: {error!r}.") from error


def read_manifest(folder: Path) -> dict[str, Any]:
    """What the checkpoint says of itself. Raises CheckpointError if it is none."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        version = manifest["format_version"]
    except (OSError, *UNEXPECTED_CONTENT) as error:
        raise CheckpointError(
            f"{folder} is not a complete checkpoint ({MANIFEST}: {error})."
        ) from error
    if not isinstance(version, int):
        raise CheckpointError(f"{folder} is damaged: format_version={version!r} in {MANIFEST}.")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"{folder} has checkpoint format {version}; this rlrun reads up to {FORMAT_VERSION}. "
            f"Update rlrun."
        )
    return manifest


def list_checkpoints(run_folder: Path) -> list[Path]:
    """The complete checkpoints in `run_folder`, oldest iteration first."""
    for path in run_folder.glob(f".checkpoint_*{REPLACED}"):
        place = run_folder / path.name.removeprefix(".").removesuffix(REPLACED)
        if not place.exists():
            path.replace(place)
    return complete_checkpoints(run_folder)


def complete_checkpoints(run_folder: Path) -> list[Path]:
    """The same for those who only look on while the run may be writing."""
    found = [
        path
        for path in run_folder.glob("checkpoint_*")
        if FOLDER.fullmatch(path.name) and (path / MANIFEST).is_file()
    ]
    return sorted(found, key=iteration_of)


def iteration_of(folder: Path) -> int:
    """The iteration in a checkpoint folder's name."""
    return int(folder.name.rpartition("_")[2])


def remove(folder: Path) -> None:
    """Delete a checkpoint so that a kill in between leaves nothing that looks like one."""
    doomed = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    folder.replace(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def remove_unfinished(run_folder: Path) -> None:
    """Delete what killed processes left half-written in `run_folder`."""
    list_checkpoints(run_folder)
    for path in run_folder.glob(".checkpoint_*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON so that the file is either the old or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n")
    sync(temporary)
    temporary.replace(path)


def _write(folder: Path, state: dict[str, Any], facts: dict[str, Any]) -> None:
    from safetensors.numpy import save_file

    tree = {}
    for name, part in state.items():
        arrays: dict[str, np.ndarray] = {}
        tree[name] = _extract(part, "", arrays)
        for key, array in list(arrays.items()):
            if array.nbytes >= LARGE_ARRAY_BYTES:
                large = folder / _large_file(name, key)
                large.parent.mkdir(exist_ok=True)
                np.save(large, arrays.pop(key), allow_pickle=False)
        if arrays:
            save_file(arrays, folder / f"{name}.safetensors")
    (folder / STATE).write_text(json.dumps(tree))
    files = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        sync(path)
        relative = path.relative_to(folder).as_posix()
        files[relative] = {"size": path.stat().st_size, "crc32": _crc32(path)}
    manifest = {"format_version": FORMAT_VERSION, **facts, "files": files}
    write_json(folder / MANIFEST, manifest)
    sync(folder)


def _extract(node: Any, key: str, arrays: dict[str, np.ndarray]) -> Any:
    """A JSON tree for `node`; its arrays go to `arrays` and leave {"__array__": key} behind."""
    if isinstance(node, dict):
        return {name: _extract(child, f"{key}/{name}", arrays) for name, child in node.items()}
    if isinstance(node, list | tuple):
        return [_extract(child, f"{key}/{index}", arrays) for index, child in enumerate(node)]
    if node is None or isinstance(node, bool | int | float | str):
        return node
    if isinstance(node, np.generic):
        return node.item()
    if hasattr(node, "detach"):
        node = node.detach().cpu().numpy()
    name = key.lstrip("/")
    if isinstance(node, np.ndarray) and node.dtype.kind in "biuf":
        if any(_large_file("", name) == _large_file("", other) for other in arrays):
            raise CheckpointError(f"A checkpoint cannot hold two arrays with keys like {name!r}.")
        arrays[name] = np.ascontiguousarray(node).reshape(node.shape)
        return {"__array__": name}
    raise CheckpointError(
        f"A checkpoint cannot hold {type(node).__name__} at {key!r}; state_dict() must give "
        f"numbers, strings, arrays, and lists and dicts of these."
    )


def _load_part(folder: Path, name: str, tree: Any, manifest: dict[str, Any]) -> Any:
    from safetensors.numpy import load_file

    arrays: dict[str, np.ndarray] = {}
    file = f"{name}.safetensors"
    if file in manifest["files"]:
        arrays = load_file(_checked(folder, file, manifest))

    def insert(node: Any) -> Any:
        if isinstance(node, list):
            return [insert(child) for child in node]
        if not isinstance(node, dict):
            return node
        if node.keys() == {"__array__"}:
            key = node["__array__"]
            if key in arrays:
                return arrays[key]
            path = _checked(folder, _large_file(name, key), manifest)
            return np.load(path, mmap_mode="r", allow_pickle=False)
        return {key: insert(child) for key, child in node.items()}

    return insert(tree)


def _large_file(part: str, key: str) -> str:
    return f"{part}/{key.replace('/', '.')}.npy"


def _checked(folder: Path, name: str, manifest: dict[str, Any]) -> Path:
    path = folder / name
    expected = manifest["files"].get(name)
    if expected is None or not path.is_file():
        raise CheckpointError(f"The checkpoint {folder} lacks the file {name}.")
    if path.stat().st_size != expected["size"] or _crc32(path) != expected["crc32"]:
        raise CheckpointError(
            f"The checkpoint {folder} is damaged: {name} is not what was written."
        )
    return path


def _crc32(path: Path) -> int:
    checksum = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return checksum
