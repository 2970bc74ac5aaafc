"""Actions that no policy chose, with the probability of each, for whoever corrects for it."""

from __future__ import annotations

import math

import numpy as np
from gymnasium import spaces

from rlrun.core.distributions import Categorical, Distribution, MultiCategorical
from rlrun.core.errors import RlrunError, SpaceError
from rlrun.core.masks import LEAST_FLOAT
from rlrun.core.product_distributions import Bernoulli, Dirichlet, Product

MASKED_SUM = 0.5 * LEAST_FLOAT
"""A sum from here down has such an input in it."""

FEW = 64
"""Numbers up to which Python is faster than NumPy."""

LOG_2PI = math.log(2.0 * math.pi)


def random_actions(
    space: spaces.Space, dist: Distribution, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """One random action for each row of `dist`: (actions [N, ...], log-probabilities [N], float32).

    Discrete actions are uniform over those that `dist` does not mask. Boxes are drawn as
    gymnasium's `sample` does, in each dimension: uniformly between two bounds, from the one bound
    on with an exponential distribution, and without bounds from the standard normal one; the log of
    the density is theirs. A dimension whose bounds are equal is certain, and adds nothing. Weights
    of a Simplex are uniform over it, and the parts of a Tuple are drawn one after the other.
    Raises SpaceError if there is no way to draw from `space`.
    """
    if isinstance(dist, Categorical):
        return random_choices(dist.inputs, rng)
    if isinstance(dist, MultiCategorical):
        drawn = [random_choices(part.inputs, rng) for part in dist.parts]
        log_probs = np.sum([log_probs for _, log_probs in drawn], axis=0)
        return np.stack([choices for choices, _ in drawn], -1), log_probs
    if isinstance(dist, Product) and isinstance(space, spaces.Tuple):
        pairs = zip(space.spaces, dist.parts, strict=True)
        drawn = [random_actions(part_space, part, rng) for part_space, part in pairs]
        log_probs = np.sum([log_probs for _, log_probs in drawn], axis=0)
        return dist.join([actions for actions, _ in drawn]), log_probs
    num_rows, width = dist.inputs.shape[0], dist.inputs.shape[-1]
    if isinstance(dist, Bernoulli):
        flips = rng.integers(2, size=(num_rows, width))
        return flips, np.full(num_rows, -width * math.log(2.0), np.float32)
    if isinstance(dist, Dirichlet):
        weights = rng.dirichlet(np.ones(width), num_rows).astype(np.float32)
        return weights, np.full(num_rows, math.lgamma(width), np.float32)
    if isinstance(space, spaces.Box):
        return _random_vectors(space, num_rows, rng)
    raise SpaceError(f"There are no random actions for {space}.")


def random_choices(inputs: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Uniformly random valid actions [N] for inputs [N, n], and their log-probabilities [N]."""
    num_valid = count_valid(inputs)
    choices = choose_valid(inputs, num_valid, rng)
    if isinstance(num_valid, int):
        return choices, np.full(len(inputs), -math.log(num_valid), np.float32)
    return choices, -np.log(num_valid, dtype=np.float32)


def choose_valid(
    inputs: np.ndarray, num_valid: int | np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The same for inputs of which `count_valid` gave `num_valid`, without the probabilities."""
    if isinstance(num_valid, int):
        # A third of the time that Generator.integers takes for a few rows.
        return (rng.random(len(inputs)) * num_valid).astype(np.int64)
    keys = np.where(inputs > LEAST_FLOAT, rng.random(inputs.shape), -1.0)
    return keys.argmax(-1)


def count_valid(inputs: np.ndarray) -> int | np.ndarray:
    """How many actions of each row of inputs [N, n] may be taken: n, or [N] if some are masked.

    Raises RlrunError for a row without any (also if all its inputs are nan).
    """
    # Python's own sum of a few numbers takes a fifth of NumPy's minimum; a single mask, or nan, is
    # seen in it.
    few = inputs.size <= FEW
    if sum(inputs.ravel().tolist()) > MASKED_SUM if few else inputs.min() > LEAST_FLOAT:
        return inputs.shape[-1]
    num_valid = np.count_nonzero(inputs > LEAST_FLOAT, axis=-1)
    if not num_valid.all():
        raise RlrunError(
            f"No action may be taken where the policy gives {inputs[num_valid == 0][0]}: a mask "
            f"must leave at least one, and outputs that are nan mean that learning has diverged."
        )
    return num_valid


def _random_vectors(
    space: spaces.Box, num_rows: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    has_low, has_high = np.isfinite(low), np.isfinite(high)
    shape = (num_rows, *space.shape)
    distance = rng.exponential(size=shape)
    normal = rng.standard_normal(shape)
    uniform = rng.random(shape)
    with np.errstate(invalid="ignore", divide="ignore"):  # Of the cases that are not chosen.
        cases = [has_low & has_high, has_low, has_high]
        drawn = np.select(
            cases, [low + uniform * (high - low), low + distance, high - distance], normal
        )
        volume = np.where(high > low, high - low, 1.0)
        log_density = np.select(
            cases, [-np.log(volume), -distance, -distance], -0.5 * (normal * normal + LOG_2PI)
        )
    return drawn.astype(np.float32), log_density.sum(-1).astype(np.float32)
