"""Images within Dict and Tuple observations: rows of floats and bytes, and networks that take them
apart again."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium import spaces
from space_envs import NestedImageEnv

from rlrun.core.errors import SpaceError, WorkerError
from rlrun.core.filters import LayoutFilter, make_filter
from rlrun.core.layout import NestedBox
from rlrun.core.networks import CNN, ConvolutionalEncoder, NestedEncoder
from rlrun.core.spaces import Preprocessor
from rlrun.python_api import make_trainer

SPACE = spaces.Dict(
    {
        "camera": spaces.Tuple(
            [
                spaces.Box(0, 255, (11, 13, 3), np.uint8),
                spaces.Box(0.0, 1.0, (3, 12, 10), np.float32),
            ]
        ),
        "board": spaces.Box(-1, 1, (10, 10), np.int16),
        "mode": spaces.Discrete(3, start=1),
        "speed": spaces.Box(-5.0, 5.0, (2,), np.float64),
        "table": spaces.Box(-5.0, 5.0, (2, 3), np.float32),
    }
)
SPACE.seed(2)
SAMPLES = [SPACE.sample() for _ in range(4)]
SMALL = CNN(conv_filters=[[4, 4, 3]], post_fcnet_hiddens=[8])


def packed() -> tuple[Preprocessor, np.ndarray]:
    preprocess = Preprocessor(SPACE, keeps_images=True)
    rows = np.concatenate([preprocess.single(sample) for sample in SAMPLES])
    return preprocess, rows


@pytest.mark.parametrize("convert", [np.asarray, torch.from_numpy])
@pytest.mark.parametrize("lead", [(4,), (2, 2)])
def test_rows_hold_every_part_bit_for_bit(convert, lead):
    preprocess, rows = packed()
    layout = preprocess.layout
    # Floats: 3 of the mode, 2 + 6 numbers, 100 of the board, 360 of the second camera.
    assert layout.vector_size == 11
    assert layout.num_floats == 11 + 100 + 360
    assert layout.num_bytes == 11 * 13 * 3
    assert rows.dtype == np.uint8
    assert rows.shape == (4, 4 * 471 + 432)
    assert preprocess.space.shape == rows.shape[1:]
    parts = convert(rows.reshape(*lead, -1))
    board, camera, other = (
        np.asarray(layout.image(parts, image)).reshape(4, *image.space.shape)
        for image in layout.images
    )
    vector = np.asarray(layout.vector(parts)).reshape(4, -1)
    for index, sample in enumerate(SAMPLES):
        np.testing.assert_array_equal(camera[index], sample["camera"][0])
        np.testing.assert_array_equal(other[index], sample["camera"][1])
        np.testing.assert_array_equal(board[index], sample["board"])
        expected = [np.arange(3) == sample["mode"] - 1, sample["speed"], sample["table"].ravel()]
        np.testing.assert_array_equal(vector[index], np.concatenate(expected).astype(np.float32))


def test_bytes_take_a_quarter_of_what_floats_would():
    space = spaces.Dict(
        {"screen": spaces.Box(0, 255, (84, 84, 4), np.uint8), "speed": spaces.Box(-1, 1, (8,))}
    )
    flat = Preprocessor(space).single(space.sample())
    rows = Preprocessor(space, keeps_images=True).single(space.sample())
    assert flat.nbytes == 4 * (84 * 84 * 4 + 8)
    assert rows.nbytes == 84 * 84 * 4 + 4 * 8


def test_batched_observations_become_the_rows_of_single_ones():
    preprocess, rows = packed()
    batched = {
        "camera": tuple(np.stack([s["camera"][i] for s in SAMPLES]) for i in range(2)),
        **{k: np.stack([s[k] for s in SAMPLES]) for k in ("board", "mode", "speed", "table")},
    }
    np.testing.assert_array_equal(preprocess(batched), rows)


def test_each_image_goes_through_its_own_convolutions_and_the_rest_stands_behind():
    preprocess, rows = packed()
    encoder = SMALL.encoder(preprocess.space)
    assert isinstance(encoder, NestedEncoder)
    layout = preprocess.layout
    features = encoder(torch.from_numpy(rows))
    assert features.shape == (4, 8)
    parts = []
    for convolutions, image in zip(encoder.images, layout.images, strict=True):
        assert isinstance(convolutions, ConvolutionalEncoder)
        raw = {
            (10, 10): [sample["board"] for sample in SAMPLES],
            (11, 13, 3): [sample["camera"][0] for sample in SAMPLES],
            (3, 12, 10): [sample["camera"][1] for sample in SAMPLES],
        }[image.space.shape]
        parts.append(convolutions(torch.from_numpy(np.stack(raw))))
    vector = torch.from_numpy(np.ascontiguousarray(layout.vector(rows)))
    torch.testing.assert_close(features, encoder.head(torch.cat([*parts, vector], -1)))
    # Sequences, and minibatches that start anywhere in memory.
    sequences = encoder(torch.from_numpy(rows.reshape(2, 2, -1)))
    torch.testing.assert_close(sequences.reshape(4, 8), features)
    torch.testing.assert_close(encoder(torch.from_numpy(rows)[1:3]), features[1:3])


def test_images_are_scaled_from_their_own_bounds():
    preprocess, rows = packed()
    encoder = SMALL.encoder(preprocess.space)
    seen = []
    for convolutions in encoder.images:
        convolutions.convolutions.register_forward_hook(lambda _, x, __: seen.append(x[0]))
    encoder(torch.from_numpy(rows))
    board, camera, other = (array.numpy() for array in seen)
    np.testing.assert_allclose(board[0, 0], (SAMPLES[0]["board"] + 1) / 2)
    camera_0 = SAMPLES[0]["camera"][0].transpose(2, 0, 1)
    np.testing.assert_allclose(camera[0], camera_0 / 255, rtol=1e-6)
    np.testing.assert_array_equal(other[0], SAMPLES[0]["camera"][1])


def test_a_filter_normalises_the_vector_and_leaves_images_and_rows_as_they_are():
    preprocess, rows = packed()
    layout = preprocess.layout
    found = make_filter("MeanStdFilter", preprocess.space.shape, layout)
    assert isinstance(found, LayoutFilter)
    moments = found.moments()
    moments.add(layout.vector(rows))
    found.merge(moments)
    before = rows.copy()
    acted = found.act(rows)
    learned = found(torch.from_numpy(rows)).numpy()
    np.testing.assert_array_equal(rows, before)
    vector = layout.vector(rows)
    expected = (vector - vector.mean(0)) / (vector.std(0, ddof=1) + 1e-8)
    for result in (acted, learned):
        np.testing.assert_allclose(layout.vector(result), expected, rtol=1e-4, atol=1e-5)
        for image in layout.images:
            np.testing.assert_array_equal(layout.image(result, image), layout.image(rows, image))


@pytest.mark.parametrize(
    ("model", "flatten"), [("mlp", False), ("mlp", True), ("cnn", True)], ids=str
)
def test_images_become_part_of_the_vector_for_models_of_vectors(model, flatten):
    keeps_images = model == "cnn"
    preprocess = Preprocessor(SPACE, flatten=flatten, keeps_images=keeps_images)
    assert preprocess.layout is None
    assert preprocess.space.shape == (11 + 429 + 360 + 100,)
    assert preprocess.single(SAMPLES[0]).dtype == np.float32


def test_a_flat_vector_is_no_image():
    with pytest.raises(SpaceError, match="model=cnn takes images"):
        make_trainer("ppo", env=ENV, overrides=["model=cnn", "env.flatten_observations=true"])


def test_small_images_ask_for_convolutions_that_fit():
    space = spaces.Dict({"board": spaces.Box(0, 2, (3, 3), np.int8), "x": spaces.Discrete(2)})
    nested = Preprocessor(space, keeps_images=True).space
    assert isinstance(nested, NestedBox)
    with pytest.raises(SpaceError, match="No default convolutions for images of 3 x 3"):
        CNN().encoder(nested)
    assert CNN(conv_filters=[[4, 2, 1]]).encoder(nested).output_size == 512


# With envs

ENV = "space_envs.NestedImageEnv"
CNN_MODEL = [
    "tuned=none",
    "model=cnn",
    "model.conv_filters=[[4,4,4]]",
    "model.post_fcnet_hiddens=[32]",
    "env.observation_filter=MeanStdFilter",
]
PPO_SETTINGS = [
    *CNN_MODEL,
    "algo.lr=0.01",
    "algo.gamma=0",
    "algo.train_batch_size=256",
    "algo.minibatch_size=64",
    "algo.num_envs_per_worker=8",
    "algo.num_epochs=4",
]
DQN_SETTINGS = [
    *CNN_MODEL,
    "algo.lr=0.005",
    "algo.gamma=0",
    "algo.hiddens=[32]",
    "algo.learning_starts=100",
    "algo.timesteps_per_iteration=600",
    "algo.buffer_size=1000",
    "exploration.epsilon_timesteps=600",
]


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_what_depends_on_image_and_vector_together_is_learned(algo):
    overrides = PPO_SETTINGS if algo == "ppo" else DQN_SETTINGS
    overrides = [*overrides, "evaluation.interval=1", "evaluation.duration=2"]
    with make_trainer(algo, env=ENV, overrides=overrides, seed=1) as trainer:
        for _ in range(6 if algo == "ppo" else 2):
            result = trainer.train()
        assert result["evaluation"]["episode_reward_mean"] > 7.0
        if algo == "dqn":
            columns = trainer.algorithms["default_policy"].replay.buffer.columns
            assert columns["obs"].dtype == columns["next_obs"].dtype == np.uint8
        env = NestedImageEnv()
        observation, _ = env.reset(seed=5)
        rewards = []
        for _ in range(20):
            action = trainer.compute_action(observation, explore=False)
            observation, reward, *_ = env.step(action)
            rewards.append(reward)
        assert np.mean(rewards) > 0.85


@pytest.mark.parametrize("vectorization", ["sync", "async"])
@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_a_run_goes_on_as_if_never_stopped(algo, vectorization, tmp_path, caplog):
    few = ["algo.num_envs_per_worker=2", f"env.vectorization={vectorization}"]
    if algo == "ppo":
        overrides = [*PPO_SETTINGS, *few, "algo.train_batch_size=14", "algo.minibatch_size=7"]
    else:
        overrides = [*DQN_SETTINGS, *few, "algo.timesteps_per_iteration=104"]
    with make_trainer(algo, env=ENV, overrides=overrides, seed=1) as trainer:
        trainer.train()
        folder = trainer.save(tmp_path)
        expected = trainer.train()
    with make_trainer(algo, env=ENV, overrides=overrides, seed=1) as resumed:
        resumed.restore(folder)
        found = resumed.train()
    assert found["hist_stats"] == expected["hist_stats"]
    assert found["info"] == expected["info"]
    assert "did not reproduce" not in caplog.text


class NanVectorEnv(NestedImageEnv):
    """Its vector is nan from the third step on."""

    def _observation(self):
        observation = super()._observation()
        if self.steps >= 3:
            observation["noise"][:] = np.nan
        return observation


def test_a_nan_beside_an_image_is_noticed():
    overrides = [*PPO_SETTINGS, "env.observation_filter=NoFilter"]
    with (
        make_trainer("ppo", env="test_nested_images.NanVectorEnv", overrides=overrides) as trainer,
        pytest.raises(WorkerError, match="gave nan as observation"),
    ):
        trainer.train()


class OnlyImagesEnv(NestedImageEnv):
    """Two images and nothing else."""

    def __init__(self):
        super().__init__()
        self.observation_space = self.observation_space["camera"]

    def _observation(self):
        return super()._observation()["camera"]


def test_a_filter_without_a_vector_is_refused():
    with pytest.raises(SpaceError, match="hold nothing else"):
        make_trainer("ppo", env="test_nested_images.OnlyImagesEnv", overrides=PPO_SETTINGS)
    overrides = [*PPO_SETTINGS, "env.observation_filter=NoFilter", "algo.train_batch_size=64"]
    with make_trainer(
        "ppo", env="test_nested_images.OnlyImagesEnv", overrides=overrides
    ) as trainer:
        assert np.isfinite(trainer.train()["episode_reward_mean"])
