"""`rlrun autotune`: what it measures, refuses and names."""

from __future__ import annotations

import pytest
from helpers_cli import command_line

from rlrun.autotune import Measurement, _fits, _measure, _others, _Search
from rlrun.compose import compose, plain_config
from rlrun.core.errors import RlrunError

TINY = ("algo=ppo", "algo.train_batch_size=64", "algo.minibatch_size=32", "tuned=none")
FIXED = ("resources.num_workers=0", "resources.num_cpus_for_driver=1")


@pytest.fixture
def rlrun(tmp_path, monkeypatch):
    with command_line(tmp_path, monkeypatch) as run:
        yield run


def measured(*speeds: float, updates: float = 1.0) -> Measurement:
    return Measurement(speeds=[*speeds], updates_per_step=[updates], rows_per_step=[1.0])


def test_it_ends_with_a_command_line_and_leaves_nothing(rlrun, tmp_path):
    arguments = [*TINY, *FIXED, "env.vectorization=sync"]
    outcome = rlrun("autotune", *arguments, "--seconds", "1")
    assert outcome.status == 0, outcome.stderr
    assert "algo.num_envs_per_worker=2" in outcome.stdout
    assert "env.vectorization=" not in outcome.stdout.split("Nothing")[0].split("  rlrun")[0]
    assert outcome.stdout.splitlines()[-1].startswith(f"  rlrun {' '.join(arguments)}")
    assert list(tmp_path.iterdir()) == []


def test_a_candidate_that_the_env_refuses_gives_the_reason():
    plain = plain_config(compose([*TINY, "env=pendulum", "seed=0", "env.vectorization=native"]))
    found = _Search(plain, 0.0, [])._attempt(plain)
    assert "has no vector implementation" in found


def test_what_there_is_no_time_for_is_named(rlrun):
    outcome = rlrun("autotune", *TINY, *FIXED, "--seconds", "0")
    assert outcome.status == 0, outcome.stderr
    assert "env.vectorization=async,native" in outcome.stdout
    assert "no time left (--seconds)" in outcome.stdout
    assert "Nothing was faster" in outcome.stdout


def test_what_cannot_run_is_refused(rlrun):
    assert rlrun("autotune", "algo.gamma=2").status == 2
    assert "--seconds soon: it must be a number." in rlrun("autotune", "--seconds", "soon").stderr
    assert "of a single run" in rlrun("autotune", "-m", "seed=0,1").stderr


def test_only_a_difference_beyond_the_noise_is_faster():
    base = measured(100.0, 101.0, 102.0)
    assert measured(110.0, 111.0, 112.0).is_faster(base)
    assert not measured(90.0, 111.0, 112.0, 90.0).is_faster(base)
    assert not base.is_faster(base)


def test_fewer_updates_for_each_env_step_are_refused():
    measured(1.0, updates=0.95).require_as_much_learned(measured(1.0))
    with pytest.raises(RlrunError, match="500 updates per 1,000 env steps, not 1,000"):
        measured(1.0, updates=0.5).require_as_much_learned(measured(1.0))


def test_more_envs_of_a_replay_algorithm_are_refused_as_they_learn_less():
    keys = ["algo=dqn", "algo.learning_starts=50", "algo.train_batch_size=16"]
    base = _measure(plain_config(compose([*keys, "seed=0"])), 0.0, 60.0)
    more = plain_config(compose([*keys, "seed=0", "algo.num_envs_per_worker=4"]))
    with pytest.raises(RlrunError, match="changes what is learned"):
        _measure(more, 0.0, 60.0, base)


def test_only_numbers_of_envs_that_divide_the_train_batch_are_tried():
    plain = plain_config(compose([*TINY, "algo.train_batch_size=96"]))
    assert _others(plain, "algo.num_envs_per_worker") == [2, 4, 8, 16, 32]
    plain["resources"]["num_workers"] = 2
    assert not _fits(plain, 32)
