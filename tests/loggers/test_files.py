from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rlrun.core.errors import CheckpointError
from rlrun.loggers.files import CsvLogger, JsonLogger, replace_file


def log(logger, run, results):
    logger.start(run)
    for result in results:
        logger.log_result(result)
    logger.close("finished")


def json_rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]


def csv_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "progress.csv").open(newline="") as file:
        return list(csv.DictReader(file, strict=True))


def iterations(rows: list[dict]) -> list[int]:
    return [int(row["training_iteration"]) for row in rows]


def test_json_has_one_line_an_iteration_with_everything_but_the_config(
    make_run, make_result, tmp_path
):
    log(JsonLogger(), make_run(), [make_result(i) for i in (1, 2)])
    expected = make_result(2)
    del expected["config"]
    assert json_rows(tmp_path)[1] == expected
    assert iterations(json_rows(tmp_path)) == [1, 2]


def test_json_writes_nan_as_python_json_does(make_run, make_result, tmp_path):
    log(JsonLogger(), make_run(), [make_result(1, episode_reward_mean=np.float32("nan"))])
    assert '"episode_reward_mean": NaN' in (tmp_path / "result.json").read_text()
    assert math.isnan(json_rows(tmp_path)[0]["episode_reward_mean"])


@pytest.mark.parametrize("logger", [JsonLogger(), CsvLogger()])
def test_a_fresh_run_starts_with_empty_files(make_run, make_result, tmp_path, logger):
    log(logger, make_run(), [make_result(i) for i in (1, 2, 3)])
    log(logger, make_run(), [make_result(1)])
    rows = json_rows(tmp_path) if isinstance(logger, JsonLogger) else csv_rows(tmp_path)
    assert iterations(rows) == [1]


def test_a_fresh_csv_does_not_inherit_columns(make_run, make_result, tmp_path):
    log(CsvLogger(), make_run(), [make_result(1, of_the_first_run=1)])
    log(CsvLogger(), make_run(), [make_result(1)])
    assert "of_the_first_run" not in csv_rows(tmp_path)[0]


@pytest.mark.parametrize("checkpoint", [1, 3, 4])
def test_each_iteration_stands_once_after_a_resume(make_run, make_result, tmp_path, checkpoint):
    for logger in (JsonLogger(), CsvLogger()):
        log(logger, make_run(), [make_result(i, note="first") for i in (1, 2, 3, 4)])
        resumed = [make_result(i, note="second") for i in range(checkpoint + 1, 6)]
        log(logger, make_run(start_iteration=checkpoint), resumed)
    notes = ["first"] * checkpoint + ["second"] * (5 - checkpoint)
    for rows in (json_rows(tmp_path), csv_rows(tmp_path)):
        assert iterations(rows) == [1, 2, 3, 4, 5]
        assert [row["note"] for row in rows] == notes


def test_a_resume_without_the_old_files_starts_them(make_run, make_result, tmp_path):
    for logger in (JsonLogger(), CsvLogger()):
        log(logger, make_run(start_iteration=7), [make_result(8)])
    assert iterations(json_rows(tmp_path)) == [8]
    assert iterations(csv_rows(tmp_path)) == [8]


def test_a_half_written_last_line_is_dropped_on_resume(make_run, make_result, tmp_path):
    for logger, name in ((JsonLogger(), "result.json"), (CsvLogger(), "progress.csv")):
        log(logger, make_run(), [make_result(i, name="é") for i in (1, 2, 3)])
        content = (tmp_path / name).read_bytes()
        for cut in (1, 2, 40):
            (tmp_path / name).write_bytes(content[:-cut])
            log(logger, make_run(start_iteration=3), [make_result(4)])
            rows = json_rows(tmp_path) if name == "result.json" else csv_rows(tmp_path)
            assert iterations(rows) == [1, 2, 4]


def test_a_line_cut_inside_a_letter_is_dropped_on_resume(make_run, make_result, tmp_path):
    log(CsvLogger(), make_run(), [make_result(1), make_result(2, note="é")])
    content = (tmp_path / "progress.csv").read_bytes()
    (tmp_path / "progress.csv").write_bytes(content[: content.rindex("é".encode()) + 1])
    log(CsvLogger(), make_run(start_iteration=2), [make_result(3)])
    assert iterations(csv_rows(tmp_path)) == [1, 3]


@pytest.mark.parametrize("damage", ["rubbish", "9"])
def test_a_damaged_line_in_the_middle_is_named_and_the_file_is_kept(
    make_run, make_result, tmp_path, damage
):
    for logger, name in ((JsonLogger(), "result.json"), (CsvLogger(), "progress.csv")):
        log(logger, make_run(), [make_result(i) for i in (1, 2)])
        damaged = (tmp_path / name).read_text() + damage + "\n"
        (tmp_path / name).write_text(damaged)
        with pytest.raises(CheckpointError, match=rf"{name} has a line.*'{damage}"):
            logger.start(make_run(start_iteration=2))
        assert (tmp_path / name).read_text() == damaged


def test_a_line_is_on_disk_as_soon_as_it_is_logged(make_run, make_result, tmp_path):
    """The child is killed with SIGKILL right after its second result, without close."""
    code = f"""
import json, os, signal
from pathlib import Path
from rlrun.loggers.base import RunInfo
from rlrun.loggers.files import CsvLogger, JsonLogger
run = RunInfo(folder=Path({str(tmp_path)!r}), name="x", config={{}}, stop={{}}, start_iteration=0)
loggers = [JsonLogger(), CsvLogger()]
for logger in loggers:
    logger.start(run)
    for i in (1, 2):
        logger.log_result({{"training_iteration": i, "text": "short"}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
    assert iterations(json_rows(tmp_path)) == [1, 2]
    assert iterations(csv_rows(tmp_path)) == [1, 2]


def test_csv_flattens_and_leaves_out_config_histograms_and_lists(make_run, make_result, tmp_path):
    result = make_result(
        1, values=[1, 2], array=np.zeros(2), none=None, loss=np.float32(0.5), note="a,b\n'c\""
    )
    result["hist_stats"]["count"] = 2
    log(CsvLogger(), make_run(), [result])
    (row,) = csv_rows(tmp_path)
    assert row["info/learner/default_policy/learner_stats/policy_loss"] == "0.1"
    assert (row["loss"], row["note"], row["done"]) == ("0.5", "a,b\n'c\"", "False")
    left_out = ("config", "hist_stats", "values", "array", "none")
    assert not [key for key in row if key.startswith(left_out)]


def test_csv_widens_for_a_late_column_and_keeps_the_old_rows(make_run, make_result, tmp_path):
    late = make_result(3, evaluation={"episode_reward_mean": 99.0})
    log(CsvLogger(), make_run(), [make_result(1), make_result(2), late, make_result(4)])
    rows = csv_rows(tmp_path)
    assert iterations(rows) == [1, 2, 3, 4]
    assert [row["evaluation/episode_reward_mean"] for row in rows] == ["", "", "99.0", ""]
    assert [row["timesteps_total"] for row in rows] == ["1024", "2048", "3072", "4096"]
    assert {len(row) for row in rows} == {len(rows[0])}


def test_csv_keeps_its_columns_over_a_resume_and_may_still_widen(make_run, make_result, tmp_path):
    log(CsvLogger(), make_run(), [make_result(1, first=1), make_result(2, first=2)])
    log(CsvLogger(), make_run(start_iteration=1), [make_result(2), make_result(3, second=3)])
    rows = csv_rows(tmp_path)
    assert [(row["first"], row["second"]) for row in rows] == [("1", ""), ("", ""), ("", "3")]


def test_an_empty_result_file_leaves_a_readable_csv(make_run, make_result, tmp_path):
    log(CsvLogger(), make_run(), [])
    assert (tmp_path / "progress.csv").read_text() == ""
    log(CsvLogger(), make_run(start_iteration=1), [make_result(2)])
    assert iterations(csv_rows(tmp_path)) == [2]


def test_a_failure_while_replacing_leaves_the_old_file(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail_half_way() -> None:
        with replace_file(path) as file:
            file.write("new")
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        fail_half_way()
    assert path.read_text() == "old"
    with replace_file(path) as file:
        file.write("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file.txt"]
