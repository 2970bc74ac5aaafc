"""What becomes of each key of the classic RLlib: the one table."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Values = dict[str, Any]
"""Values by our dotted key."""


@dataclass(frozen=True)
class Left:
    """A key that is left out, and why."""

    reason: str
    near: str = ""
    """What of ours is nearest, for whoever types the old name."""


@dataclass(frozen=True)
class Refused:
    """A key without which it would be another experiment, so that there is none, and why."""

    reason: str


@dataclass(frozen=True)
class Converted:
    """A key whose value means something else here."""

    convert: Callable[[Any, Mapping[str, Any]], Values | Left | Refused]
    """Of the value and the whole classic config with its defaults."""
    near: str = ""
    """What of ours is nearest, for whoever types the old name."""


Entry = str | tuple[str, ...] | Left | Refused | Converted
"""Our key; several, of which the algorithm has one; or what else becomes of it."""

TF_ONLY = Left("it is TensorFlow's, and rlrun is torch")
ITERATIONS = Left("iterations end by env steps (algo.timesteps_per_iteration), not by the clock")
PYTHON = Left(
    "a Python object has no place in YAML; see docs/from_rllib.md for what takes its place"
)
INTERNAL = Left("it switches between ways of RLlib's own code")
MULTI_AGENT = Refused("multi-agent envs are not there yet")
ONE_BUFFER = Left("rlrun has one kind of replay buffer, and prioritized_replay is a switch of it")
BETA_ANNEALING = Left(
    "RLlib 1.12 does not look at it either; algo.prioritized_replay_beta takes a schedule"
)
ENDLESS = 1_000_000
"""Retries, where Tune's -1 sets no limit to them."""

ALWAYS_IN_CHECKPOINTS = Left("checkpoints always hold the replay buffer")


def _if_given(key: str) -> Converted:
    """A key that null leaves as it is."""
    return Converted(lambda value, _: {} if value is None else {key: value}, near=key)


def _only(allowed: tuple[Any, ...], reason: str) -> Converted:
    """A key that may have those values only, which then mean nothing here."""

    def convert(value: Any, config: Mapping[str, Any]) -> Left | Refused:
        return Left(reason) if value in allowed else Refused(reason)

    return Converted(convert)


def _num_gpus(value: Any, config: Mapping[str, Any]) -> Values:
    return {"resources.num_gpus": min(value, 1)}


def _clip_rewards(value: Any, config: Mapping[str, Any]) -> Values | Left:
    if value is None:
        return Left("null is the sign where the env is Atari, which env=atari does by itself")
    return {"env.clip_rewards": value}


def _remote_worker_envs(value: Any, config: Mapping[str, Any]) -> Values:
    return {"env.vectorization": "async"} if value else {}


def _filter(value: Any, config: Mapping[str, Any]) -> Values:
    return {"env.observation_filter": str(value).removeprefix("Concurrent")}


def _train_batch_size(value: Any, config: Mapping[str, Any]) -> Values:
    if value == -1:  # DDPPO: what each worker samples at a time.
        value = config["rollout_fragment_length"] * config["num_envs_per_worker"]
    if "burn_in" in config:  # R2D2 counts steps, we count sequences.
        value = max(1, value // config["model"]["max_seq_len"])
    return {"algo.train_batch_size": value}


def _kl_coeff(value: Any, config: Mapping[str, Any]) -> Values:
    has_switch = "use_kl_loss" in config
    switch = {} if has_switch else {"algo.use_kl_loss": value > 0}
    return {**switch, "algo.kl_coeff": value}


def _target_network_update_freq(value: Any, config: Mapping[str, Any]) -> Values | Refused:
    """RLlib counts env steps (APEX: rows learned); we do so where tau is 1, and else updates."""
    key = "algo.target_network_update_freq"
    if value <= 1:  # every update
        return {key: 1}
    counts_rows = "optimizer" in config
    intensity = config.get("training_intensity")
    if config.get("tau", 1.0) == 1.0:
        return {key: max(1, round(value / intensity)) if counts_rows and intensity else value}
    if counts_rows:
        steps_per_update = config["train_batch_size"]
    elif intensity:
        steps_per_update = config["train_batch_size"] / intensity
    elif config.get("batch_mode") == "complete_episodes":
        return Refused(
            "targets follow by updates here, and with batch_mode=complete_episodes nobody knows "
            "how many env steps lie between two; choose algo.target_network_update_freq yourself"
        )
    else:
        per_worker = config["rollout_fragment_length"] * config.get("num_envs_per_worker", 1)
        steps_per_update = per_worker * max(config["num_workers"], 1)
    return {key: max(1, math.ceil(value / steps_per_update))}


def _frame_size(value: Any, config: Mapping[str, Any]) -> Values:
    return {"env.env_config.img_height": value, "env.env_config.img_width": value}


def _prev_action_reward(value: Any, config: Mapping[str, Any]) -> Values:
    return {"model.lstm_use_prev_action": value, "model.lstm_use_prev_reward": value}


def _input(value: Any, config: Mapping[str, Any]) -> Values | Left:
    if value == "sampler":
        return Left("what workers sample from the env is learned from without it")
    if value == "dataset":
        given = config.get("input_config") or {}
        value = given.get("paths", given.get("path"))
    if isinstance(value, list | tuple):
        return {"input": value[0] if len(value) == 1 else dict.fromkeys(value, 1 / len(value))}
    return {"input": value}


def _output(value: Any, config: Mapping[str, Any]) -> Values | Left:
    if value is None:
        return {}
    if value == "dataset":
        value = (config.get("output_config") or {}).get("path")
    if value in (None, "logdir"):
        return {"output": "episodes"}
    return {"output": value}


def _shuffle_buffer_size(value: Any, config: Mapping[str, Any]) -> Values:
    # Batches, which are the lines of RLlib's files, as here; its 0 leaves them as they stand.
    has_data = config.get("input", "sampler") != "sampler"
    return {"shuffle_buffer_size": max(1, value)} if has_data else {}


def _compressed(value: Any, config: Mapping[str, Any]) -> Values:
    names = {"obs": "obs", "actions": "actions", "rewards": "rewards", "action_logp": "log_probs"}
    return {"output_compress_columns": [names[each] for each in value if each in names]}


def _max_failures(value: Any, config: Mapping[str, Any]) -> Values:
    return {"sweep.max_failures": value if value >= 0 else ENDLESS}


def _smoothing(value: Any, config: Mapping[str, Any]) -> Left:
    return Left("means are over the last 100 episodes")


MODEL: dict[str, Entry] = {
    "fcnet_hiddens": "model.fcnet_hiddens",
    "fcnet_activation": "model.fcnet_activation",
    "conv_filters": _if_given("model.conv_filters"),
    "conv_activation": "model.conv_activation",
    "post_fcnet_hiddens": "model.post_fcnet_hiddens",
    "post_fcnet_activation": "model.post_fcnet_activation",
    "free_log_std": "model.free_log_std",
    "vf_share_layers": "model.vf_share_layers",
    "use_lstm": "model.use_lstm",
    "max_seq_len": "model.max_seq_len",
    "lstm_cell_size": "model.lstm_cell_size",
    "lstm_use_prev_action": "model.lstm_use_prev_action",
    "lstm_use_prev_reward": "model.lstm_use_prev_reward",
    "lstm_use_prev_action_reward": Converted(_prev_action_reward),
    "use_attention": Left("model=gtrxl is chosen where it is true"),
    "attention_num_transformer_units": "model.attention_num_transformer_units",
    "attention_dim": "model.attention_dim",
    "attention_num_heads": "model.attention_num_heads",
    "attention_head_dim": "model.attention_head_dim",
    "attention_memory_inference": "model.attention_memory_inference",
    "attention_memory_training": "model.attention_memory_training",
    "attention_position_wise_mlp_dim": "model.attention_position_wise_mlp_dim",
    "attention_init_gru_gate_bias": "model.attention_init_gru_gate_bias",
    "attention_use_n_prev_actions": "model.attention_use_n_prev_actions",
    "attention_use_n_prev_rewards": "model.attention_use_n_prev_rewards",
    "custom_model": Left("model=custom is chosen where it names a class by its import path"),
    "custom_model_config": "model.module_config",
    "custom_action_dist": Refused(
        "there is no registry of distributions; model.action_distribution"
    ),
    "custom_preprocessor": Refused("preprocessors are gone; wrap the env: env.wrappers"),
    "no_final_linear": Left("networks end as the algorithm needs it"),
    "dim": Converted(_frame_size),
    "framestack": Converted(lambda value, _: {} if value else {"env.env_config.stack_num": 1}),
    "grayscale": Left("frames are always grey"),
    "zero_mean": Left("pixels are always scaled by the network"),
    "_use_default_native_models": TF_ONLY,
    "_disable_preprocessor_api": INTERNAL,
    "_disable_action_flattening": INTERNAL,
    "_time_major": INTERNAL,
}
"""The keys below `model`."""

_LAYERS_OF_SAC = Left("layers of SAC's networks are their widths alone, of rectified units")

KEYS: dict[str, Entry] = {
    # Rollout workers
    "num_workers": "resources.num_workers",
    "num_envs_per_worker": "algo.num_envs_per_worker",
    "create_env_on_driver": "resources.create_env_on_driver",
    "rollout_fragment_length": "algo.rollout_fragment_length",
    "batch_mode": "algo.batch_mode",
    # Learning
    "gamma": "algo.gamma",
    "lr": "algo.lr",
    "lr_schedule": _if_given("algo.lr"),
    "train_batch_size": Converted(_train_batch_size),
    "optimizer.num_replay_buffer_shards": "algo.num_replay_buffer_shards",
    "optimizer.max_weight_sync_delay": "algo.max_weight_sync_delay",
    "optimizer.debug": INTERNAL,
    **{f"model.{name}": entry for name, entry in MODEL.items()},
    # Env
    "horizon": "env.horizon",
    "soft_horizon": _only((False,), "at the horizon an env is always reset"),
    "no_done_at_end": Left(
        "an episode that env.horizon or a time limit ends is truncated, and always bootstrapped"
    ),
    "observation_space": PYTHON,
    "action_space": PYTHON,
    "remote_worker_envs": Converted(_remote_worker_envs, near="env.vectorization"),
    "remote_env_batch_wait_ms": Left("a worker waits for all of its envs"),
    "env_task_fn": Refused("a curriculum is a class of yours: curriculum._target_"),
    "render_env": Left("training shows nothing; `rlrun rollout CHECKPOINT render=true` does"),
    "record_env": Left("training films nothing; see `rlrun rollout --help`"),
    "clip_rewards": Converted(_clip_rewards),
    "normalize_actions": "env.normalize_actions",
    "clip_actions": Left(
        "envs get members of their action space only; env.normalize_actions=false clips to it",
        near="env.normalize_actions",
    ),
    "preprocessor_pref": Left("env=atari preprocesses as DeepMind did, other envs have wrappers"),
    "disable_env_checking": Left("checks cost nothing"),
    # Debugging
    "log_level": "log_level",
    "callbacks": Refused("callbacks are classes of rlrun's own: callbacks.<name>._target_"),
    "ignore_worker_failures": Left("a run that loses a worker ends with a checkpoint"),
    "recreate_failed_workers": "resources.recreate_failed_workers",
    "restart_failed_sub_environments": Left("a run whose env fails ends with a checkpoint"),
    "log_sys_usage": Left("the machine is not measured"),
    "fake_sampler": Refused("it is for tests of RLlib's learners"),
    "seed": "seed",
    # Framework
    "framework": Left("rlrun is torch"),
    "eager_tracing": TF_ONLY,
    "eager_max_retraces": TF_ONLY,
    "tf_session_args": TF_ONLY,
    "local_tf_session_args": TF_ONLY,
    "_tf_policy_handles_more_than_one_loss": TF_ONLY,
    # Exploration
    "explore": "explore",
    # Evaluation
    "evaluation_interval": "evaluation.interval",
    "evaluation_duration": "evaluation.duration",
    "evaluation_num_episodes": "evaluation.duration",
    "evaluation_duration_unit": "evaluation.duration_unit",
    "evaluation_parallel_to_training": "evaluation.parallel_to_training",
    "evaluation_num_workers": "evaluation.num_workers",
    "custom_eval_function": "evaluation.custom_eval_function",
    "always_attach_evaluation_results": "evaluation.always_attach_results",
    "in_evaluation": INTERNAL,
    "keep_per_episode_custom_metrics": Left("result.json has the means of custom metrics"),
    # Rollouts
    "sample_async": Left("asynchronous algorithms have several fragments of a worker under way"),
    "sample_collector": INTERNAL,
    "observation_filter": Converted(_filter),
    "synchronize_filters": _only((True,), "filters are always shared by all workers"),
    "compress_observations": Left("batches are not packed; algo.replay_frames stores images once"),
    "metrics_episode_collection_timeout_s": Left("metrics come with the samples"),
    "collect_metrics_timeout": Left("metrics come with the samples"),
    "metrics_num_episodes_for_smoothing": Converted(_smoothing),
    "metrics_smoothing_episodes": Converted(_smoothing),
    "min_time_s_per_reporting": ITERATIONS,
    "min_iter_time_s": ITERATIONS,
    "min_train_timesteps_per_reporting": ITERATIONS,
    "min_sample_timesteps_per_reporting": _if_given("algo.timesteps_per_iteration"),
    "timesteps_per_iteration": _if_given("algo.timesteps_per_iteration"),
    "extra_python_environs_for_driver": Left("set them in the shell"),
    "extra_python_environs_for_worker": Left("set them in the shell"),
    # Resources
    "num_gpus": Converted(_num_gpus),
    "_fake_gpus": "resources.fake_gpus",
    "num_cpus_per_worker": "resources.num_cpus_per_worker",
    "num_gpus_per_worker": "resources.num_gpus_per_worker",
    "custom_resources_per_worker": "resources.custom_resources_per_worker",
    "num_cpus_for_driver": "resources.num_cpus_for_driver",
    "placement_strategy": Left("Ray packs workers"),
    # Data
    "input": Converted(_input),
    "input_config": Left("its paths are what `input` names"),
    "actions_in_input_normalized": "actions_in_input_normalized",
    "input_evaluation": Left("how good a policy is, evaluation.interval tells in the env"),
    "postprocess_inputs": Left("data are always postprocessed as the algorithm needs it"),
    "shuffle_buffer_size": Converted(_shuffle_buffer_size),
    "output": Converted(_output),
    "output_config": Left("its path is what `output` names"),
    "output_compress_columns": Converted(_compressed),
    "output_max_file_size": "output_max_file_size",
    # Multi-agent
    "multiagent": MULTI_AGENT,
    # Others of all algorithms
    "logger_config": Left("loggers are chosen by logger=<choice>"),
    "simple_optimizer": INTERNAL,
    "monitor": Left("training films nothing; see `rlrun rollout --help`"),
    "_disable_preprocessor_api": INTERNAL,
    "_disable_action_flattening": INTERNAL,
    "_disable_execution_plan_api": INTERNAL,
    # Policy gradients
    "use_critic": _only((True,), "the critic is part of the algorithm"),
    "use_gae": _only((True,), "advantages are always generalised ones; algo.gae_lambda=1 has none"),
    "lambda": "algo.gae_lambda",
    "microbatch_size": _if_given("algo.microbatch_size"),
    "grad_clip": "algo.grad_clip",
    "entropy_coeff": "algo.entropy_coeff",
    "entropy_coeff_schedule": _if_given("algo.entropy_coeff"),
    "vf_loss_coeff": "algo.vf_coeff",
    "kl_coeff": Converted(_kl_coeff),
    "kl_target": "algo.kl_target",
    "use_kl_loss": "algo.use_kl_loss",
    "sgd_minibatch_size": "algo.minibatch_size",
    "num_sgd_iter": ("algo.num_epochs", "algo.num_sgd_iter"),
    "shuffle_sequences": Left("minibatches are always shuffled"),
    "clip_param": "algo.clip_range",
    "vf_clip_param": Left(
        "it drops every value error whose square is above it, which the paper's algo.vf_clip_range "
        "does not",
        near="algo.vf_clip_range",
    ),
    "keep_local_weights_in_sync": Left("the driver always has the weights at an iteration's end"),
    "torch_distributed_backend": "algo.torch_distributed_backend",
    "truncate_episodes": Left("algo.batch_mode says it"),
    # Asynchronous learners
    "vtrace": "algo.vtrace",
    "vtrace_clip_rho_threshold": "algo.vtrace_clip_rho_threshold",
    "vtrace_clip_pg_rho_threshold": "algo.vtrace_clip_pg_rho_threshold",
    "vtrace_drop_last_ts": Left("the last step of a fragment is bootstrapped, and never dropped"),
    "num_multi_gpu_tower_stacks": Left("there is one learner GPU"),
    "minibatch_buffer_size": "algo.minibatch_buffer_size",
    "replay_proportion": "algo.replay_proportion",
    "replay_buffer_num_slots": "algo.replay_buffer_num_slots",
    "learner_queue_size": "algo.learner_queue_size",
    "learner_queue_timeout": Left("a queue is waited for as long as it takes"),
    "max_sample_requests_in_flight_per_worker": "algo.max_sample_requests_in_flight_per_worker",
    "broadcast_interval": "algo.broadcast_interval",
    "num_aggregation_workers": Left("the driver puts fragments together"),
    "num_data_loader_buffers": Left("there is one learner GPU"),
    "opt_type": "algo.opt_type",
    "decay": "algo.decay",
    "momentum": "algo.momentum",
    "epsilon": "algo.epsilon",
    "_separate_vf_optimizer": TF_ONLY,
    "_lr_vf": TF_ONLY,
    "after_train_step": PYTHON,
    # Learners from replay
    "buffer_size": _if_given("algo.buffer_size"),
    "replay_buffer_config.type": ONE_BUFFER,
    "replay_buffer_config.capacity": "algo.buffer_size",
    "replay_buffer_config.learning_starts": "algo.learning_starts",
    "replay_buffer_config.prioritized_replay": "algo.prioritized_replay",
    "replay_buffer_config.prioritized_replay_alpha": "algo.prioritized_replay_alpha",
    "replay_buffer_config.prioritized_replay_beta": "algo.prioritized_replay_beta",
    "replay_buffer_config.prioritized_replay_eps": "algo.prioritized_replay_eps",
    "replay_buffer_config.replay_mode": ONE_BUFFER,
    "replay_buffer_config.replay_sequence_length": ONE_BUFFER,
    "store_buffer_in_checkpoints": ALWAYS_IN_CHECKPOINTS,
    "replay_sequence_length": Left("sequences have the length model.max_seq_len and algo.burn_in"),
    "replay_buffer_shards_colocated_with_driver": Left("Ray packs shards"),
    "learning_starts": "algo.learning_starts",
    "training_intensity": "algo.training_intensity",
    "target_network_update_freq": Converted(_target_network_update_freq),
    "tau": "algo.tau",
    "adam_epsilon": "algo.adam_epsilon",
    "n_step": "algo.n_step",
    "prioritized_replay": "algo.prioritized_replay",
    "prioritized_replay_alpha": "algo.prioritized_replay_alpha",
    "prioritized_replay_beta": "algo.prioritized_replay_beta",
    "prioritized_replay_eps": "algo.prioritized_replay_eps",
    "final_prioritized_replay_beta": BETA_ANNEALING,
    "prioritized_replay_beta_annealing_timesteps": BETA_ANNEALING,
    "worker_side_prioritization": Left("Ape-X's workers judge their rows, those of others do not"),
    "before_learn_on_batch": PYTHON,
    # DQN and R2D2
    "num_atoms": "algo.num_atoms",
    "v_min": "algo.v_min",
    "v_max": "algo.v_max",
    "noisy": "algo.noisy",
    "sigma0": "algo.sigma0",
    "dueling": "algo.dueling",
    "hiddens": "algo.hiddens",
    "double_q": "algo.double_q",
    "zero_init_states": "algo.zero_init_states",
    "burn_in": "algo.burn_in",
    "use_h_function": "algo.use_h_function",
    "h_function_epsilon": "algo.h_function_epsilon",
    # DDPG, TD3 and SAC
    "actor_lr": "algo.actor_lr",
    "critic_lr": "algo.critic_lr",
    "actor_hiddens": "algo.actor_hiddens",
    "actor_hidden_activation": _only(("relu",), "units of actors are rectified"),
    "critic_hiddens": "algo.critic_hiddens",
    "critic_hidden_activation": _only(("relu",), "units of critics are rectified"),
    "twin_q": "algo.twin_q",
    "policy_delay": "algo.policy_delay",
    "smooth_target_policy": "algo.smooth_target_policy",
    "target_noise": "algo.target_noise",
    "target_noise_clip": "algo.target_noise_clip",
    "use_state_preprocessor": _only((False,), "choose layers before actor and critics by model="),
    "use_huber": "algo.use_huber",
    "huber_threshold": "algo.huber_threshold",
    "l2_reg": "algo.l2_reg",
    "optimization.actor_learning_rate": "algo.actor_lr",
    "optimization.critic_learning_rate": "algo.critic_lr",
    "optimization.entropy_learning_rate": "algo.entropy_lr",
    "policy_model.fcnet_hiddens": "algo.actor_hiddens",
    "policy_model.fcnet_activation": _LAYERS_OF_SAC,
    "policy_model.post_fcnet_hiddens": _LAYERS_OF_SAC,
    "policy_model.custom_model": _only((None,), "choose layers before actor and critics by model="),
    "policy_model.custom_model_config": _LAYERS_OF_SAC,
    "Q_model.fcnet_hiddens": "algo.critic_hiddens",
    "Q_model.fcnet_activation": _LAYERS_OF_SAC,
    "Q_model.post_fcnet_hiddens": _LAYERS_OF_SAC,
    "Q_model.custom_model": _only((None,), "choose layers before actor and critics by model="),
    "Q_model.custom_model_config": _LAYERS_OF_SAC,
    "initial_alpha": "algo.initial_alpha",
    "target_entropy": "algo.target_entropy",
    "_deterministic_loss": INTERNAL,
    "_use_beta_distribution": _only((False,), "SAC squashes a Gaussian"),
    # Learners from data
    "bc_iters": "algo.bc_iters",
    "temperature": "algo.temperature",
    "num_actions": "algo.num_actions",
    "lagrangian": "algo.lagrangian",
    "lagrangian_thresh": "algo.lagrangian_thresh",
    "min_q_weight": "algo.min_q_weight",
    "beta": "algo.beta",
    "vf_coeff": "algo.vf_coeff",
    "replay_buffer_size": "algo.buffer_size",
    "bc_logstd_coeff": "algo.bc_logstd_coeff",
    "moving_average_sqd_adv_norm_start": "algo.moving_average_sqd_adv_norm_start",
    "moving_average_sqd_adv_norm_update_rate": "algo.moving_average_sqd_adv_norm_update_rate",
    # Evolution strategies
    "action_noise_std": "algo.action_noise_std",
    "l2_coeff": "algo.l2_coeff",
    "noise_stdev": "algo.noise_stdev",
    "episodes_per_batch": "algo.episodes_per_batch",
    "eval_prob": "algo.eval_prob",
    "return_proc_mode": "algo.return_proc_mode",
    "stepsize": "algo.stepsize",
    "noise_size": "algo.noise_size",
    "report_length": Converted(_smoothing),
    "num_rollouts": "algo.num_rollouts",
    "rollouts_used": "algo.rollouts_used",
    "sgd_stepsize": "algo.sgd_stepsize",
    "offset": "algo.offset",
}
"""What becomes of each key of a config, by its dotted name. Beside them: env and env_config
(`envs`), exploration_config, and evaluation_config, whose keys are those of this table again."""

EXPERIMENT_KEYS: dict[str, Entry] = {
    "checkpoint_freq": "checkpoint_freq",
    "checkpoint_at_end": "checkpoint_at_end",
    "keep_checkpoints_num": "keep_checkpoints_num",
    "checkpoint_score_attr": "checkpoint_score_attr",
    "num_samples": Converted(lambda value, _: {"sweep.seeds": value} if value > 1 else {}),
    "max_failures": Converted(_max_failures, near="sweep.max_failures"),
    "restore": Refused(
        "RLlib's checkpoints are pickles of its own classes, which rlrun never loads"
    ),
    "resources_per_trial": Left("what a trial asks for follows from resources and evaluation"),
    "sync_config": Left("runs stay where they are written"),
    "upload_dir": Left("runs stay where they are written"),
    "sync_on_checkpoint": Left("runs stay where they are written"),
    "export_formats": Left("checkpoints hold weights as safetensors, which other programs read"),
}
"""The same for the keys of an experiment, beside env, run, stop, config and local_dir."""

EFFECTS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(
        ("algo.prioritized_replay_alpha", "algo.prioritized_replay_beta"),
        ("algo.prioritized_replay", bool),
    ),
    "algo.prioritized_replay_eps": ("algo.prioritized_replay", bool),
    "algo.v_min": ("algo.num_atoms", lambda value: value > 1),
    "algo.v_max": ("algo.num_atoms", lambda value: value > 1),
    "algo.sigma0": ("algo.noisy", bool),
    "algo.huber_threshold": ("algo.use_huber", bool),
    "algo.target_noise": ("algo.smooth_target_policy", bool),
    "algo.target_noise_clip": ("algo.smooth_target_policy", bool),
    "algo.kl_coeff": ("algo.use_kl_loss", bool),
    "algo.kl_target": ("algo.use_kl_loss", bool),
    "algo.vtrace_clip_rho_threshold": ("algo.vtrace", bool),
    "algo.vtrace_clip_pg_rho_threshold": ("algo.vtrace", bool),
    "algo.gae_lambda": ("algo.vtrace", lambda value: not value),
    "algo.epsilon": ("algo.opt_type", lambda value: value == "rmsprop"),
    "algo.decay": ("algo.opt_type", lambda value: value == "rmsprop"),
    "algo.momentum": ("algo.opt_type", lambda value: value == "rmsprop"),
    "algo.replay_buffer_num_slots": ("algo.replay_proportion", bool),
    "algo.lagrangian_thresh": ("algo.lagrangian", bool),
    "algo.h_function_epsilon": ("algo.use_h_function", bool),
    "model.lstm_cell_size": ("model.use_lstm", bool),
    "model.max_seq_len": ("model.use_lstm", bool),
    "model.lstm_use_prev_action": ("model.use_lstm", bool),
    "model.lstm_use_prev_reward": ("model.use_lstm", bool),
}
"""Keys of ours that have an effect only with some values of another one, and are refused else."""


def synonyms() -> dict[str, str]:
    """The last part of our key by that of the classic name, where they differ."""
    found = {}
    for name, entry in {**KEYS, **EXPERIMENT_KEYS}.items():
        near = entry.near if isinstance(entry, Left | Converted) else entry
        near = near if isinstance(near, str) else near[0] if isinstance(near, tuple) else ""
        old, ours = name.rpartition(".")[2], near.rpartition(".")[2]
        if ours and old != ours:
            found[old] = ours
    return found
