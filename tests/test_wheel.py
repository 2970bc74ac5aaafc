"""A wheel does everything that the checkout does, from any folder."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from helpers_cli import Outcome, python_process

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory) -> Path:
    """A wheel built from this checkout, unpacked as an installer would."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(folder / "site")
    return folder / "site"


@pytest.fixture
def rlrun(unpacked: Path, tmp_path: Path):
    """Runs the wheel's own rlrun in an empty folder."""

    def run(*arguments: str) -> Outcome:
        outcome = python_process(tmp_path, "-m", "rlrun", *arguments, PYTHONPATH=str(unpacked))
        assert outcome.status == 0, outcome.stderr
        return outcome

    return run


def yaml_files(folder: Path) -> set[str]:
    return files_of(folder, "*.yaml")


def files_of(folder: Path, pattern: str) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob(pattern)}


def test_the_wheel_holds_every_file_of_conf_and_the_tuned_examples(unpacked):
    files = yaml_files(ROOT / "conf")
    in_checkout = {name for name in files if not name.startswith("tuned_examples/")}
    shipped = {f"tuned_examples/{name}" for name in yaml_files(ROOT / "tuned_examples")}
    assert yaml_files(unpacked / "rlrun" / "conf") == in_checkout | shipped
    data = files_of(ROOT / "tuned_examples", "*.jsonl")
    assert files_of(unpacked / "rlrun" / "conf" / "tuned_examples", "*.jsonl") == data
    assert data


def test_the_wheel_trains_resumes_rolls_out_and_lists(rlrun, unpacked, tmp_path):
    where = python_process(
        tmp_path, "-c", "import rlrun; print(rlrun.__file__)", PYTHONPATH=str(unpacked)
    )
    assert where.stdout.startswith(str(unpacked))
    small = ["algo.learning_starts=50", "algo.timesteps_per_iteration=100", "hydra.run.dir=run"]
    rlrun(
        "-f",
        "dqn/cartpole-dqn",
        *small,
        "stop.training_iteration=2",
        "pass_mark.episode_reward_mean=0",
    )
    rlrun("resume", "run", "stop.training_iteration=3")
    assert "2 episodes: mean reward" in rlrun("rollout", "run", "episodes=2").stdout
    assert "rainbow" in rlrun("list", "algo").stdout
