"""What is shared by name: the same number for driver, callbacks and envs, wherever they run."""

from __future__ import annotations

import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

import rlrun
from rlrun.core.callbacks import Callbacks
from rlrun.run import make_trainer
from rlrun.trainer import Trainer

TWO_WORKERS = ["resources.num_workers=2", "resources.num_cpus_per_worker=0.5"]
PLACES = {
    "sync": [],
    "async": ["env.vectorization=async"],
    "remote": TWO_WORKERS,
    "remote and async": [*TWO_WORKERS, "env.vectorization=async"],
}


class CountsEpisodes(Callbacks):
    def on_episode_end(self, **kwargs: Any) -> None:
        rlrun.shared_counter("episodes").inc()


def make(*overrides: str) -> Trainer:
    """24 env steps an iteration, of two or four envs, whose episodes have three."""
    return make_trainer(
        "ppo",
        env="toy_envs.SharingEnv",
        overrides=[
            *("algo.train_batch_size=24", "algo.minibatch_size=12", "algo.num_epochs=1"),
            *("algo.num_envs_per_worker=2", "algo.timesteps_per_iteration=0"),
            "env.env_config.terminates_at=3",
            f"callbacks.count._target_={__name__}.CountsEpisodes",
            *overrides,
        ],
        seed=5,
    )


def growth(name: str, before: float) -> float:
    return rlrun.shared_counter(name).get() - before


@pytest.fixture(
    params=[
        pytest.param(name, marks=pytest.mark.slow if name == "remote" else ()) for name in PLACES
    ]
)
def place(request: pytest.FixtureRequest) -> list[str]:
    if "remote" in request.param:
        request.getfixturevalue("ray_cluster")
    return PLACES[request.param]


def test_envs_callbacks_and_driver_share_a_counter_and_a_store(place, tmp_path):
    steps, episodes = (rlrun.shared_counter(name).get() for name in ("env steps", "episodes"))
    rlrun.shared_store("settings").set("pay", 5.0)
    with make(*place) as trainer:
        first = trainer.train()
        assert first["episode_reward_mean"] == 15.0, "envs read what the driver has set"
        assert (growth("env steps", steps), growth("episodes", episodes)) == (24, 8)
        rlrun.shared_store("settings").set("pay", np.float64(7.0))
        assert trainer.train()["episode_reward_max"] == 21.0
        folder = trainer.save(tmp_path)
        rlrun.shared_counter("env steps").inc(1000)
        trainer.restore(folder)
        assert (growth("env steps", steps), growth("episodes", episodes)) == (48, 16)
    assert growth("env steps", steps) == 48, "it outlives the workers"
    assert rlrun.shared_store("settings").get("pay") == 7.0


def test_a_resumed_process_counts_on(tmp_path):
    with make() as trainer:
        trainer.train()
        folder = trainer.save(tmp_path)
        count = rlrun.shared_counter("env steps").get()
    code = (
        f"import sys; sys.path[:0] = {sys.path!r}\n"
        f"import rlrun; from test_shared import make\n"
        f"with make() as trainer:\n"
        f"    trainer.restore({str(folder)!r})\n"
        f"    print(rlrun.shared_counter('env steps').get())\n"
    )
    path = f"import sys; sys.path.insert(0, {__file__.rpartition('/')[0]!r})\n"
    found = subprocess.run([sys.executable, "-c", path + code], capture_output=True, text=True)
    assert found.stdout.strip() == str(count), found.stderr


def test_nothing_starts_ray():
    code = (
        "import sys, rlrun; rlrun.shared_counter('a').inc(); print(rlrun.shared_counter('a').get())"
        "; assert 'ray' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout == "1\n", found.stderr


def test_names_stand_for_things_of_their_own():
    rlrun.shared_counter("own a").inc(2)
    rlrun.shared_counter("own b").inc(0.5)
    assert [rlrun.shared_counter(f"own {name}").get() for name in "abc"] == [2, 0.5, 0]
    rlrun.shared_store("own a").set("x", 1)
    assert rlrun.shared_store("own b").get("x", "none") == "none"


def test_what_a_store_gives_is_a_copy():
    store, weights = rlrun.shared_store("weights"), {"layer": (np.arange(3.0), "relu")}
    store.set("policy", weights)
    weights["layer"][0][:] = 9.0
    store.get("policy")["layer"][0][:] = 8.0
    found, name = store.get("policy")["layer"]
    assert (found.tolist(), name) == ([0.0, 1.0, 2.0], "relu")


def test_what_no_checkpoint_can_hold_is_refused():
    with pytest.raises(TypeError, match=r"the value <object.*A value must be made of numbers"):
        rlrun.shared_store("odd").set("x", object())


def test_threads_lose_no_count():
    counter = rlrun.shared_counter("threads")

    def count() -> None:
        for _ in range(2000):
            counter.inc()

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.get() == 8000
