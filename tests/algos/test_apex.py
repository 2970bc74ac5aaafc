"""Ape-X DQN: first priorities, the way of rows to the shards, and one, two or no remote workers."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import psutil
import pytest
import torch
from gymnasium import spaces
from helpers_cli import Child, config

from rlrun.algos.apex import Apex
from rlrun.algos.apex_ddpg import ApexDDPG
from rlrun.core.batch import Batch
from rlrun.core.callbacks import Callbacks
from rlrun.core.checkpoint import list_checkpoints, load_checkpoint
from rlrun.core.errors import (
    CheckpointError,
    ConfigError,
    Interrupted,
    ResourceError,
    WorkerDiedError,
)
from rlrun.core.networks import MLP
from rlrun.core.weight_files import read_weights
from rlrun.run import Run, make_trainer
from rlrun.trainer import Trainer
from rlrun.workers.sample import RowsElsewhere

ID = "default_policy"
SIZES = (
    "tuned=none",
    "model.fcnet_hiddens=[]",
    "algo.hiddens=[]",
    "algo.num_replay_buffer_shards=2",
    "algo.rollout_fragment_length=5",
    "algo.train_batch_size=16",
    "algo.buffer_size=1000",
    "algo.learning_starts=50",
    "algo.learner_queue_size=4",
    "algo.timesteps_per_iteration=200",
)
REMOTE = ("resources.num_cpus_per_worker=0.5", "resources.num_cpus_per_replay_shard=0.25")


def make(env: str, num_workers: int, *overrides: str) -> Trainer:
    workers = (f"resources.num_workers={num_workers}", *(REMOTE if num_workers else ()))
    return make_trainer("apex", env, [*SIZES, *workers, *overrides], seed=1)


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "rlrun learner"]


def shards_of(trainer: Trainer) -> list[dict[str, Any]]:
    """The states of the shards, wherever they are."""
    return trainer.algorithms[ID].state_dict()["replay"]["buffer"]["shards"]


def until(trainer: Trainer, is_reached: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    for _ in range(100):
        result = trainer.train()
        if is_reached(result):
            return result
    raise AssertionError("It was not reached in 100 iterations.")


# First priorities


def linear_apex(**settings: Any) -> tuple[Apex, Any]:
    """Q(s, a0) = s0 + 2 s1 + 0.5 and Q(s, a1) = s0 - s1, with the policy."""
    algorithm = Apex(
        hiddens=[], dueling=False, gamma=0.5, train_batch_size=4, buffer_size=40, **settings
    )
    policy = algorithm.make_policy(
        spaces.Box(-9.0, 9.0, (2,), np.float32), spaces.Discrete(2), MLP(fcnet_hiddens=[])
    )
    layer = policy.advantage[-1]
    layer.weight.data = torch.tensor([[1.0, 2.0], [1.0, -1.0]])
    layer.bias.data = torch.tensor([0.5, 0.0])
    return algorithm, policy


def trajectory() -> Batch:
    """Five steps of two envs; the second's episode terminates in its third step."""
    obs = np.zeros((6, 2, 2), np.float32)
    obs[:, 0, 0] = obs[:, 1, 1] = np.arange(6)
    terminated = np.zeros((5, 2), bool)
    terminated[2, 1] = True
    return Batch(
        obs=obs[:-1],
        next_obs=obs[1:],
        actions=np.array([[0, 1]] * 5),
        rewards=np.array([[1.0, 4.0]] * 5, np.float32),
        terminated=terminated,
        truncated=np.zeros((5, 2), bool),
    )


def test_first_priorities_are_n_step_td_errors_by_hand():
    algorithm, policy = linear_apex(num_replay_buffer_shards=2)
    found = algorithm.postprocess(policy, trajectory())
    # Of the first env, s = (t, 0), in a0: Q = t + 0.5; three rewards of 1 discounted by 0.5 are
    # 1.75, and three steps later the best action has t + 3 + 0.5, times 1/8.
    first = [abs(t + 0.5 - (1.75 + (t + 3.5) / 8)) for t in range(3)]
    # Of the second, s = (0, t), in a1: Q = -t. Rewards of 4 are 7, 6 and 4, as the episode
    # terminates with the third.
    second = [abs(-t - reward) for t, reward in enumerate([7.0, 6.0, 4.0])]
    np.testing.assert_allclose(found["priorities"], np.stack([first, second], 1), rtol=1e-6)
    assert found["priorities"].dtype == np.float32


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"double_q": False},
        {"num_atoms": 5, "v_min": -3.0, "v_max": 30.0},
        {"noisy": True},
        {"n_step": 1},
    ],
)
def test_first_priorities_are_the_errors_that_a_learner_of_the_same_weights_has(settings):
    torch.manual_seed(1)
    worker = Apex(hiddens=[8], gamma=0.9, num_replay_buffer_shards=2, buffer_size=512, **settings)
    policy = worker.make_policy(
        spaces.Box(-9.0, 9.0, (2,), np.float32), spaces.Discrete(2), MLP(fcnet_hiddens=[8])
    )
    before = {name: array.copy() for name, array in policy.get_weights().items()}
    rows = worker.postprocess(policy, trajectory())
    assert not hasattr(worker, "policy")  # It stays a bundle of hyperparameters.
    learner = Apex(hiddens=[8], gamma=0.9, num_replay_buffer_shards=2, buffer_size=512, **settings)
    learner.setup(policy, torch.device("cpu"), 1)
    flat = {name: column.reshape(-1, *column.shape[2:]) for name, column in rows.items()}
    priorities = flat.pop("priorities")
    for network in (learner.policy, learner.target.network):
        network.mute_noise()
    errors = learner.loss(Batch(flat).to())[1]["td_error"]
    np.testing.assert_allclose(priorities, errors.abs().numpy(), rtol=1e-5, atol=1e-6)
    assert priorities.min() > 0.0
    assert all((policy.get_weights()[name] == before[name]).all() for name in before)


@pytest.mark.parametrize(
    "settings", [{}, {"twin_q": True, "n_step": 1}, {"smooth_target_policy": True}]
)
def test_first_priorities_of_actions_that_are_continuous_are_a_learners_errors(settings):
    torch.manual_seed(1)
    sizes = {"actor_hiddens": [8], "critic_hiddens": [8], "buffer_size": 512}
    worker, learner = (ApexDDPG(gamma=0.9, **sizes, **settings) for _ in range(2))
    policy = worker.make_policy(
        spaces.Box(-9.0, 9.0, (2,), np.float32),
        spaces.Box(-1.0, 1.0, (1,), np.float32),
        MLP(fcnet_hiddens=[]),
    )
    steps = trajectory()
    steps["actions"] = np.linspace(-1.0, 1.0, 10, dtype=np.float32).reshape(5, 2, 1)
    rows = worker.postprocess(policy, steps)
    again = worker.postprocess(policy, steps)
    np.testing.assert_array_equal(again["priorities"], rows["priorities"])
    flat = {name: column.reshape(-1, *column.shape[2:]) for name, column in rows.items()}
    priorities = flat.pop("priorities")
    learner.setup(policy, torch.device("cpu"), 1)
    learner.rng = np.random.default_rng(0)
    errors = learner.update(Batch(flat).to())["td_error"]
    np.testing.assert_allclose(priorities, errors.abs().numpy(), rtol=1e-5, atol=1e-6)
    assert priorities.min() > 0.0


# The way of the rows


def steps_in(shards: list[dict[str, Any]]) -> Counter[tuple[int, int]]:
    """How often each (episode, step) is in the shards, whose rewards are looked at."""
    found: Counter[tuple[int, int]] = Counter()
    for state in shards:
        columns = state["columns"]
        for obs, reward, discount in zip(
            columns["obs"], columns["rewards"], columns["discounts"], strict=True
        ):
            step = int(obs[1])
            # Rewards count the steps, and the episode terminates after the seventh.
            window = list(range(step + 1, min(step + 3, 7) + 1))
            assert reward == sum(window)
            assert discount == (0.0 if window[-1] == 7 else 1.0)
            found[int(obs[0]), step] += 1
    return found


COUNTING = ("env.env_config.terminates_at=7", "algo.gamma=1.0", "algo.learning_starts=100000")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_step_gets_into_a_shard_once_with_its_window_across_fragments(
    num_workers, ray_cluster
):
    with make("toy_envs.CountingEnv", num_workers, *COUNTING) as trainer:
        seen = []
        note = trainer.workers.note

        def spy(sample: Any) -> None:
            seen.append(sample)
            note(sample)

        trainer.workers.note = spy
        trainer.train()
        replay = trainer.train()["info"]["learner"][ID]["replay_buffer"]
        shards = shards_of(trainer)
    num_samplers = max(num_workers, 1)
    # Of each worker's steps but the last two, whose windows are open.
    assert replay["num_entries"] == 400 - 2 * num_samplers
    assert sum(replay["num_entries_of_shard"].values()) == replay["num_entries"]
    # Fragments go to the shards in turn.
    sizes = [state["size"] for state in shards]
    assert abs(sizes[0] - sizes[1]) <= 5 + 2 * num_samplers
    steps = steps_in(shards)
    if num_workers == 2:
        assert set(steps.values()) <= {1, 2}
    else:
        numbers = range(400 - 2)
        assert steps == Counter((number // 7, number % 7) for number in numbers)
    kinds = {type(rows) for sample in seen for rows in sample.batches.values()}
    assert kinds == {RowsElsewhere if num_workers else Batch}


# Learning


class EchoEnv(gym.Env):
    """Shows one of two symbols; naming it gives 1. Episodes have ten steps."""

    observation_space = spaces.Box(0.0, 1.0, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self) -> None:
        self.symbol = self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.steps = 0
        return self._show(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        self.steps += 1
        reward = float(action == self.symbol)
        return self._show(), reward, self.steps == 10, False, {}

    def _show(self) -> np.ndarray:
        self.symbol = int(self.np_random.integers(2))
        return np.eye(2, dtype=np.float32)[self.symbol]


ECHO = f"{__name__}.EchoEnv"
LEARNS = (
    "algo.lr=0.02",
    "algo.gamma=0.5",
    "algo.training_intensity=8",
    "algo.target_network_update_freq=50",
    "algo.max_weight_sync_delay=20",
)


def assert_has_learned(trainer: Trainer) -> None:
    for symbol in (0, 1):
        obs = np.eye(2, dtype=np.float32)[symbol]
        assert trainer.compute_action(obs, explore=False) == symbol


def test_two_workers_learn_are_interrupted_go_on_and_one_dies(ray_cluster, tmp_path):
    stop = (f"callbacks.x._target_={__name__}.InterruptAtUpdate", "callbacks.x.at=400")
    with make(ECHO, 2, *LEARNS, *stop) as trainer:
        first = trainer.train()["info"]["learner"][ID]
        assert own_threads() == []
        assert 0.0 <= first["learner_idle_share"] <= 1.0
        assert 0.0 < first["rows_learned_per_row_sampled"] <= 8.0
        assert 0.0 <= first["learner_stats"]["learner_queue_size_max"] <= 4.0
        assert first["replay_buffer"]["num_late_priorities"] == 0
        with pytest.raises(Interrupted):
            until(trainer, lambda result: False)
        assert own_threads() == []
        assert_has_learned(trainer)
        sampled = trainer.workers.num_env_steps_sampled
        shards = shards_of(trainer)
        folder = trainer.save(tmp_path)
    with make(ECHO, 2, *LEARNS) as resumed:
        resumed.restore(folder)
        assert_same(shards_of(resumed), shards)
        result = resumed.train()
        assert result["timesteps_total"] >= sampled
        assert resumed.algorithms[ID].num_updates >= 400
        # All that workers had sampled by the checkpoint was in it.
        added = result["info"]["learner"][ID]["replay_buffer"]["added_count"]
        assert added == result["timesteps_total"] - 2 * 2
        ray_cluster.kill(resumed.workers.remote_workers()[1])
        with pytest.raises(WorkerDiedError, match=r"Worker 2 died.*rlrun resume"):
            until(resumed, lambda result: False)
        assert own_threads() == []
        resumed.workers.leave_dead()
        folder = resumed.save(tmp_path)
    states = load_checkpoint(folder)["learner"][ID]["replay"]["buffer"]["shards"]
    # The rows outlive the worker that died.
    assert sum(state["num_added"] for state in states) >= added


def test_a_run_in_one_process_learns_and_goes_on_with_a_worker_and_back(ray_cluster, tmp_path):
    with make(ECHO, 0, *LEARNS) as alone:
        until(alone, lambda result: result["timesteps_total"] >= 1000)
        assert_has_learned(alone)
        folder, shards = alone.save(tmp_path / "alone"), shards_of(alone)
    with make(ECHO, 1, *LEARNS) as remote:
        remote.restore(folder)
        assert_same(shards_of(remote), shards)
        before = remote.algorithms[ID].num_updates
        # All that it knew is forgotten, but for the rows.
        weights = remote.get_weights()[ID]
        remote.set_weights({ID: {name: 0.0 * array for name, array in weights.items()}})
        until(remote, lambda result: remote.algorithms[ID].num_updates >= before + 300)
        assert_has_learned(remote)
        folder, shards = remote.save(tmp_path / "remote"), shards_of(remote)
    with make(ECHO, 0, *LEARNS) as alone:
        alone.restore(folder)
        assert_same(shards_of(alone), shards)
        alone.train()
    other = make(ECHO, 0, "algo.num_replay_buffer_shards=3")
    with other, pytest.raises(CheckpointError, match=r"algo\.num_replay_buffer_shards=2"):
        other.restore(folder)


class InterruptAtUpdate(Callbacks):
    """Asks for the end at the `at`-th update; it lives in the driver."""

    def __init__(self, at: int) -> None:
        self.at, self.num_updates, self.trainer = at, 0, None

    def on_trainer_init(self, *, trainer, **kwargs):
        self.trainer = trainer

    def on_learn_on_batch(self, **kwargs):
        self.num_updates += 1
        if self.num_updates == self.at:
            self.trainer.interrupt()

    def __reduce__(self):  # Workers need no trainer.
        return InterruptAtUpdate, (self.at,)


def assert_same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    """Rows, priorities and numbers of writes of two sets of shards are the same."""
    for found, expected in zip(one, other, strict=True):
        assert found["columns"].keys() == expected["columns"].keys()
        for name in ("priorities", "writes"):
            np.testing.assert_array_equal(found[name], expected[name])
        for name, column in expected["columns"].items():
            np.testing.assert_array_equal(found["columns"][name], column)


def test_a_worker_gets_weights_after_so_many_of_its_steps():
    algorithm = Apex(max_weight_sync_delay=100, num_replay_buffer_shards=1)
    with make(ECHO, 0) as trainer:
        algorithm.connect(trainer.workers)
    told = [algorithm.is_behind(0, 50) for _ in range(6)]
    assert told == [False, True, False, True, False, True]
    assert [algorithm.is_behind(1, 101), algorithm.is_behind(0, 50)] == [True, False]


def test_users_see_the_newest_weights_and_the_worker_keeps_its_older_ones(tmp_path):
    settings = ("algo.max_weight_sync_delay=100000", "algo.learning_starts=20")
    with make(ECHO, 0, *settings, "algo.lr=0.02") as trainer:
        first = trainer.workers.local_worker().get_weights()[ID]
        trainer.train()
        obs = np.eye(2, dtype=np.float32)[0]
        found = trainer.compute_action(obs, explore=False, full_fetch=True)
        exported = trainer.export_model(tmp_path / "policy.safetensors")
        newest = trainer.get_policy()
        newest.eval()
        dist, _, _ = newest.act(obs[None])
        assert found[0] == dist.mode()[0]
        acting = trainer.workers.newest_policy()
        np.testing.assert_allclose(acting.act(obs[None])[0].inputs, dist.inputs, rtol=1e-5)
        learned = trainer.get_weights()[ID]
        written = read_weights(exported, ID)
        own = trainer.workers.local_worker().get_weights()[ID]
        assert any((learned[name] != first[name]).any() for name in first)
        for name in first:
            np.testing.assert_array_equal(written[name], learned[name])
            np.testing.assert_array_equal(own[name], first[name])


# Ends


class KillShard(Callbacks):
    """Kills the process of the second shard after the first iteration."""

    def __init__(self) -> None:
        self.processes: list[Any] = []

    def on_trainer_init(self, *, trainer, **kwargs):
        self.trainer = trainer

    def on_train_result(self, *, result, **kwargs):
        if result["training_iteration"] == 1:
            pool = self.trainer.algorithms[ID].replay.buffer._pool
            os.kill(pool.call(1, _pid), signal.SIGKILL)

    def __reduce__(self):
        return KillShard, ()


def _pid(shard: Any) -> int:
    return os.getpid()


def test_a_dead_shard_ends_the_run_by_its_name_with_a_checkpoint_of_the_rest(
    ray_cluster, tmp_path, caplog
):
    plain = config("algo=apex", "resources.num_workers=1", *REMOTE, *SIZES, "env=gym", *LEARNS)
    plain["env"]["id"] = ECHO
    kill = {"callbacks": {"x": {"_target_": f"{__name__}.KillShard"}}}
    with pytest.raises(WorkerDiedError, match="Replay shard 2 died"):
        Run({**plain, **kill, "stop": {"training_iteration": 9}}, tmp_path / "run").execute()
    assert "The rows of replay shard 2 are lost" in caplog.text
    (folder,) = list_checkpoints(tmp_path / "run")
    first, second = load_checkpoint(folder)["learner"][ID]["replay"]["buffer"]["shards"]
    assert first["size"] >= 90
    assert second is None
    overrides = {"stop.training_iteration": 3, "callbacks": {}}
    result = Run.resume(tmp_path / "run", overrides).execute()
    assert "Replay shard 2 had died: it begins empty" in caplog.text
    sizes = result["info"]["learner"][ID]["replay_buffer"]["num_entries_of_shard"]
    assert sizes["1"] > sizes["2"] > 0


@pytest.mark.slow
def test_termination_ends_workers_and_shards_with_a_checkpoint_of_their_rows(tmp_path):
    remote = ("resources.num_workers=1", "resources.ray_num_cpus=1", *REMOTE)
    run = ("env=cartpole", "hydra.run.dir=run", "logger=none", "seed=1")
    child = Child(tmp_path, "algo=apex", *SIZES, *remote, *run)
    child.wait_for_result(Path(tmp_path / "run"), 2)
    # A worker and two shards, beside Ray's own.
    below = psutil.Process(child.pid).children(recursive=True)
    processes = [process for process in below if process.name().startswith("ray::_Actor")]
    assert len(processes) == 3
    child.signal(signal.SIGTERM)
    outcome = child.wait()
    assert outcome.status == 143, outcome.stderr
    assert "rlrun resume run" in outcome.stdout
    newest = list_checkpoints(tmp_path / "run")[-1]
    states = load_checkpoint(newest)["learner"][ID]["replay"]["buffer"]["shards"]
    assert sum(state["size"] for state in states) >= 398
    assert not psutil.wait_procs(processes, timeout=30)[1]


# Refused


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("algo.prioritized_replay=false", "prioritized_replay_alpha=0"),
        ("algo.num_replay_buffer_shards=0", "num_replay_buffer_shards=0 must be at least 1"),
        ("algo.max_weight_sync_delay=0", "max_weight_sync_delay=0 must be at least 1"),
        ("resources.num_cpus_per_replay_shard=0.5", "resources.num_workers above 0"),
        ("exploration=stochastic_sampling", "has values of actions"),
    ],
)
def test_what_it_cannot_use_is_refused(override, message):
    with pytest.raises(ConfigError, match=message):
        make(ECHO, 0, override)


def test_shards_count_in_what_a_cluster_must_have(ray_cluster):
    with pytest.raises(ResourceError, match=r"2 replay shards .* and 1 workers .* need 4\.5 CPU"):
        make(ECHO, 1, "resources.num_cpus_per_replay_shard=2")
