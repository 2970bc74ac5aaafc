"""Runs that write data and runs that learn from them, from the command line to the result."""

from __future__ import annotations

import json
import math
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers_cli import Child, Outcome, command_line
from offline_data import episodes_of

from rlrun.compose import compose, plain_config
from rlrun.config import conf_dir
from rlrun.core.callbacks import Callbacks
from rlrun.core.errors import ConfigError
from rlrun.parts import read_config
from rlrun.run import make_trainer

CARTPOLE, PENDULUM = "tuned_examples/data/cartpole", "tuned_examples/data/pendulum"
SMALL = ["tuned=none", "algo.timesteps_per_iteration=300"]
FEW_ROWS = ["algo.train_batch_size=50", "algo.buffer_size=1000"]

RUNS: dict[str, list[str]] = {
    "bc": ["algo=bc", f"input={CARTPOLE}", *FEW_ROWS],
    "bc without an env": ["algo=bc", "env=none", f"input={CARTPOLE}", *FEW_ROWS],
    "marwil": [
        "algo=marwil",
        f"input={CARTPOLE}",
        "env.observation_filter=MeanStdFilter",
        *FEW_ROWS,
    ],
    "marwil pendulum": ["algo=marwil", "env=pendulum", f"input={PENDULUM}", *FEW_ROWS],
    "cql": [
        *("algo=cql", "env=pendulum", f"input={PENDULUM}", "algo.num_actions=2", *FEW_ROWS),
        *("algo.actor_hiddens=[8]", "algo.critic_hiddens=[8]", "algo.bc_iters=8"),
        "algo.lagrangian=true",
    ],
    "cql discrete": [
        *("algo=cql", f"input={CARTPOLE}", "algo.actor_hiddens=[8]", "algo.critic_hiddens=[8]"),
        *FEW_ROWS,
    ],
    "dqn": [
        *("algo=dqn", f"input={CARTPOLE}", "algo.n_step=3", "algo.hiddens=[8]", *FEW_ROWS),
        *("algo.learning_starts=0", "algo.rollout_fragment_length=50"),
    ],
}

Rlrun = Callable[..., Outcome]


@pytest.fixture
def rlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rlrun]:
    with command_line(tmp_path, monkeypatch) as run:
        yield run


def trainer_of(*overrides: str, **settings: Any) -> Any:
    algo, *others = overrides
    return make_trainer(algo.removeprefix("algo="), overrides=[*SMALL, *others], seed=1, **settings)


# Learning from data


@pytest.mark.parametrize("name", RUNS)
def test_it_learns_from_data_and_goes_on_exactly_where_it_was(name, tmp_path):
    with trainer_of(*RUNS[name]) as trainer:
        before = trainer.get_weights()["default_policy"]
        trainer.train()
        folder = trainer.save(tmp_path)
        expected = [trainer.train() for _ in range(2)]
        after = trainer.get_weights()["default_policy"]
        assert all(np.isfinite(array).all() for array in after.values())
        assert any((after[key] != before[key]).any() for key in before)
    with trainer_of(*RUNS[name]) as resumed:
        resumed.restore(folder)
        found = [resumed.train() for _ in range(2)]
        weights = resumed.get_weights()["default_policy"]
    for one, other in zip(found, expected, strict=True):
        assert json.dumps(one["info"]) == json.dumps(other["info"])
        assert one["timesteps_total"] == other["timesteps_total"]
    assert all((weights[key] == after[key]).all() for key in after)


def test_steps_are_rows_read_and_the_datas_returns_are_not_the_policys():
    with trainer_of(*RUNS["bc"]) as trainer:
        result = trainer.train()
    assert result["timesteps_total"] == 300
    assert result["num_env_steps_trained"] == 300
    assert math.isnan(result["episode_reward_mean"])
    assert result["episodes_total"] == 0
    assert result["sampler_perf"]["mean_data_reading_ms"] > 0


@pytest.mark.parametrize(
    ("algo", "env", "num_iterations", "mark"),
    [
        # Returns of the data and of a random policy: 106 and 22.
        pytest.param("bc", "cartpole", 2, 200, id="bc"),
        pytest.param("marwil", "cartpole", 1, 200, id="marwil"),
        # -761 and -1,200.
        pytest.param("cql", "pendulum", 3, -650, id="cql"),
    ],
)
def test_it_gets_better_than_its_data(algo, env, num_iterations, mark):
    data = CARTPOLE if env == "cartpole" else PENDULUM
    overrides = [f"input={data}", "evaluation.interval=1"]
    with make_trainer(algo, env=env, overrides=overrides, seed=1) as trainer:
        results = [trainer.train() for _ in range(num_iterations)]
    assert max(result["evaluation"]["episode_reward_mean"] for result in results) > mark


def test_without_an_env_it_learns_and_is_evaluated_in_one_of_its_own(rlrun, tmp_path):
    outcome = rlrun(
        *RUNS["bc without an env"],
        *("evaluation.interval=1", "evaluation.duration=2", "seed=1", "logger=none"),
        *("evaluation.config.env.id=CartPole-v1", "stop.training_iteration=2", *SMALL),
        "hydra.run.dir=run",
    )
    assert outcome.status == 0, outcome.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text().splitlines()[-1])
    assert result["evaluation"]["episode_reward_mean"] > 5
    assert rlrun("rollout", "run", "episodes=1").status == 2
    outcome = rlrun("rollout", "run", "episodes=1", "env.id=CartPole-v1")
    assert "1 episodes: mean reward" in outcome.stdout


def test_evaluation_in_an_env_of_other_spaces_is_refused():
    with pytest.raises(ConfigError, match="Evaluation needs an env with the spaces"):
        trainer_of(
            *RUNS["bc without an env"],
            "evaluation.interval=1",
            "evaluation.config.env.id=Pendulum-v1",
        )


def test_a_mixture_is_read_from_the_command_line():
    mixture = f"input={{{CARTPOLE}: 0.7, {CARTPOLE}/*.jsonl: 0.3}}"
    plain = plain_config(compose(["algo=bc", mixture, "seed=1"]))
    sources = read_config(plain).trainer.worker.input.sources
    assert list(sources.values()) == [0.7, 0.3]
    assert all(Path(path).is_absolute() for path in sources)


def test_paths_are_stored_as_they_were_where_the_run_was_composed(tmp_path, monkeypatch):
    shutil.copytree(conf_dir() / CARTPOLE, tmp_path / "data")
    monkeypatch.chdir(tmp_path)

    def stored(*overrides, **keys):
        plain = plain_config(compose([*overrides, "seed=1"]))
        return read_config(plain | keys, trains=False).trainer.plain

    mixture = {"data": 0.5, "data/*.jsonl": 0.25, "minari:my/set-v0": 0.25}
    plain = stored("algo=bc", input=mixture)
    assert plain["input"] == {
        str(tmp_path / "data"): 0.5,
        str(tmp_path / "data" / "*.jsonl"): 0.25,
        "minari:my/set-v0": 0.25,
    }
    plain = stored("algo=bc", "input=data")
    assert plain["input"] == str(tmp_path / "data")
    assert stored("output=new")["output"] == str(tmp_path / "new")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert read_config(plain).trainer.worker.input.sources == {str(tmp_path / "data"): 1.0}


def test_a_key_that_callbacks_add_may_begin_like_those_of_episodes():
    overrides = [f"callbacks.mine._target_={__name__}.AddsScore", "stop.episode_score=1", "seed=1"]
    parts = read_config(plain_config(compose([*RUNS["bc"], *overrides])))
    assert parts.settings.stop == {"episode_score": 1}


class AddsScore(Callbacks):
    def on_train_result(self, *, result: dict[str, Any], **kwargs: Any) -> None:
        result["episode_score"] = 1.0


def test_remote_workers_read_parts_and_a_run_goes_on_exactly(ray_cluster, tmp_path):
    overrides = [*RUNS["bc"], "resources.num_workers=2", "algo.rollout_fragment_length=25"]

    def weights_after(trainer, num_iterations):
        for _ in range(num_iterations):
            trainer.train()
        return trainer.get_weights()["default_policy"]

    with trainer_of(*overrides) as trainer:
        trainer.train()
        folder = trainer.save(tmp_path)
        expected = weights_after(trainer, 2)
        seen: list[set[tuple[float, ...]]] = [set(), set()]
        for _ in range(40):
            for sample, rows in zip(trainer.workers.map("sample"), seen, strict=True):
                rows.update(map(tuple, sample.batches["default_policy"].get("obs", [])))
        assert all(seen)
        assert not seen[0] & seen[1]
    with trainer_of(*overrides) as resumed:
        resumed.restore(folder)
        found = weights_after(resumed, 2)
    assert all((found[name] == expected[name]).all() for name in expected)


# Writing data


def test_what_a_run_writes_another_learns_from(rlrun, tmp_path):
    common = ["seed=1", "logger=none", "tuned=none"]
    outcome = rlrun(
        *("algo=ppo", "algo.train_batch_size=200", "algo.num_envs_per_worker=2", "output=data"),
        *("evaluation.interval=1", "evaluation.duration=3", "stop.training_iteration=2"),
        *common,
    )
    assert outcome.status == 0, outcome.stderr
    episodes = episodes_of(tmp_path / "data")
    # No episode of the evaluation is among them.
    assert 250 < sum(len(episode["rewards"]) for episode in episodes) <= 400
    (file,) = (tmp_path / "data").iterdir()
    assert "worker0" in file.name
    outcome = rlrun(
        *("algo=bc", "env=none", "input=data", *FEW_ROWS, "stop.training_iteration=1", *common),
        "algo.timesteps_per_iteration=100",
    )
    assert outcome.status == 0, outcome.stderr


def test_a_resumed_run_writes_every_episode_once(rlrun, tmp_path):
    def run(folder, stop):
        return rlrun(
            *("algo=a2c", "algo.timesteps_per_iteration=200", f"output={folder}", "tuned=none"),
            *(f"stop.training_iteration={stop}", "seed=1", "logger=none"),
            f"hydra.run.dir=run_{folder}",
        )

    assert run("straight", 4).status == 0
    assert run("halved", 2).status == 0
    assert rlrun("resume", "run_halved", "stop.training_iteration=4").status == 0
    assert episodes_of(tmp_path / "halved") == episodes_of(tmp_path / "straight")


def test_what_a_killed_run_wrote_can_be_read_and_gone_on_with(rlrun, tmp_path):
    run = [
        *("algo=a2c", "output=data", "tuned=none", "algo.timesteps_per_iteration=100", "seed=1"),
        *("logger=none", "checkpoint_freq=2", "hydra.run.dir=run"),
    ]
    child = Child(tmp_path, *run)
    child.wait_for_result(tmp_path / "run", 5)
    child.signal(signal.SIGKILL)
    assert child.wait().status == -signal.SIGKILL
    (file,) = (tmp_path / "data").iterdir()
    with file.open("ab") as half:
        half.write(b'{"type":"episode","obs":[[')
    common = ("seed=1", "logger=none", "algo.timesteps_per_iteration=100", "tuned=none")
    outcome = rlrun("algo=bc", "input=data", *FEW_ROWS, "stop.training_iteration=9", *common)
    assert outcome.status == 0, outcome.stderr
    outcome = rlrun("resume", "run", "stop.training_iteration=8")
    assert outcome.status == 0, outcome.stderr
    found = episodes_of(tmp_path / "data")
    straight = rlrun(*run[:1], "output=straight", *run[2:-1], "stop.training_iteration=8")
    assert straight.status == 0, straight.stderr
    assert found == episodes_of(tmp_path / "straight")


def test_remote_workers_write_files_of_their_own(ray_cluster, tmp_path):
    with make_trainer(
        "a2c",
        overrides=[
            *(f"output={tmp_path}", "tuned=none", "resources.num_workers=2"),
            "algo.timesteps_per_iteration=300",
        ],
        seed=1,
    ) as trainer:
        trainer.train()
    names = sorted(path.name.split("_")[-2] for path in tmp_path.iterdir())
    assert names == ["worker1", "worker2"]


# What is refused, before there is a folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["algo=bc", "input=nowhere"], "nowhere: there is no such file or folder"),
        (["algo=ppo", f"input={CARTPOLE}"], "PPO learns from what its own policy samples"),
        (["algo=bc"], "(MARWIL) learns from data alone: input=PATH"),
        (["algo=cql", "env=pendulum"], "(CQL) learns from data alone: input=PATH"),
        (["env=none"], "env=none needs data in the place of an env"),
        (["env=none", "env.horizon=5"], "env.horizon=5 has no effect with env=none"),
        ([*RUNS["bc"], "output=x"], "with input nothing is sampled from envs"),
        ([*RUNS["bc"], "model.use_lstm=true"], "Data hold no states of a memory"),
        ([*RUNS["bc"], "algo.num_envs_per_worker=2"], "has no effect with input"),
        ([*RUNS["bc"], "stop.episode_reward_mean=9"], "use stop.evaluation/episode_reward_mean"),
        ([*RUNS["bc"], "resources.create_env_on_driver=true"], "workers read data"),
        ([*RUNS["bc"], "exploration=parameter_noise"], "exploration=ParameterNoise works on what"),
        ([*RUNS["dqn"], "exploration=rnd"], "exploration=RND works on what is sampled"),
        ([*RUNS["bc without an env"], "evaluation.interval=1"], "needs an env, and env=none has"),
        ([*RUNS["bc"], "env=pendulum"], "recorded in 'CartPole-v1'"),
        (["shuffle_buffer_size=5"], "shuffle_buffer_size=5 has no effect: input=null"),
        (["output_max_file_size=5"], "output_max_file_size=5 has no effect: output=null"),
        (["output=x", "output_compress_columns=[new_obs]"], "Did you mean obs"),
        (["output=/dev/null/x"], "must name a folder, and /dev/null is a file"),
        (["algo=bc", "input={a: 0.5, b: 0.6}"], "sum to 1.1, not 1"),
        (["algo=es", "output=x"], "x writes what workers sample for a learner, and ES"),
        (["algo=ars", "output=x"], "x writes what workers sample for a learner, and ARS"),
        (["output="], "output is empty. Name a folder: output=DIR"),
        (["algo=bc", "input="], "input is empty. Name data: input=PATH"),
    ],
)
def test_what_does_not_go_together_is_one_line(rlrun, tmp_path, arguments, message):
    outcome = rlrun(*arguments, "tuned=none", "seed=1", "logger=none")
    assert outcome.status == 2
    assert outcome.stderr.startswith("rlrun: ")
    assert len(outcome.stderr.strip().splitlines()) == 1
    assert message in outcome.stderr
    assert [path.name for path in tmp_path.iterdir() if path.name != "results"] == []


def test_a_rollout_needs_no_data(rlrun, tmp_path):
    shutil.copytree(conf_dir() / CARTPOLE, tmp_path / "data")
    outcome = rlrun(
        *("algo=bc", "input=data", *FEW_ROWS, "stop.training_iteration=1", *SMALL, "seed=1"),
        *("logger=none", "hydra.run.dir=run"),
    )
    assert outcome.status == 0, outcome.stderr
    shutil.rmtree(tmp_path / "data")
    assert rlrun("rollout", "run", "episodes=1").status == 0
    outcome = rlrun("resume", "run", "stop.training_iteration=2")
    assert (outcome.status, "there is no such file" in outcome.stderr) == (2, True)
