"""Exported policies choose the actions that compute_action chooses, from the env's observations."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from helpers_cli import command_line, python_process
from safetensors import safe_open

from rlrun.core.errors import ConfigError, RlrunError
from rlrun.core.nested import at, leaves_of
from rlrun.python_api import make_trainer
from rlrun.trainer import Trainer

NUM_OBSERVATIONS = 1000

PPO = ("ppo", "tuned=none", "algo.train_batch_size=64", "algo.num_epochs=1")
MEAN_STD = "env.observation_filter=MeanStdFilter"

CASES: dict[str, tuple[str, str, list[str]]] = {
    "ppo discrete": ("ppo", "CartPole-v1", [*PPO[1:], MEAN_STD]),
    "ppo continuous": ("ppo", "Pendulum-v1", [*PPO[1:], MEAN_STD]),
    "ppo beta": ("ppo", "Pendulum-v1", [*PPO[1:], "model.action_distribution=beta"]),
    "dqn": ("dqn", "CartPole-v1", ["tuned=none", MEAN_STD]),
    "rainbow": ("rainbow", "CartPole-v1", ["tuned=none", "algo.timesteps_per_iteration=10"]),
    "sac": ("sac", "Pendulum-v1", ["tuned=none", MEAN_STD]),
    "ddpg": ("ddpg", "Pendulum-v1", ["tuned=none", MEAN_STD]),
    "es": ("es", "CartPole-v1", ["tuned=none", "algo.noise_size=100000"]),
    "cnn": ("ppo", "toy_envs.ImageEnv", [*PPO[1:], "model=cnn", "model.post_fcnet_hiddens=[32]"]),
    "dict": ("ppo", "toy_envs.DictObsEnv", [*PPO[1:], MEAN_STD]),
    "nested images": (
        "ppo",
        "space_envs.NestedImageEnv",
        [*PPO[1:], "model=cnn", "model.post_fcnet_hiddens=[32]", MEAN_STD],
    ),
    "masked": ("ppo", "space_envs.MaskedEnv", [*PPO[1:], "model.mask_actions=true"]),
    "taxi": ("dqn", "Taxi-v4", ["tuned=none", "algo.timesteps_per_iteration=10"]),
    "shifted": ("ppo", "toy_envs.ShiftedDiscreteEnv", [*PPO[1:]]),
    **{
        f"{name} actions": (
            "ppo",
            "space_envs.MatchEnv",
            [*PPO[1:], f"env.env_config.actions={name}", "model.fcnet_hiddens=[16]"],
        )
        for name in ("dict", "multi discrete", "multi binary", "simplex", "counts")
    },
}

RECURRENT: dict[str, tuple[str, str, list[str]]] = {
    "lstm": ("ppo", "StatelessCartPole", [*PPO[1:], "model.use_lstm=true", MEAN_STD]),
    "lstm that sees actions": (
        "ppo",
        "Pendulum-v1",
        [
            *PPO[1:],
            "model.use_lstm=true",
            "model.lstm_use_prev_action=true",
            "model.lstm_use_prev_reward=true",
        ],
    ),
    "r2d2": ("r2d2", "StatelessCartPole", ["tuned=none", "algo.timesteps_per_iteration=10"]),
    "gtrxl": ("ppo", "StatelessCartPole", [*PPO[1:], "model=gtrxl"]),
}


QUICK = {"ppo discrete", "ppo beta", "dqn", "sac", "cnn", "dict", "masked", "lstm"}
"""What CI exports; each takes seconds."""


def in_both_formats(names: Iterable[str]) -> list[Any]:
    """Each name with each format, what is not QUICK for slow tests."""
    found = []
    for name in names:
        slow = () if name in QUICK else pytest.mark.slow
        found += [pytest.param(name, suffix, marks=slow) for suffix in ("pt2", "onnx")]
    return found


def trained(case: tuple[str, str, list[str]]) -> Trainer:
    """A trainer whose filter has seen something, and whose policy is sure of its choices."""
    algo, env, overrides = case
    env = {"StatelessCartPole": "rlrun.envs.stateless_cartpole.StatelessCartPole"}.get(env, env)
    if algo in ("dqn", "sac", "ddpg"):
        overrides = [*overrides, "algo.timesteps_per_iteration=200", "algo.learning_starts=1000"]
    trainer = make_trainer(algo, env=env, overrides=overrides, seed=3)
    trainer.train()
    rng = np.random.default_rng(0)
    weights = trainer.get_weights()
    for name, array in weights["default_policy"].items():
        if array.dtype == np.float32 and not name.startswith("observation_filter"):
            array += rng.normal(0.0, 0.3, array.shape).astype(np.float32)
    trainer.set_weights(weights)
    return trainer


def observations(space: spaces.Space) -> list[Any]:
    space.seed(1)
    found = [space.sample() for _ in range(NUM_OBSERVATIONS)]
    for each in found:
        if isinstance(each, dict) and "action_mask" in each:
            allow_some(each["action_mask"])
    return found


def allow_some(mask: Any) -> None:
    for part in mask if isinstance(mask, tuple) else (mask,):
        part[...] = np.maximum(part, np.eye(1, part.size, dtype=part.dtype).reshape(part.shape))


def columns(space: spaces.Space, name: str, values: Any) -> dict[str, np.ndarray]:
    """Each leaf of many values of a space, as the inputs of an export."""
    return {
        ".".join([name, *map(str, path)]): np.stack(
            [np.asarray(at(value, path), leaf.dtype) for value in values]
        )
        for path, leaf in leaves_of(space)
    }


class Program:
    """An exported policy as function of named arrays, of either format."""

    def __init__(self, path: Path) -> None:
        if path.suffix == ".onnx":
            import onnxruntime

            self.session = onnxruntime.InferenceSession(str(path))
            self.facts = json.loads(self.session.get_modelmeta().custom_metadata_map["rlrun"])
        else:
            extra = {"rlrun.json": ""}
            self.module = torch.export.load(path, extra_files=extra).module()
            self.facts = json.loads(extra["rlrun.json"])
        self.is_onnx = path.suffix == ".onnx"

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        assert list(inputs) == self.facts["inputs"]
        if self.is_onnx:
            assert [each.name for each in self.session.get_inputs()] == self.facts["inputs"]
            found = self.session.run(self.facts["outputs"], inputs)
        else:
            found = [x.numpy() for x in self.module(*map(torch.from_numpy, inputs.values()))]
        return dict(zip(self.facts["outputs"], found, strict=True))


@pytest.mark.parametrize(("name", "suffix"), in_both_formats(CASES))
def test_an_export_chooses_what_compute_action_chooses(name, suffix, tmp_path):
    with trained(CASES[name]) as trainer:
        spaces_ = trainer.workers.local_worker().get_spaces()
        given = observations(spaces_.observation_space)
        expected = list(trainer.compute_actions(given, explore=False))
        program = Program(trainer.export_model(tmp_path / f"policy.{suffix}"))
    found = program(columns(spaces_.observation_space, "obs", given))
    wanted = columns(spaces_.action_space, "actions", expected)
    assert found.keys() == wanted.keys()
    for key, column in wanted.items():
        assert found[key].dtype == column.dtype, key
        np.testing.assert_allclose(found[key], column, rtol=1e-4, atol=1e-4, err_msg=key)


@pytest.mark.parametrize(("name", "suffix"), in_both_formats(RECURRENT))
def test_an_export_with_memory_takes_and_gives_its_state(name, suffix, tmp_path):
    with trained(RECURRENT[name]) as trainer:
        spaces_ = trainer.workers.local_worker().get_spaces()
        given = observations(spaces_.observation_space)
        policy = trainer.get_policy()
        program = Program(trainer.export_model(tmp_path / f"policy.{suffix}"))
        rows, steps = 50, NUM_OBSERVATIONS // 50
        state = policy.initial_state(rows)
        exported = {f"state_in.{key}": part for key, part in state.items()}
        actions, rewards = None, np.zeros(rows, np.float32)
        for step in range(steps):
            batch = given[step * rows : (step + 1) * rows]
            inputs = {**columns(spaces_.observation_space, "obs", batch), **exported}
            previous = {}
            if policy.uses_previous:
                zeros = np.zeros((rows, *spaces_.action_space.shape), spaces_.action_space.dtype)
                inputs["prev_actions"] = zeros if actions is None else np.asarray(actions)
                inputs["prev_rewards"] = rewards
                previous = {"prev_action": inputs["prev_actions"], "prev_reward": rewards}
            actions, state, _ = trainer.compute_actions(
                batch, state=state, explore=False, **previous
            )
            found = program(inputs)
            np.testing.assert_allclose(found["actions"], actions, rtol=1e-3, atol=1e-3)
            for key, part in state.items():
                np.testing.assert_allclose(found[f"state_out.{key}"], part, rtol=1e-3, atol=1e-4)
            exported = {f"state_in.{key}": found[f"state_out.{key}"] for key in state}
            rewards = np.full(rows, 0.5 * step, np.float32)


def test_an_export_takes_any_number_of_rows(tmp_path):
    with trained(CASES["ppo discrete"]) as trainer:
        for suffix in ("pt2", "onnx"):
            program = Program(trainer.export_model(tmp_path / f"policy.{suffix}"))
            for rows in (1, 7):
                found = program({"obs": np.zeros((rows, 4), np.float32)})
                assert found["actions"].shape == (rows,)


def test_exported_weights_say_what_they_are_and_come_back(tmp_path):
    with trained(CASES["ppo discrete"]) as trainer:
        path = trainer.export_model(tmp_path / "weights.safetensors")
        weights = trainer.get_weights()["default_policy"]
    with safe_open(path, "numpy") as file:
        facts = json.loads(file.metadata()["rlrun"])
    assert facts["algorithm"] == "PPO"
    assert "Discrete(2)" in facts["action_space"]
    with make_trainer("ppo", env="CartPole-v1", overrides=["tuned=none", MEAN_STD]) as other:
        report = other.import_model(path)
        assert not report.not_loaded
        for key, array in other.get_weights()["default_policy"].items():
            np.testing.assert_array_equal(array, weights[key])


def test_what_cannot_be_exported_is_refused_and_leaves_no_file(tmp_path):
    with make_trainer("ppo", env="CartPole-v1", seed=1) as trainer:
        with pytest.raises(ConfigError, match=r"let it end in \.safetensors, \.pt2, \.onnx"):
            trainer.export_model(tmp_path / "policy.bin")
        with pytest.raises(ConfigError, match="format=tf must be one of"):
            trainer.export_model(tmp_path / "policy.bin", format="tf")
        trainer.workers.local_worker().actors["default_policy"].policy.pi_encoder.append(Stubborn())
        with pytest.raises(
            RlrunError, match=r"format=torch cannot hold this ActorCritic: .*safete"
        ):
            trainer.export_model(tmp_path / "policy.bin", format="torch")
    assert list(tmp_path.iterdir()) == []


class Stubborn(torch.nn.Module):
    """Its course depends on numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum()) > 0 else -x


def test_the_command_exports_a_checkpoint(tmp_path, monkeypatch):
    with trained(CASES["ppo discrete"]) as trainer:
        checkpoint = trainer.save(tmp_path)
        expected = trainer.compute_action(np.ones(4, np.float32), explore=False)
    with command_line(tmp_path, monkeypatch) as rlrun:
        for arguments in (["--out", "a.onnx"], ["--format", "onnx", "--out", "b.bin"]):
            outcome = rlrun("export", str(checkpoint.relative_to(tmp_path)), *arguments)
            assert outcome.status == 0, outcome.stderr
            assert arguments[-1] in outcome.stdout
        missing = rlrun("export", "nothing", "--out", "c.onnx")
    assert missing.status == 2
    assert "there is no such checkpoint" in missing.stderr
    import onnxruntime

    for name in ("a.onnx", "b.bin"):
        session = onnxruntime.InferenceSession((tmp_path / name).read_bytes())
        assert session.run(None, {"obs": np.ones((1, 4), np.float32)})[0][0] == expected


def test_an_unknown_format_is_refused_before_torch_is_there(tmp_path):
    code = (
        "import sys; from pathlib import Path; from rlrun import rollout\n"
        "rollout.find_checkpoint = lambda path: path\n"
        "try: rollout.export_checkpoint(Path('run'), Path('policy.tflite'), None)\n"
        "except ValueError as error: print(error, 'torch' in sys.modules)"
    )
    found = python_process(tmp_path, "-c", code)
    assert "policy.tflite tells no format" in found.stdout
    assert found.stdout.strip().endswith("False")
