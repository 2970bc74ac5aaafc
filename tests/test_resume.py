"""A resumed run goes on as if it had never been stopped, whatever stopped it."""

from __future__ import annotations

import csv
import json
import os
import shlex
import signal
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers_cli import (
    Child,
    Outcome,
    command_line,
    config,
    lasting,
    num_lines,
    results_of,
    tiny_dqn,
    tiny_ppo,
)

from rlrun import run_folder
from rlrun.core.callbacks import Callbacks
from rlrun.core.checkpoint import checkpoint_name, list_checkpoints, load_checkpoint
from rlrun.core.errors import CheckpointError, ConfigError, Interrupted
from rlrun.parts import read_config
from rlrun.run import Run
from rlrun.trainer import Trainer

NUM_ITERATIONS = 6

NOT_THE_SAME = ("time_total_s", "experiment_id")
"""What two runs of a checkpoint do not have in common."""


def execute(folder: Path, plain: dict[str, Any], num_iterations: int) -> None:
    Run({**plain, "stop": {"training_iteration": num_iterations}}, folder).execute()


def resume(path: Path, num_iterations: int, **overrides: Any) -> dict[str, Any]:
    values = {key.replace("__", "."): value for key, value in overrides.items()}
    return Run.resume(path, {"stop.training_iteration": num_iterations, **values}).execute()


def leaves(tree: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping | list):
        children = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
        for name, child in children:
            yield from leaves(child, f"{key}/{name}")
    elif not key.endswith(NOT_THE_SAME):
        yield key, tree


def assert_same_results(one: Path, other: Path) -> None:
    """Every number of every result, less times and `done`, which is true at the seam."""
    first, second = results_of(one), results_of(other)
    assert len(first) == len(second)
    for result, expected in zip(first, second, strict=True):
        assert lasting(result, "done") == lasting(expected, "done")


def assert_same_checkpoints(one: Path, other: Path) -> None:
    """Bit for bit: weights, optimiser, replay, filters, generators and running episodes."""
    first, second = dict(leaves(load_checkpoint(one))), dict(leaves(load_checkpoint(other)))
    assert first.keys() == second.keys()
    assert any("weights" in key for key in first)
    for key, value in first.items():
        expected = second[key]
        if isinstance(value, np.ndarray):
            assert value.dtype == expected.dtype, key
            assert value.tobytes() == expected.tobytes(), key
        else:
            assert value == expected or value != value != expected, key


def assert_resumed_equals_uninterrupted(folder: Path, plain: dict[str, Any]) -> None:
    """train(6) == train(3) + resume(3), in all results and in the last checkpoint."""
    execute(folder / "whole", plain, NUM_ITERATIONS)
    execute(folder / "parts", plain, NUM_ITERATIONS // 2)
    resume(folder / "parts", NUM_ITERATIONS)
    assert_same_results(folder / "parts", folder / "whole")
    last = checkpoint_name(NUM_ITERATIONS)
    assert_same_checkpoints(folder / "parts" / last, folder / "whole" / last)


# Bit for bit


@pytest.fixture(autouse=True)
def own_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log there.


EVALUATION = {"evaluation__interval": 2, "evaluation__duration": 2}

RAINBOW_PARTS = {
    "algo__n_step": 3,
    "algo__prioritized_replay": True,
    "algo__double_q": True,
    "algo__dueling": True,
    "algo__buffer_size": 150,
}

SMALL_R2D2 = {
    "algo__burn_in": 3,
    "algo__sequence_overlap": 2,
    "algo__buffer_size": 60,
    "model__lstm_cell_size": 16,
    "model__max_seq_len": 8,
}

SCHEDULES = {
    "algo__lr": [[0, 1e-3], [300, 0.0]],
    "algo__clip_range": [[0, 0.3], [300, 0.1]],
    "algo__entropy_coeff": [[0, 0.1], [300, 0.0]],
    "algo__use_kl_loss": True,
}

A2C_SCHEDULES = {
    "algo__lr": [[0, 1e-2], [300, 0.0]],
    "algo__entropy_coeff": [[0, 0.1], [300, 0.0]],
    "algo__normalize_advantages": True,
}

FILTERED = {
    "env__observation_filter": "MeanStdFilter",
    "env__horizon": 50,
    "evaluation__interval": 2,
    "evaluation__duration": 1,
}


def tiny(algo: str, *choices: str, **values: Any) -> dict[str, Any]:
    """A config of two envs whose iterations take 60 steps or a little more."""
    sizes = {"algo__num_envs_per_worker": 2, "algo__timesteps_per_iteration": 60}
    return config(f"algo={algo}", "tuned=none", *choices, **{**sizes, **values})


def tiny_apex(*choices: str, **values: Any) -> dict[str, Any]:
    """A config whose workers act for a while with weights that are older than the learner's."""
    sizes = {
        "algo__num_replay_buffer_shards": 3,
        "algo__rollout_fragment_length": 10,
        "algo__buffer_size": 150,
    }
    return tiny_dqn(*(choices or ("algo=apex",)), "tuned=none", **{**sizes, **values})


CONFIGS: dict[str, Callable[[], dict[str, Any]]] = {
    "ppo": tiny_ppo,
    "ppo with evaluation that explores": lambda: tiny_ppo(
        **EVALUATION, evaluation__config={"explore": True}
    ),
    "ppo with evaluation attached to every result": lambda: tiny_ppo(
        **EVALUATION, evaluation__always_attach_results=True
    ),
    "ppo with schedules": lambda: tiny_ppo(**SCHEDULES),
    "ppo of whole episodes": lambda: tiny_ppo(algo__batch_mode="complete_episodes"),
    "ppo on filtered observations": lambda: tiny_ppo("env=halfcheetah", **FILTERED),
    "ppo on discrete observations": lambda: tiny_ppo("env=frozenlake"),
    "ppo with random first steps": lambda: tiny_ppo(exploration__random_timesteps=100),
    "ppo with envs in other processes": lambda: tiny_ppo(env__vectorization="async"),
    "pg": lambda: tiny("pg", algo__train_batch_size=64),
    "pg with a baseline of cut episodes": lambda: tiny(
        "pg",
        algo__train_batch_size=64,
        algo__use_baseline=True,
        algo__batch_mode="truncate_episodes",
    ),
    "a2c with schedules": lambda: tiny("a2c", algo__microbatch_size=16, **A2C_SCHEDULES),
    "a2c on filtered observations": lambda: tiny("a2c", "env=pendulum", **FILTERED),
    "a3c with schedules": lambda: tiny("a3c", **A2C_SCHEDULES),
    "a3c of whole episodes": lambda: tiny("a3c", algo__batch_mode="complete_episodes"),
    "a3c on filtered observations": lambda: tiny("a3c", "env=pendulum", **FILTERED),
    "es on filtered observations": lambda: config(
        "algo=es",
        "tuned=none",
        "env=pendulum",
        algo__episodes_per_batch=6,
        algo__train_batch_size=1,
        algo__noise_size=100_000,
        **FILTERED,
    ),
    "dqn with parts of rainbow": lambda: tiny_dqn(**RAINBOW_PARTS, **EVALUATION),
    "dqn of whole episodes": lambda: tiny_dqn(
        **RAINBOW_PARTS, algo__batch_mode="complete_episodes"
    ),
    "dqn with training intensity": lambda: tiny_dqn(
        algo__training_intensity=3.3, algo__tau=0.1, algo__target_network_update_freq=1
    ),
    "dqn on images": lambda: tiny_dqn(
        "algo=dqn",
        "env=gym",
        "env.id=toy_envs.ImageEnv",
        "model=cnn",
        **RAINBOW_PARTS,
        model__post_fcnet_hiddens=[8],
        env__env_config={"length_range": [3, 20]},
        env__wrappers=[
            {"_target_": "gymnasium.wrappers.FrameStackObservation", "stack_size": 3},
        ],
    ),
    "dqn with replay on disk": lambda: tiny_dqn(**RAINBOW_PARTS, algo__replay_storage="memmap"),
    "qr_dqn": lambda: tiny_dqn("algo=qr_dqn", algo__num_quantiles=5, algo__dueling=True),
    "r2d2": lambda: tiny_dqn("algo=r2d2", **SMALL_R2D2, **EVALUATION),
    "r2d2 of fragments, from states of zeros": lambda: tiny_dqn(
        "algo=r2d2",
        "algo.batch_mode=truncate_episodes",
        "algo.zero_init_states=true",
        "algo.rollout_fragment_length=20",
        **SMALL_R2D2,
    ),
    "apex": lambda: tiny_apex(algo__max_weight_sync_delay=70, **EVALUATION),
    "apex with training intensity on filtered observations": lambda: tiny_apex(
        algo__max_weight_sync_delay=1, algo__training_intensity=3.3, **FILTERED
    ),
    "apex with noisy layers of whole episodes": lambda: tiny_apex(
        algo__noisy=True, algo__batch_mode="complete_episodes"
    ),
    "apex_ddpg with the parts of TD3": lambda: tiny_apex(
        *("algo=apex_ddpg", "env=pendulum"),
        algo__max_weight_sync_delay=30,
        algo__twin_q=True,
        algo__smooth_target_policy=True,
        algo__target_network_update_freq=1,
    ),
    "rainbow": lambda: tiny_dqn("algo=rainbow", **EVALUATION),
    "rainbow with evaluation that explores": lambda: tiny_dqn(
        "algo=rainbow",
        "exploration=epsilon_greedy",
        **EVALUATION,
        evaluation__config={"explore": True},
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path, name):
    assert_resumed_equals_uninterrupted(tmp_path, CONFIGS[name]())


def test_a_run_that_is_resumed_after_every_iteration_equals_an_uninterrupted_one(tmp_path):
    plain = tiny_dqn(**RAINBOW_PARTS, **EVALUATION)
    execute(tmp_path / "whole", plain, 4)
    execute(tmp_path / "parts", plain, 1)
    for iteration in (2, 3, 4):
        resume(tmp_path / "parts", iteration)
    assert_same_results(tmp_path / "parts", tmp_path / "whole")
    last = checkpoint_name(4)
    assert_same_checkpoints(tmp_path / "parts" / last, tmp_path / "whole" / last)


def test_checkpoints_on_the_way_change_nothing(tmp_path):
    plain = tiny_dqn(**RAINBOW_PARTS)
    execute(tmp_path / "without", plain, 4)
    execute(tmp_path / "with", {**plain, "checkpoint_freq": 1}, 4)
    assert_same_results(tmp_path / "with", tmp_path / "without")


def test_an_episode_whose_rewards_are_not_reproduced_is_not_passed_off_as_the_same(tmp_path):
    wrapper = {"_target_": "toy_envs.DriftingReward"}
    execute(tmp_path / "run", tiny_ppo(env__wrappers=[wrapper]), 3)
    resume(tmp_path / "run", 4)
    log = (tmp_path / "run" / "rlrun.log").read_text()
    assert "did not reproduce its running episode" in log


def test_a_run_moved_to_another_folder_is_resumed_there(tmp_path):
    execute(tmp_path / "old", tiny_ppo(), 1)
    (tmp_path / "old").rename(tmp_path / "new")
    assert resume(tmp_path / "new", 2)["training_iteration"] == 2
    assert not (tmp_path / "old").exists()


# The folder of a resumed run


def iterations_in(folder: Path) -> list[int]:
    """Those of result.json, which are also those of progress.csv."""
    rows = list(csv.DictReader((folder / "progress.csv").open()))
    iterations = [result["training_iteration"] for result in results_of(folder)]
    assert [int(row["training_iteration"]) for row in rows] == iterations
    return iterations


def test_each_iteration_is_recorded_once_after_a_resume_from_an_older_checkpoint(tmp_path):
    plain = {**tiny_ppo(), "checkpoint_freq": 2}
    execute(tmp_path / "whole", plain, 7)
    execute(tmp_path / "run", plain, 5)
    result = resume(tmp_path / "run" / checkpoint_name(2), 7)
    assert result["training_iteration"] == 7
    assert result["iterations_since_restore"] == 5
    assert iterations_in(tmp_path / "run") == [1, 2, 3, 4, 5, 6, 7]
    assert_same_results(tmp_path / "run", tmp_path / "whole")
    found = [path.name for path in list_checkpoints(tmp_path / "run")]
    assert found == [checkpoint_name(iteration) for iteration in (2, 4, 6, 7)]


def test_checkpoints_of_a_future_that_is_lived_again_are_kept_under_another_name(tmp_path):
    execute(tmp_path / "run", {**tiny_ppo(), "checkpoint_freq": 1}, 3)
    resume(tmp_path / "run" / checkpoint_name(1), 2)
    superseded = sorted(tmp_path.glob("run/superseded_*_checkpoint_*"))
    assert [path.name[-6:] for path in superseded] == ["000002", "000003"]
    for path in superseded:
        load_checkpoint(path)


def test_a_line_that_a_kill_has_cut_is_dropped(tmp_path):
    execute(tmp_path / "run", tiny_ppo(), 2)
    for name in ("result.json", "progress.csv"):
        with (tmp_path / "run" / name).open("a") as file:
            file.write('{"training_it')
    resume(tmp_path / "run", 3)
    assert iterations_in(tmp_path / "run") == [1, 2, 3]


@pytest.mark.parametrize("line", ['{"x": 1}', "5", '"text"'])
def test_a_line_that_is_no_result_is_named(tmp_path, line):
    execute(tmp_path / "run", tiny_ppo(), 2)
    results = tmp_path / "run" / "result.json"
    results.write_text(f"{line}\n{results.read_text()}")
    with pytest.raises(CheckpointError, match=r"result\.json has a line that is no result"):
        resume(tmp_path / "run", 3)


def test_counters_and_times_go_on_where_they_were(tmp_path):
    execute(tmp_path / "run", tiny_ppo(), 2)
    before = results_of(tmp_path / "run")[-1]
    result = resume(tmp_path / "run", 3)
    assert result["time_total_s"] > before["time_total_s"]
    assert result["timesteps_total"] == 192
    assert result["iterations_since_restore"] == 1
    assert result["timesteps_since_restore"] == 64
    assert result["experiment_id"] == before["experiment_id"]


def test_a_finished_run_whose_stop_rule_is_met_stays_as_it_is(tmp_path):
    execute(tmp_path / "run", tiny_ppo(), 2)
    (tmp_path / "run" / "versions.json").write_text('{"python": "of long ago"}')
    before = contents(tmp_path / "run")
    run = Run.resume(tmp_path / "run")
    result = run.execute()
    assert run.status == "finished"
    assert result["training_iteration"] == 2
    assert contents(tmp_path / "run") == before


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file with what is in it, less the log."""
    return {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "rlrun.log"
    }


def test_a_run_that_has_passed_has_still_passed_when_it_is_resumed(tmp_path):
    plain = {**tiny_ppo(), "pass_mark": {"episodes_total": 1}}
    execute(tmp_path / "run", plain, 2)
    run = Run.resume(tmp_path / "run")
    run.execute()
    assert run.exit_status == 0


# Overrides


def test_values_may_be_changed_and_are_recorded(tmp_path):
    execute(tmp_path / "run", tiny_ppo(), 1)
    result = resume(tmp_path / "run", 2, algo__lr=0.5, stop__episodes_total=1000)
    assert result["info"]["learner"]["default_policy"]["learner_stats"]["cur_lr"] == 0.5
    params = json.loads((tmp_path / "run" / "params.json").read_text())
    assert params["algo"]["lr"] == 0.5
    assert params["stop"] == {"training_iteration": 2, "episodes_total": 1000}


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("algo.learning_rate", 1, "Did you mean algo.lr?"),
        ("algo.gamma", 2, r"algo\.gamma=2.* must be between 0 and 1"),
        ("algo", "dqn", "algo=dqn: algo is a mapping here"),
        ("seed", 2, r"seed=2: a resumed run goes on with .* \(seed=1\)"),
    ],
)
def test_a_bad_override_is_refused_and_changes_nothing(tmp_path, key, value, words):
    execute(tmp_path / "run", tiny_ppo(), 1)
    before = contents(tmp_path / "run")
    with pytest.raises(ConfigError, match=words):
        Run.resume(tmp_path / "run", {key: value})
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize(
    ("make", "key", "value"),
    [(tiny_ppo, "model.fcnet_hiddens", [8]), (tiny_dqn, "algo.buffer_size", 64)],
    ids=["weights", "replay buffer"],
)
def test_an_override_that_does_not_fit_the_checkpoint_leaves_the_run_resumable(
    tmp_path, make, key, value
):
    execute(tmp_path / "run", make(), 1)
    with pytest.raises(CheckpointError, match="does not fit this configuration"):
        Run.resume(tmp_path / "run", {key: value, "stop.training_iteration": 2}).execute()
    assert resume(tmp_path / "run", 2)["training_iteration"] == 2
    assert iterations_in(tmp_path / "run") == [1, 2]


# What cannot be resumed


def test_a_folder_without_a_run_is_named(tmp_path):
    for path in (tmp_path, tmp_path / "nothing", tmp_path / checkpoint_name(3)):
        with pytest.raises(ConfigError, match=r"is not the folder of a run.* no params\.json"):
            Run.resume(path)


def test_the_newest_run_below_a_folder_is_named(tmp_path):
    for age, name in enumerate(["ppo/first", "ppo/second", "third"]):
        params = tmp_path / name / "params.json"
        params.parent.mkdir(parents=True)
        params.write_text("{}")
        os.utime(params, (age % 2, age % 2))
    with pytest.raises(ConfigError, match=rf"The newest one below it: {tmp_path}/ppo/second\."):
        Run.resume(tmp_path)


def test_a_run_without_a_checkpoint_is_named(tmp_path):
    execute(tmp_path / "run", {**tiny_ppo(), "checkpoint_at_end": False}, 1)
    with pytest.raises(CheckpointError, match=r"no complete checkpoint .*checkpoint_freq=N"):
        Run.resume(tmp_path / "run")


def test_a_checkpoint_of_another_algorithm_is_refused(tmp_path):
    execute(tmp_path / "run", tiny_ppo(), 1)
    with pytest.raises(CheckpointError, match="does not fit this configuration"):
        resume(tmp_path / "run", 2, algo=tiny_dqn()["algo"], exploration=tiny_dqn()["exploration"])


@pytest.mark.parametrize("text", ["", "{", "[1]"])
def test_damaged_params_are_named(tmp_path, text):
    execute(tmp_path / "run", tiny_ppo(), 1)
    (tmp_path / "run" / "params.json").write_text(text)
    with pytest.raises((ConfigError, CheckpointError), match=r"params\.json"):
        Run.resume(tmp_path / "run")


# The command, and signals


@pytest.fixture
def rlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Outcome]]:
    with command_line(tmp_path, monkeypatch) as run:
        yield run


def test_the_command_resumes_and_says_where_the_stop_rule_is_met_already(rlrun, tmp_path):
    execute(tmp_path / "run", tiny_ppo(), 1)
    outcome = rlrun("resume", "run", "stop.training_iteration=2")
    assert (outcome.status, outcome.stdout, outcome.stderr) == (0, "", "")
    assert iterations_in(tmp_path / "run") == [1, 2]
    outcome = rlrun("resume", "run")
    assert outcome.status == 0
    assert "stop.training_iteration=2" in outcome.stderr
    assert "is met already" in outcome.stderr
    outcome = rlrun("resume", "run", "stop.training_iteratoin=3")
    assert outcome.status == 2
    assert "Did you mean training_iteration" in outcome.stderr


ENDLESS = (
    "algo.timesteps_per_iteration=0",
    "algo.num_envs_per_worker=2",
    "algo.train_batch_size=64",
    "algo.minibatch_size=32",
    "algo.num_epochs=2",
    "logger=none",
    "seed=1",
    "stop.training_iteration=1000000",
    "hydra.run.dir=run",
)
"""The overrides of `tiny_ppo` that the command line needs, without an end."""


def test_ctrl_c_ends_a_run_with_a_checkpoint_from_which_it_goes_on_as_if_nothing_was(tmp_path):
    child = Child(tmp_path, *ENDLESS)
    child.wait_for_result(tmp_path / "run", 1)
    child.signal(signal.SIGINT)
    outcome = child.wait()
    assert outcome.status == 130
    assert outcome.stdout.endswith("Interrupted. Go on with: rlrun resume run\n")
    assert "ends as soon as it can, with a checkpoint" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    last = iterations_in(tmp_path / "run")[-1]
    assert [path.name for path in list_checkpoints(tmp_path / "run")] == [checkpoint_name(last)]
    resume(tmp_path / "run", last + 2)
    execute(tmp_path / "whole", tiny_ppo(), last + 2)
    assert_same_results(tmp_path / "run", tmp_path / "whole")
    last_checkpoint = checkpoint_name(last + 2)
    assert_same_checkpoints(
        tmp_path / "run" / last_checkpoint, tmp_path / "whole" / last_checkpoint
    )


def test_an_interrupted_iteration_is_finished_by_the_run_that_goes_on(tmp_path):
    small_rounds = tiny_dqn(algo__timesteps_per_iteration=200, **EVALUATION)
    execute(tmp_path / "whole", small_rounds, 2)
    run = Run({**small_rounds, "stop": {"training_iteration": 2}}, tmp_path / "run")
    with Trainer(run.parts.trainer) as trainer:
        trainer.train()
        trainer.interrupt()
        with pytest.raises(Interrupted):
            trainer.train()
        middle = trainer.workers.num_env_steps_sampled
        assert 200 < middle < 400
        folder = trainer.save(tmp_path / "middle")
    with Trainer(run.parts.trainer) as trainer:
        trainer.restore(folder)
        assert (trainer.iteration, trainer.workers.num_env_steps_sampled) == (1, middle)
        result = trainer.train()
    (_, expected) = results_of(tmp_path / "whole")
    del result["config"]  # which files do not repeat
    assert lasting(result, "done") == lasting(expected, "done")


class InterruptAtSampling(Callbacks):
    """Asks for the end after the `at`-th fragment."""

    def __init__(self, at: int) -> None:
        self.at, self.trainer, self.num_fragments = at, None, 0

    def on_trainer_init(self, *, trainer, **kwargs):
        self.trainer = trainer

    def on_sample_end(self, **kwargs):
        self.num_fragments += 1
        if self.num_fragments == self.at:
            self.trainer.interrupt()


@pytest.mark.parametrize("batch_mode", ["truncate_episodes", "complete_episodes"])
def test_a_batch_of_which_only_some_fragments_were_gathered_is_completed(tmp_path, batch_mode):
    plain = tiny_ppo(algo__rollout_fragment_length=4, algo__batch_mode=batch_mode)
    plain["callbacks"] = {"x": {"_target_": f"{__name__}.InterruptAtSampling", "at": 0}}
    execute(tmp_path / "whole", plain, 3)
    interrupted = {**plain, "callbacks": {"x": {**plain["callbacks"]["x"], "at": 3}}}
    with Trainer(read_config(interrupted).trainer) as trainer:
        with pytest.raises(Interrupted, match=r"\d+ of 64 steps of a batch"):
            trainer.train()
        folder = trainer.save(tmp_path / "middle")
    with Trainer(read_config(plain).trainer) as trainer:
        trainer.restore(folder)
        for expected in results_of(tmp_path / "whole"):
            result = trainer.train()
            del result["config"]  # which files do not repeat
            assert lasting(result, "done") == lasting(expected, "done")


def test_an_interrupt_is_heard_while_no_episode_ends():
    plain = tiny_ppo("env=gym", "env.id=toy_envs.CountingEnv", algo__batch_mode="complete_episodes")
    with Trainer(read_config(plain).trainer) as trainer:
        trainer.interrupt()
        with pytest.raises(Interrupted, match="0 of 64 steps"):
            trainer.train()


def test_termination_ends_a_run_in_the_same_way(tmp_path):
    child = Child(tmp_path, *ENDLESS, "checkpoint_at_end=false")
    child.wait_for_result(tmp_path / "run", 2)
    child.signal(signal.SIGTERM)
    outcome = child.wait()
    assert outcome.status == 143
    assert outcome.stdout.endswith("Interrupted. Go on with: rlrun resume run\n")
    last = iterations_in(tmp_path / "run")[-1]
    assert resume(tmp_path / "run", last + 1)["training_iteration"] == last + 1


def test_termination_of_all_its_processes_ends_a_run_with_async_envs_in_the_same_way(tmp_path):
    child = Child(tmp_path, *ENDLESS, "env.vectorization=async")
    child.wait_for_result(tmp_path / "run", 2)
    for process in psutil.Process(child.pid).children():
        process.terminate()
    child.signal(signal.SIGTERM)
    outcome = child.wait()
    assert (outcome.status, outcome.stderr.count("Traceback")) == (143, 0)
    assert outcome.stdout.endswith("Interrupted. Go on with: rlrun resume run\n")
    last = iterations_in(tmp_path / "run")[-1]
    assert resume(tmp_path / "run", last + 1)["training_iteration"] == last + 1


def test_termination_of_its_process_group_leaves_the_last_checkpoint_its_ray(tmp_path):
    child = Child(tmp_path, *ENDLESS, "resources.num_workers=1")
    child.wait_for_result(tmp_path / "run", 1)
    group = os.getpgid(child.pid)
    of_ray = psutil.Process(child.pid).children(recursive=True)
    assert any("raylet" in process.name() for process in of_ray)
    for process in of_ray:
        if os.getpgid(process.pid) == group:
            process.terminate()
    child.signal(signal.SIGTERM)
    assert child.wait().status == 143
    assert len(list_checkpoints(tmp_path / "run")) == 1


@pytest.mark.skipif(
    signal.getsignal(signal.SIGHUP) is signal.SIG_IGN,
    reason="run under nohup, which rlrun respects",
)
def test_a_lost_terminal_ends_a_run_in_the_same_way(tmp_path):
    child = Child(tmp_path, *ENDLESS)
    child.wait_for_result(tmp_path / "run", 1)
    child.signal(signal.SIGHUP)
    assert child.wait().status == 129
    assert len(list_checkpoints(tmp_path / "run")) == 1


def test_a_run_that_is_still_going_on_is_not_resumed(tmp_path):
    child = Child(tmp_path, *ENDLESS, "checkpoint_freq=1", "keep_checkpoints_num=2")
    child.wait_for_result(tmp_path / "run", 3)
    with pytest.raises(ConfigError, match=f"is still going on, in process {child.pid}"):
        Run.resume(tmp_path / "run").execute()
    child.signal(signal.SIGINT)
    assert child.wait().status == 130
    last = iterations_in(tmp_path / "run")[-1]
    assert resume(tmp_path / "run", last + 1)["training_iteration"] == last + 1


def test_a_run_that_is_still_going_on_without_a_checkpoint_is_not_called_unfinished(tmp_path):
    execute(tmp_path / "run", tiny_ppo(checkpoint_at_end=False), 1)
    with (
        run_folder.lock(tmp_path / "run"),
        pytest.raises(ConfigError, match="is still going on, in this process"),
    ):
        Run.resume(tmp_path / "run")
    with pytest.raises(CheckpointError, match="has no complete checkpoint"):
        Run.resume(tmp_path / "run")


def test_a_folder_is_locked_within_one_process_too(tmp_path):
    folder = tmp_path / "run"
    with (
        run_folder.lock(folder),
        pytest.raises(ConfigError, match="is still going on, in this process"),
        run_folder.lock(folder),
    ):
        pass
    with run_folder.lock(folder):
        pass


class MarkRarely(Callbacks):
    """A custom metric of every episode; few iterations end one."""

    def on_episode_end(self, *, episode: Any, **kwargs: Any) -> None:
        episode.custom_metrics["mark"] = 1.0


def test_a_key_that_came_before_a_resume_need_not_come_again_at_once(tmp_path):
    counting = {"_target_": f"{__name__}.MarkRarely"}
    plain = tiny_ppo(
        env__id="toy_envs.CountingEnv",
        env__env_config={"terminates_at": 200},
        callbacks={"mine": counting},
        checkpoint_score_attr="custom_metrics/mark_mean",
        stop__training_iteration=8,
    )
    Run(plain, tmp_path / "run").execute()
    assert resume(tmp_path / "run", 20)["training_iteration"] == 20


def test_a_run_whose_folder_has_gone_ends_with_an_error(tmp_path):
    child = Child(tmp_path, *ENDLESS)
    child.wait_for_result(tmp_path / "run", 1)
    (tmp_path / "run").rename(tmp_path / "elsewhere")
    outcome = child.wait()
    assert outcome.status == 1
    assert f"The results in {tmp_path / 'run'} cannot be written" in outcome.stderr
    assert "Go on with" not in outcome.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["a b", "a=b", "it's", "$HOME", "x(1)", "[x]"])
def test_the_printed_command_resumes_a_run_in_any_folder(tmp_path, rlrun, name):
    # Quoted for Hydra; the folder has the plain name.
    quoted = name.replace("'", "\\'")
    child = Child(tmp_path, *ENDLESS[:-1], f"hydra.run.dir='{quoted}'")
    child.wait_for_result(tmp_path / name, 1)
    child.signal(signal.SIGINT)
    printed = child.wait().stdout.splitlines()[-1].removeprefix("Interrupted. Go on with: rlrun ")
    outcome = rlrun(*shlex.split(printed), "stop.training_iteration=1")
    assert (outcome.status, outcome.stdout) == (0, "")
    assert "is met already" in outcome.stderr


def test_termination_ends_a_run_with_ray_workers_in_the_same_way(tmp_path):
    child = Child(tmp_path, *ENDLESS, "resources.num_workers=1", "resources.ray_num_cpus=1")
    child.wait_for_result(tmp_path / "run", 2)
    child.signal(signal.SIGTERM)
    outcome = child.wait()
    assert outcome.status == 143
    assert outcome.stdout.endswith("Interrupted. Go on with: rlrun resume run\n")
    assert len(list_checkpoints(tmp_path / "run")) >= 1


SLOW_ENV = """
import gymnasium
import numpy as np
from pathlib import Path

class Env(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    num_steps = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        Env.num_steps += 1
        if Env.num_steps == 100:
            Path("in_the_middle").touch()
            while not Path("go_on").exists():
                pass
        return np.zeros(2, np.float32), 1.0, False, False, {}
"""


def test_a_second_ctrl_c_ends_a_run_at_once_without_a_checkpoint(tmp_path):
    (tmp_path / "slow_env.py").write_text(SLOW_ENV)
    child = Child(tmp_path, *ENDLESS, "env=gym", "env.id=slow_env.Env")
    child.wait_for_file(tmp_path / "in_the_middle")
    child.signal(signal.SIGINT)
    child.wait_for_text("ends as soon as it can")
    child.signal(signal.SIGINT)
    outcome = child.wait()
    assert outcome.status == 130
    assert "interrupted at once, without a checkpoint" in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert num_lines(tmp_path / "run" / "result.json") == 1
    assert list_checkpoints(tmp_path / "run") == []


def test_the_config_of_the_command_and_of_these_tests_is_the_same(tmp_path):
    outcome = Child(tmp_path, *ENDLESS, "stop.training_iteration=1").wait()
    assert outcome.status == 0
    params = json.loads((tmp_path / "run" / "params.json").read_text())
    assert params == {**tiny_ppo(), "stop": {"training_iteration": 1}}
    assert params != config()


class CountsResults(Callbacks):
    num_results = 0

    def on_train_result(self, *, result, **kwargs):
        self.num_results += 1
        result["num_seen"] = self.num_results

    def state_dict(self):
        return {"num_results": self.num_results}

    def load_state_dict(self, state):
        self.num_results = state["num_results"]


@pytest.mark.parametrize("names", [["one"], ["one", "two"]])
def test_the_state_of_callbacks_goes_on(tmp_path, names):
    node = {"_target_": f"{__name__}.CountsResults"}
    plain = tiny_ppo(callbacks=dict.fromkeys(names, node))
    execute(tmp_path / "run", plain, 2)
    assert resume(tmp_path / "run", 3)["num_seen"] == 3
    with pytest.raises(CheckpointError, match="callbacks"):
        resume(tmp_path / "run", 4, callbacks={str(i): node for i in range(3)})
