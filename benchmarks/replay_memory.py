"""What replay of Atari's observations takes: `python benchmarks/replay_memory.py [ROWS]`.

Fills a prioritised buffer with fragments of four envs (84 x 84 random pixels, stacks of four,
episodes of some 800 steps), and prints what the process has grown by, and how long a row took.
"""

from __future__ import annotations

import sys
import time
from collections import deque

import numpy as np
import psutil

from rlrun.core.frames import FrameStorage
from rlrun.core.replay import PrioritizedReplayBuffer

NUM_ENVS, NUM_STEPS, STACK, SIDE = 4, 4, 4, 84


def main(num_rows: int) -> None:
    rng = np.random.default_rng(0)
    storage = FrameStorage(num_rows, (STACK, SIDE, SIDE))
    buffer = PrioritizedReplayBuffer(num_rows, rng, storage, alpha=0.5, eps=1e-6)

    def frame() -> np.ndarray:
        return rng.integers(0, 256, (SIDE, SIDE), np.uint8)

    stacks = [deque([frame()] * STACK, maxlen=STACK) for _ in range(NUM_ENVS)]
    before, seconds = psutil.Process().memory_info().rss, 0.0
    while buffer.num_added < num_rows:
        obs, next_obs = [], []
        for _ in range(NUM_STEPS):
            obs += [np.stack(stack) for stack in stacks]
            for stack in stacks:
                stack.append(frame())
            next_obs += [np.stack(stack) for stack in stacks]
            for stack in stacks:
                if rng.random() < 1 / 800:
                    stack.extend([frame()] * STACK)
        rows = {
            "obs": np.stack(obs),
            "actions": rng.integers(0, 6, len(obs)),
            "rewards": np.zeros(len(obs), np.float32),
            "next_obs": np.stack(next_obs),
            "discounts": np.ones(len(obs), np.float32),
        }
        started = time.process_time()
        buffer.add(rows)
        seconds += time.process_time() - started
    grown = psutil.Process().memory_info().rss - before
    print(f"{num_rows:,} rows take {grown / 1e9:.2f} GB: {grown / num_rows:,.0f} bytes each,")
    print(
        f"1,000,000 would take {grown / num_rows / 1e3:.2f} GB; {1e6 * seconds / num_rows:.0f} us"
    )
    print("processor time went into each of them.")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)
