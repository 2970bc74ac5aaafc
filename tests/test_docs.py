"""The code of the documentation does what the documentation says."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers_cli import python_process

from rlrun.compose import compose, plain_config
from rlrun.parts import read_config, with_seed

ROOT = Path(__file__).resolve().parent.parent
BUILDING_BLOCKS = (ROOT / "docs" / "building_blocks.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()
FROM_RLLIB = (ROOT / "docs" / "from_rllib.md").read_text()


def block(text: str, first_line: str) -> str:
    """The indented block that begins with `first_line`, without its indent."""
    found = re.search(rf"^    {re.escape(first_line)}.*\n(?:    .*\n|\n)*", text, re.MULTILINE)
    assert found is not None, first_line
    return re.sub(r"^    ", "", found[0], flags=re.MULTILINE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The documented algorithm and callback as a package of the user's, with its YAML."""
    algorithm = block(ARCHITECTURE, "from dataclasses import dataclass")
    callback = block(ARCHITECTURE, "class Mine(rlrun.Callbacks):")
    package = tmp_path / "my_package"
    package.mkdir()
    (package / "__init__.py").write_text(f"import rlrun\n{algorithm}\n\n{callback}")
    group = tmp_path / "my_conf" / "algo"
    group.mkdir(parents=True)
    (group / "mine.yaml").write_text(block(ARCHITECTURE, "# REINFORCE with a value baseline."))
    return tmp_path


@pytest.mark.parametrize("heading", ["## On-policy", "## Off-policy"])
def test_a_documented_loop_of_ones_own_learns_in_less_than_40_lines(heading):
    code = block(BUILDING_BLOCKS.partition(heading)[2], "import ")
    assert len(code.split("\n\n\n")[0].splitlines()) < 40
    exec(code, found := {})
    if heading == "## On-policy":
        assert found["mean_return"] >= 100
    else:
        assert np.mean(found["returns"][-20:]) > 2 * np.mean(found["returns"][:20])


def test_the_documented_algorithm_and_callback_train_from_a_folder_of_their_own(folder):
    outcome = python_process(
        folder,
        *("-m", "rlrun", "--config-dir", "my_conf", "algo=mine", "env=cartpole", "seed=1"),
        *("callbacks.mine._target_=my_package.Mine", "hydra.run.dir=run"),
        *("stop.training_iteration=60", "stop.episode_reward_mean=40"),
    )
    assert outcome.status == 0, outcome.stderr
    first, *_, last = (folder / "run" / "progress.csv").read_text().splitlines()
    row = dict(zip(first.split(","), last.split(","), strict=True))
    assert float(row["episode_reward_mean"]) >= 40
    assert float(row["custom_metrics/last_reward_mean"]) == 1.0


# docs/from_rllib.md


def sections(text: str) -> dict[str, str]:
    """What stands below each heading, down to the next one."""
    _, *parts = re.split(r"^#{2,3} (.+)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def snippets(text: str) -> list[str]:
    """The fenced blocks of Python."""
    return re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def file_name(snippet: str) -> str | None:
    """The name of the file that a snippet is, which its first line tells."""
    found = re.match(r"# (\w+\.py)\n", snippet)
    return found[1] if found else None


@pytest.fixture
def users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with all files of docs/from_rllib.md."""
    files = {name: code for code in snippets(FROM_RLLIB) if (name := file_name(code))}
    for name, code in files.items():
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in files:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.mark.parametrize(
    "heading", [name for name, text in sections(FROM_RLLIB).items() if snippets(text)]
)
def test_the_snippets_for_users_of_rllib_run(heading, users_folder):
    for snippet in snippets(sections(FROM_RLLIB)[heading]):
        if file_name(snippet) is None:
            exec(compile(snippet, heading, "exec"), {"__name__": "__main__"})


def test_the_commands_for_users_of_rllib_are_valid(users_folder):
    # Sub-commands, whose first word is no override, have tests of their own.
    commands = re.findall(r"^    rlrun ([\w.]+=.+)$", FROM_RLLIB, re.MULTILINE)
    assert len(commands) > 8
    for command in commands:
        overrides = [word for word in shlex.split(command) if not word.startswith("-v")]
        read_config(with_seed(plain_config(compose(overrides))))


def test_every_heading_of_the_reference_has_its_counterpart():
    names = """
        Computing Actions, Accessing Policy State, Accessing Model State, Advanced Python APIs,
        Custom Training Workflows, Global Coordination, Callbacks and Custom Metrics, Chaining
        Callbacks, Visualizing Custom Metrics, Customizing Exploration Behavior, Customized
        Evaluation During Training, Rewriting Trajectories, Curriculum Learning, Debugging, Gym
        Monitor, Eager Mode, Using PyTorch, Episode Traces, Log Verbosity, Stack Traces"""
    of_reference = [" ".join(name.split()) for name in names.split(",")]
    assert list(sections(FROM_RLLIB)) == [*of_reference, "Experiment files"]
