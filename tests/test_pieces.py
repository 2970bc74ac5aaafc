"""Fragments are sampled in pieces: slow envs keep neither Ctrl-C nor a checkpoint waiting, and what
a fragment has by then is neither lost nor changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_cli import config, lasting, results_of, tiny_ppo
from test_resume import CONFIGS, assert_same_checkpoints, execute, tiny
from toy_envs import CountingEnv

from rlrun.core.callbacks import Callbacks
from rlrun.core.checkpoint import checkpoint_name
from rlrun.core.errors import Interrupted
from rlrun.parts import read_config
from rlrun.run import make_trainer
from rlrun.trainer import Trainer


class InterruptAtStep(Callbacks):
    """Asks for the end in the `at`-th step of an env, and counts the episodes that it is shown."""

    def __init__(self, at: int) -> None:
        self.at, self.num_steps, self.trainer = at, 0, None
        self.shown: list[int] = []

    def on_trainer_init(self, *, trainer, **kwargs):
        self.trainer = trainer

    def on_episode_step(self, *, episode, **kwargs):
        self.num_steps += 1
        episode.user_data["steps"] = episode.user_data.get("steps", 0) + 1
        if self.num_steps == self.at and self.trainer is not None:
            self.trainer.interrupt()

    def on_episode_end(self, *, episode, **kwargs):
        episode.custom_metrics["steps"] = episode.user_data["steps"]

    def on_postprocess_trajectory(self, *, episode, original_batches, **kwargs):
        length = original_batches["agent0"][1].num_rows
        self.shown.append(-1 if episode is None else episode.custom_metrics.get("steps", length))

    def __reduce__(self):
        return InterruptAtStep, (self.at,)


def interrupting(plain: dict[str, Any], at: int) -> dict[str, Any]:
    return {**plain, "callbacks": {"x": {"_target_": f"{__name__}.InterruptAtStep", "at": at}}}


def train_thrice(trainer: Trainer) -> None:
    for _ in range(3):
        trainer.train()


MORE_CONFIGS: dict[str, Callable[[], dict[str, Any]]] = {
    "a2c with memory of what it did": lambda: tiny(
        "a2c",
        "model.use_lstm=true",
        "model.lstm_cell_size=8",
        "model.lstm_use_prev_action=true",
        "model.lstm_use_prev_reward=true",
        algo__rollout_fragment_length=20,
        algo__train_batch_size=40,
    ),
    "a2c with attention": lambda: tiny(
        "a2c",
        "model=gtrxl",
        model__attention_dim=8,
        model__attention_memory_inference=6,
        algo__rollout_fragment_length=20,
        algo__train_batch_size=40,
    ),
    "impala": lambda: tiny("impala", algo__rollout_fragment_length=20, algo__train_batch_size=40),
    "appo": lambda: tiny("appo", algo__rollout_fragment_length=20, algo__train_batch_size=40),
    "ddppo": lambda: tiny(
        "ddppo",
        algo__rollout_fragment_length=20,
        algo__train_batch_size=40,
        algo__minibatch_size=20,
    ),
    "ddppo of several fragments, the first of random actions": lambda: tiny(
        "ddppo",
        algo__rollout_fragment_length=20,
        algo__train_batch_size=160,
        algo__minibatch_size=40,
        exploration__random_timesteps=150,
    ),
    "pg of one env": lambda: tiny("pg", algo__num_envs_per_worker=1, algo__train_batch_size=64),
    "ddpg with noise that drifts": lambda: config(
        "algo=ddpg",
        "env=pendulum",
        "tuned=none",
        algo__learning_starts=20,
        algo__timesteps_per_iteration=60,
        algo__rollout_fragment_length=20,
        exploration__random_timesteps=10,
    ),
    "dqn with noise on its weights": lambda: config(
        "algo=dqn",
        "tuned=none",
        "exploration=parameter_noise",
        algo__learning_starts=20,
        algo__timesteps_per_iteration=60,
        algo__rollout_fragment_length=20,
        exploration__random_timesteps=10,
    ),
}

NAMES = (
    *("ppo of whole episodes", "ppo on filtered observations", "ppo with random first steps"),
    *("a3c of whole episodes", "es on filtered observations", "apex", "rainbow"),
    *("dqn on images", "r2d2", "ppo with envs in other processes"),
    *MORE_CONFIGS,
)


LONG = {
    *("ppo on filtered observations", "apex", "rainbow", "dqn on images", "appo", "pg of one env"),
    *("ppo with random first steps", "ppo with envs in other processes", "a3c of whole episodes"),
}
"""What is like others here, and stays out of CI, whose time is short."""


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in NAMES],
)
def test_a_run_that_is_interrupted_within_a_fragment_equals_an_uninterrupted_one(
    tmp_path, monkeypatch, name
):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log there.
    plain = {**CONFIGS, **MORE_CONFIGS}[name]()
    execute(tmp_path / "whole", interrupting(plain, 0), 3)
    with Trainer(read_config(interrupting(plain, 91)).trainer) as trainer:
        trainer.workers.piece_s = 0.0
        with pytest.raises(Interrupted):
            train_thrice(trainer)
        is_midway = trainer.workers.local_worker().input.is_midway
        assert is_midway != name.startswith("es")  # Which tries all directions again.
        folder = trainer.save(tmp_path / "middle")
        num_done = trainer.iteration
    with Trainer(read_config(interrupting(plain, 0)).trainer) as trainer:
        trainer.restore(folder)
        for expected in results_of(tmp_path / "whole")[num_done:]:
            result = trainer.train()
            del result["config"]  # which files do not repeat
            assert lasting(result, "done") == lasting(expected, "done")
        last = trainer.save(tmp_path / "parts")
    if not name.startswith("es"):  # Episodes that are tried again have numbers of their own.
        assert_same_checkpoints(last, tmp_path / "whole" / checkpoint_name(3))


# Remote workers


class TouchEnv(CountingEnv):
    """Counts the steps of an endless episode, and in its 300th tells of it."""

    def __init__(self, touched: str) -> None:
        super().__init__()
        self.touched = Path(touched)

    def step(self, action: Any) -> Any:
        found = super().step(action)
        if self.steps == 300:
            self.touched.touch()
        return found


ENDLESS = {
    "a2c": [],
    "a3c": [],
    "impala": ["algo.train_batch_size=3000000"],
    "ddppo": ["algo.train_batch_size=3000000", "algo.minibatch_size=3000000"],
    "apex": ["algo.num_replay_buffer_shards=1"],
    "es": ["algo.noise_size=100000"],
}
"""An algorithm of each loop, and what makes its fragments, or episodes, take for ever."""


@contextmanager
def interrupted_once_touched(trainer: Trainer, folder: Path) -> Iterator[None]:
    """Within, the trainer is interrupted when its envs have taken some hundred steps."""

    def interrupt() -> None:
        while not (folder / "touched").exists():
            time.sleep(0.01)
        trainer.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    yield
    thread.join()


@pytest.mark.parametrize(
    "algo",
    [algo if algo == "ddppo" else pytest.param(algo, marks=pytest.mark.slow) for algo in ENDLESS],
)
def test_an_interrupt_is_heard_in_the_middle_of_fragments_that_take_for_ever(
    tmp_path, ray_cluster, algo
):
    overrides = [
        f"env.env_config.touched={tmp_path / 'touched'}",
        *("tuned=none", "model.fcnet_hiddens=[8]"),
        *("resources.num_workers=2", "resources.num_cpus_per_worker=0.4"),
        *(["algo.rollout_fragment_length=3000000"] if algo != "es" else []),
    ]
    env = f"{__name__}.TouchEnv"
    with make_trainer(algo, env, [*ENDLESS[algo], *overrides], seed=1) as trainer:
        with interrupted_once_touched(trainer, tmp_path), pytest.raises(Interrupted):
            trainer.train()
        # Out of a state, which waits for nobody.
        remote = trainer.workers.state_dict()["remote"]
        fragments = [state["input"]["fragment"] for state in remote]
        assert trainer.workers.num_env_steps_sampled == 0
    if algo == "es":  # It tries all directions again.
        assert fragments == [None, None]
    else:
        assert max(len(fragment["columns"]["rewards"]) for fragment in fragments) >= 300


def test_a_round_that_some_workers_have_not_finished_is_gone_on_with(tmp_path, ray_cluster):
    plain = tiny_ppo(
        "resources.num_workers=2",
        resources__num_cpus_per_worker=0.5,
        algo__rollout_fragment_length=8,
    )
    with (
        Trainer(read_config(plain).trainer) as one,
        Trainer(read_config(plain).trainer) as other,
    ):
        results = [one.train() for _ in range(2)]
        weights = one.get_weights()["default_policy"]
        other.workers.piece_s = 0.0
        other.workers._pool.call(0, "go_on_sampling", 0.0)
        other.interrupt()
        with pytest.raises(Interrupted, match="0 of 2 workers"):
            other.train()
        one.restore(other.save(tmp_path / "middle"))
        for trainer in (one, other):
            assert trainer.workers.map(num_done_of_fragment) == [2, 1]
            for expected in results:
                assert lasting(trainer.train(), "done") == lasting(expected, "done")
            for name, array in trainer.get_weights()["default_policy"].items():
                np.testing.assert_array_equal(weights[name], array)


def num_done_of_fragment(worker: Any) -> int:
    return worker.input.fragment.num_done
