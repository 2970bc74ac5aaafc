"""Which runs a report is about: lines of its figures, each of one or several seeds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlrun.core.errors import ConfigError
from rlrun.loggers.base import lookup, without
from rlrun.records import JOURNAL, Experiment, RunRecord, compare, read_experiment
from rlrun.sweep.leaderboard import Standing, standings
from rlrun.sweep.names import describe

_MAX_LABEL_KEYS = 4
"""Settings that a label names; where more differ, it names algorithm and env, or the folder."""


@dataclass(kw_only=True)
class Report:
    """What is reported on."""

    title: str
    metric: str
    mode: str
    groups: list[Group] = field(default_factory=list)
    """Best first."""

    @property
    def runs(self) -> list[RunRecord]:
        """All runs of all groups."""
        return [run for group in self.groups for run in group.runs]


@dataclass(kw_only=True)
class Group:
    """Runs that differ in their seed only."""

    label: str
    standing: Standing

    @property
    def runs(self) -> list[RunRecord]:
        """One per seed."""
        return self.standing.runs


def read_report(paths: Sequence[Path]) -> Report:
    """The runs, sweeps and folders of runs at `paths`, to be compared with each other.

    Raises ConfigError if there is no run, or if sweeps were judged by different metrics.
    """
    experiments = [read_experiment(path.absolute()) for path in paths]
    _drop_repeated(experiments)
    judged = {(each.metric, each.mode) for each in experiments}
    if len(judged) > 1:
        raise ConfigError(
            "These were judged by different metrics, so they cannot stand in one report: "
            + ", ".join(f"{each.folder.name} by {each.mode} {each.metric}" for each in experiments)
        )
    ((metric, mode),) = judged
    runs = _together(experiments)
    ranked = standings(runs, metric, mode)
    labels = _labels(ranked, experiments)
    return Report(
        title=" and ".join(_short_name(each.folder) for each in experiments[:3])
        + (f" and {len(experiments) - 3} more" if len(experiments) > 3 else ""),
        metric=metric,
        mode=mode,
        groups=[
            Group(label=label, standing=each) for label, each in zip(labels, ranked, strict=True)
        ],
    )


def _drop_repeated(experiments: Sequence[Experiment]) -> None:
    """Leave a run that lies in several of the paths to the first of them."""
    seen: set[Path] = set()
    for experiment in experiments:
        experiment.runs = [run for run in experiment.runs if run.folder.resolve() not in seen]
        seen |= {run.folder.resolve() for run in experiment.runs}


def _together(experiments: Sequence[Experiment]) -> list[RunRecord]:
    """All runs, with points of their own for each sweep, and runs of their own compared anew."""
    runs: list[RunRecord] = []
    own = [run for each in experiments if not _is_sweep(each) for run in each.runs]
    compare(own)
    runs += own
    for experiment in filter(_is_sweep, experiments):
        first = len(runs)
        for run in experiment.runs:
            run.point += first
        runs += experiment.runs
    return runs


def _labels(ranked: Sequence[Standing], experiments: Sequence[Experiment]) -> list[str]:
    """A name for each point that tells it from the others."""
    labels = [
        describe(each.params)
        if len(each.params) <= _MAX_LABEL_KEYS
        else _algo_and_env(each.runs[0])
        for each in ranked
    ]
    if len(experiments) > 1 and any(map(_is_sweep, experiments)):
        homes = [_home(each.runs[0], experiments) for each in ranked]
        labels = [f"{home} {label}".rstrip() for home, label in zip(homes, labels, strict=True)]
    counts = Counter(labels)
    names = [_short_name(each.runs[0].folder) for each in ranked]
    return [
        label if label and counts[label] == 1 else f"{label} ({name})" if label else name
        for label, name in zip(labels, names, strict=True)
    ]


def _home(run: RunRecord, experiments: Sequence[Experiment]) -> str:
    return next(each.folder.name for each in experiments if run in each.runs)


def _algo_and_env(run: RunRecord) -> str:
    algo = str(lookup(run.config, "algo._target_") or "").rpartition(".")[2]
    return f"{algo} {lookup(run.config, 'env.id') or ''}".strip()


def _short_name(folder: Path) -> str:
    return "/".join(folder.parts[-2:]) if folder.parent.parent.name == "results" else folder.name


def _is_sweep(experiment: Experiment) -> bool:
    return (experiment.folder / JOURNAL).is_file()


def settings_of(group: Group) -> dict[str, Any]:
    """The settings of a group's runs, but for the seed."""
    return without(group.runs[0].config, "seed")
