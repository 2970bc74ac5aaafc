"""What was typed for a sweep, sorted: what is for the sweep itself, for all trials, or searched."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from rlrun.arguments import CommandLine, read_command_line
from rlrun.compose import SWEEP_NODES, explaining, hydra_at_hand, referring_to
from rlrun.config import build
from rlrun.core.errors import ConfigError
from rlrun.overrides import read
from rlrun.settle import folders_of_group
from rlrun.sweep.plan import SEED, SweepPlan
from rlrun.sweep.schedulers.base import Scheduler
from rlrun.sweep.search.base import Search
from rlrun.sweep.search.space import SPACE, Choice, Domain, space_of
from rlrun.sweep.settings import SweepSettings
from rlrun.sweep.trial_configs import TrialConfigs

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

OF_THE_SWEEP = re.compile(
    rf"({'|'.join(SWEEP_NODES)})(\..*)?|hydra[./](sweep|sweeper|launcher|mode|run)([.].*)?"
)
"""Keys that no trial is given."""


def plan_sweep(arguments: list[str], folder: Path | None = None) -> SweepPlan:
    """The plan of what `rlrun -m <arguments>` asks for; nothing of it is checked or done yet.

    folder: of the sweep, in place of hydra.sweep.dir. Raises ConfigError.
    """
    line = read_command_line(arguments)
    config = _compose(line)
    settings = build(_node(config, "sweep"), "sweep", target=SweepSettings)
    search = build(_node(config, "search"), "search", kind=Search)
    scheduler = build(_node(config, "scheduler"), "scheduler", kind=Scheduler)
    common, swept = _sorted_out(line)
    space = _space(config, search, common, swept)
    seeds = _seeds(settings, space.pop(SEED, None), config.seed)
    scheduler.metric = scheduler.metric or settings.metric or config.objective
    scheduler.mode = scheduler.mode or settings.mode
    scheduler.seed = next((each for each in (config.seed, *seeds) if isinstance(each, int)), 0)
    overrides = [str(each.input_line) for each in common]
    with referring_to(config):
        asked_for = str(config.hydra.sweep.dir)
    if not asked_for:
        raise ConfigError("hydra.sweep.dir= must name a folder.")
    return SweepPlan(
        folder=Path(folder or asked_for).absolute(),
        settings=settings,
        metric=settings.metric or config.objective,
        seed=scheduler.seed,
        search=search,
        scheduler=scheduler,
        space=space,
        seeds=seeds,
        sources=line.sources,
        overrides=overrides,
        configs=TrialConfigs(line.primary, [*line.of_files, *overrides]),
        subdir=_node(config.hydra, "sweep", resolve=False)["subdir"],
    )


def _compose(line: CommandLine) -> DictConfig:
    """The config in which what is searched has the values that its files give it."""
    from hydra.types import RunMode

    primary = line.primary
    said = [*line.all, "-m"]
    with hydra_at_hand(primary.folder) as hydra, explaining(said, primary.folder):
        return hydra.compose_config(
            config_name=primary.name,
            overrides=line.overrides,
            run_mode=RunMode.MULTIRUN,
            with_log_configuration=False,
        )


def _node(config: DictConfig, name: str, *, resolve: bool = True) -> Any:
    return OmegaConf.to_container(config[name], resolve=resolve)


def _sorted_out(line: CommandLine) -> tuple[list[Override], list[Override]]:
    """The overrides that all trials have, and those with several values, less what is for the sweep
    itself. Raises ConfigError."""
    common, swept = [], []
    for text in line.overrides:
        override = read(text)
        key = override.key_or_group
        is_of_space = key.startswith(f"{SPACE}.")
        if text in line.of_files:
            continue
        if override.is_sweep_override():
            if OF_THE_SWEEP.fullmatch(key) and not is_of_space:
                raise ConfigError(f"{text}: a sweep cannot have several values of {key}.")
            swept.append(override)
        elif not OF_THE_SWEEP.fullmatch(key):
            common.append(override)
    return common, swept


def _space(
    config: DictConfig, search: Search, common: list[Override], swept: list[Override]
) -> dict[str, Domain]:
    """What is searched: the values in YAML, and in their place or beside them what was typed."""

    def choices(group: str) -> list[str]:
        folders = folders_of_group(config.hydra, group)
        return sorted({file.stem for folder in folders for file in folder.glob("*.yaml")})

    params = _node(config.hydra, "sweeper").get("params") or {}
    typed = {override.key_or_group for override in common}
    space = space_of(swept, {**params, **search.space}, choices)
    return {key: domain for key, domain in space.items() if key.lstrip("+") not in typed}


def _seeds(settings: SweepSettings, domain: Domain | None, seed: Any) -> list[Any]:
    """The seeds of each point's trials; [None] if the config says it. Raises ConfigError."""
    if settings.seeds is not None and domain is not None:
        raise ConfigError(
            f"sweep.seeds={settings.seeds} counts on from one seed, and seed has several values. "
            f"Give one of them."
        )
    if settings.seeds is not None:
        first = 0 if seed is None else seed
        if not isinstance(first, int):
            raise ConfigError(f"seed={seed} must be a whole number or null.")
        return list(range(first, first + settings.seeds))
    if domain is None:
        return [None]
    if not isinstance(domain, Choice):
        raise ConfigError(
            "seed: list the seeds that each point is run with (seed=0,1,2 or sweep.seeds=3); an "
            "interval has no end of them."
        )
    return list(domain.values)
