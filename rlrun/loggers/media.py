"""What callbacks gave for each episode: histograms, images and videos, as loggers show them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

OWN_HISTOGRAMS = frozenset({"episode_reward", "episode_lengths"})
"""What stands in hist_stats without a callback: a hundred numbers at most, written as they are."""

FRAMES_PER_SECOND = 30

_PNG_COLOURS = {1: 0, 3: 2, 4: 6}
"""PNG's colour types by the number of channels: grey, RGB, RGBA."""


def shortened(result: dict[str, Any]) -> dict[str, Any]:
    """A result with hist_data of callbacks as count, mean, min and max, and with what their media
    are in place of these; the same in its evaluation."""
    short = dict(result)
    if isinstance(stats := result.get("hist_stats"), dict):
        short["hist_stats"] = {
            key: values if key in OWN_HISTOGRAMS else _summary(values)
            for key, values in stats.items()
        }
    if isinstance(media := result.get("episode_media"), dict):
        short["episode_media"] = {key: list(map(_kind_of, each)) for key, each in media.items()}
    if isinstance(evaluation := result.get("evaluation"), dict):
        short["evaluation"] = shortened(evaluation)
    return short


def histograms_of(result: dict[str, Any]) -> Iterator[tuple[str, np.ndarray]]:
    """(flat key, finite numbers) of each list of hist_data that is not empty."""
    for prefix, part in _parts(result):
        for key, values in part.get("hist_stats", {}).items():
            numbers = _finite(values)
            if key not in OWN_HISTOGRAMS and len(numbers):
                yield f"{prefix}hist_stats/{key}", numbers


def pictures_of(result: dict[str, Any]) -> Iterator[tuple[str, list[np.ndarray]]]:
    """(flat key, one array of frames [T, H, W, C] an episode) of the media that are pictures."""
    for prefix, part in _parts(result):
        for key, media in part.get("episode_media", {}).items():
            pictures = [frames for each in media if (frames := as_frames(each)) is not None]
            if pictures:
                yield f"{prefix}episode_media/{key}", pictures


def as_frames(media: Any) -> np.ndarray | None:
    """Bytes [T, H, W, C] of an image [H, W] or [H, W, C] or of a video [T, H, W, C], with C of 1, 3
    or 4; floats are from 0 to 1. None if it is no such array."""
    array = np.asarray(media) if hasattr(media, "__array__") else np.zeros(0)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.shape[-1] not in _PNG_COLOURS or 0 in array.shape:
        return None
    if array.dtype.kind in "fb":
        return np.round(np.clip(np.nan_to_num(array.astype(np.float32)), 0, 1) * 255).astype(
            np.uint8
        )
    return array if array.dtype == np.uint8 else None


def png(frames: np.ndarray) -> bytes:
    """Frames [T, H, W, C] as a PNG; several as an animated one, which browsers show as a video.

    Source: PNG specification, third edition (W3C, 2025), chapters 5 and 11.
    """
    num_frames, height, width, num_channels = frames.shape
    size = struct.pack(">II", width, height)
    parts = [
        b"\x89PNG\r\n\x1a\n",
        _chunk(b"IHDR", size + bytes([8, _PNG_COLOURS[num_channels], 0, 0, 0])),
    ]
    if num_frames > 1:
        parts.append(_chunk(b"acTL", struct.pack(">II", num_frames, 0)))
    number = 0
    for index, frame in enumerate(frames):
        if num_frames > 1:
            control = struct.pack(">IIHHBB", 0, 0, 1, FRAMES_PER_SECOND, 0, 0)
            parts.append(_chunk(b"fcTL", struct.pack(">I", number) + size + control))
            number += 1
        lines = frame.reshape(height, -1)
        data = zlib.compress(np.pad(lines, ((0, 0), (1, 0))).tobytes(), 6)
        if index == 0:
            parts.append(_chunk(b"IDAT", data))
        else:
            parts.append(_chunk(b"fdAT", struct.pack(">I", number) + data))
            number += 1
    return b"".join([*parts, _chunk(b"IEND", b"")])


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _parts(result: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(prefix of keys, node) of what holds episodes: the result, and its evaluation."""
    yield "", result
    if isinstance(evaluation := result.get("evaluation"), dict):
        yield "evaluation/", evaluation


def _finite(values: Any) -> np.ndarray:
    try:
        numbers = np.asarray(values, np.float64).reshape(-1)
    except (TypeError, ValueError):
        return np.zeros(0)
    return numbers[np.isfinite(numbers)]


def _summary(values: Any) -> Any:
    if not isinstance(values, list):
        return values
    numbers = _finite(values)
    if not len(numbers):
        return {"count": len(values)}
    return {
        "count": len(values),
        "mean": float(numbers.mean()),
        "min": float(numbers.min()),
        "max": float(numbers.max()),
    }


def _kind_of(media: Any) -> Any:
    """A number or text itself; of anything else its kind, and its shape if it has one."""
    if media is None or isinstance(media, bool | int | float | str):
        return media
    if hasattr(media, "shape"):
        return {"shape": list(media.shape), "dtype": str(getattr(media, "dtype", ""))}
    return {"type": type(media).__name__}
