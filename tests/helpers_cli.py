"""Running `rlrun` from tests: in this process, in a forked one that takes signals, or for real."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import logging
import math
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ALGORITHMS = (
    *("a2c", "a3c", "apex", "apex_ddpg", "appo", "ars", "bc", "cql", "ddpg", "ddppo", "dqn", "es"),
    *("impala", "marwil", "pg", "ppo", "qr_dqn", "r2d2", "rainbow", "sac", "simple_q", "td3"),
)
"""All that `algo=` may be."""

TINY = ("algo.timesteps_per_iteration=0", "logger=none", "seed=1")
"""Overrides of the smallest useful run; a stop rule is still to be given."""

TIME_LIKE = frozenset(
    {
        *("timestamp", "date", "pid", "experiment_id", "trial_id", "warmup_time", "timers"),
        "bottleneck",
    }
)
TIME_LIKE_PARTS = ("time_", "_since_restore", "perf")
"""Keys of a result, and parts of keys, that no two runs have in common."""


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    status: int
    stdout: str
    stderr: str


@contextlib.contextmanager
def command_line(folder: Path, monkeypatch: Any) -> Iterator[Any]:
    """A function that runs `rlrun <arguments>` in this process, with `folder` as current folder.

    Whatever the command changes in the process is put back after each call.
    """
    monkeypatch.chdir(folder)

    def run(*arguments: str) -> Outcome:
        from rlrun.cli import main

        stdout, stderr = io.StringIO(), io.StringIO()
        with (
            _process_put_back(folder),
            contextlib.redirect_stdout(stdout),
            contextlib.redirect_stderr(stderr),
            pytest.raises(SystemExit) as leaving,
        ):
            main(list(arguments))
        status = leaving.value.code
        assert isinstance(status, int)
        return Outcome(status, stdout.getvalue(), stderr.getvalue())

    yield run


@contextlib.contextmanager
def _process_put_back(folder: Path) -> Iterator[None]:
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra

    argv, path, environ = sys.argv, list(sys.path), dict(os.environ)
    modules, store = set(sys.modules), ConfigStore.instance().repo.get("tuned_examples")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    sys.argv = ["rlrun"]
    try:
        yield
    finally:
        own_modules = [
            name
            for name in set(sys.modules) - modules
            if str(getattr(sys.modules[name], "__file__", None)).startswith(str(folder))
        ]
        for name in own_modules:
            del sys.modules[name]
        sys.argv = argv
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environ)
        GlobalHydra.instance().clear()
        if store is None:
            ConfigStore.instance().repo.pop("tuned_examples", None)
        root.handlers[:], root.level = handlers, level


class Child:
    """`rlrun <arguments>` in a process of its own, forked from one that has imported torch."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["rlrun.run", "rlrun.algos.ppo", "rlrun.algos.dqn"])
        self.folder = folder
        self._output = [folder / f".{name}_of_child" for name in ("stdout", "stderr")]
        for path in self._output:
            path.write_text("")
        self._process = context.Process(
            target=_run_in_child, args=(folder, arguments, *self._output)
        )
        self._process.start()

    @property
    def stdout(self) -> str:
        return self._output[0].read_text()

    @property
    def stderr(self) -> str:
        return self._output[1].read_text()

    def wait_for_result(self, run_dir: Path, iteration: int) -> None:
        """Return as soon as result.json holds the result of `iteration`."""
        self.wait_until(lambda: num_lines(run_dir / "result.json") >= iteration)

    def wait_for_file(self, path: Path) -> None:
        """Return as soon as `path` exists."""
        self.wait_until(path.exists)

    def wait_for_text(self, text: str) -> None:
        """Return as soon as stderr has `text`."""
        self.wait_until(lambda: text in self.stderr)

    def wait_until(self, is_so: Callable[[], bool]) -> None:
        """Return as soon as it is so; the process must not end before."""
        while not is_so():
            assert self._process.is_alive(), self.stderr
            self._process.join(0.005)

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> Outcome:
        """Its exit status is negative where a signal ended it, as in subprocess."""
        self._process.join()
        assert self._process.exitcode is not None
        return Outcome(self._process.exitcode, self.stdout, self.stderr)


def _run_in_child(folder: Path, arguments: tuple[str, ...], stdout: Path, stderr: Path) -> None:
    os.chdir(folder)
    for path, descriptor in ((stdout, 1), (stderr, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), descriptor)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
    sys.argv = ["rlrun"]
    from rlrun.cli import main

    main(list(arguments))


def console_script(folder: Path, *arguments: str, **environ: str) -> Outcome:
    """The installed command `rlrun <arguments>` as its users start it."""
    script = Path(sys.executable).with_name("rlrun")
    return python_process(folder, str(script), *arguments, **environ)


def python_process(folder: Path, *arguments: str, **environ: str) -> Outcome:
    """`python <arguments>` in `folder`."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **environ},
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def config(*choices: str, **values: Any) -> dict[str, Any]:
    """The config that `choices` compose, with values set; "__" in a key stands for "."."""
    from rlrun.compose import set_value

    plain = copy.deepcopy(_composed(choices))
    for key, value in values.items():
        set_value(plain, key.replace("__", "."), value)
    return plain


@cache
def _composed(choices: tuple[str, ...]) -> dict[str, Any]:
    from rlrun.compose import compose, plain_config

    return plain_config(compose([*TINY, *choices]))


def tiny_ppo(*choices: str, **values: Any) -> dict[str, Any]:
    """A config of PPO whose iterations take 64 steps of two envs and a few milliseconds."""
    sizes = {
        "algo__num_envs_per_worker": 2,
        "algo__train_batch_size": 64,
        "algo__minibatch_size": 32,
        "algo__num_epochs": 2,
    }
    return config(*choices, **{**sizes, **values})


def tiny_dqn(*choices: str, **values: Any) -> dict[str, Any]:
    """A config of DQN that learns from its second iteration of 60 steps on."""
    sizes = {
        "algo__learning_starts": 50,
        "algo__train_batch_size": 32,
        "algo__target_network_update_freq": 40,
        "algo__timesteps_per_iteration": 60,
        "algo__num_envs_per_worker": 2,
    }
    return config(*(choices or ("algo=dqn",)), **{**sizes, **values})


def results_of(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's result.json."""
    return [json.loads(line) for line in (run_dir / "result.json").read_text().splitlines()]


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def lasting(result: Mapping[str, Any], *other: str) -> dict[str, Any]:
    """The flat result without what no two runs have in common, and without the keys `other`."""
    flat: dict[str, Any] = {}
    for key, value in result.items():
        if key in TIME_LIKE or key in other or any(part in key for part in TIME_LIKE_PARTS):
            continue
        if isinstance(value, Mapping):
            inner = lasting(value).items()
            flat |= {f"{key}/{inner_key}": inner_value for inner_key, inner_value in inner}
        else:
            flat[key] = "nan" if isinstance(value, float) and math.isnan(value) else value
    return flat


def top_folders(folder: Path) -> set[str]:
    """What lies in `folder`, hidden files of ours left out."""
    return {path.name for path in folder.iterdir() if not path.name.endswith("_of_child")}
