"""Results to Weights & Biases; without a network or a key they wait on disk for `wandb sync`."""

from __future__ import annotations

import io
import logging
import os
import shlex
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rlrun.loggers.base import Logger, RunInfo, finite_scalars
from rlrun.loggers.files import replace_file
from rlrun.loggers.media import FRAMES_PER_SECOND, histograms_of, pictures_of

Mode = Literal["online", "offline", "disabled"]

# W&B shows 255 as stopped by the user and any other number but 0 as failed.
_EXIT_CODES = {"finished": 0, "interrupted": 255, "failed": 1}

_log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class WandbLogger(Logger):
    """Logs every finite number of a result at the step `timesteps_total`, and what callbacks gave
    for episodes: hist_data as histograms, images, and videos.

    The key comes from where wandb looks for it (WANDB_API_KEY, ~/.netrc); nobody is asked for one.
    The run's id is kept in `wandb_id.txt`, so a resumed run goes on in the same W&B run; there
    W&B keeps what it has, and ignores steps before the last one that it saw.
    """

    project: str = "rlrun"
    """The W&B project; it is made if it does not exist."""
    mode: Mode = "online"
    """Send to the server; keep on disk for `wandb sync`; or do nothing at all."""
    group: str | None = None
    """Runs with the same group are shown together; null: the trials of a sweep, by its name."""
    name: str | None = None
    """The W&B run's name; null: the run's own, of a trial its number and parameters."""
    tags: list[str] = field(default_factory=list)
    """Labels to filter by."""
    entity: str | None = None
    """The W&B user or team; the key's own default otherwise."""
    init_timeout_s: float = 5.0
    """Seconds to wait for the server's answer at the start, twice at most, before going offline."""
    finish_timeout_s: float = 60.0
    """Seconds to wait at the end for the upload; what is left then waits for `wandb sync`."""

    def start(self, run: RunInfo) -> None:
        """Begin a run of W&B, offline where there is no network."""
        self._run: Any = None
        self._folder = run.folder
        self._is_logging = self.mode != "disabled"
        if not self._is_logging:
            return
        # Its reports about itself hold a process back at its end, for 20 s if nobody answers.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        # Silent for the whole process: else wandb may stop to ask for a key on the terminal.
        wandb.setup(wandb.Settings(silent=True))
        try:
            self._run = self._init(run, self.mode)
        except wandb.Error as error:
            if self.mode == "offline":
                raise
            self._run = self._init(run, "offline")
            self._warn("W&B is not available online, so this run is logged offline", error)
        with replace_file(run.folder / "wandb_id.txt") as file:
            file.write(self._run.id)

    def log_result(self, result: dict[str, Any]) -> None:
        if not self._is_logging:
            return
        step = int(result["timesteps_total"])
        try:
            values = finite_scalars(result) | _of_episodes(result) | self._videos(result)
            self._run.log(values, step=step)
        except Exception as error:  # whatever it is, it is not worth the run
            self._is_logging = False
            self._warn("W&B failed, so logging to it stops and training goes on", error)

    def close(self, status: str) -> None:
        if self._run is None:
            return
        try:
            self._run.finish(exit_code=_EXIT_CODES[status])
        except Exception as error:  # as above; a TimeoutError is usual
            self._warn("W&B could not finish its upload", error)
            return
        if self.mode == "offline" and self._is_logging:  # else it was said
            _log.warning("W&B is offline. To upload this run later: %s", self._sync_command())

    def _videos(self, result: dict[str, Any]) -> dict[str, Any]:
        """The newest of the videos that the result names, by what they are of."""
        paths = [self._folder / name for name in result.get("videos", ())]
        if not paths:
            return {}
        import wandb

        return {
            f"videos/{path.name.partition('_')[0]}": wandb.Video(str(path), format="mp4")
            for path in paths
            if path.is_file()
        }

    def _init(self, run: RunInfo, mode: Mode) -> Any:
        import wandb

        run_id = _saved_id(run)
        return wandb.init(
            project=self.project,
            entity=self.entity,
            group=self.group or run.sweep,
            name=self.name or run.name,
            tags=self.tags,
            config=run.config,
            dir=run.folder.absolute(),
            mode=mode,
            id=run_id,
            resume="allow" if run_id else None,
            reinit="create_new",  # a run that the user's own code has open stays untouched
            settings=wandb.Settings(
                silent=True,
                console="off",
                init_timeout=self.init_timeout_s,
                finish_timeout=self.finish_timeout_s,
                finish_timeout_raises=True,
            ),
        )

    def _warn(self, what: str, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        _log.warning("%s (%s). To upload it later: %s", what, reason, self._sync_command())

    def _sync_command(self) -> str:
        return f"wandb sync {shlex.quote(self._run.settings.sync_dir)}"


def _of_episodes(result: dict[str, Any]) -> dict[str, Any]:
    """Histograms, images and videos that callbacks gave, as W&B shows them."""
    import wandb

    found: dict[str, Any] = {}
    for key, numbers in histograms_of(result):
        found[key] = wandb.Histogram(numbers.tolist())
    for key, pictures in pictures_of(result):
        found[key] = [
            wandb.Image(_as_pil(frames[0]))
            if len(frames) == 1
            else wandb.Video(_gif(frames), format="gif")
            for frames in pictures
        ]
    return found


def _as_pil(frame: np.ndarray) -> Any:
    from PIL import Image

    return Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame)


def _gif(frames: np.ndarray) -> io.BytesIO:
    """Frames [T, H, W, C]; a GIF needs no encoder but Pillow's."""
    first, *others = map(_as_pil, frames)
    file = io.BytesIO()
    first.save(
        file,
        "GIF",
        save_all=True,
        append_images=others,
        duration=1000 // FRAMES_PER_SECOND,
        loop=0,
    )
    file.seek(0)
    return file


def _saved_id(run: RunInfo) -> str | None:
    path = run.folder / "wandb_id.txt"
    return path.read_text().strip() if run.start_iteration > 0 and path.exists() else None
