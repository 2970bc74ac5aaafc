"""The offline reader: what feeds a worker that has data in place of envs."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces

from rlrun.core import seeding
from rlrun.core.actions import Simplex
from rlrun.core.batch import Batch, concat
from rlrun.core.episode import EpisodeReport
from rlrun.core.errors import ConfigError, RlrunError, SpaceError
from rlrun.core.membership import misfit
from rlrun.core.nested import row_of
from rlrun.workers.actor import Actor
from rlrun.workers.envs import clip_rewards
from rlrun.workers.offline.columns import Column, cast
from rlrun.workers.offline.config import MINARI, InputConfig
from rlrun.workers.offline.episode_lines import Origin, RecordedEpisode
from rlrun.workers.offline.json_source import JsonSource
from rlrun.workers.offline.minari_source import MinariSource
from rlrun.workers.offline.shuffle import Share, ShuffledRecords
from rlrun.workers.offline.source import Key, Source

COLUMNS = frozenset({"next_obs", "log_probs", "values", "next_values"})
"""What it can give beside the usual columns."""


class OfflineReader:
    """Gives the steps of recorded episodes, one episode after the other, as the `Input` of workers
    that learn from data. Endless; each worker reads a part of its own.

    Raises ConfigError if the data are not there or the algorithm needs a column that no data have,
    SpaceError if they are of other spaces than the actor's.
    """

    def __init__(
        self,
        config: InputConfig,
        actor: Actor,
        *,
        reward_clip: bool | float,
        seed: int,
        share: Share,
    ) -> None:
        self.config = config
        self.actor = actor
        self.reward_clip = reward_clip
        self.asked = actor.algorithm.rollout_columns
        if missing := set(self.asked) - COLUMNS:
            raise ConfigError(
                f"{type(actor.algorithm).__name__} needs the column {min(missing)}, which data do "
                f"not have. Use algo=marwil, bc, cql or dqn."
            )
        self.rng = seeding.generator(seed, "input", "worker", share.position)
        self.records: list[ShuffledRecords] = []
        for index, source in enumerate(make_sources(config)):
            _check_spaces(source, actor)
            own_seed = seeding.integer_seed(seed, "input", index)
            self.records.append(
                ShuffledRecords(source, size=config.shuffle_buffer_size, seed=own_seed, share=share)
            )
        if config.actions_in_input_normalized:
            _check_normalized(actor)
        self._probabilities = np.array(list(config.sources.values()))
        self._current: tuple[int, Key] | None = None
        """(source, key) of the record whose episodes are given now."""
        self._episodes: list[Batch] = []
        self._episode, self._step = 0, 0
        """Which of these is next, and which of its steps."""
        self._seconds, self._num_steps = 0.0, 0

    def sample(
        self,
        num_steps: int,
        timestep: int,
        explore: bool,
        *,
        ends_with_episode: bool = False,
        max_s: float = math.inf,
    ) -> Batch:
        """The next `num_steps` steps, as columns [T, 1, ...]. Raises RlrunError if data are
        damaged. That takes no long time, and the episodes are not those of the policy that acts:
        the other arguments mean nothing here."""
        started = time.perf_counter()
        parts, missing = [], num_steps
        while missing:
            parts.append(self._take(missing))
            missing -= parts[-1].num_rows
        columns = concat(parts)
        self.actor.gather(columns["obs"])
        self._seconds += time.perf_counter() - started
        self._num_steps += num_steps
        return Batch({name: column[:, None] for name, column in columns.items()})

    @property
    def is_midway(self) -> bool:
        """Never: `sample` always gives all its steps."""
        return False

    def take_finished(self) -> list[EpisodeReport]:
        """None: how others fared is no result of the policy that learns."""
        return []

    def take_seconds(self) -> tuple[dict[str, float], int]:
        """(seconds of reading, steps) since the last call."""
        taken = {"data_reading": self._seconds}, self._num_steps
        self._seconds, self._num_steps = 0.0, 0
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Where it is in the data, in plain numbers."""
        source, key = self._current or (-1, [])
        return {
            "rng": self.rng.bit_generator.state,
            "records": [records.state_dict() for records in self.records],
            "current": {"source": source, "key": list(key)},
            "episode": self._episode,
            "step": self._step,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> np.ndarray:
        """Go on where `state_dict` was taken; from the beginning if the data are others. Returns
        whether the episode under way is lost, [1]. Raises ValueError for the state of an env."""
        if "records" not in state:
            raise ValueError("it is of a run that sampled from envs; this one has input.")
        pairs = list(zip(self.records, state["records"], strict=False))
        is_same = len(state["records"]) == len(self.records)
        if not (is_same and all(each.has_data_of(of_each) for each, of_each in pairs)):
            return np.ones(1, bool)
        for each, of_each in pairs:
            each.load_state_dict(of_each)
        self.rng.bit_generator.state = state["rng"]
        current = state["current"]
        if current["source"] >= 0:
            self._open(int(current["source"]), [int(number) for number in current["key"]])
            self._episode, self._step = int(state["episode"]), int(state["step"])
        return np.zeros(1, bool)

    def close(self) -> None:
        """Close the files."""
        for records in self.records:
            records.source.close()

    def _take(self, most: int) -> Batch:
        """Up to `most` steps of one episode, [T, ...]."""
        passes = [records.pass_number for records in self.records]
        while self._episode >= len(self._episodes):
            source = 0
            if len(self.records) > 1:
                source = int(self.rng.choice(len(self.records), p=self._probabilities))
            records = self.records[source]
            self._open(source, records.draw(self.rng))
            if not self._episodes and records.pass_number > passes[source] + 1:
                raise ConfigError(
                    f"input={records.source.name} holds no step of an episode: none was in a whole "
                    f"pass over it. Name other data."
                )
        episode = self._episodes[self._episode]
        found = episode.take(slice(self._step, self._step + most))
        self._step += found.num_rows
        if self._step >= episode.num_rows:
            self._episode, self._step = self._episode + 1, 0
        return found

    def _open(self, source: int, key: Key) -> None:
        """Read the episodes of a record."""
        self._current = source, key
        origin = self.records[source].source
        episodes = [episode for episode in origin.read(key) if len(episode.rewards)]
        self._episodes = [self._columns(each, origin.where(key)) for each in episodes]
        self._episode = self._step = 0

    def _columns(self, episode: RecordedEpisode, where: str) -> Batch:
        """An episode as the sampler would have given it, [T, ...]."""
        num_steps = len(episode.rewards)
        rows = self._rows(episode.obs, num_steps + 1, where)
        ends = np.arange(num_steps) == num_steps - 1
        columns = Batch(
            obs=rows[:-1],
            actions=self._actions(episode, where),
            rewards=clip_rewards(episode.rewards, self.reward_clip).astype(np.float32),
            terminated=ends & episode.terminated,
            truncated=ends & (not episode.terminated),
        )
        given = {"obs": rows, "actions": columns["actions"], "rewards": columns["rewards"]}
        for name, column in given.items():
            if not np.isfinite(column).all():
                raise RlrunError(f"{where}: {name} hold numbers that are not finite.")
        if "next_obs" in self.asked:
            columns["next_obs"] = rows[1:]
        if "log_probs" in self.asked:
            if episode.log_probs is None:
                raise RlrunError(f"{where} has no log_probs, which the algorithm needs.")
            columns["log_probs"] = episode.log_probs.astype(np.float32)
        if {"values", "next_values"} & set(self.asked):
            values = self.actor.policy.values(rows)
            columns |= {"values": values[:-1], "next_values": values[1:]}
        return columns

    def _rows(self, obs: Column, length: int, where: str) -> np.ndarray:
        """Observations as the preprocessor gives them, [length, *shape]; the reference's files have
        them flattened already."""
        preprocessor = self.actor.preprocessor
        space = self.actor.original_observation_space
        reason = misfit(space, obs, lead=(length,), name="obs")
        if reason is None:
            return preprocessor(cast(space, obs))
        is_flattened = preprocessor.layout is None and preprocessor.space.shape != space.shape
        if is_flattened and np.shape(obs) == (length, *preprocessor.space.shape):
            return np.array(obs, preprocessor.space.dtype)
        raise SpaceError(f"{where}: {reason}.")

    def _actions(self, episode: RecordedEpisode, where: str) -> np.ndarray:
        """Actions in the policy's terms, [T, ...]."""
        converter, length = self.actor.converter, len(episode.rewards)
        space, actions = self.actor.action_space, episode.actions
        if episode.has_policy_actions:
            expected = (length, *(converter.policy_space.shape or ()))
            if np.size(actions) != np.prod(expected):
                raise SpaceError(f"{where}: actions have the shape {actions.shape}, not {expected}")
            return np.asarray(actions, converter.dtype).reshape(expected)
        reason = misfit(space, actions, lead=(length,), name="actions")
        if reason is not None:
            raise SpaceError(f"{where}: {reason}.")
        actions = cast(space, actions)
        if not converter.is_structured:
            return converter.invert(actions)
        return converter.invert([row_of(actions, t) for t in range(length)])


def make_sources(config: InputConfig) -> list[Source]:
    """The sources of the data. Raises ConfigError, MissingExtraError."""
    is_normalized = config.actions_in_input_normalized
    if is_normalized and any(name.startswith(MINARI) for name in config.sources):
        raise ConfigError(
            "actions_in_input_normalized=true is for the reference's files; Minari's actions are "
            "the env's own. Set it to false."
        )
    return [
        MinariSource(name)
        if name.startswith(MINARI)
        else JsonSource(name, has_normalized_actions=is_normalized)
        for name in config.sources
    ]


def origin_of_data(config: InputConfig) -> Origin:
    """What the data say of their spaces. Raises ConfigError if they say nothing."""
    for source in make_sources(config):
        origin = source.origin()
        source.close()
        if origin is not None:
            return origin
    raise ConfigError(
        f"input={', '.join(config.sources)} says nothing of its spaces. Choose the env that it is "
        f"of: env=NAME."
    )


def _check_normalized(actor: Actor) -> None:
    space = actor.action_space
    is_float_box = isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating)
    if not is_float_box or isinstance(space, Simplex):
        raise ConfigError(
            f"actions_in_input_normalized=true is for a Box of floats, and the action space is "
            f"{space}. Set it to false."
        )
    if not actor.config.normalize_actions:
        raise ConfigError(
            "actions_in_input_normalized=true means actions in [-1, 1], and this run's policy acts "
            "in the env's own terms. Use env.normalize_actions=true."
        )


def _check_spaces(source: Source, actor: Actor) -> None:
    origin = source.origin()
    if origin is None:
        return
    pairs = {
        "observations": (origin.observation_space, actor.original_observation_space),
        "actions": (origin.action_space, actor.action_space),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            raise SpaceError(
                f"input={source.name} has {what} of {theirs}, recorded in {origin.env!r}; this "
                f"run's are of {ours}. Choose the env that the data are of, or env=none."
            )
