"""Data sets of Minari (minari.farama.org), read from where they lie on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rlrun.core.errors import ConfigError, missing_extra
from rlrun.workers.offline.config import MINARI
from rlrun.workers.offline.episode_lines import Origin, RecordedEpisode
from rlrun.workers.offline.source import Key, Place


class MinariSource:
    """The episodes of one data set. A record is an episode. Nothing is downloaded.

    Raises MissingExtraError without the package, ConfigError if there is no such data set here.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        dataset_id = name.removeprefix(MINARI)
        try:
            import minari
        except ImportError as error:
            raise missing_extra("minari", "offline", f"input={name}") from error
        try:
            self.dataset: Any = minari.load_dataset(dataset_id)
        except (FileNotFoundError, ValueError) as error:
            raise ConfigError(
                f"input={name}: there is no such data set on this machine ({error}). Fetch it: "
                f"minari download {dataset_id}"
            ) from error
        self.parts = [dataset_id]
        self._ids = [int(index) for index in self.dataset.episode_indices]
        self.sizes = [len(self._ids)]

    def origin(self) -> Origin:
        spec = self.dataset.spec.env_spec
        return Origin(
            env="" if spec is None else spec.id,
            observation_space=self.dataset.observation_space,
            action_space=self.dataset.action_space,
        )

    def walk(self, order: Sequence[int], place: Place) -> Iterator[tuple[Key, int, Place]]:
        for number in range(place[0] if place else 0, len(self._ids)):
            yield [self._ids[number]], number, [number + 1]

    def read(self, key: Key) -> list[RecordedEpisode]:
        (episode,) = self.dataset.iterate_episodes(key)
        is_terminated = bool(episode.terminations[-1])
        return [
            RecordedEpisode(
                obs=episode.observations,
                actions=episode.actions,
                rewards=np.asarray(episode.rewards, np.float64),
                terminated=is_terminated,
                truncated=not is_terminated,
            )
        ]

    def where(self, key: Key) -> str:
        """A record, for people."""
        return f"input={self.name}, episode {key[0]}"

    def close(self) -> None:
        """Nothing is held open."""
