"""Critics of actor-critics from replay: several networks that value actions, run as one."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from rlrun.core.ensemble import Ensemble
from rlrun.core.forward_pass import has_hooks
from rlrun.core.networks import Encoder
from rlrun.core.stack import Stack, module_hooks


class Critics(nn.Module):
    """Action values Q_i(s, a) of several critics: the model's encoder, which they share (without
    layers of its own: none), then layers that each has for itself.

    action_width: columns of the actions that stand beside the features; 0: there is a value for
    each of `num_outputs` actions.
    """

    def __init__(
        self,
        encoder: Encoder,
        *,
        action_width: int,
        num_outputs: int,
        hiddens: list[int],
        num_critics: int,
        last_bound: float | None = None,
    ) -> None:
        super().__init__()
        self.encoder: Any = encoder
        widths = [encoder.output_size + action_width, *hiddens, num_outputs]
        self.layers: Any = Ensemble(widths, num_critics, last_bound)
        self.encoder_stack = Stack(self, "encoder")

    def forward(self, obs: torch.Tensor, actions: torch.Tensor | None = None) -> torch.Tensor:
        """Filtered observations [N, *shape] and actions [N, d] -> values [critics, N]; of several
        actions of each row, [N, K, d], those of all, [critics, N, K]; without actions the values
        of Discrete ones, [critics, N, n]."""
        features = self.encoder_stack(obs)
        return _by_row(self.layers(_joined(features, actions)), actions)

    def run(
        self,
        obs: torch.Tensor,
        actions: torch.Tensor | None = None,
        num_critics: int | None = None,
    ) -> CriticsPass:
        """The same as a pass that can go backward, of all critics; one of the first `num_critics`
        to its actions alone."""
        if type(self.layers) is not Ensemble or self._has_hooks():
            return _AutogradPass(self, obs, actions, num_critics)
        return _EnsemblePass(self, obs, actions, num_critics)

    def _has_hooks(self) -> bool:
        """Whether user code wants to be called when these modules or their parameters are used."""
        of_modules = module_hooks([self, self.layers])
        return any(of_modules) or has_hooks(self.layers.weights_and_biases)


class CriticsPass:
    """What critics made of observations and actions."""

    values: torch.Tensor
    """As `Critics.forward` says; nothing of them is recorded."""

    def backward(self, gradient: torch.Tensor) -> None:
        """Put the gradient of a loss, given that by `values`, into the parameters' `grad` (see
        `ForwardPass.backward`)."""
        raise NotImplementedError

    def least(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The least of the critics' values of each row, [N], and its gradient by that row's action,
        [N, d]; of one action a row."""
        raise NotImplementedError


class _EnsemblePass(CriticsPass):
    def __init__(
        self,
        critics: Critics,
        obs: torch.Tensor,
        actions: torch.Tensor | None,
        num_critics: int | None,
    ) -> None:
        self._encoder = critics.encoder_stack.run(obs)
        self._num_features = self._encoder.outputs.shape[-1]
        inputs = _joined(self._encoder.outputs, actions)
        self._layers = critics.layers.run(inputs, num_critics)
        self.values = _by_row(self._layers.outputs, actions)

    def backward(self, gradient: torch.Tensor) -> None:
        of_outputs = gradient.reshape(self._layers.outputs.shape)
        if not self._encoder.learns:
            self._layers.backward(of_outputs)
            return
        of_features = self._layers.backward_to_inputs(of_outputs)[:, : self._num_features]
        if gradient.dim() == 3:  # Of all actions of a row, which see the same features.
            num_rows = len(self._encoder.outputs)
            of_features = of_features.unflatten(0, (num_rows, -1)).sum(1)
        self._encoder.backward(of_features)

    def least(self) -> tuple[torch.Tensor, torch.Tensor]:
        values, by_inputs = self._layers.least()
        return values, by_inputs[:, self._num_features :]


class _AutogradPass(CriticsPass):
    """Through modules of user code, or with its hooks."""

    @torch.enable_grad()
    def __init__(
        self,
        critics: Critics,
        obs: torch.Tensor,
        actions: torch.Tensor | None,
        num_critics: int | None,
    ) -> None:
        self._actions = None if actions is None else actions.detach().requires_grad_()
        self._recorded = critics(obs, self._actions)[:num_critics]
        self.values = self._recorded.detach()

    def backward(self, gradient: torch.Tensor) -> None:
        torch.autograd.backward(self._recorded, gradient)

    def least(self) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._actions is not None
        values, critics = self.values.min(0, keepdim=True)
        chosen = torch.zeros_like(self.values).scatter_(0, critics, 1.0)
        return values[0], torch.autograd.grad(self._recorded, self._actions, chosen)[0]


class ChosenValues:
    """The values [critics, N] of the actions [N] that were chosen, of those of all."""

    def __init__(self, of_all: CriticsPass, actions: torch.Tensor) -> None:
        self._of_all = of_all
        self._chosen = actions.view(1, -1, 1).expand(len(of_all.values), -1, 1)
        self.values = of_all.values.gather(2, self._chosen).squeeze(2)

    def backward(self, gradient: torch.Tensor) -> None:
        """As that of `CriticsPass`."""
        self._of_all.backward(self.among_all(gradient))

    def among_all(self, gradient: torch.Tensor) -> torch.Tensor:
        """The gradient by the values of all actions, [critics, N, n]: 0 but for the chosen ones."""
        of_all = torch.zeros_like(self._of_all.values)
        return of_all.scatter_(2, self._chosen, gradient.unsqueeze(2))


def _joined(features: torch.Tensor, actions: torch.Tensor | None) -> torch.Tensor:
    """Features [N, size] and actions side by side: [N, size + d], or [N * K, size + d]."""
    if actions is None:
        return features
    if actions.dim() == 3:
        features = features.repeat_interleave(actions.shape[1], 0)
        actions = actions.flatten(0, 1)
    return torch.cat([features, actions], -1)


def _by_row(outputs: torch.Tensor, actions: torch.Tensor | None) -> torch.Tensor:
    """What critics gave for joined rows as `Critics.forward` says."""
    if actions is None:
        return outputs
    values = outputs.squeeze(-1)
    return values.unflatten(1, actions.shape[:2]) if actions.dim() == 3 else values
