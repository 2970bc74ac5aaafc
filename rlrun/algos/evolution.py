"""What ES and ARS share: directions in the space of weights, tried both ways in whole episodes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from gymnasium import spaces

from rlrun.algos import loops
from rlrun.algos.perturbation import Job
from rlrun.core import seeding
from rlrun.core.algorithm import Algorithm, BatchMode
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError, SpaceError
from rlrun.core.exploration import Exploration, StochasticSampling
from rlrun.core.nested import leaves_of
from rlrun.core.networks import Model
from rlrun.core.noise_table import NoiseTable, shared_noise_table
from rlrun.core.policy import Policy
from rlrun.core.ranges import check_range
from rlrun.core.resources import Resources
from rlrun.core.schedules import ScheduleLike, check_schedule_range
from rlrun.core.search_policy import SearchPolicy


@dataclass(kw_only=True)
class Evolution(Algorithm):
    """Base of algorithms that climb by the returns of perturbed weights. An heir adds what its
    directions are worth, `weigh`, and says how many it wants, and along which step size.

    No gradient is computed, and no reward is discounted. The policy does for certain what its
    network says. Results' `episode_reward_*` are those of episodes with the weights as they are;
    learner statistics have the returns of perturbed ones.
    """

    noise_stdev: float = 0.02
    """Standard deviation sigma of the perturbations."""
    action_noise_std: float = 0.0
    """Standard deviation of Gaussian noise on continuous actions (in the policy's terms: of a
    bounded one that is stretched, -1 to 1) in perturbed episodes."""
    noise_size: int = 25_000_000
    """Numbers of the noise table, 4 bytes each in every process; the authors of ES have 250
    million."""
    eval_prob: float = 0.003
    """Episodes with the weights as they are, by perturbed one; at least one a round."""

    # What has no meaning where nothing is learned from steps.
    lr: ScheduleLike = field(init=False, default=0.0)
    gamma: float = field(init=False, default=1.0)
    grad_clip: float | None = field(init=False, default=None)
    adam_epsilon: float = field(init=False, default=1e-8)
    train_batch_size: int = field(init=False, default=1)
    rollout_fragment_length: int | Literal["auto"] = field(init=False, default=200)
    batch_mode: BatchMode = field(init=False, default="complete_episodes")

    built_in: ClassVar[frozenset[str]] = Algorithm.built_in | {"noise_size", "action_noise_std"}
    samples_fragments: ClassVar[bool] = False
    switches: ClassVar[frozenset[str]] = frozenset()
    step_size_name: ClassVar[str]
    """The field that says how far a step goes."""

    loop = staticmethod(loops.evolution)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("noise_stdev", self.noise_stdev, low=1e-12)
        check_range("action_noise_std", self.action_noise_std, low=0.0)
        check_range("noise_size", self.noise_size, low=1)
        check_range("eval_prob", self.eval_prob, low=0.0, high=1.0)
        step_size = getattr(self, self.step_size_name)
        check_schedule_range(f"algo.{self.step_size_name}", step_size, low=0.0)
        self.noise_seed = 0
        self._noise: NoiseTable | None = None
        self.num_perturbed_episodes = 0

    # What heirs say

    @property
    def num_directions(self) -> int:
        """How many directions are tried together."""
        raise NotImplementedError

    @property
    def least_steps(self) -> int:
        """Least number of env steps of the perturbed episodes before one update."""
        return 1

    @property
    def weight_decay(self) -> float:
        """How much of the weights is added to the gradient."""
        return 0.0

    def weigh(self, returns: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """What each direction adds to the step uphill, [N], by the returns and lengths [N, 2] of
        its two episodes."""
        raise NotImplementedError

    # What it refuses

    def check_spaces(self, obs_space: spaces.Box, action_space: spaces.Space, env: str) -> None:
        leaves = [leaf for _, leaf in leaves_of(action_space)]
        has_floats = any(
            isinstance(leaf, spaces.Box) and np.issubdtype(leaf.dtype, np.floating)
            for leaf in leaves
        )
        default = type(self).action_noise_std
        if self.action_noise_std not in (0.0, default) and not has_floats:
            raise SpaceError(
                f"algo.action_noise_std={self.action_noise_std} has no effect: it is for "
                f"continuous actions, and those of {env!r} are {action_space}. Leave it at "
                f"{default}."
            )

    def check_exploration(self, exploration: Exploration) -> None:
        if type(exploration) is not StochasticSampling or exploration.random_timesteps:
            raise ConfigError(
                f"{type(self).__name__} explores by perturbing weights, and its policies act for "
                f"certain: {exploration} would be no part of that. Use "
                f"exploration=stochastic_sampling without random_timesteps, and "
                f"algo.action_noise_std for noise on continuous actions."
            )

    def check_model(self, model: Model) -> None:
        for name in ("free_log_std", "log_std_init", "vf_share_layers", "max_seq_len"):
            default, value = getattr(type(model), name), getattr(model, name)
            if value != default:
                raise ConfigError(
                    f"model.{name}={value} has no effect: policies of {type(self).__name__} have "
                    f"neither a Gaussian nor a value function, and learn from no sequences. Leave "
                    f"it at {default}."
                )

    def check_resources(self, resources: Resources) -> None:
        if self.num_envs_per_worker != 1:
            raise ConfigError(
                f"algo.num_envs_per_worker={self.num_envs_per_worker}: a worker tries one "
                f"perturbation after the other, in one env. Use 1, and more workers: "
                f"resources.num_workers."
            )

    # The policy and its noise

    def make_policy(
        self, obs_space: spaces.Box, action_space: spaces.Space, model: Model
    ) -> Policy:
        return SearchPolicy(obs_space, action_space, model, self.action_noise_std)

    def noise(self, seed: int) -> NoiseTable:
        """The noise table of the run, which is made when it is first asked for."""
        if self._noise is None or self._noise.seed != seed:
            self._noise = shared_noise_table(seed, self.noise_size)
        return self._noise

    # The learner

    def setup(self, policy: Policy, device: torch.device, seed: int) -> None:
        super().setup(policy, device, seed)
        self.noise_seed = seeding.integer_seed(seed, "noise")
        num_weights = policy.flat.values.numel()
        if self.noise_size < num_weights:
            raise ConfigError(
                f"algo.noise_size={self.noise_size} is less than the {num_weights} weights of the "
                f"policy. Raise it: a hundred times as many are hardly ever much alike."
            )

    def draw_jobs(self) -> list[Job]:
        """What workers are to try next: directions, then episodes with the weights as they are."""
        num_weights = self.policy.flat.values.numel()
        indices = self.noise(self.noise_seed).draw_indices(
            self.rng, self.num_directions, num_weights
        )
        num_plain = max(round(self.eval_prob * 2 * self.num_directions), 1)
        seeds = self.rng.integers(2**31, size=self.num_directions + num_plain).tolist()
        return list(zip(seeds, [*indices.tolist(), *[None] * num_plain], strict=True))

    def learn_on_batch(self, batch: Batch) -> None:
        super().learn_on_batch(batch)
        # A row is a direction, of as many env steps as its two episodes took.
        self.num_rows_trained += int(batch["lengths"].sum()) - batch.num_rows

    def learn(self, rows: Batch) -> dict[str, Any]:
        """One step uphill by the directions noise_index [N], with returns and lengths [N, 2]."""
        returns, lengths = (rows[name].cpu().numpy() for name in ("returns", "lengths"))
        values, step_size = self.policy.flat.values, self.scheduled(self.step_size_name)
        uphill = self.noise(self.noise_seed).weighted_sum(
            self.weigh(returns, lengths), rows["noise_index"].cpu().numpy(), values.numel()
        )
        before = values.clone()
        self.optimizer.take_gradients(self.weight_decay * before - uphill.to(self.device))
        grad_norm = self.optimizer.apply_gradients(step_size)
        self.num_updates += 1
        self.num_perturbed_episodes += returns.size
        weights_norm = torch.linalg.vector_norm(before)
        moved = torch.linalg.vector_norm(values - before)
        return {
            "grad_norm": grad_norm,
            "weights_norm": weights_norm,
            "update_ratio": moved / weights_norm.clamp(min=1e-12),
            "perturbed_return": returns,
            "perturbed_len": lengths,
            f"cur_{self.step_size_name}": step_size,
        }

    def stats(self) -> dict[str, Any]:
        return {"num_perturbed_episodes": self.num_perturbed_episodes}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "num_perturbed_episodes": self.num_perturbed_episodes}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.num_perturbed_episodes = int(state["num_perturbed_episodes"])
