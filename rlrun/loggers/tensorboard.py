"""TensorBoard event files, written without TensorBoard: importing it costs seconds.

A file is a row of TFRecords (length, masked CRC of the length, data, masked CRC of the data), each
with one protocol buffer of tensorflow/core/util/event.proto, of which five fields are needed.
"""

from __future__ import annotations

import re
import socket
import struct
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rlrun.loggers.base import Logger, RunInfo, finite_scalars
from rlrun.loggers.media import histograms_of, pictures_of, png

_CRC32C_POLYNOMIAL = 0x82F63B78  # Castagnoli's, with its bits reversed
_CRC_BLOCK = 256  # bytes; the table has a row for each
_MASK_DELTA = 0xA282EAD8  # from TensorFlow's lib/hash/crc32c.h
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_SESSION_START = b"\x3a\x02\x08\x01"  # Event.session_log (7) = {status (1): START}


@dataclass(kw_only=True)
class TensorBoardLogger(Logger):
    """Writes every finite number of a result to `events.out.tfevents.*` in the run's folder, and
    what callbacks gave for episodes: hist_data as histograms, images and videos as (animated) PNGs.

    The step is `timesteps_total`; `config` is left out. A resumed run adds a file that tells
    TensorBoard to drop the points from its first step on.
    """

    tag_prefix: str = "ray/tune/"
    """Stands before every flat key; this one fits dashboards made for the classic RLlib."""

    def start(self, run: RunInfo) -> None:
        self._file = _new_event_path(run.folder).open("xb", buffering=0)
        self._value_headers: dict[str, bytes] = {}
        self._is_session_announced = False
        self._write_event(_bytes_field(3, b"brain.Event:2"))

    def log_result(self, result: dict[str, Any]) -> None:
        step = b"\x10" + _varint(int(result["timesteps_total"]))
        if not self._is_session_announced:
            self._write_event(step + _SESSION_START)
            self._is_session_announced = True
        summary = self._summary(finite_scalars(result)) + self._summary_of_episodes(result)
        self._write_event(step + _bytes_field(5, summary))

    def close(self, status: str) -> None:
        self._file.close()

    def _summary(self, scalars: dict[str, float]) -> bytes:
        return b"".join(
            self._value_header(key) + struct.pack("<f", value)
            for key, value in scalars.items()
            if abs(value) <= _FLOAT32_MAX
        )

    def _summary_of_episodes(self, result: dict[str, Any]) -> bytes:
        values = [(key, 5, _histogram(numbers)) for key, numbers in histograms_of(result)]
        for key, pictures in pictures_of(result):
            for number, frames in enumerate(pictures):
                values.append((f"{key}/{number}", 4, _image(frames)))
        tags = [_bytes_field(1, f"{self.tag_prefix}{key}".encode()) for key, _, _ in values]
        return b"".join(
            _bytes_field(1, tag + _bytes_field(field, content))
            for tag, (_, field, content) in zip(tags, values, strict=True)
        )

    def _value_header(self, key: str) -> bytes:
        """What stands before the 4 bytes of a Summary.Value; it depends on the key alone."""
        if key not in self._value_headers:
            tag = _bytes_field(1, f"{self.tag_prefix}{key}".encode()) + b"\x15"
            self._value_headers[key] = b"\x0a" + _varint(len(tag) + 4) + tag
        return self._value_headers[key]

    def _write_event(self, fields: bytes) -> None:
        """One event in one write to the kernel: nothing is lost when the process is killed."""
        event = b"\x09" + struct.pack("<d", time.time()) + fields
        length = struct.pack("<Q", len(event))
        self._file.write(length + _masked_crc32c(length) + event + _masked_crc32c(event))


def _histogram(numbers: np.ndarray) -> bytes:
    """A HistogramProto (tensorflow/core/framework/summary.proto) of 30 buckets."""
    counts, edges = np.histogram(numbers, 30)
    facts = (numbers.min(), numbers.max(), len(numbers), numbers.sum(), np.square(numbers).sum())
    scalars = b"".join(
        _varint(field << 3 | 1) + struct.pack("<d", fact) for field, fact in enumerate(facts, 1)
    )
    limits, heights = (part.astype("<f8").tobytes() for part in (edges[1:], counts))
    return scalars + _bytes_field(6, limits) + _bytes_field(7, heights)


def _image(frames: np.ndarray) -> bytes:
    """A Summary.Image of frames [T, H, W, C]: height, width, channels, and the PNG."""
    _, *shape = frames.shape
    sizes = b"".join(_varint(f << 3) + _varint(size) for f, size in enumerate(shape, 1))
    return sizes + _bytes_field(4, png(frames))


def crc32c(data: bytes) -> int:
    """The CRC-32C (Castagnoli, RFC 3720) of at least 4 bytes, in array operations.

    A CRC is linear: each byte adds (xors) a term that depends on its value and on how many bytes
    follow, so all terms are looked up at once, and zeros put before the data change nothing.
    """
    table, (first, second, third, fourth) = _crc_tables()
    blocks = np.zeros(-(-len(data) // _CRC_BLOCK) * _CRC_BLOCK, dtype=np.uint8)
    blocks[-len(data) :] = np.frombuffer(data, dtype=np.uint8)
    blocks[-len(data) :][:4] ^= 0xFF  # the register starts with ones, not zeros
    terms = table[np.arange(_CRC_BLOCK), blocks.reshape(-1, _CRC_BLOCK)]
    crc = 0
    for block_crc in np.bitwise_xor.reduce(terms, axis=1).tolist():
        a, b, c, d = crc.to_bytes(4, "little")
        crc = block_crc ^ first[a] ^ second[b] ^ third[c] ^ fourth[d]
    return crc ^ 0xFFFFFFFF


@cache
def _crc_tables() -> tuple[np.ndarray, list[list[int]]]:
    """[position in a block, byte] -> what that byte adds to the CRC at the block's end; uint32.

    The first four rows come again as lists: they carry one block's CRC into the next.
    """
    last: np.ndarray = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        last = (last >> 1) ^ (last & 1) * np.uint32(_CRC32C_POLYNOMIAL)
    rows = [last]
    while len(rows) < _CRC_BLOCK:
        rows.append(last[rows[-1] & 0xFF] ^ (rows[-1] >> 8))
    table = np.stack(rows[::-1])
    return table, table[:4].tolist()


def _masked_crc32c(data: bytes) -> bytes:
    crc = crc32c(data)
    rotated = (crc >> 15) | (crc << 17)
    return struct.pack("<I", (rotated + _MASK_DELTA) & 0xFFFFFFFF)


def _bytes_field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def _new_event_path(folder: Path) -> Path:
    """A name that sorts after the folder's other event files, the order in which they are read."""
    names = [path.name for path in folder.glob("events.out.tfevents.*")]
    times = [int(match[1]) for name in names if (match := re.search(r"tfevents\.(\d+)", name))]
    unix_time = max([int(time.time()), *(used + 1 for used in times)])
    return folder / f"events.out.tfevents.{unix_time}.{socket.gethostname()}"
