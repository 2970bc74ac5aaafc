"""Runs where there is a CUDA GPU: pytest -m gpu."""

import json

import numpy as np
import pytest
import torch

from rlrun.compose import compose
from rlrun.core.errors import ResourceError
from rlrun.run import Run, make_trainer

SMALL = {
    "ppo": ["algo.train_batch_size=128", "algo.minibatch_size=64", "algo.num_epochs=2"],
    "dqn": ["algo.learning_starts=100", "algo.timesteps_per_iteration=200"],
    "rainbow": ["algo.learning_starts=100", "algo.timesteps_per_iteration=200"],
    "sac": ["algo.learning_starts=100", "algo.timesteps_per_iteration=200"],
}


@pytest.mark.gpu
@pytest.mark.parametrize("algo", SMALL)
def test_learner_and_batches_are_on_the_gpu_that_was_asked_for(algo):
    overrides = ["resources.num_gpus=0.5", *SMALL[algo]]
    with make_trainer(algo, env="cartpole", overrides=overrides, seed=1) as trainer:
        result = trainer.train()
        assert all(p.device.type == "cuda" for p in trainer.get_policy().parameters())
        assert trainer.algorithms["default_policy"].optimizer.exp_avg.device.type == "cuda"
        stats = result["info"]["learner"]["default_policy"]["learner_stats"]
        assert np.isfinite(stats["total_loss"])
        assert trainer.compute_action(np.zeros(4, np.float32)) in (0, 1)


@pytest.mark.gpu
def test_a_checkpoint_from_the_gpu_goes_on_there(tmp_path):
    overrides = ["algo=dqn", "env=cartpole", "resources.num_gpus=1", "logger=none", *SMALL["dqn"]]
    first = Run(compose([*overrides, "stop.training_iteration=2", "seed=1"]), tmp_path / "run")
    first.execute()
    resumed = Run.resume(tmp_path / "run", {"stop.training_iteration": 4})
    resumed.execute()
    lines = (tmp_path / "run" / "result.json").read_text().splitlines()
    assert [json.loads(line)["training_iteration"] for line in lines] == [1, 2, 3, 4]


@pytest.mark.gpu
@pytest.mark.parametrize(("backend", "num_workers"), [("gloo", 2), ("nccl", 1)])
def test_workers_that_learn_have_the_gpu_that_was_asked_for(backend, num_workers, ray_cluster):
    """With gloo two share one; nccl wants one for each."""
    overrides = [
        f"algo.torch_distributed_backend={backend}",
        f"resources.num_workers={num_workers}",
        f"resources.num_gpus_per_worker={1 / num_workers}",
    ]
    with make_trainer("ddppo", env="cartpole", overrides=overrides, seed=1) as trainer:
        trainer.train()
        found = trainer.workers.map(lambda worker: worker.learners["default_policy"].device.type)
        assert found == ["cuda"] * num_workers


@pytest.mark.gpu
def test_without_num_gpus_everything_stays_on_the_cpu_of_a_gpu_machine():
    with make_trainer("ppo", env="cartpole", overrides=SMALL["ppo"], seed=1) as trainer:
        trainer.train()
        assert all(p.device.type == "cpu" for p in trainer.get_policy().parameters())
    assert torch.cuda.is_available()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_named_with_what_was_asked():
    with pytest.raises(ResourceError, match=r"num_gpus=0\.2 was asked for.*finds 0 GPUs"):
        make_trainer("ppo", overrides=["resources.num_gpus=0.2"])
