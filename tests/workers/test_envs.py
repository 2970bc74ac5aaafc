"""Making envs from configuration, and refusing what cannot work."""

from __future__ import annotations

import re

import gymnasium as gym
import numpy as np
import pytest
from toy_envs import CountingEnv

from rlrun.core.errors import ConfigError
from rlrun.run import make_trainer
from rlrun.workers import atari
from rlrun.workers.envs import EnvConfig, make_env, make_native_vector_env, require_env

COUNTING = "toy_envs.CountingEnv"

# Running statistics


@pytest.mark.parametrize(
    ("wrapper", "path"),
    [
        ("NormalizeObservation", "gymnasium.wrappers.NormalizeObservation"),
        ("NormalizeReward", "gymnasium.wrappers.NormalizeReward"),
    ],
)
def test_a_wrapper_with_running_statistics_is_refused_with_what_to_use(wrapper, path):
    wrappers = [{"_target_": "gymnasium.wrappers.FlattenObservation"}, {"_target_": path}]
    with pytest.raises(ConfigError) as caught:
        make_env(EnvConfig(id=COUNTING, wrappers=wrappers))
    assert str(caught.value).startswith(
        f"env.wrappers[1]={path}: {wrapper} keeps running statistics, which evaluation, "
    )
    assert "env.observation_filter=MeanStdFilter" in str(caught.value)


def test_a_wrapper_that_refuses_its_values_is_named():
    path = "gymnasium.wrappers.ClipReward"
    with pytest.raises(ConfigError, match=r"env\.wrappers\[0\]=.*ClipReward.*cannot be None"):
        make_env(EnvConfig(id=COUNTING, wrappers=[{"_target_": path}]))


@pytest.mark.parametrize(
    ("env_id", "owner"),
    [
        ("toy_envs.SelfNormalisingEnv", "NormalizeObservation"),
        ("toy_envs.EnvAroundStatistics", "NormalizeReward"),
        ("toy_envs:toy/Normalised-v0", "NormalizeObservation"),
    ],
)
def test_running_statistics_within_an_env_are_found(env_id, owner):
    with pytest.raises(ConfigError, match=rf"^env\.id='{env_id}': {owner} keeps running"):
        make_env(EnvConfig(id=env_id))


def test_running_statistics_within_a_native_env_are_found():
    config = EnvConfig(
        id="toy_envs:toy/Native-v0",
        vectorization="native",
        env_config={"env": "SelfNormalisingEnv", "autoreset_mode": "SameStep"},
    )
    with pytest.raises(ConfigError, match=r"Native-v0': NormalizeObservation keeps running"):
        make_native_vector_env(config, 2)


@pytest.mark.parametrize(
    "wrapper",
    [
        {"_target_": "gymnasium.wrappers.FrameStackObservation", "stack_size": 2},
        {"_target_": "gymnasium.wrappers.RecordEpisodeStatistics"},
        {"_target_": "gymnasium.wrappers.TimeLimit", "max_episode_steps": 9},
        {"_target_": "gymnasium.wrappers.DelayObservation", "delay": 2},
        {"_target_": "gymnasium.wrappers.StickyAction", "repeat_action_probability": 0.2},
    ],
)
def test_a_wrapper_that_begins_anew_with_each_episode_is_welcome(wrapper):
    env = make_env(EnvConfig(id=COUNTING, wrappers=[wrapper]))
    assert type(env).__name__ == wrapper["_target_"].rsplit(".", 1)[1]


# How long episodes may last


def length_of_an_episode(env: gym.Env, most: int = 2000) -> int:
    """Steps of an episode whose actions are all zero; `most` if it does not end."""
    action = np.zeros(env.action_space.shape, env.action_space.dtype)[()]
    env.reset(seed=0)
    for steps in range(1, most + 1):
        _, _, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            return steps
    return most


@pytest.mark.parametrize(
    ("env_id", "package", "own_limit"),
    [("Pendulum-v1", None, 200), ("MountainCar-v0", None, 200), ("HalfCheetah-v5", "mujoco", 1000)],
)
@pytest.mark.parametrize("horizon", [None, 20, 1200, -1])
def test_the_horizon_shortens_lengthens_and_lifts_a_registered_limit(
    env_id, package, own_limit, horizon
):
    if package is not None:
        pytest.importorskip(package)
    expected = {None: own_limit, -1: 1500}.get(horizon, horizon)
    env = make_env(EnvConfig(id=env_id, horizon=horizon))
    assert length_of_an_episode(env, most=1500) == expected


@pytest.mark.parametrize(("horizon", "expected"), [(None, 500), (700, 700), (-1, 900)])
def test_the_horizon_of_a_native_env_is_lifted_alike(horizon, expected):
    config = EnvConfig(id="CartPole-v1", vectorization="native", horizon=horizon)
    envs = make_native_vector_env(config, 1)
    envs.reset(seed=0)
    for steps in range(1, 901):
        envs.unwrapped.state[:] = 0.0  # It never falls.
        _, _, terminated, truncated, _ = envs.step(np.array([steps % 2]))
        assert not terminated[0]
        if truncated[0]:
            break
    assert steps == expected


def test_a_class_has_no_limit_but_the_horizon():
    assert length_of_an_episode(make_env(EnvConfig(id=COUNTING, horizon=-1)), 300) == 300
    assert length_of_an_episode(make_env(EnvConfig(id=COUNTING, horizon=7))) == 7


def test_a_limit_that_the_horizon_cannot_lift_is_named():
    config = {"id": "toy_envs.SelfLimitingEnv", "env_config": {"limit": 50}}
    assert length_of_an_episode(make_env(EnvConfig(**config, horizon=20))) == 20
    for horizon in (51, -1):
        with pytest.raises(ConfigError, match=rf"^env\.horizon={horizon} cannot .* after 50 steps"):
            make_env(EnvConfig(**config, horizon=horizon))


def test_gymnasiums_own_word_for_the_horizon_is_translated():
    with pytest.raises(ConfigError) as caught:
        EnvConfig(id="CartPole-v1", env_config={"max_episode_steps": 9})
    assert str(caught.value) == (
        "env.env_config.max_episode_steps=9 is said by env.horizon=9 here, for every env alike."
    )
    EnvConfig(id="my_module.MyEnv", env_config={"max_episode_steps": 9})  # Its own affair.


def test_a_vector_implementation_without_a_limit_is_named():
    config = EnvConfig(
        id="toy_envs:toy/Native-v0",
        vectorization="native",
        horizon=9,
        env_config={"env": "DictObsEnv", "autoreset_mode": "SameStep"},
    )
    with pytest.raises(ConfigError, match=r"^env\.horizon=9: .*Native-v0' takes no limit.*sync"):
        make_native_vector_env(config, 2)


@pytest.mark.parametrize("horizon", [0, -2])
def test_a_horizon_is_at_least_one_step(horizon):
    with pytest.raises(ConfigError, match=rf"env\.horizon={horizon} must be at least 1"):
        EnvConfig(id=COUNTING, horizon=horizon)


# Atari


@pytest.mark.parametrize("frameskip", [None, 2])
def test_the_horizon_of_atari_counts_env_steps_not_frames(frameskip):
    pytest.importorskip("ale_py")
    skip = {} if frameskip is None else {"frameskip": frameskip}
    config = EnvConfig(
        id="ALE/Pong-v5", horizon=15, vectorization="native", env_config={**skip, "noop_max": 30}
    )
    envs = make_native_vector_env(config, 2)
    envs.reset(seed=3)
    ends = [envs.step(np.zeros(2, np.int64))[3].tolist() for _ in range(15)]
    assert ends == [[False, False]] * 14 + [[True, True]]
    envs.close()


def test_the_horizon_of_one_atari_env_counts_env_steps_too():
    pytest.importorskip("ale_py")
    assert length_of_an_episode(make_env(EnvConfig(id="ALE/Pong-v5", horizon=15))) == 15


@pytest.mark.parametrize("vectorization", ["sync", "native"])
def test_two_limits_of_an_atari_episode_are_refused(vectorization):
    pytest.importorskip("ale_py")
    config = EnvConfig(
        id="ALE/Pong-v5",
        horizon=15,
        vectorization=vectorization,
        env_config={"max_num_frames_per_episode": 80},
    )
    words = r"env\.horizon=15 and env\.env_config\.max_num_frames_per_episode=80"
    with pytest.raises(ConfigError, match=words):
        make_env(config) if vectorization == "sync" else make_native_vector_env(config, 1)


def test_the_screen_shows_the_game_that_is_played(monkeypatch):
    pytest.importorskip("ale_py")
    pygame = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr(atari, "FRAMES_PER_SECOND", 1e5)
    settings = {"noop_max": 30, "repeat_action_probability": 0.25, "img_height": 210}
    shown = {**settings, "img_width": 160, "grayscale": False, "stack_num": 1}
    config = EnvConfig(
        id="ALE/Breakout-v5",
        horizon=40,
        vectorization="native",
        env_config={**shown, "render_mode": "human"},
    )
    # Here the policy sees what the console shows, so that the window can be compared with it.
    envs = make_native_vector_env(config, 1)
    screens = [envs.reset(seed=3)[0]]
    rng = np.random.default_rng(0)
    for _ in range(100):
        window = pygame.surfarray.array3d(envs.window)[1 :: atari.ZOOM, 1 :: atari.ZOOM]
        np.testing.assert_array_equal(window.swapaxes(0, 1), screens[-1][0, 0])
        screens.append(envs.step(rng.integers(4, size=1))[0])
    assert len(np.unique(np.concatenate(screens), axis=0)) > 20
    envs.close()


def test_an_env_with_nothing_but_a_vector_implementation_says_so():
    with pytest.raises(ConfigError, match=r"'toy/Native-v0' has only a vector implementation"):
        make_env(EnvConfig(id="toy/Native-v0"))


# What is named


@pytest.mark.parametrize("env_id", ["my/Own-v0", "Own-v0", "CartPol-v1"])
def test_an_id_that_is_not_registered_says_how_other_processes_know_it(env_id):
    with pytest.raises(ConfigError, match=rf"unless its module .*env\.id=my_module:{env_id}\.$"):
        make_env(EnvConfig(id=env_id))


def test_an_id_with_its_module_is_registered_by_importing_it():
    assert make_env(EnvConfig(id="toy_envs:toy/Counting-v0")).action_space.n == 2


def test_a_version_that_is_not_there_is_no_id_of_your_own():
    with pytest.raises(ConfigError, match="Did you mean CartPole-v1") as caught:
        make_env(EnvConfig(id="CartPole-v9"))
    assert "my_module" not in str(caught.value)


def test_an_env_class_stands_for_its_import_path():
    with make_trainer("ppo", env=CountingEnv, seed=1) as trainer:
        assert trainer.config.worker.env.id == "toy_envs.CountingEnv"


def test_a_class_that_no_other_process_can_import_and_an_object_are_refused():
    class Local(CountingEnv):
        pass

    with pytest.raises(ConfigError, match=r"Local is made in a function .*env='my_module\.Local'"):
        make_trainer("ppo", env=Local)
    with pytest.raises(ConfigError, match=r"env is an object .*env='my_module\.CountingEnv'"):
        make_trainer("ppo", env=CountingEnv())  # type: ignore[arg-type]


def test_a_value_with_an_equals_sign_says_how_it_is_quoted():
    override = "env.env_config.rewards=a=b"
    with pytest.raises(ConfigError) as caught:
        make_trainer("ppo", env="toy_envs.CountingEnv", overrides=[override])
    assert str(caught.value).startswith(f"{override!r} cannot be read")
    assert "needs quotes of its own: \"'a=b'\"" in str(caught.value)
    quoted = "env.env_config.rewards='a=b'"
    with make_trainer("ppo", env="toy_envs.CountingEnv", overrides=[quoted]) as trainer:
        assert trainer.config.worker.env.env_config == {"rewards": "a=b"}


@pytest.mark.parametrize(
    ("env_id", "env_config"),
    [
        ("CartPole", {}),
        ("toy_envs:toy/Tasks-v0", {}),
        ("toy_envs.CountingEnv", {"terminates_at": 3}),
        ("FrozenLake-v1", {"is_slippery": False, "map_name": "8x8"}),
        ("HalfCheetah-v5", {"forward_reward_weight": 2.0, "render_mode": None}),
        ("toy_envs:toy/Unreadable-v0", {"terminates_at": 3}),
    ],
)
def test_an_env_that_there_is_is_not_refused_before_it_is_made(env_id, env_config):
    require_env(EnvConfig(id=env_id, env_config=env_config))


@pytest.mark.parametrize(
    ("env_id", "env_config", "words"),
    [
        ("Cartpole-v1", {}, "Did you mean: `CartPole`"),
        ("CartPole-v9", {}, "CartPole-v9"),
        ("nowhere:toy/Tasks-v0", {}, "No module named 'nowhere'"),
        ("toy_envs.CountingEnv", {"ends_at": 3}, "CountingEnv: got an unexpected keyword argument"),
        (
            "FrozenLake-v1",
            {"slippery": False},
            "env.env_config.slippery=False: FrozenLake",
        ),
    ],
)
def test_an_env_that_cannot_be_made_is_refused_before_it_is_made(env_id, env_config, words):
    with pytest.raises(ConfigError, match=re.escape(words)):
        require_env(EnvConfig(id=env_id, env_config=env_config))
