"""What became of a sweep, or of the runs in a folder, asked from Python; imports no torch."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rlrun.core import checkpoint
from rlrun.core.errors import ConfigError, missing_extra
from rlrun.loggers.base import flatten, lookup
from rlrun.records import RunRecord, read_experiment
from rlrun.sweep.leaderboard import Standing, standings

if TYPE_CHECKING:
    import pandas

SCOPES = ("last", "all", "avg", "last-5-avg", "last-10-avg")
"""Which of a trial's results judge it: the last, the best, or the mean of all or the last few."""

logger = logging.getLogger("rlrun")


class ExperimentAnalysis:
    """The trials of a sweep, finished or not, or the runs below a folder; in the terms of Tune.

    experiment_dir: the sweep's folder, a run's, or one that holds runs. metric, mode: what
    trials are compared by if a method is told nothing else; by default what the sweep was. What is
    on disk is read when it is first asked for, and then stays as it was.

    Raises ConfigError if there is no run, or for a mode that is none.
    """

    def __init__(
        self,
        experiment_dir: str | Path,
        metric: str | None = None,
        mode: str | None = None,
    ) -> None:
        experiment = read_experiment(Path(experiment_dir).absolute())
        self.experiment_dir = experiment.folder
        self.trials: list[RunRecord] = experiment.runs
        """By number. Each has `config`, `params`, `status`, `error`, `folder`, `results`,
        `last_result` and `checkpoints`."""
        self.metric = metric or experiment.metric
        self.mode = _checked_mode(mode or experiment.mode)

    # The best trial

    @property
    def best_trial(self) -> RunRecord | None:
        """By its last result."""
        return self.get_best_trial()

    @property
    def best_config(self) -> dict[str, Any] | None:
        """The settings of the best trial."""
        return self.get_best_config()

    @property
    def best_logdir(self) -> Path | None:
        """The folder of the best trial."""
        return self.get_best_logdir()

    @property
    def best_checkpoint(self) -> Path | None:
        """The best checkpoint of the best trial."""
        trial = self.best_trial
        return None if trial is None else self.get_best_checkpoint(trial)

    @property
    def best_result(self) -> dict[str, Any] | None:
        """The last result of the best trial."""
        return None if (trial := self.best_trial) is None else trial.last_result

    @property
    def best_dataframe(self) -> pandas.DataFrame | None:
        """All results of the best trial."""
        return None if (trial := self.best_trial) is None else _dataframe(trial)

    @property
    def best_result_df(self) -> pandas.DataFrame | None:
        """Its last result, as a table of one row."""
        return None if (trial := self.best_trial) is None else _dataframe(trial).tail(1)

    def get_best_trial(
        self,
        metric: str | None = None,
        mode: str | None = None,
        scope: str = "last",
        filter_nan_and_inf: bool = True,
    ) -> RunRecord | None:
        """The trial with the best value of a metric; None, with a warning, if no trial has one.

        The only trial there is is the best one, whatever it has. scope: one of `SCOPES`.
        filter_nan_and_inf: whether trials whose value is nan or infinite are left out; if not, nan
        is worse than anything. Raises ConfigError for another scope or mode.
        """
        metric, mode = self._judged_by(metric, mode)
        if scope not in SCOPES:
            raise ConfigError(f"scope={scope!r} is not known. Allowed: {', '.join(SCOPES)}.")
        if len(self.trials) == 1:
            return self.trials[0]
        worst = -math.inf if mode == "max" else math.inf
        scores: dict[int, float] = {}
        for trial in self.trials:
            score = _score(trial, metric, mode, scope)
            if score is None or (filter_nan_and_inf and not math.isfinite(score)):
                continue
            scores[trial.number] = worst if math.isnan(score) else score
        if not scores:
            logger.warning("No trial in %s has a value of %r.", self.experiment_dir, metric)
            return None
        number = (max if mode == "max" else min)(scores, key=lambda each: scores[each])
        return next(trial for trial in self.trials if trial.number == number)

    def get_best_config(
        self, metric: str | None = None, mode: str | None = None, scope: str = "last"
    ) -> dict[str, Any] | None:
        """The composed settings of the best trial (its params.json)."""
        trial = self.get_best_trial(metric, mode, scope)
        return None if trial is None else trial.config

    def get_best_logdir(
        self, metric: str | None = None, mode: str | None = None, scope: str = "last"
    ) -> Path | None:
        """The folder of the best trial."""
        trial = self.get_best_trial(metric, mode, scope)
        return None if trial is None else trial.folder

    # Checkpoints

    def get_trial_checkpoints_paths(
        self, trial: RunRecord, metric: str | None = None
    ) -> list[tuple[Path, Any]]:
        """(path, value of the metric in that iteration's result) of each checkpoint that a trial
        has kept, oldest first; the value is None where the result has none."""
        metric, _ = self._judged_by(metric, None)
        results = {result.get("training_iteration"): result for result in trial.results}
        return [
            (path, lookup(results.get(checkpoint.iteration_of(path), {}), metric))
            for path in trial.checkpoints
        ]

    def get_best_checkpoint(
        self, trial: RunRecord, metric: str | None = None, mode: str | None = None
    ) -> Path | None:
        """The checkpoint of a trial whose iteration had the best value of a metric; None, with a
        warning, if it has none with a value."""
        metric, mode = self._judged_by(metric, mode)
        known = [
            (value, path)
            for path, value in self.get_trial_checkpoints_paths(trial, metric)
            if isinstance(value, int | float) and math.isfinite(value)
        ]
        if not known:
            logger.warning("No checkpoint in %s has a value of %r.", trial.folder, metric)
            return None
        best_value = (max if mode == "max" else min)(value for value, _ in known)
        return [path for value, path in known if value == best_value][-1]

    def get_last_checkpoint(
        self,
        trial: RunRecord | None = None,
        metric: str = "training_iteration",
        mode: str = "max",
    ) -> Path | None:
        """The newest checkpoint of a trial, or of the best one by `metric`; None if there is none.

        By default that is the trial with the most iterations.
        """
        if trial is None:
            trial = self.get_best_trial(metric, mode)
        if trial is None or not trial.checkpoints:
            return None
        return trial.checkpoints[-1]

    # All trials

    def get_all_configs(self, prefix: bool = False) -> dict[Path, dict[str, Any]]:
        """The composed settings of each trial by its folder; prefix=True: flat, with keys like
        `config/algo/lr`, for the columns of a table."""
        if not prefix:
            return {trial.folder: trial.config for trial in self.trials}
        return {trial.folder: flatten({"config": trial.config}) for trial in self.trials}

    @property
    def results(self) -> dict[Path, dict[str, Any]]:
        """The last result of each trial by its folder."""
        return {trial.folder: trial.last_result for trial in self.trials}

    @property
    def results_df(self) -> pandas.DataFrame:
        """The same as a table, with a row per trial."""
        return self.dataframe()

    @property
    def trial_dataframes(self) -> dict[Path, pandas.DataFrame]:
        """All results of each trial by its folder, a row each, with keys like
        `evaluation/episode_reward_mean`."""
        return {trial.folder: _dataframe(trial) for trial in self.trials}

    def fetch_trial_dataframes(self) -> dict[Path, pandas.DataFrame]:
        """The same, by its name in Tune."""
        return self.trial_dataframes

    def dataframe(self, metric: str | None = None, mode: str | None = None) -> pandas.DataFrame:
        """A row per trial with results: its last one, or with metric and mode its best one; with
        its settings (`config/algo/lr`), number, point, status and folder (`logdir`).

        Raises ConfigError for one of metric and mode without the other.
        """
        if (metric is None) != (mode is None):
            raise ConfigError("dataframe takes metric and mode together, or neither of them.")
        pandas = _pandas()
        rows = []
        for trial in self.trials:
            result = trial.last_result
            if metric is not None and mode is not None:
                result = _best_result(trial, metric, _checked_mode(mode))
            if result:
                settings = flatten({"config": trial.config})
                facts = {"number": trial.number, "point": trial.point, "status": str(trial.status)}
                row = {**flatten(result), **settings, **facts, "logdir": str(trial.folder)}
                rows.append(row)
        return pandas.DataFrame(rows)

    def leaderboard(self, metric: str | None = None, mode: str | None = None) -> list[Standing]:
        """The points of the sweep, best first: each with its parameters, its runs, and what its
        seeds' last values of the metric say together: `estimate.center` (interquartile mean; of
        fewer than four, the mean), `.low` and `.high` (95 % bootstrap interval)."""
        return standings(self.trials, *self._judged_by(metric, mode))

    def _judged_by(self, metric: str | None, mode: str | None) -> tuple[str, str]:
        return metric or self.metric, _checked_mode(mode or self.mode)


def _score(trial: RunRecord, metric: str, mode: str, scope: str) -> float | None:
    found = (lookup(result, metric) for result in trial.results)
    values = [float(value) for value in found if isinstance(value, int | float)]
    if not values:
        return None
    if scope == "last":
        return values[-1]
    if scope == "all":
        better = max if mode == "max" else min
        return better((each for each in values if math.isfinite(each)), default=math.nan)
    if scope != "avg":
        values = values[-int(scope.split("-")[1]) :]
    return math.fsum(values) / len(values)


def _best_result(trial: RunRecord, metric: str, mode: str) -> dict[str, Any]:
    known = [
        (value, result)
        for result in trial.results
        if isinstance(value := lookup(result, metric), int | float) and math.isfinite(value)
    ]
    better = max if mode == "max" else min
    return better(known, key=lambda each: each[0])[1] if known else {}


def _dataframe(trial: RunRecord) -> pandas.DataFrame:
    return _pandas().DataFrame([flatten(result) for result in trial.results])


def _pandas() -> ModuleType:
    try:
        import pandas
    except ImportError as error:
        raise missing_extra("pandas", "analysis", "A table of results") from error
    return pandas


def _checked_mode(mode: str) -> str:
    if mode not in ("max", "min"):
        raise ConfigError(f"mode={mode!r} is not known. Allowed: max, min.")
    return mode
