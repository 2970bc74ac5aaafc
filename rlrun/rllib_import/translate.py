"""One experiment of the classic RLlib as overrides of ours."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rlrun.config import conf_dir
from rlrun.core.errors import ConfigError
from rlrun.rllib_import.defaults import OURS, defaults_of, merged
from rlrun.rllib_import.envs import Env, env_of
from rlrun.rllib_import.keys import (
    EFFECTS,
    EXPERIMENT_KEYS,
    KEYS,
    Converted,
    Entry,
    Left,
    Refused,
    Values,
)

ALGORITHMS = {
    **{
        name: name.lower() for name in ("PG", "A2C", "A3C", "PPO", "DDPPO", "APPO", "IMPALA", "DQN")
    },
    **{name: name.lower() for name in ("APEX", "R2D2", "DDPG", "TD3", "APEX_DDPG", "SAC", "CQL")},
    **{name: name.lower() for name in ("MARWIL", "BC", "ES", "ARS")},
    "SimpleQ": "simple_q",
}
"""Our algorithms by what `run` calls them."""

NOT_BUILT = {
    **dict.fromkeys(("QMIX", "contrib/MADDPG", "AlphaStar"), "multi-agent envs are not there yet"),
    **dict.fromkeys(("MAML", "MBMPO", "DREAMER"), "there is no learner of models or tasks yet"),
    **dict.fromkeys(("SlateQ", "BanditLinUCB", "BanditLinTS"), "there are no bandits and slates"),
    "contrib/AlphaZero": "there is no tree search",
    "RNNSAC": "R2D2 is the learner from replayed sequences, for discrete actions",
    "CRR": "marwil, bc and cql are the learners from data",
}
"""Algorithms of the classic RLlib that rlrun has not, and why."""

EXPLORATIONS = {
    "StochasticSampling": "stochastic_sampling",
    "EpsilonGreedy": "epsilon_greedy",
    "PerWorkerEpsilonGreedy": "per_worker_epsilon_greedy",
    "GaussianNoise": "gaussian_noise",
    "PerWorkerGaussianNoise": "per_worker_gaussian_noise",
    "OrnsteinUhlenbeckNoise": "ornstein_uhlenbeck_noise",
    "PerWorkerOrnsteinUhlenbeckNoise": "per_worker_ornstein_uhlenbeck_noise",
    "SoftQ": "soft_q",
    "Random": "random",
    "ParameterNoise": "parameter_noise",
    "Curiosity": "curiosity",
    "RE3": "re3",
}
"""Choices of our group by the classic type."""

WITHOUT_MODEL = {"ddpg", "td3", "apex_ddpg", "sac", "cql"}
"""Algorithms whose actor and critics have layers of their own."""
OF_ACTOR_CRITICS = {"vf_share_layers", "free_log_std"}
"""What of a model only those look at that have a value function beside the policy."""
ACTOR_CRITICS = {"pg", "a2c", "a3c", "ppo", "ddppo", "appo", "impala", "marwil", "bc"}

IN_EVALUATION = ("explore", "env.", "algo.num_envs_per_worker", "exploration")
"""What of our keys evaluation workers may have otherwise."""

REWARDS = ("episode_reward_mean", "evaluation/episode_reward_mean")
"""Stop rules that an experiment is to reach, if another one limits how long it may take."""

GROUPS = ("model", "exploration_config", "evaluation_config", "env_config", "optimizer")
"""Keys of a config that hold keys themselves."""

OF_AN_EXPERIMENT = {"env", "run", "stop", "config", "local_dir", *EXPERIMENT_KEYS}


@dataclass(frozen=True)
class Grid:
    """Values that are tried one after the other."""

    values: tuple[Any, ...]


@dataclass
class Translation:
    """An experiment in our words."""

    name: str
    values: Values = field(default_factory=dict)
    """By our key; a Grid where there are several."""
    notes: list[str] = field(default_factory=list)
    """What was left out or changed, and why."""

    @property
    def is_sweep(self) -> bool:
        """Whether it takes `rlrun -m`."""
        return any(
            isinstance(each, Grid) or key == "sweep.seeds" for key, each in self.values.items()
        )


def translate(name: str, experiment: Mapping[str, Any]) -> Translation:
    """The experiment `name` of a file. Raises ConfigError for what cannot be told in our words."""
    unknown = sorted(experiment.keys() - OF_AN_EXPERIMENT)
    if unknown:
        raise _unknown(f"{name}: {unknown[0]}", unknown[0], OF_AN_EXPERIMENT)
    try:
        given = _mapping("config", experiment.get("config"))
        groups = {key: _mapping(f"config.{key}", given[key]) for key in GROUPS if key in given}
        given |= groups
        env = experiment.get("env", given.get("env"))
        return _Translator(name, _algorithm(experiment), given, env).translate(experiment)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error


class _Translator:
    def __init__(self, name: str, algo: str, given: dict[str, Any], env: Any) -> None:
        self.algo = algo
        self.given = {key: value for key, value in given.items() if key != "env"}
        self.config = merged(defaults_of(algo), self.given)
        self.result = Translation(name)
        self.env_name = env
        self.asked_by: dict[str, list[str]] = {}
        """The classic keys that were given, by ours."""
        self.known: dict[str, frozenset[str]] = {}
        """The keys below each group of ours, as far as their choices are known."""

    def translate(self, experiment: Mapping[str, Any]) -> Translation:
        result = self.result
        result.values |= {"algo": self.algo}
        env = self._env()
        result.values["tuned"] = "none"
        self._model(env)
        self._exploration()
        result.values |= env.values
        result.values |= OURS.get(self.algo, {})
        # A schedule takes the place of the constant beside it.
        leaves = sorted(_leaves(self.config), key=lambda leaf: leaf[0].endswith("_schedule"))
        for key, value in leaves:
            self._key(key, value, is_given=_has(self.given, key))
        self._evaluation()
        self._drop_what_has_no_effect()
        self._stop(_mapping("stop", experiment.get("stop")))
        for key in experiment:
            if key in EXPERIMENT_KEYS:
                self._apply(key, EXPERIMENT_KEYS[key], experiment[key], is_given=True)
        self._folder(experiment.get("local_dir"))
        if not result.is_sweep and result.values.pop("sweep.max_failures", None) is not None:
            self._note(
                "max_failures", "a single run goes on with `rlrun resume`; -m retries trials"
            )
        return result

    # Groups

    def _env(self) -> Env:
        names = _grid_of(self.env_name)
        env_config = self.given.get("env_config") or {}
        if names is None:
            env = env_of(self.env_name, env_config)
            self.result.values["env"] = env.choice
            self._describe(self.env_name, env)
        else:
            envs = [env_of(each, env_config) for each in names]
            for each, one in zip(names, envs, strict=True):
                self._describe(each, one)
            env = self._several(envs)
        self.known["env"] = _known_keys("env", env.choice) | {"env_config"}
        return env

    def _several(self, envs: list[Env]) -> Env:
        """A grid over envs: over choices, or over ids of one choice."""
        choices = [env.choice for env in envs]
        others = [{k: v for k, v in env.values.items() if k != "env.id"} for env in envs]
        ids = [env.values.get("env.id") for env in envs]
        if any(each != others[0] for each in others) or (any(ids) and len(set(choices)) > 1):
            raise ConfigError(
                f"env: grid_search over {', '.join(choices)}: they need "
                f"different keys. Write an experiment for each."
            )
        is_by_choice = len(set(choices)) > 1
        self.result.values["env"] = Grid(tuple(choices)) if is_by_choice else choices[0]
        values = dict(others[0])
        if not is_by_choice and any(ids):
            values["env.id"] = Grid(tuple(ids))
        return Env(choices[0], values)

    def _describe(self, name: Any, env: Env) -> None:
        self.result.notes += [f"env: {name} is {note}" for note in env.notes]

    def _model(self, env: Env) -> None:
        model = self.config["model"]
        choice = "mlp"
        if model.get("use_attention"):
            choice = "gtrxl"
        elif custom := model.get("custom_model"):
            choice = "custom"
            if "." not in str(custom):
                raise ConfigError(
                    f"config.model.custom_model={custom}: there is no registry "
                    f"of models. Name a torch.nn.Module by its import path: model=custom "
                    f"model.module=my_package.{custom}"
                )
            self.result.values["model.module"] = custom
        elif env.is_atari:
            choice = "cnn"
        if choice != "mlp":
            self.result.values["model"] = choice
        self.known["model"] = _known_keys("model", choice)

    def _exploration(self) -> None:
        config = dict(self.config["exploration_config"])
        kind = str(config.pop("type")).rpartition(".")[2]
        if self.algo in ("es", "ars"):
            for key in self.given.get("exploration_config", {}):
                self._note(f"config.exploration_config.{key}", f"algo={self.algo} perturbs weights")
            return
        self.result.values["exploration"] = choice = self._exploration_choice(kind)
        known = _known_keys("exploration", choice)
        sub = config.pop("sub_exploration", None)
        if isinstance(sub, dict):
            self._sub_exploration(dict(sub))
        for key, value in config.items():
            if key in known:
                self._put(f"exploration.{key}", value)
            else:
                self._note(f"exploration_config.{key}", f"exploration={choice} has no such key")

    def _exploration_choice(self, kind: str, group: str = "") -> str:
        if kind not in EXPLORATIONS:
            raise ConfigError(
                f"config.exploration_config.{group}type={kind}: there is no such "
                f"exploration here. There are {', '.join(EXPLORATIONS)}."
            )
        return EXPLORATIONS[kind]

    def _sub_exploration(self, config: dict[str, Any]) -> None:
        kind = str(config.pop("type", None)).rpartition(".")[2]
        choice = self._exploration_choice(kind, "sub_exploration.")
        self.result.values["+exploration@exploration.sub_exploration"] = choice
        for key, value in config.items():
            self._put(f"exploration.sub_exploration.{key}", value)

    # Keys

    def _key(self, key: str, value: Any, *, is_given: bool) -> None:
        if key.startswith(("exploration_config", "evaluation_config", "env_config")):
            return
        entry = KEYS.get(key)
        if entry is None:
            raise _unknown(f"config.{key}", key, KEYS)
        if key.startswith("model.") and (reason := self._why_model_is_unused(key)):
            self._left(key, reason, is_given)
            return
        self._apply(key, entry, value, is_given=is_given)

    def _why_model_is_unused(self, key: str) -> str:
        name = key.removeprefix("model.")
        if self.algo in WITHOUT_MODEL:
            return f"algo={self.algo} has layers of its own"
        if name in OF_ACTOR_CRITICS and self.algo not in ACTOR_CRITICS:
            return f"policies of algo={self.algo} do not look at it"
        return ""

    def _apply(
        self, key: str, entry: Entry, value: Any, *, is_given: bool, prefix: str = ""
    ) -> None:
        """What the table says of a key; `prefix` goes before our key."""
        path = f"config.{key}" if key in KEYS else key
        converted = self._convert(key, entry, value)
        if isinstance(converted, Refused):
            raise ConfigError(f"{path}={value!r}: {converted.reason}.")
        if isinstance(converted, Left):
            self._left(key, converted.reason, is_given)
            return
        for ours, each in converted.items():
            group, _, rest = ours.partition(".")
            if rest and not self._has(group, rest):
                choice = self.result.values.get(group)
                where = f"{group}={choice}" if choice else f"the group {group}"
                self._left(key, f"{where} has nothing like it", is_given)
            elif prefix and not ours.startswith(IN_EVALUATION):
                self._left(key, "evaluation workers look at no such key", is_given)
            elif is_given or self._of_file(ours) != each:
                self._put(prefix + ours, each)
                if is_given:
                    self.asked_by.setdefault(prefix + ours, []).append(key)
        asked = value if (grid := _grid_of(value)) is None else Grid(tuple(grid))
        if key == "num_gpus" and is_given and asked != converted["resources.num_gpus"]:
            self._note(f"config.num_gpus={value}", "a learner has one GPU at most, so it is 1 here")
        has_tau = self.config.get("tau", 1.0) != 1.0
        if key == "target_network_update_freq" and is_given and has_tau and value not in (0, 1):
            self._note(
                f"config.{key}={value}", "targets follow by updates here, of which it is as many"
            )

    def _convert(self, key: str, entry: Entry, value: Any) -> Values | Left | Refused:
        grid = _grid_of(value)
        if grid is None:
            return self._convert_one(entry, value)
        each = [self._convert_one(entry, one) for one in grid]
        refused = [one for one in each if not isinstance(one, dict)]
        if refused:
            return refused[0]
        dicts = [one for one in each if isinstance(one, dict)]
        merged_values: Values = {}
        for ours in dicts[0]:
            column = [one.get(ours) for one in dicts]
            is_same = all(other == column[0] for other in column)
            merged_values[ours] = column[0] if is_same else Grid(tuple(column))
        num_grids = sum(isinstance(one, Grid) for one in merged_values.values())
        if num_grids > 1 or any(one.keys() != dicts[0].keys() for one in dicts):
            return Refused(f"a grid_search over {key} would change several keys at once here")
        return merged_values

    def _convert_one(self, entry: Entry, value: Any) -> Values | Left | Refused:
        if isinstance(entry, Refused) and not value:
            return {}  # null, false or {}: nothing is asked for.
        if isinstance(entry, Left | Refused):
            return entry
        if isinstance(entry, Converted):
            try:
                return entry.convert(value, self.config)
            except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
                return Refused(f"it is no value that RLlib takes ({error})")
        if isinstance(entry, tuple):
            has = [key for key in entry if self._has(*key.split(".", 1))]
            entry = (has or entry)[0]
        return {entry: value}

    def _has(self, group: str, key: str) -> bool:
        """Whether a group has a key, where its choice is known."""
        if group == "algo":
            return key in _known_keys("algo", self.algo)
        if group in ("resources", "evaluation"):
            return key in _known_keys(group, {"resources": "local"}.get(group, "default"))
        name = key.partition(".")[0]
        return name in self.known[group] if group in self.known else True

    def _of_file(self, key: str) -> Any:
        """The value that the algorithm's file gives to a key of ours, if that is known."""
        group, _, name = key.partition(".")
        return _known("algo", self.algo).get(name) if group == "algo" else None

    def _put(self, key: str, value: Any) -> None:
        grid = _grid_of(value)
        self.result.values[key] = value if grid is None else Grid(tuple(grid))

    def _left(self, key: str, reason: str, is_given: bool) -> None:
        if is_given:
            self._note(f"config.{key}" if key in KEYS else key, reason)

    def _note(self, what: str, reason: str) -> None:
        self.result.notes.append(
            f"{what} is left out: {reason}" if "=" not in what else f"{what}: {reason}"
        )

    def _evaluation(self) -> None:
        """Evaluation workers' own keys, which are those of the table again."""
        given = self.given.get("evaluation_config") or {}
        if self.given.get("evaluation_interval") is None:
            for key in given:
                self._note(f"config.evaluation_config.{key}", "there is no evaluation_interval")
            return
        explore = self.config["evaluation_config"].get("explore", True)
        self.result.values["evaluation.config.explore"] = explore
        for key, value in _leaves({k: v for k, v in given.items() if k != "explore"}):
            if key.startswith("env_config."):
                name = key.removeprefix("env_config.")
                self._put(f"evaluation.config.env.env_config.{name}", value)
            elif key == "input" and value == "sampler":
                self._note("config.evaluation_config.input", "evaluation always acts in the env")
            elif key in KEYS:
                self._apply(key, KEYS[key], value, is_given=True, prefix="evaluation.config.")
            else:
                raise _unknown(f"config.evaluation_config.{key}", key, KEYS)

    def _drop_what_has_no_effect(self) -> None:
        values = self.result.values
        for key, (switch, has_effect) in EFFECTS.items():
            state = values.get(switch, self._of_file(switch))
            if key not in values or state is None or isinstance(state, Grid):
                continue
            if not has_effect(state):
                del values[key]
                for name in self.asked_by.get(key, []):
                    self._note(f"config.{name}", f"it has no effect with {switch}={state}")

    # The experiment

    def _stop(self, stop: Mapping[str, Any]) -> None:
        flat = dict(_leaves(stop, "/"))
        for key, value in flat.items():
            if _grid_of(value) is not None or not isinstance(value, int | float):
                raise ConfigError(f"stop.{key}={value!r} must be a number.")
            self.result.values[f"stop.{key}"] = value
        reward = next((key for key in REWARDS if key in flat), None)
        if reward is not None and len(flat) > 1:
            self.result.values[f"pass_mark.{reward}"] = flat[reward]

    def _folder(self, local_dir: str | None) -> None:
        if local_dir is None:
            return
        when = "${now:%Y-%m-%d_%H-%M-%S}_${random_suffix:}"
        folder = Path(local_dir).expanduser() / self.result.name
        for kind in ("run", "sweep"):
            self.result.values[f"hydra.{kind}.dir"] = f"{folder}/{when}"


def _algorithm(experiment: Mapping[str, Any]) -> str:
    run = experiment.get("run")
    if run is None:
        raise ConfigError("an experiment needs the key run, its algorithm: run: PPO")
    if run in NOT_BUILT:
        raise ConfigError(f"run: {run}: rlrun has no such algorithm: {NOT_BUILT[run]}.")
    if run not in ALGORITHMS:
        near = difflib.get_close_matches(str(run), ALGORITHMS, n=2)
        hint = f" Did you mean {' or '.join(near)}?" if near else ""
        raise ConfigError(
            f"run: {run}: rlrun has no such algorithm.{hint} It has "
            f"{', '.join(sorted(ALGORITHMS))}."
        )
    return ALGORITHMS[run]


def _grid_of(value: Any) -> list[Any] | None:
    """What `{grid_search: [...]}` lists; None for any other value. Raises ConfigError for none."""
    if not isinstance(value, Mapping) or value.keys() != {"grid_search"}:
        return None
    listed = value["grid_search"]
    if not isinstance(listed, list) or not listed:
        raise ConfigError(f"grid_search: {listed!r} must be a list of values.")
    return listed


def _mapping(key: str, value: Any) -> dict[str, Any]:
    """A node that holds keys, empty for null. Raises ConfigError for anything else."""
    if not isinstance(value, Mapping | None):
        raise ConfigError(f"{key}: {value!r} must hold keys with their values.")
    return dict(value or {})


def _leaves(
    tree: Mapping[str, Any], separator: str = ".", prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    """Dotted key and value of what the table speaks of: not below grids and whole values."""
    for name, value in tree.items():
        key = f"{prefix}{name}"
        is_group = isinstance(value, Mapping) and _grid_of(value) is None
        if is_group and key not in KEYS:
            yield from _leaves(value, separator, f"{key}{separator}")
        else:
            yield key, value


def _has(tree: Mapping[str, Any], key: str) -> bool:
    node: Any = tree
    for name in key.split("."):
        if not isinstance(node, Mapping) or name not in node:
            return False
        node = node[name]
    return True


def _known_keys(group: str, choice: str) -> frozenset[str]:
    return frozenset(_known(group, choice))


@cache
def _known(group: str, choice: str) -> Values:
    """The keys and values of a choice's file, and of the files that it builds on."""
    file = conf_dir() / group / f"{choice}.yaml"
    node: Any = OmegaConf.to_container(OmegaConf.load(file))
    below = [
        each for each in node.pop("defaults", []) if isinstance(each, str) and each != "_self_"
    ]
    inherited: Values = {}
    for each in below:
        inherited |= _known(group, each)
    return {**inherited, **node}


def _unknown(path: str, key: str, known: Any) -> ConfigError:
    near = difflib.get_close_matches(key, list(known), n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return ConfigError(f"{path}: the classic RLlib has no such key.{hint}")
