"""`rlrun check` as a user types it, with examples that take a moment."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from helpers_cli import Child, Outcome, command_line, top_folders

from rlrun.core.checkpoint import list_checkpoints

Rlrun = Callable[..., Outcome]

EXAMPLE = """
# PPO for a moment.
defaults:
  - override /algo: ppo
  - override /env: cartpole
algo: {{train_batch_size: 64, minibatch_size: 32, num_epochs: 1, timesteps_per_iteration: 0}}
seed: 3
stop: {{training_iteration: {iterations}}}
pass_mark: {{{mark}}}
"""


@pytest.fixture
def rlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rlrun]:
    with command_line(tmp_path, monkeypatch) as run:
        yield run


def example(path: Path, mark: str, iterations: int = 2) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(EXAMPLE.format(mark=mark, iterations=iterations))
    return path


def rows_of(text: str, separator: str = r"\s{2,}") -> list[list[str]]:
    """The cells of every line that has a cell for each heading."""
    lines = [re.split(separator, line.strip("| ")) for line in text.splitlines()]
    return [cells for cells in lines if len(cells) == 8]


def test_examples_of_a_folder_fail_or_break_and_the_status_says_so(rlrun, tmp_path):
    example(tmp_path / "mine" / "hard.yaml", "timesteps_total: 50, episode_reward_mean: 499")
    odd_file = example(tmp_path / "mine" / "odd.yaml", "timesteps_total: 1")
    odd_file.write_text(odd_file.read_text().replace("size: 32", "size: 99"))
    outcome = rlrun("check", "mine", "--jobs", "2", "--out", "found/it.md")
    assert outcome.status == 1
    headings, *rows = rows_of(outcome.stdout)
    hard, odd = sorted(rows)
    assert headings[:3] == ["example", "seed", "mark"]
    assert hard[:3] == ["mine/hard", "3", "timesteps_total 50, episode_reward_mean 499"]
    assert re.fullmatch(r"128, \d\d(\.\d+)?", hard[3])
    assert hard[4:6] + hard[7:] == ["-", "128", "fail"]
    assert odd[3:6] + odd[7:] == ["-", "-", "0", "error"]
    assert "mine/odd, seed 3: rlrun: algo.minibatch_size=99 exceeds" in outcome.stdout
    assert "mine/hard: 0 of 1 passed\n" in outcome.stdout
    assert "\n0 of 2 runs passed\n" in outcome.stdout
    written = (tmp_path / "found" / "it.md").read_text()
    assert rows_of(written, r" \| ") == [headings, ["---"] * 8, hard, odd]
    assert "- 0 of 2 runs passed" in written
    assert (tmp_path / "found" / "it" / "mine_hard_seed3" / "result.json").exists()


def test_each_seed_is_a_run_of_its_own(rlrun, tmp_path):
    example(tmp_path / "easy.yaml", "counters: {num_env_steps_sampled: 64}", iterations=1)
    outcome = rlrun("check", "e*.yaml", "--seeds=2", "--jobs=2")
    assert outcome.status == 0, outcome.stdout
    rows = sorted(rows_of(outcome.stdout)[1:])
    assert [row[:6] for row in rows] == [
        ["easy", seed, "counters/num_env_steps_sampled 64", "64", "64", "64"] for seed in ("3", "4")
    ]
    assert [row[7] for row in rows] == ["pass", "pass"]
    assert "easy: 2 of 2 passed" in outcome.stdout
    (written,) = (tmp_path / "results").glob("check_*.md")
    assert "| easy | 4 | counters/num_env_steps_sampled 64 | 64 |" in written.read_text()
    seeds = [folder.name for folder in written.with_suffix("").iterdir() if folder.is_dir()]
    assert sorted(seeds) == ["easy_seed3", "easy_seed4"]


def test_ctrl_c_ends_all_runs_in_order(tmp_path):
    example(tmp_path / "endless.yaml", "episode_reward_mean: 600", iterations=10**9)
    child = Child(tmp_path, "check", "endless.yaml", "--seeds", "3", "--out", "check.md")
    child.wait_for_result(tmp_path / "check" / "endless_seed3", 2)
    runs = psutil.Process(child.pid).children()
    child.signal(signal.SIGINT)
    outcome = child.wait()
    assert outcome.status == 128 + signal.SIGINT, outcome.stderr
    assert runs
    assert not any(run.is_running() for run in runs)
    assert rows_of(outcome.stdout)[1][7] == "interrupted"
    assert "0 of 3 runs passed" in outcome.stdout
    assert "| interrupted |" in (tmp_path / "check.md").read_text()
    # It had time for its checkpoint, and those that waited never began.
    assert len(list_checkpoints(tmp_path / "check" / "endless_seed3")) == 1
    assert not (tmp_path / "check" / "endless_seed4").exists()


def test_a_run_that_the_system_kills_is_an_error_and_the_others_go_on(tmp_path):
    example(tmp_path / "endless.yaml", "episode_reward_mean: 600", iterations=10**9)
    example(tmp_path / "short.yaml", "counters: {num_env_steps_sampled: 64}", iterations=1)
    child = Child(tmp_path, "check", "endless.yaml", "short.yaml", "--out", "check.md")
    child.wait_for_result(tmp_path / "check" / "endless_seed3", 1)
    (run,) = psutil.Process(child.pid).children()
    run.kill()
    outcome = child.wait()
    assert outcome.status == 1
    assert [row[7] for row in rows_of(outcome.stdout)[1:]] == ["error", "pass"]
    assert "endless, seed 3: It was ended by SIGKILL." in outcome.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "rlrun check needs an example"),
        (("ppo/cartpole-pop",), "Did you mean ppo/cartpole-ppo"),
        (("nothing_*.yaml",), "no file matches this pattern"),
        (("empty",), "the folder holds no YAML files"),
        (("without.yaml",), "without.yaml: it has no pass_mark"),
        (("broken.yaml",), "broken.yaml is not valid YAML"),
        (("good.yaml", "--seeds", "0"), "--seeds needs a whole number of at least 1, got '0'"),
        (("good.yaml", "--jobs"), "--jobs needs a whole number of at least 1, got ''"),
        (("good.yaml", "--out", "empty"), "--out needs the name of a file, got 'empty'"),
        (("good.yaml", "--fast"), "there is no option --fast"),
        (("good.yaml", "--out", "old.md"), "old/good_seed3 of an earlier check is there already"),
    ],
)
def test_what_cannot_be_checked_is_one_line_before_anything_runs(rlrun, tmp_path, arguments, words):
    example(tmp_path / "good.yaml", "timesteps_total: 1")
    (tmp_path / "empty").mkdir()
    (tmp_path / "old" / "good_seed3").mkdir(parents=True)
    (tmp_path / "without.yaml").write_text("seed: 1\n")
    (tmp_path / "broken.yaml").write_text("a: [1\n")
    before = top_folders(tmp_path)
    outcome = rlrun("check", *arguments)
    assert outcome.status == 2
    assert words in outcome.stderr
    assert outcome.stderr.startswith("rlrun: ")
    assert "Traceback" not in outcome.stderr
    assert top_folders(tmp_path) == before


def test_shipped_examples_are_found_by_folder_pattern_and_name(tmp_path, monkeypatch):
    from rlrun.check import files_of

    monkeypatch.chdir(tmp_path)
    shipped = {"cartpole-ddppo", "pendulum-ddppo"}
    for path in ("ddppo", "tuned_examples/ddppo", "ddppo/*-ddppo.yaml", "tuned_examples/ddppo/*"):
        assert {file.stem for file in files_of(path)} == shipped, path
    assert [file.stem for file in files_of("cartpole-dqn")] == ["cartpole-dqn"]
    # What lies here comes first.
    own = example(tmp_path / "dqn" / "own.yaml", "timesteps_total: 1")
    assert files_of("dqn") == [own]
