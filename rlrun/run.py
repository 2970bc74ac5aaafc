"""A run: from a config to objects, the outer loop until a stop rule is met, and going on later."""

from __future__ import annotations

import gc
import logging
import math
import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Literal, Protocol

from omegaconf import DictConfig

from rlrun import run_folder, saved
from rlrun.compose import plain_config
from rlrun.core import checkpoint, processes
from rlrun.core.errors import (
    CheckpointError,
    ConfigError,
    Interrupted,
    RlrunError,
    WorkerDiedError,
)
from rlrun.key_watch import KeyWatch
from rlrun.loggers.base import Logger, RunInfo, first_rule_met, lookup, tuned_or_general
from rlrun.loggers.files import CsvLogger, JsonLogger
from rlrun.parts import Parts, read_config, with_seed
from rlrun.python_api import make_trainer
from rlrun.records import trial_of_sweep
from rlrun.sweep.names import path_name
from rlrun.trainer import Trainer
from rlrun.training_function import FunctionReturned, FunctionTrainer

__all__ = ["Run", "make_trainer"]

logger = logging.getLogger("rlrun")

Answer = Literal["continue", "checkpoint", "stop", "pause", "leave"]
"""What becomes of a run after a result: it goes on, after a checkpoint if it should make one; or it
ends, with a checkpoint unless it is just to leave its place."""

STATUS_BY_ANSWER = {"stop": "stopped", "pause": "paused", "leave": "left"}
"""How a run ends that was not let go on."""


class Reporter(Protocol):
    """Who is told of a run as it goes, such as the driver of a sweep that it is a trial of."""

    def report(self, result: dict[str, Any]) -> Answer:
        """A result, after it was logged."""

    def end(self, status: str, *, passed: bool) -> None:
        """The run has ended in order, and all of it is on the disk. `passed`: not below a mark."""


class Run:
    """One experiment in its own folder. `execute` runs it to its end and gives the last result.

    config: what Hydra composed, the same as plain dicts, or the parts that were made of it. folder:
    where everything of the run goes; it must not hold another run. Raises ConfigError before
    anything is started.
    """

    def __init__(self, config: DictConfig | Mapping[str, Any] | Parts, folder: str | Path) -> None:
        if not isinstance(config, Parts):
            config = read_config(with_seed(plain_config(config)))
        self.parts = config
        self.settings = self.parts.settings
        self.folder = Path(folder).absolute()
        self.status = "finished"
        self.result: dict[str, Any] = {}
        self.best: dict[str, float] = {}
        """The best value so far of each result key with a pass mark."""
        self.reached_pass_mark = False
        self.command = sys.argv
        """What was typed to start this; it is written down."""
        self.is_folder_mine = False
        """Whether this run has begun to write there."""
        self.reporter: Reporter | None = None
        self._keys = KeyWatch(self.settings, config.keys_of_curriculum)
        self._objective: float | None = None
        self._signal: int | None = None
        self._trainer: Trainer | FunctionTrainer | None = None
        self._restored_from: Path | None = None
        self._seen_videos: dict[str, int] = {}
        """Files of videos, and when they were written."""
        self._kept: set[str] = set()
        """Hyperparameters of which a resumed run was given the value to go on with."""

    @classmethod
    def resume(cls, path: str | Path, overrides: Mapping[str, Any] | None = None) -> Run:
        """The run in the folder `path` (or of the checkpoint `path`), to go on from its newest
        complete checkpoint (or that one) when executed. `overrides`: values by dotted key.

        Raises ConfigError if there is no such run, CheckpointError if it has no checkpoint.
        """
        path, folder, plain = saved.config_to_resume(path, overrides)
        with run_folder.modules_from_where_it_was_started(folder):
            run = cls(plain, folder)
        run._restored_from = path
        run._kept = {key.removeprefix("algo.") for key in overrides or ()}
        return run

    def execute(self) -> dict[str, Any]:
        """Train until a stop rule is met or the run is interrupted; returns the last result.

        `status` is then "finished" or "interrupted", or what the reporter had it do: "stopped",
        "paused" or "left". Raises WorkerError and others as they come, after loggers and workers
        are closed.
        """
        is_fresh = self._restored_from is None
        with ExitStack() as stack:
            stack.enter_context(run_folder.lock(self.folder))
            if not is_fresh:
                where_started = run_folder.modules_from_where_it_was_started(self.folder)
                stack.enter_context(where_started)
            else:
                run_folder.refuse_taken_folder(self.folder)
                self.is_folder_mine = True
                self._write_facts()
            stack.enter_context(run_folder.log_file(self.folder, self.settings.log_level))
            stack.enter_context(processes.driver_of(self.folder))
            stack.enter_context(self._signals())
            logger.info("Run folder: %s, seed %d", self.folder, self.settings.seed)
            logger.info("%s", tuned_or_general(self.settings.tuned))
            trainer = self._trainer = self._make_trainer(is_fresh)
            # What is there by now stays: it need not be looked through again and again for garbage.
            gc.freeze()
            stack.callback(gc.unfreeze)
            try:
                if is_fresh or self._goes_on(trainer):
                    self._train(trainer)
            finally:
                trainer.stop()
            if self.reporter is not None:
                self.reporter.end(self.status, passed=self._is_good_enough)
        return self.result

    @property
    def objective(self) -> float | None:
        """The last known value of the result key `objective`, for sweeps; None if there is none."""
        return self._objective if (value := self._objective_now()) is None else value

    def _objective_now(self) -> float | None:
        value = lookup(self.result, self.settings.objective)
        is_known = isinstance(value, int | float) and not math.isnan(value)
        return float(value) if is_known else None

    # The outer loop

    def _make_trainer(self, is_fresh: bool) -> Trainer | FunctionTrainer:
        config = self.parts.trainer
        if self.parts.task is not None:
            return FunctionTrainer(self.parts.task, config.plain, config.resources)
        worker = config.worker
        if worker.output is not None:
            output = replace(worker.output, run=str(self.folder.resolve()))
            worker = replace(worker, output=output)
        trainer = Trainer(
            replace(
                config,
                worker=worker,
                # A resumed run has weights; where the first ones came from may be gone.
                init_from=config.init_from if is_fresh else None,
                video_folder=str(self.folder / run_folder.VIDEOS),
            )
        )
        if trainer.init_report is not None:
            sys.stderr.write(f"rlrun: {trainer.init_report}\n")
        return trainer

    def _train(self, trainer: Trainer | FunctionTrainer) -> None:
        if not self.settings.stop:
            logger.warning(
                "No stop rule: this run goes on until Ctrl-C. "
                "stop.timesteps_total=100000 would end it."
            )
        loggers = self._start_loggers(trainer.iteration)
        status, answer = "failed", "continue"
        try:
            while True:
                try:
                    self.result = trainer.train()
                except Interrupted:  # The iteration goes on from the checkpoint.
                    done = False
                    break
                except FunctionReturned:
                    done = True
                    break
                self._note_videos()
                done = first_rule_met(self.settings.stop, self.result) is not None
                self.result["done"] = done
                if done and self.parts.trainer.evaluation.at_end and isinstance(trainer, Trainer):
                    self._evaluate_last(trainer)
                self._note_result()
                self._log(loggers, trainer)
                self._check_keys(trainer)
                answer = "continue" if self.reporter is None else self.reporter.report(self.result)
                if done or self._signal is not None or answer in STATUS_BY_ANSWER:
                    break
                if answer == "checkpoint" or self._is_checkpoint_due(trainer.iteration):
                    self._save(trainer)
            if self.result:
                self._keys.warn_of_unseen(self.result)
            self.status = "finished" if done else STATUS_BY_ANSWER.get(answer, "interrupted")
            if self._is_last_checkpoint_wanted(trainer.iteration):
                self._save(trainer)
            status = "finished" if self.status in ("finished", "stopped") else "interrupted"
        except WorkerDiedError:
            if isinstance(trainer, Trainer):
                self._save_without_the_dead(trainer)
            raise
        finally:
            try:
                _close_all(loggers, status)
            except OSError as error:
                if status != "failed":
                    raise self._unwritable(error, "on closing") from error
                # What made it fail is on its way.
                logger.error("%s", self._unwritable(error, "on closing"))

    def _evaluate_last(self, trainer: Trainer) -> None:
        """Put an evaluation of the last weights into the last result, if it has none. A run that is
        resumed goes on without it, as if it never had been at its end."""
        if self.result.get("evaluation", {}).get("training_iteration") == trainer.iteration:
            return
        num_rounds, metrics = trainer.evaluation.num_rounds, trainer.evaluation_metrics
        try:
            self.result |= trainer.evaluate()
            trainer.evaluation.num_rounds, trainer.evaluation_metrics = num_rounds, metrics
        except Interrupted:
            logger.warning("The evaluation at the end (evaluation.at_end) was interrupted.")

    def _save_without_the_dead(self, trainer: Trainer) -> None:
        """What was learned outlives a worker, if the driver knows of it."""
        if not all(algorithm.is_up_to_date for algorithm in trainer.algorithms.values()):
            logger.error("What was learned since the last checkpoint is lost with the worker.")
            return
        try:
            trainer.workers.leave_dead()
            self._save(trainer)
        except RlrunError as error:
            logger.error("No checkpoint could be made of what was learned: %s", error)

    def _check_keys(self, trainer: Trainer | FunctionTrainer) -> None:
        try:
            self._keys.check(self.result)
        except ConfigError:
            # The first evaluation may show it after hours: what was learned till then is kept.
            self._save(trainer)
            raise

    def _goes_on(self, trainer: Trainer | FunctionTrainer) -> bool:
        """Restore the run, and say whether there is something left to do."""
        self._restore(trainer)
        if self._is_over():
            return False
        self._set_newer_checkpoints_aside(trainer.iteration)
        self._write_facts()
        return True

    def _is_over(self) -> bool:
        """Whether a restored run has nothing left to do."""
        rule = first_rule_met(self.settings.stop, self.result) if self.result else None
        if rule is None:
            return False
        logger.warning("%s of %s is met already; raise it to go on.", rule, self.folder)
        self._keys.warn_of_unseen(self.result)
        return True

    def _start_loggers(self, iteration: int) -> list[Logger]:
        sweep, trial = trial_of_sweep(self.folder) or (None, None)
        info = RunInfo(
            folder=self.folder,
            name=trial.name if trial else "_".join(self.folder.parts[-2:]),
            config=self.parts.trainer.plain,
            stop=self.settings.stop,
            start_iteration=iteration,
            sweep=sweep.name if sweep else None,
            trial=path_name(trial.params) if trial else "",
        )
        started: list[Logger] = []
        try:
            for each in [JsonLogger(), CsvLogger(), *self.parts.loggers]:
                each.start(info)
                started.append(each)
        except BaseException as error:
            _close_all(started, "failed")
            if isinstance(error, OSError):
                raise self._unwritable(error, type(each).__name__) from error
            raise
        return started

    def _log(self, loggers: list[Logger], trainer: Trainer | FunctionTrainer) -> None:
        try:
            with trainer.timers.measure("logging"):
                for each in loggers:
                    each.log_result(self.result)
            each = loggers[0]
            # Open files can be written to when they are deleted; that it is not there is an error.
            os.stat(self.folder / run_folder.RESULTS)
        except OSError as error:
            raise self._unwritable(error, type(each).__name__) from error

    def _unwritable(self, error: OSError, by: str = "JsonLogger") -> RlrunError:
        return RlrunError(f"The results in {self.folder} cannot be written ({by}): {error}")

    def _note_result(self) -> None:
        """Remember of the present result what a later one may lack."""
        self._objective = self.objective
        marks = self.settings.pass_mark
        values = {key: lookup(self.result, key) for key in marks}
        known = {key: value for key, value in values.items() if isinstance(value, int | float)}
        for key, value in known.items():
            if value > self.best.get(key, -math.inf):
                self.best[key] = value
        self.reached_pass_mark = self.reached_pass_mark or (
            bool(marks) and all(known.get(key, -math.inf) >= mark for key, mark in marks.items())
        )

    def _note_videos(self) -> None:
        """Name the videos that were written since the last result."""
        config = self.parts.trainer
        if config.worker.videos is None and config.evaluation_worker.videos is None:
            return
        found = self._videos()
        new = sorted(found.items() - self._seen_videos.items())
        self._seen_videos = found
        self.result["videos"] = [f"{run_folder.VIDEOS}/{name}" for name, _ in new]

    def _videos(self) -> dict[str, int]:
        paths = (self.folder / run_folder.VIDEOS).glob("[!.]*.mp4")
        return {path.name: path.stat().st_mtime_ns for path in paths}

    # Checkpoints

    def _is_checkpoint_due(self, iteration: int) -> bool:
        return self.settings.checkpoint_freq > 0 and iteration % self.settings.checkpoint_freq == 0

    def _is_last_checkpoint_wanted(self, iteration: int) -> bool:
        if self.status == "left":
            return False
        is_wanted = self.settings.checkpoint_at_end or self.status != "finished"
        return is_wanted or self._is_checkpoint_due(iteration)

    def _save(self, trainer: Trainer | FunctionTrainer) -> None:
        # A checkpoint never knows of more results than the disk does.
        try:
            checkpoint.sync(self.folder / run_folder.RESULTS)
        except OSError as error:
            raise self._unwritable(error) from error
        if trainer.save(self.folder, {"score": self._score()}) is not None:
            self._prune()

    def _score(self) -> float:
        """Higher is better; -inf where the result has no such number."""
        attribute = self.settings.checkpoint_score_attr
        sign = -1.0 if attribute.startswith("min-") else 1.0
        value = lookup(self.result, attribute.removeprefix("min-"))
        if not isinstance(value, int | float) or math.isnan(value):
            return -math.inf
        return sign * float(value)

    def _prune(self) -> None:
        """Keep the best checkpoints, and always the newest, which a resumed run starts from."""
        keep = self.settings.keep_checkpoints_num
        if keep is None:
            return
        *older, newest = checkpoint.list_checkpoints(self.folder)
        scores = {path: _saved_score(path) for path in older}
        scores[newest] = self._score()
        ranked = sorted(scores, key=lambda path: (scores[path], path.name), reverse=True)
        for path in ranked[keep:]:
            if path == newest:
                continue
            try:
                checkpoint.remove(path)
            except OSError as error:
                logger.warning("%s cannot be removed: %s", path, error)

    def _restore(self, trainer: Trainer | FunctionTrainer) -> None:
        assert self._restored_from is not None
        if self._restored_from == self.folder:  # The newest by now, as nobody else writes any more.
            self._restored_from = checkpoint.list_checkpoints(self.folder)[-1]
        try:
            trainer.restore(self._restored_from, keep=self._kept)
        except CheckpointError as error:
            older = [
                path
                for path in checkpoint.list_checkpoints(self.folder)
                if checkpoint.iteration_of(path) < checkpoint.iteration_of(self._restored_from)
            ]
            if not older:
                raise
            raise CheckpointError(
                f"{error} There is an older one: rlrun resume {shlex.quote(str(older[-1]))}"
            ) from error
        self._seen_videos = self._videos()
        for result in run_folder.results_until(self.folder, trainer.iteration):
            self.result = result
            self._note_result()
            self._keys.note(result)

    def _set_newer_checkpoints_aside(self, iteration: int) -> None:
        """They belong to a future that is now lived again, and must not be found any more."""
        newer = [
            path
            for path in checkpoint.list_checkpoints(self.folder)
            if checkpoint.iteration_of(path) > iteration
        ]
        for path in newer:
            path.replace(path.with_name(f"superseded_{time.time_ns()}_{path.name}"))
        if newer:
            logger.warning(
                "The run goes on from iteration %d: its results after that are dropped, and %d "
                "newer checkpoint(s) renamed to superseded_*.",
                iteration,
                len(newer),
            )

    # Folder and signals

    def _write_facts(self) -> None:
        """Write down what runs here."""
        try:
            checkpoint.remove_unfinished(self.folder)
            checkpoint.write_json(self.folder / run_folder.PARAMS, self.parts.trainer.plain)
            versions = run_folder.versions(self.command, self.folder)
            checkpoint.write_json(self.folder / run_folder.VERSIONS, versions)
            run_folder.write_git_diff(self.folder)
        except OSError as error:
            raise RlrunError(
                f"The run's folder {self.folder} cannot be written: {error}"
            ) from error

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """Ctrl-C, SIGTERM and a lost terminal end the run after the piece of work under way; a
        second one at once."""

        def handle(number: int, frame: FrameType | None) -> None:
            is_second, self._signal = self._signal is not None, number
            if is_second or self._trainer is None:  # While it starts there is nothing to keep.
                raise KeyboardInterrupt
            self._trainer.interrupt()
            logger.warning(
                "Interrupted: the run ends as soon as it can, with a checkpoint. "
                "Once more ends it now, without one."
            )

        try:
            signals = [signal.SIGINT, signal.SIGTERM]
            if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as under nohup
                signals.append(signal.SIGHUP)
            previous = {each: signal.signal(each, handle) for each in signals}
        except ValueError:  # Only the main thread may; elsewhere signals keep their meaning.
            yield
            return
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @property
    def exit_status(self) -> int:
        """What the process should exit with: 128 + a signal, 1 below the pass mark, else 0."""
        if self.status == "interrupted":
            return 128 + (self._signal or signal.SIGINT)
        return 0 if self._is_good_enough else 1

    @property
    def _is_good_enough(self) -> bool:
        return self.reached_pass_mark or not self.settings.pass_mark


def _saved_score(path: Path) -> float:
    """The score of a checkpoint on disk; the lowest for one that is damaged."""
    try:
        return float(checkpoint.read_manifest(path)["score"])
    except (CheckpointError, *checkpoint.UNEXPECTED_CONTENT) as error:
        logger.warning("%s has no score, so it is the first to be removed (%s).", path, error)
        return -math.inf


def _close_all(loggers: list[Logger], status: str) -> None:
    """Close every logger, even if one of them fails to."""
    with ExitStack() as stack:
        for each in loggers:
            stack.callback(each.close, status)
