from __future__ import annotations

import logging

import numpy as np
import pytest

from rlrun.algos.dqn import DQN
from rlrun.core.batch import concat
from rlrun.core.callbacks import Callbacks
from rlrun.core.checkpoint import load_checkpoint, save_checkpoint
from rlrun.core.exploration import EpsilonGreedy
from rlrun.run import make_trainer
from rlrun.workers.rollout_worker import RolloutWorker

STATEFUL = "toy_envs.StatefulEnv"


def rows_of(worker: RolloutWorker, num_samples: int = 1):
    batches = [worker.sample().batches["default_policy"] for _ in range(num_samples)]
    return concat([batch for batch in batches if batch.num_rows])


def dqn(**settings) -> DQN:
    return DQN(gamma=0.5, hiddens=[8], num_envs_per_worker=2, **settings)


@pytest.mark.parametrize("steps_before", [25, 250])
@pytest.mark.parametrize(
    ("env_id", "package", "vectorization"),
    [
        ("CartPole-v1", None, "sync"),
        ("Pendulum-v1", None, "sync"),
        ("MountainCar-v0", None, "sync"),
        ("Acrobot-v1", None, "sync"),
        ("FrozenLake-v1", None, "sync"),
        ("Taxi-v4", None, "sync"),
        ("LunarLander-v3", "Box2D", "sync"),
        ("HalfCheetah-v5", "mujoco", "sync"),
        ("CartPole-v1", None, "async"),
        ("Pendulum-v1", None, "async"),
    ],
)
def test_a_restored_worker_takes_the_same_next_steps(
    make_worker, carry_over, assert_same_rows, caplog, env_id, package, vectorization, steps_before
):
    if package is not None:
        pytest.importorskip(package)
    # 250 steps lie beyond the first seeded episode of most envs, 25 within it.
    kwargs = {"num_envs": 2, "fragment": 25, "vectorization": vectorization}
    worker = make_worker(env_id, **kwargs)
    before = rows_of(worker, steps_before // 25)
    ends = (before["terminated"] | before["truncated"]).reshape(-1, 2)
    assert not ends[-1].all(), "an episode must be in its middle, or this shows nothing"
    worker.take_metrics()
    restored = make_worker(env_id, **kwargs)
    carry_over(worker, restored)
    assert_same_rows(rows_of(restored, 2), rows_of(worker, 2))
    assert restored.take_metrics() == worker.take_metrics()
    assert restored.timestep == worker.timestep
    assert not caplog.records


def test_a_worker_may_be_restored_twice_in_one_episode(make_worker, carry_over, assert_same_rows):
    worker, second, third = (make_worker("Pendulum-v1", num_envs=2, fragment=20) for _ in range(3))
    worker.sample()
    carry_over(worker, second)
    second.sample()
    carry_over(second, third)
    worker.sample()
    assert_same_rows(rows_of(third), rows_of(worker))


def test_a_used_worker_is_put_back_as_well(make_worker, carry_over, assert_same_rows, tmp_path):
    worker = make_worker("CartPole-v1", num_envs=2, fragment=30)
    worker.sample()
    folder = save_checkpoint(tmp_path / "checkpoint_000009", {"worker": worker.state_dict()}, {})
    then = rows_of(worker, 3)
    worker.load_state_dict(load_checkpoint(folder)["worker"])
    assert_same_rows(rows_of(worker, 3), then)


def test_an_episode_goes_on_with_the_return_and_length_it_had(make_worker, carry_over):
    worker = make_worker("Pendulum-v1", fragment=150)
    restored = make_worker("Pendulum-v1", fragment=150)
    rows = rows_of(worker)
    carry_over(worker, restored)
    rows = concat([rows, rows_of(restored)])
    (report,) = restored.take_metrics()
    assert report.length == 200
    assert report.total_reward == pytest.approx(rows["rewards"][:200].sum(), rel=1e-5)


def test_filtered_observations_and_statistics_go_on(make_worker, carry_over, assert_same_rows):
    kwargs = {"num_envs": 2, "fragment": 30, "observation_filter": "MeanStdFilter"}
    worker, restored = make_worker("CartPole-v1", **kwargs), make_worker("CartPole-v1", **kwargs)
    worker.sample()
    carry_over(worker, restored)
    assert_same_rows(rows_of(restored, 2), rows_of(worker, 2))
    moments, others = (each.sample().gathered["default_policy"] for each in (worker, restored))
    assert moments.count == others.count == 60
    np.testing.assert_array_equal(moments.mean, others.mean)
    np.testing.assert_array_equal(moments.squares, others.squares)


def test_windows_of_n_steps_go_on_over_the_seam(make_worker, carry_over, assert_same_rows):
    worker, restored = (
        make_worker(
            "CartPole-v1",
            algorithm=dqn(n_step=3, rollout_fragment_length=7),
            exploration=EpsilonGreedy(epsilon_timesteps=100),
        )
        for _ in range(2)
    )
    worker.sample()
    carry_over(worker, restored)
    rows = rows_of(restored)
    assert rows.num_rows == 14, "the first two rows are those that waited for the window"
    assert_same_rows(rows, rows_of(worker))


@pytest.mark.parametrize("num_samples", [1, 4])
def test_whole_episodes_keep_the_rows_they_had_before(
    make_worker, carry_over, assert_same_rows, num_samples
):
    kwargs = {"num_envs": 2, "fragment": 9, "batch_mode": "complete_episodes"}
    worker, restored = make_worker("CartPole-v1", **kwargs), make_worker("CartPole-v1", **kwargs)
    rows_of(worker, num_samples)
    worker.take_metrics()
    carry_over(worker, restored)
    rows = rows_of(restored, 5)
    ends = np.flatnonzero(rows["terminated"])
    lengths = np.diff(ends, prepend=-1)
    assert sorted(lengths) == sorted(report.length for report in restored.take_metrics())
    assert_same_rows(rows, rows_of(worker, 5))


# Envs that do not reproduce


def test_an_env_that_does_not_reproduce_is_cut_with_a_warning(make_worker, carry_over, caplog):
    worker, restored = (
        make_worker(STATEFUL, num_envs=2, fragment=14, env_config={"terminates_at": 10})
        for _ in range(2)
    )
    worker.sample()
    worker.take_metrics()
    with caplog.at_level(logging.WARNING):
        carry_over(worker, restored)
    assert [record.getMessage() for record in caplog.records] == [
        f"Env {i} ({STATEFUL}) did not reproduce its running episode; that episode is cut as "
        f"truncated after 4 steps, and a new one starts."
        for i in range(2)
    ]
    rows = rows_of(restored)
    # New episodes begin: their tenth step ends them, as if there had been nothing before.
    np.testing.assert_array_equal(rows["terminated"].reshape(14, 2).all(1), np.arange(14) == 9)
    assert [(r.length, r.total_reward) for r in restored.take_metrics()] == [(10, 10.0)] * 2


def test_the_cut_episode_ends_as_truncated_in_whole_episodes(make_worker, carry_over):
    worker, restored = (
        make_worker(
            STATEFUL,
            fragment=4,
            batch_mode="complete_episodes",
            env_config={"terminates_at": 10},
        )
        for _ in range(2)
    )
    before = worker.sample()
    assert (before.env_steps, before.batches["default_policy"].num_rows) == (4, 0)
    carry_over(worker, restored)
    rows = rows_of(restored, 3)
    np.testing.assert_array_equal(np.flatnonzero(rows["truncated"]), [3])
    np.testing.assert_array_equal(np.flatnonzero(rows["terminated"]), [4 + 9])
    # The bootstrap of the cut row looks at the observation that came after it.
    assert rows["next_obs"][3, 0] == rows["obs"][3, 0] + 1
    assert rows["obs"][4, 0] > rows["next_obs"][3, 0]


def test_no_window_of_n_steps_spans_a_cut(make_worker, carry_over):
    worker, restored = (
        make_worker(
            STATEFUL,
            algorithm=dqn(n_step=3, rollout_fragment_length=4),
            exploration=EpsilonGreedy(),
        )
        for _ in range(2)
    )
    worker.sample()
    carry_over(worker, restored)
    rows = rows_of(restored)
    # Two rows of each env waited; the windows that begin there are cut after two rows and one.
    np.testing.assert_array_equal(rows["rewards"][:4], [1.5, 1.5, 1.0, 1.0])
    np.testing.assert_array_equal(rows["discounts"][:4], [0.25, 0.25, 0.5, 0.5])
    np.testing.assert_array_equal(rows["rewards"][4:], 1.75)


def test_only_the_env_that_does_not_reproduce_is_cut(make_worker, carry_over, caplog):
    # CountingEnv numbers its episodes from a seeded reset on, so a replay reproduces the first
    # (by its seed) and the second (after one seeded reset), but not the third.
    kwargs = {"num_envs": 2, "fragment": 12, "env_config": {"length_range": [4, 9]}}

    def episodes_after_a_fragment(worker: RolloutWorker) -> list[float]:
        worker.sample()
        return worker.input.obs[:, 0].tolist()

    seed = next(
        seed
        for seed in range(100)
        if episodes_after_a_fragment(make_worker("toy_envs.CountingEnv", seed=seed, **kwargs))
        == [2.0, 1.0]
    )
    worker, restored, expected = (
        make_worker("toy_envs.CountingEnv", seed=seed, **kwargs) for _ in range(3)
    )
    for each in (worker, expected):
        each.sample()
    with caplog.at_level(logging.WARNING):
        carry_over(worker, restored)
    assert [record.getMessage()[:5] for record in caplog.records] == ["Env 0"]
    obs = restored.input.sample(3, 0, True)["obs"]
    np.testing.assert_array_equal(obs[:, 0, 1], [0, 1, 2])
    np.testing.assert_array_equal(obs[:, 1], expected.input.sample(3, 0, True)["obs"][:, 1])


def test_native_envs_are_cut_and_begin_other_episodes(make_worker, carry_over, caplog):
    kwargs = {"num_envs": 2, "fragment": 8, "vectorization": "native"}
    worker, restored = make_worker("CartPole-v1", **kwargs), make_worker("CartPole-v1", **kwargs)
    first = rows_of(worker)["obs"][:2]
    with caplog.at_level(logging.WARNING):
        carry_over(worker, restored)
    assert len(caplog.records) == 2
    again = rows_of(restored)["obs"][:2]
    assert (np.abs(again) <= 0.05).all()
    assert not (first == again).any()


def test_every_resume_of_native_envs_begins_other_episodes(make_worker, carry_over):
    worker, second, third = (
        make_worker("CartPole-v1", num_envs=2, fragment=60, vectorization="native")
        for _ in range(3)
    )
    worker.sample()
    carry_over(worker, second)
    after_second = rows_of(second)["obs"][:2]
    carry_over(second, third)
    assert (rows_of(third)["obs"][:2] != after_second).any()


def test_a_used_native_worker_keeps_its_first_rows_after_a_restore(
    make_worker, sample_columns, tmp_path
):
    worker = make_worker("CartPole-v1", num_envs=2, vectorization="native", horizon=5)
    sample_columns(worker, 3)
    folder = save_checkpoint(tmp_path / "checkpoint_000001", {"worker": worker.state_dict()}, {})
    sample_columns(worker, 2)  # Both episodes end: the next row would only reset them.
    worker.load_state_dict(load_checkpoint(folder)["worker"])
    assert sample_columns(worker, 3)["valid"].all()


def test_a_used_worker_is_put_back_to_before_its_first_step(make_worker, assert_same_rows):
    worker = make_worker("CartPole-v1", num_envs=2, fragment=30)
    state = worker.state_dict()
    then = rows_of(worker)
    worker.load_state_dict(state)
    assert_same_rows(rows_of(worker), then)


def test_the_state_may_be_kept_while_the_worker_goes_on(make_worker, assert_same_rows):
    worker = make_worker("CartPole-v1", num_envs=2, fragment=30)
    worker.sample()
    worker.take_metrics()
    state = worker.state_dict()
    then, reports = rows_of(worker, 3), worker.take_metrics()
    worker.load_state_dict(state)
    assert_same_rows(rows_of(worker, 3), then)
    assert worker.take_metrics() == reports


class LengthAtEnd(Callbacks):
    def on_episode_end(self, *, episode, **kwargs):
        episode.custom_metrics["length"] = episode.length


def test_callbacks_see_the_running_episode_where_it_was(make_worker, carry_over):
    worker, restored = (
        make_worker("Pendulum-v1", fragment=150, callbacks=LengthAtEnd()) for _ in range(2)
    )
    worker.sample()
    carry_over(worker, restored)
    restored.sample()
    (report,) = restored.take_metrics()
    assert report.length == 200
    assert report.custom_metrics == {"length": 200}


class Starts(Callbacks):
    """Notes how episodes start, and with which of its own states."""

    def __init__(self) -> None:
        self.num_started = 0
        self.seen: list = []

    def on_episode_start(self, *, episode, **kwargs):
        self.num_started += 1
        self.seen.append((self.num_started, episode.last_observation.tolist(), episode.length))

    def state_dict(self):
        return {"num_started": self.num_started}

    def load_state_dict(self, state):
        self.num_started = state["num_started"]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_hooks_see_a_restored_episode_begin_as_it_began_with_their_own_state(
    make_worker, carry_over, vectorization
):
    kwargs = {"fragment": 250, "num_envs": 2, "vectorization": vectorization}
    worker = make_worker("Pendulum-v1", callbacks=Starts(), **kwargs)
    restored = make_worker("Pendulum-v1", callbacks=Starts(), **kwargs)
    worker.sample()
    before = worker.callbacks.seen[-2:]
    assert worker.callbacks.num_started == 4
    carry_over(worker, restored)
    observations = [observation for _, observation, _ in before]
    assert restored.callbacks.seen == [(5, observations[0], 0), (6, observations[1], 0)]
    # They have been counted before the checkpoint.
    assert restored.callbacks.num_started == 4


def test_training_goes_on_after_a_cut(tmp_path, caplog):
    def trainer():
        return make_trainer(
            "ppo",
            env=STATEFUL,
            overrides=[
                "algo.train_batch_size=48",
                "algo.minibatch_size=16",
                "algo.num_epochs=1",
                "algo.num_envs_per_worker=4",
                "algo.timesteps_per_iteration=0",
            ],
            seed=3,
        )

    with trainer() as first:
        first.train()
        checkpoint = first.save(tmp_path)
    with trainer() as second, caplog.at_level(logging.WARNING):
        second.restore(checkpoint)
        assert len(caplog.records) == 4
        result = second.train()
    assert result["timesteps_total"] == 96
    # 12 steps gave each env one episode of 10; two steps were cut; 12 more gave one more each.
    assert (result["episodes_total"], result["episodes_this_iter"]) == (8, 4)
    assert np.isfinite(result["info"]["learner"]["default_policy"]["learner_stats"]["vf_loss"])


def test_an_episode_too_long_to_be_replayed_is_cut(make_worker, carry_over, caplog, monkeypatch):
    from rlrun.workers import episode_log

    monkeypatch.setattr(episode_log, "MAX_REPLAY_STEPS", 20)
    worker, restored = (make_worker("Pendulum-v1", num_envs=1, fragment=10) for _ in range(2))
    for _ in range(2):
        worker.sample()
    carry_over(worker, restored)
    assert not caplog.records
    worker.sample()
    assert len(worker.input._log._actions) == 20
    with caplog.at_level(logging.WARNING):
        carry_over(worker, restored)
    assert "cut as truncated after 30 steps" in caplog.text
