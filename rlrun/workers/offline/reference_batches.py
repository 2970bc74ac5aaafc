"""Batches as the classic RLlib's JsonWriter writes them: one a line, of one episode or several, or
of pieces of them."""

from __future__ import annotations

import base64
import io
import pickle
import re
from typing import Any

import numpy as np

from rlrun.core.errors import ConfigError, missing_extra
from rlrun.workers.offline.episode_lines import RecordedEpisode

BATCH_TYPES = ("SampleBatch", "MultiAgentBatch")


def episodes_of_batch(plain: dict[str, Any], *, has_policy_actions: bool) -> list[RecordedEpisode]:
    """The episodes of a batch, and pieces of those that it cuts, which then count as truncated.

    Steps that do not follow each other (`new_obs` is not the next row's `obs`, or `t` jumps) are in
    pieces of their own. Without `new_obs`, the last step of a piece is left out, as nobody knows
    what followed it. `dones` count as terminations where no other column tells time
    limits apart. Raises ConfigError for what cannot be read, KeyError or ValueError for what is no
    batch.
    """
    columns = _columns(plain)
    rewards = np.asarray(columns["rewards"], np.float64)
    terminated, ends = _terminations_and_ends(columns)
    begins = np.zeros(len(rewards), bool)
    begins[1:] = ends[:-1]
    if "eps_id" in columns:
        ids = columns["eps_id"]
        begins[1:] |= ids[1:] != ids[:-1]
    if "t" in columns:
        begins[1:] |= columns["t"][1:] != columns["t"][:-1] + 1
    if "new_obs" in columns and len(rewards) > 1:
        begins |= _gaps(columns["obs"], columns["new_obs"], begins)
    pieces = np.split(np.arange(len(rewards)), np.flatnonzero(begins))
    found = [_piece(columns, rewards, rows, terminated, has_policy_actions) for rows in pieces]
    return [episode for episode in found if episode is not None]


def _terminations_and_ends(columns: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Which rows terminate an episode, and which end one in whatever way, [N] both."""
    num_rows = len(columns["rewards"])
    dones, truncated = (_flags(columns.get(name), num_rows) for name in ("dones", "truncateds"))
    if "terminateds" in columns:
        terminated = _flags(columns["terminateds"], num_rows)
    else:
        terminated = dones & ~truncated
    return terminated, terminated | truncated | dones


def _gaps(obs: np.ndarray, new_obs: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """The rows [N], no `begins` of episodes, that do not show what the row before led to. Raises
    ConfigError if most are such: nothing then tells which steps followed which."""
    if obs.shape != new_obs.shape:
        raise ValueError(f"its new_obs are {new_obs.shape}, its obs {obs.shape}")
    differs = (new_obs[:-1] != obs[1:]).reshape(len(obs) - 1, -1).any(1)
    gaps = np.zeros(len(obs), bool)
    gaps[1:] = differs & ~begins[1:]
    num_gaps, num_inner = np.count_nonzero(gaps), np.count_nonzero(~begins[1:])
    if 2 * num_gaps > num_inner:
        raise ConfigError(
            f"in {num_gaps} of {num_inner} rows within episodes obs are not the new_obs of the row "
            f"before: the batch was written with n_step > 1, whose rewards are sums, or its rows "
            f"are shuffled. Write the data again with n_step=1, in order"
        )
    return gaps


def _piece(
    columns: dict[str, np.ndarray],
    rewards: np.ndarray,
    rows: np.ndarray,
    terminated: np.ndarray,
    has_policy_actions: bool,
) -> RecordedEpisode | None:
    obs = columns["obs"][rows]
    is_terminated = bool(len(rows)) and bool(terminated[rows[-1]])
    if "new_obs" in columns:
        obs = np.concatenate([obs, columns["new_obs"][rows[-1:]]])
    elif is_terminated:
        obs = np.concatenate([obs, obs[-1:]])  # Nothing is bootstrapped from it.
    else:
        rows = rows[:-1]
    if not len(rows):
        return None
    return RecordedEpisode(
        obs=obs,
        actions=columns["actions"][rows],
        rewards=rewards[rows],
        terminated=is_terminated,
        truncated=not is_terminated,
        log_probs=_log_probs(columns, rows),
        has_policy_actions=has_policy_actions,
    )


def _log_probs(columns: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray | None:
    if "action_logp" in columns:
        return columns["action_logp"][rows]
    if "action_prob" in columns:
        return np.log(columns["action_prob"][rows])
    return None


def _flags(column: np.ndarray | None, num_rows: int) -> np.ndarray:
    return np.zeros(num_rows, bool) if column is None else column.astype(bool)


READ = (
    "t",
    "obs",
    "new_obs",
    "actions",
    "rewards",
    "dones",
    "terminateds",
    "truncateds",
    "eps_id",
    "action_prob",
    "action_logp",
)
"""The columns that are looked at."""


def _columns(plain: dict[str, Any]) -> dict[str, np.ndarray]:
    batch = plain
    if plain["type"] == "MultiAgentBatch":
        batches = plain["policy_batches"]
        if len(batches) != 1:
            raise ConfigError(
                f"the batch is of {len(batches)} policies ({', '.join(sorted(batches))}); one can "
                f"be learned from"
            )
        (batch,) = batches.values()
    found = {name: _array(batch[name], name) for name in READ if name in batch}
    for name in ("obs", "actions", "rewards"):
        if name not in found:
            raise KeyError(name)
    if not {"dones", "terminateds"} & found.keys():
        raise KeyError("dones")
    for name, column in found.items():
        if name not in ("obs", "new_obs", "actions") and column.ndim != 1:
            raise ValueError(f"its {name} are no list of numbers")
    lengths = {name: len(column) for name, column in found.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"its columns differ in length: {lengths}")
    return found


def _array(column: Any, name: str) -> np.ndarray:
    """A column as an array: lists, or base64 text of an LZ4 frame that holds a pickled array."""
    array = _unpacked(column, name) if isinstance(column, str) else np.asarray(column)
    if array.dtype.kind not in "biuf":
        raise ConfigError(
            f"the column {name!r} holds {array.dtype}, no numbers. Observations and actions of "
            f"Dict and Tuple spaces must have been flattened by the reference"
        )
    return array


def _unpacked(text: str, name: str) -> np.ndarray:
    try:
        import lz4.frame
    except ImportError as error:
        raise missing_extra("lz4", "offline", f"The packed column {name!r}") from error
    try:
        packed = lz4.frame.decompress(base64.b64decode(text, validate=True))
    except RuntimeError as error:
        raise ValueError(f"the packed column {name!r} is damaged: {error}") from error
    try:
        found = _ArraysOnly(io.BytesIO(packed)).load()
    except pickle.UnpicklingError as error:
        raise ConfigError(
            f"the packed column {name!r} is a pickle of more than an array of numbers ({error}), "
            f"which is never loaded: it could run any code. Write the data again with "
            f"output_compress_columns=[]"
        ) from error
    return found.array() if isinstance(found, _Array) else np.asarray(found)


class _Array:
    """Stands for a NumPy array in a pickle: what it was made of, not made yet."""

    def __init__(self) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, is_fortran, data = state
        self.state = shape, dtype, "F" if is_fortran else "C", data

    def array(self) -> np.ndarray:
        """The array, if it is one of numbers. Raises ValueError."""
        shape, dtype, order, data = self.state
        flat = np.frombuffer(data, dtype.dtype())
        return flat.reshape(tuple(map(int, shape)), order=order)


class _DType:
    """Stands for a NumPy dtype in a pickle."""

    def __init__(self, code: str, *_: Any) -> None:
        self.code = str(code)
        self.byte_order = "="

    def __setstate__(self, state: Any) -> None:
        if state[1] in ("<", ">"):
            self.byte_order = state[1]

    def dtype(self) -> np.dtype:
        """The dtype, if it is one of numbers. Raises ValueError."""
        if not re.fullmatch(r"[biuf][1248]", self.code):
            raise ValueError(f"an array of {self.code!r} holds no numbers")
        return np.dtype(self.byte_order + self.code)


def _from_parts(*_: Any) -> _Array:
    """In the place of numpy's `_reconstruct`; what fills the array follows."""
    return _Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: str = "C", *_: Any) -> _Array:
    array = _Array()
    array.state = shape, dtype, "F" if order == "F" else "C", data
    return array


class _ArraysOnly(pickle.Unpickler):
    """Reads pickled arrays without calling anything that a pickle names: stand-ins take the place
    of what arrays need, and everything else is refused."""

    KNOWN = {  # noqa: RUF012
        ("multiarray", "_reconstruct"): _from_parts,
        ("numeric", "_frombuffer"): _from_buffer,
        ("numpy", "ndarray"): _Array,
        ("numpy", "dtype"): _DType,
    }

    def find_class(self, module: str, name: str) -> Any:
        root, _, last = module.rpartition(".")
        is_numpy = module == "numpy" or root in ("numpy.core", "numpy._core")
        found = self.KNOWN.get((last, name)) if is_numpy else None
        if found is None:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return found
