"""How many steps ASHA needs for the best reward that FIFO finds in the same 27 trials.

    python benchmarks/asha.py [--steps N]

PPO on CartPole, nine learning rates of three seeds each. The bar: ASHA's best trial ends with at
least FIFO's reward, and all of its trials together take at most 40 % of FIFO's steps; the exit
status is 1 if not.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import tempfile
from pathlib import Path

BAR = 0.4
LEARNING_RATES = ("1e-5", "3e-5", "1e-4", "2e-4", "5e-4", "1e-3", "2e-3", "5e-3", "1e-2")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=61440, help="of a trial that is not stopped")
    arguments = parser.parse_args()
    asha = [
        *("scheduler=asha", "scheduler.time_attr=timesteps_total", "scheduler.reduction_factor=3"),
        *(f"scheduler.grace_period={arguments.steps // 9}", f"scheduler.max_t={arguments.steps}"),
    ]
    with tempfile.TemporaryDirectory() as scratch:
        all_steps, all_best = sweep(Path(scratch) / "fifo", arguments.steps, [])
        steps, best = sweep(Path(scratch) / "asha", arguments.steps, asha)
    print(f"FIFO: best {all_best:.1f} in {all_steps} steps; ASHA: best {best:.1f} in {steps} steps")
    print(f"ASHA takes {steps / all_steps:.0%} of FIFO's steps")
    return 0 if best >= all_best and steps <= BAR * all_steps else 1


def sweep(folder: Path, num_steps: int, overrides: list[str]) -> tuple[int, float]:
    """(steps of all trials, mean reward of the best one's last 100 episodes)."""
    command = [
        *(sys.executable, "-m", "rlrun", "-m", "algo=ppo", "env=cartpole", "logger=none"),
        *(f"algo.lr={','.join(LEARNING_RATES)}", "seed=1,2,3", f"hydra.sweep.dir={folder}"),
        *("algo.timesteps_per_iteration=0", f"stop.timesteps_total={num_steps}", *overrides),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with (folder / "sweep_results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * len(LEARNING_RATES)
    steps = sum(int(row["timesteps_total"]) for row in rows)
    return steps, max(float(row["episode_reward_mean"]) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
