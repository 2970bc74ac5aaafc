"""Every error that rlrun raises on purpose; each message is for the person at the keyboard."""


class RlrunError(Exception):
    """Base of all errors that rlrun raises on purpose."""

    raised_in = ""
    """The user's callback that it came out of, with hook and process, where it did."""

    def __str__(self) -> str:
        message = Exception.__str__(self)
        return f"{self.raised_in}: {message}" if self.raised_in else message


class ConfigError(RlrunError, ValueError):
    """A key, type, range or relation in the configuration is wrong (exit status 2)."""


class SpaceError(ConfigError):
    """An algorithm, model or exploration cannot work on the env's observation or action space."""


class BatchError(RlrunError, KeyError):
    """A batch lacks a column that the computation needs."""


class WorkerError(RlrunError, RuntimeError):
    """A rollout worker failed; the message says which one, in which env, and why."""


class WorkerDiedError(WorkerError):
    """The process of a rollout worker is gone."""

    kind = "Worker"
    """What it was: Worker, Evaluation worker or Replay shard."""
    index = 0
    """Which one of these, counted from 1."""


class CallbackError(RlrunError, RuntimeError):
    """A callback raised; the message says which one, in which hook, and in which worker."""


class PeerLostError(WorkerError):
    """A worker learns together with others, and one of them is gone; its own error says more."""


class Interrupted(RlrunError):  # noqa: N818  # nothing is wrong
    """An iteration was asked to end early; a checkpoint taken now goes on in the middle of it."""


class CheckpointError(RlrunError, RuntimeError):
    """A checkpoint is missing, damaged, or made by an incompatible run."""


class ResourceError(RlrunError, RuntimeError):
    """A resource was asked for (a GPU, a cluster) that is not there (exit status 2)."""


class MissingExtraError(RlrunError, ImportError):
    """An optional package is not installed; the message gives the pip command."""


def missing_extra(package: str, extra: str, needed_for: str) -> MissingExtraError:
    """The one line that names a missing optional package and how to install it."""
    return MissingExtraError(
        f"{needed_for} needs the package {package!r}, which is not installed. "
        f"Run: pip install 'rlrun[{extra}]'"
    )
