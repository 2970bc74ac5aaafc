"""Policies as files for other programs."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from rlrun.core.errors import RlrunError, missing_extra
from rlrun.core.export_formats import ExportFormat
from rlrun.core.portable import PortablePolicy

FACTS = "rlrun"
"""Under which name files hold, as JSON, what they say of themselves."""


def export(portable: PortablePolicy, path: Path, kind: ExportFormat, facts: dict[str, Any]) -> Path:
    """Write a policy; `facts` (plain values) go into the file, beside the names of inputs and
    outputs. The file is complete or not there. Returns its path.

    Raises MissingExtraError, and RlrunError for what the format cannot hold or a disk that refuses.
    """
    facts = {**facts, "inputs": portable.input_names, "outputs": portable.output_names}
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _WRITERS[kind](portable, temporary, facts)
        temporary.replace(path)
    except OSError as error:
        raise RlrunError(f"{path} cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _write_weights(portable: PortablePolicy, path: Path, facts: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    weights = {name: x.contiguous().clone() for name, x in portable.policy.state_dict().items()}
    save_file(weights, path, {FACTS: json.dumps(facts)})


def _write_program(portable: PortablePolicy, path: Path, facts: dict[str, Any]) -> None:
    torch.export.save(_program(portable), path, extra_files={f"{FACTS}.json": json.dumps(facts)})


def _write_onnx(portable: PortablePolicy, path: Path, facts: dict[str, Any]) -> None:
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise missing_extra("onnxscript", "onnx", "format=onnx") from error
    with _quiet(), _refused(portable, "onnx"):
        found = torch.onnx.export(
            _program(portable),
            input_names=portable.input_names,
            output_names=portable.output_names,
            dynamo=True,
            verbose=False,
        )
    assert found is not None
    rows: Any = found.model.graph.inputs[0].shape
    found.rename_axes({rows[0]: "num_rows"})
    found.model.metadata_props[FACTS] = json.dumps(facts)
    found.save(path, external_data=False)


def _program(portable: PortablePolicy) -> torch.export.ExportedProgram:
    """The module as a program for any number of rows."""
    rows = torch.export.Dim("num_rows", min=1)
    inputs = portable.example_inputs(3)
    with torch.no_grad(), _quiet(), _refused(portable, "torch"):
        return torch.export.export(
            portable, inputs, dynamic_shapes=(tuple({0: rows} for _ in inputs),), strict=False
        )


@contextmanager
def _refused(portable: PortablePolicy, kind: str) -> Iterator[None]:
    """What torch cannot trace is one message."""
    try:
        yield
    except Exception as error:  # whatever torch raises where it cannot follow
        reason = str(error).strip().splitlines()[:1]
        raise RlrunError(
            f"format={kind} cannot hold this {type(portable.policy).__name__}: "
            f"{type(error).__name__}: {' '.join(reason)}. Use format=safetensors, which has the "
            f"weights alone."
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Exporters talk of what concerns their authors."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [each.level for each in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for each in loggers:
            each.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for each, level in zip(loggers, levels, strict=True):
                each.setLevel(level)


_WRITERS: dict[str, Callable[[PortablePolicy, Path, dict[str, Any]], None]] = {
    "safetensors": _write_weights,
    "torch": _write_program,
    "onnx": _write_onnx,
}
