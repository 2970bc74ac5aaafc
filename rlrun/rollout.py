"""What is done with the policy of a checkpoint: `rlrun rollout` and `rlrun export`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlrun.compose import set_value
from rlrun.core import checkpoint
from rlrun.core.errors import CheckpointError, ConfigError, RlrunError
from rlrun.core.export_formats import format_of
from rlrun.run_folder import VIDEOS, modules_from_where_it_was_started
from rlrun.saved import find_checkpoint

if TYPE_CHECKING:
    from rlrun.workers.rollout_worker import RolloutWorker
    from rlrun.workers.sample import Sample
    from rlrun.workers.worker_config import WorkerConfig

DEFAULT_EPISODES = 10


def roll_out(path: Path, settings: Mapping[str, Any]) -> int:
    """Run episodes with the policy in `path` (a checkpoint or a run's folder); print each one.

    settings: episodes or steps, explore (off), seed (the run's), round (the first evaluation, 0),
    render (off), video (off), and overrides of the run's config. What is given is what the
    evaluation of that round gives in one env. Returns the exit status. Raises CheckpointError,
    ConfigError.
    """
    options: dict[str, Any] = dict(settings)
    episodes = _count(options, "episodes")
    steps = _count(options, "steps")
    evaluation_round = _count(options, "round", least=0) or 0
    if episodes is not None and steps is not None:
        raise ConfigError("Give episodes=N or steps=N, not both.")
    render, video = _switch(options, "render"), _switch(options, "video")
    if render and video:
        raise ConfigError("render=true shows episodes, video=true records them: give one of them.")
    worker = load_worker(path, options, render=render, video=video)
    rewards: list[float] = []
    lengths: list[int] = []

    def note(sample: Sample) -> None:
        for report in sample.episodes:
            rewards.append(report.total_reward)
            lengths.append(report.length)
            print(
                f"episode {len(rewards)}: reward {report.total_reward:g}, length {report.length}",
                flush=True,
            )

    from rlrun.workers.evaluate import Amount

    amount = Amount("episodes", episodes or DEFAULT_EPISODES)
    if steps is not None:
        amount = Amount("timesteps", steps)
    try:
        for sample in worker.evaluate_in_pieces(evaluation_round, amount):
            note(sample)
    finally:
        worker.stop()
    if video:
        print(f"Videos: {find_checkpoint(path).parent / VIDEOS}")
    if rewards:
        print(
            f"{len(rewards)} episodes: mean reward {np.mean(rewards):.2f} "
            f"(min {min(rewards):g}, max {max(rewards):g}), mean length {np.mean(lengths):.1f}"
        )
    else:
        print(f"No episode ended within {steps} steps.")
    return 0


def export_checkpoint(path: Path, out: Path, kind: str | None) -> int:
    """Write the policy in `path` (a checkpoint or a run's folder) to the file `out`, in the format
    `kind`, or that of its ending. Returns the exit status. Raises CheckpointError, ConfigError,
    MissingExtraError, RlrunError."""
    find_checkpoint(path)
    chosen = format_of(out, kind)
    # Only now torch is imported.
    from rlrun.workers.actor import DEFAULT_POLICY_ID

    worker = load_worker(path, {})
    try:
        worker.actors[DEFAULT_POLICY_ID].export(out, chosen)
    finally:
        worker.stop()
    print(f"Wrote {out} ({chosen})")
    return 0


def load_worker(
    path: Path, overrides: Mapping[str, Any], *, render: bool = False, video: bool = False
) -> RolloutWorker:
    """A worker with one env, and policy, filter and callbacks of a checkpoint, ready to act; what
    it does may be shown, or become videos beside the checkpoint."""
    folder = find_checkpoint(path)
    plain = dict(checkpoint.read_manifest(folder)["config"])
    plain["explore"] = False
    for key, value in overrides.items():
        set_value(plain, key, value)
    # Only now torch is imported, which takes seconds: there is something to act with.
    from rlrun.parts import read_config
    from rlrun.workers.atari import is_atari
    from rlrun.workers.video import VideoConfig, require_encoder

    with modules_from_where_it_was_started(folder.parent):
        read_config(plain, trains=False)
        plain["algo"] = {**plain["algo"], "num_envs_per_worker": 1}
        can_show_native = is_atari(plain["env"]["id"])
        is_native = plain["env"]["vectorization"] == "native"
        if not is_native or ((render or video) and not can_show_native):
            plain["env"]["vectorization"] = "sync"
        if render:
            set_value(plain, "env.env_config.render_mode", "human")
        config = read_config(plain, trains=False).trainer.worker
        videos = None
        if video:
            require_encoder("video=true")
            videos = VideoConfig(purpose="rollout", folder=str(folder.absolute().parent / VIDEOS))
        return _worker_of(folder, replace(config, videos=videos))


def _worker_of(folder: Path, config: WorkerConfig) -> RolloutWorker:
    from rlrun.workers.rollout_worker import RolloutWorker
    from rlrun.workers.task_state import unpack

    state = checkpoint.load_checkpoint(folder, ("policy", "workers"))
    try:
        # Before there are envs: a curriculum gives them their task when they are made.
        config.callbacks.load_state_dict(state["workers"]["local"]["callbacks"])
        worker = RolloutWorker(replace(config, in_evaluation=True, num_workers=0, device="cpu"))
        if tasks := state["workers"].get("tasks"):
            worker.set_tasks([unpack(task) for task in tasks])
        policy = state["policy"]
        worker.set_weights(policy["weights"], checkpoint.read_manifest(folder)["timesteps_total"])
    except RlrunError:
        raise
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{folder} does not fit this config: {error}") from error
    return worker


def _switch(options: dict[str, Any], name: str) -> bool:
    value = options.pop(name, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{name}={value} must be true or false.")
    return value


def _count(options: dict[str, Any], name: str, least: int = 1) -> int | None:
    value = options.pop(name, None)
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= least
    if value is not None and not is_count:
        raise ConfigError(f"{name}={value} must be a whole number of at least {least}.")
    return value
