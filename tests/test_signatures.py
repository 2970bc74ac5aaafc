"""What is read off the sources of classes says what the classes themselves say."""

from __future__ import annotations

import inspect
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from omegaconf import OmegaConf

from rlrun.config import conf_dir
from rlrun.core.errors import ConfigError
from rlrun.core.imports import import_object
from rlrun.signatures import signature_of

FILES = [
    path
    for group in ("algo", "exploration", "model", "logger")
    for path in sorted((conf_dir() / group).glob("*.yaml"))
]


def targets_in(node: Any) -> list[str]:
    if not isinstance(node, dict):
        return []
    own = [node["_target_"]] if "_target_" in node else []
    return own + [target for child in node.values() for target in targets_in(child)]


TARGETS = sorted(
    {
        target
        for path in FILES
        for target in targets_in(OmegaConf.to_container(OmegaConf.load(path)))
    }
    | {"rlrun.workers.envs.EnvConfig", "rlrun.evaluation_config.EvaluationConfig"}
    | {"rlrun.core.resources.Resources", "rlrun.config.RunSettings"}
)


@pytest.mark.parametrize("target", TARGETS)
def test_a_source_gives_the_keys_types_and_defaults_of_its_class(target):
    signature, cls = signature_of(target), import_object(target, "")
    assert sorted(signature.keys) == sorted(inspect.signature(cls).parameters)
    hints = get_type_hints(cls)
    for each in fields(cls):
        if not each.init:
            continue
        key = signature.keys[each.name]
        assert key.doc, f"{target}.{each.name} has no docstring"
        if getattr(hints[each.name], "__module__", "typing") in ("builtins", "typing"):
            assert key.annotation == hints[each.name], each.name
        if isinstance(each.default, bool | int | float | str | None):
            assert eval(key.default) == each.default, each.name


@pytest.mark.parametrize(
    ("target", "name", "bounds"),
    [
        ("rlrun.algos.ppo.PPO", "gamma", ["0 to 1"]),
        ("rlrun.algos.ppo.PPO", "lr", [">= 0"]),
        ("rlrun.algos.ppo.PPO", "vf_coeff", [">= 0"]),
        ("rlrun.algos.ppo.PPO", "rollout_fragment_length", [">= 1"]),
        ("rlrun.algos.dqn.DQN", "buffer_size", [">= 1"]),
        ("rlrun.algos.dqn.DQN", "prioritized_replay_beta", ["0 to 1"]),
        ("rlrun.algos.sac.SAC", "actor_lr", [">= 0"]),
        ("rlrun.algos.apex.Apex", "learner_queue_size", [">= 1"]),
        ("rlrun.core.exploration.EpsilonGreedy", "final_epsilon", ["0 to 1"]),
        ("rlrun.core.exploration.RE3", "k_nn", ["> 0"]),
        ("rlrun.workers.envs.EnvConfig", "horizon", []),
    ],
)
def test_ranges_are_those_that_the_constructor_checks(target, name, bounds):
    signature = signature_of(target)
    assert [str(each) for each in signature.keys[name].ranges] == bounds


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lr": float("nan")}, "algo.lr=nan must be at least 0 at every timestep."),
        ({"lr": [[0, 1.0], [10, -1.0]]}, "algo.lr="),
        ({"gamma": 2}, "algo.gamma=2.0 must be between 0 and 1."),
        ({"gama": 1}, "There is no key 'algo.gama'. Did you mean algo.gamma"),
        ({"gamma": "high"}, "algo.gamma=high must be a number"),
        ({"batch_mode": "episodes"}, "must be one of truncate_episodes, complete_episodes"),
        ({"kl_coeff": -1.0}, "algo.kl_coeff=-1.0 must be at least 0."),
    ],
)
def test_it_refuses_what_the_class_refuses_in_its_words(values, message):
    signature = signature_of("rlrun.algos.ppo.PPO")
    with pytest.raises(ConfigError) as refused:
        signature.check(values, "algo")
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("target", "group", "values"),
    [
        ("rlrun.algos.ppo.PPO", "algo", {"minibatch_size": 64, "train_batch_size": 32}),
        ("rlrun.algos.ppo.PPO", "algo", {"kl_target": 1.0}),
        ("rlrun.algos.a2c.A2C", "algo", {"microbatch_size": 64, "train_batch_size": 32}),
        ("rlrun.algos.appo.APPO", "algo", {"vtrace": False, "vtrace_clip_c_threshold": 2.0}),
        ("rlrun.algos.impala.Impala", "algo", {"opt_type": "rmsprop", "adam_epsilon": 0.1}),
        ("rlrun.algos.impala.Impala", "algo", {"replay_proportion": 0.5}),
        ("rlrun.algos.ars.ARS", "algo", {"num_rollouts": 2, "rollouts_used": 3}),
        ("rlrun.algos.dqn.DQN", "algo", {"hiddens": [0]}),
        ("rlrun.algos.dqn.DQN", "algo", {"num_atoms": 2, "v_min": 3.0, "v_max": 1.0}),
        ("rlrun.algos.apex.Apex", "algo", {"prioritized_replay": False}),
        ("rlrun.algos.sac.SAC", "algo", {"entropy_lr": 0, "target_entropy": 1.0}),
        ("rlrun.algos.ddpg.DDPG", "algo", {"target_noise": 0.3}),
        ("rlrun.algos.marwil.MARWIL", "algo", {"beta": 1.0, "batch_mode": "truncate_episodes"}),
        ("rlrun.core.networks.MLP", "model", {"fcnet_hiddens": [64, 0]}),
        ("rlrun.core.networks.MLP", "model", {"lstm_use_prev_action": True}),
    ],
)
def test_keys_that_do_not_go_together_are_refused_in_the_words_of_the_class(target, group, values):
    with pytest.raises(ConfigError) as of_class:
        import_object(target, "")(**values)
    with pytest.raises(ConfigError) as of_signature:
        signature_of(target).check(values, group)
    assert str(of_signature.value) == str(of_class.value)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_the_files_hold_is_not_refused(path):
    node = OmegaConf.to_container(OmegaConf.load(path))
    given = {key: value for key, value in node.items() if key not in ("_target_", "defaults")}
    given = {key: "some.Class" if value == "???" else value for key, value in given.items()}
    if signature := signature_of(node.get("_target_", "")):
        signature.check(given, path.parent.name)


def test_a_key_that_must_be_given_is_named():
    signature = signature_of("rlrun.curriculum.staged.ByReward")
    with pytest.raises(ConfigError, match=r"curriculum\.tasks must be given"):
        signature.check({"threshold": 1}, "curriculum")


@pytest.mark.parametrize(
    ("target", "key"),
    [
        ("rlrun.algos.marwil.MARWIL", "moving_average_sqd_adv_norm_update_rate"),
        ("rlrun.algos.ppo.PPO", "gamma"),
        ("rlrun.curriculum.staged.ByTimestep", "schedule"),
    ],
)
def test_an_object_is_refused_where_a_key_takes_none(target, key):
    node = {"_target_": "rlrun.core.schedules.LinearSchedule", "initial": 1, "final": 0}
    with pytest.raises(ConfigError, match=f"group.{key}=.* must be "):
        signature_of(target).check({key: node}, "group")


def test_class_variables_are_read():
    assert signature_of("rlrun.algos.marwil.MARWIL").constants["needs_data"] is True
    assert signature_of("rlrun.algos.ppo.PPO").constants["needs_data"] is False


def test_what_stands_for_an_object_is_left_to_its_class():
    schedule = {"_target_": "rlrun.core.schedules.ExponentialSchedule", "initial": 1.0}
    signature_of("rlrun.algos.ppo.PPO").check(
        {"lr": schedule, "rollout_fragment_length": "auto"}, "algo"
    )


def test_classes_of_others_have_none():
    assert signature_of("collections.OrderedDict") is None
    assert signature_of("rlrun.algos.nothing.Nothing") is None
    assert signature_of("") is None


def test_reading_imports_no_torch(python_process_here):
    code = "import sys; from rlrun.signatures import signature_of as s; s('rlrun.algos.sac.SAC'); "
    outcome = python_process_here("-c", code + "print('torch' in sys.modules)")
    assert outcome.stdout.strip() == "False"


@pytest.fixture
def python_process_here(tmp_path: Path):
    from helpers_cli import python_process

    return lambda *arguments: python_process(tmp_path, *arguments)
