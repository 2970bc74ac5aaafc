"""Files that `-f` replays: tuned examples, and the whole config of a run; imports no torch."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rlrun.config import conf_dir
from rlrun.core.errors import ConfigError
from rlrun.settle import ids_of_envs

FILE = ("--file", "-f")
"""The option that names such a file."""

OF_A_WHOLE_CONFIG = ("algo", "env", "exploration", "model", "resources", "evaluation")
"""Nodes that every composed config has."""

CHANGEABLE = ("logger", "resources", "evaluation", "callbacks", "curriculum")
"""Groups of which a replayed run may be given another choice, as nothing hangs on them."""

OF_SWEEPS = ("search", "scheduler")
"""Groups that a run has not written down, as they are no part of it."""


def use_file(path: str, overrides: Iterable[str]) -> tuple[list[str], list[str]]:
    """Let Hydra know the file that `-f path` means; returns the options and overrides that use it.

    overrides: what else the user gives. Raises ConfigError if there is no such file, or nothing in
    it.
    """
    file = find_file(path)
    node = load_file(file, path)
    name = f"replay_{re.sub(r'[^A-Za-z0-9_-]', '_', file.stem)}"
    if all(isinstance(node.get(group), DictConfig) for group in OF_A_WHOLE_CONFIG):
        _store(_whole_config(node, path, overrides), name, path)
        return ["--config-name", name], []
    _store(node, name, path, group="tuned_examples")
    return [], [f"tuned_examples={name}"]


def find_file(path: str, said_by: str = "-f") -> Path:
    """The file that `-f path` means: as given, or among the shipped tuned examples.

    Raises ConfigError if there is none; it begins with `said_by`.
    """
    shipped = conf_dir() / "tuned_examples"
    given = Path(path)
    inner = given.relative_to("tuned_examples") if given.parts[:1] == ("tuned_examples",) else given
    is_bare = len(given.parts) == 1
    by_stem = [file for file in shipped.rglob("*.yaml") if is_bare and file.stem == given.stem]
    for candidate in (given, shipped / inner, shipped / f"{inner}.yaml", *by_stem):
        if candidate.is_file():
            return candidate.absolute()
    names = sorted(str(p.relative_to(shipped).with_suffix("")) for p in shipped.rglob("*.yaml"))
    near = difflib.get_close_matches(str(inner).removesuffix(".yaml"), names, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(
        f"{said_by} {path}: there is no such file.{hint} Shipped are: {', '.join(names)}."
    )


def file_that_sets(key: str, choice: str) -> tuple[str, str] | None:
    """How the user names the tuned example `choice`, and the algorithm that it is for, if it sets
    `key`."""
    from hydra.core.config_store import ConfigStore

    stored = ConfigStore.instance().repo.get("tuned_examples", {}).get(f"{choice}.yaml")
    file = conf_dir() / "tuned_examples" / f"{choice}.yaml"
    if stored is None and not file.is_file():
        return None
    node: Any = OmegaConf.load(file) if stored is None else stored.node
    if OmegaConf.select(node, key) is None:
        return None
    algo = [each.get("override /algo") for each in node.get("defaults", []) if hasattr(each, "get")]
    name = f"tuned_examples={choice}" if stored is None else f"-f {stored.provider}"
    return name, next((str(each) for each in algo if each), "another algorithm")


def load_file(file: Path, path: str, said_by: str = "-f") -> DictConfig:
    """What a YAML or JSON file holds, which the user has named `path`. Raises ConfigError."""
    try:
        text = file.read_text(encoding="utf-8")
        node = OmegaConf.create(json.loads(text) if file.suffix == ".json" else text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{said_by} {path} is not text in UTF-8: {error}") from error
    except (OmegaConfBaseException, YAMLError, ValueError, OSError) as error:
        raise ConfigError(f"{said_by} {path} is not valid YAML: {error}") from error
    if not isinstance(node, DictConfig) or not text.strip():
        what = "must hold a mapping" if text.strip() else "is empty; it should hold a mapping"
        raise ConfigError(f"{said_by} {path} {what}: defaults, stop, pass_mark and overrides.")
    if not node:
        raise ConfigError(f"{said_by} {path} sets nothing: it needs defaults, stop or other keys.")
    return node


def _store(node: DictConfig, name: str, path: str, group: str | None = None) -> None:
    from hydra.core.config_store import ConfigStore

    package = None if group is None else "_global_"
    ConfigStore.instance().store(group=group, name=name, node=node, package=package, provider=path)


def _whole_config(node: DictConfig, path: str, overrides: Iterable[str]) -> DictConfig:
    """A primary config that composes nothing but what a run has written down."""
    plain: dict[str, Any] = {**OmegaConf.to_container(node)}  # type: ignore[dict-item]
    ours: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "config.yaml"))
    usual = {
        group: choice
        for each in ours["defaults"]
        if isinstance(each, dict)
        for group, choice in each.items()
    }
    choices = {group: usual[group] for group in OF_SWEEPS}
    for override in overrides:
        group, equals, choice = override.partition("=")
        if not equals or not (conf_dir() / group).is_dir() or "." in group:
            continue
        if group not in (*CHANGEABLE, *OF_SWEEPS):
            raise ConfigError(
                f"{override}: -f {path} is the whole config of a run, where this is settled. Set "
                f"keys ({group}.<name>=<value>), or compose a new run without -f."
            )
        plain.pop(group, None)
        choices[group] = choice
    hydra = ours["hydra"]
    algo = str(plain["algo"].get("_target_", "")).rpartition(".")[2].lower()
    env = str(plain["env"].get("id"))
    env = ids_of_envs(conf_dir() / "env").get(env) or re.sub(r"[^\w.-]", "_", env)
    when = hydra["run"]["dir"].rpartition("/")[2]
    hydra["run"]["dir"] = f"results/{algo}_{env}/{when}"
    defaults = [
        "_self_",
        *({group: choice} for group, choice in choices.items()),
        {"override hydra/job_logging": "none"},
    ]
    return OmegaConf.create({"defaults": defaults, **plain, "sweep": ours["sweep"], "hydra": hydra})
