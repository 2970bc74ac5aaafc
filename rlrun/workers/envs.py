"""Envs from configuration: one gymnasium env, with what a run needs to know of it. Imports no
torch, so that an env that cannot be made is refused at once."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast

import gymnasium as gym
import numpy as np
from gymnasium.envs import registration

from rlrun.core.errors import (
    ConfigError,
    MissingExtraError,
    RlrunError,
    WorkerError,
    missing_extra,
)
from rlrun.core.imports import IMPORT_PATH, import_object
from rlrun.core.ranges import check_range
from rlrun.workers.atari import (
    FRAME_LIMIT,
    NO_FRAME_LIMIT,
    SCREEN,
    AtariScreen,
    AtariTwin,
    is_atari,
)

FilterName = Literal["NoFilter", "MeanStdFilter"]

NO_ENV = "none"
"""The id where spaces come from the data that are learned from."""

NO_LIMIT = -1
"""The horizon of episodes that nothing but the env itself ends, as in gymnasium.make."""

EXTRA_BY_WORD = {"mujoco": "mujoco", "box2d": "box2d", "swig": "box2d", "ale": "atari"}
"""Which extra of ours brings the package that gymnasium misses, by a word of its message."""


@dataclass(kw_only=True)
class EnvConfig:
    """The env group: which env, and what is done with its observations, actions and rewards."""

    id: str
    """A gymnasium id, or the import path of a gymnasium.Env class; none: see `input`."""
    env_config: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the env."""
    wrappers: list[dict[str, Any]] = field(default_factory=list)
    """gymnasium wrappers, inside first: nodes with the `_target_` class and its arguments."""
    vectorization: Literal["sync", "async", "native"] = "sync"
    """How the envs of one worker are stepped: in turn, each in a process of its own, or by the
    env's own vector implementation."""
    horizon: int | None = None
    """Steps after which an episode is truncated; null: the env's own limit; -1: none at all."""
    observation_filter: FilterName = "NoFilter"
    """MeanStdFilter normalises observations by running statistics, shared by all workers."""
    flatten_observations: bool = False
    """Whether observations with several axes become vectors."""
    normalize_actions: bool = True
    """Whether the policy acts in [-1, 1], stretched to the env's bounds (bounded Box actions);
    false: its actions are taken as they are, clipped to the bounds."""
    record_env: bool = False
    """Whether some episodes of the first env of the first worker become videos in the run's
    folder."""
    record_interval: int = 100
    """Every how many of its episodes one does."""
    clip_rewards: bool | float = False
    """Rewards that the algorithm sees: true: their sign; x: clipped to [-x, x]. Episode returns
    are always those of the raw rewards."""

    def __post_init__(self) -> None:
        if not self.id:
            raise ConfigError(
                "env.id='' must be a gymnasium id, or the import path of a gymnasium.Env class."
            )
        if self.horizon != NO_LIMIT:
            check_range("horizon", self.horizon, low=1, key="env")
        if "max_episode_steps" in self.env_config and not IMPORT_PATH.fullmatch(self.id):
            raise ConfigError(
                f"env.env_config.max_episode_steps={self.env_config['max_episode_steps']} is said "
                f"by env.horizon={self.env_config['max_episode_steps']} here, for every env alike."
            )
        check_range("record_interval", self.record_interval, low=1, key="env")
        check_range("clip_rewards", float(self.clip_rewards), low=0.0, key="env")
        if self.id == NO_ENV:
            self._refuse_what_needs_an_env()
        if self.vectorization == "native" and self.wrappers:
            raise ConfigError(
                "env.wrappers cannot be applied with env.vectorization=native. "
                "Use env.vectorization=sync."
            )

    def _refuse_what_needs_an_env(self) -> None:
        general: dict[str, Any] = {
            "env_config": {},
            "wrappers": [],
            "vectorization": "sync",
            "horizon": None,
            "record_env": False,
        }
        for name, usual in general.items():
            if getattr(self, name) != usual:
                raise ConfigError(
                    f"env.{name}={getattr(self, name)} has no effect with env=none, which has no "
                    f"env. Leave it at {usual}."
                )


def require_env(config: EnvConfig) -> None:
    """Raise ConfigError if there is no such env, or none that takes `env_config`; makes none."""
    if config.id == NO_ENV:
        return
    if IMPORT_PATH.fullmatch(config.id):
        _class_at(config, config.env_config)
        return
    _register(config.id)
    try:
        spec = _construct(config, lambda: _spec_of(config.id))
    except gym.error.Error as error:
        raise ConfigError(f"env.id={config.id!r}: {error}") from error
    if config.env_config and config.vectorization != "native" and spec.entry_point is not None:
        creator = spec.entry_point
        if isinstance(creator, str):
            creator = _construct(config, lambda: registration.load_env_creator(creator))
        _check_env_config(config, creator, set(spec.kwargs))


def _check_env_config(config: EnvConfig, creator: Callable[..., Any], known: set[str]) -> None:
    try:
        parameters = inspect.signature(creator).parameters.values()
    except (TypeError, ValueError):
        return  # One of C code tells nothing of its arguments.
    allowed = {each.name for each in parameters} | known
    unknown = sorted(config.env_config.keys() - allowed - {"render_mode"})
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in parameters):
        raise ConfigError(
            f"env.env_config.{unknown[0]}={config.env_config[unknown[0]]!r}: {config.id} takes no "
            f"such argument. Allowed: {', '.join(sorted(allowed)) or 'none'}."
        )


def _spec_of(env_id: str) -> registration.EnvSpec:
    """What gymnasium.make finds: [module:][namespace/]name[-vN], the newest if no N is given."""
    module, _, name = env_id.rpartition(":")
    if module:
        importlib.import_module(module)
    namespace, bare_name, version = registration.parse_env_id(name)
    newest = registration.find_highest_version(namespace, bare_name)
    if version is None and newest is not None:
        name = registration.get_env_id(namespace, bare_name, newest)
    return gym.spec(name)


def _class_at(config: EnvConfig, arguments: dict[str, Any]) -> type[gym.Env]:
    """The class that the id names, which takes these arguments. Raises ConfigError."""
    env_class = import_object(config.id, "env.id")
    _check_class(env_class, gym.Env, f"env.id={config.id}")
    try:
        inspect.signature(env_class).bind(**arguments)
    except TypeError as error:
        if "'render_mode'" in str(error) and "render_mode" not in config.env_config:
            raise _no_pictures(config, "its constructor takes no render_mode") from error
        raise ConfigError(f"env.env_config={arguments}: {env_class.__name__}: {error}") from error
    return cast(type[gym.Env], env_class)


def make_env(config: EnvConfig, **kwargs: Any) -> gym.Env:
    """One env of `config`, with its wrappers; `kwargs` (such as render_mode) go to its constructor.

    Raises ConfigError if there is no such env, MissingExtraError if its package is missing.
    """
    if config.id == NO_ENV:
        raise ConfigError(
            "env=none has no env to step; the spaces of the run come from its data. Name one for "
            "evaluation (evaluation.config.env.id=...), and for rollout (env.id=...)."
        )
    arguments = {**config.env_config, **kwargs}
    is_filmed = kwargs.get("render_mode") == "rgb_array"
    if is_filmed and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        # On a machine without a screen these draw; before MuJoCo and pygame look for ways to.
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    if IMPORT_PATH.fullmatch(config.id):
        env_class = _class_at(config, arguments)
        env = _construct(config, lambda: env_class(**arguments))
        if config.horizon is not None and config.horizon != NO_LIMIT:
            env = gym.wrappers.TimeLimit(env, config.horizon)
    else:
        _register(config.id)
        if is_atari(config.id) and config.horizon is not None:
            # The wrapper of gym.make limits the episode instead.
            arguments |= {FRAME_LIMIT: _only_limit(config, FRAME_LIMIT, 0)}
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
            spec = gym.registry.get(config.id)
            if spec is not None and spec.entry_point is None:
                raise ConfigError(
                    f"env.id={config.id!r} has only a vector implementation: "
                    f"env.vectorization=native, which render=true cannot show."
                ) from error
            raise ConfigError(f"env.id={config.id!r}: {error}") from error
    if is_filmed and "rgb_array" not in (env.metadata.get("render_modes") or ()):
        modes = env.metadata.get("render_modes") or "none"
        raise _no_pictures(config, f"its metadata['render_modes'] are {modes}")
    _refuse_statistics(env, f"env.id={config.id!r}")
    _check_limits_within(env, config)
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
        try:
            env = _construct(config, partial(wrapper, env, **wrapper_config))
        except gym.error.Error as error:
            raise ConfigError(f"env.wrappers[{index}]={node}: {error}") from error
        _refuse_statistics(env, f"env.wrappers[{index}]={path}")
    for name in ("observation_space", "action_space"):
        if not isinstance(getattr(env, name, None), gym.Space):
            raise ConfigError(f"env.id={config.id!r}: the env has no {name} (a gymnasium.Space).")
    return env


def _no_pictures(config: EnvConfig, why: str) -> ConfigError:
    return ConfigError(
        f"env.id={config.id!r} gives no pictures to record ({why}). Videos need an env with "
        f"'rgb_array' among metadata['render_modes'], that takes render_mode and returns an array "
        f"[height, width, 3] from render(). Or record none: env.record_env=false, "
        f"evaluation.record=0."
    )


def _check_class(found: Any, kind: type, named: str) -> None:
    """Before it is called: YAML from elsewhere must not run whatever function it names."""
    if not isinstance(found, type) or not issubclass(found, kind):
        raise ConfigError(f"{named} must be a subclass of gymnasium.{kind.__name__}.")


def make_native_vector_env(
    config: EnvConfig, num_envs: int, is_filmed: bool = False
) -> gym.vector.VectorEnv:
    """The env's own vector implementation; if it is filmed, with the attribute `screen`. Raises
    ConfigError if it has none, or cannot be filmed."""
    _register(config.id)
    if is_filmed and not is_atari(config.id):
        raise ConfigError(
            f"env.vectorization=native: nobody knows how {config.id!r} shows pictures, so that no "
            f"videos can be recorded (env.record_env, evaluation.record). Use "
            f"env.vectorization=sync, or record none."
        )
    arguments = {**config.env_config, **_native_limit(config)}
    is_shown = is_atari(config.id) and arguments.pop("render_mode", None) == "human"

    def make(**changes: Any) -> gym.vector.VectorEnv:
        return gym.make_vec(
            config.id,
            num_envs=num_envs,
            vectorization_mode=gym.VectorizeMode.VECTOR_ENTRY_POINT,
            **{**arguments, **changes},
        )

    try:
        vector_env = _construct(config, make)
    except gym.error.Error as error:
        raise ConfigError(
            f"env.vectorization=native: {config.id!r} has no vector implementation of its own "
            f"({error}). Use env.vectorization=sync."
        ) from error
    _refuse_statistics(vector_env, f"env.id={config.id!r}")
    if is_shown or is_filmed:
        kind = AtariScreen if is_shown else AtariTwin
        return kind(vector_env, make(**SCREEN), _frameskip(config))
    return vector_env


def _native_limit(config: EnvConfig) -> dict[str, int]:
    """`horizon` as the vector implementation takes it."""
    if config.horizon is None:
        return {}
    is_limited = config.horizon != NO_LIMIT
    if is_atari(config.id):
        frames = config.horizon * _frameskip(config) if is_limited else NO_FRAME_LIMIT
        return {FRAME_LIMIT: _only_limit(config, FRAME_LIMIT, frames)}
    return {"max_episode_steps": config.horizon if is_limited else sys.maxsize}


def _only_limit(config: EnvConfig, key: str, limit: int) -> int:
    if key in config.env_config:
        raise ConfigError(
            f"env.horizon={config.horizon} and env.env_config.{key}={config.env_config[key]} both "
            f"limit an episode: the one in env steps, the other in emulator frames. Remove one."
        )
    return limit


def _frameskip(config: EnvConfig) -> int:
    return int(config.env_config.get("frameskip", 4))  # ALE's own default.


def _check_limits_within(env: gym.Env, config: EnvConfig) -> None:
    """Raise ConfigError if a limit inside the env is shorter than the horizon asks for."""
    if config.horizon is None:
        return
    horizon = math.inf if config.horizon == NO_LIMIT else config.horizon
    layer = env
    while isinstance(layer, gym.Wrapper):
        if isinstance(layer, gym.wrappers.TimeLimit) and layer._max_episode_steps < horizon:
            raise ConfigError(
                f"env.horizon={config.horizon} cannot lengthen the episodes of {config.id!r}: it "
                f"wraps itself in gymnasium.wrappers.TimeLimit, which ends them after "
                f"{layer._max_episode_steps} steps. Change that limit where the env is made."
            )
        layer = layer.env


def _refuse_statistics(env: Any, named: str) -> None:
    """Raise ConfigError if the env, or a wrapper or an env within it, keeps running statistics."""
    seen: set[int] = set()

    def owner_of_statistics(layer: Any) -> Any:
        seen.add(id(layer))
        for value in vars(layer).values():
            # By its name: libraries have copies of gymnasium's class.
            if type(value).__name__ == "RunningMeanStd":
                return layer
            for inner in value if isinstance(value, list | tuple) else [value]:
                is_env = isinstance(inner, gym.Env | gym.vector.VectorEnv)
                if is_env and id(inner) not in seen:
                    owner = owner_of_statistics(inner)
                    if owner is not None:
                        return owner
        return None

    owner = owner_of_statistics(env)
    if owner is not None:
        raise ConfigError(
            f"{named}: {type(owner).__name__} keeps running statistics, which evaluation, `rlrun "
            f"rollout` and a resumed run would not have. Normalise observations by "
            f"env.observation_filter=MeanStdFilter, which all of them share; for rewards there are "
            f"env.clip_rewards, and gymnasium.wrappers.TransformReward with a fixed scale."
        )


def _register(env_id: str) -> None:
    if is_atari(env_id):
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
        if ":" not in config.id and not isinstance(error, gym.error.VersionNotFound):
            hint += (
                f" An id that your own code registers is known in that process only, unless its "
                f"module stands in front: env.id=my_module:{config.id}."
            )
        raise ConfigError(f"env.id={config.id!r}: {error}{hint}") from error
    except (gym.error.Error, RlrunError):
        raise
    except ImportError as error:
        hint = " A class of your own is named by its import path: env.id=my_package.MyEnv."
        raise ConfigError(
            f"env.id={config.id!r} cannot be made: {str(error).rstrip('.')}."
            f"{hint if ':' in config.id else ''}"
        ) from error
    except (Exception, SystemExit) as error:
        if isinstance(error, TypeError) and "unexpected keyword argument" in str(error):
            if "'max_episode_steps'" in str(error) and config.horizon is not None:
                raise ConfigError(
                    f"env.horizon={config.horizon}: the vector implementation of {config.id!r} "
                    f"takes no limit (max_episode_steps). Use env.vectorization=sync."
                ) from error
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
