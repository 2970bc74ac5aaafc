"""How long an iteration lasts with an evaluation beside it that takes as long as the train step.

python benchmarks/parallel_evaluation.py [--rounds N]     (two free cores)

The env burns 5 ms of CPU a step. Train steps alone, evaluations alone (on a remote worker), both at
once, and both at once with evaluation.duration=auto, round after round. The bar: at once lasts at
most 1.25 of the longer of the two; the exit status is 1 if it does not.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

BAR = 1.25
STEPS = 400
"""Env steps of a train step and of an evaluation: two seconds."""


def make(*overrides: str) -> Any:
    from rlrun.run import make_trainer

    return make_trainer(
        "ppo",
        "two_workers.BurningEnv",
        [
            "tuned=none",
            "algo.num_envs_per_worker=1",
            f"algo.train_batch_size={STEPS}",
            "evaluation.num_workers=1",
            f"evaluation.duration={STEPS}",
            "evaluation.duration_unit=timesteps",
            *overrides,
        ],
        seed=1,
    )


def seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=7)
    num_rounds = parser.parse_args().rounds
    beside = ["evaluation.interval=1", "evaluation.parallel_to_training=true"]
    with (
        make() as alone,
        make(*beside, "resources.num_cpus_per_worker=0.5") as both,
        make(*beside, "resources.num_cpus_per_worker=0.5", "evaluation.duration=auto") as auto,
    ):
        found: dict[str, list[float]] = {"train": [], "evaluation": [], "both": [], "auto": []}
        for number in range(num_rounds + 1):
            times = {
                "train": seconds(alone.train),
                "evaluation": seconds(alone.evaluate),
                "both": seconds(both.train),
                "auto": seconds(auto.train),
            }
            if number:  # The first one makes workers and warms up.
                for name, value in times.items():
                    found[name].append(value)
    medians = {name: median(values) for name, values in found.items()}
    longer = max(medians["train"], medians["evaluation"])
    ratios = {"both": medians["both"] / longer, "auto": medians["auto"] / medians["train"]}
    print({name: round(value, 3) for name, value in medians.items()})
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.2f} of the longer one (at most {BAR})")
    return int(max(ratios.values()) > BAR)


if __name__ == "__main__":
    sys.exit(main())
