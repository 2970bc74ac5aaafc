from __future__ import annotations

import copy

import numpy as np
import pytest

from rlrun.core.batch import Batch
from rlrun.core.replay import MinTree, PrioritizedReplayBuffer, ReplayBuffer, SumTree


class AlmostOneGenerator(np.random.Generator):
    """A generator whose uniform numbers are all the largest below 1."""

    def __init__(self) -> None:
        super().__init__(np.random.PCG64(0))

    def random(self, size=None, dtype=np.float64, out=None):
        value = np.nextafter(np.asarray(1, dtype), np.asarray(0, dtype))
        return np.full(size, value, dtype) if size is not None else value


def rows(*numbers: int) -> dict[str, np.ndarray]:
    """Rows that can be told apart: every column is a function of the number."""
    number = np.array(numbers)
    return {
        "number": number,
        "obs": np.stack([number, -number], axis=1).astype(np.float32),
        "terminated": number % 2 == 0,
    }


def filled(capacity: int, num_rows: int, seed: int = 0) -> ReplayBuffer:
    buffer = ReplayBuffer(capacity, np.random.default_rng(seed))
    for number in range(num_rows):
        buffer.add(rows(number))
    return buffer


def prioritized(
    capacity: int, num_rows: int, alpha: float = 1.0, eps: float = 0.0, rng=None
) -> PrioritizedReplayBuffer:
    rng = np.random.default_rng(0) if rng is None else rng
    buffer = PrioritizedReplayBuffer(capacity, rng, alpha=alpha, eps=eps)
    if num_rows:
        buffer.add(rows(*range(num_rows)))
    return buffer


def held(buffer: ReplayBuffer) -> set[int]:
    """The numbers of all rows that sampling can give."""
    return set(buffer.sample(60 * max(buffer.size, 1))["number"].tolist())


def shares(buffer: PrioritizedReplayBuffer, num_slots: int) -> np.ndarray:
    """How often each slot is sampled."""
    indexes = buffer.sample(20_000, 0.5)["batch_indexes"]
    return np.bincount(indexes, minlength=num_slots) / 20_000


def test_slots_fill_in_order_and_wrap_around():
    buffer = ReplayBuffer(5, np.random.default_rng(0))
    np.testing.assert_array_equal(buffer.add(rows(0, 1, 2)), [0, 1, 2])
    assert buffer.size == 3
    np.testing.assert_array_equal(buffer.add(rows(3, 4, 5, 6)), [3, 4, 0, 1])
    assert buffer.size == 5
    assert held(buffer) == {2, 3, 4, 5, 6}
    np.testing.assert_array_equal(buffer.add(rows(7)), [2])
    assert held(buffer) == {3, 4, 5, 6, 7}


def test_only_added_rows_are_sampled_from_a_buffer_that_is_not_full():
    buffer = ReplayBuffer(1000, np.random.default_rng(0))
    buffer.add(rows(11, 12, 13))
    assert held(buffer) == {11, 12, 13}


def test_more_rows_than_the_capacity_leave_the_last_ones():
    buffer = ReplayBuffer(4, np.random.default_rng(0))
    buffer.add(rows(100))
    buffer.add(rows(*range(11)))
    assert buffer.size == 4
    assert held(buffer) == {7, 8, 9, 10}
    buffer.add(rows(11, 12))
    assert held(buffer) == {9, 10, 11, 12}


def test_columns_of_a_sample_belong_to_the_same_rows_and_keep_their_dtypes():
    batch = filled(7, 20).sample(50)
    assert isinstance(batch, Batch)
    assert batch.num_rows == 50
    expected = rows(*batch["number"])
    assert set(batch) == set(expected)
    for name, column in expected.items():
        np.testing.assert_array_equal(batch[name], column)
        assert batch[name].dtype == column.dtype


def test_a_sample_is_not_changed_by_what_is_added_later():
    buffer = filled(3, 3)
    batch = buffer.sample(10)
    before = batch["obs"].copy()
    buffer.add(rows(50, 51, 52))
    np.testing.assert_array_equal(batch["obs"], before)
    batch["obs"][:] = 99
    assert (buffer.sample(30)["obs"] != 99).all()


def test_added_arrays_may_be_reused_by_the_caller():
    buffer = ReplayBuffer(3, np.random.default_rng(0))
    batch = rows(1, 2, 3)
    buffer.add(batch)
    batch["number"][:] = 77
    assert held(buffer) == {1, 2, 3}


def test_uniform_sampling_gives_every_row_equally_often():
    numbers = filled(10, 10).sample(20_000)["number"]
    # The standard deviation of each frequency is sqrt(0.09 / 20000) = 0.002.
    np.testing.assert_allclose(np.bincount(numbers) / 20_000, np.full(10, 0.1), atol=0.01)


def test_a_restored_buffer_goes_on_as_the_saved_one():
    buffer = filled(5, 8)
    state = copy.deepcopy(buffer.state_dict())
    restored = ReplayBuffer(5, np.random.default_rng(99))
    restored.load_state_dict(state)
    assert restored.size == 5
    for number in (20, 21, 22):
        np.testing.assert_array_equal(buffer.add(rows(number)), restored.add(rows(number)))
        one, two = buffer.sample(40), restored.sample(40)
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])


def test_a_restored_partly_filled_buffer_fills_up_where_it_stopped():
    buffer = filled(5, 3)
    restored = ReplayBuffer(5, np.random.default_rng(0))
    restored.load_state_dict(copy.deepcopy(buffer.state_dict()))
    np.testing.assert_array_equal(restored.add(rows(3, 4, 5)), [3, 4, 0])
    assert held(restored) == {1, 2, 3, 4, 5}


def test_an_empty_buffer_can_be_saved_and_restored():
    restored = ReplayBuffer(5, np.random.default_rng(0))
    restored.load_state_dict(copy.deepcopy(ReplayBuffer(5, np.random.default_rng(0)).state_dict()))
    assert restored.size == 0
    restored.add(rows(1))
    assert held(restored) == {1}


@pytest.mark.parametrize("num_saved", [0, 2, 5])
def test_a_restored_state_replaces_whatever_the_buffer_held(num_saved):
    saved, used = filled(8, num_saved), filled(8, 11)
    used.load_state_dict(copy.deepcopy(saved.state_dict()))
    assert used.size == num_saved
    for number in (20, 21):
        np.testing.assert_array_equal(saved.add(rows(number)), used.add(rows(number)))
    np.testing.assert_array_equal(saved.sample(50)["number"], used.sample(50)["number"])


@pytest.mark.parametrize("num_saved", [0, 2, 5])
def test_a_restored_prioritized_state_replaces_whatever_the_buffer_held(num_saved):
    saved, used = prioritized(8, num_saved, eps=0.01), prioritized(8, 8, eps=0.01)
    used.update_priorities(np.arange(8), np.linspace(0.1, 9, 8))
    used.load_state_dict(copy.deepcopy(saved.state_dict()))
    assert used.size == num_saved
    for number in (20, 21):
        np.testing.assert_array_equal(saved.add(rows(number)), used.add(rows(number)))
    one, two = saved.sample(50, 0.5), used.sample(50, 0.5)
    np.testing.assert_array_equal(one["number"], two["number"])
    np.testing.assert_array_equal(one["weights"], two["weights"])


def test_a_state_of_another_capacity_is_an_error():
    with pytest.raises(ValueError, match="capacity"):
        ReplayBuffer(6, np.random.default_rng(0)).load_state_dict(filled(5, 8).state_dict())


def test_priorities_are_sampled_in_proportion_to_their_power():
    buffer = prioritized(7, 4, alpha=0.5, eps=1.0)
    buffer.update_priorities(np.arange(4), np.array([0.0, -3.0, 8.0, 15.0]))
    # (|e| + 1) ** 0.5 = 1, 2, 3, 4.
    np.testing.assert_allclose(shares(buffer, 7), [0.1, 0.2, 0.3, 0.4, 0, 0, 0], atol=0.01)


def test_prioritized_sampling_passes_a_chi_square_test():
    rng = np.random.default_rng(4)
    priorities = rng.random(10) * np.array([0.05, 1, 1, 1, 1, 1, 5, 5, 5, 20])
    buffer = prioritized(13, 10, alpha=0.6, eps=0.0)
    buffer.update_priorities(np.arange(10), priorities)
    num_draws = 8_000
    # One at a time: the strata of a larger sample would leave less than chance does.
    drawn = np.concatenate([buffer.sample(1, 0.4)["batch_indexes"] for _ in range(num_draws)])
    expected = num_draws * priorities**0.6 / (priorities**0.6).sum()
    counts = np.bincount(drawn, minlength=10)
    # 27.88 is exceeded by chance once in a thousand times, with nine degrees of freedom.
    assert ((counts - expected) ** 2 / expected).sum() < 27.88


def test_alpha_zero_is_uniform():
    buffer = prioritized(4, 4, alpha=0.0, eps=0.1)
    buffer.update_priorities(np.arange(4), np.array([0.0, 1.0, 10.0, 1e3]))
    np.testing.assert_allclose(shares(buffer, 4), [0.25] * 4, atol=0.01)
    np.testing.assert_allclose(buffer.sample(50, 1.0)["weights"], 1.0, rtol=1e-6)


def test_new_rows_get_the_highest_priority_so_far_even_after_it_is_gone():
    buffer = prioritized(6, 3, alpha=1.0, eps=0.0)
    np.testing.assert_allclose(shares(buffer, 3), [1 / 3] * 3, atol=0.01)
    buffer.update_priorities(np.arange(3), np.array([2.0, 6.0, 4.0]))
    buffer.update_priorities(np.array([1]), np.array([2.0]))
    slots = buffer.add(rows(3, 4))
    np.testing.assert_array_equal(slots, [3, 4])
    # 2, 2, 4 and twice the 6 that slot 1 once had.
    expected = np.array([2, 2, 4, 6, 6, 0]) / 20
    np.testing.assert_allclose(shares(buffer, 6), expected, atol=0.01)


def test_a_row_that_overwrites_another_does_not_inherit_its_priority():
    buffer = prioritized(3, 3, alpha=1.0, eps=0.0)
    buffer.update_priorities(np.arange(3), np.array([1.0, 9.0, 8.0]))
    np.testing.assert_array_equal(buffer.add(rows(3)), [0])
    np.testing.assert_allclose(shares(buffer, 3), np.array([9, 9, 8]) / 26, atol=0.01)


def test_weights_are_relative_to_the_largest_possible_one():
    buffer = prioritized(5, 4, alpha=1.0, eps=0.0)
    priorities = np.array([1.0, 2.0, 5.0, 8.0])
    buffer.update_priorities(np.arange(4), priorities)
    for beta in (0.4, 1.0):
        # Three draws can miss the rarest row: the scale is of all rows, not of the sample.
        for _ in range(20):
            batch = buffer.sample(3, beta)
            probs = priorities / priorities.sum()
            weights = (4 * probs) ** -beta
            expected = (weights / weights.max())[batch["batch_indexes"]]
            np.testing.assert_allclose(batch["weights"], expected, rtol=1e-5)


def test_weights_with_alpha_take_the_sampling_probabilities():
    buffer = prioritized(3, 3, alpha=0.6, eps=0.5)
    buffer.update_priorities(np.arange(3), np.array([0.0, 1.0, 4.0]))
    batch = buffer.sample(64, 0.7)
    scaled = (np.array([0.5, 1.5, 4.5]) / 0.5) ** 0.6
    np.testing.assert_allclose(batch["weights"], (scaled**-0.7)[batch["batch_indexes"]], rtol=1e-5)


def test_beta_zero_gives_weights_of_one():
    buffer = prioritized(3, 3)
    buffer.update_priorities(np.arange(3), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(buffer.sample(20, 0.0)["weights"], 1.0)


def test_sampled_indexes_name_the_slots_of_the_sampled_rows():
    buffer = prioritized(5, 5)
    buffer.add(rows(5, 6))
    batch = buffer.sample(200, 0.4)
    slot_of = {5: 0, 6: 1, 2: 2, 3: 3, 4: 4}
    assert [slot_of[number] for number in batch["number"]] == batch["batch_indexes"].tolist()
    assert set(batch["number"]) == set(slot_of)


def test_prioritized_sampling_reaches_only_added_rows_in_a_capacity_that_is_no_power_of_two():
    for num_rows in (1, 2, 5, 6):
        buffer = prioritized(6, num_rows)
        assert set(buffer.sample(500, 1.0)["number"]) == set(range(num_rows))


@pytest.mark.parametrize("num_rows", [1, 3, 5, 6, 7])
def test_the_largest_uniform_numbers_still_find_an_added_row(num_rows):
    buffer = prioritized(7, num_rows, alpha=0.7, eps=0.01, rng=AlmostOneGenerator())
    rng = np.random.default_rng(3)
    for _ in range(20):
        buffer.update_priorities(np.arange(num_rows), rng.normal(size=num_rows))
        batch = buffer.sample(int(rng.integers(1, 70)), 1.0)
        assert batch["batch_indexes"].max() < num_rows
        assert np.isfinite(batch["weights"]).all()


def test_stratified_sampling_takes_one_row_from_each_equal_part():
    buffer = prioritized(8, 8)
    for _ in range(10):
        assert sorted(buffer.sample(8, 1.0)["batch_indexes"]) == list(range(8))


def test_prioritized_rows_beyond_the_capacity_leave_the_last_ones():
    buffer = prioritized(4, 0)
    buffer.add(rows(*range(11)))
    assert buffer.size == 4
    assert held(buffer) == {7, 8, 9, 10}


def test_a_restored_prioritized_buffer_goes_on_as_the_saved_one():
    buffer = prioritized(5, 4, alpha=0.6, eps=0.01)
    buffer.update_priorities(np.arange(4), np.array([1.0, 20.0, 3.0, 4.0]))
    buffer.update_priorities(np.array([1]), np.array([0.5]))
    state = copy.deepcopy(buffer.state_dict())
    restored = PrioritizedReplayBuffer(5, np.random.default_rng(99), alpha=0.6, eps=0.01)
    restored.load_state_dict(state)
    for number in (20, 21, 22):
        np.testing.assert_array_equal(buffer.add(rows(number)), restored.add(rows(number)))
        one, two = buffer.sample(40, 0.5), restored.sample(40, 0.5)
        for name in one:
            np.testing.assert_array_equal(one[name], two[name])
        np.testing.assert_array_equal(np.isfinite(one["weights"]), True)


@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 8, 13])
def test_a_sum_tree_equals_brute_force(capacity):
    rng = np.random.default_rng(capacity)
    tree, plain = SumTree(capacity), np.zeros(capacity)
    assert tree.total == 0
    for _ in range(15):
        slots = rng.integers(0, capacity, rng.integers(1, capacity + 1))
        values = rng.integers(0, 5, len(slots)).astype(float)
        tree.set(slots, values)
        for slot, value in zip(slots, values, strict=True):
            plain[slot] = value  # of a repeated slot the last one counts
        assert tree.total == plain.sum()
        np.testing.assert_array_equal(tree.leaves(np.arange(capacity)), plain)
        if plain.sum() == 0:
            continue
        totals = np.arange(0, plain.sum(), 0.5)
        expected = [int(np.argmax(np.cumsum(plain) > total)) for total in totals]
        np.testing.assert_array_equal(tree.find(totals), expected)


def test_a_sum_tree_finds_no_empty_leaf_at_the_edges_of_its_range():
    tree = SumTree(5)
    tree.set(np.arange(5), np.array([0.0, 0.3, 0.0, 0.1, 0.0]))
    np.testing.assert_array_equal(tree.find(np.array([0.0, np.nextafter(tree.total, 0)])), [1, 3])


@pytest.mark.parametrize("capacity", [1, 2, 3, 5, 8, 13])
def test_a_min_tree_equals_brute_force(capacity):
    rng = np.random.default_rng(capacity)
    tree, plain = MinTree(capacity), np.full(capacity, np.inf)
    for _ in range(15):
        slots = rng.integers(0, capacity, rng.integers(1, capacity + 1))
        values = rng.random(len(slots))
        tree.set(slots, values)
        for slot, value in zip(slots, values, strict=True):
            plain[slot] = value
        assert tree.total == plain.min()
        np.testing.assert_array_equal(tree.leaves(np.arange(capacity)), plain)
