"""Hooks into a run: subclass `Callbacks` and name the subclass in the callbacks group.

A hook that nobody overrides costs nothing: `overrides` is asked once, when a run starts.
Each worker has a copy of the callbacks in its own process; what one process sets on `self`, the
others do not see. Hooks of the trainer run in the driver. Local evaluation calls the same object:
`worker.config.in_evaluation` tells. Checkpoints hold what `state_dict` gives.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from rlrun.core.errors import CallbackError, Interrupted, RlrunError
from rlrun.core.processes import process_name


class Callbacks:
    """All hooks, doing nothing. Keyword arguments are passed by name; accept **kwargs, so that a
    later version may pass more."""

    def on_trainer_init(self, *, trainer: Any, **kwargs: Any) -> None:
        """After the trainer is set up, before its first iteration."""

    def on_sub_environment_created(
        self,
        *,
        worker: Any,
        sub_environment: Any,
        env_index: int,
        env_context: Any,
        **kwargs: Any,
    ) -> None:
        """For each env after it was made, in the process where it lives (of native vector envs:
        none). One of its own (env.vectorization=async) has a copy of the callbacks, and `worker` is
        the WorkerOutline there.

        env_context: the EnvContext, its `env.env_config` with worker_index and vector_index."""

    def on_episode_start(
        self,
        *,
        worker: Any,
        base_env: Any,
        policies: Any,
        episode: Any,
        env_index: int,
        **kwargs: Any,
    ) -> None:
        """After an env was reset, before its first action."""

    def on_episode_step(
        self,
        *,
        worker: Any,
        base_env: Any,
        policies: Any,
        episode: Any,
        env_index: int,
        **kwargs: Any,
    ) -> None:
        """After each env step."""

    def on_episode_end(
        self,
        *,
        worker: Any,
        base_env: Any,
        policies: Any,
        episode: Any,
        env_index: int,
        **kwargs: Any,
    ) -> None:
        """After an episode's last step; `episode.custom_metrics` set here are reported."""

    def on_postprocess_trajectory(
        self,
        *,
        worker: Any,
        episode: Any,
        agent_id: str,
        policy_id: str,
        policies: Any,
        policy: Any,
        postprocessed_batch: Any,
        original_batches: dict[str, tuple[Any, Any]],
        **kwargs: Any,
    ) -> None:
        """In the worker, after an algorithm's postprocessing of a trajectory. May change its
        columns: [T, B, ...] arrays, T steps of B envs; the loss sees what is left there.

        original_batches: {agent_id: (policy, the trajectory as it was sampled)}. Where that
        changes, `worker.postprocess(policy_id, trajectory)` gives the algorithm's columns anew.
        episode: the whole one with batch_mode=complete_episodes; else the one that runs in the
        first env of B, which `worker.episodes` has for all. It is there if the hook names it."""

    def on_sample_end(self, *, worker: Any, samples: Any, **kwargs: Any) -> None:
        """In the worker, with the rows that it is about to send; may change them."""

    def on_learn_on_batch(
        self, *, policy: Any, train_batch: Any, result: dict[str, Any], **kwargs: Any
    ) -> None:
        """In the learner, before each update on a train batch; numbers put into `result` are
        reported under info/learner/<policy id>/custom_metrics, as their mean over the updates of
        an iteration (names that begin with cur_: the last, that end with _max: the largest)."""

    def on_train_result(self, *, trainer: Any, result: dict[str, Any], **kwargs: Any) -> None:
        """After each iteration, before its result is logged; may change it."""

    def on_evaluate_start(self, *, trainer: Any, **kwargs: Any) -> None:
        """Before each evaluation, weights and filters being synchronised."""

    def on_evaluate_end(
        self, *, trainer: Any, evaluation_metrics: dict[str, Any], **kwargs: Any
    ) -> None:
        """After each evaluation; may change its metrics."""

    def on_checkpoint(self, *, trainer: Any, checkpoint_dir: str, **kwargs: Any) -> None:
        """After a checkpoint is complete on disk."""

    def on_worker_failure(
        self, *, trainer: Any, worker_index: int, in_evaluation: bool, error: Any, **kwargs: Any
    ) -> None:
        """In the driver, when the process of a remote worker has died, before the run ends."""

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know again (a curriculum's task): numbers, strings, arrays, and
        lists and dicts of these. Each process saves its own."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""

    def overrides(self, hook: str) -> bool:
        """Whether this object does anything in `hook`."""
        return getattr(type(self), hook) is not getattr(Callbacks, hook)

    def looks_at(self, hook: str, argument: str) -> bool:
        """Whether the hook is overridden, with this argument among those that it names."""
        named = inspect.signature(getattr(self, hook)).parameters
        return self.overrides(hook) and argument in named


class MultiCallbacks(Callbacks):
    """Calls each of several callbacks (objects, or classes without arguments) in turn, in every
    hook."""

    def __init__(self, callbacks: Sequence[Callbacks | type[Callbacks]]) -> None:
        self.callbacks = [each() if isinstance(each, type) else each for each in callbacks]

    def overrides(self, hook: str) -> bool:
        return any(callbacks.overrides(hook) for callbacks in self.callbacks)

    def looks_at(self, hook: str, argument: str) -> bool:
        return any(callbacks.looks_at(hook, argument) for callbacks in self.callbacks)

    def state_dict(self) -> dict[str, Any]:
        return {"chain": [callbacks.state_dict() for callbacks in self.callbacks]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["chain"]) != len(self.callbacks):
            raise ValueError(
                f"it holds the state of {len(state['chain'])} callbacks, not {len(self.callbacks)}."
            )
        for callbacks, of_one in zip(self.callbacks, state["chain"], strict=True):
            callbacks.load_state_dict(of_one)


def call(callbacks: Callbacks, hook: str, **kwargs: Any) -> None:
    """Call a hook; what it raises names the callback, the hook and the worker.

    Raises CallbackError; an error of ours keeps its type.
    """
    try:
        getattr(callbacks, hook)(**kwargs)
    except (CallbackError, Interrupted):
        raise
    except RlrunError as error:
        # Callbacks of ours, such as curricula, name the setting.
        is_ours = type(callbacks).__module__.startswith("rlrun.")
        if not (is_ours or error.raised_in):
            error.raised_in = _failure(callbacks, hook, kwargs.get("worker"))
        raise
    except Exception as error:
        where = _failure(callbacks, hook, kwargs.get("worker"))
        raise CallbackError(f"{where}: {type(error).__name__}: {error}") from error


def _failure(callbacks: Callbacks, hook: str, worker: Any) -> str:
    """What failed, and where."""
    where = process_name() if worker is None else worker.name
    return f"{type(callbacks).__module__}.{type(callbacks).__qualname__} failed in {hook} ({where})"


def _chained(hook: str) -> Any:
    def call_each(self: MultiCallbacks, **kwargs: Any) -> None:
        for callbacks in self.callbacks:
            call(callbacks, hook, **kwargs)

    call_each.__name__ = hook
    call_each.__doc__ = getattr(Callbacks, hook).__doc__
    return call_each


HOOKS = tuple(name for name in vars(Callbacks) if name.startswith("on_"))
for _hook in HOOKS:
    setattr(MultiCallbacks, _hook, _chained(_hook))
