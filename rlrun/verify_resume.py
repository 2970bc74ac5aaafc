"""`rlrun verify-resume`: whether a run that is resumed gives what one gives that never stopped."""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rlrun.compose import plain_config
from rlrun.core.checkpoint import checkpoint_name, load_checkpoint
from rlrun.core.errors import RlrunError
from rlrun.early import refuse_early
from rlrun.run_folder import RESULTS

CLOCKS = frozenset(
    {
        *(
            "bottleneck",
            "date",
            "done",
            "experiment_id",
            "hostname",
            "learner_idle_share",
            "node_ip",
        ),
        *("perf", "pid", "sampler_perf", "seconds", "timers", "timestamp", "trial_id"),
        *("warmup_time",),
    }
)
"""Parts of keys that speak of clock, machine, process or stop rule; so do those below."""
CLOCK_BEGINNINGS, CLOCK_ENDS = ("time_",), ("_since_restore", "_s")

STRAIGHT, HALVES = "straight", "halves"


def verify(config: Any, num_iterations: int) -> str:
    """Train 2 N iterations at once, and N and then N more by a resume, each in a process of its
    own; returns what was compared if all numbers are the same, in results and last checkpoints.

    Raises ConfigError if the run cannot be, RlrunError that names the first key that differs.
    """
    plain = plain_config(config)
    if plain.get("seed") is None:
        plain["seed"] = secrets.randbelow(2**31)
    refuse_early(plain)
    plain |= {"logger": {}, "pass_mark": {}, "output": None, "checkpoint_at_end": True}
    plain |= {"checkpoint_freq": 0, "keep_checkpoints_num": None}
    # Of the two runs only one ends after the first half.
    plain["evaluation"] = {**plain["evaluation"], "at_end": False}
    with tempfile.TemporaryDirectory(prefix="rlrun_verify_resume_") as name:
        folder = Path(name)
        _train(folder, STRAIGHT, plain, 2 * num_iterations)
        _train(folder, HALVES, plain, num_iterations)
        first_half = _results(folder / HALVES)
        _rlrun("resume", str(folder / HALVES), f"stop.training_iteration={2 * num_iterations}")
        straight, resumed = _results(folder / STRAIGHT), _results(folder / HALVES)
        where = f"seed={plain['seed']}"
        for iteration, result in enumerate(first_half, 1):
            _require_same(
                straight[iteration - 1],
                result,
                f"Two runs with {where} differ in iteration {iteration}, before any resume",
                "the other",
            )
        for iteration in range(num_iterations + 1, 2 * num_iterations + 1):
            _require_same(
                straight[iteration - 1],
                resumed[iteration - 1],
                f"The resumed run ({where}) differs in iteration {iteration}",
                "resumed",
            )
        last = checkpoint_name(2 * num_iterations)
        states = [load_checkpoint(folder / run / last) for run in (STRAIGHT, HALVES)]
        what = f"The results are the same, but the checkpoints of iteration {2 * num_iterations}"
        num_numbers = _require_same(states[0], states[1], f"{what} differ ({where})", "resumed")
    return (
        f"{2 * num_iterations} iterations at once, and {num_iterations} + {num_iterations} with a "
        f"resume between, gave the same, bit for bit: all results, and {num_numbers} entries of "
        f"the last checkpoint ({where})."
    )


def _train(folder: Path, name: str, plain: Mapping[str, Any], num_iterations: int) -> None:
    file = folder / f"{name}.json"
    file.write_text(json.dumps({**plain, "stop": {"training_iteration": num_iterations}}))
    _rlrun("-f", str(file), f"hydra.run.dir='{folder / name}'")


def _rlrun(*arguments: str) -> None:
    command = [sys.executable, "-m", "rlrun", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RlrunError(f"A run failed that was to be compared:\n{done.stderr.strip()}")


def _results(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / RESULTS).read_text().splitlines()]


def _require_same(expected: Any, found: Any, what: str, name: str) -> int:
    """The number of leaves of two trees that are the same. Raises RlrunError for the first that is
    not."""
    left, right = dict(_leaves(expected)), dict(_leaves(found))
    for key in [*left, *(key for key in right if key not in left)]:
        absent = "not there"
        one, other = left.get(key, absent), right.get(key, absent)
        if not _is_same(one, other):
            raise RlrunError(
                f"{what}, first in {key}: straight {_shown(one, other)}, {name} "
                f"{_shown(other, one)}."
            )
    return len(left)


def _leaves(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping | list):
        children = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        for name, child in children:
            if not _is_clock(str(name)):
                yield from _leaves(child, f"{key}/{name}" if key else str(name))
    else:
        yield key, tree


def _is_clock(name: str) -> bool:
    return name in CLOCKS or name.startswith(CLOCK_BEGINNINGS) or name.endswith(CLOCK_ENDS)


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        same_kind = (one.dtype, one.shape) == (other.dtype, other.shape)
        return same_kind and one.tobytes() == other.tobytes()
    return type(one) is type(other) and repr(one) == repr(other)  # nan is nan


def _shown(value: Any, other: Any) -> str:
    if not isinstance(value, np.ndarray):
        return repr(value)
    if isinstance(other, np.ndarray) and value.shape == other.shape and value.size:
        at = np.flatnonzero(value.reshape(-1) != other.reshape(-1))
        index = int(at[0]) if len(at) else 0
        return f"{value.reshape(-1)[index]!r} at {index} of {value.size}"
    return f"an array {value.shape}"
