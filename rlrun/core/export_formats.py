"""Which files a policy may be exported to; imports no torch, which takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

from rlrun.core.errors import ConfigError

ExportFormat = Literal["safetensors", "torch", "onnx"]
"""The weights alone; a program of torch.export; a graph of ONNX."""

SUFFIXES: dict[str, ExportFormat] = {
    ".safetensors": "safetensors",
    ".pt2": "torch",
    ".onnx": "onnx",
}


def format_of(path: Path, given: str | None = None) -> ExportFormat:
    """The format that is given, or that a file's name tells. Raises ConfigError."""
    known = get_args(ExportFormat)
    if given is not None and given not in known:
        raise ConfigError(f"format={given} must be one of {', '.join(known)}.")
    if given is None and path.suffix not in SUFFIXES:
        raise ConfigError(
            f"{path} tells no format: let it end in {', '.join(SUFFIXES)}, or give the format: "
            f"{', '.join(known)}."
        )
    return given or SUFFIXES[path.suffix]  # type: ignore[return-value]
