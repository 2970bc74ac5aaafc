"""What becomes of single keys."""

from __future__ import annotations

from typing import Any

import pytest

from rlrun.config import SYNONYMS
from rlrun.core.errors import ConfigError
from rlrun.rllib_import.files import overrides_of
from rlrun.rllib_import.keys import EXPERIMENT_KEYS, KEYS, Converted, Left, Refused
from rlrun.rllib_import.translate import Translation, translate


def translated(
    run: str = "PPO", env: Any = "CartPole-v1", config: dict[str, Any] | None = None, **rest: Any
) -> Translation:
    return translate("test", {"run": run, "env": env, "config": config or {}, **rest})


def values(*arguments: Any, **named: Any) -> dict[str, Any]:
    return dict(each.split("=", 1) for each in overrides_of(translated(*arguments, **named)))


def test_keys_are_called_as_the_field_calls_them() -> None:
    found = values(config={"lambda": 0.9, "clip_param": 0.1, "num_sgd_iter": 3, "kl_coeff": 0.5})
    assert found["algo.gae_lambda"] == "0.9"
    assert found["algo.clip_range"] == "0.1"
    assert found["algo.num_epochs"] == "3"
    assert found["algo.use_kl_loss"] == "true"
    assert found["algo.kl_coeff"] == "0.5"
    # The same key is another one where the algorithm has another.
    assert values("IMPALA", config={"num_sgd_iter": 3})["algo.num_sgd_iter"] == "3"


def test_what_a_file_leaves_out_is_as_rllib_has_it() -> None:
    dqn = values("DQN")
    assert dqn["algo.lr"] == "0.0005"
    assert dqn["algo.buffer_size"] == "50000"
    assert dqn["algo.prioritized_replay_alpha"] == "0.6"
    assert (dqn["exploration"], dqn["exploration.final_epsilon"]) == ("epsilon_greedy", "0.02")
    assert values("PPO")["resources.num_workers"] == "2"


def test_an_exploration_of_another_type_brings_none_of_the_old_ones_values() -> None:
    config = {"exploration_config": {"type": "SoftQ", "temperature": 0.5}}
    found = values("DQN", config=config)
    assert found["exploration"] == "soft_q"
    assert [key for key in found if key.startswith("exploration.")] == ["exploration.temperature"]
    config = {"exploration_config": {"epsilon_timesteps": 7}}
    assert values("DQN", config=config)["exploration.final_epsilon"] == "0.02"


def test_a_schedule_takes_the_place_of_the_constant() -> None:
    found = values("A2C", config={"lr_schedule": [[0, 1e-3], [100, 1e-4]], "lr": 5.0})
    assert found["algo.lr"] == "[[0, 0.001], [100, 0.0001]]"


def test_the_units_of_other_counts_are_ours() -> None:
    # R2D2 counts steps in RLlib, sequences here; 0 is every update.
    assert values("R2D2", config={"model": {"max_seq_len": 10, "use_lstm": True}})[
        "algo.train_batch_size"
    ] == str(1280 // 10)
    assert values("DDPG").get("algo.target_network_update_freq", "1") == "1"
    # DDPPO's -1 is what a worker samples: 100 steps of 5 envs.
    assert values("DDPPO")["algo.train_batch_size"] == "500"


def test_grids_are_lists_and_samples_are_seeds() -> None:
    found = values(
        config={
            "lr": {"grid_search": [1e-3, 1e-4]},
            "model": {"fcnet_hiddens": {"grid_search": [[32], [64, 64]]}},
        },
        num_samples=4,
    )
    assert found["algo.lr"] == "0.001,0.0001"
    assert found["model.fcnet_hiddens"] == "[32],[64, 64]"
    assert found["sweep.seeds"] == "4"


def test_a_grid_over_envs_is_one_over_choices_or_ids() -> None:
    assert values(env={"grid_search": ["HalfCheetah-v2", "Ant-v3"]})["env"] == "halfcheetah,ant"
    found = values(env={"grid_search": ["a.B", "c.D"]})
    assert (found["env"], found["env.id"]) == ("gym", "a.B,c.D")
    with pytest.raises(ConfigError, match="test: env: grid_search over cartpole, gym"):
        translated(env={"grid_search": ["CartPole-v1", "c.D"]})


@pytest.mark.parametrize(
    ("name", "choice", "note"),
    [
        ("CartPole-v1", "cartpole", ""),
        ("CartPole-v0", "cartpole", "CartPole-v1 with episodes of 200 steps"),
        ("PongNoFrameskip-v4", "pong", "ALE/Pong-v5"),
        ("BreakoutDeterministic-v4", "breakout", "ALE/Breakout-v5"),
        ("ALE/Pong-v5", "pong", ""),
        ("HalfCheetah-v2", "halfcheetah", "HalfCheetah-v5"),
        ("Pendulum-v0", "pendulum", "Pendulum-v1"),
        ("ray.rllib.examples.env.stateless_cartpole.StatelessCartPole", "stateless_cartpole", ""),
        ("my_package.MyEnv", "gym", "my_package.MyEnv"),
    ],
)
def test_envs_are_called_as_here_with_a_line_that_says_what_changed(
    name: str, choice: str, note: str
) -> None:
    translation = translated(env=name)
    assert translation.values["env"] == choice
    assert any(note in each for each in translation.notes) or not note


def test_a_game_without_a_choice_of_its_own_is_of_the_family() -> None:
    found = values("DQN", env="GravitarNoFrameskip-v4")
    assert (found["env"], found["env.id"]) == ("atari", "ALE/Gravitar-v5")
    assert found["model"] == "cnn"


def test_evaluation_has_its_own_config() -> None:
    found = values(
        "SAC",
        env="Pendulum-v1",
        config={
            "evaluation_interval": 5,
            "evaluation_num_episodes": 3,
            "evaluation_config": {"env_config": {"g": 5.0}, "horizon": 50, "lr": 1.0},
        },
    )
    assert found["evaluation.interval"] == "5"
    assert found["evaluation.duration"] == "3"
    assert found["evaluation.config.explore"] == "true"  # as RLlib has it, where nothing is said
    assert found["evaluation.config.env.env_config.g"] == "5.0"
    assert found["evaluation.config.env.horizon"] == "50"
    assert "evaluation.config.algo.lr" not in found


def test_values_that_another_one_switches_off_are_left_out_and_named() -> None:
    translation = translated("APPO", config={"vtrace": True, "lambda": 0.1})
    assert "algo.gae_lambda" not in translation.values
    assert any("config.lambda" in note and "algo.vtrace=True" in note for note in translation.notes)


def test_what_a_converted_key_sets_is_named_where_it_has_no_effect() -> None:
    notes = translated("APPO", config={"use_kl_loss": False, "kl_coeff": 0.5}).notes
    assert any("config.kl_coeff" in note and "algo.use_kl_loss=False" in note for note in notes)
    notes = translated(config={"model": {"lstm_use_prev_action_reward": True}}).notes
    assert any("config.model.lstm_use_prev_action_reward" in note for note in notes)


def test_an_exploration_of_evolution_strategies_is_named_as_left_out() -> None:
    notes = translated("ES", config={"exploration_config": {"type": "Random"}}).notes
    assert any("config.exploration_config.type is left out" in note for note in notes)


def test_keys_of_an_env_that_its_counterpart_has_not_are_named() -> None:
    config = {"env_config": {"repeat_delay": 2, "size": 5}}
    translation = translated(env="repeat_after_me", config=config)
    assert translation.values["env.env_config.delay"] == 2
    assert any("nothing like size" in note for note in translation.notes)


def test_what_is_not_there_may_be_said_to_be_absent() -> None:
    config = {"multiagent": {}, "callbacks": None, "env_task_fn": None, "fake_sampler": False}
    assert translated(config=config, restore=None).values == translated().values
    empty = {"model": None, "exploration_config": None, "evaluation_config": None}
    assert translated(config=empty).values == translated().values


def test_retries_without_end_are_many() -> None:
    assert values(num_samples=2, max_failures=3)["sweep.max_failures"] == "3"
    assert int(values(num_samples=2, max_failures=-1)["sweep.max_failures"]) > 1000


def test_targets_that_follow_by_updates_are_named() -> None:
    config = {"target_network_update_freq": 256}
    said = "target_network_update_freq=256: targets follow by updates here"
    assert any(said in note for note in translated("SAC", "Pendulum-v1", config).notes)
    assert not any(said in note for note in translated("DQN", config=config).notes)


@pytest.mark.parametrize(
    ("run", "config", "expected"),
    [
        # Rounds of 3 workers with 4 steps of 2 envs are 24 env steps, with an update each.
        ("SAC", {"num_workers": 3, "rollout_fragment_length": 4, "num_envs_per_worker": 2}, "11"),
        # 8 rows learned per row sampled, 32 an update: one for each 4 env steps.
        ("SAC", {"training_intensity": 8, "train_batch_size": 32}, "64"),
        ("DDPG", {"tau": 1.0}, "256"),
        ("APEX_DDPG", {"train_batch_size": 64}, "4"),  # It counts rows learned.
    ],
)
def test_targets_that_follow_by_updates_do_so_as_often(run, config, expected) -> None:
    found = values(run, "Pendulum-v1", {"target_network_update_freq": 256, **config})
    assert found["algo.target_network_update_freq"] == expected


def test_targets_cannot_follow_by_updates_of_rounds_of_any_length() -> None:
    config = {"target_network_update_freq": 256, "batch_mode": "complete_episodes"}
    with pytest.raises(ConfigError, match="target_network_update_freq=256: targets follow by"):
        translated("SAC", "Pendulum-v1", config)


@pytest.mark.parametrize(("given", "expected"), [(0, "1"), (7, "7")])
def test_data_are_shuffled_only_where_rllib_is_told_to(given, expected) -> None:
    config = {"shuffle_buffer_size": given}
    assert values("BC", config={"input": "/d", **config})["shuffle_buffer_size"] == expected
    assert "shuffle_buffer_size" not in values("PPO", config=config)


def test_a_grid_of_gpus_that_a_learner_can_have_needs_no_note() -> None:
    notes = translated(config={"num_gpus": {"grid_search": [0, 1]}}).notes
    assert not any("num_gpus" in note for note in notes)


def test_data_may_come_from_a_data_set_or_from_several_paths() -> None:
    assert values("BC", config={"input": "/data/out"})["input"] == '"/data/out"'
    config = {"input": "dataset", "input_config": {"format": "json", "paths": "/data/out"}}
    assert values("BC", config=config)["input"] == '"/data/out"'
    assert values("BC", config={"input": ["a", "b"]})["input"] == "{a: 0.5, b: 0.5}"


def test_a_reward_with_a_limit_is_a_pass_mark() -> None:
    found = values(stop={"episode_reward_mean": 150, "timesteps_total": 1000})
    assert found["pass_mark.episode_reward_mean"] == "150"
    assert "pass_mark.episode_reward_mean" not in values(stop={"episode_reward_mean": 150})
    nested = values(stop={"evaluation/episode_reward_mean": 9, "time_total_s": 10})
    assert nested["pass_mark.evaluation/episode_reward_mean"] == "9"


def test_keys_of_an_experiment() -> None:
    found = values(
        checkpoint_freq=5, keep_checkpoints_num=2, checkpoint_score_attr="min-x", local_dir="out"
    )
    assert found["checkpoint_freq"] == "5"
    assert found["keep_checkpoints_num"] == "2"
    assert found["checkpoint_score_attr"] == "min-x"
    assert found["hydra.run.dir"].startswith('"out/test/${now:')


def test_a_learner_has_one_gpu_and_the_note_says_so() -> None:
    translation = translated(config={"num_gpus": 4})
    assert translation.values["resources.num_gpus"] == 1
    assert any("num_gpus=4" in note for note in translation.notes)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"run": "PPOO"}, r"test: run: PPOO: rlrun has no such algorithm\. Did you mean PPO"),
        ({"run": "MAML"}, r"MAML: rlrun has no such algorithm: there is no learner of models"),
        ({"config": {"lrr": 1}}, r"test: config\.lrr: the classic RLlib has no such key.*\blr\b"),
        ({"config": {"model": {"fcnet": 1}}}, r"config\.model\.fcnet: .*model\.fcnet_hiddens"),
        ({"checkpoint_frequency": 1}, r"test: checkpoint_frequency: .*checkpoint_freq\b"),
        ({"config": {"multiagent": {"policies": {}}}}, r"config\.multiagent.*not there yet"),
        ({"config": {"soft_horizon": True}}, r"config\.soft_horizon=True: at the horizon"),
        ({"restore": "/x/checkpoint-10"}, r"restore=.*pickles of its own classes"),
        ({"stop": {"timesteps_total": "many"}}, r"stop\.timesteps_total='many' must be a number"),
        ({"config": {"exploration_config": {"type": "MBMPOExploration"}}}, r"no such exploration"),
        ({"config": {"model": {"custom_model": "mine"}}}, r"no registry of models"),
        ({"config": 5}, r"test: config: 5 must hold keys"),
        ({"stop": [1]}, r"test: stop: \[1\] must hold keys"),
        ({"config": {"model": "big"}}, r"test: config\.model: 'big' must hold keys"),
        ({"config": {"lr": {"grid_search": 5}}}, r"test: grid_search: 5 must be a list"),
        ({"config": {"lr": {"grid_search": []}}}, r"test: grid_search: \[\] must be a list"),
        ({"config": {"num_gpus": "one"}}, r"config\.num_gpus='one': it is no value that RLlib"),
        ({"max_failures": "many"}, r"max_failures='many': it is no value that RLlib takes"),
        (
            {"config": {"exploration_config": {"sub_exploration": {"type": "Mine"}}}},
            r"sub_exploration\.type=Mine: there is no such exploration",
        ),
        ({"env": "ray.rllib.examples.env.x.Y"}, r"RLlib's own, and not part of rlrun"),
    ],
)
def test_what_would_be_another_experiment_is_refused(
    changes: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(ConfigError, match=complaint):
        translated(**changes)


def test_every_key_of_the_table_says_what_becomes_of_it() -> None:
    for name, entry in {**KEYS, **EXPERIMENT_KEYS}.items():
        if isinstance(entry, Left | Refused):
            assert entry.reason, name
        else:
            assert isinstance(entry, str | tuple | Converted), name


def test_hints_for_typos_know_the_classic_names() -> None:
    assert SYNONYMS["lambda"] == "gae_lambda"
    assert SYNONYMS["vf_clip_param"] == "vf_clip_range"
    assert SYNONYMS["evaluation_interval"] == "interval"
    assert SYNONYMS["n_epochs"] == "num_epochs"
