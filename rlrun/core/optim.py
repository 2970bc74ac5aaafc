"""Optimisers on a network's flat vector of weights: one pass over it in place of a loop over
parameters, the gradient's norm as one reduction, no import of torch.optim (which takes 2 s)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from rlrun.core import finite
from rlrun.core.flat import FlatParameters


class FlatOptimizer:
    """Base of the optimisers over all weights of a network, or over those of a `part` of it (a
    module that its parameters lie in one after the other)."""

    def __init__(self, flat: FlatParameters, part: nn.Module | None = None) -> None:
        self.flat = flat
        flat.has_learner = True
        self.part = slice(0, len(flat.values)) if part is None else flat.part_of(part)
        """Where its weights lie in the vectors of `flat`."""
        self.values, self.grad = flat.values[self.part], flat.grad[self.part]
        self._inputs = flat.trainable_in(self.part)
        self._frozen = self._own_frozen()
        self._seen_layouts = flat.num_layouts
        self._one = torch.ones((), device=flat.values.device)

    def step(self, loss: torch.Tensor, lr: float, grad_clip: float | None = None) -> torch.Tensor:
        """One gradient step on `loss`; returns the gradient's L2 norm before clipping (scalar)."""
        self.compute_gradients(loss)
        return self.apply_gradients(lr, grad_clip)

    def compute_gradients(self, loss: torch.Tensor) -> None:
        """Put the gradient of `loss` (a scalar) into `flat.grad`, of its own part alone."""
        self._bind()
        if finite.is_checked_everywhere:
            finite.require_loss(loss, self.flat.module)
        self.grad.zero_()
        # What loss.backward(inputs=...) comes to; its checks take longer than the backward pass of
        # a small layer (35 us).
        torch.autograd.Variable._execution_engine.run_backward(
            (loss,),
            (self._one,),
            keep_graph=False,
            create_graph=False,
            inputs=self._inputs,
            allow_unreachable=True,
            accumulate_grad=True,
        )

    def backward(
        self, loss: torch.Tensor, gradient: torch.Tensor, go_back: Callable[[torch.Tensor], None]
    ) -> None:
        """The same for a loss whose gradient by a network's outputs is known; `go_back` carries it
        on to the `grad` of all parameters of this part."""
        self._bind()
        if finite.is_checked_everywhere:
            finite.require_loss(loss, self.flat.module)
        self.grad.zero_()
        go_back(gradient)

    def take_gradients(self, grad: torch.Tensor) -> None:
        """Put a gradient [P] that was computed elsewhere into `flat.grad`, less what is frozen."""
        self._bind()
        self.grad.copy_(grad)
        for part in self._frozen:
            self.grad[part] = 0.0

    def add_weight_decay(self, coeff: float) -> None:
        """Add the gradient of coeff / 2 * |weights|^2."""
        self.grad.add_(self.values, alpha=coeff)
        for part in self._frozen:
            self.grad[part] = 0.0

    def _bind(self) -> None:
        self.flat.bind()
        if self._seen_layouts != self.flat.num_layouts:
            self._seen_layouts = self.flat.num_layouts
            self._inputs = self.flat.trainable_in(self.part)
            self._frozen = self._own_frozen()
            for part in self._frozen:
                # What was on its way before they were frozen would move them on.
                self._forget_momentum(part)

    def _own_frozen(self) -> list[slice]:
        """Weights of its own that must not move, as parts of its own vectors."""
        start, stop = self.part.start, self.part.stop
        frozen = [part for part in self.flat.frozen() if start <= part.start and part.stop <= stop]
        return [slice(part.start - start, part.stop - start) for part in frozen]

    def apply_gradients(self, lr: float, grad_clip: float | None = None) -> torch.Tensor:
        """Step along `flat.grad`, which `grad_clip` first scales down to that L2 norm as a whole;
        returns the norm before that (scalar)."""
        if finite.is_checked_everywhere:
            finite.require_gradients(self.flat)
        norm = torch.linalg.vector_norm(self.grad)
        if grad_clip is not None:
            self._clip(norm, grad_clip)
        self._move(lr)
        return norm

    def move(self, lr: float, grad_clip: float | None = None) -> None:
        """As `apply_gradients`, for callers that do not need the norm."""
        if grad_clip is not None or finite.is_checked_everywhere:
            self.apply_gradients(lr, grad_clip)
        else:
            self._move(lr)

    def _move(self, lr: float) -> None:
        """Step along `flat.grad`."""
        raise NotImplementedError

    def _forget_momentum(self, part: slice) -> None:
        """Weights that were frozen, a part of the vector, do not drift on."""
        raise NotImplementedError

    def _clip(self, norm: torch.Tensor, grad_clip: float) -> None:
        if norm.device.type != "cpu":
            # Without a look at the norm, for which the host would have to wait.
            self.grad.mul_((grad_clip / (norm + 1e-6)).clamp_(max=1.0))
        elif (length := norm.item()) > grad_clip:
            self.grad.mul_(grad_clip / (length + 1e-6))

    def state_dict(self) -> dict[str, Any]:
        """Moments and step count; the weights themselves belong to the policy's state."""
        raise NotImplementedError

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        raise NotImplementedError


class FlatAdam(FlatOptimizer):
    """Adam (Kingma & Ba, 2015, arXiv:1412.6980, algorithm 1)."""

    def __init__(
        self,
        flat: FlatParameters,
        part: nn.Module | None = None,
        *,
        eps: float = 1e-8,
        betas: tuple[float, float] = (0.9, 0.999),
    ) -> None:
        super().__init__(flat, part)
        self.eps = eps
        self.betas = betas
        self.exp_avg = torch.zeros_like(self.values)
        self.exp_avg_sq = torch.zeros_like(self.values)
        self.num_steps = torch.zeros((), device=flat.values.device)

    def _move(self, lr: float) -> None:
        self.num_steps.add_(self._one)
        # The kernel under torch.optim.Adam(fused=True): one pass, where the same in single
        # operations takes ten times as long (14 us against 150 us for 10,000 weights).
        torch._fused_adam_(
            [self.values],
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

    def _forget_momentum(self, part: slice) -> None:
        self.exp_avg[part] = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {
            "exp_avg": self.exp_avg,
            "exp_avg_sq": self.exp_avg_sq,
            "num_steps": self.num_steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.exp_avg.copy_(torch.as_tensor(state["exp_avg"]))
        self.exp_avg_sq.copy_(torch.as_tensor(state["exp_avg_sq"]))
        self.num_steps.copy_(torch.as_tensor(state["num_steps"]))


class FlatSGD(FlatOptimizer):
    """Steps along the gradient, without momentum."""

    def _move(self, lr: float) -> None:
        self.flat.values.sub_(self.flat.grad, alpha=lr)

    def _forget_momentum(self, part: slice) -> None:
        """There is none."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is nothing to put back."""


class FlatRMSProp(FlatOptimizer):
    """RMSProp (Tieleman & Hinton, 2012, lecture 6e), as IMPALA's authors use it: `eps` under the
    root, and mean squares that begin at 1 (TensorFlow's), so that first steps are not the longest.
    """

    def __init__(
        self, flat: FlatParameters, *, decay: float = 0.99, momentum: float = 0.0, eps: float = 0.1
    ) -> None:
        super().__init__(flat)
        self.decay = decay
        self.momentum = momentum
        self.eps = eps
        self.mean_square = torch.ones_like(self.values)
        self.velocity = torch.zeros_like(self.values)

    def _move(self, lr: float) -> None:
        grad = self.grad
        self.mean_square.mul_(self.decay).addcmul_(grad, grad, value=1.0 - self.decay)
        scaled = grad * (self.mean_square + self.eps).rsqrt_()
        if self.momentum:
            scaled = self.velocity.mul_(self.momentum).add_(scaled, alpha=lr)
            self.values.sub_(scaled)
        else:
            self.values.sub_(scaled, alpha=lr)

    def _forget_momentum(self, part: slice) -> None:
        self.velocity[part] = 0.0

    def state_dict(self) -> dict[str, Any]:
        return {"mean_square": self.mean_square, "velocity": self.velocity}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.mean_square.copy_(torch.as_tensor(state["mean_square"]))
        self.velocity.copy_(torch.as_tensor(state["velocity"]))
