"""A fragment that is sampled in pieces, also over a checkpoint, is the one sampled at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from rlrun.algos.dqn import DQN
from rlrun.core.actor_critic import ActorCritic
from rlrun.core.algorithm import Algorithm
from rlrun.core.batch import Batch, concat
from rlrun.core.callbacks import Callbacks
from rlrun.core.errors import ConfigError, WorkerError
from rlrun.core.exploration import ParameterNoise
from rlrun.core.policy import Policy
from rlrun.workers.rollout_worker import RolloutWorker
from rlrun.workers.sample import Sample


@dataclass(kw_only=True)
class AllColumns(Algorithm):
    """An algorithm that asks for everything, and leaves it as the sampler gave it."""

    rollout_columns = ("values", "next_values", "next_obs", "log_probs", "sampled_at_update")

    def make_policy(self, obs_space: Any, action_space: Any, model: Any) -> Policy:
        return ActorCritic(obs_space, action_space, model)


def all_columns(fragment: int) -> AllColumns:
    return AllColumns(rollout_fragment_length=fragment, num_envs_per_worker=2)


def in_pieces(worker: RolloutWorker, num_pieces: int) -> Sample | None:
    """What a worker has after so many pieces of one vector step each."""
    found = None
    for _ in range(num_pieces):
        assert found is None
        found = worker.go_on_sampling(0.0)
    return found


def rows_in(sample: Sample | None) -> Batch:
    assert sample is not None
    return sample.batches["default_policy"]


@pytest.mark.parametrize("saved_after", [None, 1, 37, 59])
def test_pieces_make_up_the_fragment_that_is_sampled_at_once(
    make_worker, carry_over, assert_same_rows, saved_after
):
    limit = [{"_target_": "gymnasium.wrappers.TimeLimit", "max_episode_steps": 15}]
    whole, worker, restored = (
        make_worker("CartPole-v1", algorithm=all_columns(60), wrappers=limit) for _ in range(3)
    )
    expected = whole.sample()
    done = saved_after or 0
    assert in_pieces(worker, done) is None
    if saved_after:
        carry_over(worker, restored)
        worker = restored
        worker.set_weights({}, num_updates={"default_policy": 5})
    found = in_pieces(worker, 60 - done)
    assert found.episodes == expected.episodes != []
    assert (found.env_steps, found.vector_steps) == (120, 60 - done)
    rows, expected_rows = rows_in(found), rows_in(expected)
    assert expected_rows["truncated"].any()
    # New weights are those of the steps that follow.
    updates, _ = rows.pop("sampled_at_update"), expected_rows.pop("sampled_at_update")
    assert updates.tolist() == [0] * (2 * done) + [5 * bool(done)] * (2 * (60 - done))
    assert_same_rows(rows, expected_rows)
    whole.set_weights({}, num_updates={"default_policy": 5 * bool(done)})
    assert_same_rows(rows_in(in_pieces(worker, 60)), rows_in(whole.sample()))


def test_time_of_all_pieces_counts(make_worker):
    worker = make_worker("toy_envs.CountingEnv", fragment=4)
    found = in_pieces(worker, 4)
    assert all(seconds >= 0.0 for seconds in found.seconds.values())
    assert found.seconds["env_wait"] > 0.0


def test_an_episode_that_cannot_be_brought_back_is_cut_where_the_fragment_was_left(
    make_worker, carry_over
):
    worker, restored = (
        make_worker("toy_envs.StatefulEnv", num_envs=2, fragment=8, env_config={"terminates_at": 6})
        for _ in range(2)
    )
    assert in_pieces(worker, 3) is None
    carry_over(worker, restored)
    rows = rows_in(in_pieces(restored, 5))
    ends = [(rows[name].reshape(8, 2)[:, 0]).tolist() for name in ("truncated", "terminated")]
    assert ends == [[step == 2 for step in range(8)], [False] * 8]
    obs, next_obs = (rows[name].reshape(8, 2) for name in ("obs", "next_obs"))
    # What followed the last step before the cut, and not what the new episode began with.
    np.testing.assert_array_equal(next_obs[:2], obs[1:3])
    np.testing.assert_array_equal(next_obs[2], obs[2] + 2)
    assert (obs[3] > next_obs[2]).all()


def test_the_value_behind_such_a_cut_is_that_of_what_was_seen_there(make_worker, carry_over):
    worker, restored = (
        make_worker("toy_envs.StatefulEnv", algorithm=all_columns(4)) for _ in range(2)
    )
    assert in_pieces(worker, 3) is None
    seen = worker.input.obs.copy()
    carry_over(worker, restored)
    next_values = rows_in(in_pieces(restored, 1))["next_values"].reshape(4, 2)
    np.testing.assert_allclose(next_values[2], worker.get_policy().values(seen), rtol=1e-5)


class ShownEpisodes(Callbacks):
    """(length of a trajectory, what the hooks had counted in the episode that is shown with it)."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, int | None]] = []

    def on_episode_step(self, *, episode, **kwargs):
        episode.user_data["steps"] = episode.user_data.get("steps", 0) + 1

    def on_postprocess_trajectory(self, *, episode, original_batches, **kwargs):
        steps = None if episode is None else episode.user_data["steps"]
        self.shown.append((original_batches["agent0"][1].num_rows, steps))


@pytest.mark.parametrize(
    ("env", "shown"),
    [
        ("toy_envs.CountingEnv", [(4, 4)] * 6),
        # The second episode of each env breaks off after a step, and those after it have 4 again.
        ("toy_envs.StatefulEnv", [(4, 4), (1, None), (4, 4), (4, 4), (1, None), (4, 4)]),
    ],
)
def test_hooks_are_shown_the_episodes_that_ended_before_a_checkpoint(
    make_worker, carry_over, env, shown
):
    settings = {
        "num_envs": 2,
        "fragment": 12,
        "batch_mode": "complete_episodes",
        "env_config": {"terminates_at": 4},
    }
    worker, restored = (make_worker(env, callbacks=ShownEpisodes(), **settings) for _ in range(2))
    assert in_pieces(worker, 5) is None
    carry_over(worker, restored)
    assert in_pieces(restored, 7).env_steps == 24
    assert restored.callbacks.shown == shown


def test_a_fragment_of_other_columns_is_not_gone_on_with(make_worker, carry_over):
    worker = make_worker("toy_envs.CountingEnv", num_envs=2)
    other = make_worker("toy_envs.CountingEnv", algorithm=all_columns(5))
    assert in_pieces(worker, 2) is None
    carry_over(worker, other)
    with pytest.raises(ConfigError, match=r"middle of a fragment, .*next_obs.* earlier one"):
        other.sample()


def test_with_one_env_a_piece_ends_with_its_episode_as_the_whole_fragment_does(
    make_worker, carry_over
):
    settings = {"batch_mode": "complete_episodes", "env_config": {"terminates_at": 4}}
    worker, restored = (
        make_worker("toy_envs.CountingEnv", fragment=9, **settings) for _ in range(2)
    )
    assert in_pieces(worker, 3) is None
    carry_over(worker, restored)
    rows = concat([rows_in(in_pieces(restored, 1)), rows_in(in_pieces(restored, 4))])
    assert np.flatnonzero(rows["terminated"]).tolist() == [3, 7]


def test_a_fragment_that_an_error_has_cut_is_given_up(make_worker, carry_over):
    settings = {"algorithm": all_columns(4), "env_config": {"raises_after": 5}}
    worker, restored = (make_worker("toy_envs.EnvThatRaises", **settings) for _ in range(2))
    worker.sample()
    # The first env takes the fifth step of its life, and raises in its sixth.
    with pytest.raises(WorkerError, match="ZeroDivisionError"):
        in_pieces(worker, 2)
    assert not worker.input.is_midway
    carry_over(worker, restored)
    assert not restored.input.is_midway


def test_noise_on_weights_goes_on_after_an_error(make_worker):
    worker = make_worker(
        "toy_envs.EnvThatRaises",
        algorithm=DQN(hiddens=[8], rollout_fragment_length=4),
        exploration=ParameterNoise(random_timesteps=0),
        env_config={"raises_after": 5},
    )
    worker.sample()
    with pytest.raises(WorkerError, match="ZeroDivisionError"):
        worker.sample()
    worker.foreach_env(lambda env: setattr(env, "raises_after", None))
    assert worker.sample().env_steps == 4


def test_noise_on_weights_is_restored_from_states_that_know_no_distances(make_worker):
    exploration = (
        make_worker(
            "CartPole-v1",
            algorithm=DQN(hiddens=[8], rollout_fragment_length=4),
            exploration=ParameterNoise(),
        )
        .actors["default_policy"]
        .exploration
    )
    state = exploration.state_dict() | {"stddev": 0.5}
    del state["distances"]
    exploration.load_state_dict(state)
    assert (exploration.stddev, exploration._distances) == (0.5, [])


def test_a_worker_that_forgets_begins_anew(make_worker, assert_same_rows):
    worker, fresh = (make_worker("CartPole-v1", fragment=50) for _ in range(2))
    rng = worker.actors["default_policy"].rng
    begun = rng.bit_generator.state
    worker.sample()
    assert in_pieces(worker, 3) is None
    worker.gathered.append(Sample({}, 5))
    worker.forget()
    assert worker.gathered == []
    rng.bit_generator.state = begun
    found, expected = in_pieces(worker, 50), fresh.sample()
    assert_same_rows(rows_in(found), rows_in(expected))
    assert found.episodes == expected.episodes


def test_time_before_a_restore_is_not_that_of_the_fragment_after_it(make_worker):
    worker = make_worker("toy_envs.CountingEnv", fragment=6)
    state = worker.state_dict()
    assert in_pieces(worker, 3) is None
    worker._spent_s += 1000.0
    worker.load_state_dict(state)
    found = worker.sample()
    assert found.vector_steps == 6
    assert sum(found.seconds.values()) < 1000.0


def test_an_evaluation_begins_a_fragment_of_its_own(make_worker):
    worker = make_worker("toy_envs.CountingEnv", fragment=9, env_config={"terminates_at": 4})
    assert in_pieces(worker, 3) is None
    worker.input.restart([5])
    assert not worker.input.is_midway
    assert worker.sample().env_steps == 9
