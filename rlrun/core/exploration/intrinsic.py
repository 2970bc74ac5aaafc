"""What explorations have in common that reward the agent for what is new to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from rlrun.core.batch import ACTING_REWARDS, Batch
from rlrun.core.denormals import denormals_flushed
from rlrun.core.exploration.base import valid_steps
from rlrun.core.exploration.nested import NestedExploration
from rlrun.core.flat import FlatParameters
from rlrun.core.optim import FlatAdam
from rlrun.core.policy import Policy


@dataclass(kw_only=True)
class IntrinsicReward(NestedExploration):
    """Adds rewards of its own to those of the env, after the returns of episodes are counted.

    Each worker that gathers experience has its own modules, on the CPU, and they learn from its own
    fragments, as soon as these have their rewards. So nothing but rewards leaves the worker,
    however many there are, and every algorithm learns from them in the same way; what is new is
    what is new to this worker. Evaluation gets no such rewards, nor does a run with explore=false.
    An heir makes its modules in `make`, and gives `rewards`.
    """

    columns: ClassVar[tuple[str, ...]] = ("next_obs",)
    """What `rewards` needs of each step beside the usual columns."""

    def set_up(self, policy: Policy) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(self.rng.integers(2**31)))
            self.make(policy)

    def make(self, policy: Policy) -> None:
        """Make modules for the policy's observations, from torch's global generator."""
        raise NotImplementedError

    def rewards(self, fragment: Batch, timestep: int) -> tuple[np.ndarray, dict[str, Any]]:
        """Intrinsic rewards [T, B] of a fragment, and numbers for the result; where `valid` is
        False they count for nothing. What learns from the fragment does so here, too."""
        raise NotImplementedError

    @property
    def rollout_columns(self) -> tuple[str, ...]:
        return () if self.policy is None else (*self.columns, *self.sub.rollout_columns)

    def postprocess(self, fragment: Batch, timestep: int) -> dict[str, Any]:
        if "prev_rewards" in fragment:
            fragment.setdefault(ACTING_REWARDS, fragment["rewards"])
        numbers = super().postprocess(fragment, timestep)
        if not valid_steps(fragment).any():
            return numbers
        intrinsic, own_numbers = self.rewards(fragment, timestep)
        intrinsic = np.where(valid_steps(fragment), intrinsic, 0.0).astype(np.float32)
        fragment["rewards"] = fragment["rewards"] + intrinsic
        own_numbers["intrinsic_reward_mean"] = float(intrinsic[valid_steps(fragment)].mean())
        return numbers | own_numbers

    def seen(self, fragment: Batch, name: str) -> torch.Tensor:
        """Observations of the steps that are valid, as the policy's network sees them, [N, ...]."""
        assert self.policy is not None
        rows = np.ascontiguousarray(fragment[name][valid_steps(fragment)])
        return torch.from_numpy(self.policy.observation_filter.act(rows))

    def spread(self, fragment: Batch, values: torch.Tensor) -> np.ndarray:
        """Numbers of the valid steps [N] in their places [T, B]; 0 elsewhere."""
        found = np.zeros(fragment["rewards"].shape, np.float32)
        found[valid_steps(fragment)] = values.numpy()
        return found


class Learned:
    """A module with its optimiser, as a part of an exploration's state."""

    def __init__(self, module: nn.Module, lr: float) -> None:
        self.module = module
        self.lr = lr
        self.flat = FlatParameters(module)
        self.optimizer = FlatAdam(self.flat)

    def learn(
        self,
        loss: Callable[[torch.Tensor], torch.Tensor],
        num_rows: int,
        minibatch_size: int,
        rng: np.random.Generator,
    ) -> float:
        """One step of Adam for each minibatch of about that size, in a shuffled pass over
        `num_rows`; `loss` takes their numbers [N]. Returns the mean loss."""
        order = torch.from_numpy(rng.permutation(num_rows))
        total = 0.0
        for index in order.chunk(max(round(num_rows / minibatch_size), 1)):
            with denormals_flushed():
                of_minibatch = loss(index)
                self.optimizer.step(of_minibatch, self.lr)
            total += len(index) * float(of_minibatch.detach())
        return total / num_rows

    def state_dict(self) -> dict[str, Any]:
        """Weights and moments, in memory of their own."""
        moments = {name: part.clone() for name, part in self.optimizer.state_dict().items()}
        return {"weights": self.flat.values.clone(), "optimizer": moments}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.flat.values.copy_(torch.as_tensor(state["weights"]))
        self.optimizer.load_state_dict(state["optimizer"])
