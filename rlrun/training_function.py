"""A training function of the user's, under the loop of a run: `task=my_module.train`."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from rlrun.core import seeding
from rlrun.core.checkpoint import (
    UNEXPECTED_CONTENT,
    checkpoint_name,
    load_checkpoint,
    save_checkpoint,
)
from rlrun.core.errors import CheckpointError
from rlrun.core.metrics import Timers
from rlrun.core.process import ProcessState, set_matmul_precision
from rlrun.core.resources import Resources
from rlrun.progress import Progress

Metrics = Mapping[str, Any]
Save = Callable[[Path], Any]
"""Writes all that the function needs to go on into a folder, which is empty."""

FILES = "files"
"""Where in a checkpoint lies what the function has saved."""

STOP_TIMEOUT_S = 10.0
"""How long a function that is ended may take to leave."""

logger = logging.getLogger("rlrun")


class FunctionReturned(Exception):  # noqa: N818
    """The function has come to its end: no error, but no further result either."""


class _LeaveFunction(BaseException):
    """Unwinds a function that is not to go on; no `except Exception` of its own keeps it."""


class Report:
    """What a training function calls with each of its results: report({"loss": 0.1}, save=save).

    `save` writes a checkpoint into the folder that it is given. It is called when one is due
    (checkpoint_freq, the end of the run, a scheduler that wants one), before `report` returns; and
    if the function returns, once more. Where the run ends, `report` does not return: it raises what
    only `finally` notices.
    """

    def __init__(self, tell: Callable[[Metrics, Save | None], None]) -> None:
        self._tell = tell
        self.checkpoint: Path | None = None
        """The folder that `save` filled, from which to go on; None: begin."""
        self.iteration = 0
        """How many results there were by that checkpoint."""

    def __call__(self, metrics: Metrics, *, save: Save | None = None) -> None:
        self._tell(metrics, save)


class FunctionTrainer:
    """`function(config, report)` with the face of a trainer: `train` waits for its next result.

    The function runs in a thread of its own, and only while `train` waits. `random`, NumPy and
    torch are seeded by the run's seed, and go on where they were at a checkpoint.
    """

    def __init__(
        self,
        function: Callable[[dict[str, Any], Report], None],
        config: dict[str, Any],
        resources: Resources,
    ) -> None:
        import torch

        self._process = ProcessState()
        torch.set_num_threads(resources.num_cpus_for_driver)
        set_matmul_precision(resources.matmul_precision)
        seeding.seed_process(config["seed"], "driver")
        self._config = config
        self._function = function
        self._report = Report(self._hand_over)
        self._reports: queue.SimpleQueue[tuple[Metrics, Save | None] | BaseException] = (
            queue.SimpleQueue()
        )
        self._may_go_on: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=function.__name__, daemon=True)
        self._save: Save | None = None
        self._steps = 0
        self.progress = Progress(config["seed"])
        self.timers = Timers()
        """Of what the run does between two results."""

    @property
    def iteration(self) -> int:
        """How many results there were."""
        return self.progress.iteration

    def train(self) -> dict[str, Any]:
        """The next result of the function. Raises FunctionReturned, or what the function raises."""
        started = time.perf_counter()
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._may_go_on.put(True)
        told = self._reports.get()
        if isinstance(told, BaseException):
            raise told
        metrics, self._save = told
        self.progress.iteration += 1
        self._steps = int(metrics.get("timesteps_total", self._steps))
        seconds = time.perf_counter() - started
        counted = self.progress.end_iteration(seconds, self._steps, self._steps)
        own = ("training_iteration", "time_total_s", "time_this_iter_s", "done", "trial_id")
        timed = {**self.timers.flush(), **metrics.get("timers", {})}
        result = {**counted, **metrics, "timers": timed, **{key: counted[key] for key in own}}
        return {**result, "config": self._config}

    def interrupt(self) -> None:
        """Nothing: the run ends after the next result."""

    def save(self, folder: Path, facts: dict[str, Any]) -> Path | None:
        """Have the function write a checkpoint, if it has said how; returns its folder."""
        if self._save is None:
            logger.warning("No checkpoint: the last report of the function came without `save`.")
            return None
        state = {
            "progress": self.progress.state_dict(),
            "process_rng": seeding.process_rng_state(),
        }
        facts = {"iteration": self.iteration, "config": self._config, **facts}
        path = folder / checkpoint_name(self.iteration)
        return save_checkpoint(path, {"trainer": state}, facts, own_files=(FILES, self._save))

    def restore(self, checkpoint: Path, keep: Collection[str] = ()) -> None:
        """Let the function begin from a checkpoint. Raises CheckpointError."""
        state = load_checkpoint(checkpoint)["trainer"]
        try:
            self.progress.load_state_dict(state["progress"])
            seeding.restore_process_rng_state(state["process_rng"])
        except UNEXPECTED_CONTENT as error:
            raise CheckpointError(f"The checkpoint {checkpoint} is damaged: {error!r}.") from error
        self._report.checkpoint, self._report.iteration = checkpoint / FILES, self.iteration

    def stop(self) -> None:
        """End the function where it waits in `report`."""
        if self._thread.is_alive():
            self._may_go_on.put(False)
            self._thread.join(STOP_TIMEOUT_S)
        self._process.restore()

    def _run(self) -> None:
        end: BaseException = FunctionReturned()
        try:
            self._function(self._config, self._report)
        except BaseException as error:
            end = error
        self._reports.put(end)

    def _hand_over(self, metrics: Metrics, save: Save | None) -> None:
        self._reports.put((metrics, save))
        if not self._may_go_on.get():
            raise _LeaveFunction
