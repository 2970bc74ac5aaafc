"""What `debug=true` makes of a run: one process, tiny sizes, much said; where the user says
otherwise, that counts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

VALUES: dict[str, Any] = {
    "resources.num_workers": 0,
    "resources.num_gpus": 0,
    "resources.num_gpus_per_worker": 0,
    "resources.num_cpus_per_replay_shard": 1,
    "resources.ray_address": None,
    "evaluation.num_workers": 0,
    "log_level": "DEBUG",
}
"""Everything in this process, where a debugger sees it."""

LARGEST: dict[str, int] = {
    "algo.train_batch_size": 64,
    "algo.minibatch_size": 32,
    "algo.microbatch_size": 32,
    "algo.num_epochs": 2,
    "algo.num_sgd_iter": 2,
    "algo.num_envs_per_worker": 2,
    "algo.rollout_fragment_length": 32,
    "algo.timesteps_per_iteration": 64,
    "algo.learning_starts": 64,
    "algo.buffer_size": 2_000,
    "algo.episodes_per_batch": 4,
    "algo.num_rollouts": 2,
    "algo.rollouts_used": 2,
    "algo.noise_size": 1_000_000,
    "evaluation.duration": 2,
}
"""Sizes that are lowered to this."""

NOT_BELOW = {
    "algo.train_batch_size": ("algo.minibatch_size", "algo.microbatch_size"),
    "algo.buffer_size": ("algo.train_batch_size",),
    "algo.num_rollouts": ("algo.rollouts_used",),
}
"""Sizes that must not fall below others, if the user has set these."""

NOT_ABOVE = {
    "algo.minibatch_size": "algo.train_batch_size",
    "algo.microbatch_size": "algo.train_batch_size",
    "algo.rollouts_used": "algo.num_rollouts",
}
"""Sizes that must not exceed another."""

NUM_ITERATIONS = 3
"""After which a run ends that has no other stop rule."""


def make_debuggable(config: DictConfig, typed: set[str]) -> None:
    """Lay the preset over a composed config, but for the keys that the user has `typed`; say what
    it changes."""
    changed = []
    with open_dict(config):
        for key, value in _changes(config, typed):
            before = _text(OmegaConf.select(config, key))
            OmegaConf.update(config, key, value, force_add=True)
            changed.append(f"{key}={_text(value)} ({before})")
    if changed:
        sys.stderr.write(f"rlrun: debug=true sets {', '.join(changed)}\n")


def _changes(config: DictConfig, typed: set[str]) -> Iterator[tuple[str, Any]]:
    for key, value in VALUES.items():
        if key not in typed and OmegaConf.select(config, key) != value:
            yield key, value
    if "env.vectorization" not in typed and config.env.get("vectorization") == "async":
        yield "env.vectorization", "sync"
    for key, largest in LARGEST.items():
        others = [other for other in NOT_BELOW.get(key, ()) if other in typed]
        limit = max([largest, *(_size(config, other) or 0 for other in others)])
        if bound := _size(config, NOT_ABOVE.get(key, "")):
            limit = min(limit, bound)
        size = _size(config, key)
        if key not in typed and size is not None and size > limit:
            yield key, limit
    is_ended = any(key == "stop" or key.startswith("stop.") for key in typed)
    if not is_ended:
        yield "stop.training_iteration", NUM_ITERATIONS


def _size(config: DictConfig, key: str) -> int | None:
    value = OmegaConf.select(config, key) if key else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _text(value: Any) -> str:
    return "null" if value is None else str(value)
