"""Every YAML file below conf/ and tuned_examples/ composes, builds, and lists what there is."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import hydra
import pytest
from omegaconf import OmegaConf

from rlrun.compose import SWEEP_NODES, compose, nodes_of, plain_config
from rlrun.config import RunSettings, conf_dir, field_keys
from rlrun.core.errors import ConfigError
from rlrun.core.imports import import_object
from rlrun.core.resources import Resources
from rlrun.early import GROUPS
from rlrun.evaluation_config import EvaluationConfig
from rlrun.examples import OF_SWEEPS
from rlrun.overrides import OPEN_NODES
from rlrun.parts import Parts, read_config
from rlrun.sweep.settings import SweepSettings
from rlrun.workers.envs import EnvConfig

CONF = conf_dir()
TUNED_EXAMPLES = sorted((CONF / "tuned_examples").rglob("*.yaml"))

NEEDED = {
    "env/gym": ["env.id=CartPole-v1"],
    "model/custom": ["model.module=torch.nn.Identity"],
    "curriculum/by_reward": ["env=corridor", "curriculum.tasks=[2,4]", "curriculum.threshold=0.9"],
    "curriculum/by_timestep": ["env=corridor", "curriculum.schedule=[[0,2],[100,4]]"],
    "curriculum/linear": [
        *("env=corridor", "curriculum.initial=2", "curriculum.final=4", "curriculum.timesteps=100"),
    ],
    "curriculum/env_task_fn": ["env=corridor", "curriculum.env_task_fn=toy_envs.one_more"],
    "env/none": ["algo=bc", "input=tuned_examples/data/cartpole"],
    **{f"algo/{name}": ["input=tuned_examples/data/cartpole"] for name in ("bc", "cql", "marwil")},
}
"""What a choice cannot go without."""

EXPLORATION = f"({'|'.join(file.stem for file in (CONF / 'exploration').glob('*.yaml'))})"

CURRICULUM = "|".join(file.stem for file in (CONF / "curriculum").glob("*.yaml"))

DATACLASSES = {"env": EnvConfig, "resources": Resources, "evaluation": EvaluationConfig}
"""Groups whose class is always the same, so that their files do not name it."""


def choices(*groups: str) -> list[str]:
    """group/choice for every file of the groups."""
    return [
        path.relative_to(CONF).with_suffix("").as_posix()
        for group in groups
        for path in sorted((CONF / group).glob("*.yaml"))
    ]


@cache
def composed(choice: str, *overrides: str) -> dict[str, Any]:
    """The config with that choice (shared by all tests, which only read it)."""
    group, _, name = choice.partition("/")
    config = compose([f"{group}={name}", "seed=1", *NEEDED.get(choice, []), *overrides])
    return plain_config(config)


def targets_in(node: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every mapping with a `_target_` below `node`, with its dotted key."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield key, dict(node)
        for name, child in node.items():
            yield from targets_in(child, f"{key}.{name}")


def test_every_folder_of_conf_is_a_group_of_the_config():
    folders = {path.name for path in CONF.iterdir() if path.is_dir()}
    assert folders == GROUPS | {*OF_SWEEPS, "tuned", "tuned_examples"}


@pytest.mark.parametrize("choice", choices(*sorted(GROUPS)))
def test_every_choice_composes_builds_and_lists_every_key_of_its_class(choice):
    group = choice.partition("/")[0]
    plain = composed(choice)
    assert isinstance(read_config(plain), Parts)
    if group in DATACLASSES:
        assert set(plain[group]) == field_keys(DATACLASSES[group])
    for key, node in targets_in(plain[group], group):
        listed = node.keys() - {"_target_"}
        assert listed == field_keys(import_object(node["_target_"], key)), key


def test_the_top_level_lists_every_key_of_no_group():
    top_level = set(plain_config(compose([]))) - GROUPS
    assert top_level == field_keys(RunSettings)


@pytest.mark.parametrize("choice", choices("search"))
def test_every_search_lists_every_key_of_its_class_with_its_default(choice):
    node = nodes_of(compose([choice.replace("/", "=")]))["search"]
    search = import_object(node.pop("_target_"), "search._target_")
    assert node.keys() == field_keys(search)
    assert node == {key: getattr(search(), key) for key in node}


def test_the_node_sweep_has_the_keys_and_the_defaults_of_its_class():
    assert nodes_of(compose([]))["sweep"] == asdict(SweepSettings())


def test_what_is_for_sweeps_is_no_part_of_a_run():
    assert not plain_config(compose([])).keys() & {*SWEEP_NODES}
    assert plain_config(compose(["search=random", "sweep.seeds=2"])) == plain_config(compose([]))


@pytest.mark.parametrize(
    "choice", choices("algo", "env", "exploration", "model", "logger", *OF_SWEEPS)
)
def test_every_file_says_first_what_it_is_for(choice):
    lines = (CONF / f"{choice}.yaml").read_text().splitlines()
    comments = [line for line in lines if not line.startswith("# @package")]
    assert comments[0].startswith("# ")


@pytest.mark.parametrize("algo", choices("algo"))
def test_every_algorithm_cites_its_paper(algo):
    first = (CONF / f"{algo}.yaml").read_text().splitlines()[0]
    assert "et al., " in first


@pytest.mark.parametrize("file", TUNED_EXAMPLES, ids=lambda file: file.stem)
def test_every_tuned_example_composes_stops_by_itself_and_has_a_pass_mark(file: Path):
    choice = file.relative_to(CONF / "tuned_examples").with_suffix("").as_posix()
    settings = read_config(composed(f"tuned_examples/{choice}")).settings
    assert settings.pass_mark
    assert {"timesteps_total", "training_iteration"} & settings.stop.keys()


@pytest.mark.parametrize("file", TUNED_EXAMPLES, ids=lambda file: file.stem)
def test_a_tuned_example_is_named_by_the_algorithm_and_env_that_it_chooses(file: Path):
    choice = file.relative_to(CONF / "tuned_examples").with_suffix("")
    # <env>-<algo>, and the memory or exploration that it is for.
    assert re.fullmatch(
        rf"\w+-{choice.parent.name}(-lstm|-gtrxl|-{EXPLORATION}|-({CURRICULUM}))?", choice.name
    )
    plain = composed(f"tuned_examples/{choice.as_posix()}")
    of_algorithm = composed(f"algo/{choice.parent.name}")["algo"]
    assert plain["algo"]["_target_"] == of_algorithm["_target_"]


def test_every_algorithm_and_every_exploration_class_has_a_tuned_example():
    algorithms, explorations = set(), set()
    for file in TUNED_EXAMPLES:
        choice = file.relative_to(CONF / "tuned_examples").with_suffix("").as_posix()
        algorithms.add(file.parent.name)
        explorations.add(composed(f"tuned_examples/{choice}")["exploration"]["_target_"])
    assert algorithms == {choice.removeprefix("algo/") for choice in choices("algo")}
    assert explorations == {
        composed(choice)["exploration"]["_target_"] for choice in choices("exploration")
    }


def test_any_key_below_an_open_node_may_be_set_without_a_plus():
    new_keys = {f"{node}.some_new_key": number for number, node in enumerate(OPEN_NODES)}
    plain = nodes_of(compose([f"{key}={value}" for key, value in new_keys.items()]))
    for key, value in new_keys.items():
        node: Any = plain
        for name in key.split("."):
            node = node[name]
        assert node == value


@pytest.mark.parametrize("node", ["stop", "env.env_config", "model.module_config"])
def test_an_open_node_may_be_set_as_a_whole(node):
    choices = ["model=custom", "model.module=a.B"] if node.startswith("model") else []
    plain: Any = plain_config(compose([*choices, f"{node}={{some_new_key: 3}}"]))
    for name in node.split("."):
        plain = plain[name]
    assert plain == {"some_new_key": 3}


@pytest.mark.parametrize("override", ["algo={typo: 1}", "callbacks={mine: {x: 1}}"])
def test_a_group_that_is_given_as_a_mapping_is_answered_without_endless_attempts(
    override, monkeypatch
):
    compose_once, calls = hydra.compose, []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        assert len(calls) < 5, "composing goes round in circles"
        return compose_once(*args, **kwargs)

    monkeypatch.setattr(hydra, "compose", counted)
    with contextlib.suppress(ConfigError):
        compose([override])


def test_a_result_key_with_slashes_is_the_same_as_one_with_dots():
    plain = plain_config(compose(["stop.evaluation/episode_reward_mean=100", "stop.info.x=1"]))
    assert plain["stop"] == {"evaluation": {"episode_reward_mean": 100}, "info": {"x": 1}}


def test_an_algorithm_brings_its_natural_exploration():
    for algo, exploration in (
        ("apex", "per_worker_epsilon_greedy"),
        ("apex_ddpg", "per_worker_ornstein_uhlenbeck_noise"),
        ("dqn", "epsilon_greedy"),
        ("rainbow", "greedy"),
        ("sac", "stochastic_sampling"),
        ("ddpg", "ornstein_uhlenbeck_noise"),
        ("td3", "constant_gaussian_noise"),
    ):
        brought = composed(f"algo/{algo}", "tuned=none")["exploration"]
        assert brought == composed(f"exploration/{exploration}")["exploration"]


@pytest.mark.parametrize("algo", choices("algo"))
def test_what_explorations_nest_by_themselves_is_the_algorithms_natural_one(algo):
    plain = composed(algo, "tuned=none")
    natural = import_object(plain["algo"]["_target_"], "algo")(
        **{key: value for key, value in plain["algo"].items() if key != "_target_"}
    ).natural_exploration()
    node = dict(plain["exploration"])
    assert type(natural) is import_object(node.pop("_target_"), "exploration")
    assert node == {name: getattr(natural, name) for name in node}


PRESETS = {
    "algo/bc",
    "algo/qr_dqn",
    "algo/rainbow",
    "algo/simple_q",
    "exploration/constant_gaussian_noise",
    "exploration/greedy",
    "model/custom",
    "model/mlp_lstm",
    "model/mlp_relu",
    "model/no_layers",
}
"""Files that change what their class has by default, or need a value that it has not."""


@pytest.mark.parametrize("choice", choices("algo", "exploration", "model"))
def test_a_file_has_the_defaults_of_its_class_value_by_value(choice):
    group = choice.partition("/")[0]
    node = dict(composed(choice, "tuned=none")[group])
    if choice not in PRESETS:
        of_class = import_object(node.pop("_target_"), group)()
        assert node == {name: getattr(of_class, name) for name in field_keys(type(of_class))}


def test_rainbow_is_dqn_with_the_values_of_its_paper():
    rainbow, dqn = (composed(f"algo/{name}", "tuned=none")["algo"] for name in ("rainbow", "dqn"))
    assert {key: value for key, value in rainbow.items() if value != dqn[key]} == {
        "dueling": True,
        "n_step": 3,
        "num_atoms": 51,
        "noisy": True,
        "prioritized_replay": True,
        # From 0.4 to 1 over the run of 200 million frames, which are 50 million env steps.
        "prioritized_replay_beta": [[0, 0.4], [50_000_000, 1.0]],
    }
    assert (rainbow["v_min"], rainbow["v_max"]) == (-10.0, 10.0)
    # 80,000 and 32,000 frames (Hessel et al., 2018, table 1), 4 frames an env step.
    assert rainbow["learning_starts"] == 80_000 / 4
    assert rainbow["target_network_update_freq"] == 32_000 / 4


def test_simple_q_is_dqn_with_no_part_of_rainbow():
    simple = composed("algo/simple_q", "tuned=none")["algo"]
    assert not any(simple[key] for key in ("double_q", "dueling", "noisy", "prioritized_replay"))
    assert simple["n_step"] == simple["num_atoms"] == simple["num_quantiles"] == 1


def test_qr_dqn_is_dqn_with_the_values_of_its_paper():
    qr_dqn, dqn = (composed(f"algo/{name}", "tuned=none")["algo"] for name in ("qr_dqn", "dqn"))
    assert {key: value for key, value in qr_dqn.items() if value != dqn[key]} == {
        "num_quantiles": 200,
        "double_q": False,
        "lr": 5e-5,
        "adam_epsilon": 0.01 / 32,
    }


def test_behaviour_cloning_is_marwil_with_beta_0():
    bc, marwil = (composed(f"algo/{name}", "tuned=none")["algo"] for name in ("bc", "marwil"))
    assert bc == {**marwil, "beta": 0.0}


def test_td3_is_ddpg_with_three_switches_and_the_values_of_its_paper():
    td3, ddpg = (composed(f"algo/{name}", "tuned=none")["algo"] for name in ("td3", "ddpg"))
    # Fujimoto et al. (2018), section 6.1.
    assert {key: value for key, value in td3.items() if value != ddpg[key]} == {
        "_target_": "rlrun.algos.td3.TD3",
        "twin_q": True,
        "policy_delay": 2,
        "smooth_target_policy": True,
        "actor_lr": 1e-3,
        "l2_reg": 0.0,
        "tau": 0.005,
        "learning_starts": 10_000,
        "train_batch_size": 100,
    }


def test_the_command_line_wins_over_what_an_algorithm_and_an_env_bring():
    chosen = composed("algo/dqn", "exploration=greedy", "env=pong", "model=mlp")
    assert chosen["exploration"] == composed("exploration/greedy")["exploration"]
    assert chosen["model"] == composed("model/mlp")["model"]


def test_a_tuned_example_wins_over_group_files_and_loses_to_the_command_line():
    own = OmegaConf.load(CONF / "tuned_examples" / "ppo" / "pendulum-ppo.yaml")
    chosen = composed("tuned_examples/ppo/pendulum-ppo", "algo.gae_lambda=0.5")
    assert own.algo.gamma != composed("algo/ppo")["algo"]["gamma"]
    assert chosen["algo"]["gamma"] == own.algo.gamma
    assert chosen["algo"]["gae_lambda"] == 0.5 != own.algo.gae_lambda
    assert chosen["stop"] == own.stop
