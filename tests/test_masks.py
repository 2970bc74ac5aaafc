"""Masked actions are never taken: PPO and DQN on an env that raises where one is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.distributions as td
from gymnasium import spaces
from space_envs import MaskedEnv

from rlrun.algos.dqn import DQN
from rlrun.algos.ppo import PPO
from rlrun.core.actor_critic import ActorCritic
from rlrun.core.batch import Batch
from rlrun.core.distributions import Categorical, MultiCategorical
from rlrun.core.errors import ConfigError, RlrunError, SpaceError, WorkerError
from rlrun.core.filters import make_filter
from rlrun.core.masks import LEAST_FLOAT, action_mask, mask_inputs
from rlrun.core.networks import MLP
from rlrun.core.spaces import Preprocessor
from rlrun.python_api import make_trainer
from rlrun.trainer import Trainer

MASKED = ["tuned=none", "model.mask_actions=true"]
PPO_SETTINGS = [
    *MASKED,
    "algo.lr=0.02",
    "algo.gamma=0.5",
    "algo.train_batch_size=480",
    "algo.minibatch_size=120",
    "algo.num_envs_per_worker=8",
    "algo.num_epochs=4",
]
MLP_PPO = [*PPO_SETTINGS, "model.fcnet_hiddens=[16]"]
DQN_SETTINGS = [
    *MASKED,
    "algo.lr=0.01",
    "algo.gamma=0.5",
    "algo.hiddens=[16]",
    "model.fcnet_hiddens=[16]",
    "algo.learning_starts=100",
    "algo.timesteps_per_iteration=800",
    "algo.target_network_update_freq=100",
    "algo.buffer_size=2000",
    "exploration.epsilon_timesteps=800",
]


def make(algo: str, overrides: list[str], **env: object) -> Trainer:
    settings = [f"env.env_config.{name}={value}" for name, value in env.items()]
    return make_trainer(algo, env="space_envs.MaskedEnv", overrides=[*overrides, *settings], seed=1)


def act_in(trainer: Trainer, num_steps: int = 30, **env: object) -> float:
    """Mean reward of steps in a fresh env, half of them without exploration."""
    toy = MaskedEnv(**env)
    observation, _ = toy.reset(seed=3)
    rewards = []
    for step in range(num_steps):
        action = trainer.compute_action(observation, explore=step % 2 == 0)
        observation, reward, terminated, _, _ = toy.step(action)
        rewards.append(reward)
        if terminated:
            observation, _ = toy.reset()
    return float(np.mean(rewards))


# Learning; the env raises for an action that is masked, also in evaluation and random exploration.


@pytest.mark.parametrize("actions", ["discrete", "tuple"])
def test_ppo_learns_what_is_best_of_what_it_may(actions):
    start = ["exploration.random_timesteps=480", "evaluation.interval=4", "evaluation.duration=5"]
    with make("ppo", [*MLP_PPO, *start], actions=actions) as trainer:
        for _ in range(8):
            result = trainer.train()
        assert result["episode_reward_mean"] > 5.4
        assert result["evaluation"]["episode_reward_mean"] > 5.4
        assert act_in(trainer, actions=actions) > 0.9


@pytest.mark.parametrize(
    "overrides",
    [
        ["algo.double_q=true"],
        ["algo.double_q=false", "algo.n_step=3"],
        ["algo.num_atoms=11", "algo.v_min=0", "algo.v_max=2", "algo.dueling=true"],
    ],
    ids=["double", "n-step", "c51"],
)
def test_dqn_learns_what_is_best_of_what_it_may(overrides):
    with make("dqn", [*DQN_SETTINGS, *overrides]) as trainer:
        results = [trainer.train() for _ in range(2)]
        assert results[-1]["episode_reward_mean"] > 5.0
        # Rewards are at most 1 and gamma is 1/2: no value of a masked action gets into targets.
        assert results[-1]["info"]["learner"]["default_policy"]["learner_stats"]["max_q"] < 4.0
        assert act_in(trainer) > 0.8


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
@pytest.mark.parametrize("kind", ["image", "nested"])
def test_a_mask_may_stand_beside_images(algo, kind):
    overrides = ["model.conv_filters=[[4,4,4]]", "model.post_fcnet_hiddens=[8]"]
    if algo == "ppo":
        overrides = ["model=cnn", *PPO_SETTINGS, *overrides, "algo.train_batch_size=120"]
    else:
        dqn = [each for each in DQN_SETTINGS if "fcnet" not in each]
        overrides = ["model=cnn", *dqn, *overrides, "algo.timesteps_per_iteration=120"]
    with make(algo, overrides, kind=kind) as trainer:
        result = trainer.train()
        assert np.isfinite(
            result["info"]["learner"]["default_policy"]["learner_stats"]["total_loss"]
        )
        space = trainer.get_policy().obs_space
        assert space.shape == ((12, 12, 1) if kind == "image" else (4 * (3 + 6) + 144,))
        assert space.dtype == np.uint8
        act_in(trainer, num_steps=6, kind=kind)


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_a_masked_run_goes_on_as_if_never_stopped(algo, tmp_path):
    few = ["algo.num_envs_per_worker=2", "env.observation_filter=MeanStdFilter"]
    if algo == "ppo":
        overrides = [*MLP_PPO, *few, "algo.train_batch_size=14", "algo.minibatch_size=7"]
    else:
        overrides = [*DQN_SETTINGS, *few, "algo.timesteps_per_iteration=110"]
    with make(algo, overrides) as trainer:
        trainer.train()
        folder = trainer.save(tmp_path)
        expected = [trainer.train() for _ in range(2)]
    with make(algo, overrides) as resumed:
        resumed.restore(folder)
        found = [resumed.train() for _ in range(2)]
    for one, other in zip(found, expected, strict=True):
        assert one["hist_stats"] == other["hist_stats"]
        assert one["info"] == other["info"]


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_steps_that_only_reset_an_env_need_no_action(algo):
    overrides = MLP_PPO if algo == "ppo" else [*DQN_SETTINGS, "algo.timesteps_per_iteration=120"]
    overrides = [*overrides, "env.vectorization=native", "env.observation_filter=MeanStdFilter"]
    with make_trainer(algo, env="space/NativeMasked-v0", overrides=overrides) as trainer:
        assert trainer.train()["episodes_total"] > 10


# What the numbers are


MASK = np.array([[1, 0, 1, 1], [0, 1, 0, 0]], np.float32)
LOGITS = np.array([[0.3, 9.0, -0.5, 1.0], [2.0, -3.0, 1.0, 0.0]], np.float32)


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor])
def test_masked_numbers_are_those_of_the_allowed_actions_alone(convert):
    dist = Categorical(mask_inputs(convert(LOGITS), convert(MASK)))
    allowed = td.Categorical(logits=torch.from_numpy(LOGITS[0, [0, 2, 3]]))
    assert float(dist.entropy()[0]) == pytest.approx(float(allowed.entropy()), rel=1e-5)
    taken = convert(np.array([2, 1]))
    expected = float(allowed.log_prob(torch.tensor(1)))
    np.testing.assert_allclose(dist.log_prob(taken), [expected, 0.0], rtol=1e-5, atol=1e-6)
    assert float(dist.entropy()[1]) == pytest.approx(0.0, abs=1e-6)
    other = Categorical(mask_inputs(convert(LOGITS[:, ::-1].copy()), convert(MASK)))
    other_allowed = td.Categorical(logits=torch.from_numpy(LOGITS[0, [3, 1, 0]]))
    expected = float(td.kl_divergence(allowed, other_allowed))
    np.testing.assert_allclose(dist.kl(other), [expected, 0.0], rtol=1e-5, atol=1e-6)


def test_no_gradient_reaches_the_outputs_of_masked_actions():
    logits = torch.tensor(LOGITS, requires_grad=True)
    dist = Categorical(mask_inputs(logits, torch.tensor(MASK)))
    old = Categorical(mask_inputs(torch.tensor(LOGITS[:, ::-1].copy()), torch.tensor(MASK)))
    total = dist.entropy() + dist.log_prob(torch.tensor([2, 1])) + old.kl(dist)
    gradient = torch.autograd.grad(total.sum(), logits)[0]
    assert (gradient[torch.tensor(MASK) == 0] == 0).all()
    assert (gradient[0, [0, 2, 3]] != 0).all()


def test_masked_actions_are_never_sampled_nor_the_mode():
    logits = np.tile(LOGITS, (2_000, 1))
    mask = np.tile(MASK, (2_000, 1))
    actions, _ = Categorical(mask_inputs(logits, mask)).sample(np.random.default_rng(0))
    assert np.take_along_axis(mask, actions[:, None], 1).all()
    np.testing.assert_array_equal(Categorical(mask_inputs(LOGITS, MASK)).mode(), [3, 1])
    both = mask_inputs(np.hstack([logits, logits]), np.hstack([mask, mask]))
    pairs, _ = MultiCategorical(both, [4, 4]).sample(np.random.default_rng(0))
    assert all(np.take_along_axis(mask, pairs[:, [i]], 1).all() for i in range(2))


SPACE = spaces.Dict(
    {"action_mask": spaces.MultiBinary(4), "observations": spaces.Box(-1.0, 1.0, (2,))}
)


def rows_of(masks: list[list[int]]) -> np.ndarray:
    preprocess = Preprocessor(SPACE, masks_actions=True)
    observations = np.tile(np.array([0.5, -0.5], np.float32), (len(masks), 1))
    return preprocess({"action_mask": np.array(masks, np.int8), "observations": observations})


@pytest.mark.parametrize(
    "mask_space",
    [
        spaces.MultiBinary([2, 2]),
        spaces.Box(-1, 1, (2, 2), np.int8),
        spaces.Box(0.0, 1.0, (4,), np.float32),
        spaces.Tuple([spaces.MultiBinary(2), spaces.MultiBinary(2)]),
    ],
    ids=str,
)
def test_a_mask_of_any_form_is_read_as_it_is(mask_space):
    space = spaces.Dict({"action_mask": mask_space, "seen": spaces.Discrete(2)})
    preprocess = Preprocessor(space, masks_actions=True)
    ones = np.array([1, 0, 0, 1])
    if isinstance(mask_space, spaces.Tuple):
        mask = (ones[:2].astype(np.int8), ones[2:].astype(np.int8))
    else:
        mask = ones.reshape(mask_space.shape).astype(mask_space.dtype)
    rows = preprocess.single({"action_mask": mask, "seen": 1})
    np.testing.assert_array_equal(rows, [[0, 1, 1, 0, 0, 1]])
    np.testing.assert_array_equal(preprocess.layout.mask(rows), [ones])
    laid = action_mask(preprocess.space, spaces.MultiDiscrete([2, 2]))
    np.testing.assert_array_equal(laid(np.ones((1, 4), np.float32), rows) == 1.0, [ones == 1])


def test_flattened_images_beside_a_mask_are_a_vector():
    space = MaskedEnv(kind="nested").observation_space
    preprocess = Preprocessor(space, flatten=True, keeps_images=True, masks_actions=True)
    assert preprocess.space.shape == (144 + 3,)
    observation = MaskedEnv(kind="nested").reset(seed=1)[0]
    rows = preprocess.single(observation)
    assert rows.dtype == np.float32
    np.testing.assert_array_equal(preprocess.layout.mask(rows)[0], observation["action_mask"])


def test_a_mask_of_choices_is_refused():
    space = spaces.Dict({"action_mask": spaces.MultiDiscrete([2, 2]), "seen": spaces.Discrete(2)})
    with pytest.raises(SpaceError, match="a MultiBinary or Box"):
        Preprocessor(space, masks_actions=True)


def test_a_policy_sees_the_observation_and_not_the_mask():
    preprocess = Preprocessor(SPACE, masks_actions=True)
    policy = ActorCritic(preprocess.space, spaces.Discrete(4), MLP(fcnet_hiddens=[8]))
    policy.observation_filter = make_filter("NoFilter", preprocess.space.shape, preprocess.layout)
    rows = rows_of([[1, 0, 1, 1], [0, 1, 0, 0]])
    assert rows.shape == (2, 6)
    assert policy.obs_space.shape == (2,)
    dist, extras, _ = policy.act(rows)
    assert (dist.inputs[[0, 1, 1, 1], [1, 0, 2, 3]] == np.float32(LEAST_FLOAT)).all()
    assert extras["values"][0] == extras["values"][1]
    # The learner's side, of steps and of sequences.
    steps, values = policy(Batch(obs=torch.from_numpy(rows)))
    np.testing.assert_allclose(steps.inputs.detach(), dist.inputs, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(values.detach(), extras["values"], rtol=1e-5, atol=1e-6)
    sequences, _ = policy(Batch(obs=torch.from_numpy(rows.reshape(1, 2, 6))))
    torch.testing.assert_close(sequences.inputs[0], steps.inputs)


@pytest.mark.parametrize("double_q", [True, False])
def test_targets_of_dqn_take_the_best_allowed_next_action(double_q):
    learner = DQN(double_q=double_q, hiddens=[4], gamma=1.0, train_batch_size=2)
    preprocess = Preprocessor(SPACE, masks_actions=True)
    policy = learner.make_policy(preprocess.space, spaces.Discrete(4), MLP(fcnet_hiddens=[4]))
    policy.observation_filter = make_filter("NoFilter", preprocess.space.shape, preprocess.layout)
    learner.setup(policy, torch.device("cpu"), seed=1)
    with torch.no_grad():
        # Whatever is seen, Q is 4, 3, 2, 1 by the network and 10, 40, 30, 20 by its target.
        for network, q_values in (
            (learner.network, [4.0, 3.0, 2.0, 1.0]),
            (learner.target.network, [10.0, 40.0, 30.0, 20.0]),
        ):
            last = network.advantage[-1]
            last.weight.zero_()
            last.bias.copy_(torch.tensor(q_values))
    rows = Batch(
        obs=rows_of([[1, 1, 1, 1]] * 3),
        actions=np.array([0, 0, 0]),
        rewards=np.zeros(3, np.float32),
        # The last episode is over: nothing is allowed there, and nothing follows.
        next_obs=rows_of([[1, 0, 1, 1], [0, 0, 1, 1], [0, 0, 0, 0]]),
        discounts=np.array([1.0, 1.0, 0.0], np.float32),
    ).to()
    _, errors, _ = learner._expected_loss(rows)
    targets = [10.0, 30.0, 0.0] if double_q else [30.0, 30.0, 0.0]
    np.testing.assert_allclose(errors, [4.0 - target for target in targets])


# What is refused


@pytest.mark.parametrize(
    ("algo", "env", "message"),
    [
        ("ppo", "cartpole", "needs observations that are a Dict with the keys 'action_mask'"),
        ("dqn", "cartpole", "needs observations that are a Dict with the keys 'action_mask'"),
        ("ppo", "toy_envs.DictObsEnv", "model.mask_actions=true needs"),
        ("ppo", "test_masks.ContinuousMaskEnv", "has no choices to mask"),
        ("ppo", "test_masks.ShortMaskEnv", "'action_mask' has 5 entries, .* has 6 choices"),
        ("dqn", "test_masks.ShortMaskEnv", "'action_mask' has 5 entries, .* has 6 choices"),
    ],
)
def test_a_mask_that_is_none_is_refused(algo, env, message):
    with pytest.raises(SpaceError, match=message):
        make_trainer(algo, env=env, overrides=MASKED)


class ShortMaskEnv(MaskedEnv):
    """Its mask lacks one action."""

    def __init__(self) -> None:
        super().__init__()
        seen = self.observation_space["observations"]
        self.observation_space = spaces.Dict(
            {"action_mask": spaces.MultiBinary(5), "observations": seen}
        )


class ContinuousMaskEnv(MaskedEnv):
    """It has a mask, and nothing to mask."""

    def __init__(self) -> None:
        super().__init__()
        self.action_space = spaces.Box(-1.0, 1.0, (6,))


@pytest.mark.parametrize("actions", ["discrete", "multi"])
def test_a_mask_that_allows_nothing_is_an_error_that_says_so(actions):
    with (
        make("ppo", MLP_PPO, actions=actions, stuck_at=3) as trainer,
        pytest.raises(RlrunError, match=r"action_mask \[0, 0, .*\] allows no action"),
    ):
        trainer.train()


@pytest.mark.parametrize("n_step", [1, 3])
def test_dqn_does_not_bootstrap_from_a_state_that_allows_nothing(n_step):
    settings = [*DQN_SETTINGS, f"algo.n_step={n_step}"]
    with (
        make_trainer("dqn", env="test_masks.ClosedAtTruncation", overrides=settings) as trainer,
        pytest.raises(RlrunError, match="does not call terminal"),
    ):
        trainer.train()


class ClosedAtTruncation(MaskedEnv):
    """Allows nothing in the last state of an episode that is only truncated."""

    def step(self, action):
        observation, reward, terminated, _, info = super().step(action)
        return observation, reward, False, terminated, info


def test_without_masking_the_mask_is_an_observation_like_any_other():
    overrides = [each for each in MLP_PPO if "mask_actions" not in each]
    with make("ppo", overrides) as trainer:
        assert trainer.get_policy().obs_space.shape == (6 + 2,)
        with pytest.raises(WorkerError, match="is masked"):
            trainer.train()


def test_models_of_images_need_one_beside_the_mask():
    with pytest.raises(SpaceError, match="model=cnn takes images"):
        make("ppo", ["model=cnn", *PPO_SETTINGS])


def test_a_policy_that_lays_no_mask_over_its_outputs_is_refused():
    overrides = [*MLP_PPO, "algo._target_=test_masks.MasklessPPO"]
    with pytest.raises(ConfigError, match="Maskless does not look at action masks"):
        make("ppo", overrides)


class Maskless(ActorCritic):
    """Does not know of masks."""

    def __init__(self, *args):
        super().__init__(*args)
        self.action_mask = None


class MasklessPPO(PPO):
    """PPO with such a policy."""

    def make_policy(self, obs_space, action_space, model):
        return Maskless(obs_space, action_space, model)
