"""Envs of our own: their spaces, their rewards, and the best that there is."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.utils.env_checker import check_env

from rlrun.envs.corridor import Corridor
from rlrun.envs.repeat_after_me import RepeatAfterMe
from rlrun.envs.stateless_cartpole import StatelessCartPole
from rlrun.envs.t_maze import Move, Sight, TMaze


@pytest.mark.parametrize("env_class", [Corridor, RepeatAfterMe, StatelessCartPole, TMaze])
@pytest.mark.filterwarnings("ignore")
def test_they_are_gymnasium_envs(env_class):
    check_env(env_class(), skip_render_check=True)


@pytest.mark.parametrize("env_class", [Corridor, RepeatAfterMe, StatelessCartPole, TMaze])
def test_a_seed_gives_the_same_episodes(env_class):
    def walk() -> list[Any]:
        env = env_class()
        env.action_space.seed(1)
        seen = [env.reset(seed=3)[0]]
        for _ in range(150):
            observation, reward, terminated, truncated, _ = env.step(env.action_space.sample())
            seen += [observation, reward]
            if terminated or truncated:
                seen.append(env.reset()[0])
        return seen

    np.testing.assert_equal(walk(), walk())


def test_stateless_cartpole_is_cartpole_without_velocities():
    env, whole = StatelessCartPole(), CartPoleEnv()
    pairs = [(env.reset(seed=5)[0], whole.reset(seed=5)[0])]
    for action in (0, 1, 1, 0, 1):
        found, expected = env.step(action), whole.step(action)
        assert found[1:] == expected[1:]
        pairs.append((found[0], expected[0]))
    for found, expected in pairs:
        np.testing.assert_array_equal(found, expected[[0, 2]])
        assert env.observation_space.contains(found)


def episode(env: gym.Env, choose: Any, seed: int) -> tuple[float, int]:
    """Return and length of an episode in which `choose` acts on all that was observed."""
    seen = [env.reset(seed=seed)[0]]
    total, length = 0.0, 0
    while True:
        observation, reward, terminated, truncated, _ = env.step(choose(seen))
        total, length = total + reward, length + 1
        if terminated or truncated:
            return total, length
        seen.append(observation)


@pytest.mark.parametrize(("delay", "num_symbols"), [(1, 2), (2, 2), (3, 4)])
def test_repeating_the_right_symbol_gives_all_there_is(delay, num_symbols):
    env = RepeatAfterMe(delay=delay, num_symbols=num_symbols, episode_steps=40)
    total, length = episode(env, lambda seen: seen[-1 - delay] if len(seen) > delay else 0, 1)
    assert (total, length) == (40 - delay, 40)


@pytest.mark.parametrize("num_symbols", [2, 4])
def test_repeating_without_memory_gives_nothing_on_average(num_symbols):
    env = RepeatAfterMe(num_symbols=num_symbols, episode_steps=20_000)
    for choose in (lambda seen: 0, lambda seen: seen[-1]):
        total, _ = episode(env, choose, 1)
        assert abs(total) < 500  # Four standard deviations of 20,000 guesses, or more.


def through_the_maze(seen: list[int], turn: Move) -> Move:
    return turn if seen[-1] == Sight.JUNCTION else Move.WALK


@pytest.mark.parametrize("seed", range(4))
def test_the_maze_rewards_the_turn_that_its_sign_said(seed):
    env = TMaze(corridor_length=7)
    turns = {Sight.LEFT_SIGN: Move.TURN_LEFT, Sight.RIGHT_SIGN: Move.TURN_RIGHT}
    total, length = episode(env, lambda seen: through_the_maze(seen, turns[Sight(seen[0])]), seed)
    assert (total, length) == (1.0, 8)
    wrong = ({Move.TURN_LEFT, Move.TURN_RIGHT} - {turns[Sight(env.sign)]}).pop()
    assert episode(env, lambda seen: through_the_maze(seen, wrong), seed) == (-1.0, 8)
    # Walking on against the wall, and turning in the corridor, until the episode is truncated.
    assert episode(env, lambda seen: Move.WALK, seed) == (pytest.approx(-0.1 * 25), 32)
    assert episode(env, lambda seen: Move.TURN_LEFT, seed) == (pytest.approx(-0.1 * 32), 32)


def test_both_signs_are_shown():
    env = TMaze()
    signs = {env.reset(seed=seed)[0] for seed in range(20)}
    assert signs == {Sight.LEFT_SIGN, Sight.RIGHT_SIGN}


@pytest.mark.parametrize(
    "make",
    [
        lambda: RepeatAfterMe(delay=0),
        lambda: RepeatAfterMe(num_symbols=1),
        lambda: RepeatAfterMe(delay=5, episode_steps=5),
        lambda: TMaze(corridor_length=0),
    ],
)
def test_what_asks_for_no_memory_is_refused(make):
    with pytest.raises(ValueError, match="at least 1"):
        make()


@pytest.mark.parametrize(("action", "expected"), [(1, (1.0, 7)), (0, (14 * 0.001, 14))])
def test_the_corridor_rewards_its_end_and_a_little_its_start(action, expected):
    env = Corridor(corridor_length=7, doors_seed=None)
    assert episode(env, lambda seen: action, seed=1) == pytest.approx(expected)


def test_a_wrong_door_of_the_corridor_leads_to_the_start():
    env = Corridor(corridor_length=3)
    env.reset(seed=1)
    first, second, third = env.doors
    doors = (first, 1 - second, first, second, third)
    steps = [env.step(door) for door in doors]
    assert [place for place, *_ in steps] == [1, 0, 1, 2, 3]
    assert [reward for _, reward, *_ in steps] == [0.0, 0.0, 0.0, 0.0, 1.0]
    assert steps[-1][2:4] == (True, False)


def test_the_doors_of_a_corridor_differ_and_stay():
    doors = Corridor().doors
    assert set(doors) == {0, 1}
    np.testing.assert_array_equal(doors, Corridor().doors)
    assert (doors != Corridor(doors_seed=1).doors).any()
