"""The learner's thread: it learns all, waits when it should, and tells of its errors."""

from __future__ import annotations

import threading
import traceback
from typing import Any

import numpy as np
import pytest

from rlrun.core.batch import Batch
from rlrun.core.intake import Intake
from rlrun.core.learner_thread import LearnerThread

TIMEOUT_S = 20.0
"""A bound on what never takes long, so that a deadlock is a failure."""


def fragment(number: int) -> Batch:
    return Batch(x=np.array([number]))


def make(learn: Any, queue_size: int = 100, is_interrupted: Any = lambda: False) -> LearnerThread:
    intake = Intake(train_batch_size=1, queue_size=queue_size, rng=np.random.default_rng(0))
    return LearnerThread(intake, learn, is_interrupted)


def add_many(learner: LearnerThread) -> None:
    with learner:
        for number in range(1000):
            learner.add(fragment(number))


def add_until(learner: LearnerThread, is_reached: threading.Event) -> None:
    with learner:
        learner.add(fragment(0))
        assert is_reached.wait(TIMEOUT_S)


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "learner" in thread.name]


def test_all_is_learned_from_in_order_and_the_thread_ends_with_the_block():
    seen: list[int] = []
    done = threading.Event()

    def learn(rows: Batch) -> None:
        seen.append(int(rows["x"][0]))
        if len(seen) == 50:
            done.set()

    with make(learn) as learner:
        for number in range(50):
            learner.add(fragment(number))
        assert done.wait(TIMEOUT_S)
        assert threads() == ["rlrun learner"]
    assert seen == list(range(50))
    assert threads() == []


def test_what_was_not_learned_from_stays_for_the_next_thread():
    seen: list[int] = []
    has_begun, may_go_on = threading.Event(), threading.Event()

    def learn(rows: Batch) -> None:
        has_begun.set()
        assert may_go_on.wait(TIMEOUT_S)
        seen.append(int(rows["x"][0]))

    with make(learn) as learner:
        for number in range(3):
            learner.add(fragment(number))
        assert has_begun.wait(TIMEOUT_S)
        learner._is_over = True
        may_go_on.set()
    assert seen == [0]
    assert [int(batch["x"][0]) for batch in learner.intake.line] == [1, 2]


def test_gathering_waits_for_a_full_queue_and_goes_on_with_the_learner():
    may_learn = threading.Semaphore(0)
    sizes: list[int] = []

    def learn(rows: Batch) -> None:
        assert may_learn.acquire(timeout=TIMEOUT_S)

    with make(learn, queue_size=2) as learner:

        def gather() -> None:
            for number in range(20):
                learner.add(fragment(number))
                sizes.append(len(learner.intake.line))

        gatherer = threading.Thread(target=gather)
        gatherer.start()
        for _ in range(20):
            may_learn.release()
        gatherer.join(TIMEOUT_S)
        assert len(sizes) == 20
        assert max(sizes) <= 2


def test_an_interrupt_ends_the_wait_for_a_full_queue_and_drops_nothing():
    is_interrupted, may_learn = threading.Event(), threading.Event()

    def learn(rows: Batch) -> None:
        assert may_learn.wait(TIMEOUT_S)

    with make(learn, queue_size=1, is_interrupted=is_interrupted.is_set) as learner:
        learner.add(fragment(0))
        with learner._changed:
            assert learner._changed.wait_for(lambda: learner._is_learning, TIMEOUT_S)
        learner.add(fragment(1))
        is_interrupted.set()
        learner.add(fragment(2))  # The line is full, and stays so.
        assert [int(batch["x"][0]) for batch in learner.intake.line] == [1, 2]
        may_learn.set()


def test_an_error_of_the_thread_is_raised_with_its_own_traceback():
    def learn(rows: Batch) -> None:
        raise FloatingPointError("the loss is lost")

    learner = make(learn, queue_size=1)
    with pytest.raises(FloatingPointError, match="the loss is lost") as caught:
        add_many(learner)
    assert "in learn" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert threads() == []


def test_an_error_of_the_driver_is_not_hidden_by_one_of_the_thread():
    def learn(rows: Batch) -> None:
        raise FloatingPointError

    with pytest.raises(KeyError), make(learn):
        raise KeyError
    assert threads() == []


def test_an_error_is_raised_at_the_end_if_nothing_was_added_after_it():
    has_failed = threading.Event()

    def learn(rows: Batch) -> None:
        has_failed.set()
        raise FloatingPointError

    learner = make(learn)
    with pytest.raises(FloatingPointError):
        add_until(learner, has_failed)
