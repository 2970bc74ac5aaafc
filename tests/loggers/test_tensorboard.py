from __future__ import annotations

import math
import re
import socket
import struct
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.tensorflow_stub import pywrap_tensorflow

from rlrun.loggers.tensorboard import TensorBoardLogger, crc32c


def log(logger, run, results):
    logger.start(run)
    for result in results:
        logger.log_result(result)
    logger.close("finished")


def event_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("events.out.tfevents.*"))


def events(path: Path) -> list[Event]:
    """All events of one file; TensorBoard's reader checks every CRC."""
    return [Event.FromString(data) for data in RawEventFileLoader(str(path)).Load()]


def points(folder: Path, tag: str) -> list[tuple[int, float]]:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return [(scalar.step, scalar.value) for scalar in accumulator.Scalars(f"ray/tune/{tag}")]


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"123456789", 0xE3069283),  # the check value of CRC-32C
        (b"\x00" * 32, 0x8A9136AA),  # RFC 3720, appendix B.4
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_crc32c_gives_the_published_values(data, crc):
    assert crc32c(data) == crc


@pytest.mark.parametrize("length", [4, 5, 255, 256, 257, 260, 512, 3001])
def test_crc32c_equals_tensorboards_at_every_block_boundary(length):
    data = np.random.default_rng(length).bytes(length)
    assert crc32c(data) == pywrap_tensorflow.crc32c(data)


def test_tensorboard_reads_back_every_finite_number(make_run, make_result, tmp_path):
    log(TensorBoardLogger(), make_run(), [make_result(i, loss=np.float32(i)) for i in (1, 2, 3)])
    assert points(tmp_path, "loss") == [(1024, 1.0), (2048, 2.0), (3072, 3.0)]
    assert points(tmp_path, "episode_reward_max") == [(1024, 112.0), (2048, 112.0), (3072, 112.0)]
    (loss, *_) = points(tmp_path, "info/learner/default_policy/learner_stats/policy_loss")
    assert loss == (1024, pytest.approx(0.1))
    assert points(tmp_path, "done") == [(1024, 0.0), (2048, 0.0), (3072, 0.0)]


def test_what_is_no_finite_float32_is_left_out(make_run, make_result, tmp_path):
    result = make_result(1, nan=math.nan, inf=math.inf, huge=1e39, text="1", fits=3e38)
    log(TensorBoardLogger(), make_run(), [result])
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    tags = {tag.removeprefix("ray/tune/") for tag in accumulator.Tags()["scalars"]}
    assert "fits" in tags
    assert not tags & {"nan", "inf", "huge", "text", "config/algo/lr", "hist_stats/episode_reward"}


def test_a_file_is_a_version_a_session_start_and_one_event_a_result(
    make_run, make_result, tmp_path
):
    log(TensorBoardLogger(), make_run(), [make_result(1), make_result(2)])
    (path,) = event_files(tmp_path)
    assert re.fullmatch(
        rf"events\.out\.tfevents\.\d+\.{re.escape(socket.gethostname())}", path.name
    )
    version, session, first, second = events(path)
    assert version.file_version == "brain.Event:2"
    assert (session.session_log.status, session.step) == (SessionLog.START, 1024)
    assert (first.step, second.step) == (1024, 2048)
    assert len(first.summary.value) == len(second.summary.value) == 13
    assert first.wall_time > 1.6e9


def test_the_tag_prefix_can_be_changed(make_run, make_result, tmp_path):
    log(TensorBoardLogger(tag_prefix=""), make_run(), [make_result(1)])
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    assert "episode_reward_mean" in accumulator.Tags()["scalars"]


def test_tags_longer_than_127_bytes_and_steps_over_32_bits_survive(make_run, make_result, tmp_path):
    tag = "metric_é_" + "x" * 200
    log(TensorBoardLogger(), make_run(), [make_result(1, timesteps_total=2**40, **{tag: 1.5})])
    assert points(tmp_path, tag) == [(2**40, 1.5)]


def test_points_after_the_checkpoint_are_purged_on_resume(make_run, make_result, tmp_path):
    log(TensorBoardLogger(), make_run(), [make_result(i, loss=float(i)) for i in (1, 2, 3, 4)])
    resumed = [make_result(i, loss=-float(i)) for i in (3, 4, 5)]
    log(TensorBoardLogger(), make_run(start_iteration=2), resumed)
    assert len(event_files(tmp_path)) == 2
    expected = [(1024, 1.0), (2048, 2.0), (3072, -3.0), (4096, -4.0), (5120, -5.0)]
    assert points(tmp_path, "loss") == expected


def test_a_tag_that_only_stood_after_the_checkpoint_is_purged_too(make_run, make_result, tmp_path):
    log(TensorBoardLogger(), make_run(), [make_result(1), make_result(2, late=2.0)])
    log(TensorBoardLogger(), make_run(start_iteration=1), [make_result(2), make_result(3)])
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    assert "ray/tune/late" not in accumulator.Tags()["scalars"] or not points(tmp_path, "late")


def test_a_record_that_a_kill_cut_short_hides_nothing_of_the_resumed_run(
    make_run, make_result, tmp_path
):
    log(TensorBoardLogger(), make_run(), [make_result(i) for i in (1, 2, 3)])
    (path,) = event_files(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    log(TensorBoardLogger(), make_run(start_iteration=2), [make_result(3)])
    assert [step for step, _ in points(tmp_path, "done")] == [1024, 2048, 3072]


def test_a_new_file_sorts_after_the_old_ones_whatever_the_clock_says(
    make_run, make_result, tmp_path
):
    old = tmp_path / "events.out.tfevents.8999999999.elsewhere.123.0"
    old.touch()
    log(TensorBoardLogger(), make_run(start_iteration=1), [make_result(2)])
    log(TensorBoardLogger(), make_run(start_iteration=2), [make_result(3)])
    names = [path.name.split(".")[3] for path in event_files(tmp_path)]
    assert names == ["8999999999", "9000000000", "9000000001"]


def test_an_event_is_on_disk_before_log_result_returns(make_run, make_result, tmp_path):
    logger = TensorBoardLogger()
    logger.start(make_run())
    logger.log_result(make_result(1))
    (path,) = event_files(tmp_path)
    assert [event.step for event in events(path)] == [0, 1024, 1024]
    logger.close("failed")


def test_the_reader_in_these_tests_does_check_the_crc(make_run, make_result, tmp_path):
    log(TensorBoardLogger(), make_run(), [make_result(1)])
    (path,) = event_files(tmp_path)
    content = bytearray(path.read_bytes())
    content[-4:] = struct.pack("<I", 0)
    path.write_bytes(content)
    assert [event.step for event in events(path)] == [0, 1024]


def test_tensorboard_calls_the_trials_of_a_sweep_by_their_parameters(
    make_run, make_result, tmp_path
):
    for number, trial in enumerate(["lr=0.1,seed=0", "lr=0.1,seed=1"]):
        folder = tmp_path / str(number)
        folder.mkdir()
        log(TensorBoardLogger(), make_run(folder=folder, trial=trial), [make_result(1)])
        resumed = make_run(folder=folder, trial=trial, start_iteration=1)
        log(TensorBoardLogger(), resumed, [make_result(2)])
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(tmp_path))
    multiplexer.Reload()
    assert sorted(multiplexer.Runs()) == ["0/lr=0.1,seed=0", "1/lr=0.1,seed=1"]
    scalars = multiplexer.Scalars("1/lr=0.1,seed=1", "ray/tune/episode_reward_mean")
    assert [point.step for point in scalars] == [1024, 2048]
