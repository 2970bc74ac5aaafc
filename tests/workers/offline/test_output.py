"""Writing: what stands in the files is what the envs gave, once each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from offline_data import ValuedRows, episodes_of, input_from, lines_of, output_to
from space_envs import ACTION_SPACES

from rlrun.core.errors import ConfigError, RlrunError
from rlrun.workers.evaluate import Amount
from rlrun.workers.offline import recorder
from rlrun.workers.offline.columns import decode
from rlrun.workers.offline.config import OutputConfig
from rlrun.workers.offline.space_json import space_from_json


def test_an_episode_has_one_observation_more_than_actions_and_says_how_it_ended(
    make_worker, tmp_path
):
    worker = make_worker(
        "toy_envs.CountingEnv",
        output=output_to(tmp_path),
        fragment=9,
        env_config={"terminates_at": [3, None], "truncates_at": [None, 4]},
    )
    worker.sample()
    first, second = episodes_of(tmp_path)  # The third one still runs.
    assert first["obs"] == [[0, 0], [0, 1], [0, 2], [0, 3]]
    assert first["rewards"] == [1, 2, 3]
    assert (first["terminated"], first["truncated"]) == (True, False)
    assert second["obs"] == [[1, 0], [1, 1], [1, 2], [1, 3], [1, 4]]
    assert (second["terminated"], second["truncated"]) == (False, True)
    assert len(first["actions"]) == len(first["log_probs"]) == 3
    assert [first["episode_id"], second["episode_id"]] == [0, 1]


def test_rewards_and_observations_are_neither_clipped_nor_filtered(make_worker, tmp_path):
    worker = make_worker(
        "toy_envs.CountingEnv",
        output=output_to(tmp_path),
        fragment=6,
        env_config={"terminates_at": 3},
        clip_rewards=True,
        observation_filter="MeanStdFilter",
    )
    worker.sample()
    assert [episode["rewards"] for episode in episodes_of(tmp_path)] == [[1, 2, 3]] * 2
    assert episodes_of(tmp_path)[1]["obs"][-1] == [1, 3]


def test_log_probs_are_those_with_which_actions_were_drawn(make_worker, tmp_path):
    worker = make_worker(
        "toy_envs.CountingEnv",
        output=output_to(tmp_path),
        algorithm=ValuedRows,
        fragment=6,
        env_config={"terminates_at": 6},
    )
    rows = worker.sample().batches["default_policy"]
    (episode,) = episodes_of(tmp_path)
    np.testing.assert_array_equal(np.float32(episode["log_probs"]), rows["log_probs"])
    np.testing.assert_array_equal(episode["actions"], rows["actions"])


def test_an_episode_without_end_is_written_in_pieces(make_worker, tmp_path, monkeypatch, caplog):
    # A step has an observation of 8 bytes and an action of 8, in an array each.
    monkeypatch.setattr(recorder, "MAX_BYTES", 3 * (2 * recorder.ARRAY_BYTES + 16) - 1)
    worker = make_worker(
        "toy_envs.CountingEnv",
        output=output_to(tmp_path),
        fragment=5,
        env_config={"terminates_at": [8, None]},
    )
    worker.sample()
    state = worker.state_dict()
    worker.load_state_dict(state)
    worker.sample()
    pieces = episodes_of(tmp_path)
    assert [[obs[1] for obs in piece["obs"]] for piece in pieces] == [
        *([0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8]),
    ]
    assert [piece["rewards"] for piece in pieces] == [[1, 2, 3], [4, 5, 6], [7, 8]]
    assert [piece["truncated"] for piece in pieces] == [True, True, False]
    assert [piece["terminated"] for piece in pieces] == [False, False, True]
    assert [line.getMessage() for line in caplog.records if "pieces" in line.getMessage()] == [
        f"An episode of 'toy_envs.CountingEnv' goes on after 3 steps, which take 0 MB: it is "
        f"written to output={tmp_path} in truncated pieces. Does env.horizon end its episodes?"
    ]


def test_several_envs_of_a_worker_write_whole_episodes_each(make_worker, tmp_path):
    worker = make_worker(
        "toy_envs.CountingEnv",
        output=output_to(tmp_path),
        num_envs=3,
        fragment=7,
        env_config={"length_range": [2, 5]},
    )
    for _ in range(4):
        worker.sample()
    for episode in episodes_of(tmp_path):
        steps = [obs[1] for obs in episode["obs"]]
        assert steps == list(range(len(steps)))
        assert len({obs[0] for obs in episode["obs"]}) == 1


def test_a_native_vector_env_writes_no_row_that_only_resets(make_worker, tmp_path):
    worker = make_worker(
        "CartPole-v1",
        output=output_to(tmp_path),
        num_envs=2,
        fragment=80,
        vectorization="native",
    )
    worker.sample()
    found = episodes_of(tmp_path)
    assert found
    for episode in found:
        assert np.abs(episode["obs"][0]).max() <= 0.05  # where every episode starts
        angles = np.abs(np.array(episode["obs"])[:, 2])
        assert (angles[:-1] <= 0.2095).all()
        assert len(episode["obs"]) == len(episode["actions"]) + 1


@pytest.mark.parametrize("packed", [(), ("obs", "actions", "rewards", "log_probs")])
@pytest.mark.parametrize("actions", ACTION_SPACES)
def test_actions_of_every_kind_come_back_as_rows(actions, packed, make_worker, tmp_path):
    env = {"env_config": {"actions": actions, "length": 4}}
    output = output_to(tmp_path, compress_columns=packed)
    writer = make_worker("space_envs.MatchEnv", output=output, fragment=8, **env)
    written = writer.sample().batches["default_policy"]
    reader = make_worker("space_envs.MatchEnv", input=input_from(tmp_path), fragment=8, **env)
    read = reader.sample().batches["default_policy"]
    space = writer.spaces.action_space
    assert space_from_json(lines_of(tmp_path)[0]["action_space"]) == space
    for episode in episodes_of(tmp_path):
        decode(space, episode["actions"])
        assert isinstance(episode["rewards"], dict if packed else list)
    for name in ("obs", "rewards", "next_obs", "terminated", "truncated"):
        np.testing.assert_array_equal(read[name], written[name], err_msg=name)
        assert read[name].dtype == written[name].dtype
    if actions != "unbounded":
        # The env got clipped ones, which is what can be imitated.
        converter = writer.actors["default_policy"].converter
        expected = converter(written["actions"])
        assert_close(converter(read["actions"]), expected)
    else:
        np.testing.assert_allclose(read["actions"], written["actions"], atol=1e-5)
    assert read["actions"].dtype == written["actions"].dtype


def assert_close(found, expected):
    if isinstance(expected, dict):
        for key, part in expected.items():
            assert_close(found[key], part)
    elif isinstance(expected, tuple):
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    else:
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("packed", [(), ("obs",)])
@pytest.mark.parametrize(
    ("env_id", "config"),
    [
        ("space_envs.NestedImageEnv", {}),
        ("space_envs.MaskedEnv", {"kind": "nested"}),
        ("FrozenLake-v1", {}),
        ("toy_envs.CountingEnv", {"terminates_at": 4}),
    ],
)
def test_observations_of_every_kind_come_back_as_rows(
    env_id, config, packed, make_worker, tmp_path
):
    env = {"env_config": config, "mask_actions": env_id == "space_envs.MaskedEnv"}
    output = output_to(tmp_path, compress_columns=packed)
    writer = make_worker(env_id, output=output, fragment=40, **env)
    written = writer.sample().batches["default_policy"]
    reader = make_worker(env_id, input=input_from(tmp_path), fragment=8, **env)
    read = reader.sample().batches["default_policy"]
    for name, column in read.items():
        np.testing.assert_array_equal(column, written[name][:8], err_msg=name)
        assert column.dtype == written[name].dtype


def test_files_follow_each_other_and_none_is_larger_than_asked_for(make_worker, tmp_path):
    worker = make_worker(
        "toy_envs.CountingEnv",
        output=output_to(tmp_path, max_file_size=1000),
        fragment=100,
        env_config={"terminates_at": 5},
    )
    worker.sample()
    sizes = [path.stat().st_size for path in sorted(tmp_path.iterdir())]
    assert len(sizes) > 3
    assert max(sizes) <= 1000
    firsts = [json.loads(path.open().readline())["type"] for path in tmp_path.iterdir()]
    assert set(firsts) == {"metadata"}
    assert [episode["episode_id"] for episode in episodes_of(tmp_path)] == list(range(20))


def test_an_episode_that_is_larger_than_a_file_may_be_has_one_alone(make_worker, tmp_path):
    worker = make_worker(
        "toy_envs.CountingEnv",
        output=output_to(tmp_path, max_file_size=1),
        fragment=10,
        env_config={"terminates_at": 5},
    )
    worker.sample()
    assert [len(path.read_bytes().splitlines()) for path in tmp_path.iterdir()] == [2, 2]


def test_workers_write_files_of_their_own_and_evaluation_writes_none(make_worker, tmp_path):
    env = {"output": output_to(tmp_path), "env_config": {"terminates_at": 2}, "fragment": 4}
    for index in (1, 2):
        make_worker("toy_envs.CountingEnv", worker_index=index, num_workers=2, **env).sample()
    assert len(list(tmp_path.iterdir())) == 2
    evaluator = make_worker("toy_envs.CountingEnv", in_evaluation=True, **env)
    evaluator.run_evaluation(0, Amount("episodes", 3))
    assert len(list(tmp_path.iterdir())) == 2


def test_a_run_that_goes_on_writes_each_episode_once(make_worker, tmp_path):
    def make(folder):
        return make_worker(
            "CartPole-v1",
            output=output_to(folder, max_file_size=5000, run="run"),
            num_envs=2,
            fragment=17,
        )

    straight, halved = tmp_path / "straight", tmp_path / "halved"
    one = make(straight)
    for _ in range(12):
        one.sample()
    two = make(halved)
    for _ in range(5):
        two.sample()
    state = two.state_dict()
    for _ in range(4):  # lost to the kill
        two.sample()
    two.stop()
    three = make(halved)
    three.load_state_dict(state)
    for _ in range(7):
        three.sample()
    assert episodes_of(halved) == episodes_of(straight)
    assert len(list(halved.iterdir())) == len(list(straight.iterdir()))


def test_a_run_that_goes_on_and_writes_nothing_deletes_nothing(make_worker, tmp_path):
    output = output_to(tmp_path, max_file_size=300, run="run")
    env = {"output": output, "env_config": {"terminates_at": 2}}
    one = make_worker("toy_envs.CountingEnv", fragment=4, **env)
    one.sample()
    state = one.state_dict()
    one.sample()
    one.stop()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    two = make_worker("toy_envs.CountingEnv", fragment=1, **env)
    two.load_state_dict(state)
    two.sample()
    again = two.state_dict()
    two.stop()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert again["input"]["recorder"]["files"] == state["input"]["recorder"]["files"]
    three = make_worker("toy_envs.CountingEnv", fragment=1, **env)
    three.load_state_dict(again)
    three.sample()  # the end of an episode
    assert [episode["episode_id"] for episode in episodes_of(tmp_path)] == [0, 1, 2]


def test_an_episode_that_cannot_be_brought_back_is_written_as_truncated(make_worker, tmp_path):
    def make():
        return make_worker(
            "toy_envs.StatefulEnv", output=output_to(tmp_path, run="run"), fragment=14
        )

    one = make()
    one.sample()
    state = one.state_dict()
    one.stop()
    before = episodes_of(tmp_path)
    idle = make()
    idle.load_state_dict(state)
    state = idle.state_dict()
    idle.stop()
    assert episodes_of(tmp_path) == before
    two = make()
    two.load_state_dict(state)
    two.sample()
    first, cut, third = episodes_of(tmp_path)
    assert (first["terminated"], cut["terminated"], third["terminated"]) == (True, False, True)
    assert cut["truncated"]
    assert [len(episode["rewards"]) for episode in (first, cut, third)] == [10, 4, 10]


def test_a_run_of_before_without_output_writes_from_the_next_episode_on(make_worker, tmp_path):
    env = {"fragment": 7, "env_config": {"terminates_at": 5}}
    state = make_worker("toy_envs.CountingEnv", **env)
    state.sample()
    going_on = make_worker("toy_envs.CountingEnv", output=output_to(tmp_path), **env)
    going_on.load_state_dict(state.state_dict())
    going_on.sample()
    going_on.sample()
    assert [episode["obs"][0] for episode in episodes_of(tmp_path)] == [[2, 0], [3, 0]]


@pytest.mark.parametrize("run", [None, "another"])
def test_another_run_that_goes_on_from_a_checkpoint_leaves_files_as_they_are(
    make_worker, tmp_path, run
):
    env = {"fragment": 4, "env_config": {"terminates_at": 2}}
    one = make_worker("toy_envs.CountingEnv", output=output_to(tmp_path, run="run"), **env)
    one.sample()
    state = one.state_dict()
    one.sample()
    one.stop()
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    two = make_worker("toy_envs.CountingEnv", output=output_to(tmp_path, run=run), **env)
    two.load_state_dict(state)
    two.sample()
    assert path.read_bytes() == before
    (own,) = set(tmp_path.iterdir()) - {path}
    episodes = [json.loads(line) for line in own.open()][1:]
    assert [episode["episode_id"] for episode in episodes] == [2, 3]


def test_a_worker_that_goes_back_in_its_own_past_writes_each_episode_once(make_worker, tmp_path):
    env = {"fragment": 4, "env_config": {"terminates_at": 2}}
    worker = make_worker("toy_envs.CountingEnv", output=output_to(tmp_path), **env)
    worker.sample()
    state = worker.state_dict()
    worker.sample()
    worker.load_state_dict(state)
    worker.sample()
    assert [episode["episode_id"] for episode in episodes_of(tmp_path)] == [0, 1, 2, 3]


def written_beyond_a_state(make_worker, tmp_path):
    """What a worker of a run is made of, the worker, and its state two episodes ago."""
    env = {
        "output": output_to(tmp_path, run="run"),
        "fragment": 4,
        "env_config": {"terminates_at": 2},
    }
    one = make_worker("toy_envs.CountingEnv", **env)
    one.sample()
    state = one.state_dict()
    one.sample()
    return env, one, state


def test_files_that_this_process_still_writes_are_left_alone(make_worker, tmp_path):
    env, one, state = written_beyond_a_state(make_worker, tmp_path)
    two = make_worker("toy_envs.CountingEnv", **env)
    two.load_state_dict(state)
    two.sample()
    one.sample()
    sizes = sorted(len(path.read_bytes().splitlines()) for path in tmp_path.iterdir())
    assert sizes == [1 + 2, 1 + 6]


def test_a_full_file_and_the_name_of_a_new_one_are_on_the_disk(make_worker, tmp_path, monkeypatch):
    synced = []
    real = os.fsync

    def fsync(descriptor):
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    worker = make_worker(
        "toy_envs.CountingEnv",
        output=output_to(tmp_path, max_file_size=1),
        fragment=4,
        env_config={"terminates_at": 2},
    )
    worker.sample()
    first, _ = sorted(tmp_path.iterdir())
    assert synced == [tmp_path, first, tmp_path]


HOLD = """
import fcntl, sys
with open(sys.argv[1], "ab") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print("ready", flush=True)
    sys.stdin.read()
"""


def test_files_that_another_process_writes_are_left_alone(make_worker, tmp_path):
    env, one, state = written_beyond_a_state(make_worker, tmp_path)
    one.stop()
    (path,) = tmp_path.iterdir()
    before = path.read_bytes()
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD, path], **pipes) as process:
        assert process.stdout.readline() == b"ready\n"
        two = make_worker("toy_envs.CountingEnv", **env)
        two.load_state_dict(state)
        two.sample()
        process.stdin.close()
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2


def test_a_disk_that_refuses_is_one_message(make_worker, tmp_path):
    folder = tmp_path / "data"
    worker = make_worker(
        "toy_envs.CountingEnv",
        output=output_to(folder),
        fragment=4,
        env_config={"terminates_at": 2},
    )
    folder.write_text("in the way")
    with pytest.raises(RlrunError, match=f"output={folder} cannot be written"):
        worker.sample()


def test_a_full_disk_is_one_message_also_when_the_file_is_closed(make_worker, tmp_path, caplog):
    env = {"fragment": 4, "env_config": {"terminates_at": 2}}
    worker = make_worker("toy_envs.CountingEnv", output=output_to(tmp_path), **env)
    worker.sample()
    files = worker.input.recorder.files
    files.close()
    # What is written stays in the buffer of the file, whose close tries again.
    files._file = Path("/dev/full").open("ab")  # noqa: SIM115
    with pytest.raises(RlrunError, match=r"cannot be written: .*No space left"):
        worker.sample()
    files.close()
    assert "cannot be closed" in caplog.text


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"compress_columns": ("new_obs",)}, "Did you mean obs"),
        ({"compress_columns": ("x",)}, "Allowed: obs, actions, rewards, log_probs"),
        ({"max_file_size": 0}, "output_max_file_size=0 must be at least 1"),
        ({"folder": os.devnull}, "must name a folder, and /dev/null is a file"),
    ],
)
def test_what_output_cannot_be_is_refused(keys, message, tmp_path):
    general = {"folder": str(tmp_path), "max_file_size": 1, "compress_columns": ()}
    with pytest.raises(ConfigError, match=message):
        OutputConfig(**{**general, **keys})
