"""Everything that can be wrong with a run is found before Hydra makes its folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from rlrun.compose import plain_config
from rlrun.config import UnknownKeyError
from rlrun.core.errors import ConfigError, RlrunError
from rlrun.core.weight_files import require_source
from rlrun.early import refuse_early
from rlrun.error_report import report
from rlrun.examples import file_that_sets
from rlrun.run_folder import refuse_taken_folder
from rlrun.settle import settle
from rlrun.sweep.request_file import refuse_taken_sweep

if TYPE_CHECKING:
    from rlrun.parts import Parts

_ready: list[Parts] = []
"""What the run that starts now is made of, from its validation until it takes it."""


class ValidateBeforeRun:
    """A Hydra callback: checks the whole config before Hydra makes the run's folder."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Leave with status 2 and one clear message if something is wrong."""
        from hydra.core.hydra_config import HydraConfig

        try:
            plain = _settled(config, config.hydra)
            # The folder's name may refer to Hydra's own config, which Hydra sets a moment later.
            HydraConfig.instance().set_config(config)
            if not str(config.hydra.run.dir):
                raise ConfigError("hydra.run.dir= must name a folder.")
            refuse_taken_folder(Path(str(config.hydra.run.dir)))
            _ready[:] = [_parts_of(plain, config.hydra)]
        except RlrunError as error:
            # Hydra turns the exceptions of callbacks into warnings, all but this one.
            sys.exit(report(error))

    def on_run_end(self, **kwargs: Any) -> None:
        """Nothing."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Refuse a taken folder, and launch the jobs of a sweeper that the user has chosen as
        trials of ours, unless a launcher was chosen too."""
        from rlrun.sweep import launcher

        _ready.clear()
        try:
            refuse_taken_sweep(Path(str(config.hydra.sweep.dir)))
            launcher.take_the_place_of_hydras(config)
        except RlrunError as error:
            sys.exit(report(error))

    def on_multirun_end(self, **kwargs: Any) -> None:
        """Nothing."""

    def on_job_start(self, **kwargs: Any) -> None:
        """Nothing."""

    def on_job_end(self, **kwargs: Any) -> None:
        """Nothing."""


def read(config: DictConfig, hydra: Any) -> Parts:
    """The objects of a config that Hydra composed, with its node `hydra`. Raises ConfigError."""
    return _parts_of(_settled(config, hydra), hydra)


def take_or_read(config: DictConfig) -> Parts:
    """The objects of the run that was validated a moment ago; for a job of a sweep, new ones."""
    from hydra.core.hydra_config import HydraConfig

    return _ready.pop() if _ready else read(config, HydraConfig.get())


def _settled(config: DictConfig, hydra: Any) -> dict[str, Any]:
    """The config as plain values, as far as it can be checked without torch."""
    from omegaconf.errors import OmegaConfBaseException

    try:
        plain = plain_config(settle(config, hydra))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    with _naming_origins(plain, hydra):
        refuse_early(plain)
    if plain.get("init_from") is not None:
        require_source(plain["init_from"])
    return plain


def _parts_of(plain: dict[str, Any], hydra: Any) -> Parts:
    from rlrun.parts import read_config, with_seed

    with _naming_origins(plain, hydra):
        return read_config(with_seed(plain))


@contextmanager
def _naming_origins(plain: dict[str, Any], hydra: Any) -> Iterator[None]:
    """An unknown key is told with the file that sets it."""
    try:
        yield
    except UnknownKeyError as error:
        raise _with_origin(error, plain, hydra) from error


def _with_origin(error: UnknownKeyError, plain: dict[str, Any], hydra: Any) -> ConfigError:
    """The same, naming the file that sets the key, if it was not the user."""
    typed = {str(override).lstrip("+").partition("=")[0] for override in hydra.overrides.task}
    choices = hydra.runtime.choices
    if error.key in typed:
        return error
    if (example := choices.get("tuned_examples")) and (by := file_that_sets(error.key, example)):
        return ConfigError(f"{by[0]} is for algo={by[1]}, not {choices.algo}. {error}")
    tuned = str(plain.get("tuned") or "")
    if tuned and (algo := tuned.partition("/")[0]) != choices.algo:
        return ConfigError(f"tuned={tuned} is for algo={algo}, not {choices.algo}. {error}")
    return error
