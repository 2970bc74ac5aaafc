"""Integer images are scaled by the bounds of their own space, wherever they stand."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rlrun.core.networks import CNN, ConvolutionalEncoder
from rlrun.core.spaces import Preprocessor

SHAPE = (10, 12)

# (low, high, dtype), and the values of three pixels with what they are scaled to.
IMAGES = [
    (0, 255, np.uint8, {0: 0.0, 51: 0.2, 255: 1.0}),
    (0, 10, np.uint8, {0: 0.0, 3: 0.3, 10: 1.0}),
    (0, 10, np.int64, {0: 0.0, 3: 0.3, 10: 1.0}),
    (-1, 1, np.int8, {-1: 0.0, 0: 0.5, 1: 1.0}),
    (-128, 127, np.int8, {-128: 0.0, -77: 0.2, 127: 1.0}),
    (0, 65535, np.uint16, {0: 0.0, 13107: 0.2, 65535: 1.0}),
    (7, 7, np.int32, {7: 0.0}),
    # No bounds that mean anything: such numbers stay as they are.
    (-np.inf, np.inf, np.int32, {-3: -3.0, 0: 0.0, 1000: 1000.0}),
    (0, np.iinfo(np.int64).max, np.int64, {0: 0.0, 5: 5.0}),
]


def seen_by_the_convolutions(space: spaces.Box, images: np.ndarray) -> np.ndarray:
    """What the encoder of that space hands to its first layer, [N, C, H, W]."""
    encoder = ConvolutionalEncoder(space, CNN(conv_filters=[[1, 1, 1]]))
    seen: list[torch.Tensor] = []
    encoder.convolutions.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
    encoder(torch.from_numpy(images))
    return seen[0].numpy()


@pytest.mark.parametrize(("low", "high", "dtype", "pixels"), IMAGES)
def test_the_encoder_scales_pixels_from_their_bounds_to_one(low, high, dtype, pixels):
    space = spaces.Box(low, high, SHAPE, dtype)
    preprocess = Preprocessor(space)
    for value, scaled in pixels.items():
        images = preprocess(np.full((2, *SHAPE), value, dtype))
        assert images.dtype == dtype, "integers are kept until then"
        seen = seen_by_the_convolutions(preprocess.space, images)
        assert seen.dtype == np.float32
        np.testing.assert_allclose(seen, np.full((2, 1, *SHAPE), scaled), rtol=1e-6)


@pytest.mark.parametrize(("low", "high", "dtype", "pixels"), IMAGES)
@pytest.mark.parametrize("where", ["flattened", "in a Dict", "in a Tuple in a Dict"])
def test_images_that_become_part_of_a_vector_are_scaled_alike(where, low, high, dtype, pixels):
    space = spaces.Box(low, high, SHAPE, dtype)
    for value, scaled in pixels.items():
        image = np.full(SHAPE, value, dtype)
        if where == "flattened":
            vector = Preprocessor(space, flatten=True).single(image)
        elif where == "in a Dict":
            vector = Preprocessor(spaces.Dict({"image": space})).single({"image": image})
        else:
            nested = spaces.Dict({"pair": spaces.Tuple([space])})
            vector = Preprocessor(nested).single({"pair": (image,)})
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector, np.full((1, 120), scaled), rtol=1e-6)


def test_bytes_are_scaled_bit_for_bit_as_by_one_multiplication():
    space = spaces.Box(0, 255, SHAPE, np.uint8)
    images = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
    expected = images.astype(np.float32) * np.float32(1 / 255)
    np.testing.assert_array_equal(seen_by_the_convolutions(space, images)[:, 0], expected)
    flat = Preprocessor(space, flatten=True)(images)
    np.testing.assert_array_equal(flat, expected.reshape(3, -1))


def test_pixels_with_bounds_of_their_own_are_scaled_each_by_them():
    low, high = np.zeros((10, 12, 3), np.int16), np.full((10, 12, 3), 10, np.int16)
    low[..., 1], high[..., 1] = -20, 20
    space = spaces.Box(low, high, dtype=np.int16)
    image = np.full((1, 10, 12, 3), 5, np.int16)
    seen = seen_by_the_convolutions(space, image)
    np.testing.assert_allclose(seen[0, :, 4, 4], [0.5, 0.625, 0.5])
    flat = Preprocessor(space, flatten=True)(image).reshape(10, 12, 3)
    np.testing.assert_allclose(flat[4, 4], [0.5, 0.625, 0.5])


def test_vectors_of_integers_and_floats_of_any_rank_keep_their_scale():
    counts = spaces.Box(0, 10, (3,), np.int64)
    np.testing.assert_array_equal(Preprocessor(counts).single(np.array([0, 5, 10])), [[0, 5, 10]])
    in_dict = Preprocessor(spaces.Dict({"a": counts})).single({"a": np.array([0, 5, 10])})
    np.testing.assert_array_equal(in_dict, [[0, 5, 10]])
    floats = spaces.Box(0.0, 255.0, SHAPE, np.float32)
    images = np.full((1, *SHAPE), 200.0, np.float32)
    np.testing.assert_array_equal(seen_by_the_convolutions(floats, images), images[None])
    np.testing.assert_array_equal(Preprocessor(floats, flatten=True)(images), [[200.0] * 120])


def test_the_scale_is_no_weight_and_travels_with_copies():
    encoder = ConvolutionalEncoder(spaces.Box(-1, 1, SHAPE, np.int8), CNN())
    assert not {"low", "factor"} & encoder.state_dict().keys()
    other = copy.deepcopy(encoder)
    images = torch.ones((1, *SHAPE), dtype=torch.int8)
    torch.testing.assert_close(other(images), encoder(images))
