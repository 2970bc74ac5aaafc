"""From YAML values to objects: types, ranges, relations, and what an error says."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

import pytest
from helpers_cli import ALGORITHMS
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from rlrun.compose import compose, hydra_at_hand, plain_config, set_value
from rlrun.config import (
    RunSettings,
    build,
    build_all,
    conf_dir,
    convert,
    flatten_keys,
    unknown_key,
)
from rlrun.core.errors import ConfigError
from rlrun.core.schedules import LinearSchedule
from rlrun.early import refuse_early
from rlrun.overrides import parse_assignments
from rlrun.parts import Parts, read_config


@dataclass(kw_only=True)
class Spoon:
    """What `build` is tried on."""

    length: float
    num_holes: int = 0
    shape: Literal["round", "flat"] = "round"
    sizes: list[int] = field(default_factory=list)
    maker: str | None = None
    is_clean: bool = True

    def __post_init__(self) -> None:
        if self.num_holes > 8:
            raise ConfigError(f"spoon.num_holes={self.num_holes} must be at most 8.")


class Picky:
    """Refuses whatever it is given."""

    def __init__(self, length: int = 1) -> None:
        raise ValueError(f"{length} is not to my liking")


def ladle(length: float) -> Spoon:
    """Not a class."""
    return Spoon(length=length)


SPOON = f"{__name__}.Spoon"


@cache
def shared_base(algo: str) -> dict[str, Any]:
    return plain_config(compose([f"algo={algo}", "seed=1"]))


def read(algo: str = "ppo", **values: Any) -> Parts:
    """The parts of the default config with some values changed; "__" in a key stands for "."."""
    plain = copy.deepcopy(shared_base(algo))
    for key, value in values.items():
        set_value(plain, key.replace("__", "."), value)
    return read_config(plain)


def refusal(algo: str = "ppo", **values: Any) -> str:
    """What the error says."""
    with pytest.raises(ConfigError) as refused:
        read(algo, **values)
    return str(refused.value)


def refusal_of(*overrides: str) -> str:
    """What the command line says of overrides that do not compose."""
    with pytest.raises(ConfigError) as refused:
        read_config(plain_config(compose(["seed=1", *overrides])))
    return str(refused.value)


# Types


@pytest.mark.parametrize(
    ("given", "annotation", "expected"),
    [
        (3, float, 3.0),
        (0.5, float, 0.5),
        (3, int, 3),
        (True, bool, True),
        ("a", str, "a"),
        (None, int | None, None),
        (3, int | None, 3),
        ([1, 2], list[int], [1, 2]),
        ([], list[int], []),
        ([[0, 1], [10, 0]], list[list[float]], [[0.0, 1.0], [10.0, 0.0]]),
        ("auto", int | Literal["auto"], "auto"),
        (5, int | Literal["auto"], 5),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        ("whatever", Any, "whatever"),
        ({"a": [1]}, dict[str, Any], {"a": [1]}),
    ],
)
def test_values_of_the_annotated_type_pass(given, annotation, expected):
    converted = convert(given, annotation, "key")
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    ("given", "annotation", "allowed"),
    [
        (2.5, int, "a whole number"),
        (True, int, "a whole number"),
        ("3", int, "a whole number"),
        (None, int, "a whole number"),
        ("abc", float, "a number"),
        (True, float, "a number"),
        ([1.0], float, "a number"),
        (1, bool, "true or false"),
        ("yes", bool, "true or false"),
        (None, bool, "true or false"),
        (5, str, "text"),
        (None, str, "text"),
        ("square", Literal["round", "flat"], "one of round, flat"),
        (None, Literal["round", "flat"], "one of round, flat"),
        (7, list[int], "a list (each a whole number)"),
        ([1.5], list[int], "a list (each a whole number)"),
        (["a"], list[int], "a list (each a whole number)"),
        (2.5, int | None, "a whole number or null"),
        ("all", int | Literal["auto"], "a whole number or one of auto"),
        ([1], dict[str, float], "a mapping"),
        ({"a": "b"}, dict[str, float], "a mapping"),
    ],
)
def test_values_of_another_type_are_refused_with_key_value_and_what_is_allowed(
    given, annotation, allowed
):
    with pytest.raises(ConfigError) as refused:
        convert(given, annotation, "spoon.handle.size")
    message = str(refused.value)
    shown = given if isinstance(given, str) else repr(given)
    assert message.startswith(f"spoon.handle.size={shown} must be {allowed}: ")


def test_a_value_with_a_target_becomes_its_object_only_where_the_annotation_names_its_class():
    node = {"_target_": SPOON, "length": 2}
    assert convert(node, Spoon, "drawer.left") == Spoon(length=2.0)
    assert convert(node, float | Spoon | None, "drawer.left") == Spoon(length=2.0)
    for annotation in (Any, dict[str, Any]):
        assert convert(node, annotation, "drawer.left") == node
    with pytest.raises(ConfigError, match="must be a number"):
        convert(node, float, "drawer.left")
    with pytest.raises(
        ConfigError, match=r"drawer\.left\._target_=Spoon must be a subclass of .*Picky"
    ):
        convert(node, float | Picky, "drawer.left")


@pytest.mark.parametrize(
    "key", ["algo__gamma", "env__id", "seed", "evaluation__interval", "resources__num_workers"]
)
def test_nothing_runs_that_a_value_names(key, tmp_path):
    """A config from elsewhere (a checkpoint's, say) must not open files or start programs."""
    victim = tmp_path / "victim"
    node = {"_target_": "logging.FileHandler", "filename": str(victim), "mode": "w"}
    assert refusal(**{key: node})
    assert "takes no such argument" in refusal(env__env_config=node)
    assert not victim.exists()


@pytest.mark.parametrize("group", ["resources", "env", "evaluation"])
def test_groups_of_one_class_take_no_other(group):
    words = refusal(**{group: {**shared_base("ppo")[group], "_target_": SPOON}})
    assert f"{group}._target_ may not be set" in words


def test_a_nested_target_names_its_full_key_in_errors():
    node = {"_target_": SPOON, "length": 2, "num_holes": 1.5}
    with pytest.raises(ConfigError, match=r"^drawer\.left\.num_holes=1\.5 must be a whole number"):
        convert(node, Spoon, "drawer.left")


# Building


def test_build_gives_the_object_that_the_target_names():
    node = {"_target_": SPOON, "length": 3, "shape": "flat", "sizes": [1]}
    assert build(node, "spoon") == Spoon(length=3.0, shape="flat", sizes=[1])


def test_build_leaves_the_node_as_it_is():
    node = {"_target_": SPOON, "length": 3, "sizes": [1]}
    before = copy.deepcopy(node)
    build(node, "spoon")
    assert node == before


def test_an_unknown_key_is_refused_with_the_nearest_one_and_all_that_are_allowed():
    with pytest.raises(ConfigError) as refused:
        build({"_target_": SPOON, "length": 3, "num_hole": 1}, "spoon")
    message = str(refused.value)
    assert message.startswith("There is no key 'spoon.num_hole'. Did you mean spoon.num_holes")
    assert message.endswith(
        "Allowed below 'spoon': is_clean, length, maker, num_holes, shape, sizes."
    )


@pytest.mark.parametrize("given", [{}, {"length": "???"}])
def test_a_key_that_must_be_given_is_named(given):
    with pytest.raises(ConfigError, match=r"spoon\.length must be given: spoon\.length=<value>"):
        build({"_target_": SPOON, **given}, "spoon")


def test_an_error_of_the_constructor_keeps_the_full_key():
    with pytest.raises(ConfigError, match=r"^spoon\.num_holes=9 must be at most 8\.$"):
        build({"_target_": SPOON, "length": 1, "num_holes": 9}, "spoon")
    with pytest.raises(ConfigError, match=r"^drawer\.left: spoon\.num_holes=9 must be at most 8"):
        build({"_target_": SPOON, "length": 1, "num_holes": 9}, "drawer.left")


def test_a_target_must_be_a_class_of_the_kind_that_is_asked_for():
    node = {"_target_": SPOON, "length": 3}
    assert build(node, "spoon", kind=Spoon) == Spoon(length=3.0)
    with pytest.raises(ConfigError, match=rf"^spoon\._target_=Spoon must be .*{__name__}\.Picky"):
        build(node, "spoon", kind=Picky)
    with pytest.raises(ConfigError, match=r"^spoon\._target_=ladle must be a class"):
        build({"_target_": f"{__name__}.ladle", "length": 3}, "spoon")


def test_a_value_error_of_the_constructor_becomes_one_of_the_config():
    with pytest.raises(ConfigError, match="taste: Picky refuses these values: 4 is not to my"):
        build({"_target_": f"{__name__}.Picky", "length": 4}, "taste")


@pytest.mark.parametrize("node", [None, 3, "spoon", [1]])
def test_a_node_that_is_no_mapping_is_refused(node):
    with pytest.raises(ConfigError, match=r"^spoon=.* must be a mapping with the key _target_"):
        build(node, "spoon")


def test_a_node_without_a_target_is_refused():
    with pytest.raises(ConfigError, match="spoon needs the key _target_, the import path"):
        build({"length": 1}, "spoon")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("Spoon", "must be the import path of a class or function"),
        ("nowhere_at_all.Spoon", "there is no module 'nowhere_at_all'"),
        ("rlrun.core.nowhere.Spoon", r"there is no module 'rlrun\.core\.nowhere'"),
        (f"{__name__}.Fork", f"module '{__name__}' has no 'Fork'"),
        ("", "must be the import path of a class or function"),
    ],
)
def test_a_target_that_cannot_be_imported_is_named(path, reason):
    with pytest.raises(ConfigError, match=rf"^spoon\._target_='{path}'.*{reason}"):
        build({"_target_": path}, "spoon")


@pytest.mark.parametrize(
    "path", ["os.system", "subprocess.run", "builtins.eval", "shutil.rmtree", "sys.exit", "posix.x"]
)
def test_a_target_that_runs_commands_is_refused_before_it_is_called(path):
    with pytest.raises(ConfigError, match=rf"spoon\._target_='{path}' must be the import path"):
        build({"_target_": path, "command": "true"}, "spoon")


def test_a_group_may_hold_none_one_several_by_name_or_a_list():
    node = {"_target_": SPOON, "length": 1}
    spoon = Spoon(length=1.0)
    assert build_all(None, "spoons", Spoon) == []
    assert build_all({}, "spoons", Spoon) == []
    assert build_all(node, "spoons", Spoon) == [spoon]
    assert build_all({"left": node, "right": None}, "spoons", Spoon) == [spoon]
    assert build_all([node, node], "spoons", Spoon) == [spoon, spoon]
    with pytest.raises(ConfigError, match="spoons='x' must be null, a mapping with _target_, or"):
        build_all("x", "spoons", Spoon)
    with pytest.raises(ConfigError, match=r"spoons\.left\.lenght"):
        build_all({"left": {"_target_": SPOON, "lenght": 1}}, "spoons", Spoon)
    with pytest.raises(ConfigError, match=r"spoons\[1\]\.lenght"):
        build_all([node, {"_target_": SPOON, "lenght": 1}], "spoons", Spoon)


# The composed config


@pytest.mark.parametrize(
    ("algo", "key", "value", "allowed"),
    [
        ("ppo", "algo.lr", "abc", "a number"),
        ("ppo", "algo.lr", True, "a number"),
        ("ppo", "algo.num_epochs", 2.5, "a whole number"),
        ("ppo", "algo.num_epochs", True, "a whole number"),
        ("ppo", "algo.gamma", None, "a number"),
        ("ppo", "algo.batch_mode", "whole", "one of truncate_episodes, complete_episodes"),
        ("ppo", "algo.normalize_advantages", 1, "true or false"),
        ("dqn", "algo.hiddens", 64, "a list (each a whole number)"),
        ("dqn", "algo.hiddens", [64, 1.5], "a list (each a whole number)"),
        ("ppo", "model.fcnet_activation", "gelu", "one of tanh, relu, silu, elu, linear"),
        ("ppo", "env.vectorization", "threads", "one of sync, async, native"),
        ("ppo", "env.id", 5, "text"),
        ("ppo", "resources.num_workers", 1.5, "a whole number"),
        ("ppo", "resources.num_gpus", "all", "a number"),
        ("ppo", "evaluation.duration_unit", "hours", "one of episodes, timesteps"),
        ("ppo", "logger.console.plain_interval_s", "5s", "a number"),
        ("ppo", "explore", "maybe", "true or false"),
        ("ppo", "log_level", "LOUD", "one of DEBUG, INFO, WARN, ERROR"),
        ("ppo", "checkpoint_freq", 0.5, "a whole number"),
        ("ppo", "stop.timesteps_total", "many", "a number"),
        ("ppo", "pass_mark.episode_reward_mean", True, "a number"),
    ],
)
def test_a_wrong_type_in_the_config_names_key_value_and_what_is_allowed(algo, key, value, allowed):
    message = refusal(algo, **{key: value})
    assert key in message
    assert str(value) in message
    assert allowed in message


@pytest.mark.parametrize(
    ("algo", "key", "value", "bound"),
    [
        ("ppo", "algo.gamma", 1.5, "between 0 and 1"),
        ("ppo", "algo.gamma", float("nan"), "between 0 and 1"),
        ("ppo", "algo.gae_lambda", -0.1, "between 0 and 1"),
        ("ppo", "algo.lr", -1.0, "at least 0"),
        ("ppo", "algo.lr", [[0.0, 0.1], [100.0, -0.1]], "at least 0"),
        ("ppo", "algo.clip_range", -0.2, "at least 0"),
        ("ppo", "algo.num_epochs", 0, "at least 1"),
        ("ppo", "algo.train_batch_size", 0, "at least 1"),
        ("ppo", "algo.rollout_fragment_length", 0, "at least 1"),
        ("ppo", "algo.timesteps_per_iteration", -1, "at least 0"),
        ("dqn", "algo.n_step", 0, "at least 1"),
        ("dqn", "algo.tau", 1.5, "between 1e-09 and 1"),
        ("dqn", "algo.prioritized_replay_beta", [[0.0, 0.4], [10.0, 2.0]], "between 0 and 1"),
        ("dqn", "algo.hiddens", [64, 0], "at least 1"),
        ("dqn", "exploration.final_epsilon", 1.5, "between 0 and 1"),
        ("dqn", "exploration.warmup_timesteps", -5, "at least 0"),
        ("ppo", "exploration.random_timesteps", -1, "at least 0"),
        ("ppo", "model.fcnet_hiddens", [0], "at least 1"),
        ("ppo", "env.horizon", 0, "at least 1"),
        ("ppo", "env.clip_rewards", -1.0, "at least 0"),
        ("ppo", "resources.num_workers", -1, "at least 0"),
        ("ppo", "resources.num_gpus", -0.5, "at least 0"),
        ("ppo", "resources.num_gpus", float("nan"), "at least 0"),
        ("ppo", "resources.num_gpus", 2, "between 0 and 1"),
        ("ppo", "resources.num_cpus_for_driver", 0, "between 1 and 1024"),
        ("ppo", "evaluation.interval", 0, "at least 1"),
        ("ppo", "evaluation.duration", 0, "at least 1"),
        ("ppo", "evaluation.num_workers", -1, "at least 0"),
        ("ppo", "seed", -1, "at least 0"),
        ("ppo", "checkpoint_freq", -1, "at least 0"),
        ("ppo", "keep_checkpoints_num", 0, "at least 1"),
    ],
)
def test_a_value_out_of_range_names_key_value_and_bounds(algo, key, value, bound):
    message = refusal(algo, **{key: value})
    assert key in message
    assert str(value) in message
    assert bound in message


@pytest.mark.parametrize(
    ("algo", "values", "named"),
    [
        (
            "ppo",
            {"algo.minibatch_size": 512, "algo.train_batch_size": 256},
            ["algo.minibatch_size=512", "algo.train_batch_size=256"],
        ),
        (
            "dqn",
            {"algo.buffer_size": 32, "algo.train_batch_size": 64},
            ["algo.buffer_size=32", "algo.train_batch_size=64"],
        ),
        (
            "dqn",
            {"algo.num_atoms": 51, "algo.v_min": 5.0, "algo.v_max": 5.0},
            ["algo.v_min=5.0", "algo.v_max=5.0"],
        ),
        ("ppo", {"algo.kl_coeff": 0.5}, ["algo.kl_coeff=0.5", "algo.use_kl_loss=false"]),
        ("ddppo", {"algo.kl_target": 0.5}, ["algo.kl_target=0.5", "algo.use_kl_loss=false"]),
        ("appo", {"algo.kl_target": 0.5}, ["algo.kl_target=0.5", "algo.use_kl_loss=false"]),
        ("dqn", {"algo.v_max": 5.0}, ["algo.v_max=5.0", "algo.num_atoms=1"]),
        ("dqn", {"algo.sigma0": 0.1}, ["algo.sigma0=0.1", "algo.noisy=false"]),
        *(
            ("dqn", {f"algo.{key}": 0.7}, [f"algo.{key}=0.7", "algo.prioritized_replay=false"])
            for key in ("prioritized_replay_alpha", "prioritized_replay_eps")
        ),
        (
            "ppo",
            {"env.vectorization": "native", "env.wrappers": [{"_target_": "a.B"}]},
            ["env.wrappers", "env.vectorization=native"],
        ),
    ],
)
def test_an_impossible_pair_of_values_names_both_keys(algo, values, named):
    message = refusal(algo, **values)
    for each in named:
        assert each in message


def test_a_schedule_may_be_a_number_points_or_an_object():
    node = {
        "_target_": "rlrun.core.schedules.LinearSchedule",
        "initial": 1,
        "final": 0,
        "timesteps": 10,
    }
    for value, at_five in ((1, 1.0), ([[0, 1], [10, 0]], 0.5), (node, 0.5)):
        algorithm = read(algo__lr=value).trainer.worker.algorithm
        assert algorithm.schedule("lr")(5) == at_five
    assert read(algo__lr=node).trainer.worker.algorithm.lr == LinearSchedule(
        initial=1.0, final=0.0, timesteps=10
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"initail": 1}, ["algo.lr.initail", "Did you mean algo.lr.initial"]),
        ({"timesteps": 0}, ["algo.lr", "timesteps=0 must be at least 1"]),
        ({"timesteps": 1.5}, ["algo.lr.timesteps=1.5", "a whole number"]),
        ({"_target_": "rlrun.core.schedules.Lin"}, ["algo.lr._target_", "has no 'Lin'"]),
    ],
)
def test_an_error_inside_a_schedule_names_the_full_key(change, words):
    node = {
        "_target_": "rlrun.core.schedules.LinearSchedule",
        "initial": 1,
        "final": 0,
        "timesteps": 10,
    }
    message = refusal(algo__lr={**node, **change})
    for word in words:
        assert word in message


@pytest.mark.parametrize("points", [[[0, 1], [0, 2]], [[5, 1], [2, 1]], [[1]], []])
def test_points_of_a_schedule_must_be_pairs_with_rising_timesteps(points):
    message = refusal(algo__lr=points)
    assert "algo.lr" in message
    assert "rising timesteps" in message


@pytest.mark.parametrize(
    ("key", "node", "base"),
    [
        ("algo", {"_target_": "rlrun.core.networks.MLP"}, "rlrun.core.algorithm.Algorithm"),
        ("exploration", {"_target_": "rlrun.core.networks.MLP"}, "Exploration"),
        ("model", {"_target_": "rlrun.algos.ppo.PPO"}, "rlrun.core.networks.Model"),
        ("logger", {"_target_": "rlrun.core.networks.MLP"}, "rlrun.loggers.base.Logger"),
        ("callbacks", {"_target_": "rlrun.core.networks.MLP"}, "rlrun.core.callbacks.Callbacks"),
        ("curriculum", {"_target_": "rlrun.core.networks.MLP"}, "rlrun.core.callbacks.Callbacks"),
    ],
)
def test_a_class_of_the_wrong_kind_is_refused_with_the_kind_that_is_needed(key, node, base):
    plain = {**shared_base("ppo"), key: node}
    with pytest.raises(ConfigError) as refused:
        read_config(plain)
    assert key in str(refused.value)
    assert base in str(refused.value)


@pytest.mark.parametrize("key", ["algo", "exploration", "model", "logger", "callbacks"])
def test_a_target_of_the_wrong_kind_is_never_called(key, tmp_path):
    # timeit.timeit runs any Python that it is given, as a hundred other functions do.
    trap = tmp_path / "was_called"
    node = {"_target_": "timeit.timeit", "stmt": f"open({str(trap)!r}, 'w')", "number": 1}
    with pytest.raises(ConfigError):
        read_config({**shared_base("ppo"), key: node})
    assert not trap.exists()


def test_a_missing_group_is_named():
    for group in ("algo", "env", "exploration", "model", "resources", "evaluation"):
        plain = {key: value for key, value in shared_base("ppo").items() if key != group}
        with pytest.raises(ConfigError, match=group):
            read_config(plain)


def test_overrides_of_evaluation_are_checked_before_anything_starts():
    assert "evaluation.config" in refusal(evaluation__config={"algo": {"lrr": 1}})
    assert "algo.lrr" in refusal(evaluation__config={"algo": {"lrr": 1}})
    assert "gamma" in refusal(evaluation__config={"algo": {"gamma": 3}})
    assert "explore" in refusal(evaluation__config={"explore": "no"})


def test_overrides_of_evaluation_change_only_evaluation():
    trainer = read(evaluation__config={"explore": False, "env": {"horizon": 7}}).trainer
    assert (trainer.worker.explore, trainer.evaluation_worker.explore) == (True, False)
    assert (trainer.worker.env.horizon, trainer.evaluation_worker.env.horizon) == (None, 7)


def test_validation_never_edits_a_value():
    plain = copy.deepcopy(shared_base("dqn"))
    before = copy.deepcopy(plain)
    parts = read_config(plain)
    assert plain == before
    assert parts.trainer.plain == before


def test_stop_rules_may_be_nested_flat_or_null():
    settings = RunSettings(stop={"evaluation": {"episode_reward_mean": 5}, "a/b": 2, "c": None})
    assert settings.stop == {"evaluation/episode_reward_mean": 5.0, "a/b": 2.0}


@pytest.mark.parametrize("value", [float("nan"), "x", True, [1]])
def test_a_stop_rule_that_could_never_be_met_is_refused(value):
    with pytest.raises(ConfigError, match=r"stop\.timesteps_total"):
        RunSettings(stop={"timesteps_total": value})


# The nearest valid name


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("algo.learning_rate", "algo.lr"),
        ("algo.lambda", "algo.gae_lambda"),
        ("algo.clip_param", "algo.clip_range"),
        ("algo.train_batchsize", "algo.train_batch_size"),
        ("algo.num_workers", "resources.num_workers"),
        ("algo.model", "model=<choice> (rlrun list model)"),
        ("resources.num_envs_per_worker", "algo.num_envs_per_worker"),
        ("env.max_episode_steps", "env.horizon"),
        ("num_workers", "resources.num_workers"),
        ("checkpoint_frequency", "checkpoint_freq"),
    ],
)
def test_a_wrong_key_is_answered_with_the_nearest_valid_one(key, meant):
    message = refusal(**{key: 1})
    assert meant in hints_in(message)
    assert f"There is no key '{key}'." in message


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("algo=dqnn", "dqn"),
        ("env=cart_pole", "cartpole"),
        ("exploration=epsilongreedy", "epsilon_greedy"),
        ("algoo=dqn", "algo=<choice> (rlrun list algo)"),
        ("algo.model=lstm", "model=<choice> (rlrun list model)"),
    ],
)
def test_a_wrong_choice_is_answered_with_the_nearest_valid_one(override, meant):
    message = refusal_of(override)
    assert meant in hints_in(message)
    assert override.partition("=")[0] in message


def hints_in(message: str) -> list[str]:
    return message.partition("Did you mean ")[2].partition("?")[0].split(" or ")


def test_a_key_that_hydra_lets_through_with_a_plus_is_refused_all_the_same():
    assert "There is no key 'algo.typo'." in refusal_of("+algo.typo=1")


def test_hints_come_from_the_algorithm_that_is_chosen():
    message = refusal_of("algo=dqn", "algo.buffersize=5")
    assert "Did you mean algo.buffer_size or shuffle_buffer_size?" in message
    assert "Allowed below 'algo': adam_epsilon, batch_mode, buffer_size" in message


def test_a_key_of_our_own_is_nearer_than_another_library_s_name_for_one():
    assert hints_in(refusal_of("algo=dqn", "algo.n_stepp=3"))[0] == "algo.n_step"
    assert hints_in(refusal_of("algo=dqn", "algo.n_steps=3")) == ["algo.rollout_fragment_length"]


def test_an_unknown_choice_lists_all_choices():
    assert f"Allowed: {', '.join(ALGORITHMS)}" in refusal_of("algo=dqnn")


def test_an_unknown_key_lists_its_siblings_only():
    message = str(unknown_key("model.depth", flatten_keys(shared_base("ppo"))))
    allowed = message.partition("Allowed below 'model': ")[2].rstrip(".").split(", ")
    assert allowed == sorted(shared_base("ppo")["model"].keys() - {"_target_"})


def test_an_unknown_key_below_nothing_lists_the_top_level_only():
    message = str(unknown_key("bogus.x", flatten_keys(shared_base("ppo"))))
    allowed = message.partition("Allowed")[2]
    assert "checkpoint_freq" in allowed
    assert "fcnet_hiddens" not in allowed
    assert "below 'bogus'" not in allowed


# Values by dotted key, as `rlrun resume` takes them


def test_assignments_have_values_of_hydras_grammar_and_dots_for_slashes():
    given = ["a.b=1", "c/d=[1, 2]", "e=1e-3", "f=null", "g={h: true}", "i=text", "j="]
    assert parse_assignments(given) == {
        "a.b": 1,
        "c.d": [1, 2],
        "e": 1e-3,
        "f": None,
        "g": {"h": True},
        "i": "text",
        "j": "",
    }


@pytest.mark.parametrize(
    "text", ["off", "yes", "010", "0x10", "12:30:00", "1_000", "1e3", "'run #2'", "a b", "True", ""]
)
def test_a_text_means_the_same_to_resume_as_where_a_run_is_composed(text):
    composed = plain_config(compose([f"env.env_config.x={text}"]))["env"]["env_config"]["x"]
    assigned = parse_assignments([f"env.env_config.x={text}"])["env.env_config.x"]
    assert (assigned, type(assigned)) == (composed, type(composed))


@pytest.mark.parametrize("text", ["run #2", "a=b"])
def test_a_text_that_needs_quotes_is_refused_alike_with_the_quotes(text):
    with pytest.raises(ConfigError, match=f"quotes of its own: \"'{text}'\""):
        parse_assignments([f"env.env_config.x={text}"])
    with pytest.raises(ConfigError, match=f"quotes of its own: \"'{text}'\""):
        compose([f"env.env_config.x={text}"])


def test_several_values_are_for_sweeps_only():
    with pytest.raises(ConfigError, match=r"algo\.lr=1,2 names .*Sweep over them with -m"):
        parse_assignments(["algo.lr=1,2"])


@pytest.mark.parametrize("argument", ["a", "=1", "--flag", "a=[1", "a={b: ", "a=${nowhere}", "~a"])
def test_an_assignment_that_cannot_be_read_is_named(argument):
    with pytest.raises(ConfigError) as refused:
        parse_assignments([argument])
    assert argument in str(refused.value)


def test_a_value_can_only_be_set_where_there_is_a_key():
    plain = copy.deepcopy(shared_base("ppo"))
    set_value(plain, "algo.lr", 1.0)
    set_value(plain, "stop.evaluation.episode_reward_mean", 5)
    assert plain["algo"]["lr"] == 1.0
    assert plain["stop"] == {"evaluation": {"episode_reward_mean": 5}}
    for key in ("algo.lrr", "algo.lr.x", "nothing", "model.a.b", "stopp.x"):
        with pytest.raises(ConfigError, match=f"There is no key '{key}'"):
            set_value(plain, key, 1)


@pytest.mark.parametrize(
    ("overrides", "instead"),
    [
        (["algo=rainbow", "algo.noisy=false"], "exploration=epsilon_greedy, or algo.noisy=true"),
        (["algo=dqn", "exploration=greedy"], "exploration=epsilon_greedy, or algo.noisy=true"),
        (["algo=r2d2", "model.use_lstm=true", "exploration=greedy"], "exploration=epsilon_greedy"),
        (["algo=dqn", "exploration.epsilon_schedule=0.0"], "exploration=epsilon_greedy"),
    ],
)
def test_a_run_that_would_never_explore_is_refused(overrides, instead):
    assert f"always take the best action, and see nothing else. Use {instead}" in refusal_of(
        *overrides
    )


@pytest.mark.parametrize(
    "overrides",
    [
        ["algo=rainbow"],
        ["algo=dqn", "explore=false", "exploration=greedy"],
        ["algo=dqn", "exploration=greedy", "input=tuned_examples/data/cartpole"],
        ["algo=dqn", "exploration=rnd", "+exploration@exploration.sub_exploration=greedy"],
        [
            "algo=dqn",
            "+evaluation.config.exploration.initial_epsilon=0.0",
            "+evaluation.config.exploration.final_epsilon=0.0",
        ],
    ],
)
def test_a_greedy_choice_is_allowed_where_something_else_explores_or_nothing_need(overrides):
    read_config(plain_config(compose([*overrides, "seed=1"])))


@pytest.mark.parametrize("algo", ["dqn", "rainbow"])
def test_values_of_actions_are_not_probabilities_to_draw_from(algo):
    message = refusal_of(f"algo={algo}", "exploration=stochastic_sampling")
    assert "exploration=stochastic_sampling draws from a policy's probabilities" in message
    assert "Use exploration=epsilon_greedy, or exploration=greedy" in message
    assert "stochastic_sampling" in refusal_of(
        f"algo={algo}",
        "+evaluation.config.exploration._target_=rlrun.core.exploration.StochasticSampling",
    )


@pytest.mark.parametrize(
    ("model", "key"),
    [
        *(("mlp", key) for key in ("vf_share_layers", "free_log_std", "log_std_init")),
        *((model, "vf_share_layers") for model in ("mlp_relu", "cnn", "custom")),
    ],
)
def test_dqn_refuses_what_a_model_would_only_do_for_an_actor_critic(model, key):
    choices = ["algo=dqn", f"model={model}", "model.module=torch.nn.Identity"]
    choices = choices if model == "custom" else choices[:2]
    default = plain_config(compose(choices))["model"][key]
    value = 1.5 if key == "log_std_init" else not default
    message = refusal_of(*choices, f"model.{key}={str(value).lower()}")
    assert f"model.{key}={value}" in message
    assert f"Leave it at {default}" in message
    read_config(plain_config(compose([*choices, f"model.{key}={str(default).lower()}", "seed=1"])))


def test_callables_without_annotations_take_any_value():
    def plain_function(a, b=2):
        return a, b

    function: Callable[..., Any] = plain_function
    assert build({"a": [1]}, "call", target=function) == ([1], 2)


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        ("ConstantSchedule", {"value": -1.0}),
        ("LinearSchedule", {"initial": 1.0, "final": -0.1, "timesteps": 10}),
        ("PiecewiseSchedule", {"points": [[0, 1.0], [5, -2.0]]}),
        (
            "ExponentialSchedule",
            {"initial": -1.0, "decay_rate": 0.5, "decay_timesteps": 5, "minimum": -3.0},
        ),
    ],
)
def test_every_value_of_a_schedule_must_be_in_range(schedule, values):
    node = {"_target_": f"rlrun.core.schedules.{schedule}", **values}
    assert "must be at least 0 at every timestep" in refusal(algo__entropy_coeff=node)


def test_an_evaluation_function_that_is_none_is_refused():
    words = refusal(evaluation__custom_eval_function="math.pi")
    assert "evaluation.custom_eval_function=math.pi must be a function" in words


def test_settings_without_effect_are_refused():
    assert "evaluation.config.algo.lr has no effect" in refusal(
        evaluation__config={"algo": {"lr": 1}}
    )
    assert "ray_address=auto is for remote workers" in refusal(resources__ray_address="auto")
    words = refusal(
        resources__ray_address="auto", resources__ray_num_cpus=2, resources__num_workers=1
    )
    assert "resources.ray_num_cpus=2 is for a local Ray" in words


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["logger=wandb", "logger.wandb.mode=ofline"], "logger.wandb.mode=ofline must be one of"),
        (["+logger.tensorboard.prefix=x"], "no key 'logger.tensorboard.prefix'"),
        (
            ["curriculum=by_reward", "curriculum.tasks=[1]", "curriculum.threshold=much"],
            "curriculum.threshold=much must be",
        ),
    ],
)
def test_loggers_and_curricula_are_checked_before_torch_is_there(overrides, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        refuse_early(plain_config(compose(["algo=ppo", "logger=default", *overrides])))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("evaluation.config={exploration: null}", "evaluation.config: exploration=None must be a"),
        ("evaluation.config={algo: 3}", "evaluation.config.algo=3 must be a mapping"),
        ("env.id='my env-v0'", "env.id='my env-v0': Malformed environment ID"),
        ("env.id=:", "env.id=':'"),
    ],
)
def test_what_is_of_no_form_at_all_is_one_line(override, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        refuse_early(plain_config(compose(["algo=ppo", override])))


def test_an_object_takes_the_place_of_whatever_a_key_had():
    schedule = {"_target_": "rlrun.core.schedules.LinearSchedule", "initial": 1.0, "final": 0.0}
    text = ", ".join(f"{key}: {value}" for key, value in schedule.items())
    of_list = compose(["algo=ppo", "env=cartpole", f"algo.lr={{{text}}}"])
    of_node = compose(["algo=dqn", f"exploration.epsilon_schedule={{{text}}}"])
    assert plain_config(of_list)["algo"]["lr"] == schedule
    assert plain_config(of_node)["exploration"]["epsilon_schedule"] == schedule
    with pytest.raises(ConfigError, match=r"no key 'algo\.lrr'"):
        compose(["algo=ppo", f"algo.lrr={{{text}}}"])


@pytest.mark.parametrize("value", ["[3]", "[{_target_: my.Class}]"])
def test_a_list_of_classes_on_the_command_line_is_refused_with_what_to_write(value):
    with pytest.raises(ConfigError, match=r"callbacks\.mine=\{_target_: my_module\.MyClass\}"):
        compose(["algo=ppo", f"+callbacks={value}"])


def test_an_env_for_evaluation_need_be_there_only_where_something_is_evaluated():
    choices = ["algo=ppo", "++evaluation.config.env.id=nowhere.Env"]
    refuse_early(plain_config(compose(choices)))
    wanted = plain_config(compose([*choices, "evaluation.interval=1"]))
    refuse_early(wanted, trains=False)
    with pytest.raises(ConfigError, match=r"evaluation\.config: env\.id='nowhere\.Env'"):
        refuse_early(wanted)


@pytest.mark.parametrize("override", ["model.module=own_code.Net", "task=own_code.train"])
def test_an_env_that_code_of_ones_own_may_register_is_not_refused_early(override):
    choices = ["algo=ppo", "env=gym", "env.id=own/Env-v0"]
    model = ["model=custom"] if override.startswith("model") else []
    refuse_early(plain_config(compose([*choices, *model, override])))
    with pytest.raises(ConfigError, match="known in that process only"):
        refuse_early(plain_config(compose(choices)))


@pytest.mark.parametrize(
    ("key", "value", "meant"),
    [
        ("evaluation.duration_unit", "episode", "episodes"),
        ("env.observation_filter", "meanstd", "MeanStdFilter"),
        ("model.fcnet_activation", "reul", "relu"),
        ("algo.rollout_fragment_length", "atuo", "auto"),
    ],
)
def test_a_misspelt_choice_gets_the_one_that_was_meant(key, value, meant):
    with pytest.raises(ConfigError) as refused:
        refuse_early(plain_config(compose(["algo=ppo", f"{key}={value}"])))
    assert str(refused.value).endswith(f"Did you mean {meant}?")


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("algo.learning_rate=1", "algo.lr"),
        ("algo.model=lstm", "model=<choice> (rlrun list model)"),
        ("resources.num_worker=2", "resources.num_workers"),
        ("num_workers=2", "resources.num_workers"),
        ("algo.num_rollout_workers=2", "resources.num_workers"),
        ("learning_rate=1", "algo.lr"),
        ("gamma=0.9", "algo.gamma"),
        ("model.activation=relu", "model.fcnet_activation"),
    ],
)
def test_a_key_that_is_not_there_gets_the_one_that_was_meant(override, meant):
    with pytest.raises(ConfigError) as refused:
        compose([override])
    hint = str(refused.value).partition("Did you mean ")[2].partition("?")[0]
    assert meant in hint.split(" or ")


def test_composing_leaves_the_hydra_of_others_as_it_was():
    with initialize_config_dir(str(conf_dir()), version_base=None):
        theirs = GlobalHydra.instance().hydra
        compose(["algo=ppo"])
        assert GlobalHydra.instance().hydra is theirs
    with hydra_at_hand() as ours:
        compose(["algo=ppo"])
        assert GlobalHydra.instance().hydra is ours
    assert not GlobalHydra.instance().is_initialized()
