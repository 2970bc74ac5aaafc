"""Shared by both sides of the comparison: when each iteration ended, and the peak memory."""

from __future__ import annotations

import json
import os
import resource
import time
from typing import Any

STEADY_FROM = 0.3
"""The steady rate leaves out this first share of the steps."""


def process_start() -> float:
    """Wall-clock time at which this process started (Linux, 10 ms resolution)."""
    with open("/proc/self/stat") as file:
        ticks = int(file.read().rsplit(")", 1)[1].split()[19])
    with open("/proc/uptime") as file:
        uptime = float(file.read().split()[0])
    return time.time() - uptime + ticks / os.sysconf("SC_CLK_TCK")


class Meter:
    """`tick(env_steps)` after each iteration; `print` gives one line of JSON behind @@."""

    def __init__(self) -> None:
        self.started = process_start()
        self.ticks: list[tuple[float, int]] = []

    def tick(self, steps: int) -> None:
        self.ticks.append((time.time(), steps))

    def print(self) -> None:
        end, steps = self.ticks[-1]
        begin, first = next(tick for tick in self.ticks if tick[1] >= STEADY_FROM * steps)
        figures: dict[str, Any] = {
            "steps_per_s": (steps - first) / (end - begin),
            "first_iteration_s": self.ticks[0][0] - self.started,
            "total_s": end - self.started,
            "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print("\n@@" + json.dumps(figures), flush=True)
