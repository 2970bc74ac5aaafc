"""Vector envs of an env's own making give the rows that the same envs give one by one."""

from __future__ import annotations

import numpy as np
import pytest
from toy_envs import ResetsAllEnv, make_native

from rlrun.core.errors import WorkerError
from rlrun.core.exploration import StochasticSampling
from rlrun.workers.native_env import NativeVectorEnv

MODES = ["NextStep", "SameStep", "Disabled"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("env", "settings"),
    [
        ("CountingEnv", {"terminates_at": [2, None, 4], "truncates_at": [None, 3, None]}),
        ("DictObsEnv", {"terminates_at": 3}),
        ("TupleObsEnv", {"terminates_at": 3}),
    ],
)
def test_every_kind_of_autoreset_gives_the_rows_of_the_envs_one_by_one(
    make_worker, sample_columns, env, settings, mode
):
    native = make_worker(
        "toy/Native-v0",
        num_envs=2,
        vectorization="native",
        env_config={"env": env, "autoreset_mode": mode, **settings},
    )
    alone = make_worker(f"toy_envs.{env}", num_envs=2, env_config=settings)
    columns, expected = sample_columns(native, 24), sample_columns(alone, 24)
    assert ("valid" in columns) == (mode == "NextStep")
    valid = columns.get("valid", np.ones((24, 2), bool))[:, 0]
    assert valid.sum() == (24 if mode != "NextStep" else 18)
    for name in ("obs", "next_obs", "rewards", "terminated", "truncated"):
        np.testing.assert_array_equal(columns[name][valid], expected[name][: valid.sum()], name)
    lengths = [(report.length, report.total_reward) for report in native.take_metrics()]
    assert lengths == [(r.length, r.total_reward) for r in alone.take_metrics()][: len(lengths)]


class CountsEnds(StochasticSampling):
    """Counts the episodes of each env whose end it hears of."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.num_ended = np.zeros(2, int)

    def reset(self, envs):
        self.num_ended += envs


@pytest.mark.parametrize(("mode", "num_episodes"), [("NextStep", 6), ("SameStep", 8)])
def test_exploration_hears_of_the_end_of_each_episode_once(
    make_worker, sample_columns, mode, num_episodes
):
    exploration = CountsEnds()
    worker = make_worker(
        "toy/Native-v0",
        num_envs=2,
        exploration=exploration,
        vectorization="native",
        env_config={"env": "CountingEnv", "autoreset_mode": mode, "terminates_at": 3},
    )
    exploration.num_ended[:] = -1  # The first reset ends none.
    sample_columns(worker, 24)
    assert exploration.num_ended.tolist() == [num_episodes, num_episodes]


def test_a_reset_by_mask_that_resets_others_is_an_error():
    envs = NativeVectorEnv(ResetsAllEnv(), "ResetsAll-v0", worker_index=2)
    envs.reset([0])
    for _ in range(3):
        _, _, terminated, _ = envs.step(np.zeros(2, np.int64))
    assert terminated.tolist() == [True, False]
    with pytest.raises(WorkerError) as caught:
        envs.reset_done(terminated)
    assert str(caught.value) == (
        "Worker 2 failed in reset of the vector env 'ResetsAll-v0': it changed envs whose episode "
        "goes on. With autoreset_mode=DISABLED, reset(options={'reset_mask': mask}) must reset "
        "those of the mask alone."
    )


@pytest.mark.parametrize(
    ("final_obs", "words"),
    [
        (None, r"episodes ended in the envs \[0, 1\], and the infos have no 'final_obs'"),
        ([None, None], "'final_obs' of env 0 is None, and its space"),
        ([np.zeros(2, np.float32), np.zeros(1)], r"'final_obs' of env 1 has the shape \(1,\)"),
    ],
)
def test_a_last_observation_that_is_missing_or_odd_is_an_error(monkeypatch, final_obs, words):
    inner = make_native(2, "CountingEnv", "SameStep", terminates_at=1)
    step = inner.step

    def other_infos(actions):
        *given, _ = step(actions)
        return *given, {} if final_obs is None else {"final_obs": final_obs}

    monkeypatch.setattr(inner, "step", other_infos)
    envs = NativeVectorEnv(inner, "Odd-v0", worker_index=2)
    envs.reset([0])
    with pytest.raises(WorkerError, match=rf"^Worker 2 failed in step of .*'Odd-v0': {words}"):
        envs.step(np.zeros(2, np.int64))


def test_an_unknown_kind_of_autoreset_names_the_known_ones():
    inner = make_native(1, "CountingEnv", "SameStep")
    inner.metadata = {"autoreset_mode": "sometimes"}
    with pytest.raises(WorkerError, match=r"'sometimes'; it must be one of .*NEXT_STEP.*DISABLED"):
        NativeVectorEnv(inner, "Odd-v0")
