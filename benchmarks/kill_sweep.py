"""Kills sweeps with -9 at random moments, resumes them, and compares with an undisturbed one.

    python benchmarks/kill_sweep.py                      # 10 moments x 2 ways x 12 trials
    python benchmarks/kill_sweep.py --moments 2 --trials 4

The two ways: the driver alone, whose trials have to end by themselves; and it with all that it has
started. After the resume all trials must have finished, with the results of the undisturbed sweep
(so that no iteration stands there twice), and no finished trial may have run again.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

ORPHANS_MAY_LIVE_S = 30.0
"""Twice what is promised, as the machine may be busy."""

TIME_LIKE = (
    *("time", "timers", "date", "pid", "experiment_id", "trial_id", "perf", "since_restore"),
    *("bottleneck", "hostname", "node_ip"),
)
"""Parts of the keys that no two runs have in common."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--moments", type=int, default=10)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--iterations", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        failures = disturb(Path(scratch), args)
    print(f"{failures} of {2 * args.moments} failed")
    sys.exit(1 if failures else 0)


def disturb(scratch: Path, args: argparse.Namespace) -> int:
    """Run all of it; returns how many resumed sweeps were not as they should be."""
    command = sweep_command(args.trials, args.iterations)
    started = time.monotonic()
    subprocess.run([*command, f"hydra.sweep.dir={scratch}/undisturbed"], check=True)
    duration = time.monotonic() - started
    expected = results_of_sweep(scratch / "undisturbed", args.trials)
    chance, failures = random.Random(args.seed), 0
    for index in range(2 * args.moments):
        is_group = index % 2 == 1
        folder = scratch / f"disturbed_{index}"
        moment = chance.uniform(0.0, duration)
        problems = kill_and_resume(command, folder, moment, is_group=is_group)
        problems += compare(expected, results_of_sweep(folder, args.trials))
        way = "all processes" if is_group else "the driver alone"
        print(f"{way} killed after {moment:.1f} s: {'; '.join(problems) or 'as undisturbed'}")
        failures += bool(problems)
        shutil.rmtree(folder, ignore_errors=True)
    return failures


def sweep_command(num_trials: int, num_iterations: int) -> list[str]:
    """Small PPO runs without Ray, with a checkpoint every second iteration."""
    seeds = ",".join(str(seed) for seed in range(num_trials))
    return [
        *(sys.executable, "-m", "rlrun", "-m", f"seed={seeds}", "logger=none", "checkpoint_freq=2"),
        *("algo.num_envs_per_worker=2", "algo.train_batch_size=64", "algo.minibatch_size=32"),
        *("algo.num_epochs=2", "algo.timesteps_per_iteration=512"),
        f"stop.training_iteration={num_iterations}",
    ]


def kill_and_resume(
    command: list[str], folder: Path, moment: float, *, is_group: bool
) -> list[str]:
    """Start a sweep, kill it after `moment` seconds, and resume it; what went wrong."""
    sweep = subprocess.Popen(
        [*command, f"hydra.sweep.dir={folder}"], start_new_session=True, stdout=subprocess.DEVNULL
    )
    time.sleep(moment)
    descendants = descendants_of(sweep.pid)
    sweep.kill()
    if is_group:
        for pid in descendants:
            kill(pid)
    sweep.wait()
    problems = []
    if not wait_for_ends(descendants):
        problems.append("processes without a driver lived on")
    before = finished_trials(folder)
    if not (folder / "sweep.json").exists():  # It had not begun.
        resumed = subprocess.run([*command, f"hydra.sweep.dir={folder}"], stdout=subprocess.DEVNULL)
    else:
        resumed = subprocess.run(
            [sys.executable, "-m", "rlrun", "resume", str(folder)], stdout=subprocess.DEVNULL
        )
    if resumed.returncode:
        problems.append(f"the resumed sweep ended with status {resumed.returncode}")
    for trial, stamp in before.items():
        if (trial / "result.json").stat().st_mtime_ns != stamp:
            problems.append(f"trial {trial.name} had finished, and ran again")
    return problems


def finished_trials(folder: Path) -> dict[Path, int]:
    """When the results of trials that have finished were last written."""
    journal = folder / "journal.jsonl"
    if not journal.exists():
        return {}
    events = [json.loads(line) for line in journal.read_text().splitlines() if line.endswith("}")]
    ends = [event for event in events if event["event"] == "end" and event["status"] == "finished"]
    trials = [folder / str(event["number"]) for event in ends]
    return {trial: (trial / "result.json").stat().st_mtime_ns for trial in trials}


def results_of_sweep(folder: Path, num_trials: int) -> list[list[dict[str, Any]]]:
    """The results of each trial, less what no two runs have in common."""
    return [results_of(folder / str(number)) for number in range(num_trials)]


def results_of(trial: Path) -> list[dict[str, Any]]:
    if not (trial / "result.json").exists():
        return []
    lines = (trial / "result.json").read_text().splitlines()
    return [lasting(json.loads(line)) for line in lines]


def lasting(result: dict[str, Any]) -> dict[str, Any]:
    return {
        key: lasting(value) if isinstance(value, dict) else repr(value)
        for key, value in result.items()
        if not any(part in key for part in TIME_LIKE)
    }


def compare(expected: list[list[Any]], found: list[list[Any]]) -> list[str]:
    """In what trials differ from those of the undisturbed sweep."""
    problems = []
    for number, (right, its) in enumerate(zip(expected, found, strict=True)):
        if len(right) != len(its):
            problems.append(f"trial {number} has {len(its)} results, not {len(right)}")
        keys = {
            key for one, other in zip(right, its, strict=False) for key in differing(one, other)
        }
        if keys:
            problems.append(f"trial {number} has other values of {', '.join(sorted(keys))}")
    return problems


def differing(one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    return {key for key in one.keys() | other.keys() if one.get(key) != other.get(key)}


def descendants_of(pid: int) -> list[int]:
    """The processes that one has started, and those that they have."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    parents = [tuple(map(int, line.split())) for line in listed.stdout.splitlines()]
    found = [pid]
    for parent in found:
        found += [child for child, of in parents if of == parent]
    return found[1:]


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_for_ends(pids: list[int]) -> bool:
    """Whether all of the processes end in time."""
    deadline = time.monotonic() + ORPHANS_MAY_LIVE_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


if __name__ == "__main__":
    main()
