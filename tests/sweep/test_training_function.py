"""A training function of the user's is a run like any other."""

from __future__ import annotations

import json
import random
from functools import partial
from pathlib import Path

import pytest
import torch

import rlrun
from rlrun.core.checkpoint import list_checkpoints
from rlrun.core.errors import ConfigError
from rlrun.run import Run
from tests.helpers_cli import config, lasting, results_of

LEFT: list[str] = []
"""How functions were ended."""


def counting(settings, report):
    """Counts up to task_config.end, and goes on from where a checkpoint says."""
    number = 0
    if report.checkpoint is not None:
        number = int((report.checkpoint / "number.txt").read_text())
    try:
        while number < settings["task_config"]["end"]:
            number += 1
            report({"number": number, "drawn": random.random()}, save=partial(write, number))
    finally:
        LEFT.append("left")


def driving(settings, report):
    """Drives a trainer of rlrun's own."""
    sizes = ["algo.num_envs_per_worker=2", "algo.train_batch_size=64", "algo.minibatch_size=32"]
    with rlrun.make_trainer("ppo", overrides=sizes, seed=settings["seed"]) as trainer:
        if report.checkpoint is not None:
            trainer.restore(max(report.checkpoint.glob("checkpoint_*")))
        while trainer.iteration < 3:
            report(trainer.train(), save=trainer.save)


def write(number, folder):
    (folder / "number.txt").write_text(str(number))


def failing(settings, report):
    report({"number": 1})
    raise ZeroDivisionError("no luck")


def multiplying(settings, report):
    report({"number": int(torch.get_float32_matmul_precision() == "medium")})


def run_of(folder: Path, task: str = "counting", **values) -> Run:
    keys = {"task": f"{__name__}.{task}", "task_config__end": 5, "objective": "number", **values}
    return Run(config(**keys), folder)


def numbers(folder: Path) -> list[int]:
    return [result["number"] for result in results_of(folder)]


def test_its_reports_are_the_results_of_a_run_which_finishes_when_it_returns(tmp_path):
    run = run_of(tmp_path / "run")
    run.execute()
    assert run.status == "finished"
    assert numbers(tmp_path / "run") == [1, 2, 3, 4, 5]
    assert [each["training_iteration"] for each in results_of(tmp_path / "run")] == [1, 2, 3, 4, 5]
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint_000005"]
    assert json.loads((tmp_path / "run" / "params.json").read_text())["task_config"] == {"end": 5}


def test_a_stop_rule_ends_it_where_it_reports(tmp_path):
    LEFT.clear()
    run = run_of(tmp_path / "run", stop={"number": 3})
    run.execute()
    assert (run.status, run.objective, LEFT) == ("finished", 3.0, ["left"])
    assert numbers(tmp_path / "run") == [1, 2, 3]


def test_it_goes_on_from_its_checkpoint_with_the_same_chance(tmp_path):
    run_of(tmp_path / "whole").execute()
    run_of(tmp_path / "run", stop={"number": 2}).execute()
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == ["checkpoint_000002"]
    Run.resume(tmp_path / "run", {"stop": {}}).execute()
    assert numbers(tmp_path / "run") == [1, 2, 3, 4, 5]
    drawn = [[each["drawn"] for each in results_of(tmp_path / name)] for name in ("whole", "run")]
    assert drawn[0] == drawn[1]


def test_checkpoints_on_the_way_come_as_for_any_run(tmp_path):
    run_of(tmp_path / "run", checkpoint_freq=2, keep_checkpoints_num=2).execute()
    names = [path.name for path in list_checkpoints(tmp_path / "run")]
    assert names == ["checkpoint_000004", "checkpoint_000005"]


def test_it_may_drive_a_trainer_and_resume_it(tmp_path):
    run_of(tmp_path / "whole", "driving", objective="episode_reward_mean").execute()
    goes_on = {"objective": "episode_reward_mean", "stop": {"training_iteration": 1}}
    run_of(tmp_path / "run", "driving", **goes_on).execute()
    Run.resume(tmp_path / "run", {"stop": {}}).execute()
    whole, resumed = (results_of(tmp_path / name) for name in ("whole", "run"))
    assert len(whole) == 3
    assert [lasting(each, "done") for each in resumed] == [lasting(each, "done") for each in whole]


def test_what_it_raises_ends_the_run(tmp_path):
    with pytest.raises(ZeroDivisionError, match="no luck"):
        run_of(tmp_path / "run", "failing").execute()
    assert numbers(tmp_path / "run") == [1]


def test_a_task_that_is_no_function_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="must name a function train"):
        run_of(tmp_path / "run", "LEFT")
    with pytest.raises(ConfigError, match="there is no module 'nowhere'"):
        Run(config(task="nowhere.train"), tmp_path / "run")


def test_it_multiplies_as_the_resources_say(tmp_path):
    run_of(tmp_path, task="multiplying", resources__matmul_precision="medium").execute()
    assert numbers(tmp_path) == [1]
