"""What the returns of perturbed weights say about the way uphill: the maths of ES and ARS.

Each direction was tried both ways (antithetic sampling): returns are [N, 2], of weights + sigma *
noise and of weights - sigma * noise. What is given are weights [N] of the directions: the step
uphill is proportional to the sum of the noises, each times its weight.
"""

from __future__ import annotations

import numpy as np


def centered_ranks(returns: np.ndarray) -> np.ndarray:
    """Ranks of all entries, from -0.5 (the least) to 0.5, of the same shape, float64 (Wierstra et
    al., 2014, JMLR 15, sec. 3.1; Salimans et al., 2017, sec. 2).

    Equal entries share the mean of their ranks, so that returns which are all the same say nothing
    (the authors' code orders them by chance). A single entry has rank 0.
    """
    _, inverse, counts = np.unique(returns, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean_ranks = last - (counts + 1) / 2
    return (mean_ranks / max(returns.size - 1, 1) - 0.5 * (returns.size > 1))[
        inverse.reshape(returns.shape)
    ]


def antithetic_weights(shaped: np.ndarray) -> np.ndarray:
    """Weights for the gradient estimate of Salimans et al. (2017, algorithm 1), times sigma.

    shaped: [N, 2], returns or what was made of them. The estimate is 1 / (2 N sigma) sum_i
    (F(+i) - F(-i)) noise_i; its 1 / sigma is left to the step size, as in the authors' code.
    """
    return (shaped[:, 0] - shaped[:, 1]) / shaped.size


def top_direction_weights(returns: np.ndarray, num_used: int) -> np.ndarray:
    """Weights of ARS's step (Mania et al., 2018, algorithm 2, line 7), without its step size.

    Only the `num_used` directions count whose better return is highest (the first of equals), and
    their differences are divided by `num_used` and by the standard deviation of their 2 * num_used
    returns; all weights are 0 where these are the same.
    """
    used = np.argsort(-returns.max(1), kind="stable")[:num_used]
    deviation = returns[used].std()
    weights = np.zeros(len(returns))
    if deviation > 0.0:
        weights[used] = (returns[used, 0] - returns[used, 1]) / (num_used * deviation)
    return weights
