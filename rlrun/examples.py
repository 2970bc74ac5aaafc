"""Tuned examples, and other files that `-f` replays; imports no torch."""

from __future__ import annotations

import re
from pathlib import Path

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from rlrun.config import conf_dir
from rlrun.core.errors import ConfigError


def find_tuned_example(path: str) -> Path:
    """The YAML file that `-f path` means: as given, or among the shipped tuned examples.

    Raises ConfigError if there is none.
    """
    import difflib

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
    raise ConfigError(f"-f {path}: there is no such file.{hint} Shipped are: {', '.join(names)}.")


def use_tuned_example(path: str) -> str:
    """Make a tuned example's file a choice of the group tuned_examples; returns the override."""
    from hydra.core.config_store import ConfigStore

    file = find_tuned_example(path)
    name = re.sub(r"[^\w-]", "_", file.stem)
    try:
        node = OmegaConf.load(file)
    except (OmegaConfBaseException, YAMLError, OSError) as error:
        raise ConfigError(f"-f {path} is not valid YAML: {error}") from error
    if not isinstance(node, DictConfig):
        raise ConfigError(
            f"-f {path} must hold a mapping: defaults, stop, pass_mark and overrides."
        )
    ConfigStore.instance().store(
        group="tuned_examples", name=f"replay_{name}", node=node, package="_global_"
    )
    return f"tuned_examples=replay_{name}"
