"""What a start does not pay for: heavy packages that a default run has no use for."""

import subprocess
import sys

import pytest

HEAVY = (
    "ray",
    "wandb",
    "matplotlib",
    "tensorboard",
    "torch.utils.tensorboard",
    "torch._dynamo",
    "scipy",
    "pandas",
)

DEFAULT_RUN = """
import sys
from rlrun.cli import main
try:
    main([*{choices!r}, "stop.training_iteration=1", "algo.timesteps_per_iteration=0"])
except SystemExit as exit_:
    assert exit_.code == 0, exit_.code
print("LOADED", [name for name in {heavy!r} if name in sys.modules])
"""

COMPOSITION = """
import sys
from rlrun.cli import main
try:
    main({arguments!r})
except SystemExit:
    pass
print("LOADED", [name for name in ("torch", "gymnasium", "ray", "wandb") if name in sys.modules])
"""


def loaded_by(code, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("LOADED")]
    assert lines, done.stdout + done.stderr
    return lines[0]


@pytest.mark.parametrize("choices", [["checkpoint_freq=1"], ["algo=apex", "tuned=none"]])
def test_a_run_in_one_process_loads_no_heavy_package_that_it_does_not_use(tmp_path, choices):
    assert loaded_by(DEFAULT_RUN.format(heavy=HEAVY, choices=choices), tmp_path) == "LOADED []"


def test_help_loads_neither_torch_nor_envs(tmp_path):
    assert loaded_by(COMPOSITION.format(arguments=["--help"]), tmp_path) == "LOADED []"


def test_showing_the_config_loads_neither_torch_nor_envs(tmp_path):
    arguments = ["--cfg", "job", "algo=dqn"]
    assert loaded_by(COMPOSITION.format(arguments=arguments), tmp_path) == "LOADED []"


def test_an_unknown_key_is_refused_without_loading_torch(tmp_path):
    assert loaded_by(COMPOSITION.format(arguments=["algo.typo=1"]), tmp_path) == "LOADED []"


def test_listing_choices_loads_neither_torch_nor_envs(tmp_path):
    assert loaded_by(COMPOSITION.format(arguments=["list"]), tmp_path) == "LOADED []"
