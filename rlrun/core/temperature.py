"""The temperature of soft Q-learning: what a nat of the policy's entropy is worth."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from rlrun.core.flat import FlatParameters
from rlrun.core.optim import FlatAdam
from rlrun.core.soft_q import temperature_loss


class Temperature:
    """alpha, which follows the policy so that its entropy stays at `target_entropy` nats (Haarnoja
    et al., 2018b, arXiv:1812.05905, sec. 5). A learner holds it, on its own device."""

    def __init__(
        self, initial_alpha: float, target_entropy: float, device: torch.device, eps: float = 1e-8
    ) -> None:
        self.target_entropy = target_entropy
        log_alpha = torch.tensor([math.log(initial_alpha)], device=device)
        self.optimizer = FlatAdam(FlatParameters(nn.ParameterList([log_alpha])), eps=eps)

    @property
    def log_alpha(self) -> torch.Tensor:
        """Its logarithm, which is what is learned: a scalar that no gradient passes."""
        return self.optimizer.values[0]

    @property
    def alpha(self) -> torch.Tensor:
        """Its present value."""
        return self.log_alpha.exp()

    def update(self, log_probs: torch.Tensor, lr: float) -> torch.Tensor:
        """One step of Adam on the loss of log-probabilities (or negative entropies) [N]; returns
        the loss."""
        loss = temperature_loss(self.alpha, log_probs.detach(), self.target_entropy)
        self.optimizer.take_gradients(loss)
        self.optimizer.move(lr)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """What a resumed learner needs."""
        return {"log_alpha": self.log_alpha, "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.log_alpha.copy_(torch.as_tensor(state["log_alpha"]))
        self.optimizer.load_state_dict(state["optimizer"])
