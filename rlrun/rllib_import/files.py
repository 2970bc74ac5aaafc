"""Experiment files of the classic RLlib on the command line: `rlrun -f file.yaml`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rlrun.core.errors import ConfigError
from rlrun.examples import FILE, find_file
from rlrun.overrides import as_text
from rlrun.rllib_import.translate import Grid, Translation, translate

PRINT = "--print-overrides"


@dataclass(frozen=True)
class Experiment:
    """One experiment of a file, as the command line of ours that runs it."""

    name: str
    arguments: list[str]
    notes: list[str]
    """What was left out or changed, and why."""


def is_classic(node: Any) -> bool:
    """Whether what a YAML file holds are experiments of the classic RLlib."""
    return (
        isinstance(node, Mapping)
        and all(isinstance(each, Mapping) for each in node.values())
        and any("run" in each for each in node.values())
    )


def experiments_in(arguments: list[str]) -> list[Experiment]:
    """The experiments of the classic file that `-f` names, with what else was typed; none if no
    such file was named.

    Raises ConfigError for what cannot be told in our words, or if only that was asked for.
    """
    is_only_shown = PRINT in arguments
    rest = [argument for argument in arguments if argument != PRINT]
    path, rest = _take_file(rest)
    file = None if path is None else find_file(path)
    found = [] if file is None or file.suffix == ".json" else experiments_of(file, rest)
    if is_only_shown and not found:
        raise ConfigError(
            f"{PRINT} shows what becomes of an experiment file of the classic RLlib: rlrun -f "
            f"FILE.yaml {PRINT}. To see the config of a run: rlrun --cfg job"
        )
    return found


def experiments_of(file: Path, arguments: Iterable[str] = ()) -> list[Experiment]:
    """The experiments of a classic file; none if it is no such file.

    arguments: what else was typed, which has the last word. Raises ConfigError for what cannot be
    told in our words.
    """
    try:
        node = OmegaConf.to_container(OmegaConf.load(file))
    except Exception:  # Whoever reads it as one of our own files will say what is wrong.
        return []
    if not is_classic(node):
        return []
    assert isinstance(node, dict)
    typed = list(arguments)
    found = [translate(str(name), experiment) for name, experiment in node.items()]
    return [_experiment(each, typed) for each in found]


def show(experiments: Iterable[Experiment]) -> None:
    """Print each as a command, with what was left out as comments."""
    for each in experiments:
        print(f"# {each.name}\nrlrun {shlex.join(each.arguments)}")
        for note in each.notes:
            print(f"# {note}")


def warn(experiment: Experiment) -> None:
    """Say what was left out or changed."""
    for note in experiment.notes:
        sys.stderr.write(f"rlrun: {experiment.name}: {note}\n")


def overrides_of(translation: Translation) -> list[str]:
    """What `rlrun` takes: key=value, key=value,value for grids."""
    return [f"{key}={_text(value)}" for key, value in translation.values.items()]


def _take_file(arguments: list[str]) -> tuple[str | None, list[str]]:
    """What the first `-f` names, and the other arguments."""
    for index, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        before, after = arguments[:index], arguments[index + 1 :]
        if name in FILE and equals:
            return value, [*before, *after]
        if name in FILE and after:
            return after[0], [*before, *after[1:]]
        glued = argument.removeprefix(FILE[1])
        if glued and glued != argument:
            return glued, [*before, *after]
    return None, arguments


def _experiment(translation: Translation, typed: list[str]) -> Experiment:
    keys = {_key(argument) for argument in typed if not argument.startswith("-")}
    values = {key: each for key, each in translation.values.items() if _key(key) not in keys}
    rest = Translation(translation.name, values, translation.notes)
    is_sweep = rest.is_sweep and not {"-m", "--multirun"} & set(typed)
    arguments = [*(["-m"] if is_sweep else []), *overrides_of(rest), *typed]
    return Experiment(rest.name, arguments, rest.notes)


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _text(value: Any) -> str:
    return ",".join(map(as_text, value.values)) if isinstance(value, Grid) else as_text(value)
