"""What of a config is refused before torch is imported, which takes seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlrun.config import RunSettings, build
from rlrun.core.errors import ConfigError
from rlrun.core.resources import Resources
from rlrun.key_watch import check_names
from rlrun.signatures import signature_of

GROUPS = frozenset(
    [
        "algo",
        "env",
        "exploration",
        "model",
        "resources",
        "evaluation",
        "logger",
        "callbacks",
        "curriculum",
    ]
)

CLASSES = {
    "env": "rlrun.workers.envs.EnvConfig",
    "evaluation": "rlrun.evaluation.EvaluationConfig",
    "algo": None,
    "exploration": None,
    "model": None,
}
"""What is made of a group's node, which is looked at in its source; None: its `_target_`."""

OF_MANY = ("logger", "callbacks", "curriculum")
"""Groups that may hold one class, several by name or in a list, or none."""


def refuse_early(plain: Mapping[str, Any]) -> None:
    """Raise ConfigError for a key without a value, for what is wrong with the keys of no group or
    with the resources, and for what the sources of our classes refuse."""
    for group in sorted(GROUPS - set(OF_MANY)):
        if not isinstance(plain.get(group), Mapping):
            raise ConfigError(
                f"{group}={plain.get(group)!r} must be a mapping: choose one of the group's files "
                f"with {group}=<choice>; see `rlrun list {group}`."
            )
    if missing := next(_missing(plain), None):
        raise ConfigError(f"{missing} must be given: {missing}=<value>")
    settings = read_settings(plain)
    build(plain["resources"], "resources", target=Resources)
    for group, path in CLASSES.items():
        node = plain[group]
        if signature := signature_of(path or str(node.get("_target_"))):
            signature.check(node, group)
    for group in OF_MANY:
        for key, node in _nodes(plain.get(group), group):
            if signature := signature_of(str(node.get("_target_"))):
                signature.check(node, key)
    if not (plain.get("callbacks") or plain.get("curriculum") or plain.get("task")):
        check_names(settings, False, plain["evaluation"])


def read_settings(plain: Mapping[str, Any]) -> RunSettings:
    """The keys of no group. Raises ConfigError."""
    rest = {key: value for key, value in plain.items() if key not in GROUPS}
    return build(rest, "", target=RunSettings)


def _nodes(tree: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(key, node) of the classes in a group, as `build_all` finds them."""
    if isinstance(tree, Mapping) and "_target_" in tree:
        yield key, tree
    elif isinstance(tree, Mapping):
        for name, child in tree.items():
            if isinstance(child, Mapping):
                yield f"{key}.{name}", child
    elif isinstance(tree, list):
        for index, child in enumerate(tree):
            if isinstance(child, Mapping):
                yield f"{key}[{index}]", child


def _missing(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """The dotted keys that have no value yet."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _missing(value, f"{prefix}{name}.")
        elif value == "???":
            yield f"{prefix}{name}"
