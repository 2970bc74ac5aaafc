"""Trials are packed so that nothing is given twice, and what can never fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlrun.core.errors import ResourceError
from rlrun.sweep.packing import Room
from rlrun.sweep.trial import Trial, TrialResources


def need(cpus: float = 0.0, gpus: float = 0.0, **other) -> TrialResources:
    return TrialResources(cpus=cpus, driver_gpus=gpus, **other)


def trial(resources: TrialResources) -> Trial:
    return Trial(
        number=3, overrides=["seed=1"], params={}, folder=Path("3"), point=3, resources=resources
    )


def fill(room: Room, resources: TrialResources) -> int:
    """How many trials find room."""
    count = 0
    while not room.lacks(resources):
        room.take(resources)
        count += 1
    return count


def test_six_trials_with_015_of_a_gpu_share_one_and_a_seventh_waits():
    room = Room(8, ["0"])
    assert fill(room, need(1, 0.15)) == 6
    assert room.lacks(need(1, 0.15)) == "needs 0.15 GPU; 0.1 free on GPU 0"


def test_ten_tenths_of_a_gpu_are_a_whole_one():
    assert fill(Room(99, ["0"]), need(1, 0.1)) == 10


def test_a_fraction_has_to_fit_on_one_gpu():
    room = Room(8, ["0", "1"])
    for _ in range(2):
        room.take(need(1, 0.6))
    assert room.lacks(need(1, 0.5)) == "needs 0.5 GPU; 0.4 free on GPU 0, 0.4 on GPU 1"
    assert room.lacks(need(1, 0.4)) == ""


def test_a_small_fraction_goes_where_little_is_free():
    room = Room(8, ["a", "b"])
    first = room.take(need(1, 0.7))
    second = room.take(need(1, 0.3))
    third = room.take(need(1, 1.0))
    assert [room.visible_gpus(place) for place in (first, second, third)] == ["a", "a", "b"]


def test_a_trial_without_a_gpu_sees_none():
    room = Room(8, ["0"])
    assert room.visible_gpus(room.take(need(1))) == ""


def test_each_worker_has_to_fit_on_one_gpu_too():
    room = Room(8, ["0", "1"])
    place = room.take(need(3, 0.5, worker_gpus=(0.5, 0.75)))
    assert place.gpus == (0, 0, 1)
    assert room.used["GPU"] == 1.75


def test_what_is_given_back_is_free_again():
    room = Room(2, ["0"], {"tpu": 1})
    wanted = need(2, 0.5, custom={"tpu": 1})
    place = room.take(wanted)
    assert room.used == {"CPU": 2, "tpu": 1, "GPU": 0.5}
    assert room.lacks(need(1)) == "needs 1 CPU; 0 free"
    room.give_back(place)
    assert room.used == {"CPU": 0, "tpu": 0, "GPU": 0}
    assert room.lacks(wanted) == ""


def test_a_driver_does_with_less_where_its_workers_take_all_cpus():
    workers = ({"CPU": 1.0}, {"CPU": 1.0})
    room = Room(2)
    assert room.lacks(need(3, bundles=workers)) == ""
    place = room.take(need(3, bundles=workers))
    assert room.lacks(need(1)) == "needs 1 CPU; 0 free"
    room.give_back(place)
    assert room.used["CPU"] == 0
    assert room.lacks(need(4, bundles=(*workers, {"CPU": 1.0}))) == "needs 4 CPUs; 2 free"


@pytest.mark.parametrize(
    ("impossible", "reason"),
    [
        (need(3), "needs 3 CPUs; 2 free"),
        (need(1, 0.5, worker_gpus=(0.6,)), "needs 0.5 \\+ 0.6 GPU; 1 free on GPU 0"),
        (need(1, custom={"tpu": 1}), "needs 1 tpu; 0 free"),
    ],
)
def test_a_request_that_can_never_be_met_is_refused_though_others_run(impossible, reason):
    room = Room(2, ["0"])
    room.take(need(2, 1))
    room.refuse_impossible([trial(need(2, 1))])
    with pytest.raises(
        ResourceError, match=f"Trial 3 \\(seed=1\\) can never run here: it {reason}"
    ):
        room.refuse_impossible([trial(impossible)])


def test_a_machine_without_a_gpu_says_so():
    assert Room(2).lacks(need(1, 0.2)) == "needs 0.2 GPU; there is none"
