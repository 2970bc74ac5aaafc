"""What a sweep would be, told without doing anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_cli import command_line

from rlrun.sweep.dry_run import listing
from rlrun.sweep.packing import Room
from rlrun.sweep.request import plan_sweep


@pytest.fixture
def rlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with command_line(tmp_path, monkeypatch) as run:
        yield run


def lines_of(folder: Path, *arguments: str, room: Room) -> list[str]:
    return listing(plan_sweep([*arguments, f"hydra.sweep.dir={folder}"]), room).splitlines()


def test_trials_are_listed_with_what_differs_what_they_need_and_where_they_run(tmp_path):
    arguments = ("algo.lr=1e-3,1e-4", "seed=0,1", "resources.num_gpus=0.4")
    folder = tmp_path / "sweep"
    assert lines_of(folder, *arguments, room=Room(8, ["0"])) == [
        f"4 trials of 2 points, 2 seeds each, in {folder}. Nothing is started "
        f"(sweep.dry_run=true).",
        "trial  algo.lr  seed  needs           folder",
        "0      0.001    0     1 CPU, 0.4 GPU  0",
        "1      0.001    1     1 CPU, 0.4 GPU  1",
        "2      0.0001   0     1 CPU, 0.4 GPU  2",
        "3      0.0001   1     1 CPU, 0.4 GPU  3",
        # Two shares of 0.4 fit on a GPU.
        "With 8 CPUs, 1 GPU: 2 trials at a time.",
    ]
    assert not folder.exists()


def test_duplicates_impossible_trials_and_a_limit_are_told(tmp_path):
    arguments = ("resources.num_cpus_for_driver=1,1,9,2", "sweep.max_concurrent=2")
    listed = lines_of(tmp_path / "sweep", *arguments, room=Room(4))
    assert listed[1:] == [
        "trial  resources.num_cpus_for_driver  needs   same as  folder",
        "0      1                              1 CPU            0",
        "1      1                              1 CPU   trial 0  1",
        "2      9                              9 CPUs           2",
        "3      2                              2 CPUs           3",
        "Trial 2 can never run here: it needs 9 CPUs; 4 free.",
        "With 4 CPUs: 2 trials at a time, as sweep.max_concurrent=2 says.",
    ]


def test_of_a_search_that_learns_the_first_points_are_told(tmp_path):
    pytest.importorskip("optuna")
    arguments = ("search=optuna", "sweep.num_samples=30", "algo.lr=interval(1e-4,1e-3)")
    listed = lines_of(tmp_path, *arguments, "sweep.max_concurrent=3", room=Room(8))
    assert listed[0].startswith("30 trials, in ")
    assert [line.split()[0] for line in listed[1:5]] == ["trial", "0", "1", "2"]
    assert listed[5:] == [
        "... Further points depend on how these end.",
        "With 8 CPUs: 3 trials at a time, as sweep.max_concurrent=3 says.",
    ]


def test_points_that_will_fail_are_told_with_the_reason(tmp_path):
    arguments = ("search=random", "sweep.num_samples=4", "algo.gamma=0.5,2")
    listed = lines_of(tmp_path, *arguments, room=Room(8))
    failing = [line.split()[0] for line in listed if line.split()[1:2] == ["2"]]
    assert failing
    assert [line for line in listed if "will fail" in line] == [
        f"Trial {number} will fail: algo.gamma=2.0 must be between 0 and 1." for number in failing
    ]


def test_a_dry_run_from_the_command_line_leaves_nothing(rlrun, tmp_path):
    outcome = rlrun("-m", "algo.lr=1e-3,1e-4", "sweep.dry_run=true")
    assert outcome.status == 0
    assert "2 trials, in " in outcome.stdout
    assert list(tmp_path.iterdir()) == []
