"""A policy's network as its users ask for it: forward passes, heads, a summary.

The names are those of the classic API's ModelV2. Everything is in torch, on the policy's device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from torch import nn

from rlrun.core.action_encoder import ActionEncoder
from rlrun.core.batch import STATE, Batch
from rlrun.core.distribution_base import Distribution
from rlrun.core.errors import RlrunError
from rlrun.core.layout import layout_of

if TYPE_CHECKING:
    from rlrun.core.policy import Policy

State = dict[str, torch.Tensor]


class PolicyModel:
    """The network of a policy: `policy.model`. It owns nothing, and sees the weights of now.

    Observations come preprocessed (see `rlrun.get_preprocessor`); the policy's filter is applied
    here.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._last_rows: Batch | None = None

    def from_batch(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, State]:
        """(what `policy.dist_class` takes [N, num_inputs], the state after it) for the columns
        `obs` [N, ...] and, of a policy with memory, `state_in/<name>` (absent: an episode's start),
        `prev_actions` and `prev_rewards` (absent: zeros)."""
        self._last_rows = rows = self.complete(batch)
        dist, state = self.policy.decide(rows)
        return dist.inputs, state

    def forward(
        self, batch: Mapping[str, Any], state: Mapping[str, Any] | None = None
    ) -> tuple[torch.Tensor, State]:
        """The same, with the state beside the batch, by name."""
        columns = {f"{STATE}{name}": part for name, part in (state or {}).items()}
        return self.from_batch({**batch, **columns})

    __call__ = forward

    def value_function(self) -> torch.Tensor:
        """State values [N] of the most recent forward pass, differentiable. Raises RlrunError where
        there was none, or the policy has no state values."""
        found = self.policy.forward(self._rows_of_last_pass())
        if not isinstance(found, tuple):
            raise RlrunError(f"{type(self.policy).__name__} has no state-value function.")
        return found[1]

    def variables(self) -> list[nn.Parameter]:
        """All parameters."""
        return list(self.policy.parameters())

    def trainable_variables(self) -> list[nn.Parameter]:
        """Those that a gradient step moves."""
        return [parameter for parameter in self.variables() if parameter.requires_grad]

    @property
    def base_model(self) -> ModelPart:
        """All layers of the network."""
        return ModelPart(self.policy, "", self._run_all)

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print the network's layers, the shapes of what they give, and their parameters."""
        self.base_model.summary(print_fn)

    def complete(self, batch: Mapping[str, Any]) -> Batch:
        """The columns as tensors on the policy's device, with those of an episode's start for what
        is missing."""
        device = next((parameter.device for parameter in self.policy.parameters()), "cpu")
        rows = Batch({name: torch.as_tensor(part) for name, part in batch.items()})
        rows.require("obs")
        rows["obs"] = rows["obs"].to(self._no_obs(0).dtype)
        num_rows = rows.num_rows
        for name, part in self.policy.initial_state(num_rows).items():
            rows.setdefault(f"{STATE}{name}", torch.from_numpy(part))
        if self.policy.uses_previous:
            encoder = ActionEncoder(self.policy.action_space)
            rows.setdefault("prev_actions", encoder.no_actions(num_rows))
            rows.setdefault("prev_rewards", torch.zeros(num_rows))
        return rows.to(device)

    def _rows_of_last_pass(self) -> Batch:
        if self._last_rows is None:
            raise RlrunError("There was no forward pass yet: call policy.model.from_batch first.")
        return self._last_rows

    @property
    def dist_class(self) -> type[QueriedDistribution]:
        """The class of the distributions over actions, of what `from_batch` gives (of a Q-network:
        of action values). See `QueriedDistribution`."""
        with torch.no_grad():
            kind = type(self.policy.decide(self.complete({"obs": self._no_obs(1)}))[0])
        make = {"make": staticmethod(self.policy.dist_of)}
        return type(kind.__name__, (QueriedDistribution,), make)

    def _no_obs(self, num_rows: int) -> torch.Tensor:
        """Rows of observations that are all zeros."""
        layout = layout_of(self.policy.obs_space)
        space = self.policy.obs_space if layout is None else layout.row_space
        return torch.from_numpy(np.zeros((num_rows, *space.shape), space.dtype))

    def _run_all(self) -> None:
        self.policy.run_all_layers(self.complete({"obs": self._no_obs(1)}))


class QModel(PolicyModel):
    """That of a Q-network (DQN and its relatives): a forward pass gives features, of which heads
    make action values."""

    def from_batch(self, batch: Mapping[str, Any]) -> tuple[torch.Tensor, State]:
        """(features [N, width], {})."""
        self._last_rows = rows = self.complete(batch)
        policy = cast(Any, self.policy)
        return policy.encoder(policy.observation_filter.forward(rows["obs"])), {}

    def get_q_value_distributions(self, model_out: Any) -> list[torch.Tensor]:
        """[action values [N, num_actions], what describes the distribution of each: [N,
        num_actions, atoms or quantiles]; of plain DQN the values once more, [N, num_actions, 1]].

        model_out: what `from_batch` gave. With dueling, the state value is part of them.
        """
        policy = cast(Any, self.policy)
        outputs = policy.from_features(_features(model_out))
        values = policy.q_values(outputs)
        return [values, outputs.reshape(*values.shape, -1)]

    def get_state_value(self, model_out: Any) -> torch.Tensor:
        """State values [N, 1], of value distributions their logits or quantiles [N, n]. Raises
        RlrunError without dueling, where there is no such stream."""
        head = self.state_value_head
        if head is None:
            raise RlrunError("algo.dueling=false: the network has no stream of state values.")
        return head(_features(model_out))

    @property
    def base_model(self) -> ModelPart:
        """The layers before the heads."""
        return ModelPart(self.policy, "encoder", self._run_all)

    @property
    def q_value_head(self) -> ModelPart:
        """The stream of action values; with dueling, of advantages."""
        return ModelPart(self.policy, "advantage", self._run_all)

    @property
    def state_value_head(self) -> ModelPart | None:
        """The stream of state values; None without dueling."""
        if cast(Any, self.policy).value is None:
            return None
        return ModelPart(self.policy, "value", self._run_all)

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        ModelPart(self.policy, "", self._run_all).summary(print_fn)


class ModelPart:
    """A module of a policy, to be called and to be printed; `name` "" is all of it."""

    def __init__(self, policy: Policy, name: str, run: Callable[[], None]) -> None:
        self.module: nn.Module = policy.get_submodule(name)
        self.name = name or type(policy).__name__
        self._policy = policy
        self._run = run

    def __call__(self, *args: Any) -> Any:
        return self.module(*args)

    def summary(self, print_fn: Callable[[str], Any] = print) -> None:
        """Print the layers, the shapes of what they give (None: rows), and their parameters."""
        print_fn(str(self))

    def __str__(self) -> str:
        shapes = self._output_shapes()
        rows = [("Layer (type)", "Output shape", "Params")]
        for name, module, count in _layers(self.module):
            label = f"{name or self.name} ({type(module).__name__})"
            rows.append((label, _shown(shapes.get(module)), f"{count:,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            f"{label:<{widths[0]}}  {shape:<{widths[1]}}  {count:>{widths[2]}}"
            for label, shape, count in rows
        ]
        rule = "=" * len(lines[0])
        total = sum(parameter.numel() for parameter in self.module.parameters())
        trainable = sum(p.numel() for p in self.module.parameters() if p.requires_grad)
        return "\n".join(
            [
                f"Model: {self.name}",
                *(rule, lines[0], rule, *lines[1:], rule),
                f"Total params: {total:,}",
                f"Trainable params: {trainable:,}",
                f"Non-trainable params: {total - trainable:,}",
            ]
        )

    def _output_shapes(self) -> dict[nn.Module, torch.Size]:
        """By module, of those that a forward pass of the policy calls."""
        found: dict[nn.Module, torch.Size] = {}

        def note(module: nn.Module, inputs: Any, output: Any) -> None:
            first = output[0] if isinstance(output, tuple) else output
            if isinstance(first, torch.Tensor):
                found[module] = first.shape

        hooks = [module.register_forward_hook(note) for module in self.module.modules()]
        was_training = self._policy.training
        try:
            self._policy.eval()
            with torch.no_grad():
                self._run()
        finally:
            self._policy.train(was_training)
            for hook in hooks:
                hook.remove()
        return found


class QueriedDistribution:
    """A distribution over actions by the classic API's verbs, in torch: `inputs` [N, num_inputs] is
    what `policy.model.from_batch` gave. Actions are in the policy's own terms."""

    make: Callable[[Any], Distribution]

    def __init__(self, inputs: Any, model: Any = None) -> None:
        self.inputs = torch.as_tensor(inputs)
        self.of: Distribution = type(self).make(self.inputs)
        self._last: tuple[torch.Tensor, torch.Tensor] | None = None

    def sample(self) -> torch.Tensor:
        """Random actions [N, ...], by torch's global generator."""
        seed = int(torch.randint(2**31, ()))
        rows = type(self).make(self.inputs.detach().cpu().numpy())
        actions, log_probs = rows.sample(np.random.default_rng(seed))
        self._last = torch.as_tensor(actions), torch.as_tensor(log_probs)
        return self._last[0].to(self.inputs.device)

    def deterministic_sample(self) -> torch.Tensor:
        """The most likely actions [N, ...]."""
        return self.of.mode()

    def sampled_action_logp(self) -> torch.Tensor:
        """Log-probabilities [N] of what `sample` gave last."""
        if self._last is None:
            raise RlrunError("Nothing was sampled yet: call sample first.")
        return self._last[1].to(self.inputs.device)

    def logp(self, actions: Any) -> torch.Tensor:
        """Log-probabilities [N] (of continuous actions: densities), differentiable."""
        return self.of.log_prob(torch.as_tensor(np.asarray(actions)).to(self.inputs.device))

    def entropy(self) -> torch.Tensor:
        """Entropies [N] in nats, differentiable."""
        return self.of.entropy()

    def kl(self, other: QueriedDistribution) -> torch.Tensor:
        """KL(self || other) [N] in nats, differentiable."""
        return self.of.kl(other.of)


def _layers(module: nn.Module) -> Iterator[tuple[str, nn.Module, int]]:
    """(name, module, parameters) of each layer: what has parameters of its own, or no parts."""
    for name, part in module.named_modules():
        if isinstance(part, nn.ParameterList):
            continue  # counted with its owner
        lists = [child for child in part.children() if isinstance(child, nn.ParameterList)]
        own = [*part.parameters(recurse=False), *(p for each in lists for p in each)]
        is_filter = name == "observation_filter" and not list(part.buffers())
        if (own or not list(part.children())) and not is_filter:
            yield name, part, sum(parameter.numel() for parameter in own)


def _shown(shape: torch.Size | None) -> str:
    return "" if shape is None else str((None, *shape[1:])).replace(",)", ")")


def _features(model_out: Any) -> torch.Tensor:
    """What `from_batch` gave, or the first half of it."""
    return model_out[0] if isinstance(model_out, tuple) else model_out
