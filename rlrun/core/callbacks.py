"""Hooks into a run: subclass `Callbacks` and name the subclass in the callbacks group.

A hook that nobody overrides costs nothing: `overrides` is asked once, when a run starts.
Each worker has a copy of the callbacks in its own process; what one process sets on `self`, the
others do not see. Hooks of the trainer run in the driver. Local evaluation calls the same object:
`worker.config.in_evaluation` tells. Checkpoints hold what `state_dict` gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Callbacks:
    """All hooks, doing nothing. Keyword arguments are passed by name; accept **kwargs, so that a
    later version may pass more."""

    def on_trainer_init(self, *, trainer: Any, **kwargs: Any) -> None:
        """After the trainer is set up, before its first iteration."""

    def on_sub_environment_created(
        self, *, worker: Any, sub_environment: Any, env_index: int, **kwargs: Any
    ) -> None:
        """In the worker, for each env after it was made (envs in processes of their own: none)."""

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
        self, *, worker: Any, policy_id: str, policy: Any, postprocessed_batch: Any, **kwargs: Any
    ) -> None:
        """In the worker, after an algorithm's postprocessing of a fragment. May change its columns:
        [T, B, ...] arrays, T steps of B envs; the loss sees what is left there."""

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

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know again (a curriculum's task): numbers, strings, arrays, and
        lists and dicts of these. Each process saves its own."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""

    def overrides(self, hook: str) -> bool:
        """Whether this object does anything in `hook`."""
        return getattr(type(self), hook) is not getattr(Callbacks, hook)


class MultiCallbacks(Callbacks):
    """Calls each of several callbacks in turn, in every hook."""

    def __init__(self, callbacks: Sequence[Callbacks]) -> None:
        self.callbacks = list(callbacks)

    def overrides(self, hook: str) -> bool:
        return any(callbacks.overrides(hook) for callbacks in self.callbacks)

    def state_dict(self) -> dict[str, Any]:
        return {"chain": [callbacks.state_dict() for callbacks in self.callbacks]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state["chain"]) != len(self.callbacks):
            raise ValueError(
                f"it holds the state of {len(state['chain'])} callbacks, not {len(self.callbacks)}."
            )
        for callbacks, of_one in zip(self.callbacks, state["chain"], strict=True):
            callbacks.load_state_dict(of_one)


def _chained(hook: str) -> Any:
    def call_each(self: MultiCallbacks, **kwargs: Any) -> None:
        for callbacks in self.callbacks:
            getattr(callbacks, hook)(**kwargs)

    call_each.__name__ = hook
    call_each.__doc__ = getattr(Callbacks, hook).__doc__
    return call_each


HOOKS = tuple(name for name in vars(Callbacks) if name.startswith("on_"))
for _hook in HOOKS:
    setattr(MultiCallbacks, _hook, _chained(_hook))
