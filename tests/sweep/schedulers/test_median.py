from __future__ import annotations

from simulated_sweep import make_trial, set_up

from rlrun.sweep.schedulers.median import MedianStopping


def told(scheduler: MedianStopping, number: int, time: int, reward: float) -> str:
    result = {"training_iteration": time, "reward": reward}
    return type(scheduler.on_result(make_trial(number, {}), result)).__name__


def test_a_trial_stops_whose_best_is_below_the_median_of_others_running_means() -> None:
    rule = MedianStopping(grace_period=2, min_samples_required=3)
    set_up(rule)
    for number, rewards in enumerate([[0.0, 4.0], [2.0, 4.0], [4.0, 6.0]]):
        for time, reward in enumerate(rewards, start=1):
            assert told(rule, number, time, reward) == "Continue"
    # Running means at 2 are 2, 3 and 5; their median is 3.
    assert told(rule, 3, 1, 0.0) == "Continue"  # within the grace period
    assert told(rule, 3, 2, 2.9) == "Stop"
    assert told(rule, 4, 1, 3.0) == "Continue"
    assert told(rule, 4, 2, 1.0) == "Continue"  # its best, 3, is not worse than the median
    # Now means at 2 are 2, 3, 5, 1.45 and 2.
    assert told(rule, 5, 1, 0.0) == "Continue"
    assert told(rule, 5, 2, 2.0) == "Continue"


def test_too_few_others_that_came_as_far_stop_nobody() -> None:
    rule = MedianStopping(grace_period=0, min_samples_required=2)
    set_up(rule)
    told(rule, 0, 1, 10.0)
    told(rule, 0, 5, 10.0)
    told(rule, 1, 3, 10.0)
    assert told(rule, 2, 4, 0.0) == "Continue"
    assert told(rule, 3, 3, 0.0) == "Stop"


def test_times_lived_again_after_a_failure_count_once() -> None:
    rule = MedianStopping(grace_period=0, min_samples_required=1)
    set_up(rule)
    for time, reward in [(1, 1.0), (2, 3.0), (1, 9.0), (2, 9.0), (3, 5.0)]:
        told(rule, 0, time, reward)
    assert rule._curves[0].mean_until(3) == 3.0
