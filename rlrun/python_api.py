"""Trainers without the command line, composed as `rlrun` composes its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from rlrun.analysis import ExperimentAnalysis
from rlrun.compose import choice_of_target, compose, env_overrides, plain_config, set_value
from rlrun.core import seeding
from rlrun.core.algorithm import Algorithm
from rlrun.core.denormals import set_num_threads
from rlrun.core.errors import ConfigError
from rlrun.core.process import keep_freed_memory, set_matmul_precision
from rlrun.parts import read_config, with_seed
from rlrun.trainer import Trainer
from rlrun.workers.worker_set import WorkerSet

OF_TRAINERS = {
    "curriculum": "Call workers.set_tasks(tasks) in your loop.",
    "init_from": "Load the weights into the policy that you learn, and call workers.sync_policy.",
}
"""Keys that would have no effect in a loop of one's own, and what does it there."""


def make_trainer(
    algo: str, env: str | type | None = None, overrides: list[str] | None = None, **settings: Any
) -> Trainer:
    """A trainer without the command line: make_trainer("dqn", env="CartPole-v1",
    overrides=["algo.lr=1e-3"]).

    env: a choice of the env group, a gymnasium id, an import path, or a class that has one; null is
    the default one. It gets its tuned values as on the command line. settings: keys of no group,
    such as seed. Raises ConfigError.
    """
    return Trainer(read_config(_composed(algo, env, overrides, settings)).trainer)


def make_workers(
    algo: str, env: str | type | None = None, overrides: list[str] | None = None, **settings: Any
) -> WorkerSet:
    """The workers of such a trainer alone, for a training loop of one's own: they act with
    policies of `algo`, and give rows as it postprocesses them. Also a context manager that stops
    them. Arguments as in `make_trainer`. Raises ConfigError.
    """
    plain = _composed(algo, env, overrides, settings)
    for key, instead in OF_TRAINERS.items():
        if plain.get(key):
            raise ConfigError(f"{key} is for trainers, and make_workers makes none. {instead}")
    config = read_config(plain).trainer
    keep_freed_memory()
    resources = config.resources
    set_num_threads(resources.num_cpus_for_driver)
    set_matmul_precision(resources.matmul_precision)
    seeding.seed_process(config.worker.seed, "driver")
    return WorkerSet(config.worker, resources, resources.num_workers)


def run_sweep(overrides: Sequence[str], *, folder: str | Path | None = None) -> ExperimentAnalysis:
    """Run the sweep of `rlrun -m <overrides>`, and look at what it gave:
    run_sweep(["algo.lr=1e-3,1e-4", "sweep.seeds=3", "stop.timesteps_total=20000"]).

    folder: of the sweep, in place of hydra.sweep.dir. Raises ConfigError or ResourceError before
    anything is started; a trial that fails does not raise.
    """
    from rlrun.sweep import runner

    driver = runner.run(list(overrides), None if folder is None else Path(folder))
    if driver is None:
        raise ConfigError("sweep.dry_run=true: no trial has run, so that there is nothing to give.")
    return ExperimentAnalysis(driver.folder)


def build_trainer(
    algorithm: Algorithm, env: str | type, overrides: list[str] | None = None, **settings: Any
) -> Trainer:
    """A trainer of `algorithm`; everything else as the group file of its class composes it, or of
    the class that it is a subclass of.

    Its fields win over values tuned for the env, unless they have the default of that class, which
    cannot be told from one that nobody gave; so do algo.* among `overrides`. Other arguments as in
    `make_trainer`. Raises ConfigError.
    """
    kind = type(algorithm)
    of_file, choice = _nearest_choice(kind)
    choices = [f"algo={choice}"] if choice else ["tuned=none"]
    own_class = [] if of_file is kind and choice else [f"algo._target_={_path(kind)}"]
    given = [*env_overrides(env), *(overrides or [])]
    plain = plain_config(compose([*choices, *own_class, *given]))
    typed = {override.lstrip("+").partition("=")[0] for override in given}
    for each in fields(algorithm):
        value, key = getattr(algorithm, each.name), f"algo.{each.name}"
        has_default = choice is not None and value == _default(of_file, each.name)
        is_composed = each.name in plain["algo"] and (has_default or key in typed)
        if each.init and not is_composed:
            plain["algo"][each.name] = _as_node(value)
    try:
        return Trainer(read_config(_with_settings(plain, settings)).trainer)
    except ConfigError as error:
        if plain["tuned"] is None:
            raise
        raise ConfigError(
            f"{error} (Fields that you did not give have the values of tuned={plain['tuned']}; "
            f'overrides=["tuned=none"] leaves them out.)'
        ) from error


Algorithm.trainer_factory = build_trainer


def _composed(
    algo: str, env: str | type | None, overrides: list[str] | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    plain = plain_config(compose([f"algo={algo}", *env_overrides(env), *(overrides or [])]))
    return _with_settings(plain, settings)


def _with_settings(plain: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    for key, value in settings.items():
        set_value(plain, key, value)
    return with_seed(plain)


def _nearest_choice(kind: type) -> tuple[type, str | None]:
    """The class, or the nearest one above it, that a file of the group algo names, and the file."""
    for each in kind.__mro__:
        if choice := choice_of_target("algo", _path(each)):
            return each, choice
    return kind, None


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _default(kind: type, name: str) -> Any:
    """The default of a dataclass's field; itself unlike anything where there is none."""
    found = next((each for each in fields(kind) if each.name == name), None)
    if found is None:
        return MISSING
    return found.default if found.default_factory is MISSING else found.default_factory()


def _as_node(value: Any) -> Any:
    """A schedule object as the YAML node that makes it; other values as they are."""
    if not is_dataclass(value):
        return value
    node = {each.name: getattr(value, each.name) for each in fields(value)}
    return {"_target_": _path(type(value)), **node}
