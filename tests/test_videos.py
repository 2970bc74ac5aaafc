"""Episodes become videos, whole or not at all, and training knows nothing of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
from gymnasium import spaces
from helpers_cli import command_line, python_process

from rlrun.compose import compose, plain_config
from rlrun.core.errors import ConfigError, MissingExtraError, WorkerError
from rlrun.python_api import make_trainer
from rlrun.run import Run

SMALL = [
    "algo=ppo",
    "tuned=none",
    "algo.train_batch_size=200",
    "algo.minibatch_size=100",
    "algo.num_epochs=1",
    "algo.num_envs_per_worker=2",
    "logger=none",
    "seed=1",
]


@pytest.fixture
def rlrun_here(tmp_path, monkeypatch):
    with command_line(tmp_path, monkeypatch) as run:
        yield run


def execute(folder: Path, *overrides: str) -> list[dict[str, Any]]:
    Run(plain_config(compose([*SMALL, *overrides])), folder).execute()
    return results(folder)


def results(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "result.json").read_text().splitlines()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "videos").iterdir())


def num_frames(path: Path) -> int:
    return imageio_ffmpeg.count_frames_and_secs(str(path))[0]


def learned(found: list[dict[str, Any]]) -> list[Any]:
    return [(each["info"]["learner"], each["hist_stats"]) for each in found]


@pytest.mark.parametrize(
    "env",
    [
        ["env=cartpole"],
        pytest.param(["env=cartpole", "env.vectorization=async"], marks=pytest.mark.slow),
        pytest.param(["env=lunarlander"], marks=pytest.mark.slow),
        pytest.param(["env=inverted_pendulum"], marks=pytest.mark.slow),
        ["env=pong", "algo.train_batch_size=64", "algo.minibatch_size=32"],
    ],
    ids=" ".join,
)
def test_recording_changes_no_number_of_training(env, tmp_path):
    stop = "stop.training_iteration=2"
    without = execute(tmp_path / "without", *env, stop)
    recorded = execute(
        tmp_path / "with", *env, stop, "env.record_env=true", "env.record_interval=2"
    )
    assert learned(recorded) == learned(without)
    assert not (tmp_path / "without" / "videos").exists()
    assert "videos" not in without[0]


def test_every_nth_episode_of_the_first_env_is_a_whole_file(tmp_path):
    found = execute(
        tmp_path,
        "env=cartpole",
        "stop.training_iteration=2",
        "env.record_env=true",
        "env.record_interval=3",
    )
    files = names(tmp_path)
    assert files
    for name in files:
        purpose, _, step, _, episode, _, total = name.removesuffix(".mp4").split("_")
        assert purpose == "training"
        assert int(step) in (0, 200)
        assert int(episode) % 3 == 0
        # The reset, and each step, which is worth 1.
        assert num_frames(tmp_path / "videos" / name) == int(total) + 1
    listed = [video for each in found for video in each["videos"]]
    assert sorted(listed) == [f"videos/{name}" for name in files]


def test_a_resumed_run_records_on_and_gives_the_same_numbers(tmp_path):
    record = ["env=cartpole", "env.record_env=true", "env.record_interval=2"]
    whole = execute(tmp_path / "whole", *record, "stop.training_iteration=3")
    execute(tmp_path / "part", *record, "stop.training_iteration=1")
    Run.resume(tmp_path / "part", {"stop.training_iteration": 3}).execute()
    assert learned(results(tmp_path / "part")) == learned(whole)
    # Of the episode in which it was stopped there is none; the next one stands for it.
    assert len(names(tmp_path / "part")) >= len(names(tmp_path / "whole")) - 1


def test_evaluations_record_their_first_episodes(tmp_path):
    found = execute(
        tmp_path,
        "env=pendulum",
        "stop.training_iteration=2",
        "env.horizon=20",
        "evaluation.interval=1",
        "evaluation.duration=4",
        "evaluation.record=2",
    )
    assert len(names(tmp_path)) == 4
    for each, step in zip(found, (200, 400), strict=True):
        returns = each["evaluation"]["hist_stats"]["episode_reward"]
        assert len(each["videos"]) == 2
        for index, video in enumerate(each["videos"]):
            assert video.startswith(
                f"videos/evaluation_step_{step:09d}_episode_{index:06d}_return_"
            )
            total = float(video.removesuffix(".mp4").rpartition("_")[2])
            assert np.isclose(returns, total, rtol=1e-4).any()
            assert num_frames(tmp_path / video) == 21


def test_rollout_records_what_it_reports(tmp_path, rlrun_here):
    execute(tmp_path / "run", "env=cartpole", "stop.training_iteration=1")
    outcome = rlrun_here("rollout", "run", "episodes=2", "--video")
    assert outcome.status == 0, outcome.stderr
    assert "Videos: run/videos" in outcome.stdout
    files = names(tmp_path / "run")
    assert len(files) == 2
    for index, name in enumerate(files):
        assert name.startswith(f"rollout_step_000000200_episode_{index:06d}")
        total = name.removesuffix(".mp4").rpartition("_")[2]
        assert f"episode {index + 1}: reward {total}, length {total}" in outcome.stdout
        assert num_frames(tmp_path / "run" / "videos" / name) == int(total) + 1
    refused = rlrun_here("rollout", "run", "video=true", "render=true")
    assert refused.status == 2
    assert "give one of them" in refused.stderr


def test_atari_and_mujoco_are_recorded_without_a_screen(tmp_path):
    for env, frames in (("pong", 13), ("inverted_pendulum", 13)):
        execute(
            tmp_path / env,
            f"env={env}",
            "algo.train_batch_size=64",
            "algo.minibatch_size=32",
            "stop.training_iteration=1",
            "env.horizon=12",
            "evaluation.interval=1",
            "evaluation.duration=1",
            "evaluation.config.algo.num_envs_per_worker=1",
            "evaluation.record=1",
        )
        (name,) = names(tmp_path / env)
        assert num_frames(tmp_path / env / "videos" / name) <= frames


def test_only_the_first_worker_records(tmp_path, ray_cluster):
    execute(
        tmp_path,
        "env=cartpole",
        "stop.training_iteration=2",
        "env.record_env=true",
        "env.record_interval=1",
        "resources.num_workers=2",
    )
    episodes = [int(name.split("_")[4]) for name in names(tmp_path)]
    assert episodes == list(range(len(episodes)))
    assert episodes


class WithoutPictures(gym.Env):
    """Has no render modes."""

    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.Discrete(2)


class WithOddPictures(WithoutPictures):
    """Says that it renders, and gives text."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode

    def reset(self, **kwargs: Any) -> Any:
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1, np.float32), 0.0, False, False, {}

    def render(self) -> Any:
        return "a picture"


def trainer_of(env: str, *overrides: str) -> Any:
    return make_trainer("ppo", env=env, overrides=[*SMALL[1:6], *overrides, "env.record_env=true"])


def test_envs_that_give_no_pictures_are_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"no pictures to record \(its constructor takes no"):
        trainer_of(f"{__name__}.WithoutPictures")
    with pytest.raises(ConfigError, match=r"CartPole-v1.* Use env\.vectorization=sync"):
        trainer_of("CartPole-v1", "env.vectorization=native")
    with (
        trainer_of(f"{__name__}.WithOddPictures") as trainer,
        pytest.raises(WorkerError, match=r"must return an array \[height, width, 3\] of uint8"),
    ):
        trainer.train()
    assert list(tmp_path.iterdir()) == []


def test_settings_of_videos_that_change_nothing_are_refused():
    for overrides, message in (
        (["env.record_interval=5"], "no effect with env.record_env=false"),
        (["evaluation.record=9"], r"exceeds the \d+ of evaluation\.duration=10 episodes"),
        (["evaluation.record=-1"], "must be at least 0"),
        (["env.record_env=true", "env.record_interval=0"], "must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_trainer("ppo", env="CartPole-v1", overrides=[*SMALL[1:6], *overrides])


def test_a_missing_encoder_is_said_before_training(monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'rlrun\[video\]'"):
        trainer_of("CartPole-v1")


def test_a_killed_run_leaves_no_half_video(tmp_path):
    script = (
        "import os, rlrun\n"
        "trainer = rlrun.make_trainer('ppo', env='Pendulum-v1', overrides=["
        "'tuned=none', 'env.record_env=true', 'algo.num_envs_per_worker=1',"
        "'algo.train_batch_size=250'])\n"
        "trainer.train()\n"
        "os._exit(0)\n"
    )
    assert python_process(tmp_path, "-c", script).status == 0
    visible = [name for name in names(tmp_path) if not name.startswith(".")]
    assert len(visible) == 1
    assert num_frames(tmp_path / "videos" / visible[0]) == 201


def test_a_file_that_the_encoder_could_not_complete_is_no_video(tmp_path, monkeypatch, caplog):
    whole = tmp_path / "whole"
    execute(whole, "env=cartpole", "stop.training_iteration=1", "env.record_env=true")
    video = next((whole / "videos").iterdir())
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes()[:-100])
    encoder = tmp_path / "ffmpeg"
    encoder.write_text(
        f'#!/bin/sh\ncat > /dev/null\nfor out; do :; done\ncp {cut} "$out"\nexit 1\n'
    )
    encoder.chmod(0o755)
    monkeypatch.setattr(imageio_ffmpeg._io, "get_ffmpeg_exe", lambda: str(encoder))
    folder = tmp_path / "run"
    found = execute(folder, "env=cartpole", "stop.training_iteration=1", "env.record_env=true")
    assert not names(folder)
    assert found[-1]["videos"] == []
    assert "could not be written: the encoder left an incomplete file" in caplog.text
