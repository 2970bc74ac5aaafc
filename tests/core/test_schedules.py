from __future__ import annotations

import math

import pytest

from rlrun.core.errors import ConfigError
from rlrun.core.schedules import (
    ConstantSchedule,
    ExponentialSchedule,
    LinearSchedule,
    PiecewiseSchedule,
    Schedule,
    check_schedule_range,
    make_schedule,
)


@pytest.mark.parametrize("timestep", [0, 1, 10**9])
def test_a_number_is_the_same_at_every_timestep(timestep):
    assert make_schedule(0.25)(timestep) == 0.25
    assert make_schedule(3)(timestep) == 3
    assert ConstantSchedule(value=0.25)(timestep) == 0.25


@pytest.mark.parametrize(
    ("timestep", "value"),
    [
        (0, 1.0),
        (99, 1.0),
        (100, 1.0),
        (150, 0.75),
        (200, 0.5),
        (400, 0.3),
        (600, 0.1),
        (10**9, 0.1),
    ],
)
def test_points_are_joined_by_lines_and_constant_outside(timestep, value):
    points = [[100, 1.0], [200, 0.5], [600, 0.1]]
    assert make_schedule(points)(timestep) == pytest.approx(value)
    assert PiecewiseSchedule(points=points)(timestep) == pytest.approx(value)


def test_one_point_is_a_constant():
    schedule = make_schedule([[50, 0.3]])
    assert [schedule(timestep) for timestep in (0, 50, 100)] == [0.3, 0.3, 0.3]


class Quarter(Schedule):
    def __call__(self, timestep):
        return timestep / 4


def test_a_schedule_is_taken_as_it_is():
    assert make_schedule(Quarter())(8) == 2.0
    check_schedule_range("algo.lr", Quarter(), low=0.0)
    with pytest.raises(ConfigError, match="A schedule is a number"):
        make_schedule(lambda timestep: timestep / 4)
    linear = LinearSchedule(initial=1.0, final=0.0, timesteps=10)
    assert make_schedule(linear)(5) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("timestep", "value"), [(0, 2.0), (25, 1.75), (50, 1.5), (100, 1.0), (101, 1.0), (10**9, 1.0)]
)
def test_a_linear_schedule_falls_evenly_and_stops_at_its_end(timestep, value):
    schedule = LinearSchedule(initial=2.0, final=1.0, timesteps=100)
    assert schedule(timestep) == pytest.approx(value)


def test_a_linear_schedule_can_rise():
    assert LinearSchedule(initial=0.4, final=1.0, timesteps=10)(5) == pytest.approx(0.7)


def test_an_exponential_schedule_decays_by_its_rate_every_period_down_to_the_minimum():
    schedule = ExponentialSchedule(initial=8.0, decay_rate=0.5, decay_timesteps=100, minimum=1.5)
    assert schedule(0) == 8.0
    assert schedule(50) == pytest.approx(8 / math.sqrt(2))
    assert schedule(100) == pytest.approx(4.0)
    assert schedule(200) == pytest.approx(2.0)
    assert schedule(300) == 1.5  # 1.0 would lie below
    free = ExponentialSchedule(initial=8.0, decay_rate=0.5, decay_timesteps=100)
    assert free(300) == pytest.approx(1.0)
    assert free(10**6) == pytest.approx(0.0)


@pytest.mark.parametrize(
    "points",
    [
        [],
        [[0, 1.0], [0, 0.5]],
        [[100, 1.0], [50, 0.5]],
        [[0, 1.0, 2.0]],
        [[0]],
        [[0, 1.0], 7],
        [["soon", 1.0]],
    ],
)
def test_points_that_do_not_rise_or_are_no_pairs_are_config_errors(points):
    with pytest.raises(ConfigError):
        make_schedule(points)


@pytest.mark.parametrize("value", ["fast", None, {"initial": 1.0}])
def test_what_is_no_schedule_is_a_config_error(value):
    with pytest.raises(ConfigError):
        make_schedule(value)


@pytest.mark.parametrize("timesteps", [0, -5])
def test_a_linear_schedule_needs_a_duration(timesteps):
    with pytest.raises(ConfigError):
        LinearSchedule(initial=1.0, final=0.0, timesteps=timesteps)


@pytest.mark.parametrize("decay_timesteps", [0, -5])
def test_an_exponential_schedule_needs_a_duration(decay_timesteps):
    with pytest.raises(ConfigError):
        ExponentialSchedule(initial=1.0, decay_rate=0.5, decay_timesteps=decay_timesteps)
