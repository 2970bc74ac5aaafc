"""Batches of the classic RLlib, written here by hand as its JsonWriter does."""

from __future__ import annotations

import base64
import json
import os
import pickle
import sys

import numpy as np
import pytest
from offline_data import ValuedRows, input_from

from rlrun.core.errors import ConfigError, MissingExtraError, RlrunError, SpaceError

COUNTING = "toy_envs.CountingEnv"
BATCH = {
    "type": "SampleBatch",
    "obs": [[0, 0], [0, 1], [1, 0], [1, 1], [2, 0]],
    "new_obs": [[0, 1], [0, 2], [1, 1], [1, 2], [2, 1]],
    "actions": [0, 1, 1, 0, 1],
    "rewards": [1.0, 2.0, 1.0, 2.0, 1.0],
    "dones": [False, True, False, False, False],
    "eps_id": [5, 5, 6, 6, 9],
    "action_prob": [0.5, 0.5, 0.25, 0.5, 1.0],
    "advantages": [0, 0, 0, 0, 0],
}


def without(*names):
    return {name: column for name, column in BATCH.items() if name not in names}


@pytest.fixture
def read(make_worker, tmp_path):
    """read(batch, ...) -> the columns of the worker's first steps."""

    def columns(*batches, env_id=COUNTING, num_steps=5, algorithm=ValuedRows, **keys):
        path = tmp_path / "output-2022-05-01_12-00-00_worker-0_0.json"
        path.write_text("".join(json.dumps(batch) + "\n" for batch in batches))
        config = input_from(tmp_path, **keys)
        worker = make_worker(env_id, input=config, algorithm=algorithm)
        found = worker.input.sample(num_steps, 0, True)
        return {name: column[:, 0].tolist() for name, column in found.items()}

    return columns


def test_a_batch_is_cut_into_its_episodes_and_pieces(read):
    columns = read(BATCH)
    assert columns["obs"] == BATCH["obs"]
    assert columns["next_obs"] == BATCH["new_obs"]
    assert columns["actions"] == BATCH["actions"]
    assert columns["rewards"] == BATCH["rewards"]
    assert columns["terminated"] == BATCH["dones"]
    # A piece that goes on elsewhere is cut: what follows it is known by value only.
    assert columns["truncated"] == [False, False, False, True, True]
    np.testing.assert_allclose(np.exp(columns["log_probs"]), BATCH["action_prob"], rtol=1e-6)


def test_without_ids_episodes_end_where_they_are_done_or_observations_jump(read):
    columns = read(without("eps_id"))
    assert columns["terminated"] == BATCH["dones"]
    assert columns["truncated"] == [False, False, False, True, True]


CHAIN = {
    "type": "SampleBatch",
    "obs": [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4]],
    "new_obs": [[0, 1], [0, 2], [0, 3], [0, 4], [0, 5]],
    "actions": [0] * 5,
    "rewards": [1.0] * 5,
    "dones": [False] * 5,
    "action_prob": [1.0] * 5,
}


@pytest.mark.parametrize("gap", ["new_obs", "t"])
def test_steps_that_do_not_follow_each_other_are_in_pieces_of_their_own(read, gap):
    column = {
        "new_obs": [[0, 1], [9, 9], [0, 3], [0, 4], [0, 5]],
        "t": [3, 4, 8, 9, 10],
    }
    batch = {**CHAIN, gap: column[gap]}
    columns = read(batch)
    assert columns["next_obs"] == batch["new_obs"]
    assert columns["truncated"] == [False, True, False, False, True]


def test_observations_of_several_steps_later_are_refused(read):
    batch = {**CHAIN, "new_obs": [[0, 3], [0, 4], [0, 5], [0, 5], [0, 5]]}
    with pytest.raises(ConfigError, match=r"in 4 of 4 rows .* with n_step > 1.* with n_step=1"):
        read(batch)


@pytest.mark.parametrize(
    "flags",
    [
        {"dones": [0, 1, 0, 0, 1], "truncateds": [0, 1, 0, 0, 0]},
        {"dones": [0, 1, 0, 0, 1], "terminateds": [0, 0, 0, 0, 1]},
        {"terminateds": [0, 0, 0, 0, 1], "truncateds": [0, 1, 0, 0, 0]},
    ],
)
def test_a_time_limit_is_told_from_a_termination(read, flags):
    batch = {name: column for name, column in CHAIN.items() if name != "dones"}
    columns = read({**batch, **flags})
    assert columns["terminated"] == [False, False, False, False, True]
    assert columns["truncated"] == [False, True, False, False, False]


def test_without_new_obs_the_last_step_of_a_piece_is_left_out(read):
    columns = read(without("new_obs"), num_steps=3)
    assert columns["obs"] == [[0, 0], [0, 1], [1, 0]]
    assert columns["next_obs"] == [[0, 1], [0, 1], [1, 1]]
    assert columns["terminated"] == [False, True, False]
    assert columns["truncated"] == [False, False, True]


def test_a_batch_of_the_one_policy_of_several_agents_is_read(read):
    batch = {"type": "MultiAgentBatch", "count": 5, "policy_batches": {"p": without("type")}}
    assert read(batch)["obs"] == BATCH["obs"]
    batch["policy_batches"]["q"] = batch["policy_batches"]["p"]
    with pytest.raises(ConfigError, match=r"the batch is of 2 policies \(p, q\)"):
        read(batch)


@pytest.mark.parametrize("name", ["obs", "actions", "rewards", "dones"])
def test_a_batch_without_a_column_is_named(read, name):
    with pytest.raises(RlrunError, match=rf"worker-0_0.json, the line at byte 0 .*'{name}'"):
        read(without(name))


def test_columns_of_different_lengths_are_refused(read):
    with pytest.raises(RlrunError, match="differ in length"):
        read({**BATCH, "rewards": [1.0]})


def test_one_hot_observations_are_rows_already(read):
    rows = np.eye(16)[[3, 7]].tolist()
    batch = {
        "type": "SampleBatch",
        "obs": rows,
        "new_obs": [rows[1], rows[1]],
        "actions": [0, 3],
        "rewards": [0.0, 1.0],
        "dones": [False, True],
        "action_logp": [-1.0, -2.0],
    }
    columns = read(batch, env_id="FrozenLake-v1", num_steps=2)
    assert columns["obs"] == rows
    assert columns["log_probs"] == [-1.0, -2.0]


@pytest.mark.parametrize("is_normalized", [False, True])
def test_box_actions_are_the_envs_or_the_policys(read, is_normalized):
    batch = {
        "type": "SampleBatch",
        "obs": [[1.0, 0.0, 0.5]],
        "new_obs": [[1.0, 0.0, 0.25]],
        "actions": [[0.5]],
        "rewards": [-1.0],
        "dones": [True],
        "action_logp": [-1.0],
    }
    found = read(
        batch, env_id="Pendulum-v1", num_steps=1, actions_in_input_normalized=is_normalized
    )
    assert found["actions"] == [[0.5 if is_normalized else 0.25]]  # of [-2, 2]


def test_normalized_actions_are_for_boxes_that_are_stretched(make_worker, tmp_path):
    (tmp_path / "output-0.json").touch()
    config = input_from(tmp_path, actions_in_input_normalized=True)
    with pytest.raises(ConfigError, match=r"is for a Box of floats, .* is Discrete\(2\)"):
        make_worker(COUNTING, input=config)
    with pytest.raises(ConfigError, match=r"Use env\.normalize_actions=true"):
        make_worker("Pendulum-v1", input=config, normalize_actions=False)


def test_observations_that_fit_nothing_are_refused(read):
    with pytest.raises(SpaceError, match="obs has the shape"):
        read(BATCH, env_id="CartPole-v1")


def test_without_an_env_nobody_knows_the_spaces(read):
    with pytest.raises(ConfigError, match=r"says nothing of its spaces\. Choose the env"):
        read(BATCH, env_id="none")


def packed(column, protocol=4):
    lz4 = pytest.importorskip("lz4.frame")
    data = lz4.compress(pickle.dumps(column, protocol=protocol))
    return base64.b64encode(data).decode("ascii")


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("order", ["C", "F"])
def test_packed_columns_are_read(read, protocol, order):
    batch = dict(BATCH)
    for name in ("obs", "new_obs"):
        batch[name] = packed(np.array(BATCH[name], np.float32, order=order), protocol)
    batch["actions"] = packed(np.array(BATCH["actions"], ">i8"), protocol)
    batch["dones"] = packed(np.array(BATCH["dones"]), protocol)
    columns = read(batch)
    assert columns["obs"] == BATCH["obs"]
    assert columns["next_obs"] == BATCH["new_obs"]
    assert columns["actions"] == BATCH["actions"]
    assert columns["terminated"] == BATCH["dones"]


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


@pytest.mark.parametrize("harm", [Harmful(), np.array([Harmful()], object)])
def test_a_pickle_that_is_more_than_an_array_is_refused_and_nothing_called(
    read, harm, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RlrunError, match=r"more than an array of numbers \(it names posix.mkdir\)"):
        read({**BATCH, "obs": packed(harm)})
    assert not (tmp_path / "harm").exists()


def test_an_array_of_objects_is_refused(read):
    with pytest.raises(RlrunError, match="holds no numbers"):
        read({**BATCH, "obs": packed(np.array([None, "x"], object))})


def test_a_damaged_column_is_named(read):
    lz4 = pytest.importorskip("lz4.frame")
    del lz4
    text = base64.b64encode(b"no frame").decode()
    with pytest.raises(RlrunError, match="packed column 'obs' is damaged"):
        read({**BATCH, "obs": text})


def test_without_the_package_a_packed_column_says_what_to_install(read, monkeypatch):
    monkeypatch.setitem(sys.modules, "lz4.frame", None)
    monkeypatch.setitem(sys.modules, "lz4", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'rlrun\[offline\]'"):
        read({**BATCH, "obs": "AAAA"})
