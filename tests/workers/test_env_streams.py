"""Every random number that an env may draw comes from the seed tree, once."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from toy_envs import DrawingEnv

from rlrun.core import seeding
from rlrun.core.batch import concat
from rlrun.core.checkpoint import load_checkpoint, save_checkpoint
from rlrun.run import make_trainer
from rlrun.workers.envs import EnvConfig
from rlrun.workers.vector_env import env_seeds, make_vector_env

DRAWING = "toy_envs.DrawingEnv"
OF_THE_PROCESS = ("numpy", "random", "torch")


def first_draws(vectorization: str, worker_index: int, purpose: str, seed: int = 3) -> np.ndarray:
    """What four envs draw when they are reset, [4, 7]."""
    envs = make_vector_env(
        EnvConfig(id=DRAWING, vectorization=vectorization),
        4,
        worker_index,
        seed=seed,
        purpose=purpose,
    )
    try:
        return envs.reset(env_seeds(seeding.integer_seed(seed, purpose), worker_index, 4)).copy()
    finally:
        envs.close()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_no_two_envs_draw_the_same_numbers(vectorization):
    draws = [
        first_draws(vectorization, worker_index, purpose)
        for purpose in ("rollout", "evaluation")
        for worker_index in (0, 1)
    ]
    rows = np.concatenate(draws)
    for name, column in zip(DrawingEnv.NAMES, rows.T, strict=True):
        assert len(np.unique(column)) == 16, name
    # Nor is one generator seeded as another: no number turns up twice anywhere.
    assert len(np.unique(rows)) == rows.size


def test_envs_in_processes_draw_what_the_seed_says_whatever_came_before():
    first = first_draws("async", 1, "rollout")
    np.random.random(17)
    torch.rand(5)
    random.random()
    np.testing.assert_array_equal(first_draws("async", 1, "rollout"), first)
    assert (first_draws("async", 1, "rollout", seed=4) != first).all()


def test_making_envs_draws_nothing_from_the_generators_of_the_process():
    before = seeding.process_rng_state()
    first_draws("async", 0, "rollout")
    make_vector_env(EnvConfig(id=DRAWING), 4, 0)
    assert_same_state(seeding.process_rng_state(), before)


def assert_same_state(state: dict, other: dict) -> None:
    assert state["random"] == other["random"]
    np.testing.assert_array_equal(state["numpy"]["keys"], other["numpy"]["keys"])
    assert state["numpy"]["position"] == other["numpy"]["position"]
    np.testing.assert_array_equal(state["torch"], other["torch"])


@pytest.mark.parametrize("steps_before", [3, 24])  # within the first episode, and a later one
@pytest.mark.parametrize(
    ("vectorization", "draws"),
    [
        ("async", DrawingEnv.NAMES),
        ("sync", ("action_space", "observation_space", "own")),
    ],
)
def test_a_resumed_env_goes_on_in_all_its_streams(
    make_worker, assert_same_rows, caplog, tmp_path, vectorization, draws, steps_before
):
    settings = {
        "num_envs": 3,
        "fragment": steps_before,
        "vectorization": vectorization,
        "env_config": {"draws": list(draws)},
    }
    worker = make_worker(DRAWING, **settings)
    before = worker.sample().batches["default_policy"]
    folder = save_checkpoint(tmp_path / "checkpoint_000001", {"worker": worker.state_dict()}, {})
    restored = make_worker(DRAWING, **settings)
    restored.load_state_dict(load_checkpoint(folder)["worker"])
    assert not caplog.records, "no episode is cut"
    after = [
        concat([each.sample().batches["default_policy"] for _ in range(2)])
        for each in (worker, restored)
    ]
    assert_same_rows(*after)
    drawn = [DrawingEnv.NAMES.index(name) for name in draws if name != "made"]
    numbers = np.concatenate([before["obs"], after[0]["next_obs"]])[:, drawn]
    assert len(np.unique(numbers)) == numbers.size


def test_an_env_whose_episode_is_cut_does_not_live_its_numbers_again(
    make_worker, caplog, monkeypatch
):
    from rlrun.workers import episode_log

    monkeypatch.setattr(episode_log, "MAX_REPLAY_STEPS", 2)
    draws = [*OF_THE_PROCESS, "action_space", "own"]
    settings = {
        "num_envs": 2,
        "fragment": 4,
        "vectorization": "async",
        "env_config": {"draws": draws},
    }
    worker, restored = make_worker(DRAWING, **settings), make_worker(DRAWING, **settings)
    before = worker.sample().batches["default_policy"]
    restored.load_state_dict(worker.state_dict())
    assert len(caplog.records) == 2
    after = restored.sample().batches["default_policy"]
    drawn = [DrawingEnv.NAMES.index(name) for name in draws]
    numbers = np.concatenate([before["obs"], before["next_obs"][-2:], after["obs"]])[:, drawn]
    assert len(np.unique(numbers)) == numbers.size


def test_evaluation_draws_nothing_from_the_streams_of_training_and_repeats_by_its_round():
    overrides = ["evaluation.duration=3", "algo.num_envs_per_worker=2"]
    with make_trainer("ppo", env=DRAWING, overrides=overrides, seed=1) as trainer:
        before = seeding.process_rng_state()
        trainer.evaluate()
        worker = trainer.evaluation.workers(trainer.algorithms).local_worker()
        first = worker.input.obs.copy()
        trainer.evaluate()
        second = worker.input.obs.copy()
        assert_same_state(seeding.process_rng_state(), before)
        np.random.random(9)
        trainer.evaluation.num_rounds = 0
        trainer.evaluate()
        made = DrawingEnv.NAMES.index("made")
        np.testing.assert_array_equal(worker.input.obs, first)
        assert (np.delete(first != second, made, axis=1)).all()


def test_envs_of_one_class_sample_spaces_of_their_own():
    envs = make_vector_env(EnvConfig(id=DRAWING), 2, 0)
    envs.reset([5, 6])
    alone = make_vector_env(EnvConfig(id=DRAWING), 1, 0)
    alone.reset([6])
    of_spaces = [DrawingEnv.NAMES.index(name) for name in ("action_space", "observation_space")]
    for _ in range(3):
        together, single = envs.step(np.zeros((2, 1)))[0], alone.step(np.zeros((1, 1)))[0]
        np.testing.assert_array_equal(together[1, of_spaces], single[0, of_spaces])
