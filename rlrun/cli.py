"""The command `rlrun` and its sub-commands. Nothing here imports torch before a run starts."""

from __future__ import annotations

import difflib
import inspect
import os
import re
import select
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from rlrun.arguments import CONFIG_DIR, CONFIG_NAME, HELP, MULTIRUN, read_command_line
from rlrun.compose import compose, plain_config
from rlrun.config import conf_dir
from rlrun.core.errors import ConfigError
from rlrun.early import refuse_early
from rlrun.error_report import report
from rlrun.overrides import parse_assignments
from rlrun.train import resume as resume_training
from rlrun.train import say, train

LISTED_GROUPS = ("algo", "env", "exploration", "model", "logger", "search", "scheduler")
HELP_TEXT = """rlrun: reinforcement-learning experiments from the command line.

  rlrun algo=dqn env=cartpole               train; every key below may be set: key=value
  rlrun -f FILE [key=value ...]             replay a tuned example, with a verdict; or run RLlib's
                                            experiment files (--print-overrides: only show as what)
  rlrun -m algo.lr=1e-3,1e-4 seed=0,1       a sweep over all combinations
  rlrun resume RUN_DIR [key=value ...]      go on from the newest checkpoint
  rlrun rollout CHECKPOINT [episodes=N]     act with a trained policy
  rlrun export CHECKPOINT --out FILE        the policy for other programs: ONNX, torch, safetensors
  rlrun check FILE|DIR ... [--seeds N]      replay tuned examples to their pass marks, with a table
  rlrun report RUN_OR_SWEEP ...             curves, ranking and settings as a page of HTML
  rlrun list [GROUP]                        the choices of each group, one line each
  rlrun options [key=value ...] [GROUP]     every key: its value, what it may be, what it does
  rlrun autotune [key=value ...]            which settings train fastest on this machine
  rlrun verify-resume [key=value ...]       whether a resumed run gives the same, bit for bit
  rlrun stack RUN_DIR                       what every process of a run is doing at the moment
  rlrun logs RUN_DIR [-f] [--worker N]      what they have logged

  -v, -vv                   say more (log_level=INFO, DEBUG)
  --version                 the version of rlrun
  --cfg job                 show the composed configuration instead of running
  --config-dir DIR          add a folder with groups of your own
  --hydra-help              all of Hydra's own options
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 a configuration that cannot run (here),
    130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # NumPy acts on a few rows at a time; on a busy machine a second BLAS thread makes that ten
    # times slower. It must be set before NumPy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    commands: dict[str, Callable[[list[str]], int]] = {
        "resume": resume,
        "rollout": rollout,
        "export": export,
        "list": list_choices,
        "check": check,
        "report": write_report,
        "options": show_options,
        "stack": stack,
        "logs": logs,
        "autotune": autotune,
        "verify-resume": verify_resume,
    }
    try:
        # A console script does not look for modules where the user stands; `python file.py` does.
        sys.path.insert(0, _working_directory())
        arguments = arguments[1:] if arguments[:1] == ["train"] else arguments
        if arguments[:1] and arguments[0] in CONFIG_DIR and arguments[2:3] == ["list"]:
            arguments = ["list", *arguments[3:], *arguments[:2]]
        name = arguments[0] if arguments else ""
        if name not in commands and "--version" in arguments:
            from importlib import metadata

            print(f"rlrun {metadata.version('rlrun')}")
            sys.exit(0)
        if re.fullmatch(r"[\w-]+", name) and not name.startswith("-") and name not in commands:
            raise _unknown_command(name, commands)
        if name in commands and any(flag in arguments for flag in HELP):
            print(inspect.cleandoc(commands[name].__doc__ or ""))
            sys.exit(0)
        if any(flag in arguments for flag in HELP):
            read_command_line(arguments)  # What is wrong with it is all there is to say.
            print(f"{HELP_TEXT}\n{_list_groups()}\n== The configuration as composed ==")
        status = commands[name](arguments[1:]) if name in commands else train(arguments)
    except BrokenPipeError as error:
        if not _is_stdout_broken():
            sys.exit(report(error))
        # The reader of our output has gone (`rlrun list | head`); nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except KeyboardInterrupt:
        sys.stderr.write("rlrun: interrupted at once, without a checkpoint.\n")
        sys.exit(130)
    except Exception as error:
        sys.exit(report(error))
    sys.exit(status)


def resume(arguments: list[str]) -> int:
    """rlrun resume RUN_DIR|CHECKPOINT|SWEEP_DIR [key=value ...]

    Go on from the newest complete checkpoint of a run, or from the one given. Keys are set in the
    run's configuration, and stay set: rlrun resume RUN_DIR stop.timesteps_total=200000

    With the folder of a sweep: trials that have ended stay as they are, the others go on; those
    that failed do so with sweep.retry_failed=true.
    """
    if not _begins_with_path(arguments):
        raise _usage(resume)
    return resume_training(arguments[0], arguments[1:])


def rollout(arguments: list[str]) -> int:
    """rlrun rollout CHECKPOINT_OR_RUN_DIR [episodes=N|steps=N] [explore=true] [key=value ...]

    Act with a trained policy and print each episode, ten if neither number is given. Without
    explore=true it takes the most likely actions; render=true shows the env, video=true (or
    --video) records its episodes in the run's folder videos/, seed=N starts it elsewhere. Other
    keys: as in the run's configuration.
    """
    arguments = ["video=true" if each == "--video" else each for each in arguments]
    if not _begins_with_path(arguments):
        raise _usage(rollout)
    from rlrun.rollout import roll_out

    return roll_out(Path(arguments[0]), parse_assignments(arguments[1:]))


def export(arguments: list[str]) -> int:
    """rlrun export CHECKPOINT_OR_RUN_DIR --out FILE [--format onnx|torch|safetensors]

    Write a trained policy for other programs: from the env's observations to its actions, with
    preprocessing and filter inside (onnx needs the extra onnx), or the weights alone (safetensors).
    Without --format the file's ending says which: .onnx, .pt2, .safetensors.
    """
    options = dict(zip(arguments[1::2], arguments[2::2], strict=False))
    if len(arguments) % 2 == 0 or not {"--out"} <= options.keys() <= {"--out", "--format"}:
        raise _usage(export)
    from rlrun.rollout import export_checkpoint

    return export_checkpoint(Path(arguments[0]), Path(options["--out"]), options.get("--format"))


def list_choices(arguments: list[str]) -> int:
    """rlrun list [GROUP ...] [--config-dir DIR]

    The choices of the groups, one line each.
    """
    roots, names = [conf_dir()], []
    rest = iter(arguments)
    for argument in rest:
        if argument in CONFIG_DIR:
            roots.append(Path(next(rest, "")))
            if not roots[-1].is_dir() or not roots[-1].name:
                raise ConfigError(f"{argument} needs a folder that holds groups; got {roots[-1]}.")
        else:
            names.append(argument)
    known = sorted({path.name for root in roots for path in root.iterdir() if path.is_dir()})
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(f"rlrun list {name}: there is no such group.{hint} Groups: {known}.")
    for name in names or LISTED_GROUPS:
        print(f"{name}:")
        choices = {choice: path for root in roots for choice, path in _choices(root / name)}
        for choice, path in sorted(choices.items()):
            print(f"  {choice:<26} {_first_sentence(path)}")
    return 0


def show_options(arguments: list[str]) -> int:
    """rlrun options [key=value ...] [GROUP ...] [--config-dir DIR]

    Every key of the run that would be composed: its value there, what it may be, and what it does.
    rlrun options algo=sac algo: SAC's hyperparameters.
    """
    from rlrun.options import print_options

    line = read_command_line(arguments)
    overrides = [each for each in line.overrides if "=" in each]
    names = [each for each in line.overrides if "=" not in each]
    print_options(overrides, names, line.primary.folder)
    return 0


def stack(arguments: list[str]) -> int:
    """rlrun stack RUN_DIR

    The Python stacks of every thread of every process of a run that is going on: the driver with
    its learner's thread, Ray workers, replay shards, envs in processes of their own. The run goes
    on.
    """
    if len(arguments) != 1:
        raise _usage(stack)
    from rlrun.stack import print_stacks

    print_stacks(Path(arguments[0]))
    return 0


def logs(arguments: list[str]) -> int:
    """rlrun logs RUN_DIR [-f] [--worker N]

    What the processes of a run have logged and printed, in the order of time. With -f, go on as
    long as the run does; --worker N: the remote worker of that number alone, 0 for the driver.
    """
    worker, rest = _take_number("--worker", arguments, -1)
    follow = any(argument in ("-f", "--follow") for argument in rest)
    rest = [argument for argument in rest if argument not in ("-f", "--follow")]
    if len(rest) != 1:
        raise _usage(logs)
    from rlrun.logs import print_logs

    try:
        print_logs(Path(rest[0]), worker=worker if worker >= 0 else None, follow=follow)
    except KeyboardInterrupt:  # how one leaves -f
        return 0
    return 0


def autotune(arguments: list[str]) -> int:
    """rlrun autotune [key=value ...] [-f EXAMPLE] [--seconds N] [--compile]

    Measure which numbers of envs, workers and torch threads, and which env.vectorization, train
    fastest on this machine, within about N seconds (60), and print the command line to use. Keys
    that you give stay as they are. --compile: try model.compile too, which takes half a minute
    more. Nothing is written.
    """
    seconds, rest = _take_number("--seconds", arguments, 60)
    compiles, rest = "--compile" in rest, [each for each in rest if each != "--compile"]
    line = read_command_line(rest)
    if line.has(CONFIG_NAME) or line.has(MULTIRUN):
        raise ConfigError("rlrun autotune takes the keys and tuned examples of a single run.")
    config = compose(line.overrides, line.primary.folder)
    refuse_early(plain_config(config))
    typed = {
        each.lstrip("+").partition("=")[0] for each in line.overrides if each not in line.of_files
    }
    from rlrun.autotune import autotune as measure

    measure(config, rest, typed, seconds=seconds, compiles=compiles)
    return 0


def verify_resume(arguments: list[str]) -> int:
    """rlrun verify-resume [key=value ...] [-f EXAMPLE] [--iterations N]

    Train 2 N iterations at once (N: 2), and again N of them and N more by a resume, and compare all
    numbers of results and checkpoints bit for bit. Status 1 if one differs, which is named.
    """
    num_iterations, rest = _take_number("--iterations", arguments, 2)
    line = read_command_line(rest)
    if line.has(CONFIG_NAME):
        raise ConfigError("rlrun verify-resume takes keys and tuned examples, not a whole config.")
    config = compose(line.overrides, line.primary.folder)
    from rlrun.verify_resume import verify

    say(verify(config, max(num_iterations, 1)))
    return 0


def check(arguments: list[str]) -> int:
    """rlrun check FILE|DIR|GLOB ... [--seeds N] [--jobs N] [--out FILE.md]

    Replay tuned examples to their pass marks and print a table; status 1 if any fails. Each runs
    with its own seed and, with --seeds N, the N - 1 that follow; --jobs N runs N processes at once.
    The table is also written as markdown, if --out names no other file to results/check_<time>.md.
    """
    from rlrun.check import check as check_all
    from rlrun.check import read_request

    return check_all(read_request(arguments))


def write_report(arguments: list[str]) -> int:
    """rlrun report RUN_OR_SWEEP ... [--out FILE.html] [--open]

    What runs did, as a page of HTML that needs no other file, and its figures as PNGs: learning
    curves with bands over seeds, ranking, what learners report, time by phase, settings that
    differ, episodes on video, versions. Several paths are compared with each other. --open shows
    the page in a browser. Runs may still be going on.
    """
    from rlrun.report.command import read_request, report

    return report(read_request(arguments))


def _take_number(option: str, arguments: list[str], default: int) -> tuple[int, list[str]]:
    """The number given as `option N`, and the other arguments. Raises ConfigError."""
    if option not in arguments:
        return default, arguments
    at = arguments.index(option)
    number = arguments[at + 1] if at + 1 < len(arguments) else ""
    if not number.isdigit():
        raise ConfigError(f"{option} {number}: it must be a number.")
    return int(number), [*arguments[:at], *arguments[at + 2 :]]


def _choices(folder: Path) -> list[tuple[str, Path]]:
    """(name, file) of each choice in a group's folder."""
    return [
        (path.relative_to(folder).with_suffix("").as_posix(), path)
        for path in sorted(folder.rglob("*.yaml"))
    ]


def _list_groups() -> str:
    lines = ["== Groups: group=choice =="]
    for folder in sorted(path for path in conf_dir().iterdir() if path.is_dir()):
        lines.append(f"{folder.name}: {', '.join(name for name, _ in _choices(folder))}")
    return "\n".join(lines) + "\n"


def _begins_with_path(arguments: list[str]) -> bool:
    return bool(arguments) and ("=" not in arguments[0] or os.path.exists(arguments[0]))


def _working_directory() -> str:
    try:
        return os.getcwd()
    except OSError as error:
        raise ConfigError(f"The current folder is not there any more: {error}") from error


def _is_stdout_broken() -> bool:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True
    # What could not be written may be gone from the buffer by now: ask the pipe itself.
    with suppress(OSError, ValueError):  # stdout may be closed, or no file.
        reader = select.poll()
        reader.register(sys.stdout.fileno(), 0)
        return any(event & select.POLLERR for _, event in reader.poll(0))
    return False


def _usage(command: Callable[[list[str]], int]) -> ConfigError:
    return ConfigError(f"Usage: {inspect.cleandoc(command.__doc__ or '')}")


def _unknown_command(name: str, commands: Iterable[str]) -> ConfigError:
    near = difflib.get_close_matches(name, commands, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    return ConfigError(
        f"There is no command {name!r}.{hint} Commands: {', '.join(commands)}; "
        f"without one, rlrun trains: rlrun algo=ppo env=cartpole. See rlrun --help."
    )


def _first_sentence(path: Path) -> str:
    comments = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @"):
            comments.append(line.lstrip("# "))
    return re.split(r"\.\s", " ".join(comments) + " ")[0]
