"""What of a config is refused before torch is imported, which takes seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rlrun.compose import plain_config, set_value
from rlrun.config import RunSettings, build, check_arguments
from rlrun.core.errors import ConfigError
from rlrun.core.imports import IMPORT_PATH, import_object
from rlrun.core.resources import Resources
from rlrun.evaluation_config import EvaluationConfig
from rlrun.key_watch import check_names
from rlrun.signatures import signature_of, stands_for_object

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

EVALUATION_KEYS = frozenset({"algo", "callbacks", "env", "exploration", "explore", "seed"})
"""What of the config evaluation workers may have otherwise than training ones."""

OF_MANY = ("logger", "callbacks", "curriculum")
"""Groups that may hold one class, several by name or in a list, or none."""


def refuse_early(plain: Mapping[str, Any], *, trains: bool = True) -> None:
    """Raise ConfigError for a key without a value; for what is wrong with the keys of no group, the
    resources, the evaluation and the envs, which must be there; for classes that are not, and for
    what the sources of our own would refuse.

    Without `trains`, there need be no env for evaluation.
    """
    _check_mappings(plain)
    if missing := next(_missing(plain), None):
        raise ConfigError(f"{missing} must be given: {missing}=<value>")
    settings = read_settings(plain)
    build(plain["resources"], "resources", target=Resources)
    evaluation = build(plain["evaluation"], "evaluation", target=EvaluationConfig)
    _check_groups(plain, makes_envs=True)
    _check_data(plain, settings)
    overridden = with_overrides(plain, evaluation.config)
    try:
        _check_mappings(overridden)
        _check_groups(overridden, makes_envs=trains and evaluation.is_wanted)
        read_settings(overridden)
    except ConfigError as error:
        raise ConfigError(f"evaluation.config: {error}") from error
    if not (plain.get("callbacks") or plain.get("curriculum") or plain.get("task")):
        check_names(settings, False, plain["evaluation"])


def _check_mappings(plain: Mapping[str, Any]) -> None:
    for group in sorted(GROUPS - set(OF_MANY)):
        if not isinstance(plain.get(group), Mapping):
            raise ConfigError(
                f"{group}={plain.get(group)!r} must be a mapping: choose one of the group's files "
                f"with {group}=<choice>; see `rlrun list {group}`."
            )


def _check_groups(plain: Mapping[str, Any], *, makes_envs: bool) -> None:
    """What of a config training and evaluation workers may have each of their own."""
    nodes = [(group, plain[group]) for group in ("algo", "exploration", "model")]
    nodes += [each for group in OF_MANY for each in _nodes(plain.get(group), group)]
    for key, node in nodes:
        if "_target_" not in node:
            continue
        arguments = {name: value for name, value in node.items() if name != "_target_"}
        if signature := signature_of(str(node["_target_"])):
            signature.check(arguments, key)
            continue
        target = import_object(str(node["_target_"]), f"{key}._target_")
        if isinstance(target, type) and not any(map(stands_for_object, arguments.values())):
            check_arguments(target, arguments, key)
    # With gymnasium, which what is wrong elsewhere need not wait for.
    from rlrun.workers.envs import EnvConfig, require_env

    env = build(plain["env"], "env", target=EnvConfig)
    others = {**plain, "env": env.wrappers}
    if makes_envs and (IMPORT_PATH.fullmatch(env.id) or not _names_other_code(others)):
        require_env(env)


def _names_other_code(tree: Any) -> bool:
    """Whether modules of others may be imported for the run, which may register envs."""
    if isinstance(tree, Mapping | list):
        children = tree.values() if isinstance(tree, Mapping) else tree
        return any(_names_other_code(child) for child in children)
    is_path = isinstance(tree, str) and IMPORT_PATH.fullmatch(tree) is not None
    return is_path and tree.partition(".")[0] not in ("rlrun", "gymnasium")


def _check_data(plain: Mapping[str, Any], settings: RunSettings) -> None:
    signature = signature_of(str(plain["algo"].get("_target_")))
    if signature is not None and settings.input is None:
        require_data(plain["env"]["id"], signature.constants.get("needs_data"), signature.name)


def require_data(env_id: str, needs_data: Any, name: str) -> None:
    """Raise ConfigError where a run has no data to learn from, if its env or its algorithm, the
    class of that name, needs them."""
    from rlrun.workers.envs import NO_ENV

    if env_id == NO_ENV:
        raise ConfigError("env=none needs data in the place of an env: input=PATH.")
    if needs_data:
        raise ConfigError(
            f"input must be given, as the algorithm ({name}) learns from data alone: input=PATH "
            f"names a folder that output=DIR wrote, or minari:NAME."
        )


def read_settings(plain: Mapping[str, Any]) -> RunSettings:
    """The keys of no group. Raises ConfigError."""
    rest = {key: value for key, value in plain.items() if key not in GROUPS}
    return build(rest, "", target=RunSettings)


def with_overrides(plain: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The config of evaluation workers: the run's, with `evaluation.config` laid over it."""
    changed = plain_config(plain)
    unused = set(overrides) - EVALUATION_KEYS
    if unused:
        raise ConfigError(
            f"evaluation.config.{min(unused)} has no effect on evaluation workers. Allowed below "
            f"'evaluation.config': {', '.join(sorted(EVALUATION_KEYS))}."
        )

    def lay_over(node: Mapping[str, Any], prefix: str) -> None:
        for name, value in node.items():
            if isinstance(value, Mapping) and "_target_" not in value and value:
                lay_over(value, f"{prefix}{name}.")
            else:
                set_value(changed, f"{prefix}{name}", value)

    try:
        lay_over(overrides, "")
    except ConfigError as error:
        raise ConfigError(f"evaluation.config: {error}") from error
    return changed


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
