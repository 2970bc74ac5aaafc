from __future__ import annotations

import csv
import math

from sweep_folders import FakeDriver, make_result, write_run, write_sweep

from rlrun.records import read_experiment
from rlrun.sweep.leaderboard import Leaderboard, markdown, results_csv, standings, text
from rlrun.sweep.trial import Status

REWARDS = {
    (0.1, 0): [10.0, 30.0],
    (0.1, 1): [10.0, 50.0],
    (0.01, 0): [90.0, 60.0],
    (0.01, 1): [20.0, 80.0],
    (0.001, 0): [],
}


def test_points_are_ranked_by_the_center_of_their_seeds_last_values(tmp_path):
    runs = read_experiment(write_sweep(tmp_path / "s", REWARDS)).runs
    first, second, third = standings(runs, "episode_reward_mean", "max")
    assert (first.params, first.center, first.best) == ({"algo.lr": 0.01}, 70.0, 90.0)
    assert (second.params, second.center, second.best) == ({"algo.lr": 0.1}, 40.0, 50.0)
    assert third.estimate is None  # It has no result, so it comes last,
    assert math.isnan(third.center)
    worst_first = standings(runs, "episode_reward_mean", "min")
    assert [each.point for each in worst_first] == [0, 1, 2]  # whichever way is better.
    assert worst_first[0].best == 10.0
    assert first.steps == 400


def test_csv_has_a_row_per_trial_with_a_column_per_parameter(tmp_path):
    runs = read_experiment(write_sweep(tmp_path / "s", REWARDS)).runs
    rows = list(
        csv.DictReader(results_csv(runs, "episode_reward_mean", "max", tmp_path).splitlines())
    )
    assert len(rows) == 5
    assert rows[2] == {
        **{"number": "2", "point": "1", "algo.lr": "0.01", "seed": "0", "status": "finished"},
        **{"episode_reward_mean": "60.0", "episode_reward_mean_best": "90.0"},
        **{"training_iteration": "2", "timesteps_total": "200", "time_total_s": "1.0"},
        **{"folder": "s/2", "error": ""},
    }
    assert (rows[4]["status"], rows[4]["episode_reward_mean"], rows[4]["seed"]) == (
        "waiting",
        "",
        "0",
    )


def test_the_leaderboard_is_readable_as_text_and_as_markdown(tmp_path):
    runs = read_experiment(write_sweep(tmp_path / "s", REWARDS)).runs
    runs[1].status, runs[1].error = "failed", "ValueError: a | b"
    ranked = standings(runs, "episode_reward_mean", "max")
    assert text(ranked, "episode_reward_mean").splitlines() == [
        "rank  lr     episode_reward_mean  best  seeds  steps  status",
        "1     0.01   70 (60 to 80)        90    2      400    finished",
        "2     0.1    40 (30 to 50)        50    2      400    1 finished, 1 failed",
        "3     0.001  -                    -     1      0      waiting",
    ]
    page = markdown("a sweep", ranked, "episode_reward_mean", "max")
    assert "| 1 | 0.01 | 70 (60 to 80) | 90 | 2 | 400 | finished |" in page
    assert "- 1 lr=0.1 seed=1: ValueError: a | b" in page


def test_a_sweep_that_ends_leaves_its_table_and_its_leaderboard(tmp_path, capsys):
    driver = FakeDriver(tmp_path, 4)
    for trial, reward in zip(driver.trials, (1.0, 2.0, 3.0, 4.0), strict=True):
        write_run(trial.folder, [reward], seed=trial.number % 2)
        trial.status, trial.result = Status.FINISHED, make_result(1, reward)
    Leaderboard().on_end(driver)
    assert (tmp_path / "sweep_results.csv").read_text().count("\n") == 5
    assert "| 1 | " in (tmp_path / "leaderboard.md").read_text()
    shown = capsys.readouterr().out
    assert "3.5 (3 to 4)" in shown
    assert "sweep_results.csv" in shown
