"""What users write as key=value, as Hydra wants it, and as values; imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rlrun.config import conf_dir
from rlrun.core.errors import ConfigError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

OPEN_NODES = (
    "stop",
    "pass_mark",
    "callbacks",
    "curriculum",
    "env.env_config",
    "evaluation.config",
    "model.module_config",
    "resources.custom_resources_per_worker",
    "search.space",
    "search.sampler_options",
    "task_config",
    "scheduler.hyperparam_mutations",
)
"""Nodes below which any key may be set, without the + that Hydra asks for elsewhere."""

KEYWORDS = frozenset({"null", "true", "false", "nan", "inf"})
"""Words of Hydra's grammar that are no text."""

LEVEL = "log_level="
"""The one key whose values are names that people write small."""

_ASSIGNMENT = re.compile(r"([A-Za-z_][^=\s]*)=", re.DOTALL)


def as_hydra_wants(overrides: Iterable[str]) -> list[str]:
    """Overrides with `++` where users may invent keys, and mappings of groups key by key. Raises
    ConfigError for a list of classes, which Hydra takes for choices.

    Keys may be invented below open nodes, and where the class is not the file's own: one that the
    user names, or that is different in each job of a sweep. Building checks them.
    """
    flat = [each for override in overrides for each in _flattened(_open(override))]
    free = tuple(prefix for override in flat if (prefix := _free_prefix(override)))
    return [f"++{each}" if each.startswith(free) else each for each in flat]


def parse_assignments(arguments: list[str]) -> dict[str, Any]:
    """key=value arguments as `rlrun key=value` reads them, as a dict. Raises ConfigError."""
    values: dict[str, Any] = {}
    for argument in arguments:
        if not _ASSIGNMENT.match(argument):
            raise ConfigError(f"{argument!r} is not of the form key=value.")
        key, value = parse(_open(argument))
        if "${" in argument:
            raise ConfigError(
                f"{argument!r}: references are resolved where a run is composed, which this one "
                f"is already. Give the value."
            )
        values[key] = value
    return values


def parse(argument: str) -> tuple[str, Any]:
    """Key (with dots for slashes) and value of one key=value. Raises ConfigError."""
    argument = argument.lstrip("+")
    override = _read_dotted(argument)
    if override.is_sweep_override():
        raise ConfigError(
            f"{argument} names several values. Sweep over them with -m: rlrun -m {argument}; or "
            f"give one, or a list: {argument.partition('=')[0]}=[...]."
        )
    return override.key_or_group, override.value()


def unreadable(overrides: Iterable[str], *, allow_sweeps: bool) -> ConfigError | None:
    """What is wrong with the first of the overrides that cannot be read as one value."""
    for override in overrides:
        if _ASSIGNMENT.match(override.lstrip("+")):
            try:
                _read_dotted(override) if allow_sweeps else parse(override)
            except ConfigError as error:
                return error
    return None


def read(argument: str) -> Override:
    """One key=value in Hydra's grammar, which may name several values. Raises ConfigError."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(argument)
    except HydraException as error:
        reason, text = str(error).splitlines()[0], argument.partition("=")[2]
        raise ConfigError(f"{argument!r} cannot be read: {reason}.{_quotes(text)}") from error


def as_text(value: Any) -> str:
    """A plain value in Hydra's grammar."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {as_text(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_text, value)) + "]"
    if isinstance(value, str) and not _is_bare(value):
        from hydra.core.override_parser.types import Quote, QuotedString

        return QuotedString(value, Quote.double).with_quotes()
    if isinstance(value, float):
        return repr(value)
    return value if isinstance(value, str) else json.dumps(value)


def _is_bare(text: str) -> bool:
    """Whether a text stays itself without quotes."""
    return text.lower() not in KEYWORDS and re.fullmatch(r"[A-Za-z_][\w./-]*", text) is not None


def _read_dotted(argument: str) -> Override:
    key, _, text = argument.lstrip("+").partition("=")
    return read(f"{key.replace('/', '.')}={text}")


def _quotes(text: str) -> str:
    if text[:1] in "[{\"'" or "'" in text:
        return ""
    return f" Text with special letters needs quotes of its own: \"'{text}'\"."


def _open(override: str) -> str:
    """`++` below open nodes, dots for slashes there."""
    if override == "tuned=null":
        return "tuned=none"
    if override.startswith(LEVEL):
        return override[: len(LEVEL)] + override[len(LEVEL) :].upper()
    match = _ASSIGNMENT.match(override)
    if match is None:
        return override
    key = match[1]
    dotted = key.replace("/", ".")
    is_whole_node = dotted in OPEN_NODES and override[len(key) :].startswith("={")
    if is_whole_node and "." not in dotted and _is_group(dotted):
        return override
    if is_whole_node or any(dotted.startswith(f"{node}.") for node in OPEN_NODES):
        return f"++{dotted}{override[len(key) :]}"
    return override


def _flattened(override: str) -> list[str]:
    """`algo={lr: 1}` as `algo.lr=1`: Hydra takes nothing but a choice for a group. And an object in
    the place of what a key had, with which Hydra would merge it."""
    key, _, text = override.partition("=")
    if text.startswith("[") and _is_group(key.lstrip("+")):
        _refuse_classes(key.lstrip("+"), _read_dotted(override).value())
    if text.startswith("{") and "_target_" in text and re.fullmatch(r"[a-z]\w*(\.\w+)+", key):
        return [f"{key}=null", f"++{override}"]
    if not (text.startswith("{") and _is_group(key)):
        return [override]
    leaves = _leaves(key, _read_dotted(override).value())
    return [_open(f"{path}={as_text(leaf)}") for path, leaf in leaves]


def _refuse_classes(group: str, value: Any) -> None:
    if not all(isinstance(each, str) for each in value):
        raise ConfigError(
            f"{group}={value} is no list of choices (rlrun list {group}). Classes of your own get "
            f"a name each: {group}.mine={{_target_: my_module.MyClass}}"
        )


def _leaves(path: str, value: Any) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        return [(path, value)]
    return [leaf for name, child in value.items() for leaf in _leaves(f"{path}.{name}", child)]


def _free_prefix(override: str) -> str | None:
    """Below what any key may be set, as `override` names a class of its own or several files."""
    key, _, text = override.partition("=")
    if key.endswith("._target_") and key[0].isalpha():
        return key.removesuffix("_target_")
    return f"{key}." if re.search("[,(]", text) and _is_group(key) else None


def _is_group(key: str) -> bool:
    return key.isidentifier() and (conf_dir() / key).is_dir()
