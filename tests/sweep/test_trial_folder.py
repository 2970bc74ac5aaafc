"""What a sweep's driver does with the folders of trials."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rlrun.core import checkpoint
from rlrun.core.errors import RlrunError
from rlrun.sweep import trial_folder


@pytest.fixture
def folders(tmp_path):
    for name in ("source", "target"):
        (tmp_path / name).mkdir()
    return tmp_path / "source", tmp_path / "target"


def add_checkpoint(folder: Path, iteration: int) -> Path:
    path = folder / checkpoint.checkpoint_name(iteration)
    path.mkdir()
    (path / checkpoint.MANIFEST).write_text("{}")
    return path


def test_a_copy_takes_what_replaces_a_checkpoint_that_vanishes_meanwhile(folders, monkeypatch):
    source, target = folders
    old, copy = add_checkpoint(source, 1), shutil.copytree

    def copy_late(path: Path, to: Path) -> None:
        if path == old:
            add_checkpoint(source, 2)
            shutil.rmtree(old)
        copy(path, to)

    monkeypatch.setattr(trial_folder.shutil, "copytree", copy_late)
    assert trial_folder.copy_checkpoint(source, target) == 2
    assert [path.name for path in (target / trial_folder.COPIED).iterdir()] == ["checkpoint_000002"]


def test_the_checkpoint_that_was_asked_for_is_copied_or_else_the_newest(folders):
    source, target = folders
    for iteration in (1, 2, 3):
        add_checkpoint(source, iteration)
    assert trial_folder.copy_checkpoint(source, target, 2) == 2
    assert [path.name for path in (target / trial_folder.COPIED).iterdir()] == ["checkpoint_000002"]
    assert trial_folder.copy_checkpoint(source, target, 7) == 3


def test_a_copy_that_the_disk_refuses_is_an_error(folders):
    source, target = folders
    add_checkpoint(source, 1)
    target.rmdir()
    with pytest.raises(RlrunError, match="cannot be copied"):
        trial_folder.copy_checkpoint(source, target)


def test_looking_for_a_checkpoint_leaves_one_alone_that_is_being_replaced(folders):
    source, target = folders
    replaced = add_checkpoint(source, 1)
    replaced.rename(source / f".{replaced.name}{checkpoint.REPLACED}")
    assert trial_folder.copy_checkpoint(source, target) is None
    assert not replaced.exists()


def test_a_kill_at_the_last_step_of_taking_over_leaves_the_checkpoint(folders):
    _, target = folders
    (target / "params.json").write_text("{}")
    taken_over = add_checkpoint(target, 3)
    (target / trial_folder.COPIED).mkdir()
    assert trial_folder.make_ready(target)
    assert taken_over.exists()


def test_every_signal_has_words(tmp_path):
    assert trial_folder.last_words(tmp_path, -9) == "killed by SIGKILL"
    assert trial_folder.last_words(tmp_path, -40) == "killed by signal 40"
