"""Real sweeps, in which trials are stopped, and go on with other values."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers_cli import command_line

from rlrun.core import checkpoint
from rlrun.sweep.schedulers.pbt_log import best_trial, read_log, schedule_of

TINY = ("algo=pg", "env=cartpole", "logger=none", "algo.timesteps_per_iteration=0")


@pytest.fixture
def rlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with command_line(tmp_path, monkeypatch) as run:
        yield run


def journal(folder: Path, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def test_asha_lets_the_best_go_on_from_rungs(rlrun: Any, tmp_path: Path) -> None:
    outcome = rlrun(
        *("-m", *TINY, "algo.lr=1e-3,1e-4,1e-5", "hydra.sweep.dir=out", "sweep.max_concurrent=1"),
        *("scheduler=asha", "scheduler.reduction_factor=2", "scheduler.max_t=4", "seed=1"),
        *("scheduler.mode=max", "scheduler.metric=timesteps_total"),
    )
    assert outcome.status == 0, outcome.stderr
    ends = [(end["number"], end["status"]) for end in journal(tmp_path / "out", "end")]
    # All are equal, so that the first one goes on, from its checkpoint.
    assert ends[:2] == [(0, "paused"), (1, "paused")]
    assert dict(ends) == {0: "pruned", 1: "pruned", 2: "pruned"}
    results = journal(tmp_path / "out", "result")
    assert [each["iteration"] for each in results if each["number"] == 0] == [1, 2, 3, 4]
    assert max(each["iteration"] for each in results if each["number"] > 0) == 1


def test_pbt_copies_checkpoints_and_its_log_replays(rlrun: Any, tmp_path: Path) -> None:
    outcome = rlrun(
        *("-m", *TINY, "algo.lr=1e-3,1e-4", "hydra.sweep.dir=out", "seed=1"),
        "scheduler=pbt",
        # What is judged is the lr itself; trials take turns.
        *("scheduler.metric=info/learner/default_policy/learner_stats/cur_lr",),
        *("scheduler.perturbation_interval=2", "stop.training_iteration=4"),
        *("scheduler.hyperparam_mutations.algo.lr=[1e-4,1e-3,1e-2]",),
        *("scheduler.quantile_fraction=0.5", "sweep.max_concurrent=1"),
    )
    assert outcome.status == 0, outcome.stderr
    exploits = [
        (each["number"], each["decision"])
        for each in journal(tmp_path / "out", "decision")
        if each["decision"]["kind"] == "exploit"
    ]
    assert exploits
    number, decision = exploits[-1]
    # The run knows the values with which it went on.
    params = json.loads((tmp_path / f"out/{number}/params.json").read_text())
    assert params["algo"]["lr"] == decision["overrides"]["algo.lr"]
    entries = read_log(tmp_path / "out", "scheduler.log")
    assert sum(entry.event == "exploit" for entry in entries) == len(exploits)
    assert checkpoint.list_checkpoints(tmp_path / f"out/{number}")

    steps = schedule_of(entries, number)
    assert best_trial(entries) in (0, 1)
    outcome = rlrun(
        *("-m", *TINY, "hydra.sweep.dir=again", "stop.training_iteration=4", "seed=1"),
        *("scheduler=pbt_replay", "scheduler.log=out", f"scheduler.trial={number}"),
    )
    assert outcome.status == 0, outcome.stderr
    changes = journal(tmp_path / "again", "decision")
    expected = {step.time: step.values for step in steps[1:]}  # the last of each time
    assert {
        each["decision"]["iteration"]: each["decision"]["overrides"] for each in changes
    } == expected
    (trial,) = journal(tmp_path / "again", "trial")
    assert trial["params"] == steps[0].values


def test_what_cannot_change_in_a_run_is_refused_before_anything_starts(
    rlrun: Any, tmp_path: Path
) -> None:
    outcome = rlrun(
        *("-m", *TINY, "algo.lr=1e-3,1e-4", "hydra.sweep.dir=out", "scheduler=pbt"),
        "scheduler.hyperparam_mutations.model.fcnet_hiddens=[[32],[64]]",
    )
    assert outcome.status == 2
    assert "model.fcnet_hiddens cannot change where a run goes on" in outcome.stderr
    assert not (tmp_path / "out").exists()
