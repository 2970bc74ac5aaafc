from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlrun.compose import compose, env_overrides, plain_config
from rlrun.core.batch import Batch
from rlrun.core.callbacks import HOOKS, Callbacks, MultiCallbacks
from rlrun.core.episode import Episode
from rlrun.core.errors import ConfigError
from rlrun.parts import read_config
from rlrun.run import make_trainer
from rlrun.trainer import Trainer
from rlrun.workers import episodes as episodes_module
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
                assert kwargs["base_env"] is worker.env
                assert kwargs["policies"] == {"default_policy": worker.get_policy()}
                assert kwargs["env_index"] == 0
        created = by_hook["on_sub_environment_created"]
        assert created["sub_environment"] is worker.env.get_sub_environments()[0]
        assert by_hook["on_train_result"]["result"] is result
        assert by_hook["on_evaluate_end"]["evaluation_metrics"] is result["evaluation"]
        assert by_hook["on_learn_on_batch"]["policy"] is trainer.get_policy()
        assert by_hook["on_postprocess_trajectory"]["policy"] is worker.get_policy()
        assert by_hook["on_postprocess_trajectory"]["policy_id"] == "default_policy"
        assert by_hook["on_checkpoint"]["checkpoint_dir"] == str(folder)


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
