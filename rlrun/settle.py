"""What Hydra cannot know of the config that it composed, and we settle afterwards.

It lays `tuned/<algo>/<env>.yaml` over the papers' general values by itself, where there is such a
file; but not whether a file that was named is there, nor that the user chose what its values were
not tuned for. And where a class takes another's place, it leaves the other's keys behind.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from rlrun.core.errors import ConfigError
from rlrun.core.imports import import_object
from rlrun.debug_preset import make_debuggable
from rlrun.signatures import signature_of

NONE = "none"
"""The choice that leaves the general values as they are."""

CHOSEN_FOR_A_FILE = ("exploration", "model")
"""Groups of which an algorithm brings one choice; values tuned for that are for no other."""

GROUPS_OF_CLASSES = ("algo", "exploration", "model", "logger")
"""Groups whose files name a class and list its keys."""

ENVS_OF_ANY_ID = ("gym", "atari")
"""Choices of the group env that are for whatever env.id names."""

MAY_NOT_FIT = {*CHOSEN_FOR_A_FILE, "env.id"}
"""What a user may set so that tuned values are not for it."""


def settle(config: DictConfig, hydra: Any) -> DictConfig:
    """A config just composed, made whole, with the key `tuned`: the file whose values it has.

    hydra: the node `hydra` that was composed with it. Must be called while Hydra is initialised.
    Raises ConfigError if a file was named that is not there.
    """
    given = [str(override) for override in hydra.overrides.task]
    typed = {override.lstrip("+~").partition("=")[0] for override in given}
    if "algo" not in hydra.runtime.choices:
        # The whole config of a run, in which everything else is settled.
        return _debuggable(config, typed) if "debug" in typed else config
    name = _tuned_name(config, hydra, typed)
    if name != NONE and (hydra.runtime.choices.get("tuned_examples") or typed & MAY_NOT_FIT):
        name = _take_back_what_does_not_fit(config, hydra, name, given, typed)
    with open_dict(config):
        config.tuned = None if name == NONE else name
    is_class_replaced = any(key.endswith("._target_") for key in typed)
    if is_class_replaced or hydra.runtime.choices.get("tuned_examples"):
        _drop_keys_of_replaced_classes(config, hydra, typed)
    return _debuggable(config, typed)


def _debuggable(config: DictConfig, typed: set[str]) -> DictConfig:
    if config.get("debug") is True:
        make_debuggable(config, typed)
    return config


def _tuned_name(config: DictConfig, hydra: Any, typed: set[str]) -> str:
    choices = hydra.runtime.choices
    name = str(choices.get("tuned") or NONE)
    if name == NONE or _is_there(hydra, name):
        return name
    if "tuned" in typed or name != f"{choices.algo}/{choices.env}":
        raise _no_such_file(hydra, name)
    return NONE


def _take_back_what_does_not_fit(
    config: DictConfig, hydra: Any, name: str, given: list[str], typed: set[str]
) -> str:
    """Values tuned for another exploration, model or env than the user's give way to general ones.

    Returns the name of the file that is still in use, or "none".
    """
    choices = hydra.runtime.choices
    algo, _, env = name.rpartition("/")
    env = env if _is_there(hydra, env, "env") else choices.env  # of a family, such as mujoco
    usual_choices = [f"algo={algo}", f"env={env}", "tuned=none"]
    # A file may have its id from another one.
    env_id = _of_file(hydra, "env", env, "id") or _compose(hydra, usual_choices).env.id
    if choices.env in ENVS_OF_ANY_ID or config.env.get("id") == env_id or "tuned" in typed:
        natural = _compose(hydra, usual_choices)
        usual = natural.hydra.runtime.choices
        replaced = [group for group in CHOSEN_FOR_A_FILE if choices.get(group) != usual.get(group)]
    else:
        name, replaced = NONE, [str(key) for key in config if key != "hydra"]
    if replaced:
        others = [override for override in given if not override.startswith("tuned=")]
        general = _compose(hydra, [*others, "tuned=none"])
        with open_dict(config):
            config.update({key: general[key] for key in replaced})
    return name


def _drop_keys_of_replaced_classes(config: DictConfig, hydra: Any, typed: set[str]) -> None:
    """Where a node's `_target_` is not that of the group's file, keys go that only that one has."""
    natural: DictConfig | None = None
    for path, node in list(_nodes_with_target(config)):
        unknown = _unknown_keys(node) - {key.removeprefix(f"{path}.") for key in typed}
        choice = hydra.runtime.choices.get(path)
        if not unknown or (choice and _of_file(hydra, path, choice, "_target_") == node._target_):
            continue
        if natural is None:
            natural = _compose(hydra, [*_own_choices(hydra), "tuned=none"])
        of_file = OmegaConf.select(natural, path)
        if of_file is not None and of_file.get("_target_") != node._target_:
            with open_dict(node):
                for key in unknown & {str(key) for key in of_file}:
                    del node[key]


def _nodes_with_target(config: DictConfig) -> Iterator[tuple[str, DictConfig]]:
    for group in GROUPS_OF_CLASSES:
        node = config.get(group)
        nodes = [(group, node)]
        if isinstance(node, DictConfig):
            names = [str(name) for name in node if not OmegaConf.is_missing(node, name)]
            nodes += [(f"{group}.{name}", node[name]) for name in names]
        for path, child in nodes:
            if isinstance(child, DictConfig) and "_target_" in child:
                yield path, child


def _unknown_keys(node: DictConfig) -> set[str]:
    """The keys that the node's class does not take; none where that cannot be told."""
    if signature := signature_of(str(node._target_)):
        return {str(key) for key in node} - {"_target_", *signature.keys}
    try:
        parameters = inspect.signature(import_object(str(node._target_), "")).parameters
    except (ConfigError, TypeError, ValueError):
        return set()  # Building it will say what is wrong.
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return set()
    return {str(key) for key in node} - {"_target_", *parameters}


def _own_choices(hydra: Any) -> list[str]:
    """The choices of groups that were made, without tuned values and examples."""
    made: dict[str, str | None] = dict(hydra.runtime.choices)
    return [
        f"{group}={choice}"
        for group, choice in made.items()
        if choice is not None and not group.startswith(("hydra/", "tuned"))
    ]


def _compose(hydra: Any, overrides: list[str]) -> DictConfig:
    from hydra import compose

    search_path = [o for o in hydra.overrides.hydra if o.startswith("hydra.searchpath")]
    return compose(hydra.job.config_name, [*search_path, *overrides], return_hydra_config=True)


def folders_of_group(hydra: Any, group: str) -> list[Path]:
    """Where files of the group may lie: ours, and in the user's own folders."""
    sources: list[Any] = list(hydra.runtime.config_sources)
    return [Path(source.path) / group for source in sources if source.schema == "file"]


def _is_there(hydra: Any, name: str, group: str = "tuned") -> bool:
    return any((folder / f"{name}.yaml").is_file() for folder in folders_of_group(hydra, group))


def _of_file(hydra: Any, group: str, choice: str, key: str) -> Any:
    """What a choice's own file says of a key, quicker read than composed; None: nothing."""
    files = [folder / f"{choice}.yaml" for folder in folders_of_group(hydra, group)]
    node = next((OmegaConf.load(file) for file in files if file.is_file()), None)
    return node.get(key) if isinstance(node, DictConfig) else None


def _no_such_file(hydra: Any, name: str) -> ConfigError:
    names = sorted(
        path.relative_to(folder).with_suffix("").as_posix()
        for folder in folders_of_group(hydra, "tuned")
        for path in folder.rglob("*.yaml")
    )
    near = difflib.get_close_matches(name, names, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return ConfigError(f"tuned={name}: there is no such choice.{hint} Allowed: {', '.join(names)}.")


def ids_of_envs(folder: Path) -> dict[str, str]:
    """The choice of the group env for each gymnasium id that a choice is nothing but a name of."""
    found = {}
    for path in sorted(folder.glob("*.yaml")):
        node = OmegaConf.load(path)
        if isinstance(node, DictConfig) and set(node) <= {"defaults", "id"} and "id" in node:
            found[str(node.id)] = path.stem
    return found
