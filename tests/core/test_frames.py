"""Replay that stores each frame once gives what plain replay would have given."""

from __future__ import annotations

import copy
from collections import deque
from typing import Any

import numpy as np
import pytest

from rlrun.core import returns
from rlrun.core.batch import Batch
from rlrun.core.checkpoint import load_checkpoint, save_checkpoint
from rlrun.core.frames import Frames, FrameStorage
from rlrun.core.replay import PrioritizedReplayBuffer, ReplayBuffer
from rlrun.core.storage import Memory, Storage

NUM_FRAMES = 4


class StackedEnvs:
    """Several envs whose observations are stacks of their last frames [k, H, W], each with streams
    of its own; episodes begin with the first frame k times."""

    def __init__(self, num_envs: int, frame: tuple[int, int], dtype: Any = np.uint8) -> None:
        self.rng = np.random.default_rng(3)
        self.frame, self.dtype = frame, dtype
        self.stacks = [self.first() for _ in range(num_envs)]

    def new(self) -> np.ndarray:
        return self.rng.integers(0, 100, self.frame).astype(self.dtype)

    def first(self) -> deque[np.ndarray]:
        return deque([self.new()] * NUM_FRAMES, maxlen=NUM_FRAMES)

    def fragment(self, num_steps: int, n_step: int = 1) -> Batch:
        """Rows [N] of a fragment, as workers give them: step by step, env by env."""
        steps: dict[str, list[Any]] = {name: [] for name in ("obs", "next_obs", "ends")}
        for _ in range(num_steps + n_step - 1):
            ends = self.rng.random(len(self.stacks)) < 0.15
            steps["ends"].append(ends)
            steps["obs"].append([np.stack(stack) for stack in self.stacks])
            for stack in self.stacks:
                stack.append(self.new())
            steps["next_obs"].append([np.stack(stack) for stack in self.stacks])
            self.stacks = [
                self.first() if end else stack for end, stack in zip(ends, self.stacks, strict=True)
            ]
        obs, next_obs, ends = (np.array(steps[name]) for name in ("obs", "next_obs", "ends"))
        rewards = self.rng.normal(size=ends.shape).astype(np.float32)
        summed, last, discounts = returns.n_step_transitions(
            rewards, ends, np.zeros_like(ends), 0.9, n_step
        )
        columns = {
            "obs": obs[:num_steps],
            "actions": self.rng.integers(0, 4, summed.shape),
            "rewards": summed,
            "next_obs": next_obs[last, np.arange(ends.shape[1])],
            "discounts": discounts,
        }
        return Batch({name: c.reshape(-1, *c.shape[2:]) for name, c in columns.items()})


def in_form(images: np.ndarray, form: str) -> np.ndarray:
    """Stacks [..., k, H, W] as the env would give them."""
    if form == "channels last":
        return np.ascontiguousarray(np.moveaxis(images, -3, -1))
    return images[..., 0, :, :] if form == "lone" else images


def pair(kind: str, capacity: int, shape: tuple[int, ...]) -> tuple[ReplayBuffer, ReplayBuffer]:
    """A buffer that stores frames and one that stores rows, with equal generators."""
    storages = FrameStorage(capacity, shape), Storage(capacity)
    rngs = np.random.default_rng(5), np.random.default_rng(5)
    if kind == "uniform":
        made = [ReplayBuffer(capacity, *each) for each in zip(rngs, storages, strict=True)]
    else:
        made = [
            PrioritizedReplayBuffer(capacity, *each, alpha=0.7, eps=0.1)
            for each in zip(rngs, storages, strict=True)
        ]
    return made[0], made[1]


def assert_same(found: Batch, expected: Batch) -> None:
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        assert found[name].dtype == column.dtype
        np.testing.assert_array_equal(found[name], column)


@pytest.mark.parametrize("kind", ["uniform", "prioritized"])
@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(
    ("form", "frame", "dtype"),
    [
        ("channels first", (12, 14), np.uint8),
        ("channels last", (11, 13), np.uint8),  # 143 bytes are no whole number of words
        ("lone", (9, 9), np.uint8),
        ("lone", (6, 6), np.int16),
    ],
)
def test_samples_are_those_of_plain_replay(kind, n_step, form, frame, dtype):
    envs = StackedEnvs(3, frame, dtype)
    shape = in_form(np.zeros((NUM_FRAMES, *frame)), form).shape
    frames, plain = pair(kind, 50, shape)
    for round_ in range(30):  # 30 x 12 rows go around 7 times
        rows = envs.fragment(4, n_step)
        rows |= {name: in_form(rows[name], form) for name in ("obs", "next_obs")}
        np.testing.assert_array_equal(frames.add(rows), plain.add(rows))
        found, expected = frames.sample(9), plain.sample(9)
        assert_same(found, expected)
        if isinstance(frames, PrioritizedReplayBuffer) and isinstance(
            plain, PrioritizedReplayBuffer
        ):
            errors = np.linspace(0.0, 1.0 + round_, 9)
            frames.update_priorities(found["batch_indexes"], errors)
            plain.update_priorities(expected["batch_indexes"], errors)


def test_sequences_share_frames_and_padding_takes_none():
    envs = StackedEnvs(1, (8, 8))
    steps = envs.fragment(40)
    starts = np.arange(0, 30, 5)
    places = starts[:, None] + np.arange(10)
    sequences = Batch(obs=steps["obs"][places], mask=np.ones((6, 10), bool))
    sequences["obs"][-1, 5:] = 0
    frames, plain = pair("uniform", 4, (NUM_FRAMES, 8, 8))
    for first in (0, 3, 0):
        rows = sequences.take(slice(first, first + 3))
        frames.add(rows)
        plain.add(rows)
        assert_same(frames.sample(20), plain.sample(20))
    assert isinstance(frames.storage, FrameStorage)
    assert frames.storage.frames is not None
    shown = {frame.tobytes() for frame in plain.columns["obs"].reshape(-1, 8, 8)}
    assert len(frames.storage.frames) == len(shown - {bytes(64)})


def test_each_frame_is_stored_once_and_its_room_is_given_to_others():
    envs = StackedEnvs(2, (10, 10))
    storage = FrameStorage(60, (NUM_FRAMES, 10, 10))
    buffer, plain = ReplayBuffer(60, np.random.default_rng(0), storage), Storage(60)
    for _ in range(40):
        rows = envs.fragment(5)
        plain.write(buffer.add(rows), rows)
        shown = {
            frame.tobytes()
            for name in ("obs", "next_obs")
            for frame in plain.columns[name].reshape(-1, 10, 10)
        }
        assert storage.frames is not None
        assert len(storage.frames) == len(shown - {bytes(100)})
    # What was ever used is little more than what is used at one time.
    assert storage.frames._num_used < 60 * 1.6


def test_frames_that_are_taken_for_the_same_by_their_keys_are_told_apart(monkeypatch):
    monkeypatch.setattr(Frames, "_keys_of", lambda self, frames: np.zeros(len(frames), np.uint64))
    test_samples_are_those_of_plain_replay("uniform", 1, "channels first", (5, 5), np.uint8)


def test_observations_of_floats_are_stored_as_they_are():
    frames, plain = pair("uniform", 10, (3, 4))
    rows = Batch(obs=np.random.default_rng(0).normal(size=(7, 3, 4)).astype(np.float32))
    frames.add(rows)
    plain.add(rows)
    assert_same(frames.sample(20), plain.sample(20))


@pytest.mark.parametrize("num_fragments", [0, 2, 9])
def test_a_restored_buffer_goes_on_as_the_saved_one(tmp_path, num_fragments, monkeypatch):
    monkeypatch.setattr("rlrun.core.frames.BLOCK_BYTES", 2000)  # several blocks
    envs = StackedEnvs(3, (10, 10))

    def make() -> PrioritizedReplayBuffer:
        storage = FrameStorage(70, (NUM_FRAMES, 10, 10))
        return PrioritizedReplayBuffer(70, np.random.default_rng(1), storage, alpha=0.5, eps=0.1)

    saved, restored = make(), make()
    restored.add(envs.fragment(6))
    for _ in range(num_fragments):
        saved.add(envs.fragment(5))
    save_checkpoint(tmp_path / "checkpoint_000001", {"replay": saved.state_dict()}, {})
    restored.load_state_dict(load_checkpoint(tmp_path / "checkpoint_000001")["replay"])
    for _ in range(6):
        rows = envs.fragment(5)
        np.testing.assert_array_equal(saved.add(rows), restored.add(rows))
        assert_same(restored.sample(20), saved.sample(20))
    for name in ("obs", "next_obs"):  # places, too: checkpoints are the same bit for bit
        np.testing.assert_array_equal(saved.columns[name], restored.columns[name])


def test_rows_that_were_stored_in_the_other_way_are_refused():
    frames, plain = pair("uniform", 10, (NUM_FRAMES, 6, 6))
    rows = StackedEnvs(1, (6, 6)).fragment(8)
    frames.add(rows)
    plain.add(rows)
    states = copy.deepcopy(frames.state_dict()), copy.deepcopy(plain.state_dict())
    with pytest.raises(ValueError, match="replay_frames=null"):
        plain.load_state_dict(states[0])
    with pytest.raises(ValueError, match="replay_frames=false"):
        frames.load_state_dict(states[1])


def test_a_million_transitions_of_atari_take_at_most_eight_gigabytes():
    num_rows, num_envs = 2_000, 4
    rng = np.random.default_rng(0)
    storage = FrameStorage(num_rows, (4, 84, 84), Memory())
    buffer = PrioritizedReplayBuffer(num_rows, rng, storage, alpha=0.5, eps=1e-6)
    pictures = rng.integers(0, 256, (num_envs, num_rows // num_envs + 4, 84, 84), np.uint8)
    for start in range(0, num_rows // num_envs, 4):  # fragments of four steps
        windows = start + np.arange(4)[:, None] + np.arange(4)
        rows = Batch(
            obs=pictures[:, windows].swapaxes(0, 1).reshape(-1, 4, 84, 84),
            actions=rng.integers(0, 6, 16),
            rewards=np.zeros(16, np.float32),
            next_obs=pictures[:, windows + 1].swapaxes(0, 1).reshape(-1, 4, 84, 84),
            discounts=np.ones(16, np.float32),
        )
        buffer.add(rows)
    # Each env has brought three frames before its first row; a place in a dict takes 200 bytes.
    per_row = (storage.num_bytes - 12 * 84 * 84) / num_rows + 200 + 4 * 8
    assert 1_000_000 * per_row < 8e9
    assert per_row > 84 * 84
