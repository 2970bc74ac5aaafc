"""Seconds until SAC swings Pendulum up, from the start of the process: a mean return of -150 over
the last 20 training episodes. rlrun with what it has tuned, SB3 with rl-zoo's values.

python benchmarks/solve_pendulum.py [--sb3-python PYTHON] [--reps 3]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections import deque

MARK, EPISODES, MAX_STEPS = -150.0, 20, 20_000


class Returns:
    """The last returns of training, which end it."""

    def __init__(self) -> None:
        self.last: deque[float] = deque(maxlen=EPISODES)

    def add(self, episode_return: float) -> None:
        self.last.append(episode_return)

    @property
    def are_enough(self) -> bool:
        return len(self.last) == EPISODES and statistics.mean(self.last) >= MARK


def rlrun_side(seed: int) -> int:
    """Env steps that it took."""
    import rlrun

    returns = Returns()
    overrides = ["algo.timesteps_per_iteration=200"]
    with rlrun.make_trainer("sac", "pendulum", overrides, seed=seed) as trainer:
        steps = 0
        while not returns.are_enough and steps < MAX_STEPS:
            result = trainer.train()
            steps = result["timesteps_total"]
            if result["episodes_this_iter"]:
                returns.add(result["hist_stats"]["episode_reward"][-1])
    return steps


def sb3_side(seed: int) -> int:
    import torch
    from stable_baselines3 import SAC
    from stable_baselines3.common.callbacks import BaseCallback

    torch.set_num_threads(1)

    class UntilSolved(BaseCallback):
        returns = Returns()

        def _on_step(self) -> bool:
            for info in self.locals["infos"]:
                if "episode" in info:
                    self.returns.add(info["episode"]["r"])
            return not self.returns.are_enough

    model = SAC("MlpPolicy", "Pendulum-v1", learning_rate=1e-3, device="cpu", seed=seed)
    model.learn(MAX_STEPS, callback=UntilSolved())
    return int(model.num_timesteps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sb3-python", default=sys.executable, help="a Python that has SB3")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--side", choices=("rlrun", "sb3"), help="run this one, here")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.side:
        print((rlrun_side if arguments.side == "rlrun" else sb3_side)(arguments.seed))
        return
    for seed in range(1, arguments.reps + 1):
        seconds = {}
        for side, python in (("sb3", arguments.sb3_python), ("rlrun", sys.executable)):
            started = time.perf_counter()
            done = subprocess.run(
                [python, __file__, "--side", side, "--seed", str(seed)],
                capture_output=True,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                check=True,
            )
            seconds[side] = time.perf_counter() - started
            steps = done.stdout.split()[-1]
            print(f"seed {seed}  {side:5s} {seconds[side]:6.1f} s  {steps} env steps", flush=True)
        print(f"seed {seed}  ratio {seconds['rlrun'] / seconds['sb3']:.2f}", flush=True)


if __name__ == "__main__":
    main()
