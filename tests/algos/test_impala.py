"""IMPALA's arithmetic against updates written here, and what it learns and keeps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers_cli import config
from test_resume import assert_resumed_equals_uninterrupted

from rlrun.algos.impala import Impala
from rlrun.core.batch import Batch
from rlrun.core.callbacks import Callbacks
from rlrun.core.errors import ConfigError
from rlrun.core.networks import MLP
from rlrun.core.sequences import Unrolling
from rlrun.run import make_trainer

OBS_SPACE = spaces.Box(-np.inf, np.inf, (3,), np.float32)
GAMMA = 0.9
LENGTHS = (4, 1, 3, 2)


@pytest.fixture(autouse=True)
def own_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def make_learner(algorithm: Any) -> Any:
    """A learner of four actions at three numbers, whose policy is not uniform any more."""
    policy = algorithm.make_policy(OBS_SPACE, spaces.Discrete(4), MLP(fcnet_hiddens=[8]))
    algorithm.setup(policy, torch.device("cpu"), 0)
    with torch.no_grad():
        policy.flat.values.add_(0.3 * torch.randn(policy.flat.values.shape))
    return algorithm


def outputs(policy: Any, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probabilities [..., 4], values [...]) by the policy's weights, without its own code."""

    def layer(name: str, x: torch.Tensor) -> torch.Tensor:
        weights = dict(policy.named_parameters())
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    logits = layer("pi_head", torch.tanh(layer("pi_encoder.0", obs)))
    return logits.log_softmax(-1), layer("vf_head", torch.tanh(layer("vf_encoder.0", obs)))[..., 0]


def sequences(policy: Any, age: float = 0.0, padding: int = 0) -> Batch:
    """Sequences of LENGTHS steps, the second and the last of which end in termination; `age`: how
    far the sampling policy's log-probabilities are from those of `policy`."""
    rng = np.random.default_rng(0)
    width = max(LENGTHS) + 1 + padding
    steps = np.arange(width)
    mask = steps < np.array(LENGTHS)[:, None]
    obs = np.zeros((len(LENGTHS), width, 3), np.float32)
    actions = np.zeros((len(LENGTHS), width), np.int64)
    rewards = np.zeros((len(LENGTHS), width), np.float32)
    terminated = np.zeros((len(LENGTHS), width), bool)
    shifts = np.zeros((len(LENGTHS), width), np.float32)
    for row, length in enumerate(LENGTHS):
        obs[row, : length + 1] = rng.normal(size=(length + 1, 3))
        actions[row, :length] = rng.integers(4, size=length)
        rewards[row, :length] = rng.normal(size=length)
        shifts[row, :length] = age * rng.normal(size=length)
        terminated[row, length - 1] = row in (1, 3)
    rows = Batch(obs=obs, actions=actions, rewards=rewards, terminated=terminated, mask=mask).to()
    with torch.no_grad():
        log_probs, _ = outputs(policy, rows["obs"])
        log_probs = log_probs.gather(-1, rows["actions"][..., None])[..., 0]
    rows["log_probs"] = log_probs + torch.from_numpy(shifts)
    rows["sampled_at_update"] = torch.zeros(mask.shape, dtype=torch.int64)
    return rows


def real_steps(rows: Batch) -> Iterator[tuple[int, int]]:
    for row, length in enumerate(rows["mask"].sum(1).tolist()):
        for t in range(length):
            yield row, t


def gradient_of(learner: Any, loss: torch.Tensor) -> torch.Tensor:
    parameters = list(learner.policy.parameters())
    return torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, parameters)])


def a2c_loss(learner: Impala, rows: Batch) -> torch.Tensor:
    """A2C with n-step returns (Mnih et al., 2016, algorithm S3), summed over steps."""
    log_probs, values = outputs(learner.policy, rows["obs"])
    loss = torch.zeros(())
    for row, t in real_steps(rows):
        length = int(rows["mask"][row].sum())
        bootstrap = 0.0 if rows["terminated"][row, length - 1] else values[row, length].detach()
        target = GAMMA ** (length - t) * bootstrap + sum(
            GAMMA ** (k - t) * rows["rewards"][row, k] for k in range(t, length)
        )
        advantage = target - values[row, t]
        entropy = -(log_probs[row, t].exp() * log_probs[row, t]).sum()
        loss = loss - log_probs[row, t, rows["actions"][row, t]] * advantage.detach()
        loss = loss + learner.vf_coeff * advantage.square() - learner.entropy_coeff * entropy
    return loss


def test_at_lag_0_an_update_is_one_of_a2c_with_n_step_returns():
    learner = make_learner(Impala(gamma=GAMMA))
    rows = sequences(learner.policy)
    expected = gradient_of(learner, a2c_loss(learner, rows))
    learner.compute_gradients(rows)
    torch.testing.assert_close(learner.policy.flat.grad, expected, rtol=1e-4, atol=1e-5)


def test_off_policy_rows_are_weighted_as_in_the_paper():
    learner = make_learner(Impala(gamma=GAMMA, vtrace_clip_pg_rho_threshold=1.3))
    rows = sequences(learner.policy, age=1.0)
    log_probs, values = outputs(learner.policy, rows["obs"])
    loss = torch.zeros(())
    for row, length in enumerate(LENGTHS):
        following = after = values[row, length].item()
        for t in reversed(range(length)):
            log_prob = log_probs[row, t, rows["actions"][row, t]]
            ratio = (log_prob - rows["log_probs"][row, t]).exp().item()
            discount = 0.0 if rows["terminated"][row, t] else GAMMA
            value, reward = values[row, t].item(), rows["rewards"][row, t].item()
            advantage = min(ratio, 1.3) * (reward + discount * following - value)
            target = value + min(ratio, 1.0) * (reward + discount * after - value)
            target += discount * min(ratio, 1.0) * (following - after)
            following, after = target, value
            entropy = -(log_probs[row, t].exp() * log_probs[row, t]).sum()
            loss = loss - advantage * log_prob - 0.01 * entropy
            loss = loss + 0.25 * (values[row, t] - target).square()
    metrics = learner.compute_gradients(rows)
    expected = gradient_of(learner, loss)
    torch.testing.assert_close(learner.policy.flat.grad, expected, rtol=1e-4, atol=1e-5)
    assert metrics["total_loss"].item() == pytest.approx(loss.item() / sum(LENGTHS), rel=1e-4)


@pytest.mark.parametrize("age", [0.0, 1.0])
def test_what_stands_in_the_padding_moves_nothing(age):
    learner = make_learner(Impala(gamma=GAMMA))
    learner.compute_gradients(sequences(learner.policy, age))
    expected = learner.policy.flat.grad.clone()
    rows = sequences(learner.policy, age, padding=3)
    for row, length in enumerate(LENGTHS):
        rows["obs"][row, length + 1 :] = 1e3
        for name in ("rewards", "log_probs"):
            rows[name][row, length:] = 1e3
        rows["actions"][row, length:] = 3
    learner.compute_gradients(rows)
    assert torch.equal(learner.policy.flat.grad, expected)


def test_the_bootstrap_step_is_a_target_and_gets_no_gradient_of_its_own():
    learner = make_learner(Impala(gamma=GAMMA))
    rows = sequences(learner.policy)
    rows["obs"].requires_grad_()
    loss, _ = learner.loss(rows)
    (gradient,) = torch.autograd.grad(loss, rows["obs"])
    moves = gradient.abs().sum(-1) > 0
    assert torch.equal(moves, rows["mask"])


def test_learn_reports_the_age_of_rows_by_their_number():
    learner = make_learner(Impala())
    learner.num_updates = 10
    rows = sequences(learner.policy)
    rows["sampled_at_update"][:] = torch.tensor([10, 4, 8, 10])[:, None]
    metrics = learner.learn(rows)
    # 4, 1, 3 and 2 steps, of ages 0, 6, 2 and 0.
    assert float(metrics["policy_lag_mean"]) == pytest.approx((1 * 6 + 3 * 2) / 10)
    assert float(metrics["policy_lag_max"]) == 6


@pytest.mark.parametrize("algo", ["impala", "a3c"])
def test_each_step_of_an_episode_is_as_old_as_the_weights_that_took_it(algo):
    overrides = [
        *("tuned=none", "env.horizon=10", "algo.num_envs_per_worker=1"),
        *("algo.rollout_fragment_length=4", "algo.batch_mode=complete_episodes"),
    ]
    with make_trainer(algo, "toy_envs.CountingEnv", overrides) as trainer:
        worker = trainer.workers.local_worker()
        for update in range(3):
            worker.num_updates = {"default_policy": update}
            sample = worker.sample()
    if algo == "impala":
        rows = sample.batches["default_policy"]
        found = rows.real(rows["sampled_at_update"])
    else:
        found = sample.gradients["default_policy"]["sampled_at_update"]
    assert found.tolist() == [0] * 4 + [1] * 4 + [2] * 2


def test_rmsprop_steps_as_written():
    learner = make_learner(Impala(opt_type="rmsprop", momentum=0.5, epsilon=0.1, grad_clip=None))
    mean_square, velocity = 1.0, 0.0
    expected = learner.policy.flat.values.clone()
    for _ in range(3):
        learner.learn(sequences(learner.policy))
        grad = learner.policy.flat.grad
        mean_square = 0.99 * mean_square + 0.01 * grad**2
        velocity = 0.5 * velocity + 5e-4 * grad / (mean_square + 0.1) ** 0.5
        expected = expected - velocity
        torch.testing.assert_close(learner.policy.flat.values, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"replay_proportion": 0.5}, "go together"),
        ({"replay_buffer_num_slots": 5}, "go together"),
        ({"learner_queue_size": 0}, "learner_queue_size=0 must be at least 1"),
        ({"vtrace_clip_c_threshold": -1.0}, "vtrace_clip_c_threshold=-1.0 must be at least 0"),
    ],
)
def test_values_that_cannot_be_are_refused(wrong, words):
    with pytest.raises(ConfigError, match=words):
        Impala(**wrong)


# Policies with memory


def test_with_memory_the_learner_sees_what_the_worker_saw_and_what_comes_after():
    overrides = [
        "tuned=none",
        "model.use_lstm=true",
        "model.lstm_cell_size=16",
        "model.max_seq_len=8",
        "algo.num_envs_per_worker=2",
        "algo.rollout_fragment_length=20",
        "env.horizon=15",
    ]
    with make_trainer("impala", "CartPole-v1", overrides, seed=1) as trainer:
        trainer.workers.sample()
        rows = trainer.workers.sample()["default_policy"].to()
        policy = trainer.get_policy()
        unrolling = Unrolling(policy, rows)
        with torch.no_grad():
            dist, values = policy(unrolling.rows)
        found = unrolling.real(dist.log_prob(rows["actions"]))
        expected = torch.where(unrolling.mask, rows["log_probs"][:, :-1], 0.0)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        # Where an episode goes on in the next sequence, the bootstrap is that one's first value.
        num_seams = 0
        for row, length in enumerate(rows["mask"].sum(1)[:-1].tolist()):
            if torch.equal(rows["obs"][row, length], rows["obs"][row + 1, 0]):
                num_seams += 1
                torch.testing.assert_close(
                    values[row, length], values[row + 1, 0], rtol=1e-4, atol=1e-5
                )
        assert num_seams >= 2


# In runs


def tiny_impala(*choices: str, **values: Any) -> dict[str, Any]:
    """A config of IMPALA whose iterations take 64 steps of two envs, and a batch and a half."""
    sizes = {
        "algo__num_envs_per_worker": 2,
        "algo__rollout_fragment_length": 8,
        "algo__train_batch_size": 40,
        "algo__timesteps_per_iteration": 64,
    }
    return config("algo=impala", *choices, **{**sizes, **values})


@pytest.mark.parametrize(
    "values",
    [
        {
            "algo__num_sgd_iter": 2,
            "algo__minibatch_buffer_size": 2,
            "algo__replay_proportion": 0.4,
            "algo__replay_buffer_num_slots": 3,
            "algo__broadcast_interval": 3,
            "algo__opt_type": "rmsprop",
            "algo__momentum": 0.5,
            "algo__lr": [[0, 1e-3], [300, 0.0]],
            "algo__entropy_coeff": [[0, 0.1], [300, 0.0]],
        },
        {
            "algo__batch_mode": "complete_episodes",
            "env__observation_filter": "MeanStdFilter",
            "evaluation__interval": 2,
            "evaluation__duration": 1,
        },
    ],
    ids=["with every part", "of whole episodes"],
)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, values):
    assert_resumed_equals_uninterrupted(tmp_path, tiny_impala(**values))


def test_without_remote_workers_rows_are_as_young_as_broadcasts_allow():
    overrides = ["tuned=none", "algo.train_batch_size=50", "algo.timesteps_per_iteration=1000"]
    for interval, expected in ((1, 0.0), (4, 3.0)):
        with make_trainer(
            "impala",
            "CartPole-v1",
            [*overrides, f"algo.broadcast_interval={interval}"],
            seed=1,
        ) as trainer:
            result = trainer.train()
            stats = result["info"]["learner"]["default_policy"]["learner_stats"]
            assert stats["policy_lag_max"] == expected
            assert result["num_env_steps_trained"] == result["num_env_steps_sampled"] == 1000


def test_it_learns_to_balance_a_pole():
    overrides = ["algo.timesteps_per_iteration=2000"]
    with make_trainer("impala", "cartpole", overrides, seed=1) as trainer:
        returns = [trainer.train()["episode_reward_mean"] for _ in range(10)]
    assert returns[0] < 50.0
    assert returns[-1] > 110.0


class DoubleRewards(Callbacks):
    """Doubles the rewards of each update, in place, and notes what it found."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def on_learn_on_batch(self, *, train_batch, **kwargs):
        self.found.append(float(train_batch["rewards"].max()))
        train_batch["rewards"] *= 2.0


@pytest.mark.parametrize(
    "again",
    [
        ["algo.num_sgd_iter=3"],
        ["algo.replay_proportion=0.5", "algo.replay_buffer_num_slots=4"],
    ],
)
def test_what_a_hook_changes_in_rows_that_come_again_is_for_one_update(again):
    overrides = ["tuned=none", "algo.train_batch_size=50", "algo.timesteps_per_iteration=200"]
    hook = {"x": {"_target_": f"{__name__}.DoubleRewards"}}
    with make_trainer("impala", "CartPole-v1", [*overrides, *again], callbacks=hook) as trainer:
        trainer.train()
        found = trainer.callbacks.found
    assert len(found) >= 4
    assert set(found) == {1.0}
