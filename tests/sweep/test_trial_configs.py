"""Configs that are laid over a composed one are those that Hydra would have composed."""

from __future__ import annotations

from typing import Any

import hydra
import pytest

from rlrun.arguments import read_command_line
from rlrun.compose import compose, plain_config
from rlrun.core.errors import ConfigError
from rlrun.overrides import as_hydra_wants
from rlrun.sweep.trial_configs import TrialConfigs, overrides_of

OURS = read_command_line([]).primary


@pytest.mark.parametrize(
    ("common", "values"),
    [
        ([], {"algo.lr": 0.5}),
        ([], {"algo.lr": 1e-05, "seed": 3}),
        ([], {"model.fcnet_hiddens": [32, 16]}),
        ([], {"algo.vf_clip_range": None, "algo.normalize_advantages": False}),
        ([], {"algo": "dqn", "algo.lr": 0.5}),
        ([], {"env": "pendulum", "algo.gamma": 0.7}),
        ([], {"algo": "td3", "env": "pendulum", "algo.tau": 0.1, "exploration": "greedy"}),
        ([], {"tuned": "none", "algo.lr": 0.5}),
        ([], {"++stop.timesteps_total": 100, "++stop.episode_reward_mean": 1.5}),
        ([], {"log_level": "INFO"}),
        (["env=gym"], {"env.id": "Acrobot-v1", "algo.lr": 0.5}),
        (["env=gym", "env.id=CartPole-v1"], {"++env.env_config.size": 5}),
        (["algo.gamma=0.5"], {"algo.gamma": 0.6}),
        (["stop.timesteps_total=7"], {"++stop.timesteps_total": 8}),
        (["algo=rainbow"], {"++algo.lr": 0.5}),
        (["algo._target_=rlrun.algos.a2c.A2C"], {"++algo.lr": 0.5}),
        ([], {"algo._target_": "rlrun.algos.a2c.A2C"}),
        (["algo.minibatch_size=${algo.train_batch_size}"], {"algo.train_batch_size": 64}),
        ([], {"algo.minibatch_size": "${algo.train_batch_size}"}),
        ([], {"model.fcnet_hiddens": ["${algo.minibatch_size}", 64]}),
        ([], {"debug": True}),
        (["debug=true"], {"algo.minibatch_size": 128}),
        ([], {"+exploration@exploration.sub_exploration": "random", "exploration": "rnd"}),
        ([], {"evaluation.interval": 3, "++evaluation.config.explore": True}),
        ([], {"logger": "none", "resources.num_workers": 2}),
        ([], {"input": "somewhere", "objective": "episode_len_mean"}),
    ],
)
def test_a_config_is_what_hydra_would_compose(common: list[str], values: dict[str, Any]):
    common = as_hydra_wants(common)
    configs = TrialConfigs(OURS, common)
    configs.plain({key: value for key, value in values.items() if "." not in key})
    expected = plain_config(compose([*common, *overrides_of(values)]))
    assert configs.plain(values) == expected
    assert configs.plain(values) == expected, "it was changed by having been given away"


def test_hydra_composes_once_for_each_set_of_choices(monkeypatch):
    composed = []
    real = hydra.compose

    def counting(name: str, overrides: list[str], **kwargs: Any) -> Any:
        composed.append(overrides)
        return real(name, overrides, **kwargs)

    monkeypatch.setattr(hydra, "compose", counting)
    configs = TrialConfigs(OURS, ["stop={}"])
    for algo in ("ppo", "a2c"):
        for lr in range(1, 50):
            assert configs.plain({"algo": algo, "algo.lr": lr})["algo"]["lr"] == lr
    assert composed == [["stop={}", "algo=ppo"], ["stop={}", "algo=a2c"]]


def test_values_are_checked_as_for_a_run_and_told_with_the_full_key():
    configs = TrialConfigs(OURS, [])
    plain, parts = configs.read({"algo.gamma": 0.5})
    assert plain["algo"]["gamma"] == parts.trainer.worker.algorithm.gamma == 0.5
    with pytest.raises(ConfigError, match=r"algo\.gamma=2\.0 must be between 0 and 1"):
        configs.read({"algo.gamma": 2.0})
    with pytest.raises(ConfigError, match=r"algo\.gamma=big must be a number"):
        configs.read({"algo.gamma": "big"})
    with pytest.raises(ConfigError, match=r"no key 'algo\.gama'. Did you mean algo\.gamma"):
        configs.read({"algo.gama": 0.5})
    with pytest.raises(ConfigError, match=r"algo=dqnn: .* Did you mean dqn"):
        configs.read({"algo": "dqnn"})
    assert configs.read({"algo.gamma": 0.6})[0]["algo"]["gamma"] == 0.6


def test_a_folder_may_be_named_by_what_differs():
    configs = TrialConfigs(OURS, [])
    assert configs.subdir(3, {"algo.lr": 0.5}, "${hydra:job.num}_lr${algo.lr}") == "3_lr0.5"
