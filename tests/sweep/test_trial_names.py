"""What the loggers of a run are told where it is a trial of a sweep."""

from __future__ import annotations

import json

from helpers_cli import tiny_ppo
from sweep_folders import write_sweep

from rlrun.loggers.base import Logger, RunInfo
from rlrun.records import trial_of_sweep
from rlrun.run import Run


class NotingLogger(Logger):
    """Remembers the run that it was started for."""

    seen: list[RunInfo] = []  # noqa: RUF012

    def start(self, run: RunInfo) -> None:
        self.seen.append(run)


def test_a_trial_is_known_by_its_number_and_parameters_also_when_it_is_resumed(tmp_path):
    sweep = write_sweep(tmp_path / "sweep_1", {(0.1, 0): [], (0.01, 3): []})
    logger = {"noting": {"_target_": "test_trial_names.NotingLogger"}}
    plain = tiny_ppo(stop__training_iteration=1) | {"logger": logger}
    Run(plain, sweep / "1").execute()
    Run.resume(sweep / "1", {"stop.training_iteration": 2}).execute()
    Run(plain, tmp_path / "alone").execute()
    import test_trial_names

    assert [(run.name, run.sweep, run.trial) for run in test_trial_names.NotingLogger.seen] == [
        *[("1 lr=0.01 seed=3", "sweep_1", "lr=0.01,seed=3")] * 2,
        (f"{tmp_path.name}_alone", None, ""),
    ]


def test_a_trial_may_lie_deeper_than_its_number(tmp_path):
    event = {"event": "trial", "number": 0, "params": {"algo.lr": 0.1}, "folder": "lr/0.1"}
    (tmp_path / "journal.jsonl").write_text(json.dumps(event) + "\n")
    sweep, trial = trial_of_sweep(tmp_path / "lr" / "0.1")
    assert (sweep, trial.name) == (tmp_path, "0 lr=0.1")
    assert trial_of_sweep(tmp_path / "lr" / "0.2") is None
