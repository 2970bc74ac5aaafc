"""Training from the command line: one run, several of a file, a sweep, or one that goes on."""

from __future__ import annotations

import logging
import math
import os
import shlex
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from rlrun.arguments import (
    CFG,
    HELP,
    INSTEAD_OF_MODE,
    MULTIRUN,
    RESOLVE,
    CommandLine,
    read_command_line,
)
from rlrun.compose import compose, explaining, hydra_at_hand, register_resolvers
from rlrun.config import conf_dir
from rlrun.core.errors import ConfigError, MissingExtraError, ResourceError
from rlrun.early import refuse_early
from rlrun.error_report import report
from rlrun.overrides import parse_assignments
from rlrun.rllib_import.files import PRINT, experiments_in, show, warn
from rlrun.sweep.request_file import is_sweep
from rlrun.validate import take_or_read

if TYPE_CHECKING:
    from hydra._internal.hydra import Hydra

    from rlrun.run import Reporter
    from rlrun.sweep.channel import Channel
    from rlrun.sweep.driver import SweepDriver
    from rlrun.sweep.trial_process import Start

ELSEWHERE = ("--package", "-p", "--config-name", "-cn")
"""Options with which Hydra itself shows the config."""

SHOWING = ("--cfg", "-c", "--info", "-i", "--hydra-help", "--shell-completion", "-sc")
"""Options with which something is shown and nothing runs."""


def train(arguments: list[str], reporter: Reporter | None = None) -> int:
    """`rlrun [key=value ...]` and everything else that Hydra's command line can do; several times,
    if -f names an experiment file with several experiments.

    `reporter` is told of the run, where it is a trial of a sweep.
    """
    experiments = experiments_in(arguments)
    if PRINT in arguments:
        show(experiments)
        return 0
    if not experiments:
        return _train(arguments, reporter)
    status = 0
    for each in experiments:
        warn(each)
        status = max(status, _train(each.arguments, reporter))
        if status > 128:  # interrupted
            break
    return status


def _train(arguments: list[str], reporter: Reporter | None) -> int:
    jobs = Jobs([sys.argv[0], *arguments], reporter)
    line = read_command_line(arguments)
    if line.has(HELP) or (line.value_of(CFG) == "job" and not line.has(ELSEWHERE)):
        # Hydra's own help looks up the choices of every group, which takes a second; and what it
        # shows is not settled yet.
        _show_config(line)
        return 0
    if _is_our_sweep(line):
        return sweep(arguments)
    primary = line.primary
    if line.has(SHOWING):
        with explaining(line.all, primary.folder):
            _let_hydra_show(line)
        return 0
    try:
        # Without hydra.main, which composes everything twice, once only to learn hydra.mode.
        with explaining(line.all, primary.folder), hydra_at_hand(primary.folder) as hydra:
            _let_hydra_run(hydra, line, jobs)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise ConfigError(f"The run cannot start: {error}") from error
    return max(jobs.statuses, default=0)


def _let_hydra_run(hydra: Hydra, line: CommandLine, jobs: Jobs) -> None:
    name = line.primary.name
    if line.has(MULTIRUN):
        hydra.multirun(name, jobs.run, [*line.overrides, "hydra.mode=MULTIRUN"])
        return
    try:
        hydra.run(name, jobs.run, line.overrides)
    except AssertionError as error:  # Hydra's of its mode; the job reports its own.
        raise ConfigError(f"A file sets hydra.mode: MULTIRUN. {INSTEAD_OF_MODE}") from error


def _let_hydra_show(line: CommandLine) -> None:
    import hydra

    register_resolvers()
    # Hydra hands errors on, instead of printing them and leaving, only when this is set.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    sys.argv = [sys.argv[0], *line.all]

    @hydra.main(version_base=None, config_path=str(conf_dir()), config_name="config")
    def nothing(_: DictConfig) -> None: ...

    nothing()


def sweep(arguments: list[str]) -> int:
    """`rlrun -m key=value,value ...`, unless the user has chosen a sweeper of Hydra's."""
    from rlrun.sweep.runner import run

    driver = run(arguments)
    return 0 if driver is None else _ended(driver)


class Jobs:
    """What Hydra calls for each job, and how they ended."""

    def __init__(self, command: list[str], reporter: Reporter | None) -> None:
        self.command = command
        self.reporter = reporter
        self.statuses: list[int] = []

    def run(self, config: DictConfig) -> float | None:
        """Run one job; returns its objective, for sweepers."""
        from hydra.core.hydra_config import HydraConfig

        from rlrun.run import Run

        _silence_hydra()
        run = None
        try:
            run = Run(take_or_read(config), HydraConfig.get().runtime.output_dir)
            run.command, run.reporter = self.command, self.reporter
            status = execute(run)
        except BrokenPipeError:
            raise
        except Exception as error:
            # Reported here, so that the other jobs of a sweep go on.
            status = report(error)
        self.statuses.append(status)
        if run is not None and run.status == "interrupted":
            sys.exit(status)  # of the whole sweep
        return None if run is None else run.objective


def run_trial(start: Start, channel: Channel) -> int:
    """A trial of a sweep, in a process of its own; returns its exit status."""
    from rlrun.sweep.trial_process import TrialReporter

    reporter = TrialReporter(channel)
    try:
        if start.resumes:
            return resume(start.folder, start.arguments, reporter)
        return train(start.arguments, reporter)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return report(error)


def resume(path: str, arguments: list[str], reporter: Reporter | None = None) -> int:
    """`rlrun resume PATH [key=value ...]`, of a run, a checkpoint or a sweep."""
    overrides = parse_assignments(arguments)
    if is_sweep(Path(path)):
        from rlrun.sweep import runner

        return _ended(runner.resume(Path(path), overrides))
    from rlrun.run_folder import modules_from_where_it_was_started
    from rlrun.saved import config_to_resume

    _, folder, plain = config_to_resume(path, overrides)
    with modules_from_where_it_was_started(folder):
        refuse_early(plain)  # Before torch is imported, which takes seconds.
    from rlrun.run import Run

    run = Run.resume(path, overrides)
    run.reporter = reporter
    return execute(run)


def execute(run: Any) -> int:
    """Execute a run and say how it ended; returns the exit status."""
    from rlrun.run_folder import remove_if_unused

    if num_remote := run.parts.trainer.resources.num_workers:
        sys.stderr.write(f"rlrun: starting {num_remote} Ray worker(s), which takes some seconds\n")
    try:
        run.execute()
    except (ConfigError, MissingExtraError, ResourceError, KeyboardInterrupt):
        if run.is_folder_mine:
            remove_if_unused(run.folder)
        raise
    if run.status == "interrupted":
        folder = shlex.quote(_shortest(run.folder))
        say(f"Interrupted. Go on with: rlrun resume {folder}")
    elif run.settings.pass_mark:
        marks = ", ".join(
            f"{key} {mark:g} (best {run.best.get(key, math.nan):g})"
            for key, mark in run.settings.pass_mark.items()
        )
        say(f"{'PASSED' if run.reached_pass_mark else 'FAILED'}: {marks}")
    return run.exit_status


def _ended(driver: SweepDriver) -> int:
    """How to go on with a sweep that has ended before its time; returns the exit status."""
    if driver.is_interrupted:
        say(f"Interrupted. Go on with: {driver.resume_line()}")
    return driver.exit_status


def say(text: str) -> None:
    """Print to a terminal that may have gone."""
    with suppress(OSError):
        print(text, flush=True)


def _is_our_sweep(line: CommandLine) -> bool:
    """Whether this is a sweep for which no sweeper or launcher of Hydra's was chosen."""
    is_chosen = any(o.startswith(("hydra/sweeper=", "hydra/launcher=")) for o in line.overrides)
    return line.has(MULTIRUN) and not is_chosen


def _show_config(line: CommandLine) -> None:
    config = compose(line.overrides, line.primary.folder)
    ours = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
    print(OmegaConf.to_yaml(ours, resolve=line.has(RESOLVE)))


def _silence_hydra() -> None:
    """Take away the handler that Hydra leaves on the root logger, which writes to stdout."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if type(handler) is logging.StreamHandler and handler.stream is sys.stdout:
            root.removeHandler(handler)


def _shortest(folder: Path) -> str:
    try:
        return str(folder.relative_to(Path.cwd()))
    except ValueError:
        return str(folder)
