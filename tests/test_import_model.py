"""Weights from elsewhere: files of other programs, and checkpoints, into policies of any make."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.torch
import torch
from helpers_cli import command_line
from safetensors.numpy import save_file

from rlrun.core.errors import ConfigError
from rlrun.core.weight_files import read_weights
from rlrun.python_api import make_trainer
from rlrun.run import Run
from rlrun.trainer import Trainer

SMALL = [
    "tuned=none",
    "algo.train_batch_size=64",
    "algo.minibatch_size=32",
    "algo.num_epochs=1",
    "model.fcnet_hiddens=[8]",
]


def ppo(*overrides: str, **settings: Any) -> Trainer:
    return make_trainer("ppo", env="CartPole-v1", overrides=[*SMALL, *overrides], **settings)


def weights_of(trainer: Trainer) -> dict[str, np.ndarray]:
    return trainer.get_weights()["default_policy"]


@pytest.fixture(scope="module")
def other_weights() -> dict[str, np.ndarray]:
    with ppo(seed=2) as trainer:
        return weights_of(trainer)


def written(folder: Path, kind: str, weights: dict[str, np.ndarray]) -> Path:
    path = folder / f"weights{kind}"
    if kind == ".safetensors":
        save_file(weights, path)
    elif kind == ".h5":
        with h5py.File(path, "w") as file:
            for name, array in weights.items():
                file[name] = array
    else:
        tensors = {name: torch.from_numpy(array) for name, array in weights.items()}
        torch.save({"state_dict": tensors, "epoch": 3} if kind == ".pth" else tensors, path)
    return path


@pytest.mark.parametrize("kind", [".safetensors", ".pt", ".pth", ".h5"])
def test_weights_of_the_same_names_are_taken_over_and_acted_on(kind, other_weights, tmp_path):
    path = written(tmp_path, kind, other_weights)
    with ppo(seed=1) as trainer:
        report = trainer.import_model(path)
        assert report.loaded == {name: name for name in other_weights}
        assert not report.not_loaded
        assert not report.not_used
        for policy in (trainer.get_policy(), trainer.workers.local_worker().get_policy()):
            for name, array in policy.get_weights().items():
                np.testing.assert_array_equal(array, other_weights[name])


def test_what_differs_in_shape_stays_and_is_reported(other_weights, tmp_path):
    given = {**other_weights, "pi_head.weight": np.zeros((3, 8), np.float32)}
    given["extra"] = given.pop("vf_head.bias")
    path = written(tmp_path, ".safetensors", given)
    with ppo(seed=1) as trainer:
        before = weights_of(trainer)
        report = trainer.import_model(path)
        after = weights_of(trainer)
    assert report.not_loaded == {
        "pi_head.weight": "the source has [3, 8]",
        "vf_head.bias": "the source has none of that name",
    }
    assert report.not_used == {"extra": (1,), "pi_head.weight": (3, 8)}
    np.testing.assert_array_equal(after["pi_head.weight"], before["pi_head.weight"])
    np.testing.assert_array_equal(after["pi_head.bias"], other_weights["pi_head.bias"])
    assert "6 of 8 arrays loaded" in str(report)
    assert "  not loaded  pi_head.weight [2, 8]: the source has [3, 8]" in str(report).splitlines()


def test_weights_of_keras_go_where_their_shape_is_in_the_order_of_layers(tmp_path):
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(4, 8)).astype(np.float32), np.arange(8, dtype=np.float32)
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        file["layers/dense_2/vars/0"] = np.ones((8, 2), np.float32)
        file["layers/dense/vars/0"], file["layers/dense/vars/1"] = kernel, bias
        file["layers/dense_10/vars/0"] = np.zeros((8, 5), np.float32)
    with ppo(seed=1) as trainer:
        report = trainer.import_model(tmp_path / "model.weights.h5")
        after = weights_of(trainer)
    np.testing.assert_array_equal(after["pi_encoder.0.weight"], kernel.T)
    np.testing.assert_array_equal(after["pi_encoder.0.bias"], bias)
    np.testing.assert_array_equal(after["pi_head.weight"], np.ones((2, 8)))
    assert report.loaded["pi_head.weight"] == "layers/dense_2/vars/0"
    assert report.not_used == {"layers/dense_10/vars/0": (5, 8)}


class Mapped(torch.nn.Module):
    """Knows the names of a file of its own."""

    def __init__(self, obs_space: Any) -> None:
        super().__init__()
        self.output_size = 8
        self.layer = torch.nn.Linear(obs_space.shape[0], 8)

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        return self.layer(obs)

    def map_weights(self, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"layer.weight": weights["W"], "layer.bias": weights["b"] - 1.0}


class Confused(Mapped):
    """Maps to what it does not have."""

    def map_weights(self, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {"layer.kernel": weights["W"]}


def test_a_model_of_ones_own_says_what_goes_where(tmp_path):
    given = {"W": np.full((8, 4), 2.0, np.float32), "b": np.full(8, 3.0, np.float32)}
    path = written(tmp_path, ".pt", given)
    model = ["model=custom", f"model.module={__name__}.Mapped", "model.vf_share_layers=true"]
    with make_trainer("ppo", env="CartPole-v1", overrides=[*SMALL[:4], *model]) as trainer:
        report = trainer.import_model(path)
        after = weights_of(trainer)
    np.testing.assert_array_equal(after["pi_encoder.layer.weight"], given["W"])
    np.testing.assert_array_equal(after["pi_encoder.layer.bias"], 2.0)
    assert report.loaded == {
        "pi_encoder.layer.weight": "W",
        "pi_encoder.layer.bias": "map_weights",
    }
    assert report.not_loaded.keys() == {
        *("pi_head.weight", "pi_head.bias", "vf_head.weight", "vf_head.bias")
    }
    model[1] = f"model.module={__name__}.Confused"
    with (
        make_trainer("ppo", env="CartPole-v1", overrides=[*SMALL[:4], *model]) as trainer,
        pytest.raises(ConfigError, match=r"Confused.map_weights gives 'layer.kernel'"),
    ):
        trainer.import_model(path)


def test_parameters_and_halved_floats_are_read_as_float32(tmp_path):
    half = torch.full((2,), 1.5, dtype=torch.bfloat16)
    torch.save({"w": torch.nn.Parameter(half), 0: torch.eye(2).to_sparse()}, tmp_path / "a.pt")
    torch.save({"w": half.to(torch.float8_e4m3fn)}, tmp_path / "b.pt")
    safetensors.torch.save_file({"w": half}, tmp_path / "c.safetensors")
    for name in ("a.pt", "b.pt", "c.safetensors"):
        found = read_weights(tmp_path / name, "default_policy")
        assert found["w"].dtype == np.float32
        assert found["w"].tolist() == [1.5, 1.5]
    np.testing.assert_array_equal(read_weights(tmp_path / "a.pt", "")["0"], np.eye(2))
    torch.save({"w": torch.ones(2, device="meta")}, tmp_path / "d.pt")
    with pytest.raises(ConfigError, match=r"d\.pt: w cannot be read"):
        read_weights(tmp_path / "d.pt", "")


def test_a_file_that_does_not_fit_or_could_run_code_is_refused(tmp_path):
    torch.save(torch.nn.Linear(4, 8), tmp_path / "module.pt")
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    (tmp_path / "broken.h5").write_bytes(b"nothing")
    (tmp_path / "weights.bin").write_bytes(b"nothing")
    written(tmp_path, ".safetensors", {"other": np.zeros((77, 3), np.float32)})
    refusals = {
        "module.pt": "holds more than weights",
        "broken.safetensors": "is no file of safetensors",
        "broken.h5": "is no HDF5 file",
        "weights.bin": r"must be a file that ends in \.safetensors, \.pt, \.pth, \.h5",
        "missing.pt": "there is no such file",
        "weights.safetensors": r"(?s)Nothing in .* fits this policy.*not used    other \[77, 3\]",
        ".": "is no checkpoint, and holds no complete one",
    }
    with ppo(seed=1) as trainer:
        before = weights_of(trainer)
        for name, message in refusals.items():
            with pytest.raises(ConfigError, match=message):
                trainer.import_model(tmp_path / name)
        for name, array in weights_of(trainer).items():
            np.testing.assert_array_equal(array, before[name])


def test_targets_and_remote_workers_follow(other_weights, tmp_path, ray_cluster):
    with make_trainer("dqn", env="CartPole-v1", overrides=["tuned=none"], seed=2) as trainer:
        given = weights_of(trainer)
        path = trainer.export_model(tmp_path / "dqn.safetensors")
    with make_trainer(
        "dqn", env="CartPole-v1", overrides=["tuned=none"], init_from=str(path)
    ) as it:
        target = it.algorithms["default_policy"].target.network.get_weights()
        np.testing.assert_array_equal(target["encoder.0.weight"], given["encoder.0.weight"])
    path = written(tmp_path, ".safetensors", other_weights)
    with ppo("resources.num_workers=1", init_from=str(path)) as trainer:
        for found in trainer.workers.foreach_worker(
            lambda worker: worker.get_policy().get_weights()
        ):
            np.testing.assert_array_equal(found["vf_head.weight"], other_weights["vf_head.weight"])


def test_a_run_begins_with_the_weights_of_another_and_says_so(tmp_path, monkeypatch):
    run = ["algo=ppo", "env=cartpole", *SMALL, "seed=1", "logger=none"]
    stop = "stop.training_iteration=1"
    with command_line(tmp_path, monkeypatch) as rlrun:
        first = rlrun(*run, stop, "hydra.run.dir=first")
        second = rlrun(*run, stop, "hydra.run.dir=second", "init_from=first")
        wider = rlrun(
            *(*run, stop, "hydra.run.dir=third", "init_from=first", "model.fcnet_hiddens=[9]")
        )
        missing = rlrun(*run, stop, "hydra.run.dir=fourth", "init_from=nothing.pt")
    assert first.status == 0, first.stderr
    assert second.status == 0, second.stderr
    assert "8 of 8 arrays loaded" in second.stderr
    assert "loaded      pi_encoder.0.weight [8, 4]" in second.stderr
    assert "8 of 8 arrays loaded" in (tmp_path / "second" / "rlrun.log").read_text()
    assert wider.status == 0, wider.stderr
    assert "2 of 8 arrays loaded" in wider.stderr
    assert missing.status == 2
    assert "nothing.pt: there is no such file" in missing.stderr
    assert not (tmp_path / "fourth").exists()


def test_a_resumed_run_does_not_load_again(tmp_path, other_weights):
    path = written(tmp_path, ".safetensors", other_weights)
    from rlrun.compose import compose, plain_config

    overrides = ["algo=ppo", *SMALL, f"init_from={path}", "logger=none", "seed=1"]
    once = plain_config(compose([*overrides, "stop.training_iteration=2"]))
    whole = Run(once, tmp_path / "whole").execute()
    part = plain_config(compose([*overrides, "stop.training_iteration=1"]))
    Run(part, tmp_path / "part").execute()
    path.unlink()
    resumed = Run.resume(tmp_path / "part", {"stop.training_iteration": 2}).execute()
    assert resumed["info"]["learner"] == whole["info"]["learner"]
    assert resumed["episode_reward_mean"] == whole["episode_reward_mean"]
