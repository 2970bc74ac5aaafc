"""Sweeps on a Ray that somebody else has started: a small one of this machine."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from ray.cluster_utils import Cluster

from tests.helpers_cli import Child, results_of

SMALL = (
    *("algo.num_envs_per_worker=2", "algo.train_batch_size=64", "algo.minibatch_size=32"),
    *("algo.num_epochs=2", "algo.timesteps_per_iteration=0", "logger=none"),
)

HOLDER = """
import ray

@ray.remote(num_cpus=2)
class Holder:
    def hold(self):
        pass

ray.init({address!r}, log_to_driver=False)
holder = Holder.remote()
ray.get(holder.hold.remote())
print("held", flush=True)
input()
"""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        # It would be the Ray of all other tests, which want one of their own.
        patch.setattr("ray._private.utils.write_ray_address", lambda address: None)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2})
    yield cluster.address
    cluster.shutdown()


def test_trials_wait_until_others_let_go_of_a_cluster(address, tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER.format(address=address)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    sweep = Child(
        *(tmp_path, "-m", "hydra.sweep.dir=sweep", *SMALL, "seed=1,2", "resources.num_workers=1"),
        *(f"resources.ray_address='{address}'", "stop.training_iteration=2"),
    )
    journal = tmp_path / "sweep" / "journal.jsonl"
    sweep.wait_until(lambda: journal.exists() and '"start"' in journal.read_text())
    assert not list((tmp_path / "sweep").glob("*/result.json"))
    holder.communicate("\n")
    assert sweep.wait().status == 0
    for number in ("0", "1"):
        iterations = [r["training_iteration"] for r in results_of(tmp_path / "sweep" / number)]
        assert iterations == [1, 2]
