from __future__ import annotations

import pytest

from rlrun.core.phases import PHASES, SamplingTime, bottleneck, time_by_phase


def sampling(num_workers=1, is_remote=False, slowest_s=0.0, **seconds):
    found = SamplingTime(num_workers, is_remote, slowest_s=slowest_s)
    found.note(seconds, vector_steps=100)
    return found


def without_zeros(phases):
    return {name: pytest.approx(seconds) for name, seconds in phases.items() if seconds}


def test_in_one_process_the_phases_are_what_was_measured():
    timers = {"sample": 6.0, "learn": 2.0, "sync_weights": 0.5, "evaluation": 1.0, "logging": 0.2}
    work = sampling(env_wait=3.0, inference=1.5, raw_obs_processing=0.5, postprocessing=0.7)
    phases = time_by_phase(10.0, timers, work)
    assert set(phases) == set(PHASES)
    # 6 - 3 - 2 - 0.7 = 0.3 s more for joining rows; 10 - 6 - 2 - 0.5 - 1 = 0.5 s for the rest.
    assert without_zeros(phases) == {
        "env": 3.0,
        "inference": 2.0,
        "postprocessing": 1.0,
        "learning": 2.0,
        "transfer": 0.5,
        "evaluation": 1.0,
        "other": 0.5,
        "logging": 0.2,
    }
    assert sum(phases.values()) - phases["logging"] == pytest.approx(10.0)
    assert bottleneck(phases) == "env"


def test_of_workers_that_are_waited_for_their_mean_counts_and_the_slowest_makes_others_idle():
    # Two workers, 4 s and 2 s of work; they were waited for 5 s.
    work = sampling(2, True, slowest_s=4.0, env_wait=4.0, inference=2.0)
    phases = time_by_phase(6.0, {"sample": 5.0, "learn": 1.0}, work)
    assert without_zeros(phases) == {
        "env": 2.0,
        "inference": 1.0,
        "idle": 1.0,
        "transfer": 1.0,
        "learning": 1.0,
    }


def test_what_a_thread_waits_for_is_split_as_its_workers_spent_their_time():
    # The thread waited 6 of 10 s, while 2 workers worked 10 s each.
    work = sampling(2, True, env_wait=15.0, inference=5.0)
    timers = {
        "learner_at_work": 10.0,
        "learner_idle": 6.0,
        "learn": 3.5,
        "sample": 9.9,
        "sync_weights": 1.0,
    }
    phases = time_by_phase(10.2, timers, work)
    assert without_zeros(phases) == {
        "env": 4.5,
        "inference": 1.5,
        "learning": 3.5,
        "transfer": 0.5,
        "other": 0.2,
    }


def test_without_any_worker_message_waiting_is_transfer():
    phases = time_by_phase(3.0, {"sample": 2.0, "learn": 1.0}, SamplingTime(2, True))
    assert without_zeros(phases) == {"transfer": 2.0, "learning": 1.0}


def test_milliseconds_of_one_vector_step_have_the_classic_names():
    assert sampling(env_wait=0.2).per_step_ms() == {"mean_env_wait_ms": pytest.approx(2.0)}
