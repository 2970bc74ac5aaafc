"""From a composed config to the nouns of a run; making them starts nothing."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from rlrun.config import RunSettings, build, build_all
from rlrun.core.algorithm import Algorithm
from rlrun.core.callbacks import HOOKS, Callbacks, MultiCallbacks
from rlrun.core.errors import ConfigError
from rlrun.core.exploration import Exploration
from rlrun.core.imports import import_object
from rlrun.core.networks import Model
from rlrun.core.resources import Resources
from rlrun.curriculum.base import Curriculum
from rlrun.data_parts import (
    check_data,
    check_evaluation_env,
    check_rollout_columns,
    input_of,
    output_of,
    videos_of_evaluation,
    videos_of_training,
    with_absolute_paths,
)
from rlrun.early import read_settings, refuse_early, with_overrides
from rlrun.evaluation_config import EvaluationConfig
from rlrun.key_watch import check_names
from rlrun.loggers.base import Logger, to_json
from rlrun.trainer import TrainerConfig
from rlrun.workers.envs import EnvConfig
from rlrun.workers.worker_config import WorkerConfig


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The objects that a config describes."""

    settings: RunSettings
    trainer: TrainerConfig
    loggers: list[Logger]
    task: Callable[..., None] | None = None
    """A training function of the user's, in the place of a trainer."""
    keys_of_curriculum: Mapping[str, str] | None = None
    """The result keys that the curriculum looks at, by setting; None without one."""


def read_config(plain: Mapping[str, Any], *, trains: bool = True) -> Parts:
    """All objects of a composed config with a seed, validated. Raises ConfigError.

    Without `trains`, data that it would learn from need not be there.
    """
    refuse_early(plain, trains=trains)
    plain = with_absolute_paths(plain)
    settings = read_settings(plain)
    resources = build(plain["resources"], "resources", target=Resources)
    evaluation = build(plain["evaluation"], "evaluation", target=EvaluationConfig)
    worker = _worker_config(plain, settings, resources.num_workers)
    if resources.num_gpus_per_worker and not resources.num_workers + evaluation.num_workers:
        raise ConfigError(
            f"resources.num_gpus_per_worker={resources.num_gpus_per_worker:g} is for remote "
            f"workers, and resources.num_workers=0. Use resources.num_gpus for this process."
        )
    has_remote_shards = worker.algorithm.num_shards and resources.num_workers
    if resources.num_cpus_per_replay_shard != 1.0 and not has_remote_shards:
        raise ConfigError(
            f"resources.num_cpus_per_replay_shard={resources.num_cpus_per_replay_shard:g} is for "
            f"algorithms with replay shards (algo=apex) and resources.num_workers above 0. Leave "
            f"it at 1."
        )
    worker.algorithm.check_resources(resources)
    if trains:
        check_data(worker, settings, resources)
        if worker.input is None and worker.explore:
            worker.algorithm.check_explores(worker.exploration)
    check_rollout_columns(worker)
    num_remote = resources.num_workers + evaluation.num_workers
    if resources.ray_address is not None and not num_remote:
        raise ConfigError(
            f"resources.ray_address={resources.ray_address} is for remote workers, and "
            f"resources.num_workers=0. Set resources.num_workers, or leave the address null."
        )
    if resources.num_gpus_per_worker and not resources.fake_gpus:
        worker = replace(worker, device="cuda")
    overridden = with_overrides(plain, evaluation.config)
    evaluation_worker = replace(
        _worker_config(overridden, read_settings(overridden), evaluation.num_workers),
        in_evaluation=True,
        device=worker.device,
    )
    if "callbacks" not in evaluation.config:
        evaluation_worker = replace(evaluation_worker, callbacks=worker.callbacks)
    num_envs = evaluation_worker.algorithm.num_envs_per_worker
    evaluation_worker = replace(
        evaluation_worker, videos=videos_of_evaluation(evaluation, num_envs)
    )
    worker = replace(worker, videos=videos_of_training(worker.env, settings))
    check_evaluation_env(evaluation_worker.env, evaluation)
    keys_of_curriculum = _keys_of_curriculum(worker.callbacks)
    may_add_keys = _may_add_keys(worker.callbacks) or settings.task is not None
    check_names(settings, may_add_keys, plain["evaluation"], keys_of_curriculum)
    loggers = build_all(plain.get("logger"), "logger", Logger)
    return Parts(
        settings=settings,
        trainer=TrainerConfig(
            worker=worker,
            resources=resources,
            evaluation=evaluation,
            evaluation_worker=evaluation_worker,
            init_from=settings.init_from,
            plain=to_json(dict(plain)),
        ),
        loggers=loggers,
        task=_task(settings),
        keys_of_curriculum=keys_of_curriculum,
    )


def with_seed(plain: dict[str, Any]) -> dict[str, Any]:
    """The config with a seed: its own, or one drawn now, so that every run can be repeated."""
    if plain.get("seed") is None:
        return plain | {"seed": int.from_bytes(os.urandom(4), "big") >> 1}
    return plain


def _task(settings: RunSettings) -> Callable[..., None] | None:
    if settings.task is None:
        return None
    task = import_object(settings.task, "task")
    if not callable(task):
        raise ConfigError(f"task={settings.task} must name a function train(config, report).")
    return task  # type: ignore[no-any-return]


def _worker_config(
    plain: Mapping[str, Any], settings: RunSettings, num_workers: int
) -> WorkerConfig:
    assert settings.seed is not None
    algorithm = build(plain["algo"], "algo", kind=Algorithm)
    exploration = build(plain["exploration"], "exploration", kind=Exploration)
    model = build(plain["model"], "model", kind=Model)
    for each in exploration.parts:
        algorithm.check_exploration(each)
    algorithm.check_model(model)
    algorithm.check_switches(model)
    return WorkerConfig(
        env=build(plain["env"], "env", target=EnvConfig),
        algorithm=algorithm,
        exploration=exploration,
        model=model,
        callbacks=_callbacks(plain),
        explore=settings.explore,
        seed=settings.seed,
        num_workers=num_workers,
        input=input_of(settings),
        output=output_of(settings),
        rollout_columns=tuple(settings.rollout_columns),
        debug=settings.debug,
    )


def _callbacks(plain: Mapping[str, Any]) -> Callbacks:
    chain = build_all(plain.get("callbacks"), "callbacks", Callbacks)
    chain += build_all(plain.get("curriculum"), "curriculum", Callbacks)
    for each in chain:
        _check_hooks(type(each))
    if len(chain) == 1:
        return chain[0]
    return MultiCallbacks(chain) if chain else Callbacks()


def _each(callbacks: Callbacks) -> list[Callbacks]:
    return callbacks.callbacks if isinstance(callbacks, MultiCallbacks) else [callbacks]


def _may_add_keys(callbacks: Callbacks) -> bool:
    """Whether results may get keys that nobody here knows."""
    ours = Curriculum.__module__.rpartition(".")[0]
    return any(
        each.overrides("on_train_result") and not type(each).__module__.startswith(ours)
        for each in _each(callbacks)
    )


def _keys_of_curriculum(callbacks: Callbacks) -> dict[str, str] | None:
    found = [each.result_keys for each in _each(callbacks) if isinstance(each, Curriculum)]
    return {setting: key for keys in found for setting, key in keys.items()} if found else None


def _check_hooks(callbacks: type[Callbacks]) -> None:
    """Raise ConfigError for a method that looks like a hook and would never be called."""
    for name in dir(callbacks):
        is_meant = name.startswith("on_") and callable(getattr(callbacks, name))
        if is_meant and name not in HOOKS:
            near = difflib.get_close_matches(name, HOOKS, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"{callbacks.__module__}.{callbacks.__name__}: there is no hook {name!r}, so it "
                f"would never be called.{hint} Hooks: {', '.join(HOOKS)}. Helpers of your own need "
                f"a name that does not begin with on_."
            )
