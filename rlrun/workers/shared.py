"""Counters and stores with a name, for code that runs in different processes of a run.

`shared_counter("tries").inc()` in an env, a callback or the driver all speak of the same number,
wherever it lives: in an actor of Ray's where this process is connected to Ray, in this process
where it is not, and for envs in processes of their own where it is for their worker. Nothing here
starts Ray. Names belong to a process and the workers that it started: all its trainers share them.
Checkpoints hold what is shared, and `Trainer.restore` puts it back.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
from dataclasses import dataclass
from multiprocessing.connection import Client, Connection, Listener
from typing import Any, Protocol

from rlrun.workers.task_state import pack, unpack

logger = logging.getLogger("rlrun.workers")

ACTOR = "rlrun.shared"
"""The name of the Ray actor."""

ANSWER_TIMEOUT_S = 5.0
"""How long that actor may take to give back what it has when a run ends."""


@dataclass(frozen=True)
class SharedCounter:
    """A number that every process of a run can raise and read; it begins at 0."""

    name: str

    def inc(self, n: float = 1) -> None:
        """Add `n`. Does not wait for it, on Ray; this process sees it in its next `get`."""
        _place().tell("inc", self.name, n)

    def get(self) -> float:
        """Its present value: all that this process has added is in it."""
        return _place().ask("count", self.name)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class SharedStore:
    """Values by key that every process of a run can set and read: a parameter server."""

    name: str

    def set(self, key: str, value: Any) -> None:
        """Put a value there: numbers, text, arrays, and lists, tuples and dicts of these. Does not
        wait for it, on Ray. Raises TypeError for anything else."""
        _place().tell("put", self.name, key, pack(value, "value"))

    def get(self, key: str, default: Any = None) -> Any:
        """A copy of the value that was set last, or `default` if none was."""
        found = _place().ask("find", self.name, key)
        return default if found is None else unpack(found)


def shared_counter(name: str) -> SharedCounter:
    """The counter of that name, which is there as soon as somebody asks for it."""
    return SharedCounter(name)


def shared_store(name: str) -> SharedStore:
    """The store of that name, which is there as soon as somebody asks for it."""
    return SharedStore(name)


class Shelf:
    """All counters and stores, in the one process where they live."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counters: dict[str, float] = {}
        self._stores: dict[str, dict[str, Any]] = {}

    def inc(self, name: str, n: float) -> None:
        with self._lock:
            self._counters[name] = self._counters.get(name, 0) + n

    def count(self, name: str) -> float:
        return self._counters.get(name, 0)

    def put(self, name: str, key: str, packed: Any) -> None:
        with self._lock:
            self._stores.setdefault(name, {})[key] = packed

    def find(self, name: str, key: str) -> Any:
        return self._stores.get(name, {}).get(key)

    def add(self, state: dict[str, Any]) -> None:
        """Join what another shelf's `state_dict` gave: counts add up, newer values stay."""
        for name, count in state["counters"].items():
            self.inc(name, count)
        for name, values in state["stores"].items():
            self._stores[name] = {**values, **self._stores.get(name, {})}

    def state_dict(self) -> dict[str, Any]:
        with self._lock:
            stores = {name: dict(values) for name, values in self._stores.items()}
            return {"counters": dict(self._counters), "stores": stores}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with self._lock:
            self._counters = dict(state["counters"])
            self._stores = {name: dict(values) for name, values in state["stores"].items()}


# Where the shelf is


class _Place(Protocol):
    def tell(self, method: str, *args: Any) -> None: ...

    def ask(self, method: str, *args: Any) -> Any: ...


class _Here:
    def __init__(self) -> None:
        self.shelf = Shelf()

    def tell(self, method: str, *args: Any) -> None:
        self.ask(method, *args)

    def ask(self, method: str, *args: Any) -> Any:
        return getattr(self.shelf, method)(*args)


class _InRay:
    """An actor of the job, made by whoever asks first; it outlives the worker that does."""

    def __init__(self, ray: Any) -> None:
        self.ray = ray
        self.namespace = _namespace(ray)
        self._last: Any = None
        actor_class = ray.remote(num_cpus=0)(Shelf)
        self.actor = actor_class.options(
            name=ACTOR, namespace=_namespace(ray), get_if_exists=True, lifetime="detached"
        ).remote()

    def tell(self, method: str, *args: Any) -> None:
        self._last = getattr(self.actor, method).remote(*args)

    def ask(self, method: str, *args: Any) -> Any:
        return self.ray.get(getattr(self.actor, method).remote(*args))

    def settle(self) -> None:
        """Wait until all that was told is done."""
        if self._last is not None:
            self.ray.get(self._last)


class _InParent:
    """The process that this one, of a single env, was started by."""

    def __init__(self, address: Any) -> None:
        self._connection = Client(address, authkey=_authkey())

    def tell(self, method: str, *args: Any) -> None:
        self.ask(method, *args)

    def ask(self, method: str, *args: Any) -> Any:
        self._connection.send((method, args))
        return self._connection.recv()


_here = _Here()
_in_ray: _InRay | None = None
_parent_address: Any = None
_in_parent: _InParent | None = None
_listener: Listener | None = None


def _place() -> _Place:
    global _in_parent, _in_ray
    if _parent_address is not None:
        _in_parent = _in_parent or _InParent(_parent_address)
        return _in_parent
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return _here
    if _in_ray is None or _in_ray.namespace != _namespace(ray):
        _in_ray = _InRay(ray)
        _in_ray.tell("add", _here.shelf.state_dict())
        _here.shelf = Shelf()
    return _in_ray


# What the rest of a run calls


def listen() -> Any:
    """Serve the processes of envs that this one is about to start; the address for `speak_to`."""
    global _listener
    if _listener is None:
        # Abstract, so that no file is left behind by a worker that is killed.
        name = f"\0rlrun-{os.getpid()}-{os.urandom(8).hex()}" if sys.platform == "linux" else None
        _listener = Listener(name, authkey=_authkey())
        threading.Thread(target=_accept, args=(_listener,), daemon=True).start()
    return _listener.address


def speak_to(address: Any) -> None:
    """In the process of an env: what is shared is in the process that listens there."""
    global _in_parent, _parent_address
    _in_parent, _parent_address = None, address


def settle() -> None:
    """Wait until all that this process did to what is shared is done."""
    if _in_ray is not None and _place() is _in_ray:
        _in_ray.settle()


def state_dict() -> dict[str, Any]:
    """All that is shared."""
    return _place().ask("state_dict") if _is_used() else Shelf().state_dict()


def load_state_dict(state: dict[str, Any]) -> None:
    """Put back what `state_dict` gave."""
    if _is_used() or any(state.values()):
        _place().tell("load_state_dict", state)
        settle()


def bring_home() -> None:
    """Take what is shared from Ray into this process, and end the actor that had it: the last
    workers are gone."""
    global _in_ray
    ray = sys.modules.get("ray")
    if ray is None or not _has_actor(ray):
        return
    place, _in_ray = _in_ray or _InRay(ray), None
    try:
        found = place.actor.state_dict.remote()
        _here.shelf.load_state_dict(place.ray.get(found, timeout=ANSWER_TIMEOUT_S))
        place.ray.kill(place.actor)
    except (place.ray.exceptions.RayError, TimeoutError) as error:
        logger.warning("What was shared by name is lost: %s", error)


def _is_used() -> bool:
    """Whether anybody of this run has asked for something that is shared."""
    if _in_ray is not None or _parent_address is not None or any(_here.shelf.state_dict().values()):
        return True
    ray = sys.modules.get("ray")
    return ray is not None and _has_actor(ray)


def _has_actor(ray: Any) -> bool:
    if not ray.is_initialized():
        return False
    try:
        ray.get_actor(ACTOR, namespace=_namespace(ray))
    except ValueError:
        return False
    return True


def _namespace(ray: Any) -> str:
    """That of the actor: each job of a cluster has one of its own."""
    return f"rlrun-{ray.get_runtime_context().get_job_id()}"


def _accept(listener: Listener) -> None:
    while True:
        try:
            connection = listener.accept()
        except OSError:  # It was closed, at the end of the process.
            return
        except multiprocessing.AuthenticationError:
            continue
        threading.Thread(target=_serve, args=(connection,), daemon=True).start()


def _serve(connection: Connection) -> None:
    """Do what one env's process asks for, until it ends."""
    with connection:
        while True:
            try:
                method, args = connection.recv()
            except (EOFError, OSError):
                return
            connection.send(_place().ask(method, *args))


def _authkey() -> bytes:
    return bytes(multiprocessing.current_process().authkey)
