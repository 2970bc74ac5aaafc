"""Weights that come from elsewhere: files of other programs, and checkpoints of other runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rlrun.core import checkpoint
from rlrun.core.errors import ConfigError, missing_extra

Weights = dict[str, np.ndarray]
"""Arrays by the names that they have in their file."""

NESTED = ("state_dict", "model_state_dict")
"""Where training scripts keep the weights in a .pt file, if they are not alone in it."""


def read_weights(path: str | Path, policy_id: str) -> Weights:
    """The arrays in a file (.safetensors, .pt, .pth, .h5), or those of the policy `policy_id` in a
    checkpoint or in a run's newest one. Nothing in a file is executed.

    Arrays of Keras (.h5) are given in torch's order of axes. Raises ConfigError, CheckpointError,
    MissingExtraError.
    """
    path = require_source(path)
    if path.is_dir():
        return _of_checkpoint(path, policy_id)
    found = READERS[path.suffix](path)
    if not found:
        raise ConfigError(f"{path} holds no arrays.")
    return found


def require_source(path: str | Path) -> Path:
    """The path of a file or folder that weights may be in. Raises ConfigError."""
    path = Path(path).expanduser()
    if path.is_dir():
        return path
    if path.suffix not in READERS:
        raise ConfigError(
            f"{path} must be a file that ends in {', '.join(READERS)}, or the folder of a "
            f"checkpoint or a run."
        )
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file.")
    return path


def in_order(names: Any) -> list[str]:
    """Names sorted as people count: dense_2 before dense_10."""
    return sorted(names, key=lambda name: [_number(part) for part in re.split(r"(\d+)", name)])


def _number(part: str) -> tuple[bool, int, str]:
    return (True, int(part), "") if part.isdigit() else (False, 0, part)


def _of_checkpoint(path: Path, policy_id: str) -> Weights:
    if not (path / checkpoint.MANIFEST).is_file():
        found = checkpoint.list_checkpoints(path)
        if not found:
            raise ConfigError(f"{path} is no checkpoint, and holds no complete one.")
        path = found[-1]
    policies = checkpoint.load_checkpoint(path, ("policy",))["policy"]["weights"]
    if policy_id not in policies:
        raise ConfigError(f"{path} has no policy {policy_id!r}; it has {', '.join(policies)}.")
    return policies[policy_id]


def _read_safetensors(path: Path) -> Weights:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        found = load_file(path)
    except (SafetensorError, *checkpoint.UNEXPECTED_CONTENT) as error:
        raise ConfigError(f"{path} is no file of safetensors: {error}") from error
    return {name: _as_array(found[name], name, path) for name in in_order(found)}


def _read_torch(path: Path) -> Weights:
    """Tensors by name, alone or under `state_dict`; nothing but tensors is unpacked."""
    import pickle

    import torch

    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"{path} holds more than weights, and unpacking that could run whatever it names. Save "
            f"the weights alone: torch.save(model.state_dict(), {path.name!r})."
        ) from error
    except (RuntimeError, EOFError, *checkpoint.UNEXPECTED_CONTENT) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    for name in NESTED:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict):
        raise ConfigError(f"{path} holds a {type(found).__name__}; tensors by name are expected.")
    tensors = {str(name): part for name, part in found.items() if isinstance(part, torch.Tensor)}
    return {name: _as_array(part, name, path) for name, part in tensors.items()}


def _as_array(tensor: Any, name: str, path: Path) -> np.ndarray:
    """A tensor of any kind; NumPy has no floats like bfloat16."""
    try:
        tensor = tensor.detach().to_dense() if tensor.is_sparse else tensor.detach()
        if tensor.is_floating_point() and tensor.itemsize < 4:
            tensor = tensor.float()
        return tensor.resolve_conj().numpy()
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise ConfigError(f"{path}: {name} cannot be read: {error}") from error


def _read_hdf5(path: Path) -> Weights:
    try:
        import h5py
    except ImportError as error:
        raise missing_extra("h5py", "h5", f"{path.name}") from error
    arrays: Weights = {}

    def note(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.dtype.kind in "biuf":
            arrays[name] = np.asarray(node)

    try:
        with h5py.File(path) as file:
            file.visititems(note)
    except OSError as error:
        raise ConfigError(f"{path} is no HDF5 file: {error}") from error
    return {name: _as_in_torch(name, arrays[name]) for name in in_order(arrays)}


def _as_in_torch(name: str, array: np.ndarray) -> np.ndarray:
    """Keras' kernels [in, out] and [height, width, in, out] in torch's order: [out, in], and
    [out, in, height, width]. What is called a weight is torch's own."""
    if name.rpartition("/")[2].endswith("weight"):
        return array
    if array.ndim == 2:
        return array.T
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


READERS: dict[str, Callable[[Path], Weights]] = {
    ".safetensors": _read_safetensors,
    ".pt": _read_torch,
    ".pth": _read_torch,
    ".h5": _read_hdf5,
}
