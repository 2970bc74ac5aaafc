"""The code of the documentation does what the documentation says."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from helpers_cli import python_process

ROOT = Path(__file__).resolve().parent.parent
BUILDING_BLOCKS = (ROOT / "docs" / "building_blocks.md").read_text()
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text()


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
