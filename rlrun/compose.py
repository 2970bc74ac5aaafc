"""Composing a configuration with Hydra, on the command line and in Python; imports no torch."""

from __future__ import annotations

import copy
import difflib
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlrun.config import conf_dir, flatten_keys, unknown_key
from rlrun.core.errors import ConfigError
from rlrun.core.imports import import_path
from rlrun.overrides import OPEN_NODES, as_hydra_wants, unreadable
from rlrun.settle import ENVS_OF_ANY_ID, ids_of_envs, settle

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra


SWEEP_NODES = ("sweep", "search", "scheduler")
"""What of a config makes a sweep of it, and is no part of a run."""


def register_resolvers() -> None:
    """The two names that conf/config.yaml uses in the run's default folder."""
    if not OmegaConf.has_resolver("random_suffix"):
        OmegaConf.register_new_resolver(
            "random_suffix", lambda: secrets.token_hex(3), use_cache=True
        )
        OmegaConf.register_new_resolver("env_name", _env_name)


def env_overrides(env: str | type | None) -> list[str]:
    """Overrides that choose an env by group choice, gymnasium id, import path or class.

    An id that a choice stands for means that choice, so that it gets its tuned values. Raises
    ConfigError for a class that other processes cannot import.
    """
    if env is None:
        return []
    env = import_path(env, "env")
    folder = conf_dir() / "env"
    choice = env if (folder / f"{env}.yaml").is_file() else ids_of_envs(folder).get(env)
    return ["env=gym", f"env.id='{env}'"] if choice is None else [f"env={choice}"]


def choice_of_target(group: str, target: str) -> str | None:
    """The choice of a group whose file names `target` itself, or None if there is none."""
    for path in sorted((conf_dir() / group).glob("*.yaml")):
        if OmegaConf.select(OmegaConf.load(path), "_target_") == target:
            return path.stem
    return None


def compose(overrides: list[str], folder: str | None = None) -> DictConfig:
    """The configuration that `rlrun <overrides>` would run, with the groups in a folder of the
    user's own (--config-dir). Raises ConfigError."""
    overrides = as_hydra_wants(overrides)
    with explaining(overrides, folder):
        return _compose(overrides, folder=folder)


@contextmanager
def explaining(overrides: list[str], folder: str | None = None) -> Iterator[None]:
    """Tell errors of Hydra and OmegaConf within the block in our words, as ConfigError."""
    from hydra.errors import HydraException
    from yaml import YAMLError

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise _explain(error, overrides, folder) from error
    except (ValueError, YAMLError) as error:
        is_hydras = isinstance(error, YAMLError) or "override" in str(error)
        if isinstance(error, ConfigError) or not is_hydras:
            raise
        raise ConfigError(f"Hydra cannot compose this: {error}") from error


def _compose(overrides: list[str], name: str = "config", folder: str | None = None) -> DictConfig:
    from hydra import compose as hydra_compose

    with hydra_at_hand(folder):
        config = hydra_compose(name, overrides, return_hydra_config=True)
        return settle(config, config.hydra)


@contextmanager
def referring_to(config: DictConfig) -> Iterator[None]:
    """Let `${hydra:...}` mean this config's node `hydra` within the block."""
    from hydra.core.hydra_config import HydraConfig

    ours, before = HydraConfig.instance(), HydraConfig.instance().cfg
    ours.set_config(config)
    try:
        yield
    finally:
        ours.cfg = before


@contextmanager
def hydra_at_hand(folder: str | None = None) -> Iterator[Hydra]:
    """Hydra for our groups and those in a folder of the user's own within the block, whatever it
    was initialised for before and is again afterwards."""
    from hydra import version
    from hydra._internal.hydra import Hydra
    from hydra._internal.utils import create_config_search_path
    from hydra.core.config_search_path import SearchPathQuery
    from hydra.core.global_hydra import GlobalHydra

    register_resolvers()
    version.setbase(None)
    search_path = create_config_search_path(str(conf_dir()))
    if folder is not None:
        # As hydra.main has --config-dir: what is ours comes first.
        place = f"file://{Path(folder).absolute()}"
        search_path.prepend("command-line", place, SearchPathQuery(provider="schema"))
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().hydra = None
    try:
        yield Hydra.create_main_hydra2("rlrun", search_path)
    finally:
        GlobalHydra.instance().hydra = before


def plain_config(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """A composed config as plain dicts, interpolations resolved, without Hydra's own part and what
    is for sweeps."""
    is_composed = isinstance(config, DictConfig)
    plain: dict[Any, Any] = nodes_of(config) if is_composed else copy.deepcopy(dict(config))
    left_out = ("hydra", "tuned_examples", *SWEEP_NODES)
    return {key: value for key, value in plain.items() if key not in left_out}


def nodes_of(config: Any, *, resolve: bool = True) -> dict[str, Any]:
    """All of a composed config but Hydra's own part, as plain dicts."""
    ours = [str(key) for key in config if key != "hydra"]
    container: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, ours), resolve=resolve)
    return {str(key): value for key, value in container.items()}


def set_value(plain: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key of a plain config. Raises ConfigError if there is no such key."""
    *parents, leaf = key.split(".")
    if key == "tuned":
        raise ConfigError(
            f"tuned={value}: tuned values are laid over the others where a run is composed: "
            f"rlrun algo=... env=... tuned={value}"
        )
    is_open = any(key.startswith(f"{node}.") for node in OPEN_NODES)
    node: Any = plain
    for parent in parents:
        if is_open and isinstance(node, dict):
            node = node.setdefault(parent, {})
        else:
            node = node.get(parent) if isinstance(node, dict) else None
    if not isinstance(node, dict) or (leaf not in node and not is_open):
        raise unknown_key(key, _known_keys(plain))
    if not parents and isinstance(node[leaf], dict) and isinstance(value, str | int | float):
        raise ConfigError(
            f"{key}={value}: {key} is a mapping here, whose keys can be set: "
            f"{key}.<name>=<value>. Choices are made where a run is composed: rlrun {key}=<choice>."
        )
    node[leaf] = value


def _explain(error: Exception, overrides: list[str], folder: str | None) -> ConfigError:
    """Hydra's or OmegaConf's error in our words, with the nearest valid name."""
    from hydra.errors import MissingConfigException

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _no_such_choice(str(error.missing_cfg_file), error.options or ())
    text = str(error)
    if "override_grammar" in text or text.startswith(("Ambiguous value", "Sweep parameters")):
        is_multirun = {"-m", "--multirun"} & set(overrides)
        if refusal := unreadable(overrides, allow_sweeps=bool(is_multirun)):
            return refusal
    overridden = re.search(r"Could not override '([^']+)'", text)
    if overridden is None:
        overridden = re.search(r"Could not find '([^'/]+)'|Could not override '([^'/]+)'", text)
    key = next((group for group in overridden.groups() if group), None) if overridden else None
    if key is not None and not key.startswith("hydra"):
        group, choice = (*key.split("."), "")[:2]
        if (conf_dir() / group / f"{choice}.yaml").is_file():
            return ConfigError(
                f"There is no key {key!r}, for {group}.{choice} is not part of this run. Choose it "
                f"first: {group}={choice} {key}=..."
            )
        return unknown_key(key, _known_keys(_composed_by_choices(overrides, folder)))
    if text.startswith("Error merging override") and error.__cause__ is not None:
        override = text.removeprefix("Error merging override ").strip()
        return ConfigError(f"{override}: {str(error.__cause__).splitlines()[0]}")
    return ConfigError(text)


def _no_such_choice(file: str, options: Iterable[str]) -> ConfigError:
    if file.startswith("hydra/"):
        group, _, choice = file.rpartition("/")
        kind = group.removeprefix("hydra/")
        return ConfigError(
            f"{group}={choice}: there is no such choice; is its plugin installed? (pip install "
            f"hydra-{choice}-{kind}) Allowed: {', '.join(sorted(options))}."
        )
    group, _, choice = file.partition("/")
    folder = conf_dir() / group
    shipped = {p.relative_to(folder).with_suffix("").as_posix() for p in folder.rglob("*.yaml")}
    # Hydra knows of the user's own choices too, but not of those in folders below.
    known = sorted(shipped | (set(options) if "/" not in choice else set()))
    near = difflib.get_close_matches(choice, known, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return ConfigError(
        f"{group}={choice}: there is no such choice.{hint} Allowed: {', '.join(known)}."
    )


def _known_keys(plain: dict[str, Any]) -> list[str]:
    """All dotted keys of a config but those that users may invent."""
    is_open = tuple(f"{node}." for node in OPEN_NODES)
    return [key for key in flatten_keys(plain) if not key.startswith(is_open)]


def _composed_by_choices(overrides: list[str], folder: str | None) -> dict[str, Any]:
    """The config that the group choices among `overrides` make, or the default one.

    With --config-name among them, the one of that name.
    """
    from hydra.errors import HydraException

    groups = "|".join(path.name for path in conf_dir().iterdir() if path.is_dir())
    wanted = rf"({groups})=[\w/-]+|hydra\.searchpath=.*"
    choices = [o for o in overrides if re.fullmatch(wanted, o)]
    names = [after for flag, after in pairwise(overrides) if flag == "--config-name"]
    name = names[-1] if names else "config"
    try:
        return nodes_of(_compose(choices, name, folder))
    except (HydraException, OmegaConfBaseException, ConfigError):
        return nodes_of(_compose([]))


def _env_name(choice: str, env_id: str) -> str:
    """How the env is called in folder names: its choice, or its id where that is another's."""
    file = conf_dir() / "env" / f"{choice}.yaml"
    own_id = OmegaConf.select(OmegaConf.load(file), "id") if file.is_file() else env_id
    is_own = choice not in ENVS_OF_ANY_ID and own_id == env_id
    return choice if is_own else re.sub(r"[^\w.-]", "_", env_id)
