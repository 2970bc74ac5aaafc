"""Reading our own files: order, parts, exact resume, and what is refused."""

from __future__ import annotations

import base64
import json
import zlib
from collections import Counter

import numpy as np
import pytest
from offline_data import RawRows, ValuedRows, episodes_of, input_from, output_to

from rlrun.core.errors import ConfigError, RlrunError, SpaceError
from rlrun.core.networks import CNN
from rlrun.workers.offline.config import InputConfig, files_of, resolved

COUNTING = "toy_envs.CountingEnv"


def write(make_worker, folder, *, num_episodes=12, length=3, files=1, env_id=COUNTING):
    """Files of `num_episodes` episodes in all; the obs of step t of episode e are [e, t]."""
    worker = make_worker(
        env_id,
        output=output_to(folder),
        fragment=num_episodes * length,
        env_config={"terminates_at": length},
    )
    worker.sample()
    worker.stop()
    (path,) = folder.iterdir()
    head, *lines = path.read_bytes().splitlines(keepends=True)
    path.unlink()
    for index in range(files):
        (folder / f"{index}.jsonl").write_bytes(head + b"".join(lines[index::files]))


def packed(content):
    return base64.b64encode(zlib.compress(content)).decode()


def steps_of(worker, num_samples):
    """The observations of all rows that the worker gives, as tuples."""
    found = []
    for _ in range(num_samples):
        found += map(tuple, worker.sample().batches["default_policy"]["obs"].tolist())
    return found


def episodes_in(steps):
    return [step[0] for step in steps if step[1] == 0]


def test_without_shuffling_episodes_come_as_they_stand_and_begin_again(make_worker, tmp_path):
    write(make_worker, tmp_path, num_episodes=4)
    reader = make_worker(COUNTING, input=input_from(tmp_path), fragment=5)
    steps = steps_of(reader, 5)
    assert steps[:12] == [(e, t) for e in range(4) for t in range(3)]
    assert steps[12:24] == steps[:12]


def test_columns_are_those_of_a_sampler_with_one_env(make_worker, tmp_path):
    write(make_worker, tmp_path, num_episodes=2)
    reader = make_worker(COUNTING, input=input_from(tmp_path), algorithm=ValuedRows)
    columns = reader.input.sample(4, 0, True)
    assert {column.shape[:2] for column in columns.values()} == {(4, 1)}
    assert columns["terminated"][:, 0].tolist() == [False, False, True, False]
    assert not columns["truncated"].any()
    assert columns["rewards"].dtype == np.float32
    assert columns["next_obs"][:, 0].tolist() == [[0, 1], [0, 2], [0, 3], [1, 1]]
    policy = reader.actors["default_policy"].policy
    np.testing.assert_array_equal(columns["values"][:, 0], policy.values(columns["obs"][:, 0]))
    next_values = policy.values(columns["next_obs"][:, 0])
    np.testing.assert_allclose(columns["next_values"][:, 0], next_values, rtol=1e-6)
    assert (columns["log_probs"] < 0).all()


def test_a_time_limit_is_no_termination(make_worker, tmp_path):
    worker = make_worker(
        COUNTING, output=output_to(tmp_path), fragment=4, env_config={"truncates_at": 4}
    )
    worker.sample()
    columns = make_worker(COUNTING, input=input_from(tmp_path)).input.sample(4, 0, True)
    assert columns["truncated"][:, 0].tolist() == [False, False, False, True]
    assert not columns["terminated"].any()


def test_steps_are_rows_read_and_others_returns_are_no_results(make_worker, tmp_path):
    write(make_worker, tmp_path)
    sample = make_worker(COUNTING, input=input_from(tmp_path), fragment=7).sample()
    assert (sample.env_steps, sample.vector_steps) == (7, 7)
    assert sample.episodes == []


def test_each_pass_gives_every_episode_once_in_another_order(make_worker, tmp_path):
    write(make_worker, tmp_path, files=3)
    config = input_from(tmp_path, shuffle_buffer_size=5)
    reader = make_worker(COUNTING, input=config, fragment=36)
    passes = [episodes_in(steps_of(reader, 1)) for _ in range(3)]
    assert all(sorted(each) == list(range(12)) for each in passes)
    assert passes[0] != passes[1] != passes[2]


def test_the_next_episode_is_drawn_from_so_many(make_worker, tmp_path):
    write(make_worker, tmp_path)
    reader = make_worker(COUNTING, input=input_from(tmp_path, shuffle_buffer_size=3), fragment=36)
    for position, episode in enumerate(episodes_in(steps_of(reader, 1))):
        assert episode <= position + 2


@pytest.mark.parametrize("seed", [7, 8])
def test_the_order_follows_from_the_seed(make_worker, tmp_path, seed):
    write(make_worker, tmp_path, files=3)
    config = input_from(tmp_path, shuffle_buffer_size=12)
    one, other = (make_worker(COUNTING, input=config, fragment=36, seed=s) for s in (7, seed))
    assert (steps_of(one, 1) == steps_of(other, 1)) == (seed == 7)


@pytest.mark.parametrize("files", [1, 2, 5, 12])
def test_workers_read_different_parts_that_are_all_there_is(make_worker, tmp_path, files):
    write(make_worker, tmp_path, files=files)
    config = input_from(tmp_path, shuffle_buffer_size=4)
    readers = [
        make_worker(COUNTING, input=config, fragment=12, worker_index=i, num_workers=3)
        for i in (1, 2, 3)
    ]
    parts = [set(episodes_in(steps_of(reader, 4))) for reader in readers]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 12
    assert all(parts)


def test_a_worker_without_a_part_is_told(make_worker, tmp_path):
    write(make_worker, tmp_path, num_episodes=2)
    reader = make_worker(COUNTING, input=input_from(tmp_path), worker_index=3, num_workers=3)
    with pytest.raises(ConfigError, match=r"no episode for worker 3 of 3.*fewer workers"):
        reader.sample()


def test_sources_are_mixed_by_their_probabilities(make_worker, tmp_path):
    for name, length in (("a", 1), ("b", 2)):
        (tmp_path / name).mkdir()
        write(make_worker, tmp_path / name, length=length, num_episodes=6)
    config = input_from(tmp_path / "a", tmp_path / "b", shares=[0.8, 0.2])
    reader = make_worker(COUNTING, input=config, fragment=2000)
    columns = reader.input.sample(3000, 0, True)
    lengths = Counter(columns["obs"][columns["terminated"]][:, 1].tolist())
    share = lengths[0.0] / lengths.total()
    num_episodes = lengths.total()
    assert abs(share - 0.8) < 4 * (0.8 * 0.2 / num_episodes) ** 0.5


@pytest.mark.parametrize("num_samples", [0, 1, 4, 9])
def test_a_reader_goes_on_exactly_where_it_was(make_worker, tmp_path, num_samples):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(make_worker, tmp_path / name, files=3)
    config = input_from(tmp_path / "a", tmp_path / "b", shuffle_buffer_size=4)

    def make():
        return make_worker(
            COUNTING, input=config, fragment=7, observation_filter="MeanStdFilter", num_workers=2
        )

    one = make()
    steps_of(one, num_samples)
    state = json.loads(json.dumps(one.state_dict(), default=np.ndarray.tolist))
    expected = steps_of(one, 12)
    two = make()
    two.input.load_state_dict(state["input"])
    assert steps_of(two, 12) == expected


def test_other_data_than_those_of_the_checkpoint_begin_anew(make_worker, tmp_path, caplog):
    write(make_worker, tmp_path)
    one = make_worker(COUNTING, input=input_from(tmp_path), fragment=7)
    one.sample()
    state = one.input.state_dict()
    (tmp_path / "0.jsonl").rename(tmp_path / "1.jsonl")
    two = make_worker(COUNTING, input=input_from(tmp_path), fragment=7)
    assert two.input.load_state_dict(state).tolist() == [True]
    assert "not those of the checkpoint" in caplog.text
    assert steps_of(two, 1)[0] == (0, 0)


def test_where_one_source_is_another_all_begin_anew(make_worker, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(make_worker, tmp_path / name)
    config = input_from(tmp_path / "a", tmp_path / "b")
    one = make_worker(COUNTING, input=config, fragment=70)
    one.sample()
    state = one.input.state_dict()
    (tmp_path / "b" / "0.jsonl").rename(tmp_path / "b" / "1.jsonl")
    two, fresh = (make_worker(COUNTING, input=config, fragment=70) for _ in range(2))
    assert two.input.load_state_dict(state).tolist() == [True]
    assert steps_of(two, 1) == steps_of(fresh, 1)


@pytest.mark.parametrize(
    ("file", "content", "buffer_size", "is_same"),
    [
        (1, b"\n", 1, True),  # The last one may grow.
        (0, b"\n", 1, False),
        (1, None, 1, False),
        (1, b"", 5, False),
    ],
)
def test_a_place_in_files_that_changed_is_none(
    make_worker, tmp_path, caplog, file, content, buffer_size, is_same
):
    write(make_worker, tmp_path, files=2)
    one = make_worker(COUNTING, input=input_from(tmp_path), fragment=7)
    one.sample()
    state = one.input.state_dict()
    path = tmp_path / f"{file}.jsonl"
    before = path.read_bytes()
    path.write_bytes(before[:-1] if content is None else before + content)
    config = input_from(tmp_path, shuffle_buffer_size=buffer_size)
    two = make_worker(COUNTING, input=config, fragment=7)
    assert two.input.load_state_dict(state).tolist() == [not is_same]
    assert ("not those of the checkpoint" in caplog.text) == (not is_same)
    if is_same:
        assert steps_of(two, 1) == steps_of(one, 1)


def test_the_state_of_a_run_with_envs_is_refused(make_worker, tmp_path):
    write(make_worker, tmp_path)
    sampler = make_worker(COUNTING)
    reader = make_worker(COUNTING, input=input_from(tmp_path))
    with pytest.raises(ValueError, match="sampled from envs"):
        reader.load_state_dict(sampler.state_dict())


def test_half_a_line_at_the_end_is_left_out(make_worker, tmp_path, caplog):
    write(make_worker, tmp_path, num_episodes=3)
    path = tmp_path / "0.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    reader = make_worker(COUNTING, input=input_from(tmp_path), fragment=9)
    assert episodes_in(steps_of(reader, 1)) == [0, 1, 0]
    assert "ends in half a line" in caplog.text


@pytest.mark.parametrize("content", [b"", b'{"type":"metadata","format_ver'])
def test_the_spaces_are_those_of_the_first_file_that_tells_them(make_worker, tmp_path, content):
    write(make_worker, tmp_path, num_episodes=3)
    (tmp_path / "-.jsonl").write_bytes(content)
    reader = make_worker("none", input=input_from(tmp_path), fragment=9)
    assert reader.spaces == make_worker(COUNTING).spaces
    assert episodes_in(steps_of(reader, 1)) == [0, 1, 2]
    with pytest.raises(SpaceError, match=r"recorded in 'toy_envs.CountingEnv'"):
        make_worker("CartPole-v1", input=input_from(tmp_path))


def test_data_without_a_step_are_refused_after_one_pass(make_worker, tmp_path):
    write(make_worker, tmp_path, num_episodes=1)
    path = tmp_path / "0.jsonl"
    head, line = path.read_text().splitlines()
    nothing = {"obs": [[0, 0]], "actions": [], "rewards": [], "log_probs": []}
    path.write_text(f"{head}\n{json.dumps(json.loads(line) | nothing)}\n")
    reader = make_worker(COUNTING, input=input_from(tmp_path))
    with pytest.raises(ConfigError, match="holds no step of an episode"):
        reader.sample()


def test_images_that_do_not_fit_their_space_are_no_flattened_ones(make_worker, tmp_path):
    env_id = "toy_envs.ImageEnv"
    model = CNN(conv_filters=[[4, 4, 4]], post_fcnet_hiddens=[])
    env = {"env_config": {"terminates_at": 2}, "model": model}
    make_worker(env_id, output=output_to(tmp_path), fragment=2, **env).sample()
    (path,) = tmp_path.iterdir()
    head, line, *_ = path.read_text().splitlines()
    episode = json.loads(line)
    episode["obs"] = (np.array(episode["obs"]) + 0.5).tolist()
    path.write_text(f"{head}\n{json.dumps(episode)}\n")
    reader = make_worker(env_id, input=input_from(tmp_path), **env)
    with pytest.raises(SpaceError, match="holds whole numbers of uint8"):
        reader.sample()


def test_a_last_line_that_is_whole_counts_also_without_its_end(make_worker, tmp_path):
    write(make_worker, tmp_path, num_episodes=3)
    path = tmp_path / "0.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    reader = make_worker(COUNTING, input=input_from(tmp_path), fragment=9)
    assert episodes_in(steps_of(reader, 1)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda episode: episode.pop("obs"), "KeyError: 'obs'"),
        (lambda episode: episode.update(type="x"), "its type is 'x'"),
        (lambda episode: episode.update(obs={"npy": "AAAA"}), "packed column is damaged"),
        (lambda episode: episode.update(obs={"npy": packed(b"")}), "EOFError"),
        (lambda episode: episode.update(obs={"npy": packed(b"PK\x03\x04")}), "BadZipFile"),
        (lambda episode: episode.update(rewards=3), "its rewards are no list of numbers"),
        (lambda episode: episode.update(rewards="much"), "its rewards are no list of numbers"),
        (lambda episode: episode.update(log_probs=[0.0]), "it has 3 rewards and 1 log_probs"),
    ],
)
def test_a_damaged_line_is_named(make_worker, tmp_path, change, message):
    write(make_worker, tmp_path, num_episodes=1)
    path = tmp_path / "0.jsonl"
    head, line = path.read_text().splitlines()
    episode = json.loads(line)
    change(episode)
    path.write_text(f"{head}\n{json.dumps(episode)}\n")
    reader = make_worker(COUNTING, input=input_from(tmp_path))
    with pytest.raises(RlrunError, match=f"0.jsonl, the line at byte {len(head) + 1}.*{message}"):
        reader.sample()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("obs", [[0, 0], [0, 1]], "obs has the shape"),
        ("actions", [0, 0, 7], "actions is 7 at"),
        ("rewards", [1.0, float("nan"), 1.0], "rewards hold numbers that are not finite"),
    ],
)
def test_what_does_not_fit_the_spaces_is_named(make_worker, tmp_path, column, value, message):
    write(make_worker, tmp_path, num_episodes=1)
    path = tmp_path / "0.jsonl"
    head, line = path.read_text().splitlines()
    path.write_text(f"{head}\n{json.dumps({**json.loads(line), column: value})}\n")
    reader = make_worker(COUNTING, input=input_from(tmp_path))
    with pytest.raises(RlrunError, match=f"0.jsonl, the line at byte .*{message}"):
        reader.sample()


def test_the_last_observation_is_looked_at_too(make_worker, tmp_path):
    env = "CartPole-v1"
    make_worker(env, output=output_to(tmp_path), fragment=100).sample()
    (path,) = tmp_path.iterdir()
    head, line, *_ = path.read_text().splitlines()
    episode = json.loads(line)
    episode["obs"][-1][1] = float("nan")
    path.write_text(f"{head}\n{json.dumps(episode)}\n")
    reader = make_worker(env, input=input_from(tmp_path))
    with pytest.raises(RlrunError, match="obs hold numbers that are not finite"):
        reader.sample()


def test_data_of_other_spaces_are_refused_before_anything_is_read(make_worker, tmp_path):
    write(make_worker, tmp_path)
    with pytest.raises(SpaceError, match=r"recorded in 'toy_envs.CountingEnv'; this run's are of"):
        make_worker("CartPole-v1", input=input_from(tmp_path))


def test_a_file_of_other_spaces_among_the_others_is_refused(make_worker, tmp_path):
    for name, num_actions in (("a", 2), ("b", 3)):
        worker = make_worker(
            COUNTING,
            output=output_to(tmp_path / name),
            env_config={"terminates_at": 2, "num_actions": num_actions},
        )
        worker.sample()
        (path,) = (tmp_path / name).iterdir()
        path.rename(tmp_path / f"{name}.jsonl")
    reader = make_worker(COUNTING, input=input_from(tmp_path / "*.jsonl"), fragment=30)
    with pytest.raises(SpaceError, match=r"b.jsonl.*its spaces are .*Discrete\(3\)"):
        reader.sample()


def test_without_an_env_the_data_tell_the_spaces(make_worker, tmp_path):
    write(make_worker, tmp_path)
    reader = make_worker("none", input=input_from(tmp_path))
    original = make_worker(COUNTING).spaces
    assert reader.spaces == original
    assert steps_of(reader, 1)[:3] == [(0, 0), (0, 1), (0, 2)]


def test_a_column_that_no_data_have_is_refused(make_worker, tmp_path):
    class NeedsInputs(RawRows):
        rollout_columns = ("dist_inputs",)

    write(make_worker, tmp_path)
    with pytest.raises(ConfigError, match="needs the column dist_inputs, which data do not have"):
        make_worker(COUNTING, input=input_from(tmp_path), algorithm=NeedsInputs)


def test_rewards_are_clipped_as_the_env_group_says(make_worker, tmp_path):
    write(make_worker, tmp_path, num_episodes=1)
    reader = make_worker(COUNTING, input=input_from(tmp_path), clip_rewards=2.0, fragment=3)
    assert reader.sample().batches["default_policy"]["rewards"].tolist() == [1, 2, 2]
    assert episodes_of(tmp_path)[0]["rewards"] == [1, 2, 3]


def test_filters_gather_what_is_read(make_worker, tmp_path):
    write(make_worker, tmp_path)
    reader = make_worker(COUNTING, input=input_from(tmp_path), observation_filter="MeanStdFilter")
    gathered = reader.sample().gathered["default_policy"]
    assert gathered.count == 5
    np.testing.assert_allclose(gathered.mean, [0.4, 0.8])


def test_files_are_found_by_folder_file_and_pattern(tmp_path):
    for name in ("b.jsonl", "a.json", "c.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in files_of(str(tmp_path))] == ["a.json", "b.jsonl"]
    assert [path.name for path in files_of(str(tmp_path / "*.jsonl"))] == ["b.jsonl"]
    assert [path.name for path in files_of(str(tmp_path / "c.txt"))] == ["c.txt"]
    with pytest.raises(ConfigError, match="there is no such file or folder"):
        files_of(str(tmp_path / "d"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds no file that ends in"):
        files_of(str(tmp_path / "empty"))


def test_files_that_follow_each_other_come_by_their_numbers(tmp_path):
    names = ["x_1000.jsonl", "x_1001.jsonl", "x_999.jsonl", "w_2000.jsonl", "y.jsonl"]
    for name in names:
        (tmp_path / name).touch()
    expected = ["w_2000.jsonl", "x_999.jsonl", "x_1000.jsonl", "x_1001.jsonl", "y.jsonl"]
    for source in (tmp_path, tmp_path / "*.jsonl"):
        assert [path.name for path in files_of(str(source))] == expected


def test_paths_are_those_given_or_shipped(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "shipped" / "data").mkdir(parents=True)
    found = resolved(
        {"mine": 0.5, "tuned_examples/data": 0.25, "minari:x/y-v0": 0.25}, tmp_path / "shipped"
    )
    assert found == {
        str(tmp_path / "mine"): 0.5,
        str(tmp_path / "shipped" / "data"): 0.25,
        "minari:x/y-v0": 0.25,
    }


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"sources": {"a": 0.5, "b": 0.4}}, "sum to 0.9, not 1"),
        ({"sources": {"a": 1.5}}, "must be above 0 and at most 1"),
        ({"sources": {}}, "names no data"),
        ({"shuffle_buffer_size": 0}, "shuffle_buffer_size=0 must be at least 1"),
    ],
)
def test_what_input_cannot_be_is_refused(keys, message):
    general = {
        "sources": {"a": 1.0},
        "shuffle_buffer_size": 1,
        "actions_in_input_normalized": False,
    }
    with pytest.raises(ConfigError, match=message):
        InputConfig(**{**general, **keys})
