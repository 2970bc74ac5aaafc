"""One measurement of Stable-Baselines3, same settings: python sb3_side.py TASK STEPS SEED LIBRARY.

LIBRARY is stable_baselines3, or sbx for the tasks on Pendulum.
"""

from __future__ import annotations

import importlib
import os
import sys

from meter import Meter

METER = Meter()
TASK, STEPS, SEED = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
LIBRARY = sys.argv[4]


def main() -> None:
    import numpy
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    from stable_baselines3 import A2C, DQN, PPO
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    class EachRollout(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:
            if self.num_timesteps:
                METER.tick(self.num_timesteps)

    class Each1000Steps(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps % 1000 == 0:
                METER.tick(self.num_timesteps)
            return True

    class Each250Steps(BaseCallback):
        def _on_step(self) -> bool:
            if self.num_timesteps % 250 == 0:
                METER.tick(self.num_timesteps)
            return True

    networks = {"net_arch": {"pi": [64, 64], "vf": [64, 64]}, "activation_fn": torch.nn.Tanh}
    common = {"device": "cpu", "seed": SEED, "policy_kwargs": networks}
    if TASK == "ppo_cartpole":
        env = make_vec_env("CartPole-v1", 8)
        model = PPO(
            "MlpPolicy", env, n_steps=128, batch_size=256, n_epochs=4, ent_coef=0.01, **common
        )
    elif TASK == "ppo_cartpole_64":
        env = make_vec_env("CartPole-v1", 64)
        model = PPO(
            "MlpPolicy", env, n_steps=128, batch_size=2048, n_epochs=4, ent_coef=0.01, **common
        )
    elif TASK == "a2c_cartpole":
        env = make_vec_env("CartPole-v1", 8)
        model = A2C("MlpPolicy", env, n_steps=5, ent_coef=0.01, use_rms_prop=False, **common)
    elif TASK == "ppo_lstm_cartpole":
        from sb3_contrib import RecurrentPPO

        env = make_vec_env("CartPole-v1", 8)
        # As ours by default: an LSTM of 256 cells for the policy, and one for the values.
        model = RecurrentPPO(
            "MlpLstmPolicy", env, n_steps=128, batch_size=256, n_epochs=4, ent_coef=0.01, **common
        )
    elif TASK == "ppo_halfcheetah":
        env = make_vec_env("HalfCheetah-v5", 8)
        model = PPO("MlpPolicy", env, n_steps=256, batch_size=64, n_epochs=10, **common)
    elif TASK in ("sac_pendulum", "td3_pendulum", "ddpg_pendulum"):
        from stable_baselines3.common.noise import NormalActionNoise

        noise = NormalActionNoise(numpy.zeros(1), numpy.full(1, 0.1))
        name = TASK.partition("_")[0].upper()
        kind = getattr(importlib.import_module(LIBRARY), name)
        model = kind(
            "MlpPolicy",
            "Pendulum-v1",
            learning_rate=3e-4,
            buffer_size=100_000,
            learning_starts=500,
            batch_size=256,
            train_freq=1,
            gradient_steps=1,
            action_noise=None if name == "SAC" else noise,
            device="cpu",
            seed=SEED,
            policy_kwargs={"net_arch": [256, 256]},
        )
    else:
        model = DQN(
            "MlpPolicy",
            "CartPole-v1",
            learning_rate=2.5e-4,
            buffer_size=50_000,
            learning_starts=1000,
            batch_size=128,
            train_freq=4,
            gradient_steps=1,
            target_update_interval=500,
            exploration_fraction=0.5,
            exploration_final_eps=0.05,
            device="cpu",
            seed=SEED,
            policy_kwargs={"net_arch": [120, 84]},
        )
    callbacks = {"dqn_cartpole": Each1000Steps()}
    if TASK.endswith("_pendulum"):
        callbacks[TASK] = Each250Steps()
    model.learn(STEPS, callback=callbacks.get(TASK, EachRollout()))
    METER.tick(model.num_timesteps)
    METER.print()


if __name__ == "__main__":
    main()
