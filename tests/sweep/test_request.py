"""What is typed for a sweep, and what of it is for whom."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from rlrun.core.errors import ConfigError
from rlrun.sweep.plan import SweepPlan
from rlrun.sweep.request import plan_sweep
from rlrun.sweep.search.grid import Grid, Zip
from rlrun.sweep.search.random_search import RandomSearch
from rlrun.sweep.search.space import Choice, Interval


def plan(*arguments: str) -> SweepPlan:
    return plan_sweep(list(arguments))


def points_of(made: SweepPlan) -> list[dict]:
    return list(iter(made.search.ask, None))


def test_what_has_several_values_is_searched_and_the_rest_is_for_all_trials():
    made = plan("algo.lr=1e-3,1e-4", "env=acrobot", "stop.timesteps_total=100", "algo.gamma=0.9")
    assert isinstance(made.search, Grid)
    assert points_of(made) == [{"algo.lr": 0.001}, {"algo.lr": 0.0001}]
    assert made.overrides == ["env=acrobot", "++stop.timesteps_total=100", "algo.gamma=0.9"]
    assert made.seeds == [None]
    assert made.num_trials == 2


def test_keys_of_the_sweep_itself_reach_no_trial():
    made = plan(
        *("search=random", "sweep.num_samples=2", "sweep.max_concurrent=3", "scheduler=fifo"),
        *("scheduler.time_attr=timesteps_total", "hydra.sweep.dir=there", "hydra.job.name=mine"),
        *("algo.lr=interval(1,2)", "-m"),
    )
    assert isinstance(made.search, RandomSearch)
    assert made.overrides == ["hydra.job.name=mine"]
    assert made.folder == Path("there").absolute()
    assert made.settings.max_concurrent == 3
    assert made.scheduler.time_attr == "timesteps_total"


def test_a_folder_that_is_given_takes_the_place_of_the_one_that_is_typed(tmp_path):
    assert plan_sweep(["hydra.sweep.dir=there"], tmp_path / "here").folder == tmp_path / "here"


def test_the_folder_may_refer_to_choices():
    made = plan("hydra.sweep.dir=of_${hydra:runtime.choices.algo}", "algo=dqn")
    assert made.folder == Path("of_dqn").absolute()


def test_two_plans_of_the_same_second_have_different_folders():
    assert plan().folder.parent == plan().folder.parent == Path("results").absolute()


@pytest.mark.parametrize(
    ("arguments", "seeds", "seed"),
    [
        ([], [None], 0),
        (["seed=5"], [None], 5),
        (["seed=3,1,2"], [3, 1, 2], 3),
        (["seed=range(2,5)"], [2, 3, 4], 2),
        (["sweep.seeds=3"], [0, 1, 2], 0),
        (["sweep.seeds=2", "seed=7"], [7, 8], 7),
        (["search.space.seed=1,2"], [1, 2], 1),
    ],
)
def test_seeds_are_of_each_point_and_not_searched(arguments, seeds, seed):
    made = plan("algo.lr=1,2", *arguments)
    assert made.seeds == seeds
    assert made.seed == made.scheduler.seed == seed
    assert points_of(made) == [{"algo.lr": 1}, {"algo.lr": 2}]
    assert made.num_trials == 2 * len(seeds)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sweep.seeds=2", "seed=0,1"], "sweep.seeds=2 counts on from one seed"),
        (["seed=interval(0,9)"], "seed: list the seeds"),
        (["sweep.seeds=2", "seed=abc"], "seed=abc must be a whole number or null"),
        (["sweep.seeds=0"], "sweep.seeds=0 must be at least 1"),
        (["sweep.num_sample=2"], "no key 'sweep.num_sample'. Did you mean sweep.num_samples"),
        (["sweep.seeds=1,2"], "a sweep cannot have several values of sweep.seeds"),
        (["search=grid,random"], "a sweep cannot have several values of search"),
        (["search=rondom"], "search=rondom: there is no such choice. Did you mean random?"),
        (["search=optuna", "search.sampler=tpi"], "search.sampler=tpi must be one of tpe, gp"),
        (["search.spaces=1"], "There is no key 'search.spaces'. Did you mean search.space"),
        (["algo.lr=interval(1e-5,1e-2)"], "algo.lr: search=grid needs values that are listed"),
        (["algo=glob(z*)"], r"algo=glob\(z\*\) matches nothing. Choices of algo: a2c"),
        (["hydra.sweep.dir="], "hydra.sweep.dir= must name a folder"),
        (["hydra.job.chdir=true,false"], "hydra.job.chdir=true,false"),
        (["search._target_=rlrun.trainer.Trainer"], "must be a subclass of .*Search"),
    ],
)
def test_what_makes_no_sweep_is_refused(arguments, message):
    with pytest.raises(ConfigError, match=message):
        plan(*arguments)


def test_the_metric_is_the_objective_unless_the_sweep_names_another():
    assert plan("objective=episode_len_mean").metric == "episode_len_mean"
    made = plan("sweep.metric=timesteps_total", "sweep.mode=min")
    assert (made.metric, made.scheduler.metric, made.scheduler.mode) == (
        *("timesteps_total", "timesteps_total", "min"),
    )


def test_a_space_in_yaml_is_chosen_like_any_other_group(tmp_path):
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "mine.yaml").write_text(
        "defaults: [random]\nspace:\n  algo.lr: tag(log, interval(1e-5, 1e-2))\n"
        "  algo: {gamma: [0.9, 0.99]}\n  env: cartpole, acrobot\n"
    )
    (tmp_path / "search" / "whole.yaml").write_text(
        "# @package _global_\ndefaults: [random@search]\nsweep: {num_samples: 3}\n"
        "search: {space: {algo.lr: 'interval(1, 2)'}}\n"
    )
    folder = ("--config-dir", str(tmp_path))
    made = plan(*folder, "search=mine", "sweep.num_samples=5", "env=pendulum", "algo.gamma=0.5,0.6")
    assert made.space == {
        "algo.lr": Interval(1e-5, 1e-2, is_log=True),
        "algo.gamma": Choice((0.5, 0.6)),
    }
    assert made.overrides == ["env=pendulum"]
    assert made.sources == list(folder)
    assert plan(*folder, "search=whole").num_trials == 3


def test_hydras_own_place_for_a_space_is_known_too(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "defaults: [config, _self_]\nhydra: {sweeper: {params: {algo.lr: '1,2'}}}\n"
    )
    made = plan("--config-dir", str(tmp_path), "--config-name", "mine", "algo.gamma=0.9,0.99")
    assert made.space == {"algo.lr": Choice((1, 2)), "algo.gamma": Choice((0.9, 0.99))}


def test_a_glob_sees_groups_of_ones_own(tmp_path):
    (tmp_path / "algo").mkdir()
    (tmp_path / "algo" / "ppo_mine.yaml").write_text("defaults: [ppo]\n")
    made = plan("--config-dir", str(tmp_path), "algo=glob(ppo*)")
    assert points_of(made) == [{"algo": "ppo"}, {"algo": "ppo_mine"}]


def test_a_replayed_file_is_named_for_each_trial_and_is_none_of_its_overrides(
    monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("algo: {gamma: 0.5}\n")
    made = plan("-f", "mine.yaml", "algo.lr=1,2", "search=zip")
    assert isinstance(made.search, Zip)
    assert made.sources == ["-f", str(tmp_path / "mine.yaml")]
    assert made.overrides == []
    assert made.configs.plain({"algo.lr": 1})["algo"]["gamma"] == 0.5


def test_the_documented_sweeps_have_as_many_trials_as_they_say():
    text = (Path(__file__).resolve().parents[2] / "docs" / "sweeps.md").read_text()
    found = re.findall(r"^    rlrun -m (.*)$", text, re.MULTILINE)
    # A replay needs the log of a sweep that was.
    commands = [command for command in found if "pbt_replay" not in command]
    assert len(commands) == 8
    for command in commands:
        if "search=optuna" in command:
            pytest.importorskip("optuna")
        num_trials = plan(*shlex.split(command, comments=True)).num_trials
        said = re.search(r"(\d+) trials", command)
        assert said is None or num_trials == int(said[1]), command
