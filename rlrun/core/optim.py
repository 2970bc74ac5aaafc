"""Adam on one flat parameter: all weights of a network lie in one tensor, all gradients in another.

One pass over the flat tensors replaces a loop over parameters, the gradient norm is one reduction,
and torch.optim is never imported (it takes 2 s to).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn


def flatten_parameters(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """Move `parameters` into one new tensor, of which they become views; returns it."""
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    for parameter, view in zip(parameters, views_like(parameters, flat), strict=True):
        parameter.data = view
    return flat


def views_like(parameters: Sequence[nn.Parameter], flat: torch.Tensor) -> list[torch.Tensor]:
    """Consecutive parts of `flat` [total size], one of the shape of each parameter."""
    parts = flat.split([parameter.numel() for parameter in parameters])
    return [part.view(parameter.shape) for part, parameter in zip(parts, parameters, strict=True)]


class FlatAdam:
    """Adam (Kingma & Ba, 2015, arXiv:1412.6980, algorithm 1) over all of `parameters`.

    Construction moves the parameters into one tensor and their gradients into another, of which
    they become views. All must be float32 on one device.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        eps: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.eps = eps
        self.betas = betas
        self.flat = flatten_parameters(self.parameters)
        self.grad = torch.zeros_like(self.flat)
        for parameter, gradient in zip(
            self.parameters, views_like(self.parameters, self.grad), strict=True
        ):
            parameter.grad = gradient
        self.exp_avg = torch.zeros_like(self.flat)
        self.exp_avg_sq = torch.zeros_like(self.flat)
        self.num_steps = torch.zeros((), device=self.flat.device)
        self._one = torch.ones((), device=self.flat.device)
        self._inputs = tuple(self.parameters)

    def step(self, loss: torch.Tensor, lr: float, grad_clip: float | None = None) -> torch.Tensor:
        """One gradient step on `loss`; returns the gradient's L2 norm before clipping (scalar).

        `grad_clip` scales the whole gradient down to that norm.
        """
        self.grad.zero_()
        self._backward(loss)
        norm = torch.linalg.vector_norm(self.grad)
        if grad_clip is not None:
            self._clip(norm, grad_clip)
        self._apply(lr)
        return norm

    def _backward(self, loss: torch.Tensor) -> None:
        # What loss.backward(inputs=self.parameters) comes to; its checks take longer than the
        # backward pass of a small layer (35 us).
        torch.autograd.Variable._execution_engine.run_backward(
            (loss,),
            (self._one,),
            keep_graph=False,
            create_graph=False,
            inputs=self._inputs,
            allow_unreachable=True,
            accumulate_grad=True,
        )

    def _clip(self, norm: torch.Tensor, grad_clip: float) -> None:
        if norm.device.type != "cpu":
            # Without a look at the norm, for which the host would have to wait.
            self.grad.mul_((grad_clip / (norm + 1e-6)).clamp_(max=1.0))
        elif (length := norm.item()) > grad_clip:
            self.grad.mul_(grad_clip / (length + 1e-6))

    def _apply(self, lr: float) -> None:
        self.num_steps += 1
        # The kernel under torch.optim.Adam(fused=True): one pass, where the same in single
        # operations takes ten times as long (14 us against 150 us for 10,000 weights).
        torch._fused_adam_(
            [self.flat],
            [self.grad],
            [self.exp_avg],
            [self.exp_avg_sq],
            [],
            [self.num_steps],
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def state_dict(self) -> dict[str, Any]:
        """Moments and step count; the weights themselves belong to the policy's state."""
        return {
            "exp_avg": self.exp_avg,
            "exp_avg_sq": self.exp_avg_sq,
            "num_steps": self.num_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.exp_avg.copy_(torch.as_tensor(state["exp_avg"]))
        self.exp_avg_sq.copy_(torch.as_tensor(state["exp_avg_sq"]))
        self.num_steps.copy_(torch.as_tensor(state["num_steps"]))
