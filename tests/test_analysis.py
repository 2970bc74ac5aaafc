from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from sweep_folders import make_result, write_checkpoint, write_run, write_sweep

import rlrun
from rlrun.analysis import ExperimentAnalysis
from rlrun.core.errors import ConfigError, MissingExtraError

REWARDS = {
    (0.1, 0): [10.0, 90.0, 30.0],
    (0.1, 1): [10.0, 20.0, 50.0],
    (0.01, 0): [40.0, 45.0, 40.0],
    (0.01, 1): [],
}


@pytest.fixture
def sweep(tmp_path):
    return write_sweep(tmp_path / "sweep", REWARDS)


@pytest.fixture
def analysis(sweep):
    return ExperimentAnalysis(sweep)


def test_it_is_a_public_name_that_imports_no_torch(sweep):
    assert rlrun.ExperimentAnalysis is ExperimentAnalysis
    code = (
        f"import sys, rlrun; a = rlrun.ExperimentAnalysis({str(sweep)!r}); a.best_config; "
        "a.leaderboard(); print({'torch', 'hydra', 'pandas', 'omegaconf'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("scope", "mode", "number"),
    [
        ("last", "max", 1),
        ("last", "min", 0),
        ("all", "max", 0),
        ("avg", "max", 0),  # 43.3; of trial 2: 41.7
        ("avg", "min", 1),
        ("last-5-avg", "max", 0),
        ("last-10-avg", "min", 1),
    ],
)
def test_the_best_trial_depends_on_scope_and_mode(analysis, scope, mode, number):
    best = analysis.get_best_trial("episode_reward_mean", mode, scope)
    assert best.number == number


def test_the_best_trial_by_its_settings_folder_and_result(analysis, sweep):
    assert analysis.get_best_config("episode_reward_mean", "max")["algo"]["lr"] == 0.1
    assert analysis.best_config["seed"] == 1
    assert analysis.best_logdir == analysis.get_best_logdir() == sweep / "1"
    assert analysis.best_result["episode_reward_mean"] == 50.0
    assert analysis.best_trial.name == "1 lr=0.1 seed=1"


def test_trials_without_a_finite_value_are_left_out_unless_they_are_asked_for(sweep, caplog):
    for number, value in ((0, math.nan), (1, math.inf)):
        line = json.dumps(make_result(4, value))
        with (sweep / str(number) / "result.json").open("a") as file:
            file.write(line + "\n")
    analysis = ExperimentAnalysis(sweep)
    assert analysis.get_best_trial("episode_reward_mean", "max").number == 2
    found = analysis.get_best_trial("episode_reward_mean", "max", filter_nan_and_inf=False)
    assert found.number == 1
    assert analysis.get_best_trial("no/such_key", "max") is None
    assert "has a value of 'no/such_key'" in caplog.text


def test_wrong_words_are_refused_with_what_is_allowed(analysis, tmp_path):
    with pytest.raises(ConfigError, match="scope='best' is not known"):
        analysis.get_best_trial(scope="best")
    with pytest.raises(ConfigError, match="mode='most' is not known"):
        analysis.get_best_trial(mode="most")
    with pytest.raises(ConfigError, match="there is no such folder"):
        ExperimentAnalysis(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no run"):
        ExperimentAnalysis(tmp_path / "empty")


def test_checkpoints_are_found_with_the_metric_of_their_iteration(analysis, sweep):
    trial = analysis.trials[0]
    paths = [write_checkpoint(sweep / "0", iteration) for iteration in (1, 2, 3, 4)]
    found = analysis.get_trial_checkpoints_paths(trial, "episode_reward_mean")
    assert found == [(paths[0], 10.0), (paths[1], 90.0), (paths[2], 30.0), (paths[3], None)]
    assert analysis.get_best_checkpoint(trial, "episode_reward_mean", "max") == paths[1]
    assert analysis.get_best_checkpoint(trial, "episode_reward_mean", "min") == paths[0]
    assert analysis.get_last_checkpoint(trial) == paths[3]
    assert analysis.get_last_checkpoint(metric="episode_reward_mean", mode="min") == paths[3]
    assert analysis.get_last_checkpoint(metric="episode_reward_mean", mode="max") is None
    assert analysis.best_checkpoint is None  # that of trial 1, which has none


def test_all_settings_nested_or_flat(analysis, sweep):
    assert analysis.get_all_configs()[sweep / "2"]["algo"]["lr"] == 0.01
    assert analysis.get_all_configs(prefix=True)[sweep / "2"]["config/algo/lr"] == 0.01
    assert analysis.get_all_configs()[sweep / "3"] == {}  # It has not begun.


def test_tables_have_a_row_per_result_or_per_trial(analysis, sweep):
    pytest.importorskip("pandas")
    frames = analysis.trial_dataframes
    assert list(frames[sweep / "0"]["episode_reward_mean"]) == [10.0, 90.0, 30.0]
    last = analysis.dataframe()
    assert list(last["episode_reward_mean"]) == [30.0, 50.0, 40.0]
    assert list(last["config/algo/lr"]) == [0.1, 0.1, 0.01]
    best = analysis.dataframe("episode_reward_mean", "max")
    assert list(best["episode_reward_mean"]) == [90.0, 50.0, 45.0]
    assert list(best["logdir"]) == [str(sweep / str(number)) for number in range(3)]
    assert len(analysis.best_dataframe) == 3
    assert len(analysis.best_result_df) == 1
    assert len(analysis.results_df) == len(analysis.results) - 1
    with pytest.raises(ConfigError, match="metric and mode together"):
        analysis.dataframe("episode_reward_mean")


def test_without_pandas_the_extra_is_named(analysis, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'rlrun\[analysis\]'"):
        analysis.dataframe()


def test_points_have_an_estimate_over_their_seeds(analysis):
    first, second = analysis.leaderboard("episode_reward_mean", "max")
    # 30 and 50: the mean, and of their resamples 1/4 is (30, 30) and 1/4 (50, 50).
    assert (first.center, first.estimate.low, first.estimate.high) == (40.0, 30.0, 50.0)
    assert first.params == {"algo.lr": 0.1}
    assert (second.center, second.estimate.num_runs) == (40.0, 1)


def test_what_the_sweep_was_judged_by_is_the_default(sweep):
    asked = {"metric": "timesteps_total", "mode": "min"}
    (sweep / "sweep.json").write_text(json.dumps(asked))
    analysis = ExperimentAnalysis(sweep)
    assert (analysis.metric, analysis.mode) == ("timesteps_total", "min")
    assert ExperimentAnalysis(sweep, mode="max").mode == "max"


def test_a_sweep_that_was_killed_is_read_as_far_as_it_got(sweep):
    with (sweep / "journal.jsonl").open("a") as file:
        file.write('{"event": "start", "number": 3}\n{"event": "resu')
    (sweep / "3").mkdir()
    (sweep / "3" / "result.json").write_text(json.dumps(make_result(1, 7.0)) + '\n{"traini')
    trial = ExperimentAnalysis(sweep).trials[3]
    assert (trial.status, trial.config, len(trial.results)) == ("unfinished", {}, 1)


def test_runs_of_their_own_are_compared_by_what_differs_and_grouped_by_seed(tmp_path):
    for name, lr, seed in (("a", 0.1, 0), ("b", 0.1, 1), ("c", 0.2, 0), ("d", 0.2, 0)):
        write_run(tmp_path / name, [1.0], seed=seed, algo={"lr": lr})
    trials = ExperimentAnalysis(tmp_path).trials
    assert [trial.params for trial in trials] == [
        {"algo.lr": 0.1, "seed": 0},
        {"algo.lr": 0.1, "seed": 1},
        {"algo.lr": 0.2, "seed": 0},
        {"algo.lr": 0.2, "seed": 0},
    ]
    # The last two are alike in all that is known, so something else differs.
    assert [trial.point for trial in trials] == [0, 0, 2, 3]


def test_a_single_run_is_the_best_whatever_it_has(tmp_path):
    write_run(tmp_path / "run", [1.0])
    assert ExperimentAnalysis(tmp_path / "run").get_best_trial("no_such_key", "max").number == 0


def test_the_documented_analysis_works(sweep, capsys):
    write_checkpoint(sweep / "1", 3)
    text = (Path(__file__).parent.parent / "docs" / "sweeps.md").read_text()
    block = re.search(r"^    import rlrun\n(?:    .*\n|\n)*", text, re.MULTILINE)[0]
    code = textwrap.dedent(block).replace("results/sweep_2026-11-29_14-03-21_5e1c0a", str(sweep))
    exec(code, {})
    assert capsys.readouterr().out.startswith("{'algo.lr': 0.1} 40.0 30.0 50.0\n")
