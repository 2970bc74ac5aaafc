from __future__ import annotations

import json
import math
import subprocess
import sys
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
import torch

from rlrun.loggers.base import Logger, finite_scalars, flatten, lookup, to_json


def test_flatten_joins_nested_keys_and_drops_empty_dicts():
    result = {"a": 1, "info": {"learner": {0: {"loss": 0.5}}}, "custom_metrics": {}}
    assert flatten(result) == {"a": 1, "info/learner/0/loss": 0.5}
    assert flatten(result, separator=".") == {"a": 1, "info.learner.0.loss": 0.5}


def test_to_json_makes_numpy_torch_paths_and_tuples_plain():
    value = {
        "float32": np.float32(0.5),
        "float64": np.float64(0.1),
        "int64": np.int64(7),
        "bool": np.bool_(True),
        "array": np.arange(4).reshape(2, 2),
        "tensor": torch.tensor([1.5, 2.5], requires_grad=True),
        "scalar_tensor": torch.tensor(3),
        "path": Path("/runs/a"),
        "tuple": (1, (np.int8(2), "x"), None),
        np.int64(5): "a number as key",
    }
    plain = to_json(value)
    assert plain == {
        "float32": 0.5,
        "float64": 0.1,
        "int64": 7,
        "bool": True,
        "array": [[0, 1], [2, 3]],
        "tensor": [1.5, 2.5],
        "scalar_tensor": 3,
        "path": "/runs/a",
        "tuple": [1, [2, "x"], None],
        "5": "a number as key",
    }
    assert type(plain["float64"]) is float
    assert type(plain["bool"]) is bool
    assert json.loads(json.dumps(plain)) == plain


def test_to_json_keeps_nan_and_subclasses_of_int():
    class Level(IntEnum):
        HARD = 3

    assert json.dumps(to_json([math.nan, np.float32("inf"), Level.HARD])) == "[NaN, Infinity, 3]"


def test_to_json_names_the_key_of_a_value_that_json_cannot_hold():
    with pytest.raises(TypeError, match=r"custom_metrics/env is a object, which cannot"):
        to_json({"custom_metrics": {"env": object()}})


def test_lookup_takes_slashes_dots_and_the_exact_key_first():
    result = {
        "reward": 1.0,
        "evaluation": {"episode_reward_mean": 2.0, "by": {"seed": 3.0}},
        "evaluation/exact": 4.0,
        "policy": {"agent.1": {"loss": 5.0}},
    }
    assert lookup(result, "reward") == 1.0
    assert lookup(result, "evaluation/episode_reward_mean") == 2.0
    assert lookup(result, "evaluation.episode_reward_mean") == 2.0
    assert lookup(result, "evaluation/by.seed") == 3.0
    assert lookup(result, "evaluation/exact") == 4.0
    assert lookup(result, "policy/agent.1/loss") == 5.0


def test_lookup_gives_none_for_what_is_missing():
    result = {"reward": 1.0, "evaluation": {"mean": 2.0}}
    for key in ("other", "reward/mean", "evaluation/max", "evaluation/mean/deeper", "", "/"):
        assert lookup(result, key) is None


def test_finite_scalars_are_numbers_only_without_config():
    result = {
        "count": np.int64(3),
        "done": False,
        "loss": {"policy": torch.tensor(0.25), "nan": math.nan, "inf": -math.inf},
        "list": [1.0],
        "array": np.ones(1),
        "text": "1.0",
        "none": None,
        "config": {"lr": 0.001},
    }
    assert finite_scalars(result) == {"count": 3, "done": False, "loss/policy": 0.25}


def test_a_user_may_subclass_logger_with_the_methods_that_matter(make_run, make_result):
    class Collect(Logger):
        def log_result(self, result):
            self.last = result["training_iteration"]

    logger = Collect()
    logger.start(make_run())
    logger.log_result(make_result(1))
    logger.close("finished")
    assert logger.last == 1


def test_importing_every_logger_loads_no_heavy_package():
    heavy = ("torch", "tensorboard", "wandb", "rich", "ray", "matplotlib")
    code = (
        "import sys, rlrun.loggers.console, rlrun.loggers.files, rlrun.loggers.tensorboard\n"
        "import rlrun.loggers.wandb\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
