"""From composed YAML to the objects of a run; every error names the full key.

`build` is the one place where a `_target_` becomes an object: keys are checked against the
constructor's, values against its annotations, and nothing is silently changed.
"""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from rlrun.core.errors import ConfigError
from rlrun.core.imports import import_object
from rlrun.rllib_import.keys import synonyms


class UnknownKeyError(ConfigError):
    """There is no such key; `key` names it."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


SYNONYMS = synonyms() | {
    "learning_rate": "lr",
    "batch_size": "train_batch_size",
    "discount": "gamma",
    "ent_coef": "entropy_coeff",
    "vf_coef": "vf_coeff",
    "max_grad_norm": "grad_clip",
    "n_steps": "rollout_fragment_length",
    "n_epochs": "num_epochs",
    "num_envs": "num_envs_per_worker",
    "n_envs": "num_envs_per_worker",
    "num_rollout_workers": "num_workers",
    "max_episode_steps": "horizon",
}
"""What other libraries, and the classic API, call some of our keys; used for hints only."""


COUNTS = {"timesteps_total", "training_iteration", "episodes_total", "time_total_s"}
"""Result keys that begin at 0 and only grow."""


def conf_dir() -> Path:
    """Where the YAML groups lie: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parent / "conf"


@dataclass(kw_only=True)
class RunSettings:
    """The keys of conf/config.yaml that belong to no group."""

    seed: int | None = None
    """The one seed that all streams of randomness come from; null draws one, which is recorded."""
    explore: bool = True
    """Whether actions are explored in training; off: always the most likely action."""
    task: str | None = None
    """Import path of a training function train(config, report), which runs in place of algo; null:
    none."""
    task_config: dict[str, Any] = field(default_factory=dict)
    """What only that function reads."""
    tuned: str | None = None
    """The file of conf/tuned whose values the config has; null: the general ones."""
    debug: bool = False
    """One process, tiny sizes, and a look at every number; what you set counts nevertheless."""
    stop: dict[str, Any] = field(default_factory=dict)
    """The run ends when one of these result keys reaches its value."""
    pass_mark: dict[str, Any] = field(default_factory=dict)
    """What a tuned example must reach; the run then ends with a verdict and an exit status."""
    checkpoint_freq: int = 0
    """Training iterations between checkpoints; 0: none on the way."""
    checkpoint_at_end: bool = True
    """Whether the last iteration gets a checkpoint."""
    keep_checkpoints_num: int | None = None
    """How many of the best checkpoints are kept (the newest always is); null: all."""
    checkpoint_score_attr: str = "training_iteration"
    """The result key that ranks checkpoints; with "min-" in front, lower is better."""
    objective: str = "episode_reward_mean"
    """The result key that is returned to a sweep."""
    key_patience_iterations: int | None = None
    """How long a result key that a setting names is waited for; null: for 100 iterations, and not
    at all if it is nearly one that there is."""
    init_from: str | None = None
    """A file of weights (.safetensors, .pt, .h5), a checkpoint or a run's folder; a new run's
    policy begins with what fits of it. null: random weights."""
    input: str | dict[str, float] | None = None
    """Data to learn from in place of an env: a folder, file or pattern, minari:NAME, or several of
    these with probabilities; null: workers sample from the env."""
    shuffle_buffer_size: int = 100
    """Episodes of `input` from which the next one is drawn; 1: as they stand there."""
    actions_in_input_normalized: bool = False
    """Whether Box actions in files of the classic RLlib are in [-1, 1] already."""
    output: str | None = None
    """A folder into which every worker writes the episodes that it samples; null: none."""
    output_max_file_size: int = 67_108_864
    """Bytes after which the next file begins."""
    output_compress_columns: list[str] = field(default_factory=list)
    """Columns that are packed: obs, actions, rewards, log_probs."""
    rollout_columns: list[Literal["infos", "log_probs", "dist_inputs", "next_obs"]] = field(
        default_factory=list
    )
    """Columns that on_postprocess_trajectory finds in trajectories beside the algorithm's own."""
    log_level: Literal["DEBUG", "INFO", "WARN", "ERROR"] = "WARN"
    """What the program says of itself on the terminal; the log file has INFO and above."""

    def __post_init__(self) -> None:
        for name in ("seed", "checkpoint_freq", "key_patience_iterations"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"{name}={value} must be at least 0.")
        if self.keep_checkpoints_num is not None and self.keep_checkpoints_num < 1:
            raise ConfigError(
                f"keep_checkpoints_num={self.keep_checkpoints_num} must be at least 1, or null to "
                f"keep all."
            )
        if self.init_from is not None and not self.init_from.strip():
            raise ConfigError("init_from is empty. Name a file or a checkpoint, or init_from=null.")
        self.stop = flat_numbers("stop", self.stop)
        self.pass_mark = flat_numbers("pass_mark", self.pass_mark)
        for name in COUNTS & self.stop.keys():
            if self.stop[name] <= 0:
                raise ConfigError(
                    f"stop.{name}={self.stop[name]:g} is met before anything happens. Set it to "
                    f"what the run may take, or to null."
                )


def build(node: Any, key: str, *, target: Any = None, kind: type | None = None) -> Any:
    """The object that a YAML node describes.

    node: a mapping with `_target_` (the import path of a class, a subclass of `kind` if that is
    given), or plain arguments of `target`. Raises ConfigError for an unknown or missing key, a
    wrong type, a value out of range.
    """
    if not isinstance(node, Mapping):
        raise ConfigError(f"{key}={node!r} must be a mapping with the key _target_.")
    arguments = {name: value for name, value in node.items() if name != "_target_"}
    if "_target_" in node and target is not None:
        raise ConfigError(f"{key}._target_ may not be set: {key} is always {target.__name__}.")
    if "_target_" in node:
        target = import_object(str(node["_target_"]), f"{key}._target_")
        _check_kind(target, kind, key)
    if target is None:
        raise ConfigError(f"{key} needs the key _target_, the import path of its class.")
    checked = check_arguments(target, arguments, key)
    try:
        return target(**checked)
    except ConfigError as error:
        raise _with_key(error, key) from error
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{key}: {target.__name__} refuses these values: {error}") from error


def check_arguments(
    target: Callable[..., Any], arguments: dict[str, Any], key: str
) -> dict[str, Any]:
    """`arguments` converted to the annotated types of `target`'s parameters. Raises ConfigError."""
    parameters = _parameters(target)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [name for name in arguments if name not in parameters]
    prefix = f"{key}." if key else ""
    if unknown and not takes_any:
        raise unknown_key(f"{prefix}{unknown[0]}", (f"{prefix}{name}" for name in parameters))
    missing = [
        name
        for name, p in parameters.items()
        if p.default is p.empty and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        if name not in arguments or arguments[name] == "???"
    ]
    if missing:
        raise ConfigError(f"{prefix}{missing[0]} must be given: {prefix}{missing[0]}=<value>")
    hints = _type_hints(target)
    return {
        name: convert(value, hints[name], f"{prefix}{name}") if name in hints else value
        for name, value in arguments.items()
    }


def convert(value: Any, annotation: Any, key: str) -> Any:
    """`value` as the annotated type (an int may stand for a float, nothing else is changed).

    A mapping with `_target_` becomes an object only where the annotation names a class, which it
    must be a subclass of. Annotations that have no counterpart in YAML pass anything. Raises
    ConfigError.
    """
    import msgspec

    kind = class_in(annotation)
    if kind is not None and isinstance(value, Mapping) and "_target_" in value:
        return build(value, key, kind=kind)
    plain = _plain_annotation(annotation)
    if plain is None:
        return value
    try:
        return msgspec.convert(value, plain)
    except msgspec.ValidationError as error:
        allowed = _describe(annotation)
        hint = _nearest_choice(value, annotation)
        raise ConfigError(
            f"{key}={_show(value)} must be {allowed}: {_reason(error)}{hint}"
        ) from error


def unknown_key(given: str, known: Iterable[str]) -> ConfigError:
    """The error for a key that does not exist, with the nearest ones that do."""
    names = sorted(name for name in set(known) if not name.endswith("_target_"))
    leaf = given.rpartition(".")[2]
    by_leaf = {name.rpartition(".")[2]: name for name in names}
    nearest = difflib.get_close_matches(leaf, {*SYNONYMS, *by_leaf}, n=1, cutoff=0.85)
    meant = {leaf, *(SYNONYMS[name] for name in nearest if name in SYNONYMS)}
    same_leaf = [name for name in names if name.rpartition(".")[2] in meant]
    near = same_leaf or difflib.get_close_matches(given, names, n=3, cutoff=0.6)
    if not near:
        near = [by_leaf[match] for match in difflib.get_close_matches(leaf, by_leaf, n=3)]
    # Of a whole group one chooses a file; it is no key within another.
    is_group = {name.partition(".")[0] for name in names if "." in name}
    near = [f"{name}=<choice> (rlrun list {name})" if name in is_group else name for name in near]
    parent = given.rpartition(".")[0]
    siblings = [name for name in names if name.rpartition(".")[0] == parent]
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    shown = siblings or [name for name in names if "." not in name] or names
    parent = parent if siblings else ""
    listing = ", ".join(name.rpartition(".")[2] for name in shown)
    allowed = f"Allowed below {parent!r}" if parent else "Allowed"
    return UnknownKeyError(f"There is no key {given!r}.{hint} {allowed}: {listing}.", given)


def field_keys(target: type) -> set[str]:
    """The names that a YAML file for this dataclass lists."""
    return {f.name for f in fields(target) if f.init} if is_dataclass(target) else set()


def flatten_keys(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every dotted key of a nested mapping, inner ones and leaves."""
    keys = []
    for name, value in tree.items():
        keys.append(f"{prefix}{name}")
        if isinstance(value, Mapping):
            keys += flatten_keys(value, f"{prefix}{name}.")
    return keys


def build_all(node: Any, key: str, kind: type | None = None) -> list[Any]:
    """The objects of a group that may hold none, one (`_target_`), a list, or several by name."""
    if node is None:
        return []
    if isinstance(node, Mapping) and "_target_" in node:
        return [build(node, key, kind=kind)]
    if isinstance(node, Mapping):
        named: list[tuple[Any, Any]] = list(node.items())
        return [
            build(child, f"{key}.{name}", kind=kind) for name, child in named if child is not None
        ]
    if isinstance(node, list):
        return [build(child, f"{key}[{i}]", kind=kind) for i, child in enumerate(node)]
    raise ConfigError(f"{key}={node!r} must be null, a mapping with _target_, or a list of these.")


def _check_kind(target: Any, kind: type | None, key: str) -> None:
    """Before anything is called: YAML from elsewhere must not run whatever function it names."""
    expected = "a class" if kind is None else f"a subclass of {kind.__module__}.{kind.__name__}"
    if not isinstance(target, type) or (kind is not None and not issubclass(target, kind)):
        name = getattr(target, "__qualname__", repr(target))
        raise ConfigError(f"{key}._target_={name} must be {expected}.")


def _with_key(error: ConfigError, key: str) -> ConfigError:
    """Errors of constructors name their usual place (algo.lr); put the real one in front."""
    return error if key in str(error) else type(error)(f"{key}: {error}")


# Building the same classes over and over, as checking a sweep does, would spend half its time here.
@cache
def _parameters(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(target).parameters


@cache
def _type_hints(target: Callable[..., Any]) -> dict[str, Any]:
    is_plain_class = isinstance(target, type) and not is_dataclass(target)
    source = target.__init__ if is_plain_class else target  # type: ignore[misc]
    try:
        return typing.get_type_hints(source)
    except (NameError, TypeError):
        # Annotations that only a type checker can resolve are not checked here.
        return {}


PLAIN_TYPES = (int, float, bool, str, type(None))


def _plain_annotation(annotation: Any) -> Any:
    """The part of an annotation that YAML can express, or None if anything may pass."""
    if annotation is Any or annotation is inspect.Parameter.empty:
        return None
    if annotation in PLAIN_TYPES:
        return annotation
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    if origin is Literal:
        return annotation
    if origin in (list, dict, tuple):
        return annotation if all(_plain_annotation(a) is not None for a in arguments) else origin
    if _is_union(annotation):
        plain = [_plain_annotation(a) for a in arguments if not _is_class(a)]
        if any(p is None for p in plain):
            return None
        return typing.Union[tuple(plain)]  # noqa: UP007
    return None


def _is_class(annotation: Any) -> bool:
    no_classes = (*PLAIN_TYPES, list, dict, tuple, Any)
    return isinstance(annotation, type) and annotation not in no_classes


def class_in(annotation: Any) -> type | None:
    """The class of objects that the annotation, or one part of a union, names."""
    parts = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    return next((part for part in parts if _is_class(part)), None)


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _describe(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    arguments = typing.get_args(annotation)
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    if annotation in names:
        return names[annotation]
    if annotation is type(None):
        return "null"
    if origin is Literal:
        return "one of " + ", ".join(map(str, arguments))
    if origin is list:
        return f"a list (each {_describe(arguments[0])})" if arguments else "a list"
    if origin is dict:
        return "a mapping"
    if arguments:
        return " or ".join(_describe(a) for a in arguments if not _is_class(a))
    return "another type"


def _nearest_choice(value: Any, annotation: Any) -> str:
    """A hint at the choice that was meant, where text was given that is none."""
    choices = {str(each).lower(): str(each) for each in _choices_in(annotation)}
    near = difflib.get_close_matches(str(value).lower(), choices, n=1)
    return f" Did you mean {choices[near[0]]}?" if near else ""


def _choices_in(annotation: Any) -> list[Any]:
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        return list(arguments)
    return [each for part in arguments for each in _choices_in(part)]


def _reason(error: Exception) -> str:
    return str(error).replace("`", "").rstrip(".") + "."


def _show(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def flat_numbers(key: str, tree: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Numbers by result key, of a tree in which YAML has them. Raises ConfigError for others."""
    flat: dict[str, float] = {}
    for name, value in tree.items():
        if isinstance(value, Mapping):
            flat |= flat_numbers(key, value, f"{prefix}{name}/")
        elif isinstance(value, bool) or not isinstance(value, int | float | None) or value != value:
            raise ConfigError(
                f"{key}.{prefix}{name}={value!r} must be a number: {key}.<result key>=<value>."
            )
        elif value is not None:
            flat[f"{prefix}{name}"] = float(value)
    return flat
