"""Values that were tuned for one algorithm in one env (conf/tuned), and whether a run takes them.

Hydra lays `tuned/<algo>/<env>.yaml` over the papers' general values by itself, where there is such
a file. What it cannot know is settled here: a file that was named and is not there, and choices
of the user's that the values were not tuned for.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from rlrun.core.errors import ConfigError

NONE = "none"
"""The choice that leaves the general values as they are."""

CHOSEN_FOR_A_FILE = ("exploration", "model")
"""Groups of which an algorithm brings one choice; values tuned for that are for no other."""

ENVS_OF_ANY_ID = ("gym", "atari")
"""Choices of the group env that are for whatever env.id names."""


def settle(config: DictConfig, hydra: DictConfig) -> DictConfig:
    """A config just composed, with the key `tuned`: the file whose values it has, or null.

    hydra: the node `hydra` that was composed with it. Must be called while Hydra is initialised.
    Raises ConfigError if a file was named that is not there.
    """
    choices = hydra.runtime.choices
    given = [str(override) for override in hydra.overrides.task]
    keys = {override.lstrip("+~").partition("=")[0] for override in given}
    name = choices.get("tuned") or NONE
    if name != NONE and not _is_there(hydra, name):
        if "tuned" in keys or name != f"{choices.algo}/{choices.env}":
            raise _no_such_file(hydra, name)
        name = NONE
    is_special = bool(choices.get("tuned_examples")) or keys & {*CHOSEN_FOR_A_FILE, "env.id"}
    if name != NONE and is_special:
        algo, _, env = name.rpartition("/")
        env = env if _is_there(hydra, env, "env") else choices.env  # of a family, such as mujoco
        natural = _compose(hydra, [f"algo={algo}", f"env={env}", "tuned=none"])
        usual = natural.hydra.runtime.choices
        replaced = [group for group in CHOSEN_FOR_A_FILE if choices.get(group) != usual.get(group)]
        is_env_of_file = choices.env in ENVS_OF_ANY_ID or config.env.get("id") == natural.env.id
        if not is_env_of_file and "tuned" not in keys:
            name, replaced = NONE, [str(key) for key in config if key != "hydra"]
        if replaced:
            others = [override for override in given if not override.startswith("tuned=")]
            general = _compose(hydra, [*others, "tuned=none"])
            with open_dict(config):
                config.update({key: general[key] for key in replaced})
    with open_dict(config):
        config.tuned = None if name == NONE else name
    return config


def _compose(hydra: DictConfig, overrides: list[str]) -> DictConfig:
    from hydra import compose

    search_path = [o for o in hydra.overrides.hydra if o.startswith("hydra.searchpath")]
    return compose(hydra.job.config_name, [*search_path, *overrides], return_hydra_config=True)


def _folders(hydra: DictConfig, group: str = "tuned") -> list[Path]:
    """Where files of the group may lie: ours, and in the user's own folders."""
    sources: list[Any] = list(hydra.runtime.config_sources)
    return [Path(source.path) / group for source in sources if source.schema == "file"]


def _is_there(hydra: DictConfig, name: str, group: str = "tuned") -> bool:
    return any((folder / f"{name}.yaml").is_file() for folder in _folders(hydra, group))


def _no_such_file(hydra: DictConfig, name: str) -> ConfigError:
    names = sorted(
        path.relative_to(folder).with_suffix("").as_posix()
        for folder in _folders(hydra)
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
