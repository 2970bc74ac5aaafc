"""`rlrun options`: every key of a run with what it may be, without an import of torch."""

from __future__ import annotations

import ast
import difflib
import json
import math
import shutil
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from rlrun.compose import compose, plain_config
from rlrun.core.errors import ConfigError
from rlrun.signatures import Key, signature_of

SETTINGS = "rlrun.config.RunSettings"
OF_GROUPS = {
    "env": "rlrun.workers.envs.EnvConfig",
    "evaluation": "rlrun.evaluation_config.EvaluationConfig",
    "resources": "rlrun.core.resources.Resources",
}
"""The classes of groups that name none themselves."""

GENERAL = "general"
"""What the keys of no group are listed under."""

LONGEST_VALUE = 24
NARROWEST_DOC = 30


@dataclass(frozen=True)
class Option:
    """One key of a run."""

    key: str
    value: Any
    allowed: str
    doc: str


def print_options(overrides: list[str], names: list[str], folder: str | None = None) -> None:
    """Print the options of the run that `overrides` compose, with the groups in a folder of the
    user's own; with `names`, of these groups alone.

    Raises ConfigError if the run cannot be composed, or there is no such group.
    """
    config = compose(overrides, folder)
    sections = dict(_sections(plain_config(config)))
    for name in names:
        if name not in sections:
            near = difflib.get_close_matches(name, sections, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"rlrun options {name}: there is no such group.{hint} Groups: "
                f"{', '.join(sections)}; to choose within one: {name}=<choice>."
            )
    shown = names or list(sections)
    options = [option for name in shown for option in sections[name]]
    widths = (
        max(len(each.key) for each in options),
        max(len(_shown(each.value)) for each in options),
        max(len(each.allowed) for each in options),
    )
    for name in shown:
        print(_heading(name, config))
        for option in sections[name]:
            _print_option(option, widths)
        print()


def _sections(plain: Mapping[str, Any]) -> Iterator[tuple[str, list[Option]]]:
    """(group, its options), the keys of no group first."""
    groups = {
        name: node
        for name, node in plain.items()
        if name in OF_GROUPS or (isinstance(node, Mapping) and _has_classes(node))
    }
    general = {name: value for name, value in plain.items() if name not in groups}
    yield GENERAL, list(_options("", general, SETTINGS))
    for name, node in groups.items():
        if options := list(_options(name, node, OF_GROUPS.get(name))):
            yield name, options


def _has_classes(node: Mapping[str, Any]) -> bool:
    return "_target_" in node or any(
        isinstance(child, Mapping) and "_target_" in child for child in node.values()
    )


def _options(prefix: str, node: Mapping[str, Any], path: str | None) -> Iterator[Option]:
    """The options of a node: those of its class, whether or not its file lists them."""
    target = path or str(node.get("_target_", ""))
    signature = signature_of(target)
    keys = signature.keys if signature else {}
    before = f"{prefix}." if prefix else ""
    if "_target_" in node:
        yield Option(f"{before}_target_", node["_target_"], "import path", "The class.")
    for name, key in keys.items():
        value = node[name] if name in node else _Default(key.default)
        yield Option(f"{before}{name}", value, _allowed(key), key.doc)
    for name, value in node.items():
        if name in keys or name == "_target_":
            continue
        if isinstance(value, Mapping) and _has_classes({name: value}):
            yield from _options(f"{before}{name}", value, None)
        else:
            yield Option(f"{before}{name}", value, "", "")


@dataclass(frozen=True)
class _Default:
    """A value that stands only in the source."""

    text: str | None


def _allowed(key: Key) -> str:
    ranges = list(dict.fromkeys(map(str, key.ranges)))
    return " ".join([_type_words(key.annotation), *ranges])


def _type_words(annotation: Any) -> str:
    arguments = typing.get_args(annotation)
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return " | ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        words = [_type_words(each) for each in arguments]
        if "Schedule" in words:  # Its list is one as well.
            words = [*(word for word in words if word not in ("list", "Schedule")), "schedule"]
        return " | ".join(words)
    names = {types.NoneType: "null", str: "text", dict: "mapping", Any: "any"}
    plain = origin or annotation
    return names.get(plain, getattr(plain, "__name__", str(plain)))


def _heading(name: str, config: DictConfig) -> str:
    choice = config.hydra.runtime.choices.get(name)
    return f"{name}={choice}" if choice else f"{name}:"


def _shown(value: Any) -> str:
    if isinstance(value, _Default):
        with suppress(ValueError, SyntaxError):  # It is a name in the source.
            return _shown(ast.literal_eval(str(value.text)))
        return str(value.text)
    plain = isinstance(value, bool | list | dict | None)
    text = json.dumps(value).replace('"', "") if plain else str(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def _print_option(option: Option, widths: tuple[int, int, int]) -> None:
    key, value, allowed = widths
    front = f"  {option.key:<{key}}  {_shown(option.value):<{value}}  {option.allowed:<{allowed}}  "
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else math.inf
    if columns == math.inf:
        print(f"{front}{option.doc}".rstrip())
    elif columns - len(front) >= NARROWEST_DOC:
        print(_wrapped(option.doc, int(columns), front))
    else:
        print(front.rstrip())
        print(_wrapped(option.doc, max(int(columns), NARROWEST_DOC), " " * 6))


def _wrapped(text: str, columns: int, front: str) -> str:
    behind = " " * len(front)
    return textwrap.fill(text, columns, initial_indent=front, subsequent_indent=behind)
