"""How far a run has come: its counters and clocks, as results name them. Lives in the trainer."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any

import psutil

from rlrun.core import seeding
from rlrun.core.peers import node_address


class Progress:
    """Iterations, env steps and seconds, since the start of the run and since it was restored."""

    def __init__(self, seed: int) -> None:
        self.iteration = 0
        """Iterations that are over."""
        self.began_at: int | None = None
        """Env steps sampled before the iteration that is under way; None between two."""
        self.time_total_s = 0.0
        self.num_env_steps_trained = 0
        self.warmup_time = 0.0
        """Seconds that it took to make the trainer."""
        self.experiment_id = f"{seeding.integer_seed(seed, 'id', time.time_ns()):x}"
        self._process = {
            "pid": os.getpid(),
            "hostname": socket.gethostname(),
            "node_ip": node_address(),
        }
        self._since_restore = {"iterations": 0, "timesteps": 0, "time_s": 0.0}

    def end_iteration(
        self, seconds: float, steps_sampled: int, steps_trained: int
    ) -> dict[str, Any]:
        """Count an iteration that is over; returns what a result says of it.

        `steps_sampled` and `steps_trained` are those since the start of the run.
        """
        new_sampled = steps_sampled - (self.began_at or 0)
        new_trained = steps_trained - self.num_env_steps_trained
        self.began_at = None
        self.num_env_steps_trained = steps_trained
        self.time_total_s += seconds
        self._since_restore["iterations"] += 1
        self._since_restore["timesteps"] += new_sampled
        self._since_restore["time_s"] += seconds
        counters = {
            "num_env_steps_sampled": steps_sampled,
            "num_env_steps_trained": steps_trained,
        }
        return {
            "training_iteration": self.iteration,
            "timesteps_total": steps_sampled,
            "timesteps_this_iter": new_sampled,
            **counters,
            "num_env_steps_sampled_this_iter": new_sampled,
            "num_env_steps_trained_this_iter": new_trained,
            "counters": counters,
            "perf": {
                "cpu_util_percent": psutil.cpu_percent(),
                "ram_util_percent": psutil.virtual_memory().percent,
            },
            "time_this_iter_s": seconds,
            "time_total_s": self.time_total_s,
            "time_since_restore": self._since_restore["time_s"],
            "iterations_since_restore": self._since_restore["iterations"],
            "timesteps_since_restore": self._since_restore["timesteps"],
            "timestamp": int(time.time()),
            "date": time.strftime("%Y-%m-%d_%H-%M-%S"),
            "done": False,
            **self._process,
            "experiment_id": self.experiment_id,
            "trial_id": self.experiment_id,
            "experiment_tag": "",
            "warmup_time": self.warmup_time,
        }

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run counts on from."""
        return {
            "iteration": self.iteration,
            "began_at": self.began_at,
            "time_total_s": self.time_total_s,
            "num_env_steps_trained": self.num_env_steps_trained,
            "experiment_id": self.experiment_id,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.iteration = int(state["iteration"])
        self.began_at = state["began_at"]
        self.time_total_s = float(state["time_total_s"])
        self.num_env_steps_trained = int(state["num_env_steps_trained"])
        self.experiment_id = str(state["experiment_id"])
        self._since_restore = {"iterations": 0, "timesteps": 0, "time_s": 0.0}
