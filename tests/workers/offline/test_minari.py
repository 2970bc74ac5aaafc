"""Data sets of Minari, made here."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from offline_data import input_from
from toy_envs import CountingEnv

from rlrun.core.errors import ConfigError, MissingExtraError

COUNTING = "toy_envs.CountingEnv"


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """toy/counting-v0: episodes of 3 steps, the last of them cut after 2."""
    minari = pytest.importorskip("minari")
    pytest.importorskip("h5py")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    lengths = [3, 3, 3, 2]
    minari.create_dataset_from_buffers(
        "toy/counting-v0",
        [
            minari.data_collector.EpisodeBuffer(
                id=e,
                observations=np.array([[e, t] for t in range(length + 1)], np.float32),
                actions=np.zeros(length, np.int64),
                rewards=list(range(1, length + 1)),
                terminations=[t == 2 for t in range(length)],
                truncations=[length == 2 and t == 1 for t in range(length)],
            )
            for e, length in enumerate(lengths)
        ],
        observation_space=CountingEnv().observation_space,
        action_space=CountingEnv().action_space,
    )
    return "minari:toy/counting-v0"


def test_the_episodes_of_a_data_set_are_read(make_worker, dataset):
    reader = make_worker(COUNTING, input=input_from(dataset))
    columns = reader.input.sample(11, 0, True)
    obs = [[e, t] for e in range(4) for t in range(2 if e == 3 else 3)]
    assert columns["obs"][:, 0].tolist() == obs
    assert columns["next_obs"][:, 0].tolist() == [[e, t + 1] for e, t in obs]
    assert np.flatnonzero(columns["terminated"]).tolist() == [2, 5, 8]
    assert np.flatnonzero(columns["truncated"]).tolist() == [10]


def test_workers_read_different_parts(make_worker, dataset):
    def episodes(index):
        reader = make_worker(
            COUNTING, input=input_from(dataset), worker_index=index, num_workers=2, fragment=6
        )
        return set(reader.sample().batches["default_policy"]["obs"][:, 0].tolist())

    assert (episodes(1), episodes(2)) == ({0, 2}, {1, 3})


def test_the_data_set_tells_its_spaces(make_worker, dataset):
    reader = make_worker("none", input=input_from(dataset))
    assert reader.spaces == make_worker(COUNTING).spaces


def test_a_data_set_that_is_not_here_is_not_fetched(make_worker, dataset):
    with pytest.raises(ConfigError, match="Fetch it: minari download toy/other-v0"):
        make_worker(COUNTING, input=input_from("minari:toy/other-v0"))


def test_normalized_actions_are_not_minaris(make_worker):
    config = input_from("minari:toy/counting-v0", actions_in_input_normalized=True)
    with pytest.raises(ConfigError, match="Minari's actions are the env's own"):
        make_worker(COUNTING, input=config)


def test_without_the_package_it_says_what_to_install(make_worker, monkeypatch):
    monkeypatch.setitem(sys.modules, "minari", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'rlrun\[offline\]'"):
        make_worker(COUNTING, input=input_from("minari:toy/counting-v0"))
