"""How much faster two Ray workers sample than one, on an env that burns 5 ms of CPU a step.

python benchmarks/two_workers.py
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))

NUM_ROUNDS = 3
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


def steps_per_s(num_workers: int) -> float:
    from rlrun.run import make_trainer

    overrides = [
        "tuned=none",
        f"resources.num_workers={num_workers}",
        "algo.num_envs_per_worker=1",
        "algo.rollout_fragment_length=200",
        f"algo.train_batch_size={200 * num_workers}",
    ]
    with make_trainer("ppo", "two_workers.BurningEnv", overrides, seed=1) as trainer:
        trainer.workers.sample()
        started = time.perf_counter()
        for _ in range(NUM_ROUNDS):
            trainer.workers.sample()
        return NUM_ROUNDS * 200 * num_workers / (time.perf_counter() - started)


def main() -> None:
    one, two = steps_per_s(1), steps_per_s(2)
    print(f"1 worker {one:.0f} env steps/s, 2 workers {two:.0f}, ratio {two / one:.2f}")


if __name__ == "__main__":
    main()
