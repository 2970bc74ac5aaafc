"""One whole episode from a seed, of which nobody keeps the rows: what evolution strategies ask for.

Nothing is put into columns, so that a step of CartPole takes three quarters of the time that it
does in a fragment. What an episode gives depends on the seed and the weights alone, whichever
worker runs it, where the env draws all randomness from its own generators.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Generator

import numpy as np

from rlrun.core import seeding
from rlrun.core.policy import Previous
from rlrun.workers.env_sampler import LONG_EPISODE_STEPS, EnvSampler
from rlrun.workers.envs import clip_rewards
from rlrun.workers.sample import Sample

logger = logging.getLogger("rlrun.workers")

PIECE_STEPS = 1000
"""Observations that are looked at together; of images, an episode's may be too many to keep."""


WholeEpisode = Generator[None, None, tuple[Sample, float]]
"""Takes a step each time that it is gone on with."""


def run_episode(sampler: EnvSampler, seed: int, timestep: int, explore: bool) -> WholeEpisode:
    """An episode of the one env that the sampler has, from a reset by `seed` on, step by step. What
    comes out: (a Sample without rows, the sum of the rewards as the algorithm sees them).

    `seed` also seeds what the actor draws. Raises WorkerError if the env gives a reward or an
    observation that is not a finite number. An episode of the sampler's own is cut.
    """
    env, actor, tracker = sampler.env, sampler.actor, sampler.episodes
    stream = seeding.generator(seed, "actions")
    actor.rng.bit_generator.state = stream.bit_generator.state
    sampler.restart([seed])
    obs, state, previous = sampler.obs, sampler.state, sampler.previous
    seen: list[np.ndarray] = []
    rewards: list[float] = []
    is_looked_at = actor.gathered is not None or obs.dtype.kind == "f"
    is_running = np.zeros(1, bool)
    is_over = False
    env_s = all_s = 0.0
    while not is_over:
        started = time.perf_counter()
        if is_looked_at:
            seen.append(obs)
            if len(seen) == PIECE_STEPS:
                _look_at(sampler, seen)
        decision = actor.act(obs, state, previous, timestep, explore)
        begun = time.perf_counter()
        raw, reward, terminated, truncated = env.step(decision.env_actions)
        env_s += time.perf_counter() - begun
        obs, state = actor.preprocessor(raw), decision.state
        rewards.append(reward[0])
        is_over = terminated[0] or truncated[0]
        if previous is not None:
            last = clip_rewards(reward, sampler.reward_clip).astype(np.float32)
            previous = Previous(np.array(decision.actions), last)
        if tracker.is_on:
            chosen = decision.env_actions if actor.converter.is_structured else decision.actions
            tracker.step(raw, chosen, reward, terminated, truncated, is_running)
        if len(rewards) == LONG_EPISODE_STEPS:
            _warn_of_long_episode(sampler)
        all_s += time.perf_counter() - started
        yield
    if seen:
        _look_at(sampler, seen)
    sampler.check_finite("observation", actor.preprocessor.floats(obs), 0)
    sample, seen_return = _summed_up(sampler, np.array(rewards, np.float64))
    sample.seconds = {"env_wait": env_s, "inference": all_s - env_s}
    sample.vector_steps = len(rewards)
    return sample, seen_return


def _look_at(sampler: EnvSampler, seen: list[np.ndarray]) -> None:
    """Check observations [1, ...] that were acted on, and count them for the filter; empties the
    list."""
    obs = np.concatenate(seen)
    seen.clear()
    sampler.check_finite("observation", sampler.actor.preprocessor.floats(obs)[:, None], 1)
    sampler.actor.gather(obs)


def _summed_up(sampler: EnvSampler, rewards: np.ndarray) -> tuple[Sample, float]:
    """What the episode with these rewards [steps] came to."""
    sampler.check_finite("reward", rewards[:, None], 1)
    sampler.num_finished += 1
    gathered = sampler.actor.take_gathered()
    sample = Sample(
        {},
        len(rewards),
        episodes=[sampler.episodes.end(0, float(rewards.sum()), len(rewards))],
        gathered={} if gathered is None else {sampler.actor.policy_id: gathered},
    )
    return sample, float(clip_rewards(rewards, sampler.reward_clip).sum())


def _warn_of_long_episode(sampler: EnvSampler) -> None:
    logger.warning(
        "Worker %d: an episode of %r has gone on for %d steps, and is waited for. If its episodes "
        "never end, set env.horizon, the steps after which they are truncated.",
        sampler.worker_index,
        sampler.env.env_id,
        LONG_EPISODE_STEPS,
    )
