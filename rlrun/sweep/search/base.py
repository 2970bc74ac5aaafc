"""What a search is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from rlrun.core.errors import ConfigError
from rlrun.sweep.search.space import Choice, Space

Point = dict[str, Any]
"""Value by override key, as Hydra's command line takes it ("algo.lr", "env", "+algo.x")."""


@dataclass(kw_only=True)
class Search(ABC):
    """Gives the points of a sweep one by one, and hears how each ended; no batches.

    Its state is what it was asked and told: a resumed sweep asks and tells all of it again, in the
    order of the journal, and has to get the same points. So chance comes from the sweep's seed.
    """

    lists_all: ClassVar[bool] = False
    """Whether the user has listed all points, so that each must be able to run."""
    learns: ClassVar[bool] = False
    """Whether points depend on how earlier ones ended, so that they are not known beforehand."""

    space: dict[str, Any] = field(default_factory=dict)
    """What is searched, as values or text in the grammar of the command line, by key."""

    @abstractmethod
    def start(
        self, space: Space, *, num_samples: int | None, seed: int, mode: Literal["max", "min"]
    ) -> None:
        """Begin anew. `space`: what `self.space` and the command line say together; `mode`: whether
        more of the objective is better. Raises ConfigError for what it cannot search."""

    @property
    @abstractmethod
    def num_points(self) -> int | None:
        """How many there will be; None if that is not known beforehand."""

    @abstractmethod
    def ask(self) -> Point | None:
        """The next point; None if there is none (left)."""

    def tell(self, point: int, objective: float | None) -> None:  # noqa: B027
        """How the point of that number (from 0, as asked) ended, over all of its seeds; None: no
        objective is known, as all of its trials failed."""

    def report(self, point: int, time: float, objective: float) -> None:  # noqa: B027
        """An intermediate value of a running point."""


def listed(space: Space, search: str) -> dict[str, Choice]:
    """The domains, all of which are to be lists. Raises ConfigError for an interval."""
    for key, domain in space.items():
        if not isinstance(domain, Choice):
            raise ConfigError(
                f"{key}: search={search} needs values that are listed, and an interval has no end "
                f"of them. Draw from it, with search=random sweep.num_samples=20 or "
                f"search=optuna sweep.num_samples=20."
            )
    return {key: domain for key, domain in space.items() if isinstance(domain, Choice)}


def refuse_samples(num_samples: int | None, search: str) -> None:
    """Raise ConfigError for a number of points where all are listed."""
    if num_samples is not None:
        raise ConfigError(
            f"sweep.num_samples={num_samples}: search={search} has each listed point once. "
            f"To draw some of them: search=random. To run each with several seeds: "
            f"sweep.seeds={num_samples}."
        )


def required_samples(num_samples: int | None, search: str) -> int:
    """The number of points to draw. Raises ConfigError if none was given."""
    if num_samples is None:
        raise ConfigError(f"search={search} needs to know how many points: sweep.num_samples=20")
    return num_samples
