"""PPO's arithmetic against an update written here with torch.distributions and torch.optim."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions as td
from torch import nn

from rlrun.algos.ppo import PPO
from rlrun.core.batch import Batch
from rlrun.core.networks import MLP

OBS_SPACE = spaces.Box(-np.inf, np.inf, (3,), np.float32)
ACTION_SPACES = {
    "discrete": spaces.Discrete(4),
    "multi": spaces.MultiDiscrete([2, 3]),
    "box": spaces.Box(-1, 1, (2,), np.float32),
}
NUM_ROWS = 32
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def own_random_numbers() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


class Reference:
    """An actor-critic with the weights of a policy, and PPO's losses, without rlrun's code."""

    def __init__(self, policy: nn.Module, action_space: spaces.Space) -> None:
        self.action_space = action_space
        self.weights = {
            name: nn.Parameter(numbers.detach().clone())
            for name, numbers in policy.named_parameters()
        }

    def layer(self, name: str, inputs: torch.Tensor) -> torch.Tensor:
        return inputs @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def values(self, obs: Any) -> torch.Tensor:
        hidden = torch.tanh(self.layer("vf_encoder.0", torch.as_tensor(obs)))
        return self.layer("vf_head", hidden)[..., 0]

    def inputs(self, obs: Any) -> torch.Tensor:
        outputs = self.layer(
            "pi_head", torch.tanh(self.layer("pi_encoder.0", torch.as_tensor(obs)))
        )
        if isinstance(self.action_space, spaces.Box):
            return torch.cat([outputs, self.weights["log_std"].expand_as(outputs)], dim=-1)
        return outputs

    def parts(self, inputs: torch.Tensor) -> list[td.Distribution]:
        """The independent distributions of the action dimensions."""
        if isinstance(self.action_space, spaces.Box):
            mean, log_std = inputs.chunk(2, dim=-1)
            return [td.Normal(mean[..., i], log_std[..., i].exp()) for i in range(mean.shape[-1])]
        if isinstance(self.action_space, spaces.MultiDiscrete):
            widths = self.action_space.nvec.tolist()
            return [td.Categorical(logits=part) for part in inputs.split(widths, dim=-1)]
        return [td.Categorical(logits=inputs)]

    def log_probs(self, inputs: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        columns = actions.unbind(-1) if actions.ndim > 1 else [actions]
        parts = self.parts(inputs)
        return sum(part.log_prob(column) for part, column in zip(parts, columns, strict=True))

    def losses(self, batch: Batch, algo: PPO, clip_range=0.2, entropy_coeff=0.0) -> dict[str, Any]:
        columns = {name: torch.as_tensor(column) for name, column in batch.items()}
        inputs = self.inputs(columns["obs"])
        advantages = columns["advantages"]
        if algo.normalize_advantages:
            advantages = (advantages - advantages.mean()) / (advantages.std(unbiased=True) + 1e-8)
        ratios = (self.log_probs(inputs, columns["actions"]) - columns["log_probs"]).exp()
        clipped = ratios.clamp(1 - clip_range, 1 + clip_range)
        policy_loss = -torch.minimum(ratios * advantages, clipped * advantages).mean()
        values = self.values(columns["obs"])
        row_losses = (values - columns["value_targets"]) ** 2
        if algo.vf_clip_range is not None:
            near = columns["values"] + (values - columns["values"]).clamp(
                -algo.vf_clip_range, algo.vf_clip_range
            )
            row_losses = torch.maximum(row_losses, (near - columns["value_targets"]) ** 2)
        vf_loss = row_losses.mean()
        entropy = sum(part.entropy() for part in self.parts(inputs)).mean()
        total_loss = policy_loss + algo.vf_coeff * vf_loss - entropy_coeff * entropy
        losses = {"policy_loss": policy_loss, "vf_loss": vf_loss, "entropy": entropy}
        if "dist_inputs" in columns:
            old_parts = self.parts(columns["dist_inputs"])
            losses["kl"] = sum(
                td.kl_divergence(old, new)
                for old, new in zip(old_parts, self.parts(inputs), strict=True)
            ).mean()
            if algo.use_kl_loss:
                total_loss = total_loss + algo.kl_coeff * losses["kl"]
        return {**losses, "total_loss": total_loss}

    def optimizer(self, lr: float) -> torch.optim.Adam:
        return torch.optim.Adam(self.weights.values(), lr=lr, eps=1e-5)

    def step(self, optimizer: torch.optim.Adam, loss: torch.Tensor, grad_clip: float = 0.5) -> None:
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights.values(), grad_clip)
        optimizer.step()

    def assert_equals(self, policy: nn.Module) -> None:
        for name, numbers in policy.named_parameters():
            torch.testing.assert_close(
                numbers.detach(), self.weights[name].detach(), rtol=1e-4, atol=1e-5, msg=name
            )


def learner(kind: str, **hyperparameters: Any) -> tuple[PPO, nn.Module, Reference]:
    settings = {
        "lr": 0.01,
        "train_batch_size": NUM_ROWS,
        "minibatch_size": NUM_ROWS,
        "num_epochs": 1,
        **hyperparameters,
    }
    algo = PPO(**settings)
    policy = algo.make_policy(OBS_SPACE, ACTION_SPACES[kind], MLP(fcnet_hiddens=[16]))
    policy.act(np.zeros((1, 3), np.float32))  # setup moves weights that were used already
    reference = Reference(policy, ACTION_SPACES[kind])
    algo.setup(policy, CPU, 0)
    return algo, policy, reference


def train_batch(kind: str, reference: Reference, num_rows: int = NUM_ROWS, seed: int = 0) -> Batch:
    """Rows of an old policy near the reference's: some ratios lie beyond the clip range."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(num_rows, 3)).astype(np.float32)
    actions = {
        "discrete": rng.integers(0, 4, num_rows),
        "multi": rng.integers(0, [2, 3], (num_rows, 2)),
        "box": rng.normal(size=(num_rows, 2)).astype(np.float32),
    }[kind]
    with torch.no_grad():
        inputs = reference.inputs(obs)
        old_inputs = inputs + torch.as_tensor(rng.normal(size=inputs.shape) * 0.3).float()
        log_probs = reference.log_probs(old_inputs, torch.as_tensor(actions)).numpy()
        values = reference.values(obs).numpy()
    return Batch(
        obs=obs,
        actions=actions,
        log_probs=log_probs,
        dist_inputs=old_inputs.numpy(),
        values=values + rng.normal(size=num_rows).astype(np.float32) * 0.3,
        advantages=(rng.normal(size=num_rows) * 2 + 1).astype(np.float32),
        value_targets=(values + rng.normal(size=num_rows)).astype(np.float32),
    )


def without_dist_inputs(batch: Batch) -> Batch:
    return Batch({name: column for name, column in batch.items() if name != "dist_inputs"})


def number(metric: Any) -> float:
    return float(np.mean(np.asarray(metric)))


@pytest.mark.parametrize("kind", ACTION_SPACES)
@pytest.mark.parametrize("num_epochs", [1, 4])
def test_learning_on_all_rows_equals_an_update_written_with_torch_alone(kind, num_epochs):
    algo, policy, reference = learner(kind, num_epochs=num_epochs, entropy_coeff=0.02, vf_coeff=0.7)
    batch = without_dist_inputs(train_batch(kind, reference))
    optimizer = reference.optimizer(0.01)
    first = None
    for _ in range(num_epochs):
        losses = reference.losses(batch, algo, entropy_coeff=0.02)
        first = first or {name: loss.item() for name, loss in losses.items()}
        reference.step(optimizer, losses["total_loss"])
    metrics = algo.learn(batch.to())
    reference.assert_equals(policy)
    entropy_afterwards = reference.losses(batch, algo)["entropy"].item()
    assert number(metrics["entropy"]) == pytest.approx(entropy_afterwards, rel=1e-4, abs=1e-5)
    if num_epochs == 1:
        for name in ("total_loss", "policy_loss", "vf_loss"):
            assert number(metrics[name]) == pytest.approx(first[name], rel=1e-4, abs=1e-5), name
    assert np.isfinite(number(metrics["kl"]))


def test_the_batch_of_these_tests_has_ratios_on_both_sides_of_the_clip_range():
    _, _, reference = learner("discrete")
    batch = train_batch("discrete", reference)
    inputs = reference.inputs(batch["obs"])
    log_probs = reference.log_probs(inputs, torch.as_tensor(batch["actions"])).detach().numpy()
    ratios = np.exp(log_probs - batch["log_probs"])
    assert ratios.min() < 0.8
    assert ratios.max() > 1.2
    assert ((ratios > 0.8) & (ratios < 1.2)).any()


@pytest.mark.parametrize("changes", [{"vf_clip_range": 0.1}, {"normalize_advantages": False}])
def test_the_switches_of_the_losses_do_what_their_names_say(changes):
    algo, policy, reference = learner("discrete", **changes)
    batch = without_dist_inputs(train_batch("discrete", reference))
    losses = reference.losses(batch, algo)
    plain = reference.losses(batch, PPO())
    assert losses["total_loss"].item() != pytest.approx(plain["total_loss"].item(), abs=1e-3)
    reference.step(reference.optimizer(0.01), losses["total_loss"])
    metrics = algo.learn(batch.to())
    reference.assert_equals(policy)
    assert number(metrics["total_loss"]) == pytest.approx(losses["total_loss"].item(), rel=1e-4)


def test_schedules_are_read_at_the_timestep_that_the_loop_set():
    algo, policy, reference = learner(
        "box",
        lr=[[0, 0.02], [1000, 0.0]],
        clip_range=[[0, 0.3], [1000, 0.1]],
        entropy_coeff=[[0, 0.0], [1000, 0.1]],
    )
    algo.clock = lambda: 500
    batch = without_dist_inputs(train_batch("box", reference))
    losses = reference.losses(batch, algo, clip_range=0.2, entropy_coeff=0.05)
    reference.step(reference.optimizer(0.01), losses["total_loss"])
    algo.learn(batch.to())
    reference.assert_equals(policy)


def test_a_second_train_batch_continues_with_the_moments_of_the_first():
    algo, policy, reference = learner("multi")
    optimizer = reference.optimizer(0.01)
    for seed in (1, 2):
        batch = without_dist_inputs(train_batch("multi", reference, seed=seed))
        reference.step(optimizer, reference.losses(batch, algo)["total_loss"])
        algo.learn(batch.to())
    reference.assert_equals(policy)


def test_an_epoch_takes_each_row_once_in_minibatches():
    algo, policy, reference = learner("discrete", minibatch_size=8, num_epochs=3, lr=0.0)
    batch = without_dist_inputs(train_batch("discrete", reference))
    taken = []
    forward = policy.forward

    def spy(rows):
        taken.append(rows["obs"].numpy()[:, 0].copy())
        return forward(rows)

    policy.forward = spy
    algo.learn(batch.to())
    # Twelve minibatches, and the whole batch once more, to measure the update.
    assert [len(rows) for rows in taken] == [8] * 12 + [32]
    for epoch in range(3):
        rows = np.concatenate(taken[4 * epoch : 4 * epoch + 4])
        np.testing.assert_array_equal(np.sort(rows), np.sort(batch["obs"][:, 0]))
    assert (np.concatenate(taken[:4]) != np.concatenate(taken[4:8])).any()


def test_a_rest_of_one_row_does_not_ruin_the_weights():
    algo, policy, reference = learner("discrete", minibatch_size=16)
    algo.learn(without_dist_inputs(train_batch("discrete", reference, num_rows=33)).to())
    for name, numbers in policy.named_parameters():
        assert torch.isfinite(numbers).all(), name


@pytest.mark.parametrize("kind", ACTION_SPACES)
def test_what_the_policy_does_in_numpy_equals_its_forward_in_torch_after_learning(kind):
    algo, policy, reference = learner(kind, lr=0.1)
    algo.learn(without_dist_inputs(train_batch(kind, reference)).to())
    obs = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    learned = Reference(policy, ACTION_SPACES[kind])
    dist, _, _ = policy.act(obs)
    with torch.no_grad():
        torch_dist, torch_values = policy(Batch(obs=torch.as_tensor(obs)))
        inputs = learned.inputs(obs).numpy()
        np.testing.assert_allclose(torch_dist.inputs.numpy(), inputs, rtol=1e-4, atol=1e-5)
        values = learned.values(obs).numpy()
    np.testing.assert_allclose(np.asarray(dist.inputs), inputs, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(torch_values.numpy(), values, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(policy.values(obs), values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ACTION_SPACES)
def test_the_kl_penalty_is_the_divergence_of_the_new_policy_from_the_old(kind):
    algo, policy, reference = learner(kind, use_kl_loss=True, kl_coeff=3.0)
    batch = train_batch(kind, reference)
    losses = reference.losses(batch, algo)
    assert losses["kl"].item() > 0.01
    reference.step(reference.optimizer(0.01), losses["total_loss"])
    metrics = algo.learn(batch.to())
    assert number(metrics["total_loss"]) == pytest.approx(losses["total_loss"].item(), rel=1e-4)
    reference.assert_equals(policy)


@pytest.mark.parametrize(
    ("target_over_kl", "factor"), [(1 / 1.6, 2.0), (1 / 1.4, 1.0), (1.4, 1.0), (1.6, 0.5)]
)
def test_the_kl_coefficient_doubles_far_above_the_target_and_halves_far_below(
    target_over_kl, factor
):
    algo, _, reference = learner("discrete", use_kl_loss=True, kl_coeff=0.4)
    batch = train_batch("discrete", reference)
    kl = number(algo.learn(batch.to())["kl"])
    torch.manual_seed(0)
    algo, _, reference = learner(
        "discrete", use_kl_loss=True, kl_coeff=0.4, kl_target=kl * target_over_kl
    )
    assert number(algo.learn(train_batch("discrete", reference).to())["kl"]) == pytest.approx(kl)
    assert algo.current_kl_coeff == pytest.approx(0.4 * factor)


def test_the_kl_coefficient_doubles_after_one_step_that_went_far_from_the_old_policy():
    algo, policy, reference = learner("discrete", use_kl_loss=True, kl_coeff=0.4, lr=0.3)
    batch = train_batch("discrete", reference)
    with torch.no_grad():  # the policy that sampled is the one that learns, as in a real run
        inputs = reference.inputs(batch["obs"])
        batch["log_probs"] = reference.log_probs(inputs, torch.as_tensor(batch["actions"])).numpy()
        batch["dist_inputs"] = inputs.numpy()
    algo.learn(batch.to())
    learned = Reference(policy, ACTION_SPACES["discrete"])
    assert learned.losses(batch, algo)["kl"].item() > 10 * 1.5 * algo.kl_target
    # Section 4 takes d = E[KL(old, new)] after the update, not before it.
    assert algo.current_kl_coeff == pytest.approx(0.8)


def test_the_adapted_kl_coefficient_is_the_one_of_the_next_update():
    algo, policy, reference = learner("box", use_kl_loss=True, kl_coeff=2.0, kl_target=1e-6)
    optimizer = reference.optimizer(0.01)
    for seed, coeff in ((1, 2.0), (2, 4.0)):
        batch = train_batch("box", reference, seed=seed)
        losses = reference.losses(batch, algo)
        total_loss = losses["total_loss"] + (coeff - algo.kl_coeff) * losses["kl"]
        reference.step(optimizer, total_loss)
        algo.learn(batch.to())
    reference.assert_equals(policy)
    assert algo.current_kl_coeff == pytest.approx(8.0)


def trajectory_of(
    reference: Reference, with_dist_inputs: bool = False, num_steps: int = 6, num_envs: int = 2
) -> Batch:
    """Env 0 is truncated at step 2; env 1 terminates at step 1; both go on to the end."""
    rng = np.random.default_rng(0)
    terminated = np.zeros((num_steps, num_envs), bool)
    truncated = np.zeros((num_steps, num_envs), bool)
    truncated[2, 0] = terminated[1, 1] = True
    next_obs = rng.normal(size=(num_steps, num_envs, 3)).astype(np.float32)
    obs = rng.normal(size=(num_steps, num_envs, 3)).astype(np.float32)
    ended = (terminated | truncated)[:-1, :, None]
    obs[1:] = np.where(ended, obs[1:], next_obs[:-1])  # after an ending comes a reset
    with torch.no_grad():
        values = reference.values(obs).numpy()
        next_values = reference.values(next_obs).numpy()
        dist_inputs = reference.inputs(obs).numpy()
    return Batch(
        obs=obs,
        actions=rng.integers(0, 4, (num_steps, num_envs)),
        rewards=rng.normal(size=(num_steps, num_envs)).astype(np.float32),
        values=values,
        log_probs=-rng.random((num_steps, num_envs)).astype(np.float32),
        next_values=next_values,
        **({"dist_inputs": dist_inputs} if with_dist_inputs else {}),
        terminated=terminated,
        truncated=truncated,
    )


def test_postprocessing_bootstraps_from_the_next_values_but_after_a_termination():
    algo, policy, reference = learner("discrete", gamma=0.9, gae_lambda=0.7)
    trajectory = trajectory_of(reference)
    given = algo.postprocess(policy, Batch(trajectory))
    next_values = trajectory["next_values"]
    for env in range(2):
        advantage, following = 0.0, 0.0
        for step in reversed(range(6)):
            bootstrap = 0.0 if trajectory["terminated"][step, env] else next_values[step, env]
            delta = (
                trajectory["rewards"][step, env] + 0.9 * bootstrap - trajectory["values"][step, env]
            )
            ended = trajectory["terminated"][step, env] or trajectory["truncated"][step, env]
            advantage = delta + (0.0 if ended else 0.9 * 0.7 * following)
            following = advantage
            assert given["advantages"][step, env] == pytest.approx(advantage, abs=1e-5)
            assert given["value_targets"][step, env] == pytest.approx(
                advantage + trajectory["values"][step, env], abs=1e-5
            )
    for name in ("obs", "actions", "log_probs", "values"):
        np.testing.assert_array_equal(given[name], trajectory[name])


def test_postprocessed_rows_are_all_that_learning_needs():
    for use_kl_loss in (False, True):
        algo, policy, reference = learner(
            "discrete", use_kl_loss=use_kl_loss, train_batch_size=12, minibatch_size=12
        )
        given = algo.postprocess(policy, Batch(trajectory_of(reference, use_kl_loss)))
        rows = Batch(
            {name: column.reshape(12, *column.shape[2:]) for name, column in given.items()}
        )
        metrics = algo.learn(rows.to())
        # The old policy is the present one: every ratio is what log_probs make it.
        assert ("dist_inputs" in rows) == use_kl_loss
        assert np.isfinite(number(metrics["total_loss"]))
