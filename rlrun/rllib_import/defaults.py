"""What the classic RLlib (1.12) gives to the keys that a file leaves out.

Only what has a counterpart here, and a value of its own. Amounts of GPUs stay at none; the size of
ES's noise table, how a Gaussian's width is learned, and whether fragments cut episodes, are as
here.
"""

from __future__ import annotations

from typing import Any

Config = dict[str, Any]

_ALL: Config = {
    "num_workers": 2,
    "num_envs_per_worker": 1,
    "rollout_fragment_length": 200,
    "gamma": 0.99,
    "lr": 1e-4,
    "train_batch_size": 200,
    "observation_filter": "NoFilter",
    "model": {
        "fcnet_hiddens": [256, 256],
        "fcnet_activation": "tanh",
        "vf_share_layers": True,
        "use_lstm": False,
        "lstm_cell_size": 256,
        "max_seq_len": 20,
        "lstm_use_prev_action": False,
        "lstm_use_prev_reward": False,
    },
    "exploration_config": {"type": "StochasticSampling"},
    "evaluation_config": {"explore": True},
}

_GREEDY_EVALUATION: Config = {"evaluation_config": {"explore": False}}

_A3C: Config = {
    "rollout_fragment_length": 10,
    "lambda": 1.0,
    "grad_clip": 40.0,
    "vf_loss_coeff": 0.5,
    "entropy_coeff": 0.01,
}

_IMPALA: Config = {
    "rollout_fragment_length": 50,
    "train_batch_size": 500,
    "vtrace_clip_rho_threshold": 1.0,
    "vtrace_clip_pg_rho_threshold": 1.0,
    "minibatch_buffer_size": 1,
    "num_sgd_iter": 1,
    "replay_proportion": 0.0,
    "replay_buffer_num_slots": 0,
    "learner_queue_size": 16,
    "max_sample_requests_in_flight_per_worker": 2,
    "broadcast_interval": 1,
    "grad_clip": 40.0,
    "opt_type": "adam",
    "lr": 5e-4,
    "decay": 0.99,
    "momentum": 0.0,
    "epsilon": 0.1,
    "vf_loss_coeff": 0.5,
    "entropy_coeff": 0.01,
}

_PPO: Config = {
    "rollout_fragment_length": "auto",  # where they do not fit, RLlib's PPO makes fragments fit
    "lambda": 1.0,
    "kl_coeff": 0.2,
    "kl_target": 0.01,
    "train_batch_size": 4000,
    "sgd_minibatch_size": 128,
    "num_sgd_iter": 30,
    "lr": 5e-5,
    "vf_loss_coeff": 1.0,
    "entropy_coeff": 0.0,
    "clip_param": 0.3,
    "grad_clip": None,
    "model": {"vf_share_layers": False},
}

_SIMPLE_Q: Config = {
    "num_workers": 0,
    "exploration_config": {
        "type": "EpsilonGreedy",
        "initial_epsilon": 1.0,
        "final_epsilon": 0.02,
        "epsilon_timesteps": 10000,
    },
    "timesteps_per_iteration": 1000,
    "target_network_update_freq": 500,
    "buffer_size": 50000,
    "lr": 5e-4,
    "adam_epsilon": 1e-8,
    "grad_clip": 40.0,
    "learning_starts": 1000,
    "rollout_fragment_length": 4,
    "train_batch_size": 32,
    **_GREEDY_EVALUATION,
}

_DQN: Config = {
    **_SIMPLE_Q,
    "num_atoms": 1,
    "v_min": -10.0,
    "v_max": 10.0,
    "noisy": False,
    "sigma0": 0.5,
    "dueling": True,
    "hiddens": [256],
    "double_q": True,
    "n_step": 1,
    "prioritized_replay": True,
    "prioritized_replay_alpha": 0.6,
    "prioritized_replay_beta": 0.4,
    "prioritized_replay_eps": 1e-6,
}

_APEX: Config = {
    "optimizer": {"max_weight_sync_delay": 400, "num_replay_buffer_shards": 4},
    "n_step": 3,
    "num_workers": 32,
    "buffer_size": 2_000_000,
    "learning_starts": 50000,
    "train_batch_size": 512,
    "rollout_fragment_length": 50,
    "timesteps_per_iteration": 25000,
}

_DDPG: Config = {
    "num_workers": 0,
    "twin_q": False,
    "policy_delay": 1,
    "smooth_target_policy": False,
    "target_noise": 0.2,
    "target_noise_clip": 0.5,
    "actor_hiddens": [400, 300],
    "critic_hiddens": [400, 300],
    "n_step": 1,
    "exploration_config": {
        "type": "OrnsteinUhlenbeckNoise",
        "random_timesteps": 1000,
        "ou_base_scale": 0.1,
        "ou_theta": 0.15,
        "ou_sigma": 0.2,
        "initial_scale": 1.0,
        "final_scale": 0.02,
        "scale_timesteps": 10000,
    },
    "timesteps_per_iteration": 1000,
    "buffer_size": 50000,
    "prioritized_replay": True,
    "prioritized_replay_alpha": 0.6,
    "prioritized_replay_beta": 0.4,
    "prioritized_replay_eps": 1e-6,
    "critic_lr": 1e-3,
    "actor_lr": 1e-3,
    "target_network_update_freq": 0,
    "tau": 0.002,
    "use_huber": False,
    "huber_threshold": 1.0,
    "l2_reg": 1e-6,
    "grad_clip": None,
    "learning_starts": 1500,
    "rollout_fragment_length": 1,
    "train_batch_size": 256,
    **_GREEDY_EVALUATION,
}

_SAC: Config = {
    "num_workers": 0,
    "twin_q": True,
    "Q_model": {"fcnet_hiddens": [256, 256]},
    "policy_model": {"fcnet_hiddens": [256, 256]},
    "tau": 5e-3,
    "initial_alpha": 1.0,
    "target_entropy": "auto",
    "n_step": 1,
    "timesteps_per_iteration": 100,
    "buffer_size": 1_000_000,
    "prioritized_replay": False,
    "optimization": {
        "actor_learning_rate": 3e-4,
        "critic_learning_rate": 3e-4,
        "entropy_learning_rate": 3e-4,
    },
    "grad_clip": None,
    "learning_starts": 1500,
    "rollout_fragment_length": 1,
    "train_batch_size": 256,
    "target_network_update_freq": 0,
}

_MARWIL: Config = {
    "num_workers": 0,
    "beta": 1.0,
    "vf_coeff": 1.0,
    "grad_clip": None,
    "moving_average_sqd_adv_norm_update_rate": 1e-8,
    "moving_average_sqd_adv_norm_start": 100.0,
    "train_batch_size": 2000,
    "replay_buffer_size": 10000,
    "learning_starts": 0,
    "bc_logstd_coeff": 0.0,
}

_OF_ALGORITHMS: dict[str, Config] = {
    "pg": {"num_workers": 0, "lr": 4e-4, "rollout_fragment_length": "auto"},
    "a3c": _A3C,
    "a2c": {**_A3C, "rollout_fragment_length": 20},
    "impala": _IMPALA,
    "appo": {
        **_IMPALA,
        "vtrace": True,
        "lambda": 1.0,
        "clip_param": 0.4,
        "use_kl_loss": False,
        "kl_coeff": 1.0,
        "kl_target": 0.01,
        "replay_buffer_num_slots": 100,
    },
    "ppo": _PPO,
    "ddppo": {
        **_PPO,
        "rollout_fragment_length": 100,
        "num_envs_per_worker": 5,
        "sgd_minibatch_size": 50,
        "num_sgd_iter": 10,
        "train_batch_size": -1,
        "kl_coeff": 0.0,
        "kl_target": 0.0,
    },
    "simple_q": _SIMPLE_Q,
    "dqn": _DQN,
    "apex": {
        **_DQN,
        **_APEX,
        "target_network_update_freq": 500000,
        "exploration_config": {"type": "PerWorkerEpsilonGreedy"},
    },
    "r2d2": {
        **_DQN,
        "lr": 1e-4,
        "gamma": 0.997,
        "train_batch_size": 1280,
        "adam_epsilon": 1e-3,
        "num_workers": 2,
        "batch_mode": "complete_episodes",
        "zero_init_states": True,
        "burn_in": 0,
        "use_h_function": True,
        "h_function_epsilon": 1e-3,
        "buffer_size": 100000,
        "prioritized_replay": False,
        "target_network_update_freq": 2500,
    },
    "ddpg": _DDPG,
    "td3": {
        **_DDPG,
        "twin_q": True,
        "policy_delay": 2,
        "smooth_target_policy": True,
        "exploration_config": {
            "type": "GaussianNoise",
            "random_timesteps": 10000,
            "stddev": 0.1,
            "initial_scale": 1.0,
            "final_scale": 1.0,
            "scale_timesteps": 1,
        },
        "learning_starts": 10000,
        "l2_reg": 0.0,
        "tau": 5e-3,
        "train_batch_size": 100,
        "buffer_size": 1_000_000,
        "prioritized_replay": False,
    },
    "apex_ddpg": {
        **_DDPG,
        **_APEX,
        "exploration_config": {"type": "PerWorkerOrnsteinUhlenbeckNoise"},
    },
    "sac": _SAC,
    "cql": {
        **_SAC,
        "bc_iters": 20000,
        "temperature": 1.0,
        "num_actions": 10,
        "lagrangian": False,
        "lagrangian_thresh": 5.0,
        "min_q_weight": 5.0,
    },
    "marwil": _MARWIL,
    "bc": {**_MARWIL, "beta": 0.0},
    "es": {
        "action_noise_std": 0.01,
        "l2_coeff": 0.005,
        "noise_stdev": 0.02,
        "episodes_per_batch": 1000,
        "train_batch_size": 10000,
        "eval_prob": 0.003,
        "return_proc_mode": "centered_rank",
        "num_workers": 10,
        "stepsize": 0.01,
        "observation_filter": "MeanStdFilter",
    },
    "ars": {
        "action_noise_std": 0.0,
        "noise_stdev": 0.02,
        "num_rollouts": 32,
        "rollouts_used": 32,
        "sgd_stepsize": 0.01,
        "observation_filter": "MeanStdFilter",
        "eval_prob": 0.03,
        "offset": 0.0,
    },
}

OURS: dict[str, Config] = {"r2d2": {"algo.sequence_overlap": 0}}
"""Keys of ours that the classic RLlib has no name for, and what it does all the same."""


def defaults_of(algo: str) -> Config:
    """The classic config of an algorithm of ours."""
    return merged(_ALL, _OF_ALGORITHMS[algo])


def merged(config: Config, changes: Config) -> Config:
    """`config` with `changes`, key by key in mappings; a whole grid_search takes a key's place.

    Another type of exploration takes the place of all of its keys.
    """
    result = dict(config)
    for key, value in changes.items():
        old = result.get(key)
        is_group = isinstance(old, dict) and isinstance(value, dict) and "grid_search" not in value
        is_replaced = key == "exploration_config" and _has_other_type(old, value)
        result[key] = merged(old, value) if is_group and not is_replaced else value  # type: ignore[arg-type]
    return result


def _has_other_type(old: Any, new: Any) -> bool:
    return isinstance(new, dict) and "type" in new and new["type"] != (old or {}).get("type")
