"""What the updates of an iteration become in its result."""

from __future__ import annotations

import torch

from rlrun.core.learner_stats import LearnerStats


def test_names_say_whether_the_mean_the_last_or_the_largest_value_counts():
    stats = LearnerStats()
    for value in (1.0, 5.0, 3.0):
        stats.add({"loss": value, "cur_lr": value, "policy_lag_max": torch.tensor(value)})
    again = LearnerStats()
    again.load_state_dict(stats.state_dict())
    again.add({"loss": 1.0, "cur_lr": 0.5, "policy_lag_max": torch.tensor(4.0)})
    assert again.take() == {"loss": 2.5, "cur_lr": 0.5, "policy_lag_max": 5.0}
    assert again.take() == {}
