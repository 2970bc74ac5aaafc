"""Learning from shards in a thread: how much for how many rows, and who waits for whom."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rlrun.core.batch import Batch
from rlrun.core.replay_learner import ReplayLearnerInTurn, ReplayLearnerThread
from rlrun.core.schedules import make_schedule
from rlrun.core.shards import ShardedReplaySide, ShardPlan, Shards

TIMEOUT_S = 20.0
"""A bound on what never takes long, so that a deadlock is a failure."""


class Safe(Shards):
    """Shards that two threads may use."""

    def __init__(self) -> None:
        super().__init__(ShardPlan(num_shards=2, capacity=100, alpha=1.0, eps=0.5, seed=1))
        self.lock = threading.Lock()

    def add(self, batch: Batch) -> None:
        with self.lock:
            super().add(batch)

    def sample(self, num_rows: int, beta: float) -> Batch:
        with self.lock:
            return super().sample(num_rows, beta)


def fragment(num_rows: int = 10) -> Batch:
    return Batch(x=np.zeros(num_rows), priorities=np.ones(num_rows, np.float32))


def make_side(intensity: float | None, starts: int = 0) -> ShardedReplaySide:
    return ShardedReplaySide(
        Safe(),
        train_batch_size=5,
        learning_starts=starts,
        training_intensity=intensity,
        beta=make_schedule(0.4),
    )


def make_thread(
    side: ShardedReplaySide, learn: Callable[[Batch], None], **settings: Any
) -> ReplayLearnerThread:
    given = {
        "is_interrupted": lambda: False,
        "clock": lambda: side.buffer.num_added,
        "on_idle": lambda: None,
        "max_owed": 4,
    }
    return ReplayLearnerThread(side, learn, **{**given, **settings})


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "learner" in thread.name]


def test_without_an_intensity_it_learns_on_and_on_from_what_there_is():
    enough = threading.Event()
    sizes: list[int] = []

    def learn(rows: Batch) -> None:
        sizes.append(rows.num_rows)
        if len(sizes) == 100:
            enough.set()

    with make_thread(make_side(None), learn) as learner:
        learner.add(fragment())
        assert enough.wait(TIMEOUT_S)
    assert set(sizes) == {5}
    assert threads() == []


def test_it_begins_when_enough_was_sampled_and_shows_itself_while_it_waits():
    side = make_side(None, starts=20)
    has_waited, has_learned = threading.Event(), threading.Event()

    def learn(rows: Batch) -> None:
        assert side.buffer.num_added >= 20
        has_learned.set()

    with make_thread(side, learn, on_idle=has_waited.set) as learner:
        learner.add(fragment())
        assert has_waited.wait(TIMEOUT_S)
        assert not has_learned.is_set()
        learner.add(fragment())
        assert has_learned.wait(TIMEOUT_S)
        assert learner.idle_s > 0.0


@pytest.mark.parametrize("intensity", [0.75, 2.0])
def test_with_an_intensity_it_learns_what_is_owed_and_no_more(intensity):
    side, num_learned, all_learned = make_side(intensity), [0], threading.Event()
    due = int(20 * 10 * intensity / 5)

    def learn(rows: Batch) -> None:
        num_learned[0] += 1
        # Never more than was sampled calls for.
        assert num_learned[0] * 5 <= side.buffer.num_added * intensity
        if num_learned[0] == due:
            all_learned.set()

    with make_thread(side, learn) as learner:
        for _ in range(20):
            learner.add(fragment())
            assert side.updates_owed <= 4.0
        assert all_learned.wait(TIMEOUT_S)
    assert num_learned == [due]
    assert side.updates_owed == pytest.approx(0.0)


def test_an_interrupt_ends_the_wait_for_a_learner_that_is_behind():
    may_learn, is_interrupted = threading.Event(), threading.Event()
    side = make_side(2.0)

    def learn(rows: Batch) -> None:
        assert may_learn.wait(TIMEOUT_S)

    with make_thread(side, learn, is_interrupted=is_interrupted.is_set) as learner:
        learner.add(fragment())
        with learner._changed:
            assert learner._changed.wait_for(lambda: learner._is_learning, TIMEOUT_S)
        is_interrupted.set()
        for _ in range(3):
            learner.add(fragment())
        assert side.updates_owed > 4.0
        learner._is_over = True  # What is owed then stays so for the next thread.
        may_learn.set()
    assert side.updates_owed == 15.0


@pytest.mark.parametrize("change", ["training_intensity", "learning_starts"])
def test_gathering_does_not_wait_for_what_is_not_learned_any_more(change):
    side = make_side(2.0)
    setattr(side, change, {"training_intensity": None, "learning_starts": 1000}[change])
    side.updates_owed = 50.0
    gatherer = threading.Thread(
        target=make_thread(side, lambda rows: None).add, args=(fragment(),), daemon=True
    )
    gatherer.start()
    gatherer.join(TIMEOUT_S)
    assert not gatherer.is_alive()
    assert (side.buffer.size, side.updates_owed) == (10, 50.0)


def test_an_error_of_the_thread_ends_the_wait_as_itself():
    def learn(rows: Batch) -> None:
        raise FloatingPointError("the loss is lost")

    learner = make_thread(make_side(8.0), learn)
    with pytest.raises(FloatingPointError, match="the loss is lost"), learner:
        learner.add(fragment())
    assert threads() == []


def test_in_turn_each_fragment_is_followed_by_what_it_calls_for():
    side, sizes = make_side(0.75, starts=20), []
    learner = ReplayLearnerInTurn(
        side, lambda rows: sizes.append(rows.num_rows), lambda: side.buffer.num_added
    )
    counts = []
    for _ in range(6):
        learner.add(fragment())
        counts.append(len(sizes))
    assert counts == [0, 1, 3, 4, 6, 7]
    assert set(sizes) == {5}
