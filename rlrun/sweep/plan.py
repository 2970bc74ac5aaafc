"""The plan of a sweep: how trials come of points, which are checked before the first one starts."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlrun.core.errors import ConfigError, RlrunError
from rlrun.key_watch import check_names
from rlrun.overrides import read
from rlrun.sweep.names import value_text
from rlrun.sweep.schedulers.base import Scheduler
from rlrun.sweep.search.base import Point, Search
from rlrun.sweep.search.space import Choice, Space
from rlrun.sweep.settings import SweepSettings
from rlrun.sweep.trial import Status, Trial, TrialResources
from rlrun.sweep.trial_configs import TrialConfigs, overrides_of

if TYPE_CHECKING:
    from rlrun.parts import Parts

SEED = "seed"
JOB_NUMBER = "${hydra:job.num}"
"""`hydra.sweep.subdir`, if nobody sets it."""

SAY_EVERY_S = 2.0
"""How long checking may take in silence."""


@dataclass(kw_only=True)
class SweepPlan:
    """What a sweep is: its settings, a search that gives points, and trials that come of them."""

    folder: Path
    settings: SweepSettings
    metric: str
    """The result key by which trials are compared."""
    seed: int
    """What search and scheduler draw from."""
    search: Search
    """Begun anew: it is asked for its first point next."""
    scheduler: Scheduler
    space: Space
    """What is searched, but for the seed."""
    seeds: list[Any]
    """Of the trials of each point; a single None: whatever the config says."""
    sources: list[str]
    """What is typed before the overrides of each trial: -f FILE, --config-dir DIR."""
    overrides: list[str]
    """Those that all trials have."""
    configs: TrialConfigs
    subdir: str = JOB_NUMBER
    """A trial's folder below the sweep's, as `hydra.sweep.subdir` stands there."""
    duplicates: dict[int, int] = field(default_factory=dict, init=False)
    """By the number of a trial, that of the first one with the same settings."""

    _trials: dict[int, list[Trial]] = field(default_factory=dict, init=False)
    """Of the points that are known beforehand, by their numbers."""
    _first_with: dict[str, int] = field(default_factory=dict, init=False)
    """The number of the first trial with each config, by the config's digest."""

    def __post_init__(self) -> None:
        self._begin()

    @property
    def num_trials(self) -> int | None:
        """How many there will be; None if that is not known beforehand."""
        num_points = self.search.num_points
        return None if num_points is None else num_points * len(self.seeds)

    def check(self) -> list[Trial]:
        """Check what is known beforehand, and say so if it takes seconds; gives all trials, or none
        if the search makes up its points as it goes.

        Raises ConfigError if a trial of a grid cannot run, or none of those that a search may make.
        """
        with _progress(self.num_trials) as say:
            if not self.search.lists_all:
                self._check_corners()
            if not self.search.learns:
                for number, point in enumerate(iter(self.search.ask, None)):
                    self._trials[number] = self._make_trials(number, point)
                    say((number + 1) * len(self.seeds))
                self._begin()
        trials = [trial for of_point in self._trials.values() for trial in of_point]
        _refuse_shared_folders(trials, self.subdir)
        if self.duplicates:
            pairs = ", ".join(f"{one} as {first}" for one, first in self.duplicates.items())
            _say(f"trials have the same settings as earlier ones: {pairs}")
        return trials

    def trials_of(self, number: int, point: Point) -> list[Trial]:
        """The trials of the point that the search gave as its `number`th (from 0), one per seed.

        One that cannot run has failed already, with the message.
        """
        return self._trials.get(number) or self._make_trials(number, point)

    def config_of(self, trial: Trial) -> dict[str, Any]:
        """The config of a trial as plain dicts; it has no seed yet if it draws one."""
        swept = [read(override) for override in trial.overrides[len(self.overrides) :]]
        return self.configs.plain({each.get_key_element(): each.value() for each in swept})

    def _begin(self) -> None:
        samples, mode = self.settings.num_samples, self.settings.mode
        self.search.start(self.space, num_samples=samples, seed=self.seed, mode=mode)

    def _make_trials(self, number: int, point: Point) -> list[Trial]:
        first = number * len(self.seeds)
        return [
            self._make_trial(first + index, number, point if seed is None else point | {SEED: seed})
            for index, seed in enumerate(self.seeds)
        ]

    def _make_trial(self, number: int, point: int, values: Point) -> Trial:
        trial = Trial(
            number=number,
            overrides=[*self.overrides, *overrides_of(values)],
            params={key.lstrip("+"): value for key, value in values.items() if self._differs(key)},
            folder=self.folder / str(number),
            point=point,
        )
        try:
            if self.subdir != JOB_NUMBER:
                trial.folder = self.folder / self.configs.subdir(number, values, self.subdir)
            plain, parts = self._read(values)
        except RlrunError as error:
            if self.search.lists_all:
                raise _of_trial(error, trial) from error
            trial.status, trial.error = Status.FAILED, str(error)
            return trial
        self.scheduler.check(trial, plain)
        trial.resources = resources_of(parts)
        self._note_settings(number, plain)
        return trial

    def _read(self, values: Point) -> tuple[dict[str, Any], Parts]:
        """A trial's config and objects, checked as for a run, with what it is judged by."""
        plain, parts = self.configs.read(values)
        scheduler = self.scheduler
        keys = {
            "sweep.metric": self.metric,
            "scheduler.metric": scheduler.metric or self.metric,
            "scheduler.time_attr": scheduler.time_attr,
        }
        if not any(plain.get(key) for key in ("callbacks", "curriculum", "task")):
            check_names(parts.settings, False, plain["evaluation"], keys=keys)
        return plain, parts

    def _differs(self, key: str) -> bool:
        if key == SEED:
            return len(self.seeds) > 1
        domain = self.space[key]
        return not (isinstance(domain, Choice) and len(domain.values) == 1)

    def _note_settings(self, number: int, plain: dict[str, Any]) -> None:
        text = json.dumps(plain, sort_keys=True, default=str)
        first = self._first_with.setdefault(hashlib.sha256(text.encode()).hexdigest(), number)
        if first != number:
            self.duplicates[number] = first

    def _check_corners(self) -> None:
        """Try the ends of each key with usual values of the others; raises ConfigError if none of
        these points can run, and tells of the first one if some cannot."""
        middle = {key: domain.middle for key, domain in self.space.items()}
        points = [
            middle | {key: value} for key, domain in self.space.items() for value in domain.corners
        ]
        refused: list[tuple[Point, RlrunError]] = []
        for point in points or [middle]:
            try:
                self._read(point)
            except RlrunError as error:
                refused.append((point, error))
        if refused and len(refused) == len(points or [middle]):
            raise refused[0][1]
        if refused:
            point, why = refused[0]
            _say(f"some points will fail, such as {_text(point)}: {why}")


def resources_of(parts: Parts) -> TrialResources:
    """What a run asks for as a whole: its driver, its workers for both purposes, and its shards."""
    resources, algorithm = parts.trainer.resources, parts.trainer.worker.algorithm
    num_workers = resources.num_workers + parts.trainer.evaluation.num_workers
    num_shards = algorithm.num_shards if resources.num_workers else 0
    gpus_of_worker = resources.num_gpus_per_worker
    custom = resources.custom_resources_per_worker
    gpus_of_ray = 0.0 if resources.fake_gpus else gpus_of_worker
    of_worker = {"CPU": resources.num_cpus_per_worker, "GPU": gpus_of_ray, **custom}
    of_shard = {"CPU": resources.num_cpus_per_replay_shard}
    bundles = (of_worker,) * num_workers + (of_shard,) * num_shards
    return TrialResources(
        cpus=resources.num_cpus_for_driver + sum(bundle["CPU"] for bundle in bundles),
        driver_cpus=resources.num_cpus_for_driver,
        driver_gpus=resources.num_gpus,
        worker_gpus=(gpus_of_worker,) * num_workers if gpus_of_worker else (),
        custom={name: amount * num_workers for name, amount in custom.items() if num_workers},
        bundles=bundles,
    )


def _of_trial(error: RlrunError, trial: Trial) -> ConfigError:
    params = _text(trial.params)
    return ConfigError(f"{error} (Trial {trial.number}: {params})" if params else str(error))


def _refuse_shared_folders(trials: list[Trial], subdir: str) -> None:
    owners: dict[Path, int] = {}
    for trial in trials:
        owner = owners.setdefault(trial.folder, trial.number)
        if owner != trial.number:
            raise ConfigError(
                f"hydra.sweep.subdir={subdir} gives trials {owner} and {trial.number} the same "
                f"folder, {trial.folder}. Leave it as it is, or have it name what differs."
            )


@contextmanager
def _progress(num_trials: int | None) -> Iterator[Callable[[int], None]]:
    """Gives a function that tells how many trials are checked, if the last time was long ago."""
    said_at = time.monotonic()

    def say(num_checked: int) -> None:
        nonlocal said_at
        if time.monotonic() - said_at > SAY_EVERY_S and num_checked != num_trials:
            said_at = time.monotonic()
            _say(f"{num_checked} of {num_trials} trials are checked")

    yield say


def _text(values: Point) -> str:
    return " ".join(f"{key.lstrip('+')}={value_text(value)}" for key, value in values.items())


def _say(text: str) -> None:
    sys.stderr.write(f"rlrun: {text}\n")
