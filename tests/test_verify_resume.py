"""`rlrun verify-resume`: what it finds the same, and what it names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers_cli import Outcome, command_line

from rlrun.core.errors import RlrunError
from rlrun.verify_resume import _leaves, _require_same

Rlrun = Callable[..., Outcome]

TINY = ("algo=ppo", "algo.train_batch_size=64", "algo.minibatch_size=32")

FORGETFUL = """
from pathlib import Path
import gymnasium

class Env(gymnasium.Wrapper):
    '''Its rewards depend on how often it was made: nothing that a checkpoint could hold.'''

    def __init__(self):
        super().__init__(gymnasium.make("CartPole-v1"))
        times = Path("times")
        self.reward = 1.0 + times.stat().st_size if times.exists() else 1.0
        with times.open("a") as file:
            file.write("x" if COUNTS else "")

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, self.reward, terminated, truncated, info
"""


@pytest.fixture
def rlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rlrun]:
    with command_line(tmp_path, monkeypatch) as run:
        yield run


def test_an_exact_run_is_confirmed(rlrun):
    outcome = rlrun("verify-resume", *TINY, "--iterations", "1", "seed=3")
    assert outcome.status == 0, outcome.stderr
    assert "2 iterations at once, and 1 + 1 with a resume between, gave the same" in outcome.stdout
    assert "(seed=3)" in outcome.stdout


@pytest.mark.slow
def test_an_evaluation_at_the_end_is_no_difference(rlrun):
    at_end = ("evaluation.at_end=true", "evaluation.duration=1")
    outcome = rlrun("verify-resume", *TINY, *at_end, "--iterations", "1", "seed=3")
    assert outcome.status == 0, outcome.stderr


@pytest.mark.slow
def test_an_env_that_is_not_determined_by_the_seed_is_found(rlrun, tmp_path):
    (tmp_path / "my_env.py").write_text(FORGETFUL.replace("COUNTS", "True"))
    own = ("env=gym", "env.id=my_env.Env", "--iterations", "1")
    outcome = rlrun("verify-resume", *TINY, *own)
    assert outcome.status == 1
    assert "differ in iteration 1, before any resume, first in episode_reward_" in outcome.stderr


def test_what_cannot_run_is_refused(rlrun):
    assert rlrun("verify-resume", "algo.gamma=2").status == 2
    outcome = rlrun("verify-resume", "--iterations", "many")
    assert outcome.status == 2
    assert "--iterations many: it must be a number." in outcome.stderr


def test_the_first_difference_is_named_with_both_values():
    one = {"weights": np.array([1.0, 2.0]), "rng": {"state": 5}, "time_total_s": 1.0}
    assert _require_same(one, {**one, "time_total_s": 2.0}, "Here", "resumed") == 2
    other = {**one, "weights": np.array([1.0, 2.5])}
    with pytest.raises(RlrunError) as raised:
        _require_same(one, other, "Here", "resumed")
    assert "Here, first in weights: straight np.float64(2.0) at 1 of 2" in str(raised.value)
    with pytest.raises(RlrunError, match="first in rng/state: straight 5, resumed 6"):
        _require_same(one, {**one, "rng": {"state": 6}}, "Here", "resumed")
    with pytest.raises(RlrunError, match="first in more: straight 'not there', resumed 1"):
        _require_same(one, {**one, "more": 1}, "Here", "resumed")


def test_nan_is_the_same_as_nan_and_clocks_are_left_out():
    tree = {"a": float("nan"), "timers": {"x": 1}, "iterations_since_restore": 3}
    assert [key for key, _ in _leaves(tree)] == ["a"]
    assert _require_same(tree, {**tree, "timers": {"x": 2}}, "Here", "resumed") == 1
