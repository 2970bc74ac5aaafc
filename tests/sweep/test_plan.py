"""How trials come of points, and what is checked before the first one starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlrun.core.errors import ConfigError
from rlrun.sweep import plan as plan_module
from rlrun.sweep.plan import SweepPlan
from rlrun.sweep.request import plan_sweep
from rlrun.sweep.trial import Status, TrialResources


def plan(*arguments: str) -> SweepPlan:
    return plan_sweep([*arguments, "hydra.sweep.dir=sweep"])


def test_a_trial_is_a_point_with_a_seed_and_trials_of_a_point_follow_one_another():
    trials = plan("algo.lr=1e-3,1e-4", "sweep.seeds=2", "stop.training_iteration=1").check()
    assert [(trial.number, trial.point) for trial in trials] == [(0, 0), (1, 0), (2, 1), (3, 1)]
    assert [trial.params for trial in trials] == [
        {"algo.lr": 0.001, "seed": 0},
        {"algo.lr": 0.001, "seed": 1},
        {"algo.lr": 0.0001, "seed": 0},
        {"algo.lr": 0.0001, "seed": 1},
    ]
    assert trials[2].overrides == ["++stop.training_iteration=1", "algo.lr=0.0001", "seed=0"]
    assert trials[2].folder == Path("sweep").absolute() / "2"
    assert {trial.status for trial in trials} == {Status.WAITING}


def test_params_are_what_differs_without_marks_of_the_grammar():
    trials = plan("search.space.algo.gamma=0.9", "stop.timesteps_total=10,20", "seed=3").check()
    assert [trial.params for trial in trials] == [
        {"stop.timesteps_total": 10},
        {"stop.timesteps_total": 20},
    ]
    assert trials[0].overrides == ["seed=3", "algo.gamma=0.9", "++stop.timesteps_total=10"]


def test_the_config_of_a_trial_is_the_one_that_its_overrides_compose():
    made = plan("algo.lr=1e-3,1e-4", "algo=ppo,a2c", "seed=1,2")
    trial = made.check()[-1]
    config = made.config_of(trial)
    assert (config["algo"]["_target_"], config["algo"]["lr"], config["seed"]) == (
        *("rlrun.algos.a2c.A2C", 0.0001, 2),
    )


def test_after_the_check_the_search_gives_the_points_whose_trials_were_checked():
    made = plan("algo.lr=1e-3,1e-4", "seed=0,1")
    checked = made.check()
    points = list(iter(made.search.ask, None))
    assert [t for number, point in enumerate(points) for t in made.trials_of(number, point)] == (
        checked
    )


WORKER = {"CPU": 0.5, "GPU": 0.1, "slot": 2.0}
SHARD = {"CPU": 1.0}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], TrialResources(cpus=1, driver_cpus=1)),
        (
            ["resources.num_gpus=0.2", "resources.num_cpus_for_driver=3"],
            TrialResources(cpus=3, driver_cpus=3, driver_gpus=0.2),
        ),
        (
            # 1 for the driver, 2 + 1 workers of 0.5.
            [
                *("resources.num_workers=2", "evaluation.num_workers=1", "evaluation.interval=1"),
                *("resources.num_cpus_per_worker=0.5", "resources.num_gpus_per_worker=0.1"),
                "resources.custom_resources_per_worker.slot=2",
            ],
            TrialResources(
                cpus=2.5,
                driver_cpus=1,
                worker_gpus=(0.1, 0.1, 0.1),
                custom={"slot": 6},
                bundles=(WORKER, WORKER, WORKER),
            ),
        ),
        (
            # 1 for the driver, 2 for workers, 4 for shards.
            ["algo=apex", "algo.num_replay_buffer_shards=4", "resources.num_workers=2"],
            TrialResources(
                cpus=7, driver_cpus=1, bundles=({"CPU": 1.0, "GPU": 0.0},) * 2 + (SHARD,) * 4
            ),
        ),
        (["algo=apex", "algo.num_replay_buffer_shards=4"], TrialResources(cpus=1, driver_cpus=1)),
        (["resources.custom_resources_per_worker.slot=2"], TrialResources(cpus=1, driver_cpus=1)),
    ],
)
def test_a_trial_asks_for_its_driver_its_workers_and_its_shards(arguments, expected):
    (trial,) = plan(*arguments).check()
    assert trial.resources == expected
    assert trial.resources.needs_ray is bool(expected.bundles)


def test_a_grid_with_one_trial_that_cannot_run_is_refused_and_the_trial_named():
    with pytest.raises(ConfigError, match=r"algo.gamma=2.0 must be .* \(Trial 2: algo.gamma=2\)"):
        plan("algo.gamma=0.8,0.9,2").check()


@pytest.mark.parametrize(
    ("typed", "complaint"),
    [
        ("sweep.metric=episode_reward_meen", r"sweep\.metric.*Did you mean episode_reward_mean"),
        ("scheduler.metric=nonsense", r"scheduler\.metric names the result key 'nonsense'"),
        ("scheduler.time_attr=timestep_total", r"scheduler\.time_attr.*mean timesteps_total"),
        ("sweep.metric=evaluation/episode_reward_mean", r"sweep\.metric.*no evaluation runs"),
    ],
)
@pytest.mark.parametrize("search", [["seed=0,1"], ["search=random", "sweep.num_samples=2"]])
def test_a_key_that_no_result_has_is_refused_before_trials_are_judged_by_it(
    typed: str, complaint: str, search: list[str]
):
    with pytest.raises(ConfigError, match=complaint):
        plan(*search, "scheduler=asha", typed).check()


def test_what_is_wrong_with_every_trial_is_told_without_naming_one():
    with pytest.raises(ConfigError, match=r"Allowed below 'algo': [^()]*$"):
        plan("algo.gama=0.8").check()


def test_a_drawn_point_that_cannot_run_is_a_failed_trial_with_the_message(capsys):
    made = plan("search=random", "sweep.num_samples=6", "algo.gamma=0.5,2", "seed=0,1")
    trials = made.check()
    failed = [trial for trial in trials if trial.params["algo.gamma"] == 2]
    assert 0 < len(failed) < len(trials) == 12
    assert {trial.status for trial in failed} == {Status.FAILED}
    assert {trial.error for trial in failed} == {"algo.gamma=2.0 must be between 0 and 1."}
    assert {t.status for t in trials if t not in failed} == {Status.WAITING}
    said = capsys.readouterr().err
    assert "rlrun: some points will fail, such as algo.gamma=2: algo.gamma=2.0 must be" in said


@pytest.mark.parametrize(
    ("searched", "message"),
    [
        ("algo.gamma=interval(2,3)", "algo.gamma=2.0 must be between 0 and 1"),
        ("algo.gama=interval(0,1)", "no key 'algo.gama'"),
        ("algo.num_epochs=interval(1,3)", "algo.num_epochs=1.0 must be|algo.num_epochs=3.0"),
    ],
)
@pytest.mark.parametrize("search", ["random", "optuna"])
def test_a_space_in_which_nothing_can_run_is_refused_before_anything_starts(
    search, searched, message
):
    if search == "optuna":
        pytest.importorskip("optuna")
    with pytest.raises(ConfigError, match=message):
        plan(f"search={search}", "sweep.num_samples=3", searched).check()


def test_a_search_that_learns_is_not_asked_beforehand():
    pytest.importorskip("optuna")
    made = plan("search=optuna", "sweep.num_samples=3", "algo.lr=interval(0.1,0.2)", "seed=0,1")
    assert made.check() == []
    assert made.num_trials == 6
    point = made.search.ask()
    trials = made.trials_of(0, point)
    assert [trial.params for trial in trials] == [point | {"seed": 0}, point | {"seed": 1}]
    bad = made.trials_of(1, {"algo.lr": "fast"})
    assert [trial.status for trial in bad] == [Status.FAILED] * 2
    assert bad[1].number == 3
    assert "algo.lr=fast must be a number" in bad[1].error


def test_trials_with_the_same_settings_are_named(capsys):
    made = plan("algo.lr=1e-3,0.001,1e-4", "seed=0,1")
    made.check()
    assert made.duplicates == {2: 0, 3: 1}
    said = capsys.readouterr().err
    assert "rlrun: trials have the same settings as earlier ones: 2 as 0, 3 as 1\n" in said


def test_a_folder_may_be_named_by_what_differs_but_not_be_shared():
    trials = plan("algo.lr=1e-3,1e-4", "hydra.sweep.subdir=lr_${algo.lr}").check()
    assert [trial.folder.name for trial in trials] == ["lr_0.001", "lr_0.0001"]
    with pytest.raises(ConfigError, match=r"subdir=mine gives trials 0 and 1 the same folder"):
        plan("algo.lr=1e-3,1e-4", "hydra.sweep.subdir=mine").check()


def test_a_check_that_takes_seconds_says_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(plan_module, "SAY_EVERY_S", 0.0)
    plan("algo.lr=1e-3,1e-4,1e-5").check()
    assert capsys.readouterr().err == (
        "rlrun: 1 of 3 trials are checked\nrlrun: 2 of 3 trials are checked\n"
    )
