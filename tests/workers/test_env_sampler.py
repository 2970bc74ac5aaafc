from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from rlrun.algos.dqn import DQN
from rlrun.algos.ppo import PPO
from rlrun.core.actor_critic import ActorCritic
from rlrun.core.algorithm import Algorithm
from rlrun.core.batch import concat
from rlrun.core.callbacks import Callbacks
from rlrun.core.errors import ConfigError
from rlrun.core.exploration import EpsilonGreedy, StochasticSampling
from rlrun.core.filters import NoFilter, RunningMoments
from rlrun.core.networks import CNN
from rlrun.workers.envs import EnvConfig
from rlrun.workers.rollout_worker import RolloutWorker
from rlrun.workers.worker_config import WorkerConfig

COUNTING = "toy_envs.CountingEnv"
USUAL = {"obs", "actions", "rewards", "next_obs", "terminated", "truncated"}


def rows_of(worker: RolloutWorker, num_samples: int = 1):
    return concat([worker.sample().batches["default_policy"] for _ in range(num_samples)])


def episodes_of(worker: RolloutWorker) -> list[tuple[float, int]]:
    return [(report.total_reward, report.length) for report in worker.take_metrics()]


# Fragments and episodes


def test_a_fragment_may_see_no_end_of_an_episode(make_worker):
    worker = make_worker(COUNTING, fragment=5, env_config={"terminates_at": 12})
    rows = rows_of(worker)
    np.testing.assert_array_equal(rows["obs"], [[0, k] for k in range(5)])
    assert not (rows["terminated"] | rows["truncated"]).any()
    assert worker.take_metrics() == []


def test_a_fragment_may_see_one_end(make_worker):
    worker = make_worker(COUNTING, fragment=5, env_config={"truncates_at": 3})
    rows = rows_of(worker)
    np.testing.assert_array_equal(rows["obs"], [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]])
    np.testing.assert_array_equal(rows["truncated"], [0, 0, 1, 0, 0])
    assert episodes_of(worker) == [(1.0 + 2.0 + 3.0, 3)]


def test_a_fragment_may_see_three_ends(make_worker):
    worker = make_worker(COUNTING, fragment=7, env_config={"terminates_at": [2, 1, 3]})
    rows = rows_of(worker)
    np.testing.assert_array_equal(rows["terminated"], [0, 1, 1, 0, 0, 1, 0])
    np.testing.assert_array_equal(rows["obs"][-1], [3, 0])
    assert episodes_of(worker) == [(3.0, 2), (1.0, 1), (6.0, 3)]


def test_an_episode_over_three_fragments_is_reported_whole_and_once(make_worker):
    worker = make_worker(COUNTING, fragment=5, env_config={"terminates_at": 12})
    found = []
    for _ in range(4):
        worker.sample()
        found.append(episodes_of(worker))
    assert found == [[], [], [(78.0, 12)], []]


def test_reports_say_which_env_they_come_from(make_worker):
    worker = make_worker(COUNTING, num_envs=3, fragment=30, env_config={"length_range": [1, 9]})
    ends = worker.input.sample(30, 0, True)["terminated"]
    reports = worker.take_metrics()
    counts = [sum(report.env_index == env for report in reports) for env in range(3)]
    np.testing.assert_array_equal(counts, ends.sum(0))
    assert min(counts) > 1
    for env in range(3):
        lengths = [report.length for report in reports if report.env_index == env]
        np.testing.assert_array_equal(np.cumsum(lengths) - 1, np.flatnonzero(ends[:, env]))


def test_fragments_of_one_step_give_the_rows_of_a_long_one(make_worker, assert_same_rows):
    kwargs = {"num_envs": 2, "env_config": {"length_range": [1, 4]}}
    short = make_worker(COUNTING, fragment=1, **kwargs)
    long = make_worker(COUNTING, fragment=20, **kwargs)
    assert_same_rows(rows_of(short, 20), rows_of(long))
    assert episodes_of(short) == episodes_of(long)


def test_every_fragment_counts_its_env_steps(make_worker):
    worker = make_worker(COUNTING, num_envs=3, fragment=4)
    assert [worker.sample().env_steps for _ in range(2)] == [12, 12]
    assert worker.timestep == 24
    one_of_two = make_worker(COUNTING, num_envs=3, fragment=4, worker_index=1, num_workers=2)
    one_of_two.sample()
    assert one_of_two.timestep == 24, "as far as it knows the other worker took as many"


def test_columns_are_usual_ones_and_those_that_the_algorithm_asks_for(make_worker):
    plain = make_worker(COUNTING)
    assert rows_of(plain).keys() == USUAL
    asking = make_worker(
        COUNTING,
        num_envs=2,
        algorithm=PPO(
            num_envs_per_worker=2, train_batch_size=10, minibatch_size=5, use_kl_loss=True
        ),
    )
    columns = asking.input.sample(5, 0, True)
    assert columns.keys() == (USUAL - {"next_obs"}) | {
        "log_probs",
        "values",
        "next_values",
        "dist_inputs",
    }
    policy = asking.get_policy()
    for t in range(5):
        dist, extras, _ = policy.act(columns["obs"][t])
        np.testing.assert_array_equal(columns["dist_inputs"][t], dist.inputs)
        np.testing.assert_array_equal(columns["values"][t], extras["values"])
        np.testing.assert_allclose(
            columns["log_probs"][t], dist.log_prob(columns["actions"][t]), rtol=1e-6
        )


def test_columns_hold_32_bit_floats_even_if_the_env_gives_64(make_worker):
    rows = rows_of(make_worker(COUNTING))
    assert {rows[name].dtype for name in ("obs", "next_obs", "rewards")} == {np.dtype("float32")}
    assert {rows[name].dtype for name in ("terminated", "truncated")} == {np.dtype(bool)}


def test_without_exploration_the_most_likely_action_is_taken(make_worker):
    worker = make_worker(COUNTING, fragment=30, explore=False, env_config={"num_actions": 4})
    rows = rows_of(worker)
    dist, _, _ = worker.get_policy().act(rows["obs"])
    np.testing.assert_array_equal(rows["actions"], dist.inputs.argmax(1))
    explored = rows_of(make_worker(COUNTING, fragment=30, env_config={"num_actions": 4}))
    assert (explored["actions"] != rows["actions"]).any()


# Rewards


@pytest.mark.parametrize(
    ("clip_rewards", "expected"),
    [(False, [3, -3, 3, -3]), (True, [1, -1, 1, -1]), (0.5, [0.5, -0.5, 0.5, -0.5])],
)
def test_clipped_rewards_reach_the_batch_and_raw_ones_the_returns(
    make_worker, clip_rewards, expected
):
    worker = make_worker(
        COUNTING,
        fragment=4,
        clip_rewards=clip_rewards,
        env_config={"rewards": "alternating", "terminates_at": 3},
    )
    np.testing.assert_array_equal(rows_of(worker)["rewards"], [*expected[:3], expected[0]])
    assert episodes_of(worker) == [(3.0, 3)]


# Actions


def test_normalised_actions_are_stretched_to_the_bounds_of_the_env(make_worker):
    rows = rows_of(make_worker("toy_envs.BoxActionEnv", num_envs=2, fragment=20))
    low, high = np.array([-2.0, 0.0]), np.array([2.0, 10.0])
    stretched = (low + high) / 2 + rows["actions"] * (high - low) / 2
    assert (np.abs(rows["actions"]) > 1).any(), "else clipping is not seen"
    np.testing.assert_allclose(rows["next_obs"], np.clip(stretched, low, high), rtol=1e-6)


def test_actions_that_are_not_normalised_keep_their_scale_and_are_clipped(make_worker):
    worker = make_worker("toy_envs.BoxActionEnv", fragment=40, normalize_actions=False)
    rows = rows_of(worker)
    assert (rows["actions"][:, 1] < 0).any()
    np.testing.assert_array_equal(rows["next_obs"], np.clip(rows["actions"], [-2, 0], [2, 10]))


def test_actions_without_bounds_reach_the_env_as_they_are(make_worker):
    rows = rows_of(make_worker("toy_envs.UnboundedActionEnv", fragment=20))
    np.testing.assert_array_equal(rows["next_obs"], rows["actions"])
    assert np.unique(rows["actions"]).size == 40


def test_discrete_actions_are_shifted_by_the_start_of_their_space(make_worker):
    rows = rows_of(make_worker("toy_envs.ShiftedDiscreteEnv", fragment=40))
    assert set(rows["actions"].tolist()) == {0, 1, 2}
    np.testing.assert_array_equal(rows["next_obs"][:, 0], rows["actions"] + 5)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_multi_discrete_actions_stay_together(make_worker, vectorization):
    worker = make_worker(
        "toy_envs.MultiDiscreteActionEnv", num_envs=2, fragment=40, vectorization=vectorization
    )
    rows = rows_of(worker)
    assert rows["actions"].shape == (80, 3)
    np.testing.assert_array_equal(rows["next_obs"], rows["actions"])
    np.testing.assert_array_equal(rows["actions"].max(0), [1, 2, 3])


# Observations


def known_rows(steps: np.ndarray) -> np.ndarray:
    """DictObsEnv's observations at `steps` as one vector each: flags, one-hot phase, position."""
    return np.array([[k % 2, k // 2 % 2, *np.eye(3)[k % 3], k, -k] for k in steps], np.float32)


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("env_id", ["toy_envs.DictObsEnv", "toy_envs.TupleObsEnv"])
def test_dict_and_tuple_observations_become_one_vector(make_worker, env_id, vectorization):
    worker = make_worker(env_id, num_envs=2, fragment=7, vectorization=vectorization)
    columns = worker.input.sample(7, 0, True)
    for env in range(2):
        np.testing.assert_array_equal(columns["obs"][:, env], known_rows([0, 1, 2, 3, 4, 0, 1]))
        np.testing.assert_array_equal(
            columns["next_obs"][:, env], known_rows([1, 2, 3, 4, 5, 1, 2])
        )


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_discrete_observations_become_one_hot(make_worker, vectorization):
    worker = make_worker("FrozenLake-v1", num_envs=2, fragment=40, vectorization=vectorization)
    rows = rows_of(worker)
    assert rows["obs"].shape == (80, 16)
    np.testing.assert_array_equal(rows["obs"].sum(1), 1)
    np.testing.assert_array_equal(np.unique(rows["obs"]), [0, 1])
    # Fields next to each other on the 4 x 4 map, or the same one at its edge.
    here, there = rows["obs"].argmax(1), rows["next_obs"].argmax(1)
    distance = np.abs(here // 4 - there // 4) + np.abs(here % 4 - there % 4)
    assert set(distance.tolist()) == {0, 1}


# Filters


def test_a_sample_gathers_each_observation_that_is_acted_on_once(make_worker):
    kwargs = {"num_envs": 2, "fragment": 9, "env_config": {"terminates_at": 4}}
    filtered = make_worker(COUNTING, observation_filter="MeanStdFilter", **kwargs)
    seen = make_worker(COUNTING, **kwargs).input.sample(18, 0, True)["obs"].astype(np.float64)
    for rows in (seen[:9].reshape(-1, 2), seen[9:].reshape(-1, 2)):
        moments = filtered.sample().gathered["default_policy"]
        assert moments.count == len(rows) == 18
        np.testing.assert_allclose(moments.mean, rows.mean(0))
        np.testing.assert_allclose(moments.squares, ((rows - rows.mean(0)) ** 2).sum(0))


@pytest.mark.parametrize("num_envs", [1, 2])
def test_rows_hold_observations_as_they_came_whatever_the_filter_says(make_worker, num_envs):
    kwargs = {"num_envs": num_envs, "env_config": {"length_range": [3, 6]}}
    plain = make_worker(COUNTING, **kwargs)
    filtered = make_worker(COUNTING, observation_filter="MeanStdFilter", **kwargs)
    moments = RunningMoments((2,))
    moments.add(np.array([[0.0, 1.0], [5.0, 9.0]]))
    filtered.get_policy().observation_filter.merge(moments)
    columns, others = filtered.input.sample(30, 0, True), plain.input.sample(30, 0, True)
    for name in ("obs", "next_obs"):
        np.testing.assert_array_equal(columns[name], others[name])


def test_the_policy_acts_on_what_the_filter_makes_of_observations(make_worker):
    worker = make_worker(
        COUNTING, observation_filter="MeanStdFilter", explore=False, env_config={"num_actions": 4}
    )
    policy = worker.get_policy()
    moments = RunningMoments((2,))
    moments.add(np.array([[0.0, 2.0], [4.0, 8.0]]))
    policy.observation_filter.merge(moments)
    obs = np.array([[1.0, 3.0]], np.float32)
    by_filter = policy.act(obs)[0].inputs
    policy.observation_filter = NoFilter()
    # Means 2 and 5, standard deviations sqrt(8) and sqrt(18).
    by_hand = np.array([[-1 / np.sqrt(8), -2 / np.sqrt(18)]], np.float32)
    np.testing.assert_allclose(policy.act(by_hand)[0].inputs, by_filter, rtol=1e-5)


def test_a_policy_that_forgets_the_filter_is_refused(make_worker):
    worker = make_worker(
        COUNTING,
        algorithm=Forgetful(rollout_fragment_length=2),
        observation_filter="MeanStdFilter",
    )
    with pytest.raises(ConfigError, match=r"MeanStdFilter has no effect: Unfiltered\.act"):
        worker.sample()


class Unfiltered(ActorCritic):
    def act(self, obs, state=None, previous=None, explore=True):
        return self.family(self._pi.act(obs)), {}, {}


@dataclass(kw_only=True)
class Forgetful(Algorithm):
    def make_policy(self, obs_space, action_space, model):
        return Unfiltered(obs_space, action_space, model)


# Whole episodes


def test_whole_episodes_come_once_each_and_in_order(make_worker):
    kwargs = {"num_envs": 3, "env_config": {"length_range": [1, 9], "rewards": "random"}}
    stream = make_worker(COUNTING, **kwargs).input.sample(120, 0, True)
    expected = set()
    for env in range(3):
        ends = np.flatnonzero(stream["terminated"][:, env]) + 1
        episodes = np.split(stream["rewards"][:, env], ends)[:-1]
        expected |= {(number, *episode.tolist()) for number, episode in enumerate(episodes)}

    worker = make_worker(COUNTING, fragment=4, batch_mode="complete_episodes", **kwargs)
    found, lengths = [], []
    while worker.timestep < 360:
        rows = rows_of(worker)
        if not rows:
            continue
        assert rows["terminated"][-1], "a batch holds whole episodes only"
        lengths += [report.length for report in worker.take_metrics()]
        for episode in np.split(np.arange(rows.num_rows), np.flatnonzero(rows["terminated"]) + 1):
            if len(episode):
                obs = rows["obs"][episode]
                np.testing.assert_array_equal(obs[:, 1], np.arange(len(episode)))
                assert len(set(obs[:, 0])) == 1
                found.append((int(obs[0, 0]), *rows["rewards"][episode].tolist()))
    assert worker.timestep == 360
    assert len(found) == len(set(found)) == len(expected) > 40
    assert set(found) == expected
    assert sorted(lengths) == sorted(len(episode) - 1 for episode in found)


def test_rows_wait_until_their_episode_is_whole(make_worker):
    worker = make_worker(
        COUNTING, fragment=4, batch_mode="complete_episodes", env_config={"terminates_at": 10}
    )
    samples = [worker.sample() for _ in range(6)]
    rows = [sample.batches["default_policy"] for sample in samples]
    assert [batch.num_rows for batch in rows] == [0, 0, 10, 0, 0, 10]
    # A fragment of one env ends with its episode: new weights begin with a new one.
    assert [sample.env_steps for sample in samples] == [4, 4, 2] * 2
    assert worker.timestep == 20
    np.testing.assert_array_equal(rows[5]["obs"], [[1, k] for k in range(10)])


@pytest.mark.parametrize("vectorization", ["sync", "native"])
def test_whole_episodes_of_cart_pole_are_as_long_as_their_returns(make_worker, vectorization):
    worker = make_worker(
        "CartPole-v1",
        num_envs=3,
        fragment=11,
        batch_mode="complete_episodes",
        vectorization=vectorization,
    )
    rows = rows_of(worker, 15)
    ends = np.flatnonzero(rows["terminated"] | rows["truncated"])
    lengths = np.diff(ends, prepend=-1)
    assert ends[-1] == rows.num_rows - 1
    assert sorted(lengths) == sorted(int(reward) for reward, _ in episodes_of(worker))
    np.testing.assert_array_equal(
        rows["obs"][1:][~rows["terminated"][:-1]], rows["next_obs"][:-1][~rows["terminated"][:-1]]
    )


# Windows of n steps


def dqn(fragment: int, n_step: int, num_envs: int, batch_mode: str = "truncate_episodes") -> DQN:
    return DQN(
        n_step=n_step,
        gamma=0.5,
        hiddens=[8],
        num_envs_per_worker=num_envs,
        rollout_fragment_length=fragment,
        batch_mode=batch_mode,
    )


@pytest.mark.parametrize("fragment", [1, 2, 4, 10])
def test_windows_cross_the_seams_of_fragments(make_worker, assert_same_rows, fragment):
    def rows(length: int):
        worker = make_worker(
            COUNTING,
            algorithm=dqn(length, n_step=3, num_envs=2),
            exploration=EpsilonGreedy(epsilon_timesteps=30),
            env_config={"length_range": [1, 7], "rewards": "random"},
        )
        batches = [worker.sample().batches["default_policy"] for _ in range(20 // length)]
        return concat([batch for batch in batches if batch.num_rows])

    seams, whole = rows(fragment), rows(20)
    assert whole.num_rows == (20 - 2) * 2
    assert_same_rows(seams, whole)


def test_windows_are_summed_and_cut_at_the_ends_of_episodes(make_worker):
    worker = make_worker(
        COUNTING,
        algorithm=dqn(2, n_step=3, num_envs=1),
        exploration=EpsilonGreedy(),
        env_config={"terminates_at": [None, 4], "truncates_at": [3, None]},
    )
    rows = concat([b for _ in range(4) if (b := worker.sample().batches["default_policy"])])
    # Rewards 1 2 3 | 1 2 3 4 | 1; the first episode is truncated, the second terminated.
    np.testing.assert_array_equal(
        rows["rewards"], [1 + 1 + 0.75, 2 + 1.5, 3, 1 + 1 + 0.75, 2 + 1.5 + 1, 3 + 2]
    )
    np.testing.assert_array_equal(
        rows["next_obs"], [[0, 3], [0, 3], [0, 3], [1, 3], [1, 4], [1, 4]]
    )
    np.testing.assert_array_equal(rows["discounts"], [0.125, 0.25, 0.5, 0.125, 0, 0])


def test_a_fragment_shorter_than_the_window_gives_no_rows_yet(make_worker):
    worker = make_worker(
        COUNTING, algorithm=dqn(1, n_step=4, num_envs=2), exploration=EpsilonGreedy()
    )
    samples = [worker.sample() for _ in range(5)]
    assert [s.batches["default_policy"].num_rows for s in samples] == [0, 0, 0, 2, 2]
    assert [s.env_steps for s in samples] == [2] * 5


def test_windows_of_whole_episodes_are_those_of_the_stream(make_worker):
    def rows(batch_mode: str, num_samples: int):
        worker = make_worker(
            COUNTING,
            algorithm=dqn(6, n_step=3, num_envs=2, batch_mode=batch_mode),
            exploration=EpsilonGreedy(),
            env_config={"length_range": [1, 7], "rewards": "random"},
        )
        batch = rows_of(worker, num_samples)
        return {
            (*obs, reward, *next_obs, discount)
            for obs, reward, next_obs, discount in zip(
                batch["obs"].tolist(),
                batch["rewards"].tolist(),
                batch["next_obs"].tolist(),
                batch["discounts"].tolist(),
                strict=True,
            )
        }

    whole, stream = rows("complete_episodes", 8), rows("truncate_episodes", 30)
    assert len(whole) > 60
    assert whole <= stream


@pytest.mark.parametrize(("name", "is_scaled"), [("NoFilter", True), ("MeanStdFilter", False)])
def test_images_are_scaled_to_one_unless_a_filter_has_normalised_them(name, is_scaled):
    config = WorkerConfig(
        env=EnvConfig(id="toy_envs.ImageEnv", observation_filter=name),
        algorithm=PPO(),
        exploration=StochasticSampling(),
        model=CNN(),
        callbacks=Callbacks(),
        explore=True,
        seed=1,
    )
    worker = RolloutWorker(config)
    assert worker.get_policy().pi_encoder.is_scaled == is_scaled
    worker.stop()
