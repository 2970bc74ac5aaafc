"""Which data a run reads or writes, by its config, and whether the rest of it can use them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlrun.config import RunSettings, conf_dir
from rlrun.core.algorithm import Algorithm
from rlrun.core.errors import ConfigError
from rlrun.core.exploration import Exploration
from rlrun.core.networks import Model
from rlrun.core.resources import Resources
from rlrun.early import read_settings, require_data
from rlrun.evaluation_config import EvaluationConfig
from rlrun.key_watch import RESULT_KEYS, first_part
from rlrun.workers.envs import NO_ENV, EnvConfig
from rlrun.workers.offline.config import InputConfig, OutputConfig, resolved
from rlrun.workers.video import VideoConfig
from rlrun.workers.worker_config import WorkerConfig

OF_EPISODES = frozenset(key for key in RESULT_KEYS if key.startswith("episode"))
"""Result keys that say how episodes of training fared."""


def input_of(settings: RunSettings) -> InputConfig | None:
    """What `input` and its keys say. Raises ConfigError."""
    if settings.input is None:
        _refuse_unused(settings, "input", "shuffle_buffer_size", "actions_in_input_normalized")
        return None
    return InputConfig(
        sources=resolved(settings.input, conf_dir() / "tuned_examples"),
        shuffle_buffer_size=settings.shuffle_buffer_size,
        actions_in_input_normalized=settings.actions_in_input_normalized,
    )


def output_of(settings: RunSettings) -> OutputConfig | None:
    """What `output` and its keys say. Raises ConfigError."""
    if settings.output is None:
        _refuse_unused(settings, "output", "output_max_file_size", "output_compress_columns")
        return None
    if not settings.output.strip():
        raise ConfigError("output is empty. Name a folder: output=DIR, or output=null.")
    return OutputConfig(
        folder=str(Path(settings.output).expanduser().absolute()),
        max_file_size=settings.output_max_file_size,
        compress_columns=tuple(settings.output_compress_columns),
    )


def videos_of_training(env: EnvConfig, settings: RunSettings) -> VideoConfig | None:
    """What `env.record_env` and its keys say. Raises ConfigError."""
    if not env.record_env:
        if env.record_interval != EnvConfig.record_interval:
            raise ConfigError(
                f"env.record_interval={env.record_interval} has no effect with "
                f"env.record_env=false. Set that to true, or leave it at "
                f"{EnvConfig.record_interval}."
            )
        return None
    if settings.input is not None:
        raise ConfigError(
            "env.record_env=true has no effect with input: no episodes are run in training. Use "
            "evaluation.record=N."
        )
    return VideoConfig(purpose="training", interval=env.record_interval)


def videos_of_evaluation(evaluation: EvaluationConfig, num_envs: int) -> VideoConfig | None:
    """What `evaluation.record` says, where each worker has `num_envs` envs. Raises ConfigError."""
    if not evaluation.record:
        return None
    is_counted = isinstance(evaluation.duration, int) and evaluation.duration_unit == "episodes"
    if evaluation.custom_eval_function is None and is_counted:
        takers = num_envs * max(evaluation.num_workers, 1)
        share = -(-int(evaluation.duration) // takers)
        if evaluation.record > share:
            raise ConfigError(
                f"evaluation.record={evaluation.record} exceeds the {share} of "
                f"evaluation.duration={evaluation.duration} episodes that the first of {takers} "
                f"envs runs. Lower it, raise the duration, or use "
                f"evaluation.config.algo.num_envs_per_worker=1."
            )
    return VideoConfig(purpose="evaluation", first=evaluation.record)


def with_absolute_paths(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The config with `input`, `output` and `init_from` from where it is composed, so that a run
    can be resumed from elsewhere. Raises ConfigError."""
    settings = read_settings(plain)
    data, output = input_of(settings), output_of(settings)
    changed: dict[str, Any] = {}
    if data is not None:
        is_one = isinstance(settings.input, str)
        changed["input"] = next(iter(data.sources)) if is_one else dict(data.sources)
    if output is not None:
        changed["output"] = output.folder
    if settings.init_from is not None:
        changed["init_from"] = str(Path(settings.init_from).expanduser().absolute())
    return {**plain, **changed}


def check_data(worker: WorkerConfig, settings: RunSettings, resources: Resources) -> None:
    """Raise ConfigError if algorithm, env and data do not go together, or if data are missing."""
    algorithm = worker.algorithm
    name = type(algorithm).__name__
    if worker.output is not None and not algorithm.samples_fragments:
        raise ConfigError(
            f"output={settings.output} writes what workers sample for a learner, and {name} tries "
            f"whole episodes of its own, which nothing writes. Use output=null."
        )
    if worker.input is None:
        require_data(worker.env.id, algorithm.needs_data, name)
        return
    if worker.output is not None:
        raise ConfigError(
            f"output={settings.output} writes what envs give, and with input nothing is sampled "
            f"from envs. Use output=null."
        )
    _check_algorithm(algorithm, worker.model, name)
    _check_exploration(worker.exploration)
    if resources.create_env_on_driver:
        raise ConfigError(
            "resources.create_env_on_driver=true has no effect with input: workers read data, and "
            "have no envs. Use create_env_on_driver=false."
        )
    for key, rules in {"stop": settings.stop, "pass_mark": settings.pass_mark}.items():
        if of_episodes := [rule for rule in rules if first_part(rule) in OF_EPISODES]:
            raise ConfigError(
                f"{key}.{of_episodes[0]}: with input no episodes are run in training. Set "
                f"evaluation.interval, and use {key}.evaluation/{of_episodes[0]}."
            )
    worker.input.check_files()


def check_rollout_columns(worker: WorkerConfig) -> None:
    """Raise ConfigError for columns that nobody could look at, or that nothing gives."""
    if not worker.rollout_columns:
        return
    named = f"rollout_columns=[{','.join(worker.rollout_columns)}]"
    if worker.input is not None:
        raise ConfigError(
            f"{named} is of what workers sample from envs, and with input nothing is. Use "
            f"rollout_columns=[]."
        )
    if not worker.algorithm.samples_fragments:
        raise ConfigError(
            f"{named} has no effect: {type(worker.algorithm).__name__} samples no trajectories. "
            f"Use rollout_columns=[]."
        )
    if not worker.callbacks.overrides("on_postprocess_trajectory"):
        raise ConfigError(
            f"{named} is for callbacks that override on_postprocess_trajectory, and no callback "
            f"of this run does. Add it, or use rollout_columns=[]."
        )


def check_evaluation_env(env: EnvConfig, evaluation: EvaluationConfig) -> None:
    """Raise ConfigError if an evaluation is asked for and there is no env for it."""
    if evaluation.is_wanted and env.id == NO_ENV:
        asked = "at_end=true" if evaluation.at_end else f"interval={evaluation.interval}"
        raise ConfigError(
            f"evaluation.{asked} needs an env, and env=none has none. Name "
            f"one that has the spaces of the data: evaluation.config.env.id=CartPole-v1"
        )


def _check_algorithm(algorithm: Algorithm, model: Model, name: str) -> None:
    if not algorithm.learns_from_data:
        raise ConfigError(
            f"{name} learns from what its own policy samples, not from data. Use algo=marwil, bc, "
            f"cql or dqn with input, or input=null."
        )
    if model.has_memory:
        raise ConfigError(
            "Data hold no states of a memory. Use a model without with input "
            "(model.use_lstm=false, or model=mlp in place of model=gtrxl)."
        )
    if algorithm.num_envs_per_worker != 1:
        raise ConfigError(
            f"algo.num_envs_per_worker={algorithm.num_envs_per_worker} has no effect with input: a "
            f"worker reads one episode after the other. Use 1; evaluation has "
            f"evaluation.config.algo.num_envs_per_worker."
        )


def _check_exploration(exploration: Exploration) -> None:
    """Raise ConfigError if it does its work on fragments that are sampled."""
    for name in ("postprocess", "actor"):
        if getattr(type(exploration), name) is not getattr(Exploration, name):
            raise ConfigError(
                f"exploration={type(exploration).__name__} works on what is sampled from envs, and "
                f"with input nothing is. Leave out exploration=..., for what the algorithm brings."
            )


def _refuse_unused(settings: RunSettings, key: str, *names: str) -> None:
    usual = RunSettings()
    for name in names:
        value, default = getattr(settings, name), getattr(usual, name)
        if value != default:
            raise ConfigError(f"{name}={value} has no effect: {key}=null. Leave it at {default}.")
