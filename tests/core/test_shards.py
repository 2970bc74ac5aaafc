"""Replay in shards: whose turn it is, first priorities, and priorities that come too late."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from rlrun.core.batch import Batch
from rlrun.core.schedules import make_schedule
from rlrun.core.shards import ReplayShard, ShardedReplaySide, ShardPlan, Shards
from rlrun.core.storage import Memory, Storage


def rows(*numbers: int, priority: float = 1.0) -> Batch:
    return Batch(
        x=np.array(numbers, np.float32), priorities=np.full(len(numbers), priority, np.float32)
    )


def plan(num_shards: int, capacity: int, seed: int = 1) -> ShardPlan:
    return ShardPlan(num_shards=num_shards, capacity=capacity, alpha=1.0, eps=0.5, seed=seed)


def shard(capacity: int = 4) -> ReplayShard:
    return ReplayShard(capacity, np.random.default_rng(0), alpha=1.0, eps=0.5)


def held(shards: Shards) -> list[list[float]]:
    return [each.columns["x"][: each.size].tolist() if each.size else [] for each in shards.shards]


# One shard


def test_rows_get_the_priorities_that_they_came_with():
    one = shard()
    one.add(Batch(x=np.arange(3.0), priorities=np.array([0.5, 1.5, 3.5], np.float32)))
    np.testing.assert_array_equal(one.sums.leaves(np.arange(4)), [1.0, 2.0, 4.0, 0.0])
    assert set(one.columns) == {"x"}
    counts = np.bincount(one.sample(7000)["batch_indexes"], minlength=3)
    np.testing.assert_allclose(counts, [1000, 2000, 4000], atol=2)


def test_of_more_rows_than_it_holds_the_last_stay_with_their_own_priorities():
    one = shard(capacity=2)
    one.add(Batch(x=np.arange(5.0), priorities=np.arange(5, dtype=np.float32)))
    assert one.columns["x"].tolist() == [3.0, 4.0]
    assert one.sums.leaves(np.arange(2)).tolist() == [3.5, 4.5]


def test_updates_for_rows_that_were_overwritten_are_dropped():
    one = shard(capacity=4)
    one.add(rows(0, 1, 2, 3))
    slots, writes = np.arange(4), one.writes.copy()
    one.add(rows(4, 5, priority=7.5))  # in the slots 0 and 1
    one.update_present(slots, writes, np.full(4, 2.5))
    assert one.sums.leaves(slots).tolist() == [8.0, 8.0, 3.0, 3.0]
    assert one.stats()["num_late_priorities"] == 2
    one.add(rows(6, 7))
    one.update_present(slots, writes, np.full(4, 99.0))
    assert one.sums.leaves(slots).tolist() == [8.0, 8.0, 1.5, 1.5]
    assert one.stats()["num_late_priorities"] == 6
    assert one.max_priority == 8.0  # Errors that were dropped leave no trace there either.


def test_sampled_rows_carry_how_often_their_slots_were_written():
    one = shard(capacity=4)
    one.add(rows(0, 1, 2, 3))
    one.add(rows(4))
    sampled = one.sample(100)
    expected = np.where(sampled["batch_indexes"] == 0, 2, 1)
    np.testing.assert_array_equal(sampled["batch_writes"], expected)


def test_a_row_that_is_there_again_after_a_resume_is_known_by_its_writes():
    one, other = shard(), shard()
    for number in range(6):
        one.add(rows(number))
    other.load_state_dict(one.state_dict())
    assert other.stats() == one.stats()
    for each in (one, other):
        each.update_present(np.array([0, 1, 2]), np.array([2, 1, 1]), np.array([2.5, 2.5, 0.0]))
    assert one.sums.leaves(np.arange(4)).tolist() == [3.0, 1.5, 0.5, 1.5]
    np.testing.assert_array_equal(other.sums.nodes, one.sums.nodes)
    found, expected = other.sample(8), one.sample(8)
    for name, column in expected.items():
        np.testing.assert_array_equal(found[name], column)


# Several


@pytest.mark.parametrize(
    ("num_shards", "capacity", "sizes"), [(1, 7, [7]), (3, 10, [3, 3, 4]), (4, 4, [1, 1, 1, 1])]
)
def test_the_capacity_is_shared_out_with_no_rest_lost(num_shards, capacity, sizes):
    parted = plan(num_shards, capacity)
    assert [parted.make(number).capacity for number in range(num_shards)] == sizes
    owners = [parted.shard_of(index) for index in range(capacity)]
    assert owners == np.repeat(np.arange(num_shards), sizes).tolist()


def test_fragments_go_to_the_shards_in_turn_and_each_keeps_its_newest():
    shards = Shards(plan(3, 9))
    for number in range(11):
        shards.add(rows(number))
    assert held(shards) == [[9.0, 3.0, 6.0], [10.0, 4.0, 7.0], [2.0, 5.0, 8.0]]
    stats = shards.stats()
    assert stats["num_entries_of_shard"] == {"1": 3, "2": 3, "3": 3}
    assert (stats["num_entries"], shards.size) == (9, 9)
    assert (stats["added_count"], shards.num_added) == (11, 11)


def test_batches_come_from_the_shards_in_turn_but_for_those_that_are_empty():
    shards = Shards(plan(3, 30))
    shards.add(rows(1, 1))
    shards.add(rows(2, 2))
    seen = [set(shards.sample(5, 1.0)["x"].tolist()) for _ in range(4)]
    assert seen == [{1.0}, {2.0}, {1.0}, {2.0}]


def test_shards_draw_from_streams_of_their_own():
    first, second = (
        plan(2, 200).make(number).rng.integers(1000, size=9).tolist() for number in (0, 1)
    )
    assert first != second
    assert plan(4, 200).make(0).rng.integers(1000, size=9).tolist() == first
    assert plan(2, 200, seed=2).make(0).rng.integers(1000, size=9).tolist() != first


def test_errors_find_their_way_back_to_the_shard_of_the_batch():
    side = ShardedReplaySide(
        Shards(plan(2, 8)),
        train_batch_size=50,
        learning_starts=0,
        training_intensity=None,
        beta=make_schedule(1.0),
    )
    side.add(rows(0, 1))
    side.add(rows(2, 3))
    side.sample(0)
    sampled = side.sample(0)
    assert set(sampled["batch_indexes"].tolist()) == {4, 5}
    assert set(sampled["x"].tolist()) == {2.0, 3.0}
    errors = torch.from_numpy(-sampled["x"])
    side.update_priorities(sampled.to(), errors)
    first, second = side.buffer.shards
    assert first.sums.leaves(np.arange(2)).tolist() == [1.5, 1.5]
    assert second.sums.leaves(np.arange(2)).tolist() == [2.5, 3.5]


def test_restored_shards_go_on_bit_for_bit_and_others_are_refused():
    shards, other = Shards(plan(3, 9)), Shards(plan(3, 9, seed=5))
    for number in range(7):
        shards.add(rows(number, priority=number))
    shards.sample(4, 0.4)
    other.load_state_dict(shards.state_dict())
    for each in (shards, other):
        each.add(rows(7))
    assert held(other) == held(shards)
    for _ in range(4):
        found, expected = other.sample(6, 0.4), shards.sample(6, 0.4)
        assert {name: column.tolist() for name, column in found.items()} == {
            name: column.tolist() for name, column in expected.items()
        }
    with pytest.raises(ValueError, match=r"saved with algo\.num_replay_buffer_shards=3"):
        Shards(plan(2, 9)).load_state_dict(shards.state_dict())
    lost = {**shards.state_dict(), "shards": [None, *shards.state_dict()["shards"][1:]]}
    fewer = Shards(plan(3, 9))
    fewer.load_state_dict(lost)
    assert [each.size for each in fewer.shards] == [0, 3, 2]


# Room


def test_one_shard_of_each_machine_looks_for_room_for_all_that_are_there():
    parted = plan(4, 10)  # of 2, 3, 2 and 3 rows
    assert parted.rows_to_check(["a"] * 4) == [10, 0, 0, 0]
    assert parted.rows_to_check(["a", "b", "a", "c"]) == [4, 3, 0, 3]


def test_shards_in_one_process_need_room_for_all_of_their_rows_together():
    asked = []

    class Room(Memory):
        def check(self, capacity: int, row_bytes: int) -> None:
            asked.append((capacity, row_bytes))

    make_storage = partial(Storage, place=Room())
    of_one = ShardPlan(
        num_shards=3, capacity=10, alpha=1.0, eps=0.5, seed=1, make_storage=make_storage
    )
    shards = Shards(of_one)
    for number in range(6):
        shards.add(rows(number))
    assert asked == [(10, 4)]
