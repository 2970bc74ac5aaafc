"""From fragments to trajectories, and from trajectories to rows."""

from __future__ import annotations

import time

import numpy as np
import pytest

from rlrun.core.batch import Batch
from rlrun.workers.cutters import TrajectoryCutter, cut_sequences, cut_steps


def fragment(ends: list[list[int]], first: int = 0, valid=None) -> Batch:
    """Columns [T, B]: x counts steps from `first` on; `ends` [T][B] is 1 where an episode ends."""
    terminated = np.array(ends, bool)
    steps, envs = terminated.shape
    columns = Batch(
        x=np.arange(first, first + steps)[:, None] + 100 * np.arange(envs),
        terminated=terminated,
        truncated=np.zeros_like(terminated),
    )
    return Batch(columns, valid=np.array(valid, bool)) if valid is not None else columns


def test_fragments_without_lookahead_are_trajectories_themselves():
    given = fragment([[0, 1], [0, 0]])
    assert TrajectoryCutter("truncate_episodes", 0, 2).complete(given)[0] is given


def test_the_last_steps_stand_in_front_of_the_next_fragment():
    cutter = TrajectoryCutter("truncate_episodes", 2, 1)
    found = [cutter.complete(fragment([[0]] * 3, first)) for first in (0, 3, 6)]
    assert [each["x"][:, 0].tolist() for (each,) in found] == [
        [0, 1, 2],
        [1, 2, 3, 4, 5],
        [4, 5, 6, 7, 8],
    ]


def test_episodes_come_whole_by_env_and_without_rows_that_only_reset():
    cutter = TrajectoryCutter("complete_episodes", 0, 2)
    valid = [[1, 1], [1, 1], [0, 1]]
    assert [
        e["x"][:, 0].tolist() for e in cutter.complete(fragment([[0, 0], [1, 0], [0, 0]], 0, valid))
    ] == [[0, 1]]
    found = cutter.complete(fragment([[0, 1], [1, 0], [0, 1]], 3, [[1, 1]] * 3))
    assert [each["x"][:, 0].tolist() for each in found] == [
        [3, 4],
        [100, 101, 102, 103],
        [104, 105],
    ]
    assert "valid" not in found[0]


def test_an_episode_that_is_cut_comes_as_truncated():
    cutter = TrajectoryCutter("complete_episodes", 0, 2)
    assert cutter.complete(fragment([[0, 0], [0, 0]])) == []
    cutter.truncate(np.array([False, True]))
    (episode,) = cutter.complete(fragment([[0, 0]], 2))
    assert episode["x"][:, 0].tolist() == [100, 101]
    assert episode["truncated"][:, 0].tolist() == [False, True]


def test_a_row_that_only_resets_is_no_episode_that_can_be_cut():
    cutter = TrajectoryCutter("complete_episodes", 2, 2)
    valid = [[1, 1], [0, 1]]
    (ended,) = cutter.complete(fragment([[1, 0], [0, 0]], 0, valid))
    assert ended["x"][:, 0].tolist() == [0, 0, 0]
    restored = TrajectoryCutter("complete_episodes", 2, 2)
    restored.load_state_dict(cutter.state_dict())
    restored.truncate(np.array([True, True]))
    (cut,) = restored.complete(fragment([[0, 0]], 2, [[1, 1]]))
    assert cut["x"][:, 0].tolist() == [100, 101, 101, 101]
    assert cut["truncated"][:2, 0].tolist() == [False, True]


@pytest.mark.parametrize("mode", ["truncate_episodes", "complete_episodes"])
def test_a_restored_cutter_goes_on_as_the_saved_one(mode):
    cutter, restored = (TrajectoryCutter(mode, 2, 2) for _ in range(2))
    cutter.complete(fragment([[0, 1], [0, 0], [0, 0]]))
    restored.load_state_dict(cutter.state_dict())
    following = [[0, 0], [1, 0], [0, 1]]
    for one, other in zip(
        cutter.complete(fragment(following, 3)),
        restored.complete(fragment(following, 3)),
        strict=True,
    ):
        np.testing.assert_equal(dict(one), dict(other))


def test_steps_of_long_episodes_cost_no_more_than_those_of_short_ones():
    def seconds_a_step(length: int) -> float:
        cutter, pieces = TrajectoryCutter("complete_episodes", 0, 1), length // 4
        best = np.inf
        for _ in range(3):
            parts = [fragment([[0]] * 4) for _ in range(pieces)]
            parts[-1]["terminated"][-1] = True
            start = time.process_time()
            for part in parts:
                cutter.complete(part)
            best = min(best, (time.process_time() - start) / length)
        return best

    # Quadratic costs would make it 50 times as much.
    assert seconds_a_step(20_000) < 5 * seconds_a_step(400)


def test_cut_steps_leaves_out_what_is_no_step():
    rows = cut_steps(Batch(x=np.array([[0, 1], [2, 3]])), np.array([[True, True], [False, True]]))
    assert rows["x"].tolist() == [0, 1, 3]
    assert cut_steps(Batch(x=np.array([[0, 1], [2, 3]])), None)["x"].tolist() == [0, 1, 2, 3]


def test_sequences_end_with_episodes_and_at_their_longest():
    x = np.arange(1, 8)[:, None]
    trajectory = Batch({"x": x, "state_in/h": 10.0 * x})
    ends = np.array([0, 0, 1, 0, 0, 0, 0], bool)[:, None]
    rows = cut_sequences(trajectory, ends, None, max_seq_len=2)
    assert rows["x"].tolist() == [[1, 2], [3, 0], [4, 5], [6, 7]]
    assert rows["mask"].tolist() == [[True, True], [True, False], [True, True], [True, True]]
    assert rows["state_in/h"].tolist() == [10, 30, 40, 60]


def test_overlapping_sequences_repeat_their_first_steps_and_leave_none_alone():
    x = np.arange(7)[:, None]
    rows = cut_sequences(Batch(x=x), np.zeros((7, 1), bool), None, max_seq_len=4, overlap=2)
    assert rows["x"].tolist() == [[0, 1, 2, 3], [2, 3, 4, 5], [4, 5, 6, 0]]
    assert rows["mask"].sum() == 11


def test_rows_that_only_reset_are_in_no_sequence():
    x = np.arange(5)[:, None]
    ends = np.array([0, 1, 0, 0, 0], bool)[:, None]
    valid = np.array([1, 1, 0, 1, 1], bool)[:, None]
    rows = cut_sequences(Batch(x=x), ends, valid, max_seq_len=3)
    assert rows["x"].tolist() == [[0, 1, 0], [3, 4, 0]]


def test_a_bootstrap_step_stands_behind_each_sequence_and_nothing_is_longer_than_need_be():
    x = np.arange(1, 8)[:, None]
    trajectory = Batch(
        {
            "obs": x,
            "next_obs": 100 * x,
            "actions": 10 * x,
            "prev_actions": 10 * x - 10,
            "rewards": 0.5 * x,
            "prev_rewards": 0.5 * x - 0.5,
            "state_in/h": 1.0 * x,
        }
    )
    ends = np.array([0, 0, 1, 0, 1, 0, 0], bool)[:, None]
    rows = cut_sequences(trajectory, ends, None, max_seq_len=50, bootstraps=True)
    # Also what was observed last in an episode, not the first observation of the next one.
    assert rows["obs"].tolist() == [[1, 2, 3, 300], [4, 5, 500, 0], [6, 7, 700, 0]]
    assert rows["mask"].sum(1).tolist() == [3, 2, 2]
    assert rows["prev_actions"].tolist() == [[0, 10, 20, 30], [30, 40, 50, 0], [50, 60, 70, 0]]
    assert rows["prev_rewards"][0].tolist() == [0.0, 0.5, 1.0, 1.5]
    # An action that can be taken, as its log-probability is computed, and counts for nothing.
    assert rows["actions"].tolist() == [[10, 20, 30, 30], [40, 50, 50, 0], [60, 70, 70, 0]]
    assert rows["state_in/h"].tolist() == [1.0, 4.0, 6.0]
    assert "next_obs" not in rows


@pytest.mark.parametrize("bootstraps", [False, True])
def test_behind_a_sequence_stands_the_reward_that_a_policy_would_have_seen(bootstraps):
    x = np.arange(1, 4)[:, None]
    trajectory = Batch(obs=x, next_obs=x + 1, rewards=100 + x, acting_rewards=x, prev_rewards=x - 1)
    ends = np.zeros((3, 1), bool)
    rows = cut_sequences(trajectory, ends, None, max_seq_len=3, bootstraps=bootstraps)
    assert rows["prev_rewards"].tolist() == [[0, 1, 2, 3] if bootstraps else [0, 1, 2]]
    assert rows["rewards"][0, :3].tolist() == [101, 102, 103]
    assert "acting_rewards" not in rows


def test_long_episodes_are_cut_with_a_bootstrap_step_behind_each_part():
    x = np.arange(7)[:, None]
    trajectory = Batch(obs=x, next_obs=x + 1)
    rows = cut_sequences(trajectory, np.zeros((7, 1), bool), None, max_seq_len=3, bootstraps=True)
    assert rows["obs"].tolist() == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 0, 0]]


@pytest.mark.parametrize("overlap", [0, 1, 2])
def test_sequences_are_those_of_a_plain_loop_over_episodes(overlap):
    rng = np.random.default_rng(overlap)
    for _ in range(20):
        steps, envs = rng.integers(1, 12, 2)
        ends, valid = rng.random((steps, envs)) < 0.3, rng.random((steps, envs)) < 0.9
        x = np.arange(1, steps * envs + 1).reshape(steps, envs)
        expected = []
        for env in range(envs):
            episodes: list[list[int]] = [[]]
            for t in np.flatnonzero(valid[:, env]):
                episodes[-1].append(int(x[t, env]))
                if ends[t, env]:
                    episodes.append([])
            for episode in filter(None, episodes):
                for start in range(0, max(len(episode) - overlap, 1), 3 - overlap):
                    part = episode[start : start + 3]
                    expected.append(part + [0] * (3 - len(part)))
        found = cut_sequences(Batch(x=x), ends, valid, max_seq_len=3, overlap=overlap)
        assert found["x"].tolist() == expected
        assert found["mask"].tolist() == [[number > 0 for number in row] for row in expected]


@pytest.mark.parametrize("seed", range(20))
def test_sequences_are_those_of_a_walk_through_each_env(seed):
    rng = np.random.default_rng(seed)
    num_steps, num_envs = int(rng.integers(1, 30)), int(rng.integers(1, 4))
    max_seq_len = int(rng.integers(2, 6))
    overlap = int(rng.integers(max_seq_len))
    valid = rng.random((num_steps, num_envs)) < 0.9
    ends = (rng.random((num_steps, num_envs)) < 0.2) & valid
    numbers = np.arange(1, num_steps * num_envs + 1).reshape(num_steps, num_envs)
    trajectory = Batch({"x": numbers, "state_in/h": numbers.copy()})
    expected = []
    for env in range(num_envs):
        episode: list[int] = []
        for t in range(num_steps):
            if valid[t, env]:
                episode.append(int(numbers[t, env]))
            if episode and (ends[t, env] or t == num_steps - 1):
                begin = 0
                while True:
                    expected.append(episode[begin : begin + max_seq_len])
                    begin += max_seq_len - overlap
                    if begin >= len(episode) - overlap:
                        break
                episode = []
    rows = cut_sequences(trajectory, ends, valid, max_seq_len, overlap)
    assert [
        row[mask].tolist() for row, mask in zip(rows["x"], rows["mask"], strict=True)
    ] == expected
    assert rows["state_in/h"].tolist() == [steps[0] for steps in expected]
    assert not rows["x"][~rows["mask"]].any()
    assert (rows["mask"] == np.sort(rows["mask"], 1)[:, ::-1]).all()
