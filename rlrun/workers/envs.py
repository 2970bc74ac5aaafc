"""Envs from configuration: one gymnasium env, with what a run needs to know of it."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from rlrun.core.algorithm import check_range
from rlrun.core.errors import (
    ConfigError,
    MissingExtraError,
    RlrunError,
    WorkerError,
    missing_extra,
)
from rlrun.core.filters import FilterName
from rlrun.core.imports import import_object

IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")

EXTRA_BY_WORD = {"mujoco": "mujoco", "box2d": "box2d", "swig": "box2d", "ale": "atari"}
"""Which extra of ours brings the package that gymnasium misses, by a word of its message."""


@dataclass(kw_only=True)
class EnvConfig:
    """The env group: which env, and what is done with its observations, actions and rewards."""

    id: str
    """A gymnasium id, or the import path of a gymnasium.Env class."""
    env_config: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the env."""
    wrappers: list[dict[str, Any]] = field(default_factory=list)
    """gymnasium wrappers, inside first: nodes with the `_target_` class and its arguments."""
    vectorization: Literal["sync", "async", "native"] = "sync"
    """How the envs of one worker are stepped: in turn, each in a process of its own, or by the
    env's own vector implementation."""
    horizon: int | None = None
    """Steps after which an episode is truncated; null: the env's own limit."""
    observation_filter: FilterName = "NoFilter"
    """MeanStdFilter normalises observations by running statistics, shared by all workers."""
    flatten_observations: bool = False
    """Whether observations with several axes become vectors."""
    normalize_actions: bool = True
    """Whether the policy acts in [-1, 1], stretched to the env's bounds (bounded Box actions)."""
    clip_actions: bool = False
    """Whether actions are clipped to the bounds instead (if not normalised)."""
    clip_rewards: bool | float = False
    """Rewards that the algorithm sees: true: their sign; x: clipped to [-x, x]. Episode returns
    are always those of the raw rewards."""

    def __post_init__(self) -> None:
        if not self.id:
            raise ConfigError(
                "env.id='' must be a gymnasium id, or the import path of a gymnasium.Env class."
            )
        check_range("horizon", self.horizon, low=1, key="env")
        check_range("clip_rewards", float(self.clip_rewards), low=0.0, key="env")
        if self.normalize_actions and self.clip_actions:
            raise ConfigError(
                "env.normalize_actions=true and env.clip_actions=true exclude each other: "
                "a normalised action is within the bounds already. Set one of them to false."
            )
        if self.vectorization == "native" and self.wrappers:
            raise ConfigError(
                "env.wrappers cannot be applied with env.vectorization=native. "
                "Use env.vectorization=sync."
            )


class SubEnv(gym.Wrapper):
    """The outermost wrapper of each env: names it in errors, and remembers how its episode began
    (the state of its generator, or its seed), so that the episode can be replayed."""

    def __init__(self, env: gym.Env, name: str, worker_index: int, env_index: int) -> None:
        super().__init__(env)
        self.name = name
        self.worker_index = worker_index
        self.env_index = env_index
        self.seed: int | None = None
        self.episode_start: dict[str, Any] = {}
        self.pending_restore: dict[str, Any] | None = None
        self._is_first_step = True

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        if seed is None:
            self.episode_start = {"rng": self.env.unwrapped.np_random.bit_generator.state}
        else:
            self.episode_start = {"seed": seed}
            self.seed = seed
        try:
            given = self.env.reset(seed=seed, options=options or None)
        except (Exception, SystemExit) as error:
            raise self.failure("reset", error) from error
        if not isinstance(given, tuple) or len(given) != 2:
            raise self._misfit("reset", f"must return (observation, info), not {_kind(given)}")
        self.check_shape("reset", given[0])
        return given

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        try:
            given = self.env.step(action)
        except (Exception, SystemExit) as error:
            raise self.failure("step", error) from error
        if not isinstance(given, tuple) or len(given) != 5:
            raise self._misfit(
                "step",
                f"must return (observation, reward, terminated, truncated, info), not "
                f"{_kind(given)}",
            )
        if self._is_first_step:
            self._is_first_step = False
            self.check_shape("step", given[0])
        return given

    def check_shape(self, verb: str, observation: Any) -> None:
        """Raise WorkerError if an observation has not the shape of the env's space."""
        shape = self.observation_space.shape
        if shape is None:  # Dict and Tuple
            return
        try:
            found = np.shape(observation)
        except ValueError as error:  # lists of different lengths
            raise self.failure(verb, error) from error
        if found != shape:
            raise self._misfit(
                verb,
                f"returned an observation of shape {found}, and its observation_space has {shape}",
            )

    def restore_episode(self) -> tuple[Any, float] | None:
        """Go back to the middle of an episode: `pending_restore` holds its `start` and `actions`.

        Returns the observation after the last action and the sum of rewards (whether they are the
        right ones, the caller must see), or None if the replayed episode ended early.
        """
        assert self.pending_restore is not None
        start, actions = self.pending_restore["start"], self.pending_restore["actions"]
        self.pending_restore = None
        if "seed" in start:
            observation, _ = self.reset(seed=int(start["seed"]))
        else:
            self.env.unwrapped.np_random.bit_generator.state = start["rng"]
            observation, _ = self.reset()
        total_reward = 0.0
        for action in actions:
            observation, reward, terminated, truncated, _ = self.step(action)
            total_reward += float(reward)
            if terminated or truncated:
                return None
        return observation, total_reward

    def failure(self, verb: str, error: BaseException) -> WorkerError:
        """What failed in this env's `verb`, as an error that names it."""
        return self._misfit(verb, f"{type(error).__name__}: {error}")

    def _misfit(self, verb: str, what: str) -> WorkerError:
        return WorkerError(
            f"Worker {self.worker_index} failed in env.{verb} ({self.name!r}, "
            f"env {self.env_index}, seed {self.seed}): {what}"
        )


def make_env(config: EnvConfig, **kwargs: Any) -> gym.Env:
    """One env of `config`, with its wrappers; `kwargs` (such as render_mode) go to its constructor.

    Raises ConfigError if there is no such env, MissingExtraError if its package is missing.
    """
    arguments = {**config.env_config, **kwargs}
    if IMPORT_PATH.fullmatch(config.id):
        env_class = import_object(config.id, "env.id")
        _check_class(env_class, gym.Env, f"env.id={config.id}")
        try:
            inspect.signature(env_class).bind(**arguments)
        except TypeError as error:
            raise ConfigError(
                f"env.env_config={arguments}: {env_class.__name__}: {error}"
            ) from error
        env = _construct(config, lambda: env_class(**arguments))
        if config.horizon is not None:
            env = gym.wrappers.TimeLimit(env, config.horizon)
    else:
        _register(config.id)
        try:
            env = _construct(
                config,
                lambda: gym.make(
                    config.id,
                    disable_env_checker=True,
                    max_episode_steps=config.horizon,
                    **arguments,
                ),
            )
        except gym.error.Error as error:
            raise ConfigError(f"env.id={config.id!r}: {error}") from error
    for index, node in enumerate(config.wrappers):
        wrapper_config = dict(node)
        path = wrapper_config.pop("_target_", None)
        if path is None:
            raise ConfigError(f"env.wrappers[{index}] needs the key _target_, the wrapper's class.")
        wrapper = import_object(path, f"env.wrappers[{index}]._target_")
        _check_class(wrapper, gym.Wrapper, f"env.wrappers[{index}]._target_={path}")
        try:
            inspect.signature(wrapper).bind(env, **wrapper_config)
        except TypeError as error:
            raise ConfigError(f"env.wrappers[{index}]={node}: {error}") from error
        env = _construct(config, partial(wrapper, env, **wrapper_config))
    for name in ("observation_space", "action_space"):
        if not isinstance(getattr(env, name, None), gym.Space):
            raise ConfigError(f"env.id={config.id!r}: the env has no {name} (a gymnasium.Space).")
    return env


def _kind(given: Any) -> str:
    return f"{len(given)} values" if isinstance(given, tuple) else f"a {type(given).__name__}"


def _check_class(found: Any, kind: type, named: str) -> None:
    """Before it is called: YAML from elsewhere must not run whatever function it names."""
    if not isinstance(found, type) or not issubclass(found, kind):
        raise ConfigError(f"{named} must be a subclass of gymnasium.{kind.__name__}.")


def make_native_vector_env(config: EnvConfig, num_envs: int) -> gym.vector.VectorEnv:
    """The env's own vector implementation. Raises ConfigError if it has none."""
    _register(config.id)
    arguments = dict(config.env_config)
    if config.horizon is not None:
        arguments["max_episode_steps"] = config.horizon
    try:
        return _construct(
            config,
            lambda: gym.make_vec(
                config.id,
                num_envs=num_envs,
                vectorization_mode=gym.VectorizeMode.VECTOR_ENTRY_POINT,
                **arguments,
            ),
        )
    except gym.error.Error as error:
        raise ConfigError(
            f"env.vectorization=native: {config.id!r} has no vector implementation of its own "
            f"({error}). Use env.vectorization=sync."
        ) from error


def _register(env_id: str) -> None:
    if env_id.startswith("ALE/"):
        try:
            import ale_py
        except ImportError as error:
            raise missing_extra("ale-py", "atari", f"env.id={env_id}") from error
        gym.register_envs(ale_py)


def _construct(config: EnvConfig, construct: Callable[[], Any]) -> Any:
    try:
        return construct()
    except gym.error.DependencyNotInstalled as error:
        raise _missing_dependency(config, error) from error
    except (gym.error.UnregisteredEnv, gym.error.DeprecatedEnv) as error:
        known = sorted(gym.registry)
        near = difflib.get_close_matches(config.id, known, n=3)
        is_hinted = "did you mean" in str(error).lower() or "instead" in str(error)
        hint = f" Did you mean {' or '.join(near)}?" if near and not is_hinted else ""
        raise ConfigError(f"env.id={config.id!r}: {error}{hint}") from error
    except (gym.error.Error, RlrunError):
        raise
    except ImportError as error:
        hint = " A class of your own is named by its import path: env.id=my_package.MyEnv."
        raise ConfigError(
            f"env.id={config.id!r} cannot be made: {str(error).rstrip('.')}."
            f"{hint if ':' in config.id else ''}"
        ) from error
    except Exception as error:
        if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
            raise ConfigError(f"env.env_config={config.env_config}: {error}") from error
        raise WorkerError(
            f"The env {config.id!r} could not be made: {type(error).__name__}: {error}"
        ) from error


def _missing_dependency(config: EnvConfig, error: Exception) -> MissingExtraError:
    text = str(error).lower()
    for word, extra in EXTRA_BY_WORD.items():
        if word in text:
            return missing_extra(extra, extra, f"env.id={config.id}")
    return MissingExtraError(f"env.id={config.id}: {error}")


def clip_rewards(rewards: np.ndarray, setting: bool | float) -> np.ndarray:
    """Rewards as the algorithm sees them: raw (False), their sign (True), or in [-x, x]."""
    if setting is False or setting == 0.0:
        return rewards
    return np.sign(rewards) if setting is True else np.clip(rewards, -setting, setting)
