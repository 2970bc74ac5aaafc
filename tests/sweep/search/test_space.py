"""What of the command line and of YAML becomes the space of a search."""

from __future__ import annotations

import math
import random

import pytest

from rlrun.core.errors import ConfigError
from rlrun.overrides import read
from rlrun.sweep.search.space import Choice, Interval, domain_of, space_of

CHOICES = {"algo": ["a2c", "dqn", "ppo"], "env": ["cartpole", "pendulum"]}


def choices_of(group: str) -> list[str]:
    return CHOICES.get(group, [])


def domain(text: str) -> Choice | Interval:
    return domain_of(read(text), choices_of)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("algo.lr=1e-3,1e-4", Choice((0.001, 0.0001))),
        ("algo.lr=choice(1e-3, 1e-4)", Choice((0.001, 0.0001))),
        ("algo.use_gae=true,false,null", Choice((True, False, None))),
        ("model.fcnet_hiddens=[32],[64,64]", Choice(([32], [64, 64]))),
        ("env.id='a b',c", Choice(("a b", "c"))),
        ("x='1'", Choice(("1",))),
        ("x=int(1.0,2.0)", Choice((1, 2))),
        ("x=range(3)", Choice((0, 1, 2), is_range=True)),
        ("x=range(1, 9, 3)", Choice((1, 4, 7), is_range=True)),
        ("x=range(5, 1, -2)", Choice((5, 3), is_range=True)),
        ("x=range(0, 0.5, 0.1)", Choice((0.0, 0.1, 0.2, 0.3, 0.4), is_range=True)),
        ("x=shuffle(1,2)", Choice((1, 2), is_shuffled=True)),
        ("algo=glob([a*,p*])", Choice(("a2c", "ppo"))),
        ("algo=glob(*,exclude=d*)", Choice(("a2c", "ppo"))),
        ("x=interval(0, 1)", Interval(0.0, 1.0)),
        ("x=tag(log, interval(1e-5, 1e-2))", Interval(1e-5, 1e-2, is_log=True)),
        ("x=int(interval(1, 8))", Interval(1, 8)),
        ("x=tag(log, int(interval(1, 8)))", Interval(1, 8, is_log=True)),
        ("x=3", Choice((3,))),
    ],
)
def test_the_grammar_of_hydra_names_domains(text, expected):
    assert domain(text) == expected


def test_an_interval_is_whole_only_if_it_was_cast():
    assert domain("x=int(interval(1, 8))").is_whole
    assert not domain("x=interval(1, 8)").is_whole


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("algo=glob(z*)", r"algo=glob\(z\*\) matches nothing. Choices of algo: a2c, dqn, ppo."),
        ("algo.lr=glob(*)", "matches nothing. algo.lr is no group."),
        ("x=interval(2, 1)", "the first end of an interval must be below the second one"),
        ("x=tag(log, interval(0, 1))", "an interval on a log scale must be above 0"),
        ("x=tag(lin, interval(0, 1))", "there is no tag 'lin'. Allowed: log."),
        ("x=tag(log, choice(1, 2))", "the tag log is for intervals"),
        ("x=range(3, 1)", "there is nothing in this range"),
        ("x=range(1, 3, 0)", "the step of a range must not be 0"),
    ],
)
def test_what_names_no_values_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        domain(text)


def test_yaml_says_a_space_by_nested_or_dotted_keys_as_text_or_as_lists():
    node = {
        "algo.lr": "tag(log, interval(1e-5, 1e-2))",
        "algo": {"gamma": [0.9, 0.99], "num_epochs": "int(interval(1, 10))"},
        "env": "cartpole, pendulum",
        "seed": 3,
    }
    assert space_of([], node, choices_of) == {
        "algo.lr": Interval(1e-5, 1e-2, is_log=True),
        "algo.gamma": Choice((0.9, 0.99)),
        "algo.num_epochs": Interval(1, 10),
        "env": Choice(("cartpole", "pendulum")),
        "seed": Choice((3,)),
    }


def test_a_list_of_texts_in_yaml_is_a_choice_of_these_texts():
    space = space_of([], {"env.id": ["CartPole-v1", "a b", "true"]}, choices_of)
    assert space == {"env.id": Choice(("CartPole-v1", "a b", "true"))}


def test_the_command_line_takes_the_place_of_what_yaml_says_of_a_key():
    node = {"algo.lr": "1e-3, 1e-4", "algo.gamma": "0.9, 0.99"}
    space = space_of([read("++algo.lr=1,2")], node, choices_of)
    assert space == {"algo.gamma": Choice((0.9, 0.99)), "++algo.lr": Choice((1, 2))}


def test_keys_below_the_node_of_the_space_may_be_typed():
    assert space_of([read("++search.space.algo.lr=interval(1,2)")], {}, choices_of) == {
        "algo.lr": Interval(1.0, 2.0)
    }


def test_keys_that_users_invent_get_the_plus_that_hydra_asks_for():
    space = space_of([], {"stop.timesteps_total": "10, 20"}, choices_of)
    assert space == {"++stop.timesteps_total": Choice((10, 20))}


def test_draws_from_a_log_interval_are_spread_over_orders_of_magnitude():
    interval, generator = Interval(1e-4, 1.0, is_log=True), random.Random(0)
    draws = [interval.draw(generator) for _ in range(4000)]
    assert all(1e-4 <= draw <= 1 for draw in draws)
    counts = [
        sum(math.floor(math.log10(draw)) == power for draw in draws) for power in range(-4, 0)
    ]
    # Each decade gets a quarter of 4000: a standard deviation of 27.
    assert all(abs(count - 1000) < 140 for count in counts)


def test_draws_from_a_plain_interval_have_its_mean():
    interval, generator = Interval(2.0, 4.0), random.Random(0)
    draws = [interval.draw(generator) for _ in range(4000)]
    assert all(2 <= draw <= 4 for draw in draws)
    assert abs(sum(draws) / 4000 - 3) < 0.05


def test_whole_numbers_are_drawn_with_both_ends_each_as_likely():
    interval, generator = Interval(1, 3), random.Random(0)
    draws = [interval.draw(generator) for _ in range(3000)]
    assert set(draws) == {1, 2, 3}
    assert all(isinstance(draw, int) for draw in draws)
    assert all(abs(draws.count(value) - 1000) < 140 for value in (1, 2, 3))


def test_the_middle_of_an_interval_is_halfway_on_its_scale():
    assert Interval(0.0, 1.0).middle == 0.5
    assert Interval(1e-4, 1e-2, is_log=True).middle == pytest.approx(1e-3)
    assert Interval(1, 4).middle == 2


def test_of_many_values_the_ends_stand_for_all():
    assert Choice(tuple(range(100))).corners == (0, 99)
    assert Choice((1, 2, 3)).corners == (1, 2, 3)
