from __future__ import annotations

import inspect
import os
import pickle
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from toy_envs import CountingEnv

from rlrun.compose import compose, env_overrides, plain_config
from rlrun.core.batch import Batch
from rlrun.core.callbacks import HOOKS, Callbacks, MultiCallbacks, call
from rlrun.core.episode import Episode
from rlrun.core.errors import (
    BatchError,
    CallbackError,
    ConfigError,
    Interrupted,
    MissingExtraError,
    RlrunError,
    WorkerDiedError,
    WorkerError,
)
from rlrun.parts import read_config
from rlrun.run import make_trainer
from rlrun.trainer import Trainer
from rlrun.workers import episodes as episodes_module
from rlrun.workers.native_env import NativeVectorEnv
from rlrun.workers.rollout_worker import RolloutWorker

COUNTING = "toy_envs.CountingEnv"


def make(*overrides: str, env: str = COUNTING, callbacks: Any = None, **settings: Any) -> Trainer:
    """One env, whose episodes take two steps; four steps and one gradient step an iteration."""
    return make_trainer(
        "ppo",
        env=env,
        overrides=[
            "algo.train_batch_size=4",
            "algo.minibatch_size=4",
            "algo.num_epochs=1",
            "algo.num_envs_per_worker=1",
            "algo.timesteps_per_iteration=0",
            *(["env.env_config.terminates_at=2"] if env == COUNTING else []),
            *overrides,
        ],
        **{"seed": 5, "callbacks": callbacks or {}, **settings},
    )


def named(cls: type, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"{__name__}.{cls.__qualname__}", **arguments}


# All hooks of a run


class Recorder(Callbacks):
    """Writes down every call of every hook: (its name, its keyword arguments)."""

    calls: list[tuple[str, dict[str, Any]]] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.calls.clear()


def _record(hook: str) -> Any:
    def record(self: Recorder, **kwargs: Any) -> None:
        self.calls.append((hook, kwargs))

    return record


for _hook in HOOKS:
    setattr(Recorder, _hook, _record(_hook))


def called() -> list[str]:
    names = [name.removeprefix("on_") for name, _ in Recorder.calls]
    Recorder.calls.clear()
    return names


def test_hooks_are_called_in_the_order_of_a_run(tmp_path):
    episode = ["episode_step", "episode_step", "episode_end", "episode_start"]
    with make(
        "evaluation.interval=2", "evaluation.duration=1", callbacks={"all": named(Recorder)}
    ) as trainer:
        assert called() == ["sub_environment_created", "sub_environment_created", "trainer_init"]
        trainer.train()
        first = called()
        trainer.train()
        second = called()
        trainer.save(tmp_path)
        assert called() == ["checkpoint"]
    learned = ["postprocess_trajectory", "sample_end", "learn_on_batch"]
    assert first == ["episode_start", *episode, *episode, *learned, "train_result"]
    assert second == [
        *episode,
        *episode,
        *learned,
        "evaluate_start",
        "episode_start",
        *episode,
        "evaluate_end",
        "train_result",
    ]
    assert called() == []


def test_every_hook_gets_the_keyword_arguments_that_it_documents(tmp_path):
    with make(
        "evaluation.interval=1", "evaluation.duration=1", callbacks={"all": named(Recorder)}
    ) as trainer:
        trainer.train()
        trainer.save(tmp_path)
    calls = list(Recorder.calls)
    assert {name for name, _ in calls} == set(HOOKS) - {"on_worker_failure"}
    for name, kwargs in calls:
        parameters = inspect.signature(getattr(Callbacks, name)).parameters.values()
        documented = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
        assert kwargs.keys() == documented, name


def test_hooks_get_the_things_themselves(tmp_path):
    with make(
        "evaluation.interval=1", "evaluation.duration=1", callbacks={"all": named(Recorder)}
    ) as trainer:
        result = trainer.train()
        folder = trainer.save(tmp_path)
        worker = trainer.workers.local_worker()
        by_hook = dict(reversed(Recorder.calls))  # The first call of each.
        for name, kwargs in by_hook.items():
            if "trainer" in kwargs:
                assert kwargs["trainer"] is trainer, name
            if "worker" in kwargs:
                assert kwargs["worker"] is worker, name
            if "episode" in kwargs:
                assert isinstance(kwargs["episode"], Episode)
            if "base_env" in kwargs:
                assert kwargs["base_env"] is worker.env
                assert kwargs["policies"] == {"default_policy": worker.get_policy()}
                assert kwargs["env_index"] == 0
        created = by_hook["on_sub_environment_created"]
        assert created["sub_environment"] is worker.env.get_sub_environments()[0]
        assert created["env_context"] == {"terminates_at": 2}
        assert (created["env_context"].worker_index, created["env_context"].vector_index) == (0, 0)
        assert by_hook["on_train_result"]["result"] is result
        assert by_hook["on_evaluate_end"]["evaluation_metrics"] is result["evaluation"]
        assert by_hook["on_learn_on_batch"]["policy"] is trainer.get_policy()
        assert by_hook["on_postprocess_trajectory"]["policy"] is worker.get_policy()
        assert by_hook["on_postprocess_trajectory"]["policy_id"] == "default_policy"
        assert by_hook["on_checkpoint"]["checkpoint_dir"] == str(folder)


class Marker(Callbacks):
    """Notes on each env what it was told of it, and in which process."""

    def on_sub_environment_created(self, *, worker, sub_environment, env_index, env_context, **_):
        assert dict(env_context) == worker.config.env.env_config
        place = (env_context.worker_index, env_context.vector_index, env_context.num_workers)
        sub_environment.unwrapped.mark = (worker.name, env_index, place, os.getpid())


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_callbacks_hear_of_each_env_in_the_process_where_it_lives(vectorization):
    two_envs = ["algo.num_envs_per_worker=2", f"env.vectorization={vectorization}"]
    with make(*two_envs, callbacks={"x": named(Marker)}) as trainer:
        found = trainer.workers.foreach_env(lambda env: (env.mark, os.getpid()))[0]
    pids = [pid for _, pid in found]
    assert [mark for mark, _ in found] == [
        ("the local worker", i, (0, i, 0), pids[i]) for i in range(2)
    ]
    assert len({*pids, os.getpid()}) == (1 if vectorization == "sync" else 3)


class AskForPolicies(Callbacks):
    def on_sub_environment_created(self, *, worker, **kwargs):
        worker.policies  # noqa: B018


@pytest.mark.filterwarnings("ignore:.*ERROR")
def test_what_an_env_in_another_process_has_no_worker_for_is_said():
    with pytest.raises(CallbackError, match=r"AskForPolicies failed.*worker\.policies is in anoth"):
        make("env.vectorization=async", callbacks={"x": named(AskForPolicies)})


class Unsendable(Marker):
    def __init__(self) -> None:
        self.lock = threading.Lock()


def test_callbacks_that_cannot_travel_to_envs_are_refused():
    with pytest.raises(WorkerError, match=r"cannot be sent to its envs.*pickle.*lock"):
        make("env.vectorization=async", callbacks={"x": named(Unsendable)})


class NoteTime(Callbacks):
    """Notes what is true at the time of a hook."""

    seen: dict[str, Any] = {}  # noqa: RUF012

    def on_trainer_init(self, *, trainer, **kwargs):
        self.seen["iteration at init"] = trainer.iteration
        self.seen["has optimizer at init"] = hasattr(
            trainer.algorithms["default_policy"], "optimizer"
        )

    def on_checkpoint(self, *, checkpoint_dir, **kwargs):
        self.seen["manifest"] = (Path(checkpoint_dir) / "manifest.json").is_file()

    def on_train_result(self, *, trainer, result, **kwargs):
        self.seen["iteration in result"] = (trainer.iteration, result["training_iteration"])
        result["mine"] = 17

    def on_evaluate_start(self, *, trainer, **kwargs):
        workers = trainer.evaluation.workers(trainer.algorithms)
        policy = workers.local_worker().get_policy()
        self.seen["filter count"] = int(policy.observation_filter.count)

    def on_evaluate_end(self, *, evaluation_metrics, **kwargs):
        evaluation_metrics["mine too"] = 18


def test_hooks_come_at_the_time_that_they_document_and_may_change_results(tmp_path):
    with make(
        "evaluation.interval=1",
        "evaluation.duration=1",
        "env.observation_filter=MeanStdFilter",
        callbacks={"all": named(NoteTime)},
    ) as trainer:
        result = trainer.train()
        trainer.save(tmp_path)
    assert NoteTime.seen == {
        "iteration at init": 0,
        "has optimizer at init": True,
        "manifest": True,
        "iteration in result": (1, 1),
        "filter count": 4,
    }
    assert result["mine"] == 17
    assert result["evaluation"]["mine too"] == 18


# Episodes


class EpisodeNotes(Callbacks):
    """Custom metrics, histograms and media of each episode, from what steps left in user_data."""

    episodes: list[dict[str, Any]] = []  # noqa: RUF012

    def on_episode_start(self, *, episode, **kwargs):
        assert episode.user_data == {}
        episode.user_data["seen"] = [episode.last_observation.tolist()]

    def on_episode_step(self, *, episode, **kwargs):
        episode.user_data["seen"].append(episode.last_observation.tolist())

    def on_episode_end(self, *, episode, **kwargs):
        number, length = episode.last_observation.tolist()
        episode.custom_metrics["number"] = number
        if number == 1:
            episode.custom_metrics["only_the_second"] = 5.0
        episode.hist_data["lengths_seen"] = [length, length]
        episode.media["clip"] = f"episode {number:.0f}"
        self.episodes.append(dict(vars(episode)))


@pytest.fixture
def episodes():
    EpisodeNotes.episodes.clear()
    return EpisodeNotes.episodes


def test_custom_metrics_histograms_and_media_stand_in_the_result(episodes):
    with make(
        "algo.train_batch_size=6", "algo.minibatch_size=6", callbacks={"x": named(EpisodeNotes)}
    ) as trainer:
        first, second = trainer.train(), trainer.train()
    # Three episodes an iteration: numbers 0, 1, 2 and then 3, 4, 5.
    assert first["custom_metrics"] == {
        "number_mean": 1.0,
        "number_min": 0.0,
        "number_max": 2.0,
        "only_the_second_mean": 5.0,
        "only_the_second_min": 5.0,
        "only_the_second_max": 5.0,
    }
    assert second["custom_metrics"] == {"number_mean": 4.0, "number_min": 3.0, "number_max": 5.0}
    assert first["hist_stats"]["lengths_seen"] == [2.0] * 6
    assert first["hist_stats"]["episode_lengths"] == [2, 2, 2]
    assert first["episode_media"] == {"clip": ["episode 0", "episode 1", "episode 2"]}
    assert second["episode_media"] == {"clip": ["episode 3", "episode 4", "episode 5"]}


def test_an_episode_knows_its_course_and_its_last_step(episodes):
    with make("env.clip_rewards=true", callbacks={"x": named(EpisodeNotes)}) as trainer:
        trainer.train()
    first, second = episodes
    assert first["user_data"]["seen"] == [[0, 0], [0, 1], [0, 2]]
    assert second["user_data"]["seen"] == [[1, 0], [1, 1], [1, 2]]
    for episode in (first, second):
        assert (episode["length"], episode["total_reward"]) == (2, 1.0 + 2.0)
        assert episode["last_reward"] == 2.0, "rewards are unclipped"
        assert (episode["last_terminated"], episode["last_truncated"]) == (True, False)
        assert (episode["env_index"], episode["worker_index"]) == (0, 0)
    assert first["episode_id"] != second["episode_id"]


def test_episodes_of_several_envs_are_kept_apart(episodes):
    with make(
        "algo.num_envs_per_worker=3",
        "algo.train_batch_size=60",
        "algo.minibatch_size=60",
        "env.env_config.terminates_at=null",
        "env.env_config.length_range=[1,6]",
        callbacks={"x": named(EpisodeNotes)},
    ) as trainer:
        result = trainer.train()
    assert len(episodes) == result["episodes_this_iter"] > 6
    assert {episode["env_index"] for episode in episodes} == {0, 1, 2}
    assert len({episode["episode_id"] for episode in episodes}) == len(episodes)
    for episode in episodes:
        steps = [step for _, step in episode["user_data"]["seen"]]
        assert steps == list(range(episode["length"] + 1))
    assert result["hist_stats"]["episode_lengths"] == [episode["length"] for episode in episodes]


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_dict_observations_reach_callbacks_as_dicts_of_their_own(vectorization):
    with make(
        f"env.vectorization={vectorization}",
        env="toy_envs.DictObsEnv",
        callbacks={"x": named(KeepObservations)},
    ) as trainer:
        trainer.train()
    positions = [observation["position"].tolist() for observation in KeepObservations.kept]
    assert positions == [[1, -1], [2, -2], [3, -3], [4, -4]]
    KeepObservations.kept.clear()


class KeepObservations(Callbacks):
    kept: list[Any] = []  # noqa: RUF012

    def on_episode_step(self, *, episode, **kwargs):
        self.kept.append(episode.last_observation)


class FirstObservation(Callbacks):
    def on_episode_start(self, *, episode, **kwargs):
        episode.user_data["first"] = np.abs(episode.last_observation).max()

    def on_episode_end(self, *, episode, **kwargs):
        episode.custom_metrics["first"] = float(episode.user_data["first"])


@pytest.mark.parametrize(
    "vectorization",
    [
        "sync",
        pytest.param(
            "native",
        ),
    ],
)
def test_an_episode_starts_with_the_observation_after_its_reset(vectorization):
    with make(
        f"env.vectorization={vectorization}",
        "algo.train_batch_size=200",
        "algo.minibatch_size=200",
        env="CartPole-v1",
        callbacks={"x": named(FirstObservation)},
    ) as trainer:
        result = trainer.train()
    assert result["episodes_this_iter"] > 3
    assert result["custom_metrics"]["first_max"] <= 0.05


# Hooks that nobody overrides


def forbid_episodes(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("an Episode was made")


class OnlyLearning(Callbacks):
    def on_learn_on_batch(self, *, result, **kwargs):
        result["called"] = 1


class OnlyEnds(Callbacks):
    def on_episode_end(self, **kwargs):
        pass


def test_episodes_are_made_only_for_hooks_that_look_at_them(monkeypatch):
    monkeypatch.setattr(episodes_module, "Episode", forbid_episodes)
    for callbacks in ({}, {"x": named(OnlyLearning)}, [named(Callbacks), named(OnlyLearning)]):
        with make(callbacks=callbacks) as trainer:
            assert trainer.train()["episodes_this_iter"] == 2
    with (
        make(callbacks={"x": named(OnlyEnds)}) as trainer,
        pytest.raises(AssertionError, match="an Episode was made"),
    ):
        trainer.train()


@pytest.mark.parametrize("hook", HOOKS)
def test_a_chain_overrides_what_one_of_its_callbacks_does(hook):
    one = type("One", (Callbacks,), {hook: lambda self, **kwargs: None})()
    assert one.overrides(hook)
    assert MultiCallbacks([Callbacks(), one]).overrides(hook)
    assert not MultiCallbacks([Callbacks(), Callbacks()]).overrides(hook)
    others = [name for name in HOOKS if name != hook]
    assert not any(MultiCallbacks([one]).overrides(name) for name in others)


# Batches


class RewriteTargets(Callbacks):
    """Moves every value target by `shift` from the value that the policy gave."""

    def __init__(self, shift: float) -> None:
        self.shift = shift

    def on_postprocess_trajectory(self, *, postprocessed_batch, **kwargs):
        values = postprocessed_batch["values"]
        assert values.shape == (4, 1), "columns are [T, B]"
        postprocessed_batch["value_targets"] = values + np.float32(self.shift)


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_the_loss_sees_what_postprocessing_callbacks_leave(shift):
    with make(callbacks={"x": named(RewriteTargets, shift=shift)}) as trainer:
        stats = trainer.train()["info"]["learner"]["default_policy"]["learner_stats"]
    # One gradient step: the loss is that of the unchanged policy, mean((V - target)^2).
    assert stats["vf_loss"] == pytest.approx(shift**2, abs=1e-6)


class NewColumn(Callbacks):
    def on_postprocess_trajectory(self, *, postprocessed_batch, **kwargs):
        shape = postprocessed_batch["values"].shape
        postprocessed_batch["row_number"] = np.arange(np.prod(shape)).reshape(shape)


class EditSamples(Callbacks):
    seen: list[Any] = []  # noqa: RUF012

    def on_sample_end(self, *, worker, samples, **kwargs):
        assert isinstance(worker, RolloutWorker)
        self.seen.append(samples["obs"].copy())
        samples["advantages"] = np.full(samples.num_rows, 7.0, np.float32)

    def on_learn_on_batch(self, *, train_batch, result, **kwargs):
        result["advantage"] = float(train_batch["advantages"].mean())
        result["last_row"] = int(train_batch["row_number"].max())


def test_rows_sent_and_rows_learned_are_those_that_callbacks_leave():
    EditSamples.seen.clear()
    with make(
        "algo.num_envs_per_worker=2", callbacks=[named(NewColumn), named(EditSamples)]
    ) as trainer:
        result = trainer.train()
    (rows,) = EditSamples.seen
    np.testing.assert_array_equal(rows, [[0, 0], [0, 0], [0, 1], [0, 1]])
    learner = result["info"]["learner"]["default_policy"]
    assert learner["custom_metrics"] == {"advantage": 7.0, "last_row": 3}


class DropTargets(Callbacks):
    def on_postprocess_trajectory(self, *, postprocessed_batch, **kwargs):
        del postprocessed_batch["value_targets"]


def test_a_column_that_callbacks_drop_is_missed_by_its_name():
    with (
        make(callbacks={"x": named(DropTargets)}) as trainer,
        pytest.raises(KeyError, match="value_targets"),
    ):
        trainer.train()


class CountUpdates(Callbacks):
    def __init__(self) -> None:
        self.updates = 0

    def on_learn_on_batch(self, *, policy, train_batch, result, **kwargs):
        self.updates += 1
        assert isinstance(train_batch, Batch)
        result |= {
            "updates": self.updates,
            "cur_updates": self.updates,
            "rows": train_batch.num_rows,
        }


def test_each_update_of_a_replay_algorithm_is_announced():
    trainer = make_trainer(
        "dqn",
        env=COUNTING,
        overrides=[
            "algo.learning_starts=8",
            "algo.train_batch_size=6",
            "algo.n_step=1",
            "algo.training_intensity=6",
            "algo.num_envs_per_worker=1",
            "algo.rollout_fragment_length=4",
            "algo.timesteps_per_iteration=16",
        ],
        seed=5,
        callbacks={"x": named(CountUpdates)},
    )
    with trainer:
        found = trainer.train()["info"]["learner"]["default_policy"]["custom_metrics"]
    # Six rows learned of each row sampled, from step 8 on: one update of six rows a step.
    assert found == {"updates": 6.5, "cur_updates": 12, "rows": 6}


# Several callbacks, and where they come from


class Scribe(Callbacks):
    """Writes its name into a list that all share, in some hooks of every kind."""

    lines: list[str] = []  # noqa: RUF012

    def __init__(self, name: str) -> None:
        self.name = name

    def on_trainer_init(self, **kwargs):
        self.lines.append(f"{self.name} init")

    def on_sub_environment_created(self, *, env_index, **kwargs):
        self.lines.append(f"{self.name} env {env_index}")

    def on_train_result(self, **kwargs):
        self.lines.append(f"{self.name} result")


EXPECTED_LINES = [
    f"{name} {what}" for what in ("env 0", "env 1", "init", "result") for name in "ab"
]


@pytest.fixture
def lines():
    Scribe.lines.clear()
    return Scribe.lines


def test_callbacks_may_be_a_list_and_are_called_in_its_order(lines):
    with make(
        "algo.num_envs_per_worker=2", callbacks=[named(Scribe, name="a"), named(Scribe, name="b")]
    ) as trainer:
        trainer.train()
    assert lines == EXPECTED_LINES


def test_callbacks_may_be_named_entries_of_the_group(lines):
    path = f"{__name__}.Scribe"
    with make_trainer(
        "ppo",
        env=COUNTING,
        overrides=[
            "algo.train_batch_size=4",
            "algo.minibatch_size=4",
            "algo.num_envs_per_worker=2",
            "algo.timesteps_per_iteration=0",
            f"callbacks.first._target_={path}",
            "callbacks.first.name=a",
            f"callbacks.second._target_={path}",
            "callbacks.second.name=b",
        ],
        seed=5,
    ) as trainer:
        trainer.train()
    assert lines == EXPECTED_LINES


def test_one_callback_may_be_the_whole_node(lines):
    with make(callbacks=named(Scribe, name="only")) as trainer:
        trainer.train()
        assert isinstance(trainer.callbacks, Scribe)
    assert lines == ["only env 0", "only init", "only result"]


def test_a_curriculum_is_called_after_the_callbacks(lines):
    with make(callbacks=named(Scribe, name="a"), curriculum=named(Scribe, name="b")) as trainer:
        trainer.train()
    assert lines == ["a env 0", "b env 0", "a init", "b init", "a result", "b result"]


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"x": {"_target_": "toy_envs.CountingEnv"}}, r"callbacks.*must be a subclass.*Callbacks"),
        ({"x": {"_target_": f"{__name__}.NoSuch"}}, r"callbacks\.x\._target_.*no 'NoSuch'"),
        ({"x": {"_target_": f"{__name__}.Scribe"}}, r"callbacks\.x\.name must be given"),
        ([{"_target_": f"{__name__}.Scribe", "nam": "a"}], r"callbacks\[0\]\.nam"),
        (3, r"callbacks=3 must be"),
    ],
)
def test_callbacks_that_are_none_are_refused_by_their_key(node, message):
    plain = plain_config(compose(["algo=ppo", *env_overrides(COUNTING)]))
    with pytest.raises(ConfigError, match=message):
        read_config(plain | {"seed": 1, "callbacks": node})


# What episodes know


class InfoEnv(CountingEnv):
    """Counts, and says in `info` what it does: its step, a task, and when it was reset."""

    def reset(self, **kwargs: Any) -> Any:
        observation, _ = super().reset(**kwargs)
        return observation, {"step": 0, "is_reset": True}

    def step(self, action: Any) -> Any:
        *given, _ = super().step(action)
        return (*given, {"step": self.steps, "task": {"name": f"step {self.steps}"}})


INFO_ENV = f"{__name__}.InfoEnv"


class ReadEpisode(Callbacks):
    """Writes down what the accessors of each episode give, at its start and at each step."""

    seen: list[dict[str, Any]] = []  # noqa: RUF012

    def __init__(self) -> None:
        self.seen.clear()

    def on_episode_start(self, *, episode, **kwargs):
        self.note(episode)

    def on_episode_step(self, *, episode, **kwargs):
        self.note(episode)

    def note(self, episode):
        self.seen.append(
            {
                "env": episode.env_id,
                "agents": episode.get_agents(),
                "policy": episode.policy_for("agent0"),
                "raw": np.array(episode.last_raw_obs_for()).tolist(),
                "obs": episode.last_observation_for("agent0").tolist(),
                "action": episode.last_action_for(),
                "prev_action": episode.prev_action_for(),
                "rewards": (episode.prev_reward_for(), episode.last_reward_for()),
                "done": episode.last_done_for(),
                "return": episode.agent_rewards,
                "info": dict(episode.last_info_for()),
                "worker": episode.worker.worker_index,
            }
        )


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_an_episode_gives_what_users_of_rllib_read(vectorization):
    with make(
        f"env.vectorization={vectorization}",
        "env.env_config.terminates_at=3",
        env=INFO_ENV,
        callbacks={"x": named(ReadEpisode)},
    ) as trainer:
        trainer.train()
    start, first, second, last, next_start, *_ = ReadEpisode.seen
    for seen in (start, first, second, last):
        assert (seen["env"], seen["agents"]) == (0, ["agent0"])
        assert (seen["policy"], seen["worker"]) == ("default_policy", 0)
        assert seen["obs"] == seen["raw"]
    assert [s["raw"] for s in (start, first, last, next_start)] == [[0, 0], [0, 1], [0, 3], [1, 0]]
    assert (start["action"], start["prev_action"], first["prev_action"]) == (None, None, None)
    assert second["prev_action"] == first["action"]
    assert [s["rewards"] for s in (start, first, second, last)] == [(0, 0), (0, 1), (1, 2), (2, 3)]
    assert [s["done"] for s in (start, first, second, last)] == [False, False, False, True]
    assert last["return"] == {("agent0", "default_policy"): 6.0}
    assert start["info"] == next_start["info"] == {"step": 0, "is_reset": True}
    assert second["info"] == {"step": 2, "task": {"name": "step 2"}}


def test_an_agent_that_is_not_there_is_named():
    with pytest.raises(KeyError, match=r"no agent 'dog' in this episode; there is 'agent0'"):
        Episode(1, 0, 0).last_reward_for("dog")


# Infos, and rewards that are backdated from them


class LateReward(gym.Env):
    """Three steps without reward; info then says what each step was worth."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0.0, 3.0, (1,), np.float32)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        is_over = self.steps == 3
        info = {"worth": [5.0, 6.0, 7.0]} if is_over else {}
        return np.array([self.steps], np.float32), 0.0, is_over, False, info


class Backdate(Callbacks):
    """Gives each step the reward that the end of its episode tells."""

    batches: list[Batch] = []  # noqa: RUF012

    def on_postprocess_trajectory(
        self, *, worker, policy_id, postprocessed_batch, original_batches, **kwargs
    ):
        _, trajectory = original_batches["agent0"]
        assert postprocessed_batch["infos"].shape == postprocessed_batch["advantages"].shape
        for step, env in np.argwhere(trajectory["terminated"]):
            worth = trajectory["infos"][step, env]["worth"]
            trajectory["rewards"][step - len(worth) + 1 : step + 1, env] = worth
        postprocessed_batch.update(worker.postprocess(policy_id, trajectory))

    def on_sample_end(self, *, samples, **kwargs):
        self.batches.append(samples)


@pytest.mark.parametrize("batch_mode", ["truncate_episodes", "complete_episodes"])
@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_rewards_are_backdated_from_infos(vectorization, batch_mode):
    Backdate.batches.clear()
    with make(
        f"env.vectorization={vectorization}",
        f"algo.batch_mode={batch_mode}",
        "algo.num_envs_per_worker=2",
        "algo.train_batch_size=12",
        "algo.minibatch_size=12",
        "algo.gamma=0.5",
        "algo.gae_lambda=1.0",
        "rollout_columns=[infos]",
        env=f"{__name__}.LateReward",
        callbacks={"x": named(Backdate)},
    ) as trainer:
        result = trainer.train()
        rows = Backdate.batches[0]
    assert result["episode_reward_mean"] == 0.0, "the env's own returns are left as they are"
    assert "infos" not in rows
    # 7, 6 + 7/2 and 5 + 6/2 + 7/4, by the step of the observation.
    expected = np.array([9.75, 9.5, 7.0])[rows["obs"][:, 0].astype(int)]
    np.testing.assert_allclose(rows["value_targets"], expected, rtol=1e-6)


class SeeColumns(Callbacks):
    seen: list[Any] = []  # noqa: RUF012

    def on_postprocess_trajectory(self, *, episode, postprocessed_batch, worker, **kwargs):
        self.seen.append((episode, sorted(postprocessed_batch), worker.episodes))


def test_other_columns_reach_callbacks_and_go_no_further():
    SeeColumns.seen.clear()
    with make(
        "rollout_columns=[dist_inputs,next_obs]", callbacks={"x": named(SeeColumns)}
    ) as trainer:
        trainer.train()
    episode, columns, running = SeeColumns.seen[0]
    assert {"dist_inputs", "next_obs"} <= set(columns)
    assert isinstance(episode, Episode)
    assert running[0] is episode, "it is asked for by its name"


def test_a_whole_episode_comes_with_its_trajectory():
    SeeColumns.seen.clear()
    with make(
        "algo.batch_mode=complete_episodes",
        "algo.num_envs_per_worker=2",
        "algo.rollout_fragment_length=8",
        "env.env_config.terminates_at=[2,3]",
        callbacks={"x": named(SeeColumns)},
    ) as trainer:
        trainer.train()
    found = [(episode.env_index, episode.length) for episode, _, _ in SeeColumns.seen]
    assert found == [(0, 2), (0, 3), (0, 2), (1, 2), (1, 3), (1, 2)]


def test_episodes_that_nobody_is_to_see_whole_are_not_kept():
    with make(callbacks={"x": named(SeeColumns)}) as trainer:
        trainer.train()
        sampler = trainer.workers.local_worker().input
        assert sampler.episodes.take_ended() == []


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["rollout_columns=[infos]"], r"rollout_columns=\[infos\] is for callbacks that override"),
        (
            ["rollout_columns=[info]"],
            r"rollout_columns=\['info'\] must be a list",
        ),
    ],
)
def test_columns_that_nobody_could_look_at_are_refused(overrides, words):
    with pytest.raises(ConfigError, match=words):
        make(*overrides)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_native_envs_give_each_env_its_own_infos(mode):
    vector_env = gym.vector.SyncVectorEnv(
        [partial(InfoEnv, terminates_at=2 + i) for i in range(2)], autoreset_mode=mode
    )
    env = NativeVectorEnv(vector_env, "InfoEnv")
    env.reset([1])
    assert env.infos() == [{"step": 0, "is_reset": True}] * 2
    actions = np.zeros(2, int)
    env.step(actions)
    assert [info["step"] for info in env.infos()] == [1, 1]
    _, _, terminated, _ = env.step(actions)
    assert terminated.tolist() == [True, False]
    assert env.infos() == [{"step": 2, "task": {"name": "step 2"}}] * 2
    env.reset_done(terminated)
    if env.skips_reset_rows:
        env.step(actions)
        assert [info["step"] for info in env.infos()] == [0, 3]
        assert env.infos()[0] == {"step": 0, "is_reset": True}
    else:
        assert env.infos() == [
            {"step": 0, "is_reset": True},
            {"step": 2, "task": {"name": "step 2"}},
        ]


# What goes wrong


def fail(self: Any, **kwargs: Any) -> None:
    raise ZeroDivisionError("mine")


@pytest.mark.parametrize(
    ("hook", "where"),
    [
        ("on_trainer_init", "the driver"),
        ("on_sub_environment_created", "the local worker"),
        ("on_episode_start", "the local worker"),
        ("on_episode_step", "the local worker"),
        ("on_episode_end", "the local worker"),
        ("on_postprocess_trajectory", "the local worker"),
        ("on_sample_end", "the local worker"),
        ("on_learn_on_batch", "the driver"),
        ("on_train_result", "the driver"),
        ("on_evaluate_start", "the driver"),
        ("on_evaluate_end", "the driver"),
        ("on_checkpoint", "the driver"),
    ],
)
@pytest.mark.parametrize("is_chained", [False, True])
def test_a_callback_that_raises_is_named_with_its_hook_and_worker(
    hook, where, is_chained, tmp_path, monkeypatch
):
    one = type("Broken", (Callbacks,), {hook: fail})
    monkeypatch.setitem(globals(), "Broken", one)
    monkeypatch.setattr(one, "__module__", __name__)
    node = {"_target_": f"{__name__}.Broken"}
    callbacks = [named(Callbacks), node] if is_chained else node

    def run() -> None:
        with make("evaluation.duration=1", "evaluation.interval=1", callbacks=callbacks) as trainer:
            trainer.train()
            trainer.save(tmp_path)

    named_so = rf"Broken failed in {hook} \({where}\): ZeroDivisionError: mine"
    with pytest.raises(CallbackError, match=named_so):
        run()


class Refuses(Callbacks):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def on_trainer_init(self, **kwargs):
        raise self.error


@pytest.mark.parametrize("kind", [ConfigError, WorkerError, BatchError, MissingExtraError])
@pytest.mark.parametrize("is_chained", [False, True])
def test_an_error_of_ours_from_a_callback_is_named_and_keeps_its_type(kind, is_chained):
    callbacks: Callbacks = Refuses(kind("a.b=3 must be 4."))
    if is_chained:
        callbacks = MultiCallbacks([callbacks])
    with pytest.raises(RlrunError) as caught:
        call(callbacks, "on_trainer_init", trainer=None)
    assert type(caught.value) is kind
    named_so = f"{__name__}.Refuses failed in on_trainer_init (the driver): a.b=3 must be 4."
    assert str(caught.value) == named_so
    assert str(pickle.loads(pickle.dumps(caught.value))) == named_so


def test_an_interruption_is_no_failure_of_a_callback():
    with pytest.raises(Interrupted, match=r"^enough$"):
        call(Refuses(Interrupted("enough")), "on_trainer_init", trainer=None)


def test_a_curriculum_of_ours_names_its_setting_alone():
    with pytest.raises(ConfigError, match=r"^curriculum\.tasks='impossible': "):
        make(
            *("curriculum=learning_progress", "curriculum.tasks=[impossible]"),
            env="toy_envs.AnyTaskEnv",
        )


class BrokenSteps(Callbacks):
    def on_episode_step(self, *, worker, **kwargs):
        if worker.worker_index == 2:
            raise ZeroDivisionError("mine")


def test_a_callback_that_raises_in_a_remote_worker_names_that(ray_cluster):
    with (
        make(
            "resources.num_workers=2",
            "resources.num_cpus_per_worker=0.5",
            callbacks=named(BrokenSteps),
        ) as trainer,
        pytest.raises(
            CallbackError,
            match=r"BrokenSteps failed in on_episode_step \(worker 2\): ZeroDivisionError: mine",
        ),
    ):
        trainer.train()


class NoteFailures(Callbacks):
    told: list[Any] = []  # noqa: RUF012

    def on_worker_failure(self, *, trainer, worker_index, in_evaluation, error, **kwargs):
        assert isinstance(trainer, Trainer)
        self.told.append((worker_index, in_evaluation, str(error)))


@pytest.mark.parametrize("in_evaluation", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_callbacks_hear_of_a_worker_whose_process_is_killed(in_evaluation, ray_cluster):
    NoteFailures.told.clear()
    with make(
        "resources.num_workers=2",
        "evaluation.num_workers=1",
        "evaluation.interval=1",
        "evaluation.duration=1",
        "resources.num_cpus_per_worker=0.3",
        callbacks={"x": named(NoteFailures)},
    ) as trainer:
        trainer.train()
        workers = trainer.workers
        if in_evaluation:
            workers = trainer.evaluation.workers(trainer.algorithms)
        pid = ray_cluster.get(workers.remote_workers()[-1].call.remote(_own_pid))
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(WorkerDiedError, match="died"):
            trainer.train()
    ((index, evaluated, message),) = NoteFailures.told
    assert (index, evaluated) == ((1, True) if in_evaluation else (2, False))
    assert message.startswith("Evaluation worker 1 died" if in_evaluation else "Worker 2 died")


def _own_pid(worker: Any) -> int:
    return os.getpid()


# Running episodes in a resumed run


class Diary(Callbacks):
    """Counts steps in user_data, and keeps what a checkpoint cannot hold."""

    def on_episode_start(self, *, episode, **kwargs):
        episode.user_data |= {"steps": 0, "past": [], "lock": threading.Lock()}

    def on_episode_step(self, *, episode, **kwargs):
        assert episode.user_data["lock"]
        episode.user_data["steps"] += 1
        episode.user_data["past"].append((episode.prev_action_for(), episode.prev_reward_for()))
        episode.hist_data.setdefault("rewards", []).append(episode.last_reward)

    def on_episode_end(self, *, episode, **kwargs):
        past = episode.user_data["past"]
        episode.custom_metrics["steps"] = episode.user_data["steps"]
        episode.custom_metrics["past"] = sum(reward for _, reward in past)
        episode.custom_metrics["actions"] = sum(int(action or 0) for action, _ in past)
        episode.custom_metrics["id"] = episode.episode_id


@pytest.mark.parametrize("num_workers", [0, 1])
def test_notes_on_running_episodes_outlive_a_resume(num_workers, tmp_path, caplog, request):
    if num_workers:
        request.getfixturevalue("ray_cluster")

    def trainer() -> Trainer:
        return make(
            f"resources.num_workers={num_workers}",
            "resources.num_cpus_per_worker=0.5",
            "algo.num_envs_per_worker=2",
            "algo.train_batch_size=10",
            "algo.minibatch_size=10",
            "env.env_config.terminates_at=[7,3]",
            callbacks=named(Diary),
        )

    with trainer() as first:
        first.train()
        folder = first.save(tmp_path)
        expected = [first.train() for _ in range(2)]
    if not num_workers:
        assert "holds no episode.user_data['lock'] of running episodes" in caplog.text
    with trainer() as second:
        second.restore(folder)
        found = [second.train() for _ in range(2)]
    assert expected[0]["custom_metrics"]["steps_max"] == 7
    for result, other in zip(expected, found, strict=True):
        assert other["custom_metrics"] == result["custom_metrics"]
        assert other["hist_stats"] == result["hist_stats"]


class Ids(Callbacks):
    def on_episode_end(self, *, episode, **kwargs):
        episode.hist_data["ids"] = [episode.episode_id]


def test_episodes_have_their_ids_again_after_a_resume(tmp_path):
    def trainer() -> Trainer:
        return make(
            "algo.num_envs_per_worker=2",
            "algo.train_batch_size=10",
            "algo.minibatch_size=10",
            "env.env_config.terminates_at=[4,3]",
            "evaluation.interval=1",
            "evaluation.duration=3",
            callbacks=named(Ids),
        )

    def ids(result: dict[str, Any]) -> tuple[Any, Any]:
        return result["hist_stats"]["ids"], result["evaluation"]["hist_stats"]["ids"]

    with trainer() as first:
        first.train()
        folder = first.save(tmp_path)
        expected = [ids(first.train()) for _ in range(2)]
    with trainer() as second:
        second.restore(folder)
        assert [ids(second.train()) for _ in range(2)] == expected


def test_infos_of_steps_that_wait_outlive_a_resume(tmp_path):
    def trainer() -> Trainer:
        return make(
            "algo.batch_mode=complete_episodes",
            "algo.rollout_fragment_length=4",
            "algo.num_envs_per_worker=2",
            "rollout_columns=[infos]",
            env=f"{__name__}.LateReward",
            callbacks={"x": named(Backdate)},
        )

    def rows_of(trainer: Trainer) -> list[Batch]:
        Backdate.batches.clear()
        trainer.train()
        return list(Backdate.batches)

    with trainer() as first:
        first.train()
        folder = first.save(tmp_path)
        expected = rows_of(first)
    with trainer() as second:
        second.restore(folder)
        found = rows_of(second)
    for rows, others in zip(expected, found, strict=True):
        for name, column in rows.items():
            np.testing.assert_array_equal(others[name], column, err_msg=name)
