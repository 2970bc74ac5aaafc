"""Replay on disk: the same rows, no files left behind, and clear words where there is no room."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rlrun.core.batch import Batch
from rlrun.core.checkpoint import load_checkpoint, save_checkpoint
from rlrun.core.errors import BatchError, ConfigError, ResourceError, SpaceError
from rlrun.core.frames import FrameStorage
from rlrun.core.replay import ReplayBuffer
from rlrun.core.storage import Disk, Memory, Storage
from rlrun.run import make_trainer


def rows(first: int, num_rows: int) -> Batch:
    numbers = np.arange(first, first + num_rows)
    images = np.repeat(numbers.astype(np.uint8), 2 * 36).reshape(num_rows, 2, 6, 6)
    return Batch(obs=images, number=numbers, is_odd=numbers % 2 == 1)


def storages(place: Memory) -> list[Storage]:
    return [Storage(20, place), FrameStorage(20, (2, 6, 6), place)]


@pytest.mark.parametrize("kind", [0, 1])
def test_rows_on_disk_are_those_in_memory_and_outlive_a_checkpoint(tmp_path, kind):
    disk, memory = (
        ReplayBuffer(20, np.random.default_rng(2), storages(place)[kind])
        for place in (Disk(str(tmp_path)), Memory())
    )
    for first in range(0, 70, 7):
        disk.add(rows(first, 7))
        memory.add(rows(first, 7))
        found, expected = disk.sample(15), memory.sample(15)
        for name, column in expected.items():
            np.testing.assert_array_equal(found[name], column)
    assert isinstance(disk.columns["number"], np.memmap)
    folder = save_checkpoint(tmp_path / "checkpoint_000001", {"replay": disk.state_dict()}, {})
    restored = ReplayBuffer(20, np.random.default_rng(0), storages(Disk(str(tmp_path)))[kind])
    restored.load_state_dict(load_checkpoint(folder)["replay"])
    found, expected = restored.sample(30), memory.sample(30)
    for name, column in expected.items():
        np.testing.assert_array_equal(found[name], column)


def test_files_have_no_name_so_that_nothing_is_left_behind(tmp_path):
    buffer = ReplayBuffer(1000, np.random.default_rng(0), Storage(1000, Disk(str(tmp_path))))
    buffer.add(rows(0, 10))
    assert list(tmp_path.iterdir()) == []
    assert buffer.sample(5).num_rows == 5


def test_a_buffer_that_the_disk_has_no_room_for_is_refused_before_it_fills_up(tmp_path):
    with pytest.raises(
        ResourceError, match=r"buffer_size=1000000000000 rows of 81 bytes.*of free disk"
    ):
        Storage(10**12, Disk(str(tmp_path))).write(slice(0, 1), rows(0, 1))


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": np.zeros(2, np.float32)}, "'extra' .* is float32, and was not there"),
        ({"is_odd": None}, "'is_odd' .* is not there, and was bool"),
        ({"number": np.zeros(2, np.float32)}, "'number' .* is float32, and was int64"),
        ({"obs": np.zeros((2, 2, 6, 6), np.int16)}, "'obs' .* is int16, and was uint8"),
    ],
)
def test_rows_with_other_columns_than_the_first_are_refused(kind, change, message):
    storage = storages(Memory())[kind]
    storage.write(slice(0, 2), rows(0, 2))
    restored = storages(Memory())[kind]
    restored.load_state_dict(storage.state_dict(2), 2)
    given = {**rows(2, 2), **change}
    for each in (storage, restored):
        each.write(slice(2, 4), rows(2, 2))
        with pytest.raises(BatchError, match=message):
            each.write(slice(2, 4), {name: c for name, c in given.items() if c is not None})
    assert storage.read(np.arange(2))["number"].tolist() == [0, 1]


def test_a_column_without_numbers_takes_no_file(tmp_path):
    storage = Storage(10, Disk(str(tmp_path)))
    storage.write(slice(0, 2), Batch(obs=np.zeros((2, 0), np.float32), number=np.arange(2)))
    found = storage.read(np.array([1, 0]))
    assert found["obs"].shape == (2, 0)
    assert found["number"].tolist() == [1, 0]


def test_a_folder_that_is_none_is_named_before_anything_is_sampled(tmp_path):
    folder = tmp_path / "nowhere"
    on_disk = ["algo.replay_storage=memmap", f"algo.replay_folder={folder}"]
    with pytest.raises(ResourceError, match=r"replay_folder=.*nowhere is no folder. Make it"):
        make_trainer("dqn", overrides=[*DQN, *on_disk], seed=1)


def test_a_folder_that_is_none_is_named(tmp_path):
    with pytest.raises(ResourceError, match=r"replay_folder=.*nowhere is no folder"):
        Storage(10, Disk(str(tmp_path / "nowhere"))).write(slice(0, 1), rows(0, 1))


@pytest.fixture
def small_files() -> Iterator[None]:
    """The system refuses files of more than 1 MB, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10**6, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", ["rows", "frames"])
def test_a_disk_that_fills_up_is_an_error_that_says_what_to_do(tmp_path, kind, small_files):
    place = Disk(str(tmp_path))
    storage = Storage(20_000, place) if kind == "rows" else FrameStorage(20, (2, 6, 6), place)
    with pytest.raises(ResourceError, match=r"no file of .* can be made in .*File too large"):
        storage.write(slice(0, 1), rows(0, 1))


DQN = [
    "tuned=none",
    "algo.learning_starts=30",
    "algo.train_batch_size=8",
    "algo.timesteps_per_iteration=60",
]


def test_a_run_on_disk_is_the_run_in_memory(tmp_path):
    results = []
    on_disk = ["algo.replay_storage=memmap", f"algo.replay_folder={tmp_path}"]
    for choice in ([], on_disk):
        with make_trainer("dqn", overrides=[*DQN, *choice], seed=1) as trainer:
            results.append([trainer.train()["info"] for _ in range(2)])
            columns = trainer.algorithms["default_policy"].replay.buffer.columns
            assert isinstance(columns["obs"], np.memmap) == bool(choice)
    assert results[0] == results[1]


def test_without_a_folder_files_are_made_among_temporary_ones():
    assert Path(Disk().folder) == Path(tempfile.gettempdir())


def test_a_folder_is_refused_where_rows_lie_in_memory():
    with pytest.raises(ConfigError, match=r"replay_folder=/tmp has no effect"):
        make_trainer("dqn", overrides=["algo.replay_folder=/tmp"], seed=1)


def test_frames_are_stored_once_where_observations_are_images_and_elsewhere_refused():
    images = ["model=cnn", "model.post_fcnet_hiddens=[8]"]
    kinds = []
    for choice in ("null", "true", "false"):
        overrides = [*DQN, *images, f"algo.replay_frames={choice}"]
        with make_trainer("dqn", env="toy_envs.ImageEnv", overrides=overrides, seed=1) as trainer:
            storage = trainer.algorithms["default_policy"].replay.buffer.storage
            kinds.append(isinstance(storage, FrameStorage))
    assert kinds == [True, True, False]
    with pytest.raises(SpaceError, match=r"replay_frames=true needs .* images"):
        make_trainer("dqn", overrides=[*DQN, "algo.replay_frames=true"], seed=1)
    with make_trainer("dqn", overrides=DQN, seed=1) as trainer:
        assert type(trainer.algorithms["default_policy"].replay.buffer.storage) is Storage
