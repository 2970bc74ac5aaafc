"""The gated transformer with relative attention over a memory of earlier steps (GTrXL: Parisotto et
al., 2019, arXiv:1910.06764), as the memory of an actor-critic."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from rlrun.core.errors import ConfigError
from rlrun.core.layout import layout_of
from rlrun.core.memory import Memory, State
from rlrun.core.networks import CNN, MLP, Activation, Encoder, Model


@dataclass(kw_only=True)
class GTrXL(Model):
    """A gated transformer over an encoder: an MLP where observations are vectors, a CNN where they
    are images (conf/model/gtrxl.yaml). Values are the classic API's."""

    attention_num_transformer_units: int = 1
    """Transformer units, one on top of the other; the paper has 12."""
    attention_dim: int = 64
    """Width of what each unit takes and gives; the paper has 256."""
    attention_num_heads: int = 1
    """Attention heads of a unit; the paper has 8."""
    attention_head_dim: int = 32
    """Width of a head; the paper has 64."""
    attention_memory_inference: int = 50
    """Earlier steps that workers attend to."""
    attention_memory_training: int = 50
    """Earlier steps that each step of a learner's sequence attends to; those before the sequence
    are taken from the worker's memory, and get no gradient."""
    attention_position_wise_mlp_dim: int = 32
    """Width of the hidden layer of a unit's MLP."""
    attention_init_gru_gate_bias: float = 2.0
    """Initial bias b_g of the gates, which lets units begin as the identity map (sec. 3.2)."""
    attention_use_n_prev_actions: int = 0
    """Whether a step sees the action before it (1). Earlier ones lie in the memory."""
    attention_use_n_prev_rewards: int = 0
    """Whether a step sees the reward before it (1)."""
    fcnet_hiddens: list[int] = field(default_factory=lambda: [64, 64])
    """Where observations are vectors: width of each hidden layer of the encoder."""
    fcnet_activation: Activation = "tanh"
    """Non-linearity after each of them."""
    conv_filters: list[list[int]] | None = None
    """Where observations are images: the encoder's layers of [channels, kernel, stride]; null
    chooses by the size of the image."""
    conv_activation: Activation = "relu"
    """Non-linearity after each convolution."""
    post_fcnet_hiddens: list[int] = field(default_factory=lambda: [512])
    """Width of each fully connected layer after the convolutions."""
    post_fcnet_activation: Activation = "relu"
    """Non-linearity after each of them."""

    keeps_images = True

    def __post_init__(self) -> None:
        if self.use_lstm:
            raise ConfigError(
                "model=gtrxl remembers by attention, and model.use_lstm=true by an LSTM: choose "
                "one. Use model=mlp or model=cnn with model.use_lstm=true."
            )
        super().__post_init__()
        for name in SIZES:
            if getattr(self, name) < 1:
                raise ConfigError(f"model.{name}={getattr(self, name)} must be at least 1.")
        for name in ("attention_use_n_prev_actions", "attention_use_n_prev_rewards"):
            if getattr(self, name) not in (0, 1):
                raise ConfigError(
                    f"model.{name}={getattr(self, name)} must be 0 or 1: a step sees the last one, "
                    f"and attends to the steps that saw those before."
                )
        # Their own checks, before there is an env.
        _ = self._for_vectors, self._for_images

    @property
    def has_memory(self) -> bool:
        return True

    @property
    def uses_prev_action(self) -> bool:
        return self.attention_use_n_prev_actions == 1

    @property
    def uses_prev_reward(self) -> bool:
        return self.attention_use_n_prev_rewards == 1

    def encoder(self, obs_space: spaces.Box) -> Encoder:
        layout = layout_of(obs_space)
        has_images = layout is not None and bool(layout.images)
        is_vector = len(obs_space.shape) == 1 and not has_images
        return (self._for_vectors if is_vector else self._for_images).encoder(obs_space)

    def memory(self, input_size: int) -> Memory:
        return GatedTransformer(input_size, self)

    @property
    def _for_vectors(self) -> Model:
        return MLP(fcnet_hiddens=self.fcnet_hiddens, fcnet_activation=self.fcnet_activation)

    @property
    def _for_images(self) -> Model:
        return CNN(
            conv_filters=self.conv_filters,
            conv_activation=self.conv_activation,
            post_fcnet_hiddens=self.post_fcnet_hiddens,
            post_fcnet_activation=self.post_fcnet_activation,
        )


SIZES = (
    "attention_num_transformer_units",
    "attention_dim",
    "attention_num_heads",
    "attention_head_dim",
    "attention_memory_inference",
    "attention_memory_training",
    "attention_position_wise_mlp_dim",
)


class GatedTransformer(Memory):
    """Transformer units whose state holds what each of them took in the last steps.

    State: `memory` [N, units, M, dim], the newest step last, where M is the longer of the two
    memories, and `filled` [N], how many of the M steps there have been in this episode: nothing
    attends to the others.
    """

    state_names = ("memory", "filled")
    distances: torch.Tensor

    def __init__(self, input_size: int, model: GTrXL) -> None:
        super().__init__()
        self.output_size = model.attention_dim
        self.inference_steps = model.attention_memory_inference
        self.training_steps = model.attention_memory_training
        self.memory_steps = max(self.inference_steps, self.training_steps)
        self.embedding = nn.Linear(input_size, model.attention_dim)
        self.units = nn.ModuleList(
            TransformerUnit(model) for _ in range(model.attention_num_transformer_units)
        )
        encoded = encode_distances(self.memory_steps, model.attention_dim)
        self.register_buffer("distances", encoded, persistent=False)

    def initial_state(self, num_rows: int) -> State:
        shape = (num_rows, len(self.units), self.memory_steps, self.output_size)
        return {"memory": np.zeros(shape, np.float32), "filled": np.zeros(num_rows, np.int64)}

    @torch.inference_mode()
    def step(self, features: np.ndarray, state: State) -> tuple[np.ndarray, State]:
        device = self.distances.device
        before = {name: torch.from_numpy(state[name]).to(device) for name in self.state_names}
        inputs = torch.from_numpy(features).to(device)[:, None]
        outputs, after = self._run(inputs, before, self.inference_steps)
        return outputs[:, 0].cpu().numpy(), {name: x.cpu().numpy() for name, x in after.items()}

    def step_in_torch(
        self, features: torch.Tensor, state: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        outputs, after = self._run(features.unsqueeze(1), state, self.inference_steps)
        return outputs.squeeze(1), after

    def unroll(
        self, features: torch.Tensor, state: dict[str, torch.Tensor]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self._run(features, state, self.training_steps)

    def _run(
        self, features: torch.Tensor, state: dict[str, torch.Tensor], num_before: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """features [S, L, input_size] -> the last unit's outputs [S, L, dim], and the state after
        them; each step attends to the `num_before` steps before it."""
        memory = state["memory"][:, :, self.memory_steps - num_before :]
        distances = self.distances[self.memory_steps - num_before :]
        is_seen = seen_steps(features.shape[1], num_before, state["filled"])
        x = self.embedding(features)
        taken = []
        for index, unit in enumerate(self.units):
            taken.append(x)
            x = unit(x, memory[:, index], distances, is_seen)
        steps = torch.cat([state["memory"], torch.stack(taken, 1)], 2)
        filled = (state["filled"] + features.shape[1]).clamp(max=self.memory_steps)
        return x, {"memory": steps[:, :, -self.memory_steps :], "filled": filled}


class TransformerUnit(nn.Module):
    """Attention, then an MLP, each behind a layer norm and before a gate (sec. 3.1, 3.2)."""

    def __init__(self, model: GTrXL) -> None:
        super().__init__()
        dim, hidden = model.attention_dim, model.attention_position_wise_mlp_dim
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = RelativeAttention(dim, model.attention_num_heads, model.attention_head_dim)
        self.attention_gate = GRUGate(dim, model.attention_init_gru_gate_bias)
        self.mlp = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.ReLU(), nn.Linear(hidden, dim)
        )
        self.mlp_gate = GRUGate(dim, model.attention_init_gru_gate_bias)

    def forward(
        self,
        x: torch.Tensor,
        memory: torch.Tensor,
        distances: torch.Tensor,
        is_seen: torch.Tensor,
    ) -> torch.Tensor:
        """x [S, L, dim] after the steps of `memory` [S, M, dim] -> [S, L, dim]."""
        steps = self.attention_norm(torch.cat([memory, x], 1))
        attended = self.attention(steps, distances, is_seen)
        x = self.attention_gate(x, attended.relu())
        return self.mlp_gate(x, self.mlp(x).relu())


class RelativeAttention(nn.Module):
    """Multi-head attention whose weights depend on contents and on distances in time (Dai et al.,
    2019, arXiv:1901.02860, sec. 3.3): with query q_i and key k_j, (q_i + u) k_j + (q_i + v) W R_i-j
    over the root of the head's width."""

    def __init__(self, dim: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = head_dim
        width = num_heads * head_dim
        self.query = nn.Linear(dim, width, bias=False)
        self.key_value = nn.Linear(dim, 2 * width, bias=False)
        self.distance = nn.Linear(dim, width, bias=False)
        self.output = nn.Linear(width, dim, bias=False)
        self.content_bias = nn.Parameter(torch.zeros(num_heads, 1, head_dim))
        self.distance_bias = nn.Parameter(torch.zeros(num_heads, 1, head_dim))

    def forward(
        self, steps: torch.Tensor, distances: torch.Tensor, is_seen: torch.Tensor
    ) -> torch.Tensor:
        """What the last L of steps [S, M + L, dim] attend to, [S, L, dim].

        distances: [M + 1, dim], those of M to 0 steps; is_seen: [S, 1, L, M + L].
        """
        num_queries = is_seen.shape[2]
        query = self._heads(self.query(steps[:, -num_queries:]))
        keys, values = map(self._heads, self.key_value(steps).chunk(2, -1))
        distance_keys = self._heads(self.distance(distances))
        by_content = (query + self.content_bias) @ keys.transpose(-1, -2)
        by_distance = (query + self.distance_bias) @ distance_keys.transpose(-1, -2)
        scores = (by_content + along_steps(by_distance)) / math.sqrt(self.head_dim)
        weights = scores.masked_fill(~is_seen, -math.inf).softmax(-1)
        return self.output((weights @ values).transpose(-2, -3).flatten(-2))

    def _heads(self, x: torch.Tensor) -> torch.Tensor:
        """[..., K, heads * head_dim] -> [..., heads, K, head_dim]."""
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(-2, -3)


class GRUGate(nn.Module):
    """What a layer gives, let in beside what it took as a GRU lets in its input (sec. 3.2):
    r = s(W_r y + U_r x), z = s(W_z y + U_z x - b_g), h = tanh(W_g y + U_g (r x)),
    g(x, y) = (1 - z) x + z h."""

    def __init__(self, dim: int, bias: float) -> None:
        super().__init__()
        self.w = nn.Linear(dim, 3 * dim, bias=False)
        self.u_rz = nn.Linear(dim, 2 * dim, bias=False)
        self.u_g = nn.Linear(dim, dim, bias=False)
        self.bias = nn.Parameter(torch.full((dim,), bias))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        y_r, y_z, y_g = self.w(y).chunk(3, -1)
        x_r, x_z = self.u_rz(x).chunk(2, -1)
        r = (y_r + x_r).sigmoid()
        z = (y_z + x_z - self.bias).sigmoid()
        h = (y_g + self.u_g(r * x)).tanh()
        # In bfloat16 only z is float32, by the bias.
        return torch.lerp(x.to(z.dtype), h.to(z.dtype), z)


def seen_steps(num_steps: int, num_before: int, filled: torch.Tensor) -> torch.Tensor:
    """Which of M + L steps (M = `num_before` of the memory, L = `num_steps` of the sequence) each
    of the L sees: itself and the M before it, if the episode has them. filled: [S], how many of
    the memory's steps it has. Returns [S, 1, L, M + L]."""
    steps = torch.arange(num_before + num_steps, device=filled.device)
    behind_window = steps - steps[:num_steps, None]
    is_in_window = (behind_window >= 0) & (behind_window <= num_before)
    is_of_episode = steps >= num_before - filled[:, None]
    return (is_in_window & is_of_episode[:, None])[:, None]


def along_steps(by_distance: torch.Tensor) -> torch.Tensor:
    """Scores [..., L, M + 1] of distances M to 0 -> [..., L, M + L] of steps: row t moves t places
    to the right (the trick of Dai et al., 2019, appendix B)."""
    num_steps, window = by_distance.shape[-2:]
    num_keys = window + num_steps - 1
    padded = nn.functional.pad(by_distance, (0, num_steps))
    return padded.flatten(-2)[..., : num_steps * num_keys].unflatten(-1, (num_steps, num_keys))


def encode_distances(longest: int, dim: int) -> torch.Tensor:
    """Sinusoids [longest + 1, dim] of the distances `longest` to 0 (Vaswani et al., 2017,
    arXiv:1706.03762, sec. 3.5, in the order of Dai et al.: sines, then cosines)."""
    rates = 10000.0 ** (-torch.arange(0, dim, 2.0) / dim)
    angles = torch.arange(longest, -1.0, -1.0)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], -1)[:, :dim]
