"""Points that Optuna's samplers choose by what the earlier ones gave."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from rlrun.config import unknown_key
from rlrun.core.errors import ConfigError, missing_extra
from rlrun.overrides import as_text
from rlrun.sweep.search.base import Point, Search, required_samples
from rlrun.sweep.search.space import Choice, Domain, Space

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

Sampler = Literal["tpe", "gp", "cmaes", "qmc", "nsgaii", "random"]
CLASSES = dict(
    zip(
        get_args(Sampler),
        (
            *("TPESampler", "GPSampler", "CmaEsSampler", "QMCSampler", "NSGAIISampler"),
            "RandomSampler",
        ),
        strict=True,
    )
)


@dataclass(kw_only=True)
class OptunaSearch(Search):
    """Asks a study of Optuna for each point, and tells it as soon as one ended.

    The study lives in this process: the sweep's own journal puts it together again.
    """

    learns = True

    sampler: Sampler = "tpe"
    """What chooses the points: tpe (Bergstra et al., 2011), gp (Gaussian process), cmaes, qmc,
    nsgaii, random."""
    sampler_options: dict[str, Any] = field(default_factory=dict)
    """Arguments of Optuna's class, such as n_startup_trials."""

    study: Any = field(default=None, init=False)
    """Optuna's own record of the points (an `optuna.Study`); None before `start`."""
    _space: Space = field(default_factory=dict, init=False)
    _distributions: dict[str, Any] = field(default_factory=dict, init=False)
    _num_points: int = field(default=0, init=False)
    _trials: list[Any] = field(default_factory=list, init=False)

    def start(
        self, space: Space, *, num_samples: int | None, seed: int, mode: Literal["max", "min"]
    ) -> None:
        try:
            import optuna
        except ImportError as error:
            raise missing_extra("optuna", "optuna", "search=optuna") from error

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._num_points = required_samples(num_samples, "optuna")
        self._space = space
        self._distributions = {
            key: _distribution(domain) for key, domain in space.items() if not _is_fixed(domain)
        }
        self._trials = []
        direction: Literal["maximize", "minimize"] = "maximize" if mode == "max" else "minimize"
        with _quiet():
            sampler = self._make_sampler(seed)
            self.study = optuna.create_study(sampler=sampler, direction=direction)

    @property
    def num_points(self) -> int:
        return self._num_points

    def ask(self) -> Point | None:
        if len(self._trials) == self._num_points:
            return None
        with _quiet():
            self._trials.append(self.study.ask(self._distributions))
        chosen = self._trials[-1].params
        return {key: _value(domain, chosen.get(key)) for key, domain in self._space.items()}

    def tell(self, point: int, objective: float | None) -> None:
        from optuna.trial import TrialState

        state = TrialState.FAIL if objective is None else TrialState.COMPLETE
        with _quiet():
            self.study.tell(self._trials[point], objective, state=state)

    def report(self, point: int, time: float, objective: float) -> None:
        with _quiet():
            self._trials[point].report(objective, int(time))

    def _make_sampler(self, seed: int) -> BaseSampler:
        import optuna

        made = getattr(optuna.samplers, CLASSES[self.sampler])
        known = inspect.signature(made).parameters
        for name in self.sampler_options:
            if name not in known or name == "seed":
                given = f"search.sampler_options.{name}"
                raise unknown_key(given, (f"search.sampler_options.{each}" for each in known))
        # Trials run beside one another: a sampler must not choose what one of them tries already.
        usual = {"constant_liar": True} if self.sampler == "tpe" else {}
        try:
            return made(**(usual | self.sampler_options), seed=seed)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"search.sampler_options={self.sampler_options}: {error}") from error
        except ImportError as error:
            package = str(error.name or error)
            raise missing_extra(package, "optuna", f"search.sampler={self.sampler}") from error


def _is_fixed(domain: Domain) -> bool:
    return isinstance(domain, Choice) and len(domain.values) == 1


def _distribution(domain: Domain) -> BaseDistribution:
    from optuna import distributions

    if isinstance(domain, Choice) and domain.is_range:
        return distributions.IntDistribution(0, len(domain.values) - 1)
    if isinstance(domain, Choice):
        return distributions.CategoricalDistribution([*map(as_text, domain.values)])
    if domain.is_whole:
        return distributions.IntDistribution(int(domain.low), int(domain.high), domain.is_log)
    return distributions.FloatDistribution(domain.low, domain.high, log=domain.is_log)


def _value(domain: Domain, chosen: Any) -> Any:
    """What the sampler's choice stands for."""
    if not isinstance(domain, Choice):
        return chosen
    if _is_fixed(domain):
        return domain.values[0]
    if domain.is_range:
        return domain.values[chosen]
    return next(value for value in domain.values if as_text(value) == chosen)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's warnings of what is experimental, or sampled independently."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
