"""What callbacks gave for episodes, in files and on pages."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rlrun.loggers.files import JsonLogger
from rlrun.loggers.media import as_frames, histograms_of, pictures_of, png, shortened
from rlrun.loggers.tensorboard import TensorBoardLogger
from rlrun.loggers.wandb import WandbLogger

IMAGE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
VIDEO = np.stack([IMAGE, IMAGE + 100, IMAGE + 150])


@pytest.fixture
def result(make_result):
    own = {"episode_reward": [9.0, 112.0], "episode_lengths": [9, 112]}
    return make_result(
        1,
        hist_stats={**own, "angle": [0.5, -0.5, float("nan"), 1.5]},
        episode_media={"last_frame": [IMAGE, IMAGE[..., 0]], "film": [VIDEO], "note": ["a", 3]},
        evaluation={"hist_stats": {"angle": [2.0]}, "episode_media": {"film": [VIDEO]}},
    )


def test_result_json_says_what_there_is(result, make_run, tmp_path):
    logger = JsonLogger()
    logger.start(make_run())
    logger.log_result(result)
    logger.close("finished")
    line = json.loads((tmp_path / "result.json").read_text())
    assert line["hist_stats"] == {
        "episode_reward": [9.0, 112.0],
        "episode_lengths": [9, 112],
        "angle": {"count": 4, "mean": 0.5, "min": -0.5, "max": 1.5},
    }
    film = [{"shape": [3, 4, 5, 3], "dtype": "uint8"}]
    assert line["episode_media"] == {
        "last_frame": [{"shape": [4, 5, 3], "dtype": "uint8"}, {"shape": [4, 5], "dtype": "uint8"}],
        "film": film,
        "note": ["a", 3],
    }
    assert line["evaluation"] == {
        "hist_stats": {"angle": {"count": 1, "mean": 2.0, "min": 2.0, "max": 2.0}},
        "episode_media": {"film": film},
    }
    assert result["episode_media"]["film"][0] is VIDEO, "the result itself stays as it is"


def test_what_is_no_array_is_named_by_its_type():
    short = shortened({"hist_stats": {"x": []}, "episode_media": {"x": [object(), None]}})
    assert short["hist_stats"] == {"x": {"count": 0}}
    assert short["episode_media"] == {"x": [{"type": "object"}, None]}


def test_histograms_and_pictures_are_found_by_their_keys(result):
    found = {key: numbers.tolist() for key, numbers in histograms_of(result)}
    assert found == {"hist_stats/angle": [0.5, -0.5, 1.5], "evaluation/hist_stats/angle": [2.0]}
    shapes = {key: [frames.shape for frames in each] for key, each in pictures_of(result)}
    assert shapes == {
        "episode_media/last_frame": [(1, 4, 5, 3), (1, 4, 5, 1)],
        "episode_media/film": [(3, 4, 5, 3)],
        "evaluation/episode_media/film": [(3, 4, 5, 3)],
    }


@pytest.mark.parametrize(
    ("media", "frames"),
    [
        (np.array([[0.0, 1.0, 2.0, np.nan]]), [[[[0], [255], [255], [0]]]]),
        (np.array([[True, False]]), [[[[255], [0]]]]),
        (np.array([[3, 4]], np.uint8), [[[[3], [4]]]]),
        (np.array([[3, 4]]), None),
        (np.zeros((2, 4, 4, 2), np.uint8), None),
        (np.zeros((0, 4, 3), np.uint8), None),
        ("no picture", None),
    ],
)
def test_frames_are_bytes(media, frames):
    found = as_frames(media)
    assert (None if found is None else found.tolist()) == frames


@pytest.mark.parametrize("num_channels", [1, 3, 4])
def test_a_png_holds_every_frame_as_it_was(num_channels):
    frames = np.random.default_rng(1).integers(0, 256, (3, 6, 7, num_channels), np.uint8)
    if num_channels == 4:
        frames[..., 3] = 255
    with Image.open(io.BytesIO(png(frames))) as image:
        assert (image.format, image.n_frames) == ("PNG", 3)
        for index, frame in enumerate(frames):
            image.seek(index)
            np.testing.assert_array_equal(np.array(image).reshape(frame.shape), frame)
    with Image.open(io.BytesIO(png(frames[:1]))) as image:
        np.testing.assert_array_equal(np.array(image).reshape(frames[0].shape), frames[0])


def test_tensorboard_reads_histograms_images_and_videos(result, make_run, tmp_path):
    logger = TensorBoardLogger()
    logger.start(make_run())
    logger.log_result(result)
    logger.close("finished")
    accumulator = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "histograms": 0})
    accumulator.Reload()
    (event,) = accumulator.Histograms("ray/tune/hist_stats/angle")
    histogram = event.histogram_value
    assert (event.step, histogram.num, histogram.min, histogram.max) == (1024, 3, -0.5, 1.5)
    assert (histogram.sum, histogram.sum_squares) == (1.5, 2.75)
    assert sum(histogram.bucket) == 3
    (event,) = accumulator.Images("ray/tune/episode_media/last_frame/0")
    assert (event.width, event.height) == (5, 4)
    with Image.open(io.BytesIO(event.encoded_image_string)) as image:
        np.testing.assert_array_equal(np.array(image), IMAGE)
    (event,) = accumulator.Images("ray/tune/evaluation/episode_media/film/0")
    with Image.open(io.BytesIO(event.encoded_image_string)) as image:
        assert image.n_frames == 3


def test_wandb_gets_histograms_images_and_videos(result, make_run, tmp_path, monkeypatch):
    logger = WandbLogger(mode="offline")
    logger.start(make_run())
    logged = {}
    log = logger._run.log
    monkeypatch.setattr(
        logger._run, "log", lambda row, step: (logged.update(row), log(row, step=step))
    )
    logger.log_result(result)
    logger.close("finished")
    assert logger._is_logging
    assert logged["hist_stats/angle"].histogram is not None
    kinds = {
        key: [type(each).__name__ for each in media]
        for key, media in logged.items()
        if "episode_media" in key
    }
    assert kinds == {
        "episode_media/last_frame": ["Image", "Image"],
        "episode_media/film": ["Video"],
        "evaluation/episode_media/film": ["Video"],
    }
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    files = sorted(path.suffix for path in (folder / "files" / "media").rglob("*.*"))
    assert files == [".gif", ".gif", ".png", ".png"]
