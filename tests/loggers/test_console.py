from __future__ import annotations

import math
import os
import pty
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rlrun.loggers import console
from rlrun.loggers.console import ConsoleLogger
from rlrun.loggers.terminal import number

PHASES = {"env": 0.25, "learning": 0.15, "inference": 0.099, "other": 0.001}

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


class Clock:
    """Stands for time.monotonic; moves only when told to."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(console, "monotonic", clock)
    return clock


class Terminal:
    """A pseudo-terminal as sys.stdout, read by a thread so that writing to it never blocks."""

    def __init__(self, monkeypatch, columns: int = 120, lines: int = 40) -> None:
        self._master, slave = pty.openpty()
        self.stdout = os.fdopen(slave, "w")
        self._chunks: list[bytes] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        monkeypatch.setattr(sys, "stdout", self.stdout)
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("TERM", "xterm-256color")
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("LINES", str(lines))

    def _read(self) -> None:
        try:
            while chunk := os.read(self._master, 65536):
                self._chunks.append(chunk)
        except OSError:  # EIO: the other side is closed
            pass

    def output(self) -> str:
        """Everything that was written; hangs up."""
        self.stdout.close()
        self._reader.join()
        os.close(self._master)
        return b"".join(self._chunks).decode()


def visible(output: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output)


def test_plain_line_shows_what_matters(make_run, make_result, clock, capsys):
    result = make_result(
        3, episode_reward_mean=143.24, episode_reward_min=20.0, episode_reward_max=1500.0
    )
    logger = ConsoleLogger()
    logger.start(make_run())
    logger.log_result(result)
    # 1024 steps in 0.5 s; 7168 of 10240 steps are to go: 3.5 s.
    assert capsys.readouterr().out == (
        "iter 3  steps 3,072  reward 143.2 (min 20, max 1,500)  len 37.5  "
        "2,048 steps/s  eta 0:00:04\n"
    )


def test_plain_lines_keep_their_interval_but_first_and_last_are_always_there(
    make_run, make_result, clock, capsys
):
    logger = ConsoleLogger(plain_interval_s=5.0)
    logger.start(make_run())
    for iteration in range(1, 13):  # 12 results, one a second
        logger.log_result(make_result(iteration))
        clock.now_s += 1
    logger.close("finished")
    lines = capsys.readouterr().out.splitlines()
    assert [int(line.split()[1]) for line in lines[:-1]] == [1, 6, 11, 12, 12]
    assert lines[-1].startswith("finished by stop.timesteps_total=10240  results in ")


def test_a_last_result_that_was_shown_is_not_shown_twice(
    make_run, make_result, clock, capsys, tmp_path
):
    logger = ConsoleLogger()
    logger.start(make_run())
    logger.log_result(make_result(1))
    logger.close("interrupted")
    shown, summary, where = capsys.readouterr().out.splitlines()
    assert shown.endswith("2,048 steps/s  eta 0:00:04")  # 9216 / 2048 = 4.5 s, rounded to even
    assert summary.startswith("iter 1  steps 1,024  ")
    assert summary.endswith("2,048 steps/s  elapsed 0:00:00")
    assert where == f"interrupted  results in {tmp_path}"


def test_the_last_lines_fit_into_110_columns(make_run, make_result, clock, capsys, monkeypatch):
    monkeypatch.chdir("/")
    logger = ConsoleLogger()
    folder = Path("/results/ppo_halfcheetah/2026-11-25_07-53-22_975e3a")
    logger.start(make_run(folder=folder))
    logger.log_result(make_result(5))
    logger.close("interrupted")
    *_, summary, where = capsys.readouterr().out.splitlines()
    assert where == "interrupted  results in results/ppo_halfcheetah/2026-11-25_07-53-22_975e3a"
    assert max(len(summary), len(where)) <= 110


def test_summary_has_status_and_folder_even_without_a_result(make_run, clock, capsys, tmp_path):
    logger = ConsoleLogger()
    logger.start(make_run())
    logger.close("failed")
    assert capsys.readouterr().out == f"no result yet\nfailed  results in {tmp_path}\n"


def test_nan_and_missing_values_show_as_a_dash(make_run, make_result, clock, capsys):
    nan = {f"episode_reward_{kind}": math.nan for kind in ("mean", "min", "max")}
    result = make_result(1, **nan)
    del result["episode_len_mean"], result["time_this_iter_s"]
    logger = ConsoleLogger()
    logger.start(make_run())
    logger.log_result(result)
    assert capsys.readouterr().out == (
        "iter 1  steps 1,024  reward - (min -, max -)  len -  - steps/s  eta -\n"
    )


@pytest.mark.parametrize(
    ("stop", "eta"),
    [
        ({"timesteps_total": 10_240, "training_iteration": 4}, "0:00:01"),  # 2 x 0.5 s to go
        ({"timesteps_total": 4096, "training_iteration": 1000}, "0:00:01"),
        ({"time_total_s": 61.0}, "0:01:00"),
        ({"episodes_total": 400, "episode_reward_mean": 40.0}, "0:00:09"),
        ({"timesteps_total": 100}, "0:00:00"),
        ({"timesteps_total": 1e18}, "-"),
        ({"timesteps_total": 0}, "-"),
        ({"episode_reward_mean": 40.0}, "-"),
        ({}, "-"),
    ],
)
def test_eta_is_that_of_the_nearest_rule_on_a_growing_key(
    make_run, make_result, clock, capsys, stop, eta
):
    logger = ConsoleLogger()
    logger.start(make_run(stop=stop))
    logger.log_result(make_result(2))
    assert capsys.readouterr().out.rstrip().endswith(f"eta {eta}")


def test_pace_is_that_of_the_last_iterations(make_run, make_result, clock, capsys):
    logger = ConsoleLogger(plain_interval_s=0.0)
    logger.start(make_run())
    for iteration in range(1, 41):
        logger.log_result(make_result(iteration, time_this_iter_s=8 if iteration <= 20 else 1))
    lines = capsys.readouterr().out.splitlines()
    assert "  128 steps/s" in lines[19]
    assert "  1,024 steps/s" in lines[39]


def test_a_resumed_run_shows_its_pace_from_the_first_result(make_run, make_result, clock, capsys):
    logger = ConsoleLogger()
    logger.start(make_run(start_iteration=8))
    logger.log_result(make_result(9, time_total_s=1e6))
    assert capsys.readouterr().out.rstrip().endswith("2,048 steps/s  eta 0:00:00")


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_dumb_terminal_gets_plain_lines(make_run, make_result, clock, monkeypatch, term):
    terminal = Terminal(monkeypatch)
    monkeypatch.setenv("TERM", term)
    logger = ConsoleLogger()
    logger.start(make_run())
    logger.log_result(make_result(1))
    logger.close("finished")
    output = terminal.output()
    assert output.startswith("iter 1  steps 1,024")
    assert "\x1b" not in output


def test_plain_mode_never_imports_rich(tmp_path):
    code = """
import sys
from pathlib import Path
from rlrun.loggers.base import RunInfo
from rlrun.loggers.console import ConsoleLogger
from rlrun.loggers.terminal import number
logger = ConsoleLogger()
logger.start(RunInfo(folder=Path("."), name="x", config={}, stop={}, start_iteration=0))
logger.log_result({"training_iteration": 1, "timesteps_total": 10})
logger.close("finished")
print("rich" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_live_display_shows_bar_rewards_and_speed(make_run, make_result, clock, monkeypatch):
    terminal = Terminal(monkeypatch)
    logger = ConsoleLogger()
    logger.start(make_run(name="PPO [red]cartpole", folder=Path("/runs/[a]")))
    logger.log_result(make_result(5))
    logger.close("finished")
    text = visible(terminal.output())
    assert "PPO [red]cartpole  /runs/[a]" in text
    assert "50%  timesteps_total 5,120 of 10,240" in text
    assert "37.5 (min 9, max 112)" in text
    assert re.search(r"steps/s +2,048", text)
    assert re.search(r"elapsed +0:00:02", text)
    summary, where = text.rstrip().splitlines()[-2:]
    assert summary.startswith("iter 5  steps 5,120  reward 37.5")
    assert where == "finished  results in /runs/[a]"


def test_live_display_without_a_rule_on_a_growing_key_has_no_bar(
    make_run, make_result, clock, monkeypatch
):
    terminal = Terminal(monkeypatch)
    logger = ConsoleLogger()
    logger.start(make_run(stop={"episode_reward_mean": 475.0}))
    logger.log_result(make_result(5))
    logger.close("finished")
    text = visible(terminal.output())
    assert "%" not in text
    assert "5,120" in text


def test_live_display_redraws_no_more_often_than_its_interval(
    make_run, make_result, clock, monkeypatch
):
    terminal = Terminal(monkeypatch)
    logger = ConsoleLogger(refresh_interval_s=0.5)
    logger.start(make_run())
    for iteration in range(1, 11):  # one every quarter of a second
        logger.log_result(make_result(iteration))
        clock.now_s += 0.25
    logger.close("finished")
    shown = re.findall(r"timesteps_total ([\d,]+) of", visible(terminal.output()))
    # 1, 3, 5, 7, 9 in time and 10 at the close; Rich draws once more as it stops.
    assert shown == ["1,024", "3,072", "5,120", "7,168", "9,216", "10,240", "10,240"]


def test_the_terminal_is_restored_on_close(make_run, make_result, clock, monkeypatch):
    terminal = Terminal(monkeypatch)
    logger = ConsoleLogger()
    logger.start(make_run())
    logger.log_result(make_result(1))
    assert sys.stdout is not terminal.stdout  # Rich keeps prints above the display
    print("a print of the user's")
    logger.close("failed")
    assert sys.stdout is terminal.stdout
    output = terminal.output()
    assert output.index(HIDE_CURSOR) < output.index("a print") < output.rindex(SHOW_CURSOR)
    assert output.rindex(HIDE_CURSOR) < output.rindex(SHOW_CURSOR)


def test_one_logger_serves_several_runs_in_one_process(make_run, make_result, clock, monkeypatch):
    terminal = Terminal(monkeypatch)
    logger = ConsoleLogger()
    for name in ("first", "second"):
        logger.start(make_run(name=name))
        logger.log_result(make_result(1))
        logger.close("finished")
    text = visible(terminal.output())
    assert "first  /" in text
    assert "second  /" in text
    assert text.count("finished  results in") == 2


def test_a_terminal_that_goes_away_quiets_the_console_only(
    make_run, make_result, clock, monkeypatch, caplog
):
    master, slave = pty.openpty()
    stdout = os.fdopen(slave, "w")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setenv("TERM", "xterm")
    logger = ConsoleLogger(refresh_interval_s=0.0)
    logger.start(make_run())
    assert sys.stdout is not stdout
    os.close(master)  # from here on, writing gives EIO
    for iteration in (1, 2):
        logger.log_result(make_result(iteration))
    assert sys.stdout is stdout
    print("a print of the user's is discarded", flush=True)
    logger.close("finished")
    assert [record.message for record in caplog.records if "went quiet" in record.message] == [
        f"The console went quiet ([Errno 5] Input/output error); results go on in {logger._folder}"
    ]
    stdout.close()


def test_a_closed_stdout_quiets_the_console_only(
    make_run, make_result, clock, monkeypatch, tmp_path, caplog
):
    stdout = (tmp_path / "output.txt").open("w")
    monkeypatch.setattr(sys, "stdout", stdout)
    logger = ConsoleLogger(plain_interval_s=0.0)
    logger.start(make_run())
    logger.log_result(make_result(1))
    stdout.close()
    logger.log_result(make_result(2))
    logger.log_result(make_result(3))
    logger.close("finished")
    assert len(caplog.records) == 1
    assert (tmp_path / "output.txt").read_text().count("iter") == 1


def test_no_stdout_at_all_is_fine(make_run, make_result, clock, monkeypatch, caplog):
    monkeypatch.setattr(sys, "stdout", None)
    logger = ConsoleLogger()
    logger.start(make_run())
    logger.log_result(make_result(1))
    logger.close("finished")
    assert "went quiet" not in caplog.text


def test_an_error_that_is_not_the_outputs_is_raised(make_run, make_result, clock):
    class Broken(float):
        def __format__(self, _: str) -> str:
            raise ValueError("broken environment")

    logger = ConsoleLogger()
    logger.start(make_run())
    with pytest.raises(ValueError, match="broken environment"):
        logger.log_result(make_result(1, episode_len_mean=Broken()))


def test_letters_that_stdout_cannot_encode_become_question_marks(
    make_run, clock, monkeypatch, tmp_path
):
    stdout = (tmp_path / "output.txt").open("w", encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stdout)
    logger = ConsoleLogger()
    logger.start(make_run(folder=Path("/runs/é")))
    logger.close("finished")
    stdout.close()
    text = (tmp_path / "output.txt").read_text()
    assert text == "no result yet\nfinished  results in /runs/?\n"


def test_a_reader_that_stops_early_lets_the_run_end_with_status_0(tmp_path):
    code = """
import sys
from pathlib import Path
from rlrun.loggers.base import RunInfo
from rlrun.loggers.console import ConsoleLogger
from rlrun.loggers.terminal import number
logger = ConsoleLogger(plain_interval_s=0.0)
logger.start(RunInfo(folder=Path("."), name="x", config={}, stop={}, start_iteration=0))
for i in range(1, 1000):
    logger.log_result({"training_iteration": i, "timesteps_total": 10 * i})
    if i == 1:
        sys.stdin.read()  # goes on when the reader has gone
logger.close("finished")
print("trained to the end", file=sys.stderr)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().startswith("iter 1  ")
    process.stdout.close()
    process.stdin.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0
    assert errors.count("went quiet") == 1
    assert errors.endswith("trained to the end\n")


def busy_result(make_result, iteration, **changes):
    """All that a display may have to show."""
    stats = {"policy_loss": -0.0123, "vf_loss": 12.5, "entropy": 0.69, "kl": 0.004, "odd": 1.0}
    return make_result(
        iteration,
        episode_reward_mean=float(iteration),
        evaluation={"episode_reward_mean": 40.0},
        env_task="corridor of 12",
        videos=[f"videos/episode_{iteration:06}.mp4"] if iteration % 2 else [],
        time_by_phase=PHASES,
        info={"learner": {"default_policy": {"learner_stats": stats}}},
        **changes,
    )


def last_screen(terminal) -> list[str]:
    """The lines of the last redraw of the live display."""
    return [
        line.rstrip() for line in visible(terminal.output()).split("PPO_cartpole")[-1].splitlines()
    ]


def show_run(make_run, make_result, monkeypatch, columns, lines=24, **config):
    terminal = Terminal(monkeypatch, columns, lines)
    run = make_run(config=config)
    logger = ConsoleLogger(refresh_interval_s=0.0)
    logger.start(run)
    for iteration in range(1, 9):
        logger.log_result(busy_result(make_result, iteration))
    logger._view._live.stop()
    return terminal


def test_live_display_shows_what_a_run_has(make_run, make_result, clock, monkeypatch):
    text = visible(show_run(make_run, make_result, monkeypatch, 80, log_level="INFO").output())
    screen = text.split("PPO_cartpole")[-1]
    assert re.search(r"trend +▁▂▃▄▅▆▇█", screen)
    assert re.search(r"evaluation +40", screen)
    assert re.search(r"task +corridor of 12", screen)
    assert re.search(r"time +env 50% \(bottleneck\)  learning 30%  inference 20%\s*$", screen, re.M)
    assert re.search(r"learner +policy_loss -0.0123  vf_loss 12.5  entropy 0.69  kl 0.004", screen)
    assert re.search(r"video +videos/episode_000007.mp4", screen)
    assert "odd" not in screen


def test_the_learners_numbers_are_shown_with_v_only(make_run, make_result, clock, monkeypatch):
    text = visible(show_run(make_run, make_result, monkeypatch, 80, log_level="WARN").output())
    assert "policy_loss" not in text


@pytest.mark.parametrize("columns", [80, 64, 40, 24])
def test_live_display_fits_into_the_window(make_run, make_result, clock, monkeypatch, columns):
    terminal = show_run(make_run, make_result, monkeypatch, columns, log_level="INFO")
    screen = last_screen(terminal)
    assert max(map(len, screen[1:])) <= columns
    assert len(screen) <= 24
    # Nothing is broken in two: each line begins with a label, or is the bar's.
    text = "\n".join(screen)
    assert len(re.findall(r"^(trend|evaluation|task|time|learner|video) ", text, re.M)) == 6


def test_a_terminal_without_the_letters_gets_others(make_run, make_result, clock, monkeypatch):
    terminal = Terminal(monkeypatch, 24)
    terminal.stdout.reconfigure(encoding="ascii")
    logger = ConsoleLogger()
    logger.start(make_run(name="längster_von_allen_läufen"))
    logger.log_result(busy_result(make_result, 5))
    logger.close("finished")
    assert "l?ngster_von_allen" in visible(terminal.output())


def test_large_numbers_are_short():
    assert number(-1e300) == "-1e+300"
    assert number(1.5e12, "d") == "1.5e+12"
    assert number(123_456_789_012.0, "d") == "123,456,789,012"


def test_live_display_is_cut_in_a_low_window(make_run, make_result, clock, monkeypatch):
    terminal = show_run(make_run, make_result, monkeypatch, 80, lines=6)
    text = visible(terminal.output())
    assert "reward" in text


def test_live_display_says_all_without_colour(make_run, make_result, clock, monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal(monkeypatch, 80)
    monkeypatch.setenv("NO_COLOR", "1")
    logger = ConsoleLogger()
    logger.start(make_run())
    logger.log_result(busy_result(make_result, 5))
    logger.close("finished")
    output = terminal.output()
    assert not re.search(r"\x1b\[3[0-7]m|\x1b\[38;", output)
    assert "env 50% (bottleneck)" in visible(output)


def test_plain_lines_have_task_and_bottleneck_and_no_sparkline(
    make_run, make_result, clock, capsys
):
    logger = ConsoleLogger(plain_interval_s=0.0)
    logger.start(make_run(config={"log_level": "INFO"}))
    for iteration in (1, 2):
        logger.log_result(busy_result(make_result, iteration))
    _, line = capsys.readouterr().out.splitlines()
    assert "evaluation 40  task corridor of 12  len 37.5" in line
    assert "bottleneck env 50%  policy_loss -0.0123  vf_loss 12.5" in line
    assert "▁" not in line
    logger.close("finished")
    summary = capsys.readouterr().out.splitlines()[0]
    assert "bottleneck" not in summary


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ([0.0, 3.0, 7.0], "▁▄█"),
        ([5.0, 5.0], "▁▁"),
        ([-2.0, 0.0], "▁█"),
        ([0.0, 0.0, 7.0, 7.0] * 20, "▁█" * 20),  # 80 values, two to a bar
        ([-1e308, 1e308], "▁█"),  # their difference is infinite
        ([1e308] * 80, "▁" * 40),
    ],
)
def test_sparkline(values, line):
    assert console.sparkline(values) == line
