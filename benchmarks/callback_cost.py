"""What callbacks cost PPO on CartPole, in CPU time of this process.

python benchmarks/callback_cost.py [--rounds N] [--iterations N]

Trainers without a callback, with one that overrides on_episode_step, and with one that overrides
on_train_result alone, each with the same seed, take turns iteration by iteration. The bar: a step
hook costs at most 25 %; the exit status is 1 if it costs more. CPU time counts on a busy machine.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

import rlrun

sys.path.insert(0, str(Path(__file__).resolve().parent))

BAR = 1.25


class Steps(rlrun.Callbacks):
    """Looks at each step as users do."""

    def on_episode_step(self, *, episode: Any, **kwargs: Any) -> None:
        episode.user_data["furthest"] = max(
            episode.user_data.get("furthest", 0.0), abs(episode.last_raw_obs_for()[0])
        )


class Results(rlrun.Callbacks):
    """Costs nothing in the sampler."""

    def on_train_result(self, *, result: dict[str, Any], **kwargs: Any) -> None:
        result["seen"] = True


KINDS = {"none": None, "results": "callback_cost.Results", "steps": "callback_cost.Steps"}


def make(path: str | None) -> Any:
    overrides = [] if path is None else [f"callbacks.one._target_={path}"]
    return rlrun.make_trainer("ppo", "cartpole", overrides, seed=1)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--iterations", type=int, default=20)
    arguments = parser.parse_args()
    ratios: dict[str, list[float]] = {name: [] for name in KINDS}
    for _ in range(arguments.rounds):
        spent = dict.fromkeys(KINDS, 0.0)
        trainers = {name: make(path) for name, path in KINDS.items()}
        for number in range(arguments.iterations + 1):
            for turn in range(len(KINDS)):
                name = list(KINDS)[(number + turn) % len(KINDS)]
                started = time.process_time()
                trainers[name].train()
                if number:
                    spent[name] += time.process_time() - started
        for trainer in trainers.values():
            trainer.stop()
        for name, seconds in spent.items():
            ratios[name].append(seconds / spent["none"])
    for name, values in ratios.items():
        print(f"{name}: {median(values):.3f} ({min(values):.3f}-{max(values):.3f})")
    return int(median(ratios["steps"]) > BAR)


if __name__ == "__main__":
    sys.exit(main())
