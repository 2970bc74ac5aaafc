"""What the updates of an iteration become in its result."""

from __future__ import annotations

import weakref

import numpy as np
import torch

from rlrun.core.learner_stats import FOLD_AFTER, LearnerStats, policy_lag


def test_names_say_whether_the_mean_the_last_or_the_largest_value_counts():
    stats = LearnerStats()
    for value in (1.0, 5.0, 3.0):
        stats.add({"loss": value, "cur_lr": value, "policy_lag_max": torch.tensor(value)})
    again = LearnerStats()
    again.load_state_dict(stats.state_dict())
    again.add({"loss": 1.0, "cur_lr": 0.5, "policy_lag_max": torch.tensor(4.0)})
    assert again.take() == {"loss": 2.5, "cur_lr": 0.5, "policy_lag_max": 5.0}
    assert again.take() == {}


def test_arrays_of_any_shapes_give_mean_least_and_largest_entry():
    stats = LearnerStats()
    stats.add({"q": torch.tensor([[1.0, 2.0], [3.0, 4.0]])})
    stats.add({"q": torch.tensor([-5.0])})
    stats.add({"q": torch.tensor([[1.0], [1.0], [0.0]])})
    assert stats.take() == {"mean_q": 0.875, "min_q": -5.0, "max_q": 4.0}


def test_numbers_of_many_updates_are_summed_up_and_not_kept():
    stats = LearnerStats()
    noted = torch.ones(4)
    kept = weakref.ref(noted)
    stats.add({"td_error": noted})
    del noted
    for _ in range(FOLD_AFTER):
        stats.add({"td_error": torch.full((4,), 3.0)})
    assert kept() is None
    mean = (1 + 3 * FOLD_AFTER) / (1 + FOLD_AFTER)
    assert stats.take() == {"mean_td_error": mean, "min_td_error": 1.0, "max_td_error": 3.0}


def test_the_lag_of_rows_that_can_only_be_read(recwarn):
    sampled_at_update = np.array([3, 5, 5])
    sampled_at_update.setflags(write=False)  # As Ray's object store gives them.
    lag = policy_lag(7, sampled_at_update)
    assert (float(lag["policy_lag_mean"]), int(lag["policy_lag_max"])) == (8 / 3, 4)
    assert not recwarn.list
