"""What docs/from_rllib.md says of models and videos is so."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from rlrun.compose import compose, plain_config
from rlrun.parts import read_config, with_seed

TEXT = (Path(__file__).resolve().parent.parent / "docs" / "from_rllib.md").read_text()


def section(heading: str) -> str:
    found = re.search(rf"^#+ {heading}\n(.*?)(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None
    return found[1]


SNIPPETS = re.findall(
    r"^```python\n(.*?)^```", section("Accessing Model State"), re.MULTILINE | re.DOTALL
)
FILES = [code for code in SNIPPETS if code.startswith("# my_")]


@pytest.mark.parametrize("code", [code for code in SNIPPETS if code not in FILES])
def test_the_snippets_about_models_run(code, tmp_path, monkeypatch):
    for file in FILES:
        (tmp_path / file.split()[1]).write_text(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    exec(compile(code, "docs/from_rllib.md", "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("heading", ["Accessing Model State", "Gym Monitor"])
def test_the_commands_about_models_and_videos_are_valid(heading):
    commands = re.findall(r"^    rlrun (.+)$", section(heading), re.MULTILINE)
    assert commands
    for command in commands:
        read_config(with_seed(plain_config(compose(shlex.split(command)))))
