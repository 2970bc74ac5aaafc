"""rlrun: reinforcement-learning experiments composed from YAML.

Public names are imported when they are first used, so that `import rlrun` costs nothing.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "make_trainer": "rlrun.python_api",
    "run_sweep": "rlrun.python_api",
    "ExperimentAnalysis": "rlrun.analysis",
    "make_workers": "rlrun.python_api",
    "Run": "rlrun.run",
    "Trainer": "rlrun.trainer",
    "Callbacks": "rlrun.core.callbacks",
    "MultiCallbacks": "rlrun.core.callbacks",
    "Episode": "rlrun.core.episode",
    "Algorithm": "rlrun.core.algorithm",
    "Batch": "rlrun.core.batch",
    "Exploration": "rlrun.core.exploration",
    "Simplex": "rlrun.core.actions",
    "Logger": "rlrun.loggers.base",
    "Curriculum": "rlrun.curriculum.base",
    "TaskSettableEnv": "rlrun.envs.task_settable_env",
    "PPO": "rlrun.algos.ppo",
    "DDPPO": "rlrun.algos.ddppo",
    "DQN": "rlrun.algos.dqn",
    "SAC": "rlrun.algos.sac",
    "DDPG": "rlrun.algos.ddpg",
    "MARWIL": "rlrun.algos.marwil",
    "CQL": "rlrun.algos.cql",
    "WorkerSet": "rlrun.workers.worker_set",
    "ReplayBuffer": "rlrun.core.replay",
    "FlatAdam": "rlrun.core.optim",
    "shared_counter": "rlrun.workers.shared",
    "shared_store": "rlrun.workers.shared",
    "get_preprocessor": "rlrun.core.spaces",
    "get_global_worker": "rlrun.workers.rollout_worker",
}

_BUILDS_TRAINERS = ("Algorithm", "PPO", "DDPPO", "DQN", "SAC", "DDPG", "MARWIL", "CQL")
"""Classes with a method `build`, which lies below what builds."""

__all__ = [*_PUBLIC, "__version__"]  # noqa: PLE0604


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'rlrun' has no attribute {name!r}")
    if name in _BUILDS_TRAINERS:
        import_module("rlrun.python_api")
    return getattr(import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
