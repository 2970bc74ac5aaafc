"""Which keys a run can be given other values of when it goes on from a checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import fields
from typing import Any

from rlrun.config import flatten_keys, unknown_key
from rlrun.core.errors import ConfigError
from rlrun.core.imports import import_object
from rlrun.overrides import OPEN_NODES, parse

CHANGEABLE = ("exploration.", "env.env_config.", "env.clip_rewards")
"""Keys beside the algorithm's, of which a run has nothing in its checkpoints."""


def refuse_what_cannot_change(keys: Iterable[str], config: Mapping[str, Any], why: str) -> None:
    """Raise ConfigError for the first key that a run of this composed config cannot be given
    another value of; `why` tells who wants that."""
    if config.get("task"):
        return  # A function of the user's, which knows itself what it can change.
    known = set(flatten_keys(config))
    for key in keys:
        is_invented = any(key.startswith(f"{node}.") for node in OPEN_NODES)
        if key not in known and not is_invented:
            raise unknown_key(key, known)
        if key.startswith("algo."):
            _refuse_built_in(key.removeprefix("algo."), config["algo"], why)
        elif not key.startswith(CHANGEABLE) or key.endswith("._target_"):
            raise ConfigError(
                f"{key} cannot change where a run goes on from a checkpoint, as {why} would have "
                f"it. What can: hyperparameters of the algorithm (algo.lr), and what stands below "
                f"{', '.join(CHANGEABLE)}."
            )


def values_of(overrides: Iterable[str], keys: Collection[str]) -> dict[str, Any]:
    """The values that overrides set some keys to."""
    of_interest = [each for each in overrides if each.lstrip("+").partition("=")[0] in keys]
    return dict(parse(each) for each in of_interest)


def _refuse_built_in(name: str, algo: Mapping[str, Any], why: str) -> None:
    kind = import_object(str(algo["_target_"]), "algo._target_")
    changeable = {f.name for f in fields(kind) if f.init} - kind.built_in
    if name not in changeable:
        raise ConfigError(
            f"algo.{name} cannot change in a run, as {why} would have it: {kind.__name__} is built "
            f"with it. What can change: {', '.join(sorted(changeable))}."
        )
