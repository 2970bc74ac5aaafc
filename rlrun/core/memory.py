"""Memories: what carries a state from step to step, between a policy's encoder and its heads.

`step` is for workers (NumPy, one step of N envs), `forward` for learners (torch, whole sequences);
both compute the same numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as torch_module

State = dict[str, np.ndarray]
"""By name, [N, ...] arrays."""

MAX_NUMPY_CELL_SIZE = 512
"""Wider cells are faster in torch, even for a few rows."""


class Memory(nn.Module):
    """Base of all memories."""

    output_size: int
    state_names: tuple[str, ...]
    """The names of its state's parts."""

    def initial_state(self, num_rows: int) -> State:
        """The state at the start of `num_rows` episodes, [num_rows, ...] arrays."""
        raise NotImplementedError

    def step(self, features: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        """features [N, input_size], float32, of one step -> [N, output_size] and the next state,
        in memory of its own, without gradients."""
        raise NotImplementedError

    def forward(self, features: torch.Tensor, state: dict[str, torch.Tensor]) -> torch.Tensor:
        """features [S, L, input_size] of sequences, and the states [S, ...] at their starts ->
        [S, L, output_size], differentiable. No step sees a later one."""
        return self.unroll(features, state)[0]

    def unroll(
        self, features: torch.Tensor, state: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The same, and the states [S, ...] after the sequences."""
        raise NotImplementedError

    def step_in_torch(
        self, features: torch.Tensor, state: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """What `step` gives, in torch: features [N, input_size] -> [N, output_size], the state."""
        found, after = self.unroll(features.unsqueeze(1), state)
        return found.squeeze(1), after

    @property
    def runs_in_numpy(self) -> bool:
        """Whether `step` needs no torch, and so wants the weights on the CPU."""
        return False


class LSTMMemory(Memory):
    """A long short-term memory (Hochreiter & Schmidhuber, 1997) whose state is `h` and `c`,
    [N, cell_size] each.

    For the few rows of a vector step it runs in NumPy on the memory of its own parameters, where
    torch would spend half its time on overhead; user code's hooks bring torch back.
    """

    state_names = ("h", "c")

    def __init__(self, input_size: int, cell_size: int) -> None:
        super().__init__()
        self.output_size = cell_size
        self.lstm = nn.LSTM(input_size, cell_size, batch_first=True)
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("weight"):
                # One square block a gate, each orthogonal.
                for block in parameter.detach().split(cell_size):
                    nn.init.orthogonal_(block)
            else:
                nn.init.zeros_(parameter)
        # With s(x) = (1 + tanh(x / 2)) / 2, all gates are one tanh between two scalings.
        sizes = [2 * cell_size, cell_size, cell_size]
        self._scale = np.repeat(np.array([0.5, 1.0, 0.5], np.float32), sizes)
        self._shift = np.repeat(np.array([0.5, 0.0, 0.5], np.float32), sizes)

    def initial_state(self, num_rows: int) -> State:
        return {
            name: np.zeros((num_rows, self.output_size), np.float32) for name in self.state_names
        }

    def step(self, features: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        device = self._weights[0].device
        if device.type == "cpu" and self.runs_in_numpy:
            return self._step_in_numpy(features, state)
        with torch.inference_mode():
            h, c = (torch.from_numpy(state[name]).to(device)[None] for name in self.state_names)
            _, (h, c) = self.lstm(torch.from_numpy(features).to(device)[:, None], (h, c))
            found = {"h": h[0].cpu().numpy(), "c": c[0].cpu().numpy()}
        return found["h"], found

    def unroll(
        self, features: torch.Tensor, state: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        # In bfloat16 a state would lose what it adds up over many steps.
        with torch.autocast(features.device.type, enabled=False):
            found, (h, c) = self.lstm(
                features.float(), (state["h"][None].float(), state["c"][None].float())
            )
        return found, {"h": h[0], "c": c[0]}

    @property
    def runs_in_numpy(self) -> bool:
        # Exactly this class: a subclass, or a parametrised one, has a forward of its own.
        is_plain = type(self.lstm) is nn.LSTM and self._weights[0].dtype == torch.float32
        return is_plain and self.output_size <= MAX_NUMPY_CELL_SIZE and not any(self._hooks())

    @property
    def _weights(self) -> list[Any]:
        """The present parameters: of the input, of the state, and a bias each. (In place of
        `parameters()`, which takes as long as a step of a small cell.)"""
        return self.lstm._flat_weights

    def _step_in_numpy(self, features: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        size = self.output_size
        weight_x, weight_h, bias_x, bias_h = (each.detach().numpy() for each in self._weights)
        gates = features.dot(weight_x.T)
        gates += state["h"].dot(weight_h.T)
        gates += bias_x
        gates += bias_h
        gates *= self._scale
        np.tanh(gates, out=gates)
        gates *= self._scale
        gates += self._shift
        kept = gates[:, size : 2 * size] * state["c"]
        kept += gates[:, :size] * gates[:, 2 * size : 3 * size]
        found = np.tanh(kept)
        found *= gates[:, 3 * size :]
        return found, {"h": found, "c": kept}

    def _hooks(self) -> list[dict[Any, Any]]:
        lstm = self.lstm
        return [
            torch_module._global_forward_hooks,
            torch_module._global_forward_pre_hooks,
            lstm._forward_hooks,
            lstm._forward_pre_hooks,
        ]
