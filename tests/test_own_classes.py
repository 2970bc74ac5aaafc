"""Classes of the user's own, from the command line: in a group's place, refused, or elsewhere."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_cli import TINY, Outcome, command_line, results_of

Rlrun = Callable[..., Outcome]

SMALL = ("algo.train_batch_size=64", "algo.minibatch_size=64", *TINY)
ONE = ("stop.training_iteration=1", "hydra.run.dir=run", *SMALL)

MINE = """
from dataclasses import dataclass

import gymnasium
import torch

from rlrun import PPO, Callbacks, Exploration, Logger
from rlrun.core.networks import MLP


@dataclass(kw_only=True)
class Sticky(Exploration):
    p: float = 0.1

    def get_exploration_action(self, action_dist, timestep, explore=True):
        return action_dist.sample(self.rng)


@dataclass(kw_only=True)
class MyPPO(PPO):
    bonus: float = 1.0


@dataclass(kw_only=True)
class MyMLP(MLP):
    depth: int = 2


class Hook(Callbacks):
    def __init__(self, x=1):
        self.x = x

    def on_train_result(self, *, result, **kwargs):
        result["custom_metrics"]["x"] = self.x


class MyLogger(Logger):
    def __init__(self, path="log"):
        self.path = path


class Module(torch.nn.Module):
    def __init__(self, obs_space, width=4):
        super().__init__()
        if width < 1:
            raise ValueError("width must be positive")
        self.layer = torch.nn.Linear(obs_space.shape[0], width)
        self.output_size = width

    def forward(self, obs):
        return self.layer(obs)


class Wrapper(gymnasium.Wrapper):
    def __init__(self, env, factor):
        super().__init__(env)
"""


@pytest.fixture
def rlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rlrun]:
    (tmp_path / "mine.py").write_text(MINE)
    with command_line(tmp_path, monkeypatch) as run:
        yield run


def params_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "params.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "group", "node"),
    [
        (
            ["exploration._target_=mine.Sticky", "exploration.p=0.3"],
            "exploration",
            {"_target_": "mine.Sticky", "p": 0.3},
        ),
        (
            ["exploration={_target_: mine.Sticky, p: 0.3}"],
            "exploration",
            {"_target_": "mine.Sticky", "p": 0.3},
        ),
        (["exploration._target_=mine.Sticky"], "exploration", {"_target_": "mine.Sticky"}),
        (
            ["callbacks._target_=mine.Hook", "callbacks.x=4"],
            "callbacks",
            {"_target_": "mine.Hook", "x": 4},
        ),
        (["callbacks={_target_: mine.Hook, x: 4}"], "callbacks", {"_target_": "mine.Hook", "x": 4}),
        (
            ["callbacks={a: {_target_: mine.Hook, x: 4}}"],
            "callbacks",
            {"a": {"_target_": "mine.Hook", "x": 4}},
        ),
    ],
)
def test_a_class_of_ones_own_takes_the_groups_place(rlrun, tmp_path, arguments, group, node):
    outcome = rlrun(*arguments, *ONE)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert params_of(tmp_path / "run")[group] == node


@pytest.mark.parametrize(
    ("arguments", "group", "changes"),
    [
        (["algo._target_=mine.MyPPO", "algo.bonus=7"], "algo", {"bonus": 7}),
        (["algo={_target_: mine.MyPPO, bonus: 7}"], "algo", {"bonus": 7}),
        (
            ["model._target_=mine.MyMLP", "model.depth=3", "model.fcnet_hiddens=[8]"],
            "model",
            {"depth": 3, "fcnet_hiddens": [8]},
        ),
    ],
)
def test_a_subclass_keeps_the_values_of_the_groups_file(rlrun, tmp_path, arguments, group, changes):
    assert rlrun(*arguments, *ONE).status == 0
    mine = params_of(tmp_path / "run")[group]
    shutil.rmtree(tmp_path / "run")
    assert rlrun(*ONE).status == 0
    usual = params_of(tmp_path / "run")[group]
    assert mine == {**usual, **changes, "_target_": mine["_target_"]}
    assert mine["_target_"].startswith("mine.")


def test_a_logger_of_ones_own_takes_anothers_place(rlrun, tmp_path):
    own = ("logger.console._target_=mine.MyLogger", "logger.console.path=x")
    arguments = (each for each in ONE if each != "logger=none")
    assert rlrun(*own, *arguments).status == 0
    node = params_of(tmp_path / "run")["logger"]["console"]
    assert node == {"_target_": "mine.MyLogger", "path": "x"}


def test_jobs_of_a_sweep_may_have_classes_of_ones_own(rlrun, tmp_path):
    targets = "exploration._target_=mine.Sticky,rlrun.core.exploration.StochasticSampling"
    arguments = ("stop.training_iteration=1", "hydra.sweep.dir=sweep", *SMALL)
    outcome = rlrun("-m", targets, *arguments)
    assert outcome.status == 0, outcome.stderr
    nodes = [params_of(tmp_path / "sweep" / job)["exploration"] for job in "01"]
    assert [set(node) for node in nodes] == [{"_target_"}, {"_target_", "random_timesteps"}]


def test_an_example_may_name_a_class_of_ones_own(rlrun, tmp_path):
    text = "defaults: [override /algo: dqn]\nexploration: {_target_: mine.Sticky, p: 0.2}\n"
    (tmp_path / "mine.yaml").write_text(text)
    outcome = rlrun("-f", "mine.yaml", *TINY, "stop.training_iteration=1", "hydra.run.dir=run")
    assert (outcome.status, outcome.stderr) == (0, "")
    node = params_of(tmp_path / "run")["exploration"]
    assert node == {"_target_": "mine.Sticky", "p": 0.2}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["exploration._target_=mine.Sticky", "exploration.pp=1"], ["Did you mean exploration.p?"]),
        (["exploration={_target_: mine.Sticky, pp: 1}"], ["Did you mean exploration.p?"]),
        (
            ["exploration._target_=mine.Sticky", "exploration.random_timesteps=1"],
            ["no key 'exploration.random_timesteps'", "Allowed below 'exploration': p."],
        ),
        (["algo._target_=mine.MyPPO", "algo.bonsu=1"], ["Did you mean algo.bonus?"]),
        (["algo._target_=mine.Nothing"], ["algo._target_='mine.Nothing'", "has no 'Nothing'"]),
        (["algo={lrr: 1}"], ["no key 'algo.lrr'"]),
        (
            ["model=custom", "model.module=mine.Module", "model.module_config.widht=3"],
            ["model.module_config={'widht': 3}", "mine.Module", "unexpected keyword argument"],
        ),
        (
            ["model=custom", "model.module=mine.Module", "model.module_config.width=0"],
            ["model.module_config={'width': 0}", "width must be positive"],
        ),
        (["env.wrappers=[{_target_: mine.Wrapper}]"], ["env.wrappers[0]", "argument: 'factor'"]),
        (
            ["env.wrappers=[{_target_: mine.Wrapper, factor: 1, x: 2}]"],
            ["env.wrappers[0]", "unexpected keyword argument 'x'"],
        ),
    ],
)
def test_what_a_class_of_ones_own_does_not_take_is_refused_in_one_line(
    rlrun, tmp_path, arguments, words
):
    outcome = rlrun(*arguments, *ONE)
    assert outcome.status == 2
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    for word in words:
        assert word in outcome.stderr
    assert list(tmp_path.rglob("params.json")) == []


@pytest.mark.parametrize("command", ["resume", "rollout"])
def test_a_run_finds_its_classes_where_it_was_started(rlrun, tmp_path, monkeypatch, command):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    home.mkdir()
    elsewhere.mkdir()
    (tmp_path / "mine.py").rename(home / "mine.py")
    monkeypatch.chdir(home)
    assert rlrun("model=custom", "model.module=mine.Module", *ONE).status == 0
    monkeypatch.chdir(elsewhere)
    more = ["stop.training_iteration=2"] if command == "resume" else ["episodes=1"]
    outcome = rlrun(command, "../home/run", *more)
    assert outcome.status == 0, outcome.stderr
    if command == "resume":
        assert len(results_of(home / "run")) == 2


@pytest.mark.parametrize("command", ["resume", "rollout"])
def test_a_run_whose_folder_of_classes_is_gone_says_where_that_was(
    rlrun, tmp_path, monkeypatch, command
):
    (tmp_path / "home").mkdir()
    (tmp_path / "mine.py").rename(tmp_path / "home" / "mine.py")
    monkeypatch.chdir(tmp_path / "home")
    assert rlrun("model=custom", "model.module=mine.Module", *ONE).status == 0
    (tmp_path / "home" / "run").rename(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    shutil.rmtree(tmp_path / "home")
    outcome = rlrun(command, "run")
    assert outcome.status == 2
    assert "there is no module 'mine'" in outcome.stderr
    assert f"The run was started in {tmp_path / 'home'}" in outcome.stderr
