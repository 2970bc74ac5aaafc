"""The command line of a training run: our short forms as Hydra's, and hints about typos."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from rlrun.config import conf_dir
from rlrun.core.errors import ConfigError
from rlrun.examples import FILE, find_file, use_file
from rlrun.overrides import as_hydra_wants

HELP = ("--help", "-h")
CONFIG_DIR = ("--config-dir", "-cd")
CONFIG_NAME = ("--config-name", "-cn")
MULTIRUN = ("--multirun", "-m")
CFG, RESOLVE = ("--cfg", "-c"), ("--resolve",)
INFO = ("--info", "-i")
ONE_OF = (*MULTIRUN, *CFG, *INFO, "--run", "-r", "--hydra-help", "--shell-completion", "-sc")
"""Options each of which says what is to be done."""

SHOWN = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
"""What --info shows, if something is named."""

WITH_VALUE = (*CONFIG_DIR, *CONFIG_NAME, *CFG, "--package", "-p")

FLAGS = (
    *(*HELP, *MULTIRUN, "--hydra-help", "--version", "--run", "-r", "--resolve"),
    *("--shell-completion", "-sc"),
)
VERBOSITY = {"-v": "log_level=INFO", "-vv": "log_level=DEBUG"}
INSTEAD = {
    "--config-path": "rlrun composes its own conf. Add a folder of yours: --config-dir DIR",
    "-cp": "rlrun composes its own conf. Add a folder of yours: --config-dir DIR",
    "--experimental-rerun": "replay a run by its config: rlrun -f RUN_DIR/params.json",
}
"""Options of Hydra's that do not fit rlrun, and what does."""

INSTEAD_OF_MODE = "A sweep begins with -m: rlrun -m key=value,value"


@dataclass(frozen=True)
class Primary:
    """The config with which composing begins."""

    name: str
    folder: str | None
    """The user's own folder of groups, beside ours (--config-dir DIR)."""


@dataclass
class CommandLine:
    """Options and overrides, as Hydra takes them."""

    options: list[str] = field(default_factory=list)
    overrides: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    """The files and folders that were named, for a process that runs elsewhere: -f FILE,
    --config-dir DIR, --config-name NAME."""
    of_files: list[str] = field(default_factory=list)
    """Those of the overrides that stand for files."""

    @property
    def all(self) -> list[str]:
        return [*self.options, *self.overrides]

    def has(self, names: tuple[str, ...]) -> bool:
        return any(name in self.options for name in names)

    def value_of(self, names: tuple[str, ...]) -> str | None:
        """The last value that was given to an option, or None."""
        values = [
            value
            for option, value in zip(self.options, self.options[1:], strict=False)
            if option in names
        ]
        return values[-1] if values else None

    @property
    def primary(self) -> Primary:
        """Where composing begins."""
        return Primary(self.value_of(CONFIG_NAME) or "config", self.value_of(CONFIG_DIR))


def read_command_line(arguments: list[str]) -> CommandLine:
    """What was typed, in Hydra's words; files of -f are read. Raises ConfigError."""
    line, files, overrides = CommandLine(), list[str](), list[str]()
    rest = deque(arguments)
    while rest:
        argument = rest.popleft()
        name, equals, value = argument.partition("=")
        if name in FILE:
            files.append(
                value if equals else _next(rest, f"{name} needs a file: -f dqn/cartpole-dqn")
            )
        elif argument.startswith("-f"):
            files.append(argument.removeprefix("-f"))
        elif argument in VERBOSITY:
            overrides.append(VERBOSITY[argument])
        elif name in INFO:
            line.options += [
                name,
                value or (rest.popleft() if rest and rest[0] in SHOWN else "all"),
            ]
        elif name in WITH_VALUE:
            line.options += [name, value if equals else _next(rest, f"{name} needs a value.")]
        elif argument in FLAGS:
            line.options.append(argument)
        elif argument.startswith("-"):
            raise _no_such_option(argument, rest[0] if rest else "")
        else:
            overrides.append(_override(argument))
    folder = line.value_of(CONFIG_DIR)
    if folder is not None and not Path(folder).is_dir():
        raise ConfigError(f"{CONFIG_DIR[0]} {folder}: there is no such folder.")
    _check_config_name(line)
    _check_together(line)
    line.sources = _sources(line, files)
    for file in files:
        options, more = use_file(file, overrides)
        line.options += options
        line.of_files += more
    line.overrides = as_hydra_wants([*line.of_files, *overrides])
    return line


def _sources(line: CommandLine, files: list[str]) -> list[str]:
    sources = [part for file in files for part in (FILE[1], str(find_file(file)))]
    if folder := line.value_of(CONFIG_DIR):
        sources += [CONFIG_DIR[0], str(Path(folder).absolute())]
    if name := line.value_of(CONFIG_NAME):
        sources += [CONFIG_NAME[0], name]
    return sources


def _next(rest: deque[str], complaint: str) -> str:
    if not rest:
        raise ConfigError(complaint)
    return rest.popleft()


def _override(argument: str) -> str:
    if argument.lstrip("+") == "hydra.mode=MULTIRUN":
        raise ConfigError(f"{argument}: {INSTEAD_OF_MODE}")
    if argument.startswith("="):
        raise ConfigError(f"{argument!r} is not of the form key=value.")
    if argument.endswith((".yaml", ".yml", ".json")) and "=" not in argument:
        raise ConfigError(f"{argument} is a file. To replay it: rlrun -f {argument}")
    return argument


def _no_such_option(argument: str, following: str) -> ConfigError:
    name, equals, value = argument.partition("=")
    key = name.lstrip("-")
    if name in INSTEAD:
        return ConfigError(f"{name}: {INSTEAD[name]}.")
    if key and not key.strip("v"):
        return ConfigError(f"{argument}: -v says more, and -vv all that there is.")
    if not equals and following and "=" not in following:
        value = following
    if equals or value:
        return ConfigError(f"There is no option {name}. Keys have no dashes: {key}={value}")
    return ConfigError(
        f"There is no option {argument}. See rlrun --help; keys are set as key=value."
    )


def _check_together(line: CommandLine) -> None:
    """Options of which the other would be ignored."""
    ways = list(dict.fromkeys(name for name in line.options if name in ONE_OF))
    if len(ways) > 1:
        raise ConfigError(f"{ways[0]} and {ways[1]} do not go together. Leave one out.")
    if line.has(RESOLVE) and not line.has((*CFG, *HELP)):
        raise ConfigError("--resolve is for what --cfg job shows: rlrun --cfg job --resolve")


def _check_config_name(line: CommandLine) -> None:
    """A primary config of the user's must build on ours, or no run comes of it."""
    name = line.value_of(CONFIG_NAME)
    if name is None:
        return
    folder = Path(line.value_of(CONFIG_DIR) or conf_dir())
    file = folder / f"{name.removesuffix('.yaml')}.yaml"
    if not file.is_file():
        raise ConfigError(
            f"--config-name {name}: there is no {file}. Name its folder: --config-dir DIR"
        )
    node = OmegaConf.load(file)
    defaults = node.get("defaults") if isinstance(node, DictConfig) else None
    if file.parent != conf_dir() and "config" not in (defaults or []):
        raise ConfigError(
            f"--config-name {name}: {file} is no whole config. Let it build on rlrun's, with "
            f"`defaults: [config, _self_]`; or lay it over the rest: rlrun -f {file}"
        )
