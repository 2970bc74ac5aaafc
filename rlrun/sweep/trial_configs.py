"""The configs of trials, composed and checked as `rlrun` would, only faster."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rlrun import validate
from rlrun.arguments import Primary
from rlrun.compose import explaining, hydra_at_hand, nodes_of, plain_config, referring_to, set_value
from rlrun.config import conf_dir
from rlrun.core.errors import ConfigError
from rlrun.overrides import OPEN_NODES, as_hydra_wants, as_text
from rlrun.settle import MAY_NOT_FIT, settle

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rlrun.parts import Parts

DECIDES_MORE = frozenset({*MAY_NOT_FIT, "tuned", "tuned_examples", "debug"})
"""Keys that change others too, where a run is composed."""


class TrialConfigs:
    """Composes a sweep's configs: with Hydra once for all trials that make the same choices, with
    plain values laid over what that gave.

    primary: the config with which composing begins. common: the overrides that all trials have, as
    Hydra takes them.
    """

    def __init__(self, primary: Primary, common: Sequence[str]) -> None:
        self._primary = primary
        self._common = list(common)
        self._composed: dict[tuple[str, ...], dict[str, Any] | None] = {}
        """By the overrides beyond the common ones; None where values may not be laid over."""

    def plain(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The config of a trial as plain dicts. values: by override key. Raises ConfigError."""
        laid_over = {key: value for key, value in values.items() if _is_plain(key, value)}
        chosen = tuple(overrides_of({k: v for k, v in values.items() if k not in laid_over}))
        if chosen not in self._composed:
            config = self.compose(chosen)
            # The debug preset sets sizes by others that were typed.
            is_settled = config.get("debug") is not True
            may_lay_over = is_settled and not _has_references(nodes_of(config, resolve=False))
            self._composed[chosen] = _plain(config) if may_lay_over else None
        base = self._composed[chosen]
        if base is None or not all(_holds_value(base, key) for key in laid_over):
            return _plain(self.compose(overrides_of(values)))
        plain = copy.deepcopy(base)
        for key, value in laid_over.items():
            set_value(plain, key.lstrip("+"), copy.deepcopy(value))
        return plain

    def read(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], Parts]:
        """A trial's config and all of its objects, checked as for a run. Raises RlrunError."""
        from rlrun.parts import read_config, with_seed

        try:
            plain = self.plain(values)
            return plain, read_config(with_seed(plain))
        except ConfigError:
            # Once more in Hydra's own way, to be told as it would be of a run.
            with hydra_at_hand(self._primary.folder):
                config = self.compose(overrides_of(values))
                return plain_config(config), validate.read(config, config.hydra)

    def subdir(self, number: int, values: Mapping[str, Any], subdir: str) -> str:
        """A trial's folder below the sweep's, by `subdir`, which may refer to its config."""
        config = self.compose([*overrides_of(values), f"hydra.sweep.subdir={as_text(subdir)}"])
        config.hydra.job.num, config.hydra.job.id = number, str(number)
        with referring_to(config):
            return str(config.hydra.sweep.subdir)

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """What Hydra makes of the common and these overrides, settled. Raises ConfigError."""
        from hydra import compose

        everything = [*self._common, *overrides]
        with hydra_at_hand(self._primary.folder), explaining(everything, self._primary.folder):
            config = compose(self._primary.name, everything, return_hydra_config=True)
            return settle(config, config.hydra)


def overrides_of(values: Mapping[str, Any]) -> list[str]:
    """Values by override key as they would be typed."""
    return as_hydra_wants(f"{key}={as_text(value)}" for key, value in values.items())


def _plain(config: DictConfig) -> dict[str, Any]:
    from omegaconf.errors import OmegaConfBaseException

    try:
        return plain_config(config)
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def _is_plain(key: str, value: Any) -> bool:
    """Whether setting the key to the value changes nothing but that."""
    name = key.lstrip("+")
    is_sure = (key == name or key.startswith("++")) and name not in DECIDES_MORE
    is_key = not name.startswith("hydra.") and not name.endswith("_target_")
    is_group = (conf_dir() / name).is_dir() or "/" in name or "@" in name
    is_more = _has_references(value) or isinstance(value, dict)
    return is_sure and is_key and not (is_group or is_more)


def _holds_value(plain: Mapping[str, Any], key: str) -> bool:
    """Whether there is such a key, and it is no mapping; below open nodes any may be set."""
    *parents, leaf = key.lstrip("+").split(".")
    node: Any = plain
    for parent in parents:
        node = node.get(parent) if isinstance(node, Mapping) else None
    is_open = key.lstrip("+").startswith(tuple(f"{each}." for each in OPEN_NODES))
    if not isinstance(node, Mapping) or leaf not in node:
        return is_open and (node is None or isinstance(node, Mapping))
    return not isinstance(node[leaf], Mapping)


def _has_references(node: Any) -> bool:
    """Whether a value refers to another one, so that setting one may change others."""
    if isinstance(node, Mapping):
        return any(map(_has_references, node.values()))
    if isinstance(node, list):
        return any(map(_has_references, node))
    return isinstance(node, str) and "${" in node
