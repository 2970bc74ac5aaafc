"""Acting with the policy of a checkpoint, for exactly as long as was asked."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
from helpers_cli import Outcome, command_line, tiny_dqn, tiny_ppo

from rlrun.core.callbacks import Callbacks
from rlrun.core.checkpoint import checkpoint_name, load_checkpoint
from rlrun.core.errors import CheckpointError, ConfigError
from rlrun.parts import read_config
from rlrun.rollout import load_worker
from rlrun.run import Run
from rlrun.saved import find_checkpoint
from rlrun.trainer import Trainer
from rlrun.workers.evaluate import Amount


class ActionEnv(gymnasium.Env):
    """Twenty steps; the reward is the action, 0 or 1, and the observation always the same."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)
    actions: ClassVar[list[int]] = []
    """The actions of all envs of this class, in their order."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.ones(2, np.float32), {}

    def step(self, action: Any) -> Any:
        self.actions.append(int(action))
        self.steps += 1
        return np.ones(2, np.float32), float(action), self.steps == 20, False, {}


ACTION_ENV = ("env=gym", f"env.id={__name__}.ActionEnv")

Rlrun = Callable[..., Outcome]


@pytest.fixture
def rlrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rlrun]:
    ActionEnv.actions.clear()
    with command_line(tmp_path, monkeypatch) as run:
        yield run


def trained(folder: Path, plain: dict[str, Any], num_iterations: int = 1) -> str:
    """The folder of a run of that config, as the command line takes it."""
    run = Run({**plain, "stop": {"training_iteration": num_iterations}}, folder)
    run.execute()
    ActionEnv.actions.clear()
    return str(folder)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    plain = {**tiny_ppo(*ACTION_ENV), "checkpoint_freq": 1}
    return trained(tmp_path_factory.mktemp("rollout") / "run", plain, 2)


def episodes_of(outcome: Outcome) -> list[tuple[float, int]]:
    """(reward, length) of each episode that was printed, in order."""
    assert (outcome.status, outcome.stderr) == (0, "")
    found = re.findall(r"^episode (\d+): reward (\S+), length (\d+)$", outcome.stdout, re.M)
    assert [int(number) for number, _, _ in found] == list(range(1, len(found) + 1))
    return [(float(reward), int(length)) for _, reward, length in found]


# How long


@pytest.mark.parametrize("num_episodes", [1, 3])
def test_exactly_as_many_episodes_are_run_as_were_asked_for(rlrun, run_dir, num_episodes):
    outcome = rlrun("rollout", run_dir, f"episodes={num_episodes}")
    assert [length for _, length in episodes_of(outcome)] == [20] * num_episodes
    assert len(ActionEnv.actions) == 20 * num_episodes


def test_ten_episodes_are_run_where_nothing_is_asked_for(rlrun, run_dir):
    assert len(episodes_of(rlrun("rollout", run_dir))) == 10


@pytest.mark.parametrize(("num_steps", "num_episodes"), [(1, 0), (19, 0), (20, 1), (45, 2)])
def test_exactly_as_many_steps_are_run_as_were_asked_for(rlrun, run_dir, num_steps, num_episodes):
    outcome = rlrun("rollout", run_dir, f"steps={num_steps}")
    assert len(episodes_of(outcome)) == num_episodes
    assert len(ActionEnv.actions) == num_steps
    if num_episodes == 0:
        assert outcome.stdout == f"No episode ended within {num_steps} steps.\n"


def test_the_last_line_sums_up_the_episodes(rlrun, run_dir):
    outcome = rlrun("rollout", run_dir, "episodes=4", "explore=true")
    rewards = [reward for reward, _ in episodes_of(outcome)]
    assert outcome.stdout.splitlines()[-1] == (
        f"4 episodes: mean reward {np.mean(rewards):.2f} (min {min(rewards):g}, "
        f"max {max(rewards):g}), mean length 20.0"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["episodes=0"], "episodes=0 must be a whole number of at least 1"),
        (["episodes=-2"], "episodes=-2 must be"),
        (["steps=1.5"], "steps=1.5 must be"),
        (["steps=many"], "steps=many must be"),
        (["episodes=true"], "episodes=True must be"),
        (["render=perhaps"], "render=perhaps must be"),
        (["episodes=1", "steps=1"], "episodes=N or steps=N, not both"),
        (["episode=1"], "There is no key 'episode'"),
        (["algo.learning_rate=1"], "Did you mean algo.lr?"),
        (["algo.gamma=2"], "algo.gamma=2.0 must be between 0 and 1"),
        (["explore=perhaps"], "explore=perhaps must be true or false"),
        (["env=pendulum"], "env=pendulum: env is a mapping here"),
        (["render=true"], "got an unexpected keyword argument 'render_mode'"),
        (["episodes"], "'episodes' is not of the form key=value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_bad_argument_is_refused_in_one_message(rlrun, run_dir, arguments, words):
    outcome = rlrun("rollout", run_dir, *arguments)
    assert outcome.status == 2
    assert outcome.stderr.startswith("rlrun: ")
    assert words in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert ActionEnv.actions == []


# Of what


def test_a_run_stands_for_its_newest_checkpoint(run_dir, tmp_path):
    assert find_checkpoint(Path(run_dir)).name == checkpoint_name(2)
    older = Path(run_dir) / checkpoint_name(1)
    assert find_checkpoint(older) == older
    worker = load_worker(older, {}, render=False)
    expected = load_checkpoint(older, ("policy",))["policy"]["weights"]
    for policy_id, weights in worker.get_weights().items():
        for name, array in weights.items():
            np.testing.assert_array_equal(array, expected[policy_id][name])


def test_a_checkpoint_needs_neither_its_run_nor_its_name(rlrun, run_dir, tmp_path):
    shutil.copytree(Path(run_dir) / checkpoint_name(2), tmp_path / "best")
    alone = rlrun("rollout", "best", "episodes=2", "explore=true")
    assert episodes_of(alone) == episodes_of(
        rlrun("rollout", run_dir, "episodes=2", "explore=true")
    )


def test_a_path_without_a_checkpoint_is_named(rlrun, tmp_path):
    outcome = rlrun("rollout", "nothing")
    assert outcome.status == 2
    assert outcome.stderr == "rlrun: nothing: there is no such checkpoint or run.\n"
    outcome = rlrun("rollout", ".")
    assert outcome.status == 1
    assert outcome.stderr == "rlrun: . is no checkpoint, and holds no complete one.\n"


def test_weights_that_do_not_fit_the_overrides_are_named(run_dir):
    with pytest.raises(CheckpointError, match=f"{checkpoint_name(2)} does not fit this config"):
        load_worker(Path(run_dir), {"model.fcnet_hiddens": [8]}, render=False)


def test_a_rollout_leaves_the_run_as_it_is(rlrun, run_dir):
    before = {path: path.stat().st_mtime_ns for path in Path(run_dir).rglob("*")}
    episodes_of(rlrun("rollout", run_dir, "episodes=1"))
    assert {path: path.stat().st_mtime_ns for path in Path(run_dir).rglob("*")} == before


# How it acts


def test_the_most_likely_action_is_taken_unless_exploration_is_asked_for(rlrun, run_dir):
    episodes_of(rlrun("rollout", run_dir, "episodes=3"))
    assert len(set(ActionEnv.actions)) == 1
    episodes_of(rlrun("rollout", run_dir, "episodes=3", "explore=true"))
    assert len(set(ActionEnv.actions[60:])) == 2


def test_rollouts_of_a_seed_are_the_same_and_those_of_another_differ(rlrun, run_dir):
    taken = {}
    for arguments in ([], ["seed=1"], ["seed=1", "logger=null"], ["seed=2"]):
        ActionEnv.actions.clear()
        episodes_of(rlrun("rollout", run_dir, "steps=60", "explore=true", *arguments))
        taken[tuple(arguments)] = list(ActionEnv.actions)
    # 1 is the seed of the run itself.
    assert taken[()] == taken[("seed=1",)] == taken[("seed=1", "logger=null")]
    assert taken[()] != taken[("seed=2",)]


def test_the_env_may_be_changed(rlrun, run_dir):
    outcome = rlrun("rollout", run_dir, "episodes=2", "env.horizon=7")
    assert [length for _, length in episodes_of(outcome)] == [7, 7]


def test_exploration_is_that_of_the_checkpoints_timestep(rlrun, tmp_path):
    # After one step epsilon is 0 for good, so nothing is left of exploration.
    plain = tiny_dqn("algo=dqn", *ACTION_ENV, exploration__epsilon_timesteps=1)
    plain["exploration"]["final_epsilon"] = 0.0
    path = trained(tmp_path / "run", plain)
    episodes_of(rlrun("rollout", path, "episodes=3", "explore=true"))
    assert len(set(ActionEnv.actions)) == 1


def test_noisy_layers_make_no_noise_in_a_rollout(rlrun, tmp_path):
    path = trained(tmp_path / "run", tiny_dqn("algo=rainbow", *ACTION_ENV))
    episodes_of(rlrun("rollout", path, "episodes=3"))
    assert len(set(ActionEnv.actions)) == 1


STATISTICS = ("count", "mean", "squares", "shift", "scale")


def test_observations_are_filtered_as_in_training(rlrun, tmp_path):
    plain = tiny_ppo("env=pendulum", env__observation_filter="MeanStdFilter")
    path = trained(tmp_path / "run", plain)
    worker = load_worker(Path(path), {}, render=False)
    weights = load_checkpoint(find_checkpoint(Path(path)), ("policy",))["policy"]["weights"]
    saved = {name: weights["default_policy"][f"observation_filter.{name}"] for name in STATISTICS}
    assert saved["count"] > 0
    running = worker.get_policy().observation_filter
    for name, statistic in saved.items():
        np.testing.assert_array_equal(getattr(running, name).numpy(), statistic)
    with Trainer(read_config(plain).trainer) as trainer:
        trainer.restore(find_checkpoint(Path(path)))
        for raw in (np.array([1.0, 0.0, 0.5]), np.array([-0.6, 0.8, -4.0])):
            actor = worker.actors["default_policy"]
            decision = actor.compute_actions([raw.astype(np.float32)], explore=False, timestep=0)
            expected = trainer.compute_action(raw.astype(np.float32), explore=False)
            np.testing.assert_array_equal(decision.env_actions[0], expected)
    assert len(episodes_of(rlrun("rollout", path, "episodes=2", "env.horizon=20"))) == 2


def test_a_rollout_does_not_move_the_filter(tmp_path):
    plain = tiny_ppo("env=pendulum", env__observation_filter="MeanStdFilter")
    path = trained(tmp_path / "run", plain)
    worker = load_worker(Path(path), {"env.horizon": 10}, render=False)
    before = worker.get_weights()["default_policy"]
    sample = worker.run_evaluation(0, Amount("episodes", 2))
    assert sample.gathered == {}
    for name, array in worker.get_weights()["default_policy"].items():
        np.testing.assert_array_equal(array, before[name])


def test_an_unknown_key_is_refused_before_the_weights_are_read(run_dir):
    with pytest.raises(ConfigError, match=r"There is no key 'algo\.nothing'"):
        load_worker(Path(run_dir), {"algo.nothing": 1}, render=False)


def test_atari_is_shown_as_the_policy_was_trained_on_it(rlrun, tmp_path, monkeypatch):
    pytest.importorskip("ale_py")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    small = {"img_height": 21, "img_width": 21, "stack_num": 2}
    plain = tiny_ppo(
        "algo=ppo",
        "env=pong",
        "model=mlp",
        env__flatten_observations=True,
        env__horizon=12,
        **{f"env__env_config__{name}": value for name, value in small.items()},
    )
    path = trained(tmp_path / "run", plain)
    outcome = rlrun("rollout", path, "episodes=2", "render=true")
    assert [length for _, length in episodes_of(outcome)] == [12, 12]


def test_a_native_env_is_shown_as_a_single_one(rlrun, tmp_path, monkeypatch):
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    plain = tiny_ppo("algo=ppo", "env=cartpole", env__vectorization="native", env__horizon=6)
    path = trained(tmp_path / "run", plain)
    outcome = rlrun("rollout", path, "episodes=2", "render=true")
    assert [length for _, length in episodes_of(outcome)] == [6, 6]


class Lesson(Callbacks):
    """A curriculum: the task is the length of an episode, one longer after each iteration."""

    def __init__(self) -> None:
        self.task = 1

    def on_sub_environment_created(self, *, sub_environment: Any, **kwargs: Any) -> None:
        sub_environment.unwrapped.terminates_at = [self.task]

    def on_train_result(self, **kwargs: Any) -> None:
        self.task += 1

    def state_dict(self) -> dict[str, Any]:
        return {"task": self.task}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.task = int(state["task"])


def test_a_curriculum_goes_on_with_the_task_that_it_had(rlrun, tmp_path):
    plain = tiny_ppo("env=gym", "env.id=toy_envs.CountingEnv")
    plain["curriculum"] = {"_target_": f"{__name__}.Lesson"}
    path = trained(tmp_path / "run", plain, 3)
    assert [length for _, length in episodes_of(rlrun("rollout", path, "episodes=2"))] == [4, 4]


def test_callbacks_that_are_not_those_of_the_checkpoint_are_named(tmp_path):
    plain = tiny_ppo("env=gym", "env.id=toy_envs.CountingEnv")
    lesson = {"_target_": f"{__name__}.Lesson"}
    path = trained(tmp_path / "run", {**plain, "callbacks": {"a": lesson, "b": lesson}})
    with pytest.raises(CheckpointError, match="holds the state of 2 callbacks, not 3"):
        load_worker(Path(path), {"callbacks.c": lesson}, render=False)


def test_a_rollout_gives_the_numbers_of_the_evaluation_with_the_same_seeds(rlrun, tmp_path):
    plain = tiny_ppo("algo=ppo", "env=cartpole", env__observation_filter="MeanStdFilter")
    plain["evaluation"] |= {"duration": 3, "config": {"explore": False}}
    one_env = {"algo": {"num_envs_per_worker": 1}}
    for explore in (False, True):
        plain["evaluation"]["config"] = {"explore": explore, **one_env}
        path = trained(tmp_path / f"run_{explore}", plain)
        for number in (0, 2):
            with Trainer(read_config(plain | {"seed": 1}).trainer) as trainer:
                trainer.restore(find_checkpoint(Path(path)))
                trainer.evaluation.num_rounds = number
                stats = trainer.evaluate()["evaluation"]["hist_stats"]
            arguments = ["episodes=3", f"round={number}", f"explore={explore}".lower()]
            found = episodes_of(rlrun("rollout", path, *arguments))
            assert [reward for reward, _ in found] == stats["episode_reward"]
            assert [length for _, length in found] == stats["episode_lengths"]
