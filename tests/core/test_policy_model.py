"""A policy's network as users look at it: forward passes, values, distributions, summaries."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from gymnasium import spaces

import rlrun
from rlrun.algos.ddpg import DDPG
from rlrun.algos.es import ES
from rlrun.algos.r2d2 import R2D2
from rlrun.algos.sac import SAC
from rlrun.core.actor_critic import make_actor_critic
from rlrun.core.errors import RlrunError
from rlrun.core.networks import MLP
from rlrun.core.policy import Policy
from rlrun.core.q_network import QNetwork

OBS_SPACE = spaces.Box(-np.inf, np.inf, (4,), np.float32)
OBS = np.array([[0.1, 0.2, 0.3, 0.4], [1.0, -1.0, 2.0, 0.0]], np.float32)
DISCRETE = spaces.Discrete(2)
BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)


def q_network(**settings) -> QNetwork:
    settings = {"dueling": True, "noisy": False, "sigma0": 0.5, "hiddens": [16]} | settings
    return QNetwork(OBS_SPACE, DISCRETE, MLP(fcnet_hiddens=[8]), **settings)


POLICIES = {
    "actor-critic": lambda: make_actor_critic(OBS_SPACE, DISCRETE, MLP()),
    "gaussian": lambda: make_actor_critic(OBS_SPACE, BOX, MLP()),
    "lstm": lambda: make_actor_critic(OBS_SPACE, DISCRETE, MLP(use_lstm=True)),
    "lstm that sees": lambda: make_actor_critic(
        OBS_SPACE, BOX, MLP(use_lstm=True, lstm_use_prev_action=True, lstm_use_prev_reward=True)
    ),
    "sac": lambda: SAC().make_policy(OBS_SPACE, BOX, MLP()),
    "ddpg": lambda: DDPG().make_policy(OBS_SPACE, BOX, MLP()),
    "es": lambda: ES().make_policy(OBS_SPACE, DISCRETE, MLP()),
    "r2d2": lambda: R2D2().make_policy(OBS_SPACE, DISCRETE, MLP(use_lstm=True)),
}


@pytest.mark.parametrize("name", POLICIES)
def test_what_a_forward_pass_gives_makes_the_distribution_that_acts(name):
    torch.manual_seed(0)
    policy: Policy = POLICIES[name]()
    inputs, state = policy.model.from_batch({"obs": OBS})
    previous = None
    if policy.uses_previous:
        zeros = np.zeros((2, 3), np.float32)
        previous = rlrun.core.policy.Previous(zeros, np.zeros(2, np.float32))
    acting, _, state_after = policy.act(OBS, None, previous)
    np.testing.assert_allclose(inputs.detach().numpy(), acting.inputs, rtol=1e-5, atol=1e-6)
    assert state.keys() == state_after.keys()
    dist = policy.dist_class(inputs, policy.model)
    assert type(dist).__name__ == type(acting).__name__ or name == "es"
    np.testing.assert_allclose(
        dist.deterministic_sample().detach().numpy(), acting.mode(), rtol=1e-5, atol=1e-6
    )
    # What it gives goes on from its state.
    after, _ = policy.model.forward({"obs": OBS}, state)
    assert after.shape == inputs.shape
    assert state == {} or not torch.equal(after, inputs)


def test_the_classic_queries_of_an_actor_critic():
    policy = make_actor_critic(OBS_SPACE, DISCRETE, MLP())
    logits, state = policy.model.from_batch({"obs": OBS})
    assert logits.shape == (2, 2)
    assert state == {}
    dist = policy.dist_class(logits, policy.model)
    assert policy.dist_class.__name__ == "Categorical"
    torch.manual_seed(3)
    actions = dist.sample()
    torch.manual_seed(3)
    assert torch.equal(policy.dist_class(logits).sample(), actions)
    assert actions.dtype == torch.int64
    reference = torch.distributions.Categorical(logits=logits)
    torch.testing.assert_close(dist.logp([1, 0]), reference.log_prob(torch.tensor([1, 0])))
    torch.testing.assert_close(dist.logp(actions), dist.sampled_action_logp())
    torch.testing.assert_close(dist.entropy(), reference.entropy())
    assert dist.kl(dist).abs().max() < 1e-7
    values = policy.model.value_function()
    np.testing.assert_allclose(values.detach().numpy(), policy.values(OBS), rtol=1e-5)
    (values.sum() + dist.logp([1, 0]).sum()).backward()
    assert all(parameter.grad is not None for parameter in policy.parameters())


def test_values_need_a_pass_and_a_value_function():
    with pytest.raises(RlrunError, match=r"call policy\.model\.from_batch first"):
        make_actor_critic(OBS_SPACE, DISCRETE, MLP()).model.value_function()
    policy = SAC().make_policy(OBS_SPACE, BOX, MLP())
    policy.model.from_batch({"obs": OBS})
    with pytest.raises(RlrunError, match="ActorWithCritics has no state-value function"):
        policy.model.value_function()


@pytest.mark.parametrize("parts", [{}, {"num_atoms": 5}, {"num_quantiles": 7}, {"dueling": False}])
def test_the_heads_of_a_q_network_give_what_it_acts_by(parts):
    torch.manual_seed(0)
    policy = q_network(**parts)
    model = policy.model
    model_out = model.from_batch({"obs": OBS})
    assert model_out[0].shape == (2, 8)
    values, distributions = model.get_q_value_distributions(model_out)
    num_outputs = parts.get("num_atoms", parts.get("num_quantiles", 1))
    assert distributions.shape == (2, 2, num_outputs)
    np.testing.assert_allclose(
        values.detach().numpy(), policy.act(OBS)[0].inputs, rtol=1e-4, atol=1e-5
    )
    advantages = model.q_value_head(model_out[0]).reshape(2, 2, num_outputs)
    if "dueling" in parts:
        assert model.state_value_head is None
        with pytest.raises(RlrunError, match="no stream of state values"):
            model.get_state_value(model_out)
        torch.testing.assert_close(distributions, advantages)
    else:
        state_values = model.get_state_value(model_out[0])
        torch.testing.assert_close(
            distributions,
            state_values.unsqueeze(1) + advantages - advantages.mean(1, keepdim=True),
        )
    assert len(model.variables()) == len(list(policy.parameters()))
    assert policy.dist_class.__name__ == "Categorical"


def test_a_summary_shows_layers_shapes_and_parameters(capsys):
    make_actor_critic(OBS_SPACE, DISCRETE, MLP(fcnet_hiddens=[256, 256])).model.summary()
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines]
    assert ["pi_encoder.0", "(Linear)", "(None,", "256)", "1,280"] in rows
    assert ["pi_encoder.2", "(Linear)", "(None,", "256)", "65,792"] in rows
    assert ["pi_head", "(Linear)", "(None,", "2)", "514"] in rows
    assert ["vf_head", "(Linear)", "(None,", "1)", "257"] in rows
    # The number of the classic documentation's example.
    assert "Total params: 134,915" in lines
    assert "Non-trainable params: 0" in lines


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_has_a_summary_that_counts_all_parameters(name):
    policy = POLICIES[name]()
    table = str(policy.model.base_model)
    total = sum(parameter.numel() for parameter in policy.parameters())
    counts = [
        int(line.split()[-1].replace(",", ""))
        for line in table.splitlines()
        if "(" in line and not line.startswith("Layer")
    ]
    own = 0 if getattr(policy, "log_std", None) is None else policy.log_std.numel()
    assert sum(counts) == total, table
    assert own == 0 or type(policy).__name__ in table
    assert policy.training


def test_heads_have_summaries_of_their_own(capsys):
    model = q_network().model
    model.q_value_head.summary()
    model.state_value_head.summary()
    model.base_model.summary()
    text = capsys.readouterr().out
    assert "Model: advantage" in text
    assert "Model: value" in text
    assert "Total params: 40" in text  # 4 x 8 + 8


def test_copies_of_a_policy_have_models_of_their_own():
    policy = make_actor_critic(OBS_SPACE, DISCRETE, MLP())
    assert policy.model is policy.model
    for other in (copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))):
        assert other.model.policy is other


def test_a_preprocessor_transforms_one_observation():
    prep = rlrun.get_preprocessor(spaces.Tuple([spaces.Discrete(3), spaces.Box(0, 1, (2, 2))]))
    assert prep.shape == (7,)
    found = prep.transform((1, np.array([[0.1, 0.2], [0.3, 0.4]], np.float32)))
    np.testing.assert_allclose(found, [0, 1, 0, 0.1, 0.2, 0.3, 0.4])
    image = rlrun.get_preprocessor(spaces.Box(0, 255, (210, 160, 3), np.uint8))
    assert image.transform(np.zeros((210, 160, 3), np.uint8)).shape == image.shape
