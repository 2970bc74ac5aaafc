"""`rlrun options`: every key that may be set, as a table."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers_cli import Outcome, command_line, python_process

from rlrun.compose import compose, plain_config
from rlrun.config import flatten_keys

Rlrun = Callable[..., Outcome]


@pytest.fixture
def rlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rlrun]:
    with command_line(tmp_path, monkeypatch) as run:
        yield run


def row_of(key: str, text: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.split()[:1] == [key]]
    return re.split(r"\s{2,}", line.strip())


def test_a_row_has_the_key_its_value_what_it_may_be_and_what_it_does(rlrun):
    outcome = rlrun("options", "algo=ppo", "algo.gamma=0.9", "tuned=none")
    assert outcome.status == 0, outcome.stderr
    assert row_of("algo.gamma", outcome.stdout) == [
        *("algo.gamma", "0.9", "float 0 to 1", "Discount per env step."),
    ]
    assert row_of("algo.rollout_fragment_length", outcome.stdout)[1:3] == [
        "auto",
        "int | auto >= 1",
    ]
    assert row_of("algo.lr", outcome.stdout)[2] == "float | schedule >= 0"
    assert row_of("algo.normalize_advantages", outcome.stdout)[1:3] == ["true", "bool"]
    assert row_of("model.fcnet_hiddens", outcome.stdout)[1] == "[64, 64]"
    assert row_of("seed", outcome.stdout)[1:3] == ["null", "int | null"]
    assert row_of("env.vectorization", outcome.stdout)[2] == "sync | async | native"


@pytest.mark.parametrize("algo", ["ppo", "apex_ddpg", "es"])
def test_every_key_of_the_config_is_there(rlrun, algo):
    listed = {
        line.split()[0] for line in rlrun("options", f"algo={algo}").stdout.split("\n") if line
    }
    config = plain_config(compose([f"algo={algo}"]))
    open_nodes = ("stop.", "pass_mark.", "evaluation.config.", "env.env_config.")
    groups = [key for key, value in config.items() if isinstance(value, dict)]
    inner = {*groups, "logger.console", "logger.tensorboard"} - {"stop", "pass_mark", "callbacks"}
    wanted = [key for key in flatten_keys(config) if not key.startswith(open_nodes)]
    assert set(wanted) - inner - listed - {"sweep", "search", "scheduler"} == set()


def test_groups_are_chosen_by_name_and_a_typo_is_told(rlrun):
    outcome = rlrun("options", "exploration", "algo=dqn")
    keys = [line.split()[0] for line in outcome.stdout.splitlines() if line.startswith("  ")]
    assert "exploration.initial_epsilon" in keys
    assert all(key.startswith("exploration.") for key in keys)
    outcome = rlrun("options", "explorations")
    assert outcome.status == 2
    assert "Did you mean exploration?" in outcome.stderr
    assert "Did you mean algo.lr?" in rlrun("options", "algo.learning_rate=1").stderr


def test_a_class_of_ones_own_is_listed_as_far_as_its_keys_are_known(rlrun, tmp_path):
    (tmp_path / "conf" / "exploration").mkdir(parents=True)
    file = tmp_path / "conf" / "exploration" / "mine.yaml"
    file.write_text("_target_: my_package.Mine\np: 0.3\n")
    outcome = rlrun("options", "--config-dir", "conf", "exploration=mine", "exploration")
    assert row_of("exploration.p", outcome.stdout) == ["exploration.p", "0.3"]


def test_it_imports_no_torch(tmp_path):
    code = "import sys; from rlrun.options import print_options as p; p(['algo=sac'], []); "
    outcome = python_process(tmp_path, "-c", code + "print('torch' in sys.modules)")
    assert outcome.stdout.splitlines()[-1] == "False", outcome.stderr


@pytest.mark.parametrize("columns", [60, 80, 160])
def test_in_a_terminal_no_line_is_wider_than_it(tmp_path, columns):
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environ = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    with subprocess.Popen(
        [sys.executable, "-m", "rlrun", "options", "evaluation"],
        stdout=slave,
        cwd=tmp_path,
        env=environ,
    ):
        os.close(slave)
        text = b""
        try:
            while chunk := os.read(master, 4096):
                text += chunk
        except OSError:  # The other side is closed.
            pass
    os.close(master)
    lines = text.decode().splitlines()
    keys = [line for line in lines if line.strip().startswith("evaluation.")]
    assert len(keys) >= 7
    longest_front = max(len(re.match(r" *\S+ +\S+ *", line)[0]) for line in keys)
    assert max(map(len, lines)) <= max(columns, longest_front + 30)
