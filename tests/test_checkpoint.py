"""Checkpoints: complete or not there, plain data, and checked whenever they are read."""

from __future__ import annotations

import json
import os
import pickletools
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers_cli import Child, command_line, results_of, tiny_dqn, tiny_ppo

from rlrun.core import checkpoint
from rlrun.core.checkpoint import (
    checkpoint_name,
    list_checkpoints,
    load_checkpoint,
    read_manifest,
    save_checkpoint,
)
from rlrun.core.errors import CheckpointError, RlrunError
from rlrun.run import Run

SMALL_STATE = {
    "policy": {"weights": {"bias": torch.arange(3.0)}, "filter": {}},
    "trainer": {"iteration": 7, "score": 1.5, "name": "x", "none": None, "flag": True},
}


def save(folder: Path, state: dict[str, Any], **facts: Any) -> Path:
    return save_checkpoint(folder / checkpoint_name(7), state, facts)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return save(tmp_path, SMALL_STATE, config={"seed": 1})


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of DQN, with replay buffer and priorities, that has a checkpoint of iteration 2."""
    folder = tmp_path_factory.mktemp("dqn") / "run"
    plain = tiny_dqn(algo__prioritized_replay=True, stop__training_iteration=2)
    Run(plain, folder).execute()
    return folder


# What goes in comes out


def test_numbers_texts_lists_and_arrays_come_back_as_they_were(tmp_path):
    state = {
        "part": {
            "int": 2**200,
            "float": 0.1,
            "nan": float("nan"),
            "inf": float("inf"),
            "text": "naïve ☃",
            "bools": [True, False, None],
            "nested": {"list": [{"x": [1, [2]]}], "empty": {}, "nothing": []},
            "scalar": np.float32(0.5),
            "zero_dim": np.array(3, np.int16),
            "no_rows": np.zeros((0, 4), np.float32),
            "bool_array": np.array([True, False]),
            "bytes": np.arange(5, dtype=np.uint8),
            "strided": np.arange(12).reshape(3, 4)[:, ::2],
            "tensor": torch.tensor([[1.5]], dtype=torch.float64),
        }
    }
    part = load_checkpoint(save(tmp_path, state))["part"]
    for key in ("int", "float", "inf", "text", "bools", "nested"):
        assert part[key] == state["part"][key]
    assert part["nan"] != part["nan"]
    assert part["scalar"] == 0.5
    for key in ("zero_dim", "no_rows", "bool_array", "bytes", "strided"):
        expected = state["part"][key]
        assert part[key].dtype == expected.dtype
        assert part[key].shape == expected.shape
        np.testing.assert_array_equal(part[key], expected)
    np.testing.assert_array_equal(part["tensor"], [[1.5]])
    assert part["tensor"].dtype == np.float64


def test_only_the_parts_that_are_asked_for_are_read(saved):
    assert load_checkpoint(saved, ("trainer",)) == {"trainer": SMALL_STATE["trainer"]}
    with pytest.raises(CheckpointError, match="nothing"):
        load_checkpoint(saved, ("nothing",))


@pytest.mark.parametrize("large_array_bytes", [16, 1 << 24])
def test_arrays_whose_keys_look_alike_are_never_mixed_up(tmp_path, monkeypatch, large_array_bytes):
    monkeypatch.setattr(checkpoint, "LARGE_ARRAY_BYTES", large_array_bytes)
    arrays = {"a/b": np.zeros(2), "a": {"b": np.ones(2)}, "a.b": np.full(2, 2.0)}
    try:
        part = load_checkpoint(save(tmp_path, {"part": arrays}))["part"]
    except CheckpointError:
        return  # To refuse them is as good.
    assert [part["a/b"][0], part["a"]["b"][0], part["a.b"][0]] == [0.0, 1.0, 2.0]


def test_large_arrays_have_files_of_their_own_and_come_back_memory_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "LARGE_ARRAY_BYTES", 1024)
    large, small = np.arange(256, dtype=np.float32), np.arange(255, dtype=np.float32)
    folder = save(tmp_path, {"learner": {"replay": {"obs": large, "rewards": small}}})
    assert [path.name for path in folder.rglob("*.npy")] == ["replay.obs.npy"]
    replay = load_checkpoint(folder)["learner"]["replay"]
    assert isinstance(replay["obs"], np.memmap)
    assert not isinstance(replay["rewards"], np.memmap)
    assert not replay["obs"].flags.writeable
    np.testing.assert_array_equal(replay["obs"], large)
    np.testing.assert_array_equal(replay["rewards"], small)


def test_a_run_resumes_from_memory_mapped_replay(tmp_path, monkeypatch):
    plain = tiny_dqn(algo__prioritized_replay=True, algo__n_step=3, stop__training_iteration=2)
    Run(plain, tmp_path / "small").execute()
    monkeypatch.setattr(checkpoint, "LARGE_ARRAY_BYTES", 64)
    Run(plain, tmp_path / "large").execute()
    assert list((tmp_path / "large").rglob("*.npy"))
    weights = []
    for name in ("small", "large"):
        run = Run.resume(tmp_path / name, {"stop.training_iteration": 3})
        assert run.execute()["training_iteration"] == 3
        weights.append(load_checkpoint(tmp_path / name / checkpoint_name(3), ("policy",)))
    for name, array in weights[0]["policy"]["weights"]["default_policy"].items():
        np.testing.assert_array_equal(
            array, weights[1]["policy"]["weights"]["default_policy"][name]
        )


@pytest.mark.parametrize(
    "value",
    [
        object(),
        {1, 2},
        b"bytes",
        1j,
        Path("x"),
        np.array([object()]),
        np.array(["text"]),
    ],
    ids=lambda value: type(value).__name__ + str(getattr(value, "dtype", "")),
)
def test_a_type_that_is_no_plain_data_is_refused_with_its_key(tmp_path, value):
    with pytest.raises(CheckpointError, match="mine/inner"):
        save(tmp_path, {"learner": {"mine": {"inner": [1, value]}}})
    assert list_checkpoints(tmp_path) == []


def test_a_state_that_is_refused_leaves_nothing_behind(tmp_path):
    with pytest.raises(CheckpointError):
        save(tmp_path, {"learner": {"mine": object()}})
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_of_the_same_iteration_is_replaced(tmp_path):
    save(tmp_path, {"trainer": {"x": 1}, "other": {"array": np.zeros(3)}})
    folder = save(tmp_path, {"trainer": {"x": 2}})
    assert load_checkpoint(folder) == {"trainer": {"x": 2}}
    assert list(tmp_path.iterdir()) == [folder]


# No pickle


def test_a_checkpoint_holds_no_pickle(run_dir):
    (folder,) = list_checkpoints(run_dir)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".json", ".safetensors", ".npy"}
    for path in files:
        assert not is_pickle(path.read_bytes()), path
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.suffix == ".npy":
            np.load(path, allow_pickle=False)


def is_pickle(data: bytes) -> bool:
    """Whether the bytes read as a pickle to its end (a zip may hold one: torch.save's is)."""
    if data.startswith(b"PK"):
        return True
    try:
        return sum(1 for _ in pickletools.genops(data)) > 1
    except Exception:  # pickletools raises whatever the bytes lead it to
        return False


def test_the_scan_for_pickles_finds_one(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "weights.pt")
    np.save(tmp_path / "objects.npy", np.array([object()]), allow_pickle=True)
    assert is_pickle((tmp_path / "weights.pt").read_bytes())
    with pytest.raises(ValueError, match="allow_pickle"):
        np.load(tmp_path / "objects.npy", allow_pickle=False)


# Damage


def damage(path: Path) -> None:
    """Change one byte in the middle; size and time stay."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))


def test_every_file_of_a_checkpoint_is_checked(run_dir, tmp_path):
    (folder,) = list_checkpoints(run_dir)
    names = [path.name for path in folder.iterdir() if path.name != "manifest.json"]
    assert len(names) >= 5
    for name in names:
        whole = (folder / name).read_bytes()
        damage(folder / name)
        with pytest.raises(CheckpointError, match=f"is damaged: {name} is not what was written"):
            load_checkpoint(folder)
        (folder / name).write_bytes(whole[:-1])
        with pytest.raises(CheckpointError, match=f"is damaged: {name}"):
            load_checkpoint(folder)
        (folder / name).unlink()
        with pytest.raises(CheckpointError, match=f"lacks the file {name}"):
            load_checkpoint(folder)
        (folder / name).write_bytes(whole)
    load_checkpoint(folder)


def test_a_damaged_large_array_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "LARGE_ARRAY_BYTES", 1024)
    folder = save(tmp_path, {"learner": {"obs": np.arange(1000)}})
    damage(folder / "learner" / "obs.npy")
    with pytest.raises(CheckpointError, match=r"is damaged: learner/obs\.npy"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "null",
        '{"format_version": "one"}',
    ],
)
def test_a_damaged_manifest_is_named(saved, text):
    (saved / "manifest.json").write_text(text)
    with pytest.raises(CheckpointError, match=f"{saved.name}.*manifest"):
        load_checkpoint(saved)


def test_a_manifest_without_its_list_of_files_is_named(saved):
    (saved / "manifest.json").write_text('{"format_version": 1}')
    with pytest.raises(CheckpointError, match=f"{saved.name} is damaged"):
        load_checkpoint(saved)


def test_a_newer_format_is_refused_with_both_numbers(saved):
    manifest = json.loads((saved / "manifest.json").read_text())
    (saved / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    with pytest.raises(CheckpointError, match="has checkpoint format 99; this rlrun reads up to 1"):
        load_checkpoint(saved)


def test_a_folder_that_is_no_checkpoint_is_named(tmp_path):
    for folder in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(CheckpointError, match="is not a complete checkpoint"):
            load_checkpoint(folder)


@pytest.fixture
def rlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with command_line(tmp_path, monkeypatch) as run:
        yield run


def test_a_damaged_checkpoint_ends_the_command_with_one_message(rlrun, tmp_path):
    plain = tiny_ppo(stop__training_iteration=2, checkpoint_freq=1)
    Run(plain, tmp_path / "run").execute()
    damage(tmp_path / "run" / "checkpoint_000002" / "learner.safetensors")
    older = shlex.quote(str(tmp_path / "run" / "checkpoint_000001"))
    for command in (["resume", "run", "stop.training_iteration=3"], ["resume", "run"]):
        outcome = rlrun(*command)
        assert outcome.status == 1
        assert outcome.stderr.startswith("rlrun: The checkpoint ")
        assert "learner.safetensors is not what was written" in outcome.stderr
        assert f"There is an older one: rlrun resume {older}" in outcome.stderr
        assert "Traceback" not in outcome.stderr
    outcome = rlrun("resume", "run/checkpoint_000001", "stop.training_iteration=3")
    assert outcome.status == 0
    assert "goes on from iteration 1" in outcome.stderr
    assert "1 newer checkpoint(s) renamed to superseded_*" in outcome.stderr
    assert [result["training_iteration"] for result in results_of(tmp_path / "run")] == [1, 2, 3]


@pytest.mark.parametrize("command", ["resume", "rollout"])
def test_a_checkpoint_that_is_not_there_ends_the_command_with_one_message(rlrun, tmp_path, command):
    Run(tiny_ppo(stop__training_iteration=1), tmp_path / "run").execute()
    outcome = rlrun(command, "run/checkpoint_000099")
    assert outcome.status == 1
    assert outcome.stderr.startswith("rlrun: ")
    assert "checkpoint_000099 is not a complete checkpoint" in outcome.stderr
    assert "Traceback" not in outcome.stderr


# Half-written folders


def test_half_written_folders_are_ignored_and_cleaned_away_on_resume(tmp_path):
    run_dir = tmp_path / "run"
    Run(tiny_ppo(stop__training_iteration=2), run_dir).execute()
    (run_dir / ".checkpoint_000003.123.tmp").mkdir()
    (run_dir / ".checkpoint_000003.123.tmp" / "state.json").write_text("{")
    (run_dir / "checkpoint_000004").mkdir()
    (run_dir / "checkpoint_000004" / "state.json").write_text("{}")
    (run_dir / "checkpoint_000005").write_text("no folder")
    (run_dir / "checkpoint_best").mkdir()
    assert [path.name for path in list_checkpoints(run_dir)] == ["checkpoint_000002"]
    result = Run.resume(run_dir, {"stop.training_iteration": 4}).execute()
    assert result["training_iteration"] == 4
    assert not list(run_dir.glob(".checkpoint_*"))
    assert [path.name for path in list_checkpoints(run_dir)] == [
        "checkpoint_000002",
        "checkpoint_000004",
    ]


@pytest.mark.parametrize("kill_after", [1, 2, 5])
def test_a_kill_at_any_moment_leaves_a_run_that_can_be_resumed(tmp_path, kill_after):
    run_dir = tmp_path / "run"
    arguments = ["algo=dqn", *forever(), "checkpoint_freq=1", "hydra.run.dir=run"]
    child = Child(tmp_path, *arguments)
    child.wait_for_result(run_dir, kill_after)
    child.signal(signal.SIGKILL)
    assert child.wait().status == -signal.SIGKILL
    newest = list_checkpoints(run_dir)[-1:]
    for folder in list_checkpoints(run_dir):
        load_checkpoint(folder)
    if kill_after > 1:
        # The checkpoint of an iteration is complete before the result of the next one is written.
        assert checkpoint.iteration_of(newest[0]) >= kill_after - 1
    if not newest:
        with pytest.raises(CheckpointError, match="has no complete checkpoint to resume from"):
            Run.resume(run_dir)
        return
    goal = checkpoint.iteration_of(newest[0]) + 1
    run = Run.resume(run_dir, {"stop.training_iteration": goal})
    assert run.execute()["training_iteration"] == goal
    iterations = [result["training_iteration"] for result in results_of(run_dir)]
    assert iterations == list(range(1, goal + 1))
    assert not list(run_dir.glob(".checkpoint_*"))


def forever() -> list[str]:
    return [
        "algo.timesteps_per_iteration=20",
        "algo.learning_starts=10",
        "algo.train_batch_size=8",
        "stop.training_iteration=1000000",
        "logger=none",
        "seed=1",
    ]


def test_a_kill_while_a_checkpoint_is_replaced_leaves_one_of_the_two(tmp_path, monkeypatch):
    folder = save(tmp_path, {"trainer": {"x": 1}})

    class Killed(BaseException):
        pass

    replace = Path.replace

    def killed(path: Path, target: Path) -> Path:
        if path.is_dir():
            raise Killed
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(Killed):
        save(tmp_path, {"trainer": {"x": 2}})
    monkeypatch.undo()
    assert load_checkpoint(folder)["trainer"]["x"] in (1, 2)


# How many are kept


def kept(tmp_path: Path, **settings: Any) -> list[int]:
    """The iterations whose checkpoints are left of a run of six, by the score 5, 1, 4, 2, 6, 3."""
    plain = tiny_ppo(
        stop__training_iteration=6,
        checkpoint_freq=1,
        callbacks={"mine": {"_target_": f"{__name__}.Scores"}},
        **settings,
    )
    Run(plain, tmp_path / "run").execute()
    return [checkpoint.iteration_of(path) for path in list_checkpoints(tmp_path / "run")]


def scores_callbacks() -> type:
    from rlrun.core.callbacks import Callbacks

    class Scores(Callbacks):
        def on_train_result(self, *, trainer: Any, result: dict[str, Any], **kwargs: Any) -> None:
            result["custom_metrics"]["mark"] = [5, 1, 4, 2, 6, 3][trainer.iteration - 1]

    return Scores


Scores = scores_callbacks()


@pytest.mark.parametrize(
    ("settings", "iterations"),
    [
        ({"keep_checkpoints_num": None}, [1, 2, 3, 4, 5, 6]),
        ({"keep_checkpoints_num": 2}, [5, 6]),
        ({"keep_checkpoints_num": 1}, [6]),
        # By score: the marks 6 and 5 are those of iterations 5 and 1; 6 is the newest.
        ({"keep_checkpoints_num": 2, "checkpoint_score_attr": "custom_metrics/mark"}, [1, 5, 6]),
        # Lower is better: 1 and 2 are those of iterations 2 and 4.
        (
            {"keep_checkpoints_num": 2, "checkpoint_score_attr": "min-custom_metrics.mark"},
            [2, 4, 6],
        ),
        # What is not a number ranks nothing: the newer ones stay.
        ({"keep_checkpoints_num": 2, "checkpoint_score_attr": "date"}, [5, 6]),
    ],
    ids=str,
)
def test_the_best_checkpoints_and_the_newest_are_kept(tmp_path, settings, iterations):
    assert kept(tmp_path, **settings) == iterations


def test_a_damaged_old_checkpoint_does_not_end_a_run(tmp_path):
    plain = tiny_ppo(stop__training_iteration=2, checkpoint_freq=1, keep_checkpoints_num=2)
    Run(plain, tmp_path / "run").execute()
    (tmp_path / "run" / "checkpoint_000001" / "manifest.json").write_text("")
    manifest = tmp_path / "run" / "checkpoint_000002" / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "score": "best"}))
    Run.resume(tmp_path / "run", {"stop.training_iteration": 4}).execute()
    found = [checkpoint.iteration_of(path) for path in list_checkpoints(tmp_path / "run")]
    assert found == [3, 4]


def test_a_kill_while_a_checkpoint_is_removed_leaves_nothing_that_looks_like_one(
    tmp_path, monkeypatch
):
    saved = save(tmp_path, SMALL_STATE)

    def kill(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(checkpoint.shutil, "rmtree", kill)
        with pytest.raises(KeyboardInterrupt):
            checkpoint.remove(saved)
    assert list(saved.parent.glob("checkpoint_*")) == []
    checkpoint.remove_unfinished(saved.parent)
    assert list(saved.parent.iterdir()) == []


def test_scores_are_remembered_by_a_resumed_run(tmp_path):
    settings = {"keep_checkpoints_num": 1, "checkpoint_score_attr": "custom_metrics/mark"}
    plain = tiny_ppo(
        stop__training_iteration=2,
        checkpoint_freq=1,
        callbacks={"mine": {"_target_": f"{__name__}.Scores"}},
        **settings,
    )
    Run(plain, tmp_path / "run").execute()
    Run.resume(tmp_path / "run", {"stop.training_iteration": 4}).execute()
    found = [checkpoint.iteration_of(path) for path in list_checkpoints(tmp_path / "run")]
    assert found == [1, 4]


def test_the_manifest_says_what_the_checkpoint_is(run_dir):
    (folder,) = list_checkpoints(run_dir)
    manifest = read_manifest(folder)
    assert manifest["format_version"] == 1
    assert manifest["iteration"] == 2
    assert manifest["timesteps_total"] == results_of(run_dir)[-1]["timesteps_total"]
    assert manifest["config"] == json.loads((run_dir / "params.json").read_text())


# Disks that refuse


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("only root may mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_an_error_that_leaves_the_older_checkpoint(small_disk):
    older = save_checkpoint(small_disk / checkpoint_name(1), SMALL_STATE, {})
    large = {"learner": {"replay": np.zeros(1 << 18, np.uint8)}}
    with pytest.raises(CheckpointError, match=r"checkpoint_000002 could not be written: .*space"):
        save_checkpoint(small_disk / checkpoint_name(2), large, {})
    assert list(small_disk.iterdir()) == [older]
    assert load_checkpoint(older)["trainer"] == SMALL_STATE["trainer"]


def test_a_full_disk_does_not_cost_the_checkpoint_that_would_be_replaced(small_disk):
    older = save_checkpoint(small_disk / checkpoint_name(1), SMALL_STATE, {})
    large = {"learner": {"replay": np.zeros(1 << 18, np.uint8)}}
    with pytest.raises(CheckpointError, match="could not be written"):
        save_checkpoint(older, large, {})
    assert load_checkpoint(older)["trainer"] == SMALL_STATE["trainer"]


def test_a_run_on_a_full_disk_ends_with_one_message_and_can_be_resumed(
    small_disk, tmp_path, monkeypatch
):
    plain = tiny_ppo(stop__training_iteration=50, checkpoint_freq=1, model__fcnet_hiddens=[8])
    run_dir = small_disk / "run"
    with pytest.raises(RlrunError, match="No space left on device"):
        Run(plain, run_dir).execute()
    newest = list_checkpoints(run_dir)[-1]
    load_checkpoint(newest)
    assert not list(run_dir.glob(".checkpoint_*"))
    for old in list_checkpoints(run_dir)[:-1]:
        checkpoint.remove(old)
    goal = checkpoint.iteration_of(newest) + 1
    result = Run.resume(run_dir, {"stop.training_iteration": goal}).execute()
    assert result["training_iteration"] == goal


def test_a_folder_that_takes_no_files_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        save(tmp_path / "file", SMALL_STATE)
