"""`rlrun autotune`: which settings train fastest on this machine, found by short measurements."""

from __future__ import annotations

import copy
import os
import shlex
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rlrun.compose import plain_config, set_value
from rlrun.config import flatten_keys
from rlrun.core.errors import ConfigError, RlrunError
from rlrun.core.phases import PHASES
from rlrun.loggers.terminal import number, print_line
from rlrun.parts import read_config, with_seed
from rlrun.trainer import Trainer

NUM_ENVS, VECTORIZATION = "algo.num_envs_per_worker", "env.vectorization"
THREADS, COMPILE = "resources.num_cpus_for_driver", "model.compile"
NUM_WORKERS = "resources.num_workers"
KEYS = (NUM_ENVS, VECTORIZATION, THREADS, COMPILE, NUM_WORKERS)
"""What is varied, in this order: Ray's processes come last, as they stay once they are there."""

MOST_ENVS = 64
MIN_REPEATS, MAX_REPEATS = 3, 5
"""Repeats of one measurement, each of whole iterations; their median counts."""

FIRST_ITERATION_STEPS = 20
"""Env steps of an iteration until it is known how fast they are."""

NEVER = 10**9
"""An evaluation.interval that no measurement reaches."""

TOLERANCE = 0.1
"""By which what is learned of an env step may differ between settings that are compared."""

HOPELESS = 0.5
"""The share of the first speed below which one repeat is enough."""

NUM_PHASES_SHOWN = 3
LABEL_WIDTH = 34
ROW = f"{{:<{LABEL_WIDTH}}} {{:<26}} {{:<20}} {{}}"


@dataclass
class Measurement:
    """How fast one setting trained."""

    speeds: list[float] = field(default_factory=list)
    """Env steps per second of whole training, of each repeat."""
    phases: dict[str, float] = field(default_factory=dict)
    """Seconds by phase, over all repeats."""
    updates_per_step: list[float] = field(default_factory=list)
    rows_per_step: list[float] = field(default_factory=list)
    """How much was learned for each env step, of each repeat."""

    @property
    def median(self) -> float:
        return float(np.median(self.speeds))

    @property
    def quartiles(self) -> tuple[float, float]:
        low, high = np.quantile(self.speeds, (0.25, 0.75))
        return float(low), float(high)

    def is_faster(self, other: Measurement) -> bool:
        """Whether the difference is more than the noise: the middle halves of the repeats do not
        overlap."""
        return self.quartiles[0] > other.quartiles[1]

    def joined(self, other: Measurement) -> Measurement:
        """Both measurements of one setting as one."""
        return Measurement(
            speeds=self.speeds + other.speeds,
            phases={name: self.phases[name] + other.phases[name] for name in PHASES},
            updates_per_step=self.updates_per_step + other.updates_per_step,
            rows_per_step=self.rows_per_step + other.rows_per_step,
        )

    def require_as_much_learned(self, reference: Measurement) -> None:
        """Raise RlrunError if an env step is learned from more or less than in `reference`: being
        faster by that is no gain."""
        for what, rates, others in (
            ("updates", self.updates_per_step, reference.updates_per_step),
            ("rows learned", self.rows_per_step, reference.rows_per_step),
        ):
            rate, low, high = float(np.median(rates)), min(others), max(others)
            if not (1 - TOLERANCE) * low <= rate <= (1 + TOLERANCE) * high:
                raise RlrunError(
                    f"changes what is learned: {number(1e3 * rate)} {what} per 1,000 env steps, "
                    f"not {number(1e3 * float(np.median(others)))}"
                )


def autotune(
    config: Any, arguments: Sequence[str], typed: Collection[str], *, seconds: float, compiles: bool
) -> dict[str, Any]:
    """Measure and print the settings of the run `rlrun <arguments>` that change its speed, within
    about `seconds`, and the command line with the fastest ones; returns these by key.

    `config` is what the arguments compose; keys that the user has `typed` stay as they are.
    `compiles`: also try model.compile. Raises ConfigError if the run cannot be, and others as they
    come where the run fails as it is.
    """
    plain = with_seed(plain_config(config))
    if plain.get("task") is not None:
        raise ConfigError(
            f"task={plain['task']} trains in its own way, so that nothing is known here that would "
            f"change its speed. Leave it null."
        )
    read_config(plain)
    keys = [key for key in KEYS if key not in typed and (key != COMPILE or compiles)]
    search = _Search(_as_measured(plain), seconds, keys)
    search.run()
    changes = search.changes
    speedup = search.best.median / search.base.median - 1.0
    if changes:
        print_line(f"\n{speedup:+.0%} env steps per second (median of both measurements):")
    else:
        print_line("\nNothing was faster than this by more than the noise:")
    tuned = [_setting(key, value) for key, value in changes.items()]
    print_line(f"  {shlex.join(['rlrun', *arguments, *tuned])}")
    return changes


class _Search:
    """One key after the other, each from the best setting so far; then that once more against the
    one that it began with."""

    def __init__(self, plain: dict[str, Any], seconds: float, keys: Sequence[str]) -> None:
        self._plain = plain
        self._keys = [key for key in keys if key in flatten_keys(plain)]
        self._ends_at = time.perf_counter() + seconds
        num_candidates = sum(len(_others(plain, key)) for key in self._keys)
        self._share_s = seconds / (num_candidates + 3)  # The first one, and both at the end.
        self._cost_s = self._share_s
        """Of one measurement, as far as is known."""
        self.changes: dict[str, Any] = {}
        """The best setting, where it differs from the one that it began with."""
        self.base = Measurement()
        self.best = Measurement()

    def run(self) -> None:
        print_line(ROW.format("", "env steps/s (middle half)", "to the best before", "time"))
        started = time.perf_counter()
        self.best = self.base = _measure(self._plain, self._share_s, self._time_left_s)
        self._cost_s = max(self._share_s, time.perf_counter() - started)
        _print_row("as given", self.base)
        for key in self._keys:
            self._try_others(key)
        if self.changes:
            self._confirm()
        if any(key in (NUM_ENVS, NUM_WORKERS) for key in self._keys):
            print_line(
                "* changes the rollout: as many rows a train batch, of more envs and with fewer "
                "steps of each, where algo.rollout_fragment_length is auto"
            )

    def _try_others(self, key: str) -> None:
        """Measure the other values of a key, and keep the fastest if it is faster than the best."""
        start, best_value = self.best, None
        plain = _with(self._plain, self.changes)
        values = _others(plain, key)
        star = " *" if key in (NUM_ENVS, NUM_WORKERS) else ""
        while values:
            # What is best by then is measured once more.
            if self._time_left_s < 3 * self._cost_s:
                _print_row(_setting(key, *values), "not measured: no time left (--seconds)")
                break
            value = values.pop(0)
            found = self._attempt(_with(plain, {key: value}))
            _print_row(_setting(key, value) + star, found, start)
            if isinstance(found, Measurement):
                if found.is_faster(start) and found.median > self.best.median:
                    self.best, best_value = found, value
            elif values and key != VECTORIZATION:
                _print_row(_setting(key, *values), "not tried, as the one before was refused")
                break
        if best_value is not None:
            self.changes[key] = best_value

    def _confirm(self) -> None:
        """Compare the best setting again with the first one: of many that are measured once, one
        may have been lucky, and the machine busier before."""
        chosen = self._attempt(_with(self._plain, self.changes))
        again = self._attempt(self._plain)
        _print_row("all that was faster, again", chosen)
        _print_row("as given, again", again)
        if isinstance(chosen, Measurement) and isinstance(again, Measurement):
            self.best, self.base = self.best.joined(chosen), self.base.joined(again)
            if chosen.is_faster(again) and self.best.is_faster(self.base):
                return
        self.changes = {}

    def _attempt(self, plain: dict[str, Any]) -> Measurement | str:
        """A measurement, or why there is none."""
        try:
            return _measure(plain, self._share_s, self._time_left_s, self.base)
        except RlrunError as error:
            return str(error)
        except Exception as error:  # Of an env, a compiler: it concerns this candidate alone.
            return f"{type(error).__name__}: {error}"

    @property
    def _time_left_s(self) -> float:
        return self._ends_at - time.perf_counter()


def _as_measured(plain: dict[str, Any]) -> dict[str, Any]:
    """The run without what it writes, without evaluations, and without what only its beginning has:
    random actions, and the env steps before the first update."""
    plain = copy.deepcopy(plain)
    plain |= {"logger": {}, "output": None, "init_from": None}
    plain["env"]["record_env"] = False
    plain["evaluation"]["record"] = 0
    if plain["evaluation"]["interval"] is not None:
        plain["evaluation"]["interval"] = NEVER
    algo, exploration = plain["algo"], plain["exploration"]
    if "learning_starts" in algo:
        algo["learning_starts"] = min(algo["learning_starts"], algo["train_batch_size"])
    if "random_timesteps" in exploration:
        exploration["random_timesteps"] = 0
    return plain


def _with(plain: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(plain)
    for key, value in values.items():
        set_value(changed, key, value)
    return changed


def _others(plain: dict[str, Any], key: str) -> list[Any]:
    """The values of `key` to compare its present one with."""
    group, name = key.split(".")
    present, num_cpus = plain[group][name], len(os.sched_getaffinity(0))
    values: dict[str, list[Any]] = {
        NUM_ENVS: [count for count in _doubled(MOST_ENVS) if _fits(plain, count)],
        VECTORIZATION: ["sync", "async", "native"],
        THREADS: _doubled(num_cpus),
        COMPILE: [False, True],
        NUM_WORKERS: [0, *_doubled(num_cpus)],
    }
    return [value for value in values[key] if value != present]


def _doubled(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    return [*(2**power for power in range((most - 1).bit_length())), most]


def _fits(plain: dict[str, Any], num_envs: int) -> bool:
    """Whether fragments of so many envs make up a train batch of just the size that is set."""
    algo = plain["algo"]
    if algo.get("rollout_fragment_length") != "auto":
        return True
    return bool(
        algo["train_batch_size"] % (num_envs * max(plain["resources"]["num_workers"], 1)) == 0
    )


def _measure(
    plain: dict[str, Any],
    share_s: float,
    time_left_s: float,
    reference: Measurement | None = None,
) -> Measurement:
    """Train for about `share_s` seconds. Raises RlrunError if what is learned of an env step is not
    as much as in `reference`, and whatever training raises."""
    ends_at, repeat_s = time.perf_counter() + share_s, share_s / (MAX_REPEATS + 1)
    measurement = Measurement(phases=dict.fromkeys(PHASES, 0.0))
    length = plain["algo"].get("timesteps_per_iteration", 0)
    if length > FIRST_ITERATION_STEPS:
        plain = _with(plain, {"algo.timesteps_per_iteration": FIRST_ITERATION_STEPS})
    with Trainer(read_config(plain).trainer) as trainer:
        speed = _warm_up(trainer, max(share_s, time_left_s))
        if length > FIRST_ITERATION_STEPS:
            steps = min(length, max(int(speed * repeat_s), FIRST_ITERATION_STEPS))
            trainer.set_hyperparameters(timesteps_per_iteration=steps)
        num_least = MIN_REPEATS
        if reference is not None and speed < HOPELESS * reference.median:
            num_least = 1
        while len(measurement.speeds) < num_least or (
            len(measurement.speeds) < MAX_REPEATS and time.perf_counter() < ends_at
        ):
            _repeat(trainer, repeat_s, measurement)
            # A round of evolution is a number of episodes, whose lengths vary by themselves.
            has_steady_rounds = all(each.samples_fragments for each in trainer.algorithms.values())
            if reference is not None and has_steady_rounds:
                measurement.require_as_much_learned(reference)
    return measurement


def _warm_up(trainer: Trainer, limit_s: float) -> float:
    """Train until learning is under way, one iteration more than its first; returns env steps per
    second of that. Raises RlrunError if it has not begun within `limit_s`."""
    ends_at = time.perf_counter() + limit_s
    while not trainer.train()["num_env_steps_trained"]:
        if time.perf_counter() > ends_at:
            raise RlrunError(
                f"it has not begun to learn within {limit_s:.0f} s. Give more time: --seconds N"
            )
    result = trainer.train()
    return float(result["timesteps_this_iter"] / result["time_this_iter_s"])


def _repeat(trainer: Trainer, repeat_s: float, measurement: Measurement) -> None:
    """Add iterations of at least `repeat_s` seconds to the measurement."""
    env_steps, num_rows, seconds, num_updates = 0, 0, 0.0, _num_updates(trainer)
    while seconds < repeat_s or env_steps == 0:
        result = trainer.train()
        env_steps += result["timesteps_this_iter"]
        seconds += result["time_this_iter_s"]
        num_rows += result["num_env_steps_trained_this_iter"]
        for phase, each in result["time_by_phase"].items():
            measurement.phases[phase] += each
    measurement.speeds.append(env_steps / seconds)
    measurement.updates_per_step.append((_num_updates(trainer) - num_updates) / env_steps)
    measurement.rows_per_step.append(num_rows / env_steps)


def _num_updates(trainer: Trainer) -> int:
    return sum(algorithm.num_updates for algorithm in trainer.algorithms.values())


def _print_row(label: str, found: Measurement | str, reference: Measurement | None = None) -> None:
    if isinstance(found, str):
        print_line(f"{label:<{LABEL_WIDTH}} {' '.join(found.split())}")
        return
    low, high = found.quartiles
    speed = f"{number(found.median, 'd')} ({number(low, 'd')}-{number(high, 'd')})"
    change = "" if reference is None else _change(found, reference)
    print_line(ROW.format(label, speed, change, ", ".join(_shares(found.phases))))


def _shares(phases: Mapping[str, float]) -> Iterator[str]:
    """The largest parts of the time."""
    total_s = sum(phases.values())
    for name in sorted(phases, key=lambda name: -phases[name])[:NUM_PHASES_SHOWN]:
        if phases[name] >= 0.01 * total_s:
            yield f"{name} {phases[name] / total_s:.0%}"


def _change(found: Measurement, reference: Measurement) -> str:
    change = found.median / reference.median - 1.0
    if found.is_faster(reference) or reference.is_faster(found):
        return f"{change:+.0%}"
    return "no clear difference"


def _setting(key: str, *values: Any) -> str:
    return f"{key}={','.join(map(_text, values))}"


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
