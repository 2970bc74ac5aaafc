"""What the classic RLlib's envs are called here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlrun.config import conf_dir
from rlrun.core.errors import ConfigError
from rlrun.settle import ids_of_envs

EXAMPLES = "ray.rllib.examples.env."
"""Where its own toy envs lie; a file may name them with or without it."""


@dataclass
class Env:
    """An env of ours: a choice of the group env, and keys below it."""

    choice: str
    values: dict[str, Any] = field(default_factory=dict)
    """By dotted key."""
    notes: list[str] = field(default_factory=list)
    """What is different."""

    @property
    def is_atari(self) -> bool:
        """Whether observations are frames of Atari's emulator."""
        return self.choice in _atari_choices()


def _renamed(choice: str, note: str = "", **values: Any) -> Callable[[], Env]:
    def make() -> Env:
        return Env(
            choice, {f"env.{key}": value for key, value in values.items()}, [note][: bool(note)]
        )

    return make


RENAMED: dict[str, Callable[[], Env]] = {
    "CartPole-v0": _renamed(
        "cartpole", "CartPole-v1 with episodes of 200 steps, which is what v0 was", horizon=200
    ),
    "Pendulum-v0": _renamed("pendulum", "Pendulum-v1, which behaves the same"),
    "FrozenLake-v0": _renamed("frozenlake", "FrozenLake-v1, which is the same lake"),
    "LunarLander-v2": _renamed("lunarlander", "LunarLander-v3, the same but for its wind"),
    "LunarLanderContinuous-v2": _renamed(
        "lunarlander_continuous", "LunarLander-v3, the same but for its wind"
    ),
    "LunarLanderContinuous-v3": _renamed("lunarlander_continuous"),
    "BipedalWalker-v2": _renamed(
        "bipedalwalker", "BipedalWalker-v3, whose lidar sees the nearest thing"
    ),
    "Taxi-v3": _renamed("taxi", "Taxi-v4, as gymnasium has it now"),
    "StatelessCartPole": _renamed(
        "stateless_cartpole", "rlrun.envs.stateless_cartpole, with episodes of 500 steps at most"
    ),
}
"""Envs by their classic names, where the choice's own id is another."""

NOT_THERE = {
    "TransformedActionPendulum": "an env of RLlib's tests",
    "TransformedActionPendulumLarge": "an env of RLlib's tests",
    "TransformedActionPendulumSmall": "an env of RLlib's tests",
    "RandomLargeObsSpaceEnv": "an env of RLlib's tests for leaks of memory",
    "CartPoleCrashing": "an env of RLlib's tests for workers that fail",
    "MultiAgentCartPole": "multi-agent envs are not there yet",
    "MultiAgentCartPoleCrashing": "multi-agent envs are not there yet",
    "TwoStepGame": "multi-agent envs are not there yet",
    "TwoStepGameWithGroupedAgents": "multi-agent envs are not there yet",
    "RecommSys001": "envs of recommender systems are not there",
    "unity3d": "Unity's envs are not there",
    "obstacle_tower": "Unity's envs are not there",
}
"""Envs that no choice of ours can stand for, by class name, and why."""


def env_of(name: str | None, env_config: Mapping[str, Any]) -> Env:
    """The env of ours that `name` means, with its keyword arguments. Raises ConfigError if there is
    none."""
    env = Env("none") if name is None else _named(name, dict(env_config))
    if env.choice != "repeat_after_me":
        env.values |= {f"env.env_config.{key}": value for key, value in env_config.items()}
    return env


def _named(name: str, env_config: dict[str, Any]) -> Env:
    short = name.rpartition(".")[2] if name.startswith(EXAMPLES) else name
    if short in ("RepeatAfterMeEnv", "repeat_after_me"):
        return _repeat_after_me(env_config)
    if short in RENAMED:
        return RENAMED[short]()
    if short in NOT_THERE or name.startswith("ray."):
        reason = NOT_THERE.get(short, "it is RLlib's own, and not part of rlrun")
        raise ConfigError(f"env: {name}: {reason}. Your own: env=gym env.id=my_package.MyEnv")
    if "Bullet" in name:
        raise ConfigError(f"env: {name}: PyBullet's envs are not made for gymnasium.")
    ids = ids_of_envs(conf_dir() / "env")
    if name in ids:
        return Env(ids[name])
    return _atari(name, ids) or _mujoco(name, ids) or _of_any_id(name)


def _atari(name: str, ids: Mapping[str, str]) -> Env | None:
    match = re.fullmatch(r"(?:ALE/)?(\w+?)(?:-ram)?(NoFrameskip|Deterministic)?-v[045]", name)
    if match is None:
        return None
    ours = f"ALE/{match[1]}-v5"
    if ours not in ids and not match[2] and not name.startswith("ALE/"):
        return None
    note = (
        f"{ours} by the emulator's own vector env, which skips 4 frames, stacks 4, and has no "
        f"sticky actions"
    )
    if ours in ids:
        return Env(ids[ours], notes=[note])
    return Env("atari", {"env.id": ours}, [note])


def _mujoco(name: str, ids: Mapping[str, str]) -> Env | None:
    match = re.fullmatch(r"([A-Z]\w+)-v[1-4]", name)
    ours = f"{match[1]}-v5" if match else ""
    if ours not in ids or ours.startswith("ALE/"):
        return None
    return Env(ids[ours], notes=[f"{ours}, on MuJoCo's own bindings: returns are not the same"])


def _of_any_id(name: str) -> Env:
    return Env("gym", {"env.id": name}, [f"taken as a gymnasium id or an import path: {name}"])


def _repeat_after_me(env_config: dict[str, Any]) -> Env:
    inner = env_config.get("config", env_config)
    given = dict(inner) if isinstance(inner, dict) else {}
    delay = given.pop("repeat_delay", None)
    values = {} if delay is None else {"env.env_config.delay": delay}
    note = "rlrun.envs.repeat_after_me, which is the same task"
    if given:
        note += f", and has nothing like {', '.join(given)} of env_config"
    return Env("repeat_after_me", values, [note])


def _atari_choices() -> set[str]:
    ids = ids_of_envs(conf_dir() / "env")
    return {"atari", *(choice for each, choice in ids.items() if each.startswith("ALE/"))}
