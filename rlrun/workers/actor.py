"""What one policy id needs in order to act: policy, exploration, preprocessor, action converter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from rlrun.core import seeding
from rlrun.core.actions import ActionConverter
from rlrun.core.algorithm import Algorithm
from rlrun.core.batch import Batch
from rlrun.core.errors import ConfigError, SpaceError
from rlrun.core.exploration import Exploration
from rlrun.core.exploration.base import Acts
from rlrun.core.export import export
from rlrun.core.export_formats import ExportFormat
from rlrun.core.filters import MeanStdFilter, RunningMoments, make_filter
from rlrun.core.layout import layout_of
from rlrun.core.networks import Model
from rlrun.core.policy import Policy, Previous, State
from rlrun.core.portable import PortablePolicy
from rlrun.core.spaces import Preprocessor
from rlrun.workers.envs import FilterName

DEFAULT_POLICY_ID = "default_policy"


@dataclass(frozen=True, kw_only=True)
class ActorConfig:
    """All that an actor is made of, beside the spaces of an env."""

    algorithm: Algorithm
    exploration: Exploration
    model: Model
    observation_filter: FilterName = "NoFilter"
    flatten_observations: bool = False
    normalize_actions: bool = True
    weights_seed: int = 0
    """The run's seed: all processes start from the same weights."""
    seed: int = 0
    """The actor's own streams lie below it by `purpose`, policy id and worker."""
    purpose: str = "rollout"
    worker_index: int = 0
    num_workers: int = 0
    device: str = "cpu"
    """Where a policy acts that is too large for NumPy."""
    extra_columns: tuple[str, ...] = ()
    """Columns of trajectories that only callbacks look at."""


@dataclass(slots=True)
class Decision:
    """What an actor does at one vector step of N rows."""

    actions: np.ndarray
    """In the policy's own terms, [N, ...]."""
    env_actions: Any
    """The same as vector envs take them: members of the action space, [N, ...], of a Dict or Tuple
    space a dict or tuple of such arrays."""
    columns: dict[str, np.ndarray]
    """log_probs, dist_inputs and the policy's extras, [N] or [N, ...]."""
    state: State
    """The policy's state after it."""


class Actor:
    """Acts for one policy id, with weights of its own. Lives in a worker, as long as that does.

    Raises SpaceError if algorithm, model or exploration cannot work on the spaces.
    """

    def __init__(
        self,
        config: ActorConfig,
        policy_id: str,
        original_observation_space: spaces.Space,
        action_space: spaces.Space,
        env_name: str,
    ) -> None:
        self.config = config
        self.policy_id = policy_id
        self.algorithm = config.algorithm
        self.original_observation_space = original_observation_space
        self.action_space = action_space
        self.preprocessor = Preprocessor(
            original_observation_space,
            flatten=config.flatten_observations,
            keeps_images=config.model.keeps_images,
            masks_actions=config.model.mask_actions,
        )
        self.obs_space = self.preprocessor.space
        if config.observation_filter != "NoFilter" and self.preprocessor.layout is None:
            # What the network sees is no image any more.
            self.obs_space = spaces.Box(-np.inf, np.inf, self.obs_space.shape, np.float32)
        self.algorithm.check_spaces(self.obs_space, action_space, env_name)
        self.converter = ActionConverter(
            action_space,
            normalize_actions=config.normalize_actions,
            distribution=config.model.action_distribution,
        )
        self.policy = self.make_policy()
        self.policy.eval()
        if not self.policy.runs_in_numpy:
            self.policy.to(config.device)
        self.rng = self._stream(config.purpose)
        self.exploration = self._exploration(
            self.rng, self.policy if config.purpose == "rollout" else None
        )
        self._acting: Acts = self.exploration.actor or self.policy
        self._onlooker = self._exploration(self._stream("onlooker"), None)
        """Explores for the user, who may look without changing what workers draw."""
        self.gathered: RunningMoments | None = self.policy.observation_filter.moments()
        """What was observed since the last `take_gathered`."""
        self._wants_check = isinstance(self.policy.observation_filter, MeanStdFilter)

    def make_policy(self) -> Policy:
        """A new policy, with the weights that every policy of this id starts from."""
        config = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeding.integer_seed(config.weights_seed, "weights", *self._path))
            policy = self.algorithm.make_policy(
                self.obs_space, self.converter.policy_space, config.model
            )
        if config.model.has_memory and not policy.initial_state(1):
            raise ConfigError(
                f"{type(self.algorithm).__name__} makes policies without memory, and the model "
                f"asks for one. Use model.use_lstm=false, or model=mlp in place of model=gtrxl."
            )
        if config.model.mask_actions and getattr(policy, "action_mask", None) is None:
            raise ConfigError(
                f"model.mask_actions=true has no effect: {type(policy).__name__} does not look at "
                f"action masks. Give it one by rlrun.core.masks.action_mask, or leave it at false."
            )
        policy.wants_compile, policy.uses_amp = config.model.compile, config.model.amp
        observation_filter = make_filter(
            config.observation_filter, self.obs_space.shape, self.preprocessor.layout
        )
        policy.add_module("observation_filter", observation_filter)
        return policy

    def act(
        self,
        obs: np.ndarray,
        state: State,
        previous: Previous | None,
        timestep: int,
        explore: bool,
        looked_at: Policy | None = None,
    ) -> Decision:
        """Choose actions at preprocessed observations [N, *shape]; for users who look on, as the
        policy `looked_at` does."""
        policy = looked_at or self.policy
        acting: Acts = looked_at or self._acting
        exploration = self._onlooker if looked_at else self.exploration
        if policy.noisy_layers:
            if explore:
                policy.draw_noise(exploration.rng, len(obs))
            else:
                policy.mute_noise()
        dist, columns, state = acting.act(obs, state, previous, explore)
        actions, log_probs = exploration.get_exploration_action(dist, timestep, explore)
        columns["log_probs"] = log_probs
        extra = self.config.extra_columns
        if "dist_inputs" in self.algorithm.rollout_columns or "dist_inputs" in extra:
            columns["dist_inputs"] = dist.inputs
        if self._wants_check:
            self._check_filter(policy)
        return Decision(actions, self.converter(actions), columns, state)

    def compute_actions(
        self,
        observations: list[Any],
        *,
        state: State | None = None,
        prev_actions: Any = None,
        prev_rewards: Any = None,
        explore: bool,
        timestep: int,
        policy: Policy | None = None,
    ) -> Decision:
        """What `act` does for raw observations, for the user: it draws from a stream of its own.

        `policy` is one of the same make, None the actor's own; `state` None is that of an episode's
        start; `prev_actions` are as the env takes them. Raises ValueError if there are such for a
        policy that does not look at them.
        """
        obs = np.concatenate([self.preprocessor.single(raw) for raw in observations])
        state = self._state(len(obs), state)
        previous = self._previous(len(obs), prev_actions, prev_rewards)
        decision = self.act(obs, state, previous, timestep, explore, policy or self.policy)
        decision.columns["actions"] = decision.actions
        return decision

    def _state(self, num_rows: int, given: State | None) -> State:
        """What the user gave as the policy's state, in its own dtypes. Raises ValueError if its
        names or shapes are not those of the policy's."""
        expected = self.policy.initial_state(num_rows)
        if given is None or len(given) == 0:
            return expected
        found = given if isinstance(given, Mapping) else {}
        shapes = {name: np.shape(part) for name, part in found.items()}
        if shapes != {name: part.shape for name, part in expected.items()}:
            wanted = {name: part.shape[1:] for name, part in expected.items()}
            what = {name: shape[1:] for name, shape in shapes.items()} or type(given).__name__
            raise ValueError(
                f"state must hold arrays of these names and shapes: {wanted}, and holds {what}. "
                f"Begin with policy.get_initial_state(), then give what the call before returned."
            )
        return {name: np.asarray(found[name], part.dtype) for name, part in expected.items()}

    def no_previous(self, num_rows: int) -> Previous | None:
        """What stands for the action and reward before an episode; None if nobody looks at them."""
        if not self.policy.uses_previous:
            return None
        return Previous(self.converter.zeros(num_rows), np.zeros(num_rows, np.float32))

    def _previous(self, num_rows: int, actions: Any, rewards: Any) -> Previous | None:
        previous = self.no_previous(num_rows)
        if previous is None:
            if actions is not None or rewards is not None:
                raise ValueError(
                    f"{type(self.policy).__name__} does not look at the previous action and "
                    f"reward: leave prev_action and prev_reward out."
                )
            return None
        return Previous(
            previous.actions if actions is None else self.converter.invert(actions),
            previous.rewards if rewards is None else np.asarray(rewards, np.float32),
        )

    @property
    def rollout_columns(self) -> tuple[str, ...]:
        """What algorithm, exploration and callbacks need of each step, see
        `Algorithm.rollout_columns`."""
        columns = self.algorithm.rollout_columns
        more = (*self.exploration.rollout_columns, *self.config.extra_columns)
        return tuple(dict.fromkeys((*columns, *more))) if more else columns

    def postprocess(self, fragment: Batch, timestep: int, explore: bool) -> dict[str, Any]:
        """Let the exploration see a fragment [T, B, ...] before the algorithm does; returns its
        numbers for the result."""
        numbers = self.exploration.postprocess(fragment, timestep) if explore else {}
        kept = (*self.algorithm.rollout_columns, *self.config.extra_columns)
        for name in self.exploration.rollout_columns:
            if name not in kept:
                del fragment[name]
        return numbers

    def gather(self, obs: np.ndarray) -> None:
        """Count preprocessed observations [N, *shape] for the filter's statistics."""
        if self.gathered is not None:
            layout = self.preprocessor.layout
            self.gathered.add(obs if layout is None else layout.vector(obs))

    def take_gathered(self) -> RunningMoments | None:
        """The statistics of what was observed since the last call."""
        gathered, self.gathered = self.gathered, self.policy.observation_filter.moments()
        return gathered

    def export(self, path: Path, kind: ExportFormat, policy: Policy | None = None) -> Path:
        """Write the policy, or another one of the same make, with all that stands around it for
        other programs; see `export`."""
        portable = PortablePolicy(policy or self.policy, self.preprocessor, self.converter)
        facts = {
            "algorithm": type(self.algorithm).__name__,
            "observation_space": str(self.original_observation_space),
            "action_space": str(self.action_space),
        }
        return export(portable, path, kind, facts)

    def check_fit(self, policy: Policy, env_name: str) -> None:
        """Raise SpaceError if a policy that was made for another env cannot act in this one."""
        takes_the_same = _take_same_actions(policy.action_space, self.converter.policy_space)
        if not (_see_the_same(policy.obs_space, self.obs_space) and takes_the_same):
            raise SpaceError(
                f"The policy is for observations of {policy.obs_space.shape} and actions of "
                f"{policy.action_space}; {env_name!r} gives {self.obs_space.shape} and "
                f"takes {self.action_space}. Evaluation needs an env with the spaces of the "
                f"training env: see evaluation.config.env."
            )

    def has_finite_weights(self) -> bool:
        """Whether learning has not diverged."""
        return all(np.isfinite(array).all() for array in self.policy.get_weights().values())

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed actor needs beside its policy's weights."""
        return {
            "rng": self.rng.bit_generator.state,
            "exploration": self.exploration.state_dict(),
            "gathered": None if self.gathered is None else self.gathered.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.rng.bit_generator.state = state["rng"]
        self.exploration.load_state_dict(state["exploration"])
        if self.gathered is not None and state["gathered"] is not None:
            self.gathered.load_state_dict(state["gathered"])

    @property
    def _path(self) -> tuple[str, ...]:
        return () if self.policy_id == DEFAULT_POLICY_ID else (self.policy_id,)

    def _stream(self, purpose: str) -> np.random.Generator:
        config = self.config
        return seeding.generator(config.seed, purpose, *self._path, config.worker_index)

    def _exploration(self, rng: np.random.Generator, policy: Policy | None) -> Exploration:
        return self.config.exploration.for_worker(
            action_space=self.converter.policy_space,
            rng=rng,
            worker_index=self.config.worker_index,
            num_workers=self.config.num_workers,
            policy=policy,
            natural=self.algorithm.natural_exploration(),
        )

    def _check_filter(self, policy: Policy) -> None:
        self._wants_check = False
        found = policy.observation_filter
        if isinstance(found, MeanStdFilter) and not found.was_applied:
            raise ConfigError(
                f"env.observation_filter=MeanStdFilter has no effect: "
                f"{type(policy).__name__}.act does not apply self.observation_filter."
            )


def _see_the_same(one: spaces.Box, other: spaces.Box) -> bool:
    layouts = [layout_of(space) for space in (one, other)]
    signatures = [None if layout is None else layout.signature for layout in layouts]
    return one.shape == other.shape and signatures[0] == signatures[1]


def _take_same_actions(one: spaces.Space, other: spaces.Space) -> bool:
    """Whether two spaces in the policy's terms are of one kind and size."""
    if isinstance(one, spaces.Tuple) and isinstance(other, spaces.Tuple):
        same_size = len(one.spaces) == len(other.spaces)
        return same_size and all(map(_take_same_actions, one.spaces, other.spaces))
    if isinstance(one, spaces.Box) and isinstance(other, spaces.Box):
        return one.shape == other.shape  # Bounds may differ: actions are stretched to them.
    return one == other
