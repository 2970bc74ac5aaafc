"""Train batches from fragments: order, rounds, replay, queue and state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rlrun.core.batch import Batch
from rlrun.core.intake import Intake


def make(**settings: Any) -> Intake:
    known = {"train_batch_size": 4, "queue_size": 2, "rng": np.random.default_rng(0)}
    return Intake(**(known | settings))


def fragment(number: int, lengths: tuple[int, ...] = (2,)) -> Batch:
    """Sequences of that many steps, and a bootstrap step; x is `number` everywhere."""
    width = max(lengths) + 1
    mask = np.arange(width) < np.array(lengths)[:, None]
    return Batch(x=np.full((len(lengths), width), number), mask=mask)


def taken(intake: Intake) -> list[list[int]]:
    """The numbers of the fragments in each update that can be made now."""
    found = []
    while (rows := intake.take()) is not None:
        found.append(rows["x"][:, 0].tolist())
    return found


def test_fragments_are_put_together_until_they_have_enough_real_steps():
    intake = make()
    intake.add(fragment(1, (3,)))
    assert taken(intake) == []
    intake.add(fragment(2, (1, 2)))
    assert taken(intake) == [[1, 2, 2]]
    intake.add(Batch())
    intake.add(fragment(3, (4,)))
    assert taken(intake) == [[3]]


def test_sequences_of_other_fragments_are_padded():
    intake = make()
    intake.add(fragment(1, (1,)))
    intake.add(fragment(2, (3,)))
    rows = intake.take()
    assert rows["x"].tolist() == [[1, 1, 0, 0], [2, 2, 2, 2]]
    assert rows["mask"].tolist() == [[True, False, False, False], [True, True, True, False]]


def test_each_batch_is_learned_from_several_times():
    intake = make(num_passes=3)
    for number in (1, 2):
        intake.add(fragment(number, (4,)))
    assert taken(intake) == [[1]] * 3 + [[2]] * 3


def test_the_learner_goes_round_its_buffer():
    intake = make(num_passes=2, buffer_size=2, queue_size=9)
    intake.add(fragment(1, (4,)))
    assert taken(intake) == [[1]]
    for number in (2, 3, 4):
        intake.add(fragment(number, (4,)))
    # One after the other; whoever was learned from twice makes room for the next.
    assert taken(intake) == [[2], [1], [2], [3], [4], [3], [4]]


def test_nothing_is_dropped_unless_asked_for():
    for drops, expected in ((False, [[1], [2], [3]]), (True, [[1], [2]])):
        intake = make(drops_when_full=drops)
        for number in (1, 2, 3):
            intake.add(fragment(number, (4,)))
        assert intake.is_full
        assert intake.num_rows_dropped == (4 if drops else 0)
        assert taken(intake) == expected


def test_the_share_of_replayed_fragments_is_kept_and_they_are_old_ones():
    intake = make(replay_proportion=0.25, replay_slots=3, train_batch_size=1, queue_size=999)
    fresh, old = [], []
    for number in range(300):
        intake.add(fragment(number, (1,)))
        (found,) = taken(intake)
        fresh.append(found[0])
        old += [(number, each) for each in found[1:]]
    assert fresh == list(range(300))
    assert len(old) / (len(old) + len(fresh)) == pytest.approx(0.25, abs=0.01)
    assert {now - before for now, before in old} == {1, 2, 3}


@pytest.mark.parametrize("moment", range(6))
def test_an_intake_that_is_put_back_goes_on_as_if_nothing_was(moment):
    settings = {"num_passes": 2, "buffer_size": 2, "replay_proportion": 0.5, "replay_slots": 2}
    whole, expected, found = make(**settings), [], []
    for number in range(6):
        if number == moment:
            state = whole.state_dict()
            resumed = make(**settings, rng=np.random.default_rng(99))
            resumed.load_state_dict(state)
        whole.add(fragment(number, (2, 1)))
        if number >= moment:
            resumed.add(fragment(number, (2, 1)))
            found += taken(resumed)
            expected += taken(whole)
        elif number % 2:
            taken(whole)
    assert expected == found != []


def test_a_buffer_of_another_size_is_refused():
    with pytest.raises(ValueError, match="minibatch_buffer_size=2"):
        make().load_state_dict(make(buffer_size=2).state_dict())
