"""Folders of runs and sweeps as they would be left, and a driver that only looks like one."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlrun.sweep.settings import SweepSettings
from rlrun.sweep.trial import Trial, TrialResources


def make_result(iteration: int, reward: float, **changes: Any) -> dict[str, Any]:
    """A result with 100 env steps and half a second to each iteration."""
    return {
        "training_iteration": iteration,
        "timesteps_total": 100 * iteration,
        "time_total_s": 0.5 * iteration,
        "episode_reward_mean": reward,
        **changes,
    }


def write_run(folder: Path, rewards: list[float], *, seed: int = 0, **config: Any) -> Path:
    """A run's folder: params.json, and a result for each of the rewards."""
    folder.mkdir(parents=True)
    plain = {
        "seed": seed,
        "stop": {"timesteps_total": 1000},
        "objective": "episode_reward_mean",
        "algo": {"_target_": "rlrun.algos.ppo.PPO", "lr": 0.01},
        "env": {"id": "CartPole-v1"},
        **config,
    }
    (folder / "params.json").write_text(json.dumps(plain))
    results = [make_result(number, reward) for number, reward in enumerate(rewards, start=1)]
    (folder / "result.json").write_text("".join(json.dumps(each) + "\n" for each in results))
    return folder


def write_checkpoint(folder: Path, iteration: int) -> Path:
    """What looks like a complete checkpoint from outside."""
    path = folder / f"checkpoint_{iteration:06d}"
    path.mkdir()
    (path / "manifest.json").write_text("{}")
    return path


def write_sweep(folder: Path, rewards: dict[tuple[float, int], list[float]]) -> Path:
    """A finished sweep over (lr, seed), with the rewards of each trial; none: it has not begun."""
    lrs = list(dict.fromkeys(lr for lr, _ in rewards))
    folder.mkdir(parents=True, exist_ok=True)
    events: list[dict[str, Any]] = []
    for number, ((lr, seed), of_trial) in enumerate(rewards.items()):
        params = {"algo.lr": lr, "seed": seed}
        facts = {"number": number, "point": lrs.index(lr), "params": params}
        events.append({"event": "trial", **facts, "overrides": [], "time": 0.0})
        if of_trial:
            algo = {"_target_": "rlrun.algos.ppo.PPO", "lr": lr}
            write_run(folder / str(number), of_trial, seed=seed, algo=algo)
            events.append({"event": "start", "number": number})
            events.append({"event": "end", "number": number, "status": "finished", "error": ""})
    (folder / "journal.jsonl").write_text("".join(json.dumps(each) + "\n" for each in events))
    return folder


@dataclass
class FakeDriver:
    """What observers read of a sweep's driver."""

    folder: Path
    num_trials: int | None
    metric: str = "episode_reward_mean"
    settings: SweepSettings = field(default_factory=SweepSettings)
    total: dict[str, float] = field(default_factory=lambda: {"CPU": 4.0, "GPU": 0.0})
    used: dict[str, float] = field(default_factory=lambda: {"CPU": 2.0})

    def __post_init__(self) -> None:
        self.started_at = time.time()
        self.trials = [
            Trial(
                number=number,
                overrides=[],
                params={"algo.lr": 10.0 ** -(number % 4 + 1), "seed": number % 2},
                folder=self.folder / str(number),
                point=number // 2,
                resources=TrialResources(cpus=1),
            )
            for number in range(self.num_trials or 4)
        ]

    @property
    def best(self) -> Trial | None:
        known = [trial for trial in self.trials if self.value_of(trial.result) is not None]
        return max(known, key=lambda trial: trial.result[self.metric], default=None)

    def value_of(self, result: dict[str, Any]) -> float | None:
        return result.get(self.metric)
