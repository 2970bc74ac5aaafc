"""Making envs from configuration, and refusing what cannot work."""

from __future__ import annotations

import pytest

from rlrun.core.errors import ConfigError
from rlrun.workers.envs import EnvConfig, make_env, make_native_vector_env

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
