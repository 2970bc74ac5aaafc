"""A gradient's way from the worker that computed it to the learner that applies it."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from torch import nn

from rlrun.core.algorithm import Algorithm
from rlrun.core.batch import Batch
from rlrun.core.denormals import denormals_flushed
from rlrun.core.learner_stats import policy_lag

Gradient = dict[str, Any]
"""Plain numbers and arrays: `values` [P], float32, laid out as the network's flat vector; the
`num_steps` that they are the mean of; `sampled_at_update` [num_steps], int64, how many updates the
weights had seen that a step was sampled with; `metrics` and `custom_metrics` of the update;
`statistics` of the network's layers (batch norm's) by name, which no gradient moves."""


def gradient_of(learner: Algorithm, batch: Batch) -> Gradient:
    """On a worker: the gradient of a NumPy batch, with the hook on_learn_on_batch before it."""
    custom_metrics = learner.run_hook(batch)
    batch.require("sampled_at_update")
    sampled_at_update = batch.real(batch.pop("sampled_at_update"))
    with denormals_flushed():
        metrics = learner.compute_gradients(batch.to(learner.device))
    return {
        "values": learner.policy.flat.grad.cpu().numpy().copy(),
        "num_steps": batch.num_steps,
        "sampled_at_update": sampled_at_update,
        "metrics": {name: _plain(value) for name, value in metrics.items()},
        "custom_metrics": custom_metrics,
        "statistics": {
            name: buffer.cpu().numpy().copy() for name, buffer in _statistics(learner).items()
        },
    }


def learn_from(learner: Algorithm, gradient: Gradient) -> None:
    """One optimiser step along a worker's gradient."""
    started = time.perf_counter()
    lag = policy_lag(learner.num_updates, gradient["sampled_at_update"])
    learner.num_rows_trained += gradient["num_steps"]
    if gradient["custom_metrics"]:
        learner.custom_stats.add(gradient["custom_metrics"])
    learner.optimizer.take_gradients(torch.from_numpy(np.require(gradient["values"], None, "W")))
    if gradient["statistics"]:
        for name, buffer in _statistics(learner).items():
            buffer.copy_(torch.as_tensor(gradient["statistics"][name]))
    with denormals_flushed():
        applied = learner.apply_gradients()
    learner.learner_stats.add({**gradient["metrics"], **applied, **lag})
    learner.timers.add("learn", started)


def _statistics(learner: Algorithm) -> dict[str, torch.Tensor]:
    """Buffers that are part of the weights, but for the observation filter's, which the worker set
    gathers."""
    weights = learner.policy.state_dict(keep_vars=True)
    return {
        name: tensor
        for name, tensor in weights.items()
        if not isinstance(tensor, nn.Parameter) and not name.startswith("observation_filter.")
    }


def _plain(value: Any) -> Any:
    """A number or tensor as what travels and can be saved."""
    if isinstance(value, torch.Tensor):
        return value.item() if value.ndim == 0 else value.cpu().numpy()
    return value
