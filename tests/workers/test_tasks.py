"""Tasks of envs: the one door to them, and that a resumed episode is played with its own."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from rlrun.core.checkpoint import load_checkpoint, save_checkpoint
from rlrun.core.errors import WorkerError
from rlrun.workers.envs import EnvConfig
from rlrun.workers.task_state import is_same, pack, unpack
from rlrun.workers.vector_env import make_vector_env

TASK_ENV = "toy_envs.TaskEnv"
WRAPPED = [{"_target_": "gymnasium.wrappers.TimeLimit", "max_episode_steps": 50}]


@pytest.fixture(params=["sync", "async"])
def envs(request):
    made = make_vector_env(
        EnvConfig(id=TASK_ENV, vectorization=request.param, wrappers=WRAPPED), 2, 0
    )
    yield made
    made.close()


def test_a_call_reaches_every_env_below_its_wrappers(envs):
    envs.reset([1, 2])
    assert envs.call("set_task", 4.0) == [None, None]
    assert envs.call("get_task") == [4.0, 4.0]
    _, rewards, _, _ = envs.step(np.zeros(2, np.int64))
    assert rewards.tolist() == [0.0, 0.0], "the running episode keeps its task"
    envs.reset_done(np.array([True, False]))
    assert envs.step(np.zeros(2, np.int64))[1].tolist() == [4.0, 0.0]


def test_a_method_that_is_not_there_is_named_and_harms_nothing(envs):
    envs.reset([1, 2])
    with pytest.raises(WorkerError, match=r"'toy_envs.TaskEnv' has no method 'set_level'"):
        envs.call("set_level", 1)
    assert envs.call("get_task") == [0.0, 0.0]


@pytest.mark.filterwarnings("ignore:.*ERROR")
def test_a_method_that_fails_names_its_env(envs):
    with pytest.raises(WorkerError, match=r"env\.set_task \(.*ValueError: no such task"):
        envs.call("set_task", "impossible")


def test_a_native_env_is_called_itself():
    envs = make_vector_env(EnvConfig(id="CartPole-v1", vectorization="native"), 3, 0)
    envs.vector_env.get_level = lambda: 7
    assert envs.call("get_level") == [7]
    with pytest.raises(WorkerError, match=r"'CartPole-v1' has no method 'get_task'"):
        envs.call("get_task")


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("task", [3.0, {1: (3.0, "far"), "map": np.arange(4.0)}], ids=str)
def test_a_resumed_episode_is_played_with_the_task_that_it_began_with(
    make_worker, assert_same_rows, caplog, tmp_path, vectorization, task
):
    settings = {
        "num_envs": 2,
        "fragment": 8,
        "vectorization": vectorization,
        "wrappers": WRAPPED,
        "env_config": {"terminates_at": 6},
    }
    worker, restored = (make_worker(TASK_ENV, **settings) for _ in range(2))
    worker.env.call("set_task", task)
    worker.sample()  # One whole episode, and two steps of the next with the same task.
    worker.env.call("set_task", 9.0)
    folder = save_checkpoint(tmp_path / "checkpoint_000001", {"worker": worker.state_dict()}, {})
    restored.load_state_dict(load_checkpoint(folder)["worker"])
    assert not caplog.records, "no episode is cut"
    assert restored.env.call("get_task") == [9.0, 9.0]
    rows = [each.sample().batches["default_policy"] for each in (worker, restored)]
    assert_same_rows(*rows)
    # Four more steps of the episode that runs, and then the new task.
    assert rows[1]["rewards"][::2].tolist() == [3.0] * 4 + [9.0] * 4


def test_a_task_is_set_once_for_the_replay_and_not_again_if_it_is_still_the_same(make_worker):
    worker, restored = (make_worker(TASK_ENV, fragment=3) for _ in range(2))
    worker.env.call("set_task", 2.0)
    worker.sample()
    restored.load_state_dict(worker.state_dict())
    (env,) = restored.env.get_sub_environments()
    assert (env.unwrapped.task, env.unwrapped.tasks_set) == (2.0, 1)


def test_a_task_that_no_checkpoint_can_hold_is_named(make_worker):
    worker = make_worker(TASK_ENV)
    (env,) = worker.env.get_sub_environments()
    env.unwrapped.get_task = lambda: gym.spaces.Discrete(3)
    with pytest.raises(WorkerError, match=r"get_task.*Discrete\(3\).*A task must be made of"):
        worker.sample()


@pytest.mark.parametrize(
    "task",
    [
        None,
        True,
        3,
        "far",
        np.float32(0.5),
        np.float64(0.1),
        (1, [2.0, (3,)]),
        {1: {"a": (np.arange(3), None)}, (2, 3): []},
    ],
    ids=str,
)
def test_a_packed_task_comes_back_as_it_was(task, tmp_path):
    folder = save_checkpoint(tmp_path / "checkpoint_000001", {"task": pack(task)}, {})
    loaded = load_checkpoint(folder)["task"]
    assert is_same(loaded, pack(task))
    assert repr(unpack(loaded)) == repr(task)
    assert not is_same(loaded, pack("another"))
