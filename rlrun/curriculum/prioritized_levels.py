"""A curriculum that chooses its own levels: new ones, and those that promise to teach most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rlrun.core import seeding
from rlrun.core.errors import ConfigError
from rlrun.core.metrics import NAN
from rlrun.core.ranges import check_range
from rlrun.curriculum.base import KEY, Curriculum
from rlrun.curriculum.by_task import mean_of, note_number, note_task, refuse_equal, sampled
from rlrun.workers.task_state import pack, unpack

LOSSES = "value_losses"
"""The entry of an episode's user_data with the sum of its value losses so far, and their count."""


@dataclass(kw_only=True)
class PrioritizedLevels(Curriculum):
    """Prioritized level replay (Jiang et al., 2021, arXiv:2010.03934, algorithm 1).

    A level is a task. With probability |seen| / |levels| the next one is replayed, drawn by the
    ranks of scores and by staleness (eq. 1); else it is one that was never played.

    The paper draws for each episode, and scores a level by its last one. Here envs draw after each
    iteration: an env plays its level in all episodes that begin until then, keeps it until there
    is a new score of it, and the score is the mean over the level's episodes of an iteration.
    """

    tasks: list[Any] | None = None
    """The levels; null: `num_tasks` that the env's sample_tasks gives."""
    num_tasks: int = 200
    """How many levels to sample where none are given, of which equal ones are one; the paper's
    Procgen has 200."""
    score: Literal["value_loss", "return_change", "return_gap"] = "value_loss"
    """What a level promises. value_loss: the mean of |value target - value| over the steps of an
    episode, which is |GAE| (the paper's L1 value loss), with the weights that acted; only where
    workers compute value targets. Not in the paper, from returns alone, for any algorithm:
    return_change: how much the mean return differs from that of the level's last iteration;
    return_gap: how far it is below the best mean return that the level has had."""
    temperature: float = 0.1
    """Of the ranks: 1/rank counts to the power of 1/temperature; the paper's beta."""
    staleness_coeff: float = 0.1
    """The share of replays in which levels are drawn by staleness alone; the paper's rho."""

    tasks_key = f"{KEY}.tasks"

    def __post_init__(self) -> None:
        refuse_equal(self.tasks)
        check_range("num_tasks", self.num_tasks, low=1, key=KEY)
        check_range("temperature", self.temperature, low=0.001, key=KEY)
        check_range("staleness_coeff", self.staleness_coeff, low=0.0, high=1.0, key=KEY)
        self._levels = list(self.tasks or [])
        self._scores = self._last_returns = self._best_returns = np.zeros(0)
        """By level; nan: not known yet."""
        self._drawn_at = np.zeros(0, np.int64)
        """At which draw each level was drawn last."""
        self._num_drawn = 0
        self._dealt: list[int] = []
        """The level of each env."""
        self._num_envs = 1
        self._rng = np.random.default_rng(0)
        self._ended: dict[int, list[Any]] = {}
        """In a worker, by env: the episodes that ended in the fragment which is being sampled."""

    # In the workers

    def overrides(self, hook: str) -> bool:
        is_idle = hook == "on_postprocess_trajectory" and self.score != "value_loss"
        return super().overrides(hook) and not is_idle

    def on_episode_start(self, *, worker: Any, episode: Any, env_index: int, **kwargs: Any) -> None:
        note_task(worker, episode, env_index)

    def on_episode_end(self, *, worker: Any, episode: Any, env_index: int, **kwargs: Any) -> None:
        note_number(episode, "return", episode.total_reward)
        if self.score == "value_loss" and not worker.config.in_evaluation:
            self._ended.setdefault(env_index, []).append(episode)

    def on_postprocess_trajectory(  # type: ignore[override]
        self,
        *,
        worker: Any,
        episode: Any,
        postprocessed_batch: Any,
        original_batches: dict[str, tuple[Any, Any]],
        **kwargs: Any,
    ) -> None:
        if self.score != "value_loss":
            return
        losses = np.abs(postprocessed_batch["value_targets"] - postprocessed_batch["values"])
        if worker.config.algorithm.batch_mode == "complete_episodes":
            self._ended.clear()
            if episode is not None:
                _note_losses(episode, losses[:, 0])
            return
        ((_, trajectory),) = original_batches.values()
        ends = trajectory["terminated"] | trajectory["truncated"]
        for env, running in enumerate(worker.episodes):
            episodes = [*self._ended.pop(env, []), running]
            parts = np.split(losses[:, env], np.flatnonzero(ends[:, env]) + 1)
            for one, part in zip(episodes, parts, strict=True):
                _note_losses(one, part)

    # In the driver

    def all_tasks(self) -> Sequence[Any]:
        return self.tasks or []

    def on_trainer_init(self, *, trainer: Any, **kwargs: Any) -> None:
        if self.score == "value_loss":
            _require_value_losses(trainer.config.worker)
        super().on_trainer_init(trainer=trainer)

    def first_tasks(self, trainer: Any) -> Sequence[Any]:
        self._levels = self._levels or sampled(trainer, self.num_tasks)
        unknown = np.full(len(self._levels), NAN)
        self._scores, self._last_returns, self._best_returns = unknown, unknown, unknown
        self._drawn_at = np.zeros(len(self._levels), np.int64)
        self._num_drawn = 0
        self._num_envs = len(trainer.workers.get_tasks())
        self._rng = seeding.generator(trainer.config.worker.seed, "curriculum")
        self._dealt = []
        for _ in range(self._num_envs):
            self._dealt.append(self._draw())
        return self._present()

    def next_tasks(self, trainer: Any, result: dict[str, Any]) -> Sequence[Any]:
        new_scores = self._new_scores(result)
        is_new = ~np.isnan(new_scores)
        self._scores = np.where(is_new, new_scores, self._scores)
        # As a resumed run deals them out, which may have other workers.
        self._dealt = [self._dealt[i % len(self._dealt)] for i in range(self._num_envs)]
        for env, level in enumerate(self._dealt):
            if is_new[level]:
                self._dealt[env] = self._draw()
        return self._present()

    def _new_scores(self, result: dict[str, Any]) -> np.ndarray:
        """Of each level, by its episodes in this iteration; nan where it has no score of them."""
        returns = np.array([mean_of(result, "return", level) for level in self._levels])
        last, is_known = self._last_returns, ~np.isnan(returns)
        self._last_returns = np.where(is_known, returns, last)
        self._best_returns = np.fmax(self._best_returns, returns)
        if self.score == "return_change":
            return np.abs(returns - last)
        if self.score == "return_gap":
            return self._best_returns - returns
        return np.array([mean_of(result, "value_loss", level) for level in self._levels])

    def _draw(self) -> int:
        level = int(self._rng.choice(len(self._levels), p=self._probabilities()))
        self._num_drawn += 1
        self._drawn_at[level] = self._num_drawn
        return level

    def _present(self) -> list[Any]:
        return [self._levels[level] for level in self._dealt]

    def _probabilities(self) -> np.ndarray:
        """With which the next level is drawn."""
        is_new = np.isnan(self._scores)
        is_new[self._dealt] = False
        return level_probabilities(
            self._scores,
            self._num_drawn - self._drawn_at,
            is_new,
            temperature=self.temperature,
            staleness_coeff=self.staleness_coeff,
        )

    def stats(self) -> dict[str, Any]:
        names = [str(level) for level in self._levels]
        scores = zip(names, self._scores, strict=True)
        return {
            "probability": dict(zip(names, self._probabilities().tolist(), strict=True)),
            "score": {name: float(score) for name, score in scores if not np.isnan(score)},
            "levels_seen": int(np.count_nonzero(~np.isnan(self._scores))),
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "tasks": [pack(level) for level in self._levels],
            "scores": self._scores.copy(),
            "last_returns": self._last_returns.copy(),
            "best_returns": self._best_returns.copy(),
            "drawn_at": self._drawn_at.copy(),
            "num_drawn": self._num_drawn,
            "dealt": list(self._dealt),
            "rng": self._rng.bit_generator.state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._levels = [unpack(level) for level in state["tasks"]]
        self._scores = np.array(state["scores"])
        self._last_returns = np.array(state["last_returns"])
        self._best_returns = np.array(state["best_returns"])
        self._drawn_at = np.array(state["drawn_at"])
        self._num_drawn = int(state["num_drawn"])
        self._dealt = [int(level) for level in state["dealt"]]
        self._rng.bit_generator.state = state["rng"]


def rank_probabilities(scores: np.ndarray, temperature: float) -> np.ndarray:
    """P_S (sec. 3.1): (1/rank)^(1/temperature), normalised; the highest score has rank 1, and of
    equal ones the first in order the lower rank. scores: [N]. Returns [N], float64."""
    ranks = np.empty(len(scores))
    ranks[np.argsort(-scores, kind="stable")] = np.arange(1, len(scores) + 1)
    weights = (1.0 / ranks) ** (1.0 / temperature)
    return weights / weights.sum()


def staleness_probabilities(staleness: np.ndarray) -> np.ndarray:
    """P_C (sec. 3.2): staleness [N], draws since each was drawn last, normalised; uniform where all
    are 0. Returns [N], float64."""
    total = staleness.sum()
    return staleness / total if total else np.full(len(staleness), 1.0 / len(staleness))


def level_probabilities(
    scores: np.ndarray,
    staleness: np.ndarray,
    is_new: np.ndarray,
    *,
    temperature: float,
    staleness_coeff: float,
) -> np.ndarray:
    """With which each level comes next: replayed as (1 - rho) P_S + rho P_C says (eq. 1) with
    probability |seen| / |levels|, otherwise one of the new ones, all alike.

    scores: [L], nan for those not seen; staleness: [L]; is_new: [L], those that nobody has been
    given. The rest waits for its first score, and comes only where there is nothing else. Returns
    [L], float64.
    """
    is_seen = ~np.isnan(scores)
    if not (is_seen.any() or is_new.any()):
        return np.full(len(scores), 1.0 / len(scores))
    chances = np.zeros(len(scores))
    replay_share = is_seen.mean() if is_new.any() else 1.0
    if is_seen.any():
        by_rank = rank_probabilities(scores[is_seen], temperature)
        by_staleness = staleness_probabilities(staleness[is_seen])
        replayed = (1.0 - staleness_coeff) * by_rank + staleness_coeff * by_staleness
        chances[is_seen] = replay_share * replayed
    if is_new.any():
        chances[is_new] = (1.0 - replay_share) / np.count_nonzero(is_new)
    return chances


def _note_losses(episode: Any, losses: np.ndarray) -> None:
    """Count the value losses [T] of some steps in the mean of their episode."""
    if len(losses):
        total, count = episode.user_data.get(LOSSES, [0.0, 0])
        total, count = total + float(losses.sum(dtype=np.float64)), count + len(losses)
        episode.user_data[LOSSES] = [total, count]
        note_number(episode, "value_loss", total / count)


def _require_value_losses(config: Any) -> None:
    """Raise ConfigError if workers of this config do not know value losses by episode."""
    others = "Use curriculum.score=return_change or return_gap."
    if "next_values" not in config.algorithm.rollout_columns:
        raise ConfigError(
            f"{KEY}.score=value_loss needs an algorithm whose workers compute value targets (pg "
            f"with a baseline, a2c, a3c, ppo, ddppo), which {type(config.algorithm).__name__} does "
            f"not. {others}"
        )
    if config.env.vectorization == "native":
        raise ConfigError(
            f"{KEY}.score=value_loss needs to know which steps are of which episode, and "
            f"env.vectorization=native has steps between them. {others}"
        )
