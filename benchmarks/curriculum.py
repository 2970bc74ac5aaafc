"""docs/curriculum.svg: PPO on the whole corridor, with and without a curriculum.

    python benchmarks/curriculum.py [SEEDS] [FOLDER]

Runs are evaluated on all 20 places every third iteration, whatever they train on.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from rlrun.compose import compose
from rlrun.run import Run

matplotlib.use("svg")
from matplotlib import pyplot

TARGET = Path(__file__).resolve().parent.parent / "docs" / "curriculum.svg"
STEPS = 60_000
EVALUATION = ["evaluation.interval=3", "evaluation.duration=8", "evaluation.env_task=20"]
CURRICULUM = [
    "curriculum=by_reward",
    "curriculum.tasks=[2,4,6,8,10,12,14,16,18,20]",
    "curriculum.threshold=0.9",
]
KINDS = {"with the curriculum": CURRICULUM, "plain": []}


def main() -> None:
    seeds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    folder = Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp())
    figure, (top, bottom) = pyplot.subplots(2, sharex=True, figsize=(6, 4.5), height_ratios=(2, 1))
    for color, (kind, overrides) in zip(("C0", "C3"), KINDS.items(), strict=True):
        runs = [results(folder, kind, overrides, seed) for seed in range(1, seeds + 1)]
        evaluated = [[each for each in run if "evaluation" in each] for run in runs]
        steps = [each["timesteps_total"] for each in evaluated[0]]
        rewards = np.array(
            [[each["evaluation"]["episode_reward_mean"] for each in run] for run in evaluated]
        )
        top.plot(steps, rewards.mean(0), color, label=kind)
        top.fill_between(steps, rewards.min(0), rewards.max(0), color=color, alpha=0.2, lw=0)
        print(kind, rewards[:, -1].tolist())
        for run in runs if overrides else []:
            tasks = [each["env_task"] for each in run]
            bottom.plot([each["timesteps_total"] for each in run], tasks, color, alpha=0.6)
    top.set_ylabel("return on all 20 places")
    top.legend(frameon=False, loc="center left")
    bottom.set_ylabel("env_task")
    bottom.set_xlabel("env steps")
    for axis in (top, bottom):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(TARGET, metadata={"Date": None})


def results(folder: Path, kind: str, overrides: list[str], seed: int) -> list[dict[str, Any]]:
    """The results of one run, which is made if it is not there."""
    run_folder = folder / f"{kind.replace(' ', '_')}_{seed}"
    if not run_folder.exists():
        settings = ["algo=ppo", "env=corridor", f"seed={seed}", f"+stop.timesteps_total={STEPS}"]
        logger = "logger=none"
        Run(compose([*settings, *overrides, *EVALUATION, logger]), run_folder).execute()
    return [json.loads(line) for line in (run_folder / "result.json").open()]


if __name__ == "__main__":
    main()
