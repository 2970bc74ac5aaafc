"""Episodes in pictures: some of those of a worker's first env, as mp4 files.

The first env is made with render_mode=rgb_array and is watched from without: policies, samplers and
the env itself know nothing of it, and draw the same random numbers as without.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlrun.core.errors import WorkerError, missing_extra
from rlrun.workers.base_vector_env import StepResult, VectorEnv

logger = logging.getLogger("rlrun.workers")


@dataclass(frozen=True, kw_only=True)
class VideoConfig:
    """Which episodes of the first env are recorded, and where."""

    purpose: str
    """What the episodes are run for; names begin with it."""
    interval: int = 1
    """Every how many episodes one is recorded, the first one always."""
    first: int | None = None
    """How many are recorded after each reset of all envs (an evaluation begins with one), counted
    anew; None: all that `interval` says."""
    folder: str = "videos"
    """Where the files go."""


def require_encoder(key: str) -> Any:
    """The package that writes videos, `key` being what needs it. Raises MissingExtraError."""
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise missing_extra("imageio-ffmpeg", "video", key) from error
    return imageio_ffmpeg


class FilmedVectorEnv:
    """A vector env that records episodes of its first env; in all else the one that it has.

    `worker` knows the `timestep`, which stands in the names of files.
    """

    def __init__(self, env: VectorEnv, config: VideoConfig, worker: Any) -> None:
        self.env = env
        self.config = config
        self.worker = worker
        self.num_episodes = -1
        """Episodes of the first env that have begun before the running one."""
        self.num_since_reset = -1
        """The same since all envs were reset."""
        self.is_owed = False
        """Whether a recorded episode was cut off by a resume, so that the next one is recorded."""
        self._is_reset_next = False
        self._video: _Video | None = None

    def __getattr__(self, name: str) -> Any:
        if name == "env":  # not there yet in a copy
            raise AttributeError(name)
        return getattr(self.env, name)

    def reset(self, seeds: list[int]) -> Any:
        """Start every env anew."""
        observations = self.env.reset(seeds)
        self.num_since_reset = -1
        self._is_reset_next = False
        self._begin_episode()
        return observations

    def step(self, actions: Any) -> StepResult:
        """One step of every env, and a picture after it if one is taken."""
        found = self.env.step(actions)
        if self._is_reset_next:  # This step only reset it.
            self._is_reset_next = False
            self._begin_episode()
            return found
        _, rewards, terminated, truncated = found
        is_over = bool(terminated[0] or truncated[0])
        if self._video is not None:
            self._video.add(self.frame(), float(rewards[0]))
            if is_over:
                self._video.finish(self._name(self._video.total_reward))
                self._video = None
        self._is_reset_next = is_over and self.env.skips_reset_rows
        return found

    def reset_done(self, done: np.ndarray) -> Any:
        """Reset the envs of the mask."""
        observations = self.env.reset_done(done)
        if done[0] and not self.env.skips_reset_rows:
            self._begin_episode()
        return observations

    def frame(self) -> np.ndarray:
        """A picture of the first env now, [height, width, 3], uint8. Raises WorkerError."""
        found = self.env.frame()
        if not (
            isinstance(found, np.ndarray)
            and found.dtype == np.uint8
            and found.ndim == 3
            and found.shape[2] == 3
        ):
            raise WorkerError(
                f"render() of {self.env.env_id!r} must return an array [height, width, 3] of uint8 "
                f"with render_mode='rgb_array', and it returned "
                f"{getattr(found, 'shape', type(found).__name__)}. Mend it, or do not record "
                f"videos (env.record_env=false, evaluation.record=0)."
            )
        return found

    def state_dict(self) -> dict[str, Any]:
        """How many episodes there were; pictures are not kept."""
        is_owed = self.is_owed or self._video is not None
        return {"num_episodes": self.num_episodes, "is_owed": is_owed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on counting; of an episode whose beginning was not seen there is no video."""
        self._drop()
        self.num_episodes = int(state["num_episodes"])
        self.is_owed = bool(state["is_owed"])

    def close(self) -> None:
        """Close the envs; an episode that still runs gives no video."""
        self._drop()
        self.env.close()

    def _begin_episode(self) -> None:
        self._drop()
        self.num_episodes += 1
        self.num_since_reset += 1
        config = self.config
        is_due = self.num_episodes % config.interval == 0
        if config.first is not None:
            is_due = self.num_since_reset < config.first
        if is_due or self.is_owed:
            self.is_owed = False
            self._video = _Video(Path(config.folder), config.purpose, self._frames_per_second())
            self._video.add(self.frame(), 0.0)

    def _drop(self) -> None:
        if self._video is not None:
            self._video.drop()
            self._video = None

    def _name(self, total_reward: float) -> str:
        step, config = self.worker.timestep, self.config
        episode = self.num_episodes if config.first is None else self.num_since_reset
        return (
            f"{config.purpose}_step_{step:09d}_episode_{episode:06d}_return_{total_reward:.6g}.mp4"
        )

    def _frames_per_second(self) -> float:
        return float(self.env.frames_per_second or 30.0)


class _Video:
    """A file that is written frame by frame beside its place, and renamed when it is complete."""

    def __init__(self, folder: Path, purpose: str, frames_per_second: float) -> None:
        self.folder = folder
        self.total_reward = 0.0
        self._temporary = folder / f".{purpose}.tmp.mp4"
        self._frames_per_second = frames_per_second
        self._first: np.ndarray | None = None
        self._writer: Generator[None, Any, None] | None = None
        self._is_broken = False

    def add(self, frame: np.ndarray, reward: float) -> None:
        """The picture after a step with that reward; the first one is of the reset."""
        self.total_reward += reward
        if self._first is None:  # The encoder starts when there is something to encode.
            self._first = frame.copy()
            return
        with self._tolerant():
            if self._writer is None and not self._is_broken:
                self._writer = self._open(self._first)
            if self._writer is not None and not self._is_broken:
                self._writer.send(np.ascontiguousarray(frame))

    def finish(self, name: str) -> None:
        """Complete the file, under its name."""
        with self._tolerant():
            if self._writer is not None and not self._is_broken:
                self._writer.close()
                _require_whole(self._temporary)
                self._temporary.replace(self.folder / name)
                logger.info("Wrote %s", self.folder / name)
        if self._is_broken:
            self.drop()

    def drop(self) -> None:
        """Leave nothing behind."""
        with self._tolerant():
            if self._writer is not None:
                self._writer.close()
            self._temporary.unlink(missing_ok=True)

    @contextmanager
    def _tolerant(self) -> Iterator[None]:
        """Within, what the disk or the encoder refuses is a warning: no reason to lose a run."""
        try:
            yield
        except (OSError, StopIteration) as error:
            if not self._is_broken:
                logger.warning("A video in %s could not be written: %s", self.folder, error)
            self._is_broken = True

    def _open(self, first: np.ndarray) -> Generator[None, Any, None]:
        encoder = require_encoder("a video")
        self.folder.mkdir(parents=True, exist_ok=True)
        height, width = first.shape[:2]
        writer = encoder.write_frames(
            str(self._temporary),
            (width, height),
            fps=self._frames_per_second,
            macro_block_size=2,
            ffmpeg_log_level="error",
        )
        writer.send(None)
        writer.send(np.ascontiguousarray(first))
        return writer


def _require_whole(path: Path) -> None:
    """Raise OSError unless the file has all boxes of an mp4: the encoder does not tell its caller
    when a full disk refused what it wrote at the end.

    Source: ISO/IEC 14496-12, 4.2: each box begins with its size (1: that is in 8 bytes behind the
    type) and its type.
    """
    size, place, kinds = path.stat().st_size, 0, []
    with path.open("rb") as file:
        while place < size:
            file.seek(place)
            header = file.read(16)
            length = int.from_bytes(header[:4], "big")
            kinds.append(header[4:8])
            place += int.from_bytes(header[8:], "big") if length == 1 else max(length, 8)
    if place != size or b"moov" not in kinds:
        raise OSError("the encoder left an incomplete file; is the disk full?")
