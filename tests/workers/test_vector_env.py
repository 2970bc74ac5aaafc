from __future__ import annotations

import gc
import os
import signal

import gymnasium as gym
import numpy as np
import psutil
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.vector.async_vector_env import AsyncState
from helpers_cli import python_process
from toy_envs import ODD_OBSERVATIONS, CountingEnv

from rlrun.core import seeding
from rlrun.core.errors import ConfigError, SpaceError, WorkerError
from rlrun.core.membership import misfit
from rlrun.core.spaces import Preprocessor
from rlrun.run import make_trainer
from rlrun.workers import vector_env
from rlrun.workers.envs import EnvConfig
from rlrun.workers.sub_env import SubEnv
from rlrun.workers.vector_env import NativeVectorEnv, env_seeds, make_vector_env

COUNTING = "toy_envs.CountingEnv"
X_LIMIT, ANGLE_LIMIT = 2.4, 12 * 2 * np.pi / 360


# The contract of autoresets


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_every_row_is_a_step_within_one_episode(make_worker, sample_columns, vectorization):
    worker = make_worker(
        COUNTING,
        num_envs=3,
        vectorization=vectorization,
        env_config={"length_range": [2, 6]},
    )
    columns = sample_columns(worker, 40)
    # No row leads from the end of an episode to the beginning of the next one.
    np.testing.assert_array_equal(columns["next_obs"] - columns["obs"], [[[0, 1]] * 3] * 40)
    assert "valid" not in columns
    assert columns["terminated"].sum() == len(worker.take_metrics()) > 10


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_episodes_last_row_has_the_real_last_observation(
    make_worker, sample_columns, vectorization
):
    worker = make_worker(COUNTING, vectorization=vectorization, env_config={"terminates_at": 3})
    columns = sample_columns(worker, 7)
    np.testing.assert_array_equal(
        columns["obs"][:, 0], [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2], [2, 0]]
    )
    np.testing.assert_array_equal(
        columns["next_obs"][:, 0], [[0, 1], [0, 2], [0, 3], [1, 1], [1, 2], [1, 3], [2, 1]]
    )
    np.testing.assert_array_equal(columns["rewards"][:, 0], [1, 2, 3, 1, 2, 3, 1])


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_ends_by_the_env_and_by_a_limit_are_told_apart(make_worker, sample_columns, vectorization):
    # Episodes in turns: terminated after 2 steps, truncated after 2, both at once after 2.
    worker = make_worker(
        COUNTING,
        vectorization=vectorization,
        env_config={"terminates_at": [2, None, 2], "truncates_at": [None, 2, 2]},
    )
    columns = sample_columns(worker, 6)
    np.testing.assert_array_equal(columns["terminated"][:, 0], [0, 1, 0, 0, 0, 1])
    np.testing.assert_array_equal(columns["truncated"][:, 0], [0, 0, 0, 1, 0, 0])


def test_the_horizon_truncates_a_class_by_import_path_and_a_gymnasium_id(
    make_worker, sample_columns
):
    for env_id in (COUNTING, "Pendulum-v1"):
        worker = make_worker(env_id, horizon=4)
        columns = sample_columns(worker, 9)
        np.testing.assert_array_equal(columns["truncated"][:, 0], [0, 0, 0, 1, 0, 0, 0, 1, 0])
        assert not columns["terminated"].any()
        assert [report.length for report in worker.take_metrics()] == [4, 4]


def test_async_envs_give_the_same_rows_as_sync_ones(make_worker, sample_columns, assert_same_rows):
    columns = [
        sample_columns(make_worker("CartPole-v1", num_envs=2, vectorization=mode), 60)
        for mode in ("sync", "async")
    ]
    assert columns[0]["terminated"].sum() >= 2
    assert_same_rows(*columns)


def cart_pole_step(obs: np.ndarray, action: int) -> tuple[np.ndarray, bool]:
    """CartPole's own dynamics from any state: (next observation, terminated)."""
    env = gym.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    env.state = tuple(float(x) for x in obs)
    next_obs, _, terminated, _, _ = env.step(int(action))
    return next_obs, terminated


def test_native_cart_pole_shows_only_steps_of_its_own_dynamics(make_worker, sample_columns):
    # Its vector env resets on the step after an end, which makes a row that is no transition.
    worker = make_worker("CartPole-v1", num_envs=3, vectorization="native", horizon=25)
    columns = sample_columns(worker, 80)
    valid = columns["valid"]
    for t, env in zip(*np.nonzero(valid), strict=True):
        expected, terminated = cart_pole_step(columns["obs"][t, env], columns["actions"][t, env])
        np.testing.assert_allclose(columns["next_obs"][t, env], expected, rtol=1e-4, atol=1e-5)
        assert columns["terminated"][t, env] == terminated
    ends = columns["terminated"] | columns["truncated"]
    # Exactly the rows after the ends are void, and the ones after these begin near the middle.
    np.testing.assert_array_equal(~valid[1:], ends[:-1])
    begins = columns["obs"][2:][ends[:-2]]
    assert len(begins) > 8
    assert (np.abs(begins) <= 0.05).all()
    assert valid[0].all()


def test_native_cart_pole_tells_a_time_limit_from_a_fall(make_worker, sample_columns):
    worker = make_worker("CartPole-v1", num_envs=4, vectorization="native", horizon=20)
    columns = sample_columns(worker, 100)
    x, angle = columns["next_obs"][..., 0], columns["next_obs"][..., 2]
    fell = ((np.abs(x) > X_LIMIT) | (np.abs(angle) > ANGLE_LIMIT)) & columns["valid"]
    np.testing.assert_array_equal(columns["terminated"], fell)
    lengths = [report.length for report in worker.take_metrics()]
    assert lengths.count(20) >= columns["truncated"].sum() > 0
    assert columns["terminated"].sum() > 0
    assert len(lengths) == columns["terminated"].sum() + columns["truncated"].sum()


def test_void_rows_reach_no_batch_and_no_count(make_worker):
    worker = make_worker("CartPole-v1", num_envs=3, fragment=80, vectorization="native", horizon=25)
    sample = worker.sample()
    rows = sample.batches["default_policy"]
    assert "valid" not in rows
    assert rows.num_rows == sample.env_steps < 240
    for obs, action, next_obs in zip(rows["obs"], rows["actions"], rows["next_obs"], strict=True):
        expected, _ = cart_pole_step(obs, action)
        np.testing.assert_allclose(next_obs, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "vectorization",
    [
        "sync",
        pytest.param(
            "native",
        ),
    ],
)
def test_void_rows_do_not_double_the_train_batch(vectorization):
    with make_trainer(
        "ppo",
        env="CartPole-v1",
        overrides=[
            f"env.vectorization={vectorization}",
            "algo.train_batch_size=256",
            "algo.num_epochs=1",
            "algo.timesteps_per_iteration=0",
        ],
        seed=1,
    ) as trainer:
        num_trained = trainer.train()["num_env_steps_trained"]
    assert 0.75 * 256 < num_trained < 1.25 * 256


@pytest.mark.parametrize(("vectorization", "num_void"), [("sync", 0), ("native", 1)])
def test_lengths_and_returns_are_those_of_real_steps(
    make_worker, sample_columns, vectorization, num_void
):
    worker = make_worker("CartPole-v1", vectorization=vectorization, horizon=8)
    # Eight steps each, of reward 1; a native env spends one more on each reset.
    sample_columns(worker, 3 * 8 + 2 * num_void)
    reports = worker.take_metrics()
    assert [(report.length, report.total_reward) for report in reports] == [(8, 8.0)] * 3


@pytest.mark.parametrize("autoreset_mode", ["SameStep", "NextStep"])
def test_atari_rows_shift_their_frames_by_one(make_worker, sample_columns, autoreset_mode):
    pytest.importorskip("ale_py")
    worker = make_worker(
        "ALE/Pong-v5",
        num_envs=2,
        vectorization="native",
        flatten_observations=True,
        env_config={
            "autoreset_mode": autoreset_mode,
            "max_num_frames_per_episode": 80,
            "img_height": 21,
            "img_width": 21,
        },
    )
    columns = sample_columns(worker, 50)
    valid = columns.get("valid", np.ones((50, 2), bool))
    assert ("valid" in columns) == (autoreset_mode == "NextStep")
    obs = columns["obs"].reshape(50, 2, 4, 21, 21)
    next_obs = columns["next_obs"].reshape(50, 2, 4, 21, 21)
    ends = columns["truncated"]
    assert ends.sum() >= 4
    assert not columns["terminated"].any()
    # A step puts one frame behind three old ones; a reset begins the stack anew.
    np.testing.assert_array_equal(next_obs[valid][:, :3], obs[valid][:, 1:])
    followed = ends[:-1] & valid[1:]
    np.testing.assert_array_equal(~valid[1:], ends[:-1] & (autoreset_mode == "NextStep"))
    for t, env in zip(*np.nonzero(followed), strict=True):
        assert (obs[t + 1, env] != next_obs[t, env]).any()
    for t, env in zip(*np.nonzero(valid[:-1] & valid[1:] & ~ends[:-1]), strict=True):
        np.testing.assert_array_equal(obs[t + 1, env], next_obs[t, env])


# Seeds


def test_env_seeds_differ_between_envs_workers_and_purposes():
    seeds = [
        seed
        for purpose in ("rollout", "evaluation")
        for worker in range(4)
        for seed in env_seeds(seeding.integer_seed(3, purpose), worker, 16)
    ]
    assert len(set(seeds)) == len(seeds) == 2 * 4 * 16


def test_more_envs_leave_the_seeds_of_the_first_ones_as_they_are():
    assert env_seeds(3, 1, 8)[:2] == env_seeds(3, 1, 2)
    assert env_seeds(3, 1, 2) != env_seeds(4, 1, 2)


def test_the_envs_themselves_get_the_seeds_of_the_tree(make_worker):
    few = make_worker("Pendulum-v1", num_envs=2, worker_index=2, num_workers=2)
    many = make_worker("Pendulum-v1", num_envs=5, worker_index=2, num_workers=9)
    other = make_worker("Pendulum-v1", num_envs=2, worker_index=1, num_workers=2)
    rows = [worker.sample().batches["default_policy"]["obs"] for worker in (few, many, other)]
    seeds = [
        [env.seed for env in worker.env.get_sub_environments()] for worker in (few, many, other)
    ]
    assert seeds[0] == seeds[1][:2] == env_seeds(seeding.integer_seed(7, "rollout"), 2, 2)
    assert not set(seeds[0]) & set(seeds[2])
    # Rows are in the order of time, envs side by side.
    np.testing.assert_array_equal(rows[0][:2], rows[1][:2])
    assert len(np.unique(np.concatenate([rows[1][:5], rows[2][:2]]), axis=0)) == 7


def test_native_envs_of_two_workers_begin_differently(make_worker, sample_columns):
    first, second = (
        sample_columns(
            make_worker("CartPole-v1", num_envs=2, worker_index=i, vectorization="native"), 1
        )["obs"]
        for i in (1, 2)
    )
    assert len(np.unique(np.concatenate([first[0], second[0]]), axis=0)) == 4


def test_a_run_repeats_with_its_seed_and_not_with_another(
    make_worker, sample_columns, assert_same_rows
):
    rows = [
        sample_columns(make_worker("Pendulum-v1", num_envs=2, seed=seed), 20) for seed in (5, 5, 6)
    ]
    assert_same_rows(rows[0], rows[1])
    assert (rows[0]["obs"] != rows[2]["obs"]).any()


# Errors


@pytest.mark.filterwarnings("ignore:.*ERROR")  # gymnasium's own words for the same error.
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_error_in_an_env_names_worker_env_and_seed(make_worker, vectorization):
    worker = make_worker(
        "toy_envs.EnvThatRaises",
        num_envs=2,
        worker_index=3,
        vectorization=vectorization,
        env_config={"raises_after": 4},
    )
    with pytest.raises(WorkerError) as caught:
        worker.sample()
    seeds = env_seeds(seeding.integer_seed(7, "rollout"), 3, 2)
    # Of envs that break in the same step, sync meets the first, and async names the last to report.
    env = 0 if vectorization == "sync" or f"seed {seeds[0]}" in str(caught.value) else 1
    assert str(caught.value) == (
        f"Worker 3 failed in env.step ('toy_envs.EnvThatRaises', env {env}, seed {seeds[env]}): "
        f"ZeroDivisionError: the toy env broke"
    )


def test_the_error_of_an_env_in_this_process_is_the_cause(make_worker):
    worker = make_worker("toy_envs.EnvThatRaises", env_config={"raises_after": 0})
    with pytest.raises(WorkerError) as caught:
        worker.sample()
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.filterwarnings("ignore:.*ERROR")
@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("odd", ODD_OBSERVATIONS)
def test_an_observation_beside_its_space_is_an_error_with_its_env(make_worker, vectorization, odd):
    envs = make_vector_env(
        EnvConfig(
            id="toy_envs.OddObservationEnv", vectorization=vectorization, env_config={"odd": odd}
        ),
        2,
        worker_index=3,
    )
    space, _, outside = ODD_OBSERVATIONS[odd]
    try:
        envs.reset([11, 12])
        for _ in range(2):
            envs.step(np.zeros(2, np.int64))
        with pytest.raises(WorkerError) as caught:
            envs.step(np.zeros(2, np.int64))
    finally:
        envs.close()
    env = 0 if "env 0" in str(caught.value) else 1
    assert str(caught.value) == (
        f"Worker 3 failed in env.step ('toy_envs.OddObservationEnv', env {env}, seed {11 + env}): "
        f"{misfit(space, outside)}."
    )


@pytest.mark.parametrize("odd", ODD_OBSERVATIONS)
def test_acting_refuses_the_observations_that_sampling_refuses(odd):
    space, usual, outside = ODD_OBSERVATIONS[odd]
    preprocess = Preprocessor(space)
    assert preprocess.single(usual).shape == (1, *preprocess.space.shape)
    with pytest.raises(SpaceError) as caught:
        preprocess.single(outside)
    assert str(caught.value) == f"Cannot act: {misfit(space, outside)}."


@pytest.mark.parametrize(
    ("name", "given"),
    [("reward", "1.5"), ("reward", [1.0]), ("terminated", None), ("truncated", "no")],
)
def test_a_reward_or_a_flag_that_is_no_number_is_an_error(name, given):
    class Env(CountingEnv):
        def step(self, action):
            observation, *rest, info = super().step(action)
            rest[["reward", "terminated", "truncated"].index(name)] = given
            return observation, *rest, info

    env = SubEnv(Env(), "Env", 2, 1)
    env.reset(seed=5)
    with pytest.raises(WorkerError) as caught:
        env.step(0)
    assert str(caught.value) == (
        f"Worker 2 failed in env.step ('Env', env 1, seed 5): the {name} is {given!r}, which is "
        f"no number."
    )


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_envs_of_one_worker_must_have_the_same_spaces(vectorization):
    config = EnvConfig(id="toy_envs.OtherSpacesEnv", vectorization=vectorization)
    with pytest.raises(WorkerError, match=r"envs of worker 4 .*OtherSpacesEnv.* same spaces"):
        make_vector_env(config, 2, 4)


class OddNativeEnv(gym.vector.VectorEnv):
    """Two envs that give `odd` as one of the five values of their first step."""

    def __init__(self, position: int = 0, odd: object = None) -> None:
        self.num_envs = 2
        self.single_observation_space = gym.spaces.Box(-9, 9, (3,), np.float32)
        self.single_action_space = gym.spaces.Discrete(2)
        self.metadata = {"autoreset_mode": AutoresetMode.NEXT_STEP}
        self.position, self.odd = position, odd

    def reset(self, *, seed=None, options=None):
        return np.zeros((2, 3), np.float32), {}

    def step(self, actions):
        given = [np.zeros((2, 3)), np.zeros(2), np.zeros(2, bool), np.zeros(2, bool), {}]
        if self.odd is not None:
            given[self.position] = self.odd
        return tuple(given)


@pytest.mark.parametrize(
    ("position", "odd", "words"),
    [
        (0, np.zeros((2, 1), np.float32), "the batch of observations has the shape (2, 1), and"),
        (0, np.zeros(3, np.float32), "the batch of observations has the shape (3,), and"),
        (0, "nothing", "the batch of observations is 'nothing', and"),
        (1, 1.0, "rewards must have the shape (2,), not ()."),
        (2, np.zeros((2, 1), bool), "terminated must have the shape (2,), not (2, 1)."),
    ],
)
def test_what_a_native_env_gives_beside_its_spaces_is_an_error(position, odd, words):
    envs = NativeVectorEnv(OddNativeEnv(position, odd), "Odd-v0", worker_index=3)
    envs.reset([0])
    with pytest.raises(WorkerError) as caught:
        envs.step(np.zeros(2, np.int64))
    assert str(caught.value).startswith("Worker 3 failed in step of the vector env 'Odd-v0': ")
    assert words in str(caught.value)


def test_a_native_env_may_give_wider_floats_than_its_space():
    envs = NativeVectorEnv(OddNativeEnv(), "Odd-v0")
    np.testing.assert_array_equal(envs.step(np.zeros(2, np.int64))[0], np.zeros((2, 3)))


def test_an_async_env_whose_process_ends_is_a_worker_error(make_worker):
    worker = make_worker(
        "toy_envs.EnvThatRaises", num_envs=2, vectorization="async", env_config={"exits_after": 2}
    )
    try:
        with pytest.raises(WorkerError, match=r"Worker 0 .*EnvThatRaises"):
            worker.sample()
    finally:
        # Closing fails in the same way.
        worker.env.vector_env._state = AsyncState.DEFAULT
        worker.env.vector_env.close(terminate=True)


def test_an_unknown_gymnasium_id_is_a_config_error_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"env\.id='CartPol-v1'.*CartPole"):
        make_vector_env(EnvConfig(id="CartPol-v1"), 1, 0)


def test_native_needs_an_env_with_a_vector_implementation():
    with pytest.raises(ConfigError, match=r"native.*Pendulum-v1.*sync"):
        make_vector_env(EnvConfig(id="Pendulum-v1", vectorization="native"), 2, 0)


def test_envs_that_are_stuck_in_processes_of_their_own_can_be_closed(monkeypatch):
    monkeypatch.setattr(vector_env, "CLOSE_TIMEOUT_S", 0.1)
    config = EnvConfig(id="toy_envs.StuckEnv", vectorization="async")
    envs = make_vector_env(config, 2, 0)
    envs.reset([0, 1])
    processes = envs.vector_env.processes
    envs.vector_env.step_async(np.zeros(2, np.int64))
    envs.close()
    for process in processes:
        process.join()
        assert process.exitcode == -signal.SIGKILL


def test_an_env_in_a_process_does_not_destroy_what_its_parent_left_behind():
    class OfTheParent:
        """Garbage that only a collector finds, as a vector env with threads may be."""

        def __init__(self) -> None:
            self.itself = self
            self.pid = os.getpid()

        def __del__(self) -> None:
            if os.getpid() != self.pid:
                os._exit(19)

    def collect_early() -> None:
        if gc.isenabled() and thresholds:
            gc.collect()

    thresholds = gc.get_threshold()
    gc.set_threshold(1_000_000_000)  # Enabled, but never by itself.
    os.register_at_fork(after_in_child=collect_early)
    try:
        OfTheParent()
        envs = make_vector_env(EnvConfig(id="toy_envs.CollectingEnv", vectorization="async"), 1, 0)
        envs.reset([1])
        envs.step(np.zeros(1, np.int64))
        (process,) = envs.vector_env.processes
        envs.close()
        assert process.exitcode == 0
    finally:
        gc.set_threshold(*thresholds)
        thresholds = ()


def test_a_process_that_forgets_to_close_its_envs_ends_at_once(tmp_path):
    script = (
        "import rlrun\n"
        "from rlrun.workers import vector_env\n"
        "vector_env.SIGTERM_GRACE_S = 1000  # for ever, to this test\n"
        "overrides = ['env.vectorization=async']\n"
        "trainer = rlrun.make_trainer('ppo', env='CartPole-v1', overrides=overrides)\n"
        "env = trainer.workers.local_worker().env.vector_env\n"
        "print(*(process.pid for process in env.processes))\n"
    )
    done = python_process(tmp_path, "-c", script)
    assert done.status == 0, done.stderr
    for pid in done.stdout.split():
        assert not psutil.pid_exists(int(pid))
