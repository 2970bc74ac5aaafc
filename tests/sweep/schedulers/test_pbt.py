from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from simulated_sweep import SimulatedSweep, make_trial, set_up

from rlrun.core.errors import ConfigError
from rlrun.sweep.schedulers.base import Continue, Exploit, Pause
from rlrun.sweep.schedulers.pbt import PBT
from rlrun.sweep.schedulers.pbt_log import Entry, best_trial, read_log, schedule_of
from rlrun.sweep.schedulers.pbt_replay import PBTReplay
from rlrun.sweep.trial import Status

LRS = [1, 2, 3, 4, 5]


class StagedToy:
    """What is learned in an iteration depends on how near the lr is to the best one, which falls
    from 5 to 1 in stages of 10 iterations; being one off loses all that could be learned."""

    @staticmethod
    def best_lr(iteration: int) -> int:
        return 5 - min(iteration // 10, 4)

    def __call__(self, state: float, iteration: int, values: dict[str, Any]) -> float:
        return state + (values["algo.lr"] == self.best_lr(iteration))


def population(tmp_path: Path, max_concurrent: int = 20) -> SimulatedSweep:
    scheduler = PBT(
        hyperparam_mutations={"algo": {"lr": LRS}},
        perturbation_interval=2,
        quantile_fraction=0.4,
        resample_probability=0.25,
    )
    params = [{"algo.lr": LRS[number % 5]} for number in range(20)]
    return SimulatedSweep(
        scheduler,
        StagedToy(),
        params,
        folder=tmp_path,
        max_concurrent=max_concurrent,
        max_iterations=50,
    ).run()


@pytest.mark.parametrize("max_concurrent", [20, 4])
def test_it_finds_the_best_schedule_of_a_toy(max_concurrent: int, tmp_path: Path) -> None:
    sweep = population(tmp_path, max_concurrent)
    # No constant lr learns more than 10 of 50 things. Each of the four falls of the best lr costs
    # some intervals of 2 until somebody tries the next one.
    assert sweep.best.result["reward"] >= 40
    steps = schedule_of(read_log(tmp_path, "scheduler.log"), sweep.best.number)
    lrs = [lr_at(steps, iteration) for iteration in range(50)]
    mostly = [statistics.mode(lrs[begin : begin + 10]) for begin in range(0, 50, 10)]
    assert mostly == [5, 4, 3, 2, 1]


def lr_at(steps: list[Any], iteration: int) -> int:
    return [step.values["algo.lr"] for step in steps if step.time <= iteration][-1]


def test_its_log_replays_the_best_trial_with_the_same_values_at_the_same_times(
    tmp_path: Path,
) -> None:
    sweep = population(tmp_path)
    assert best_trial(read_log(tmp_path, "scheduler.log")) == sweep.best.number
    replay = SimulatedSweep(
        PBTReplay(log=str(tmp_path / "pbt.jsonl")),
        StagedToy(),
        [{"algo.lr": 3}, {"algo.lr": 1}],
        max_iterations=50,
    ).run()
    steps = schedule_of(read_log(tmp_path, "scheduler.log"), sweep.best.number)
    expected = [(iteration, {"algo.lr": lr_at(steps, iteration)}) for iteration in range(50)]
    assert replay.history == {0: expected, 1: expected}
    assert [trial.result for trial in replay.trials] == [sweep.best.result] * 2


def make_pbt(tmp_path: Path, num_trials: int, **settings: Any) -> tuple[PBT, list[Any]]:
    scheduler = PBT(
        **{
            "hyperparam_mutations": {"algo.lr": {"min": 0.1, "max": 10.0}},
            "perturbation_interval": 2,
            "resample_probability": 0,
            **settings,
        }
    )
    set_up(scheduler, tmp_path)
    trials = [
        make_trial(number, {"algo.lr": 1.0 + number}, tmp_path) for number in range(num_trials)
    ]
    for trial in trials:
        scheduler.on_add(trial)
        told(scheduler, trial, 1, 0.0)
    return scheduler, trials


def told(scheduler: PBT, trial: Any, time: int, reward: float) -> Any:
    trial.result = {"training_iteration": time, "reward": reward}
    return scheduler.on_result(trial, trial.result)


def test_the_worst_quarter_copies_the_best_quarter_and_perturbs(tmp_path: Path) -> None:
    pbt, trials = make_pbt(tmp_path, 4)
    assert [told(pbt, trial, 2, float(trial.number)) for trial in trials[1:]] == [
        Continue(checkpoint=True)
    ] * 3
    decision = told(pbt, trials[0], 3, 0.0)
    assert isinstance(decision, Exploit)
    # Trial 3 is the best, with lr 4; times 1.2 or 0.8.
    assert decision.source == 3
    assert decision.overrides["algo.lr"] in (pytest.approx(4.8), pytest.approx(3.2))
    # From the checkpoint of iteration 2: it is judged again two iterations later.
    assert told(pbt, trials[0], 3, 0.0) == Continue()
    assert isinstance(told(pbt, trials[0], 4, 0.0), Exploit)
    last = json.loads((tmp_path / "pbt.jsonl").read_text().splitlines()[-1])
    assert last["event"] == "exploit"
    assert (last["trial"], last["source"], last["time"], last["source_time"]) == (0, 3, 4, 2)


def test_the_log_tells_of_the_checkpoint_that_was_really_copied(tmp_path: Path) -> None:
    pbt, trials = make_pbt(tmp_path, 4)
    for trial in trials[1:]:
        told(pbt, trial, 2, float(trial.number))
    told(pbt, trials[0], 3, 0.0)
    before = read_log(tmp_path, "scheduler.log")
    pbt.on_copied(trials[0], 5)
    after = read_log(tmp_path, "scheduler.log")
    assert after[:-1] == before[:-1]
    assert (before[-1].source_time, after[-1].source_time) == (2, 5)
    assert schedule_of(after, 0)[-1].time == 5
    # It is judged two iterations after what it goes on from.
    assert told(pbt, trials[0], 6, 0.0) == Continue()
    assert isinstance(told(pbt, trials[0], 7, 0.0), Exploit)


def test_nobody_copies_one_that_has_no_checkpoint_of_its_score(tmp_path: Path) -> None:
    pbt, trials = make_pbt(tmp_path, 2, quantile_fraction=0.5)
    told(pbt, trials[1], 2, 5.0)
    assert told(pbt, trials[0], 2, 1.0).source == 1
    # 1 gets worse than what 0 had before it copied 1: there is nothing to go back to.
    assert told(pbt, trials[1], 4, 0.5) == Continue(checkpoint=True)


def test_nobody_is_judged_in_the_burn_in_period(tmp_path: Path) -> None:
    pbt, trials = make_pbt(tmp_path, 2, burn_in_period=7)
    assert told(pbt, trials[0], 6, 1.0) == Continue()
    assert told(pbt, trials[0], 7, 1.0) == Continue(checkpoint=True)


def test_trials_take_turns_where_there_is_no_room_for_all(tmp_path: Path) -> None:
    pbt, trials = make_pbt(tmp_path, 2)
    late = make_trial(2, {"algo.lr": 1.0}, tmp_path)
    pbt.on_add(late)
    assert isinstance(told(pbt, trials[0], 2, 1.0), Pause)
    assert pbt.choose([trials[0], late]) is late
    told(pbt, late, 1, 1.0)
    assert isinstance(told(pbt, trials[1], 2, 1.0), Pause)  # as 0 waits


def test_who_has_failed_leaves_the_population(tmp_path: Path) -> None:
    pbt, trials = make_pbt(tmp_path, 2, quantile_fraction=0.5)
    told(pbt, trials[1], 2, 5.0)
    trials[1].status = Status.FAILED
    pbt.on_end(trials[1])
    assert told(pbt, trials[0], 2, 1.0) == Continue(checkpoint=True)


def test_a_mutated_key_that_the_sweep_does_not_set_begins_with_a_value_of_its_range() -> None:
    pbt = PBT(hyperparam_mutations={"algo.lr": {"min": 1e-4, "max": 1e-2, "log": True}})
    set_up(pbt)
    trials = [make_trial(number, {}) for number in range(3)]
    for trial in trials:
        pbt.on_add(trial)
    lrs = [trial.params["algo.lr"] for trial in trials]
    assert all(1e-4 <= lr <= 1e-2 for lr in lrs)
    assert len(set(lrs)) == 3
    assert [trial.overrides for trial in trials] == [[f"algo.lr={lr}"] for lr in lrs]


def test_a_value_that_is_common_to_all_trials_is_where_they_begin() -> None:
    pbt = PBT(hyperparam_mutations={"algo.lr": {"min": 1e-4, "max": 1e-2}})
    set_up(pbt)
    trial = make_trial(0, {})
    trial.overrides = ["algo=dqn", "algo.lr=1e-3"]
    pbt.on_add(trial)
    assert trial.overrides == ["algo=dqn", "algo.lr=1e-3"]
    assert pbt._members[0].values == {"algo.lr": 1e-3}


def grows_tenfold(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "algo.lr": values["algo.lr"] * 10}


def test_a_function_of_the_users_has_the_last_word(tmp_path: Path) -> None:
    pbt, trials = make_pbt(
        tmp_path, 2, quantile_fraction=0.5, custom_explore_fn=f"{__name__}.grows_tenfold"
    )
    told(pbt, trials[1], 2, 5.0)
    lr = told(pbt, trials[0], 2, 1.0).overrides["algo.lr"]
    assert lr in (pytest.approx(24.0), pytest.approx(16.0))


DQN = {
    "algo": {"_target_": "rlrun.algos.dqn.DQN", "lr": 1e-3, "hiddens": [256], "buffer_size": 100},
    "model": {"fcnet_hiddens": [64]},
    "exploration": {"_target_": "x.Y", "final_epsilon": 0.1},
    "env": {"id": "CartPole-v1", "env_config": {}},
}


@pytest.mark.parametrize("key", ["algo.lr", "exploration.final_epsilon", "env.env_config.length"])
def test_what_can_change_in_a_run_may_be_mutated(key: str) -> None:
    PBT(hyperparam_mutations={key: [1, 2]}).check(make_trial(0, {"seed": 1}), DQN)


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        ("algo.hiddens", r"algo\.hiddens cannot change in a run.*DQN is built with it.*lr"),
        ("model.fcnet_hiddens", r"model\.fcnet_hiddens cannot change where a run goes on"),
        ("env.id", r"env\.id cannot change"),
        ("algo.learning_rat", r"There is no key 'algo\.learning_rat'\. Did you mean algo\.lr"),
    ],
)
def test_what_cannot_change_in_a_run_is_refused_before_it_starts(key: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        PBT(hyperparam_mutations={key: [1, 2]}).check(make_trial(0, {}), DQN)
    with pytest.raises(ConfigError, match=complaint):
        PBT(hyperparam_mutations={"algo.lr": [1, 2]}).check(make_trial(0, {key: 1}), DQN)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"hyperparam_mutations": {}}, r"scheduler=pbt needs something to explore"),
        ({"quantile_fraction": 0.6}, r"scheduler\.quantile_fraction=0\.6"),
        ({"resample_probability": 2}, r"scheduler\.resample_probability=2"),
        ({"perturbation_interval": 0}, r"scheduler\.perturbation_interval=0"),
        ({"perturbation_factors": []}, r"scheduler\.perturbation_factors"),
    ],
)
def test_values_out_of_range_are_refused(settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        PBT(**{"hyperparam_mutations": {"algo.lr": [1, 2]}, **settings})


@pytest.mark.parametrize(
    ("node", "params"),
    [(None, {}), (None, {"algo.lr": [[0, 1.0]]}), ({"min": 0.1, "max": 1.0}, {"algo.lr": "auto"})],
)
def test_a_number_that_is_changed_by_factors_has_to_begin_somewhere(
    node: Any, params: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"hyperparam_mutations\.algo\.lr changes a number"):
        PBT(hyperparam_mutations={"algo.lr": node}).check(make_trial(0, params), DQN)
    PBT(hyperparam_mutations={"algo.lr": None}).check(make_trial(0, {"algo.lr": 0.1}), DQN)


def test_reasons_have_the_scores_that_results_have(tmp_path: Path) -> None:
    pbt, trials = make_pbt(tmp_path, 4, mode="min")
    for trial, cost in zip(trials, (1, 2, 3), strict=False):
        told(pbt, trial, 2, cost)
    assert told(pbt, trials[3], 2, 4).reason.startswith("4 is in the lower quantile, 1 of 0")


def test_a_schedule_goes_through_all_who_were_copied() -> None:
    def exploit(trial: int, source: int, source_time: float, lr: float) -> Entry:
        return Entry(
            event="exploit",
            trial=trial,
            source=source,
            source_time=source_time,
            values={"algo.lr": lr},
        )

    entries = [
        *(Entry(event="start", trial=n, values={"algo.lr": float(n)}) for n in range(3)),
        exploit(1, 0, 10, 0.1),
        exploit(2, 1, 20, 0.2),
        exploit(1, 2, 30, 0.3),  # after 2 had copied it: no part of what 2 went through
        exploit(0, 2, 20, 0.4),
        Entry(event="score", trial=2, score=5.0),
        Entry(event="score", trial=0, score=4.0),
    ]
    assert best_trial(entries) == 2
    steps = [(step.time, step.values["algo.lr"]) for step in schedule_of(entries, 2)]
    assert steps == [(0, 0.0), (10, 0.1), (20, 0.2)]
    steps = [(step.time, step.values["algo.lr"]) for step in schedule_of(entries, 0)]
    assert steps == [(0, 0.0), (10, 0.1), (20, 0.2), (20, 0.4)]


def test_a_replay_without_a_log_says_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"scheduler\.log=.*cannot be read.*scheduler=pbt"):
        PBTReplay(log=str(tmp_path))
    (tmp_path / "pbt.jsonl").write_text('{"event": "trial", "number": 0}\n')
    with pytest.raises(ConfigError, match=r"is no log of scheduler=pbt"):
        PBTReplay(log=str(tmp_path))
    (tmp_path / "pbt.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"has no such trial with a score"):
        PBTReplay(log=str(tmp_path))
