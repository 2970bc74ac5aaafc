"""How much faster two Ray workers sample than one, on an env that burns 5 ms of CPU a step.

python benchmarks/two_workers.py [--algo ppo|impala|appo|es|ars] [--rounds N]

PPO: rounds of fragments alone. IMPALA, APPO: whole training, with the learner's thread beside it.
ES, ARS: whole training on CartPole-v1, the same run with one worker and with two, in turns.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

BURN_S = 0.005


class BurningEnv(gym.Env):
    """Uses the CPU for 5 ms of process time a step; episodes of 100 steps."""

    observation_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict]:
        super().reset(seed=seed)
        self.num_steps = 0
        return np.zeros(4, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        end = time.process_time() + BURN_S
        while time.process_time() < end:
            pass
        self.num_steps += 1
        return np.zeros(4, np.float32), 1.0, False, self.num_steps == 100, {}


def steps_per_s(algo: str, num_workers: int, num_rounds: int) -> float:
    from rlrun.run import make_trainer

    num_steps = 200 * num_workers
    overrides = [
        "tuned=none",
        f"resources.num_workers={num_workers}",
        "algo.num_envs_per_worker=1",
        f"algo.train_batch_size={num_steps}",
    ]
    if algo == "ppo":
        overrides.append("algo.rollout_fragment_length=200")
    else:
        overrides.append(f"algo.timesteps_per_iteration={num_steps}")
    with make_trainer(algo, "two_workers.BurningEnv", overrides, seed=1) as trainer:
        go_on = trainer.workers.sample if algo == "ppo" else trainer.train
        go_on()
        started, before = time.perf_counter(), trainer.workers.num_env_steps_sampled
        for _ in range(num_rounds):
            go_on()
        steps = trainer.workers.num_env_steps_sampled - before
        return steps / (time.perf_counter() - started)


def evolution_steps_per_s(algo: str, num_rounds: int) -> tuple[float, float]:
    """With one worker and with two on CartPole, in turns: 200 perturbed episodes a round, the same
    ones whoever runs them."""
    from rlrun.run import make_trainer

    sizes = {
        "es": ["algo.episodes_per_batch=200", "algo.train_batch_size=1"],
        "ars": ["algo.num_rollouts=100", "algo.rollouts_used=50"],
    }
    seconds = {1: 0.0, 2: 0.0}
    with ExitStack() as stack:
        trainers = {
            number: stack.enter_context(
                make_trainer(
                    algo,
                    "cartpole",
                    # Ray is to start three of them on two cores, of which two work at a time.
                    [*sizes[algo], f"resources.num_workers={number}", "resources.ray_num_cpus=4"],
                    seed=1,
                )
            )
            for number in seconds
        }
        for trainer in trainers.values():
            for _ in range(3):  # Until episodes are not over at once, and noise tables are there.
                trainer.train()
        before = trainers[1].workers.num_env_steps_sampled
        for _ in range(num_rounds):
            for number, trainer in trainers.items():
                started = time.perf_counter()
                trainer.train()
                seconds[number] += time.perf_counter() - started
        steps = trainers[1].workers.num_env_steps_sampled - before
    return steps / seconds[1], steps / seconds[2]


def ratio_of_bare_processes(num_rounds: int) -> float:
    """What the machine itself gives: cores that share a clock or a cache slow each other down."""
    seconds = {1: 0.0, 2: 0.0}
    with multiprocessing.Pool(2) as pool:
        for _ in range(num_rounds):
            for number in seconds:
                started = time.perf_counter()
                pool.map(sum_up, [10_000_000] * number, chunksize=1)
                seconds[number] += time.perf_counter() - started
    return 2.0 * seconds[1] / seconds[2]


def sum_up(number: int) -> int:
    return sum(each * each for each in range(number))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--algo", default="ppo", choices=["ppo", "impala", "appo", "es", "ars"])
    parser.add_argument("--rounds", type=int, default=20)
    asked = parser.parse_args()
    if asked.algo in ("es", "ars"):
        one, two = evolution_steps_per_s(asked.algo, asked.rounds)
    else:
        one, two = (steps_per_s(asked.algo, number, asked.rounds) for number in (1, 2))
    print(f"1 worker {one:.0f} env steps/s, 2 workers {two:.0f}, ratio {two / one:.2f}")
    print(f"of two bare Python processes: {ratio_of_bare_processes(asked.rounds):.2f}")


if __name__ == "__main__":
    main()
