"""Adam on one flat parameter: all weights of a network lie in one tensor, all gradients in another.

One pass over the flat tensors replaces a loop over parameters, the gradient norm is one reduction,
weights travel to workers as one array, and torch.optim is never imported (it takes 2 s to).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn


def flatten_parameters(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """Move `parameters` into one new tensor, of which they become views; returns it."""
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in parameters])
    start = 0
    for parameter in parameters:
        end = start + parameter.numel()
        parameter.data = flat[start:end].view(parameter.shape)
        start = end
    return flat


class FlatAdam:
    """Adam (Kingma & Ba, 2015, arXiv:1412.6980, algorithm 1) over all of `parameters`.

    Construction moves the parameters into one tensor (they become views of it), so NumPy views
    of their memory must be taken afterwards. All must be float32 on one device.
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
        self.exp_avg = torch.zeros_like(self.flat)
        self.exp_avg_sq = torch.zeros_like(self.flat)
        self.num_steps = 0
        self._scratch = torch.empty_like(self.flat)
        start = 0
        for parameter in self.parameters:
            end = start + parameter.numel()
            parameter.grad = self.grad[start:end].view(parameter.shape)
            start = end

    def step(self, loss: torch.Tensor, lr: float, grad_clip: float | None = None) -> torch.Tensor:
        """One gradient step on `loss`; returns the gradient's L2 norm before clipping (scalar).

        `grad_clip` scales the whole gradient down to that norm.
        """
        self.grad.zero_()
        loss.backward()
        norm = torch.linalg.vector_norm(self.grad)
        if grad_clip is not None:
            self.grad.mul_((grad_clip / (norm + 1e-6)).clamp_(max=1.0))
        self._apply(lr)
        return norm

    @torch.no_grad()
    def _apply(self, lr: float) -> None:
        beta1, beta2 = self.betas
        self.num_steps += 1
        bias1 = 1.0 - beta1**self.num_steps
        bias2 = 1.0 - beta2**self.num_steps
        self.exp_avg.lerp_(self.grad, 1.0 - beta1)
        self.exp_avg_sq.mul_(beta2).addcmul_(self.grad, self.grad, value=1.0 - beta2)
        torch.sqrt(self.exp_avg_sq, out=self._scratch)
        self._scratch.div_(bias2**0.5).add_(self.eps)
        self.flat.addcdiv_(self.exp_avg, self._scratch, value=-lr / bias1)

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
        self.num_steps = int(state["num_steps"])
