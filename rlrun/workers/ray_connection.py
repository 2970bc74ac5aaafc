"""How this process gets to Ray, and what is to be had there."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import warnings
from typing import Any

from rlrun.core.errors import ResourceError
from rlrun.core.resources import Resources

ANSWER_TIMEOUT_S = 8.0
"""How long a Ray cluster may take to answer at all."""

SHARED_RAY = "RLRUN_SHARED_RAY"
"""Environment variable: the address of the Ray that the trials of a sweep share."""

PLACEMENT_GROUP = "RLRUN_PLACEMENT_GROUP"
"""Environment variable: the name of the placement group that is reserved there for a trial."""

AUTH_MODE = "RAY_AUTH_MODE"
"""Ray's own environment variable: whether a cluster asks for a token."""

NAMESPACE = "rlrun"
"""In which placement groups are found."""

_is_starting_ray = False
"""Whether processes that are forked now are those of a Ray of our own."""

_connection: tuple[str | None, int | None] | None = None
"""resources.ray_address and ray_num_cpus by which this process has been connected to Ray here."""

_auth_mode: str | None = None
"""How one makes oneself known to that Ray."""


def connect(resources: Resources) -> Any:
    """Ray, which this process is connected to from now on. Raises ResourceError."""
    global _connection, _auth_mode, _is_starting_ray
    import ray

    shared = os.environ.get(SHARED_RAY)
    address = shared or resources.ray_address
    asked = (resources.ray_address, resources.ray_num_cpus)
    if ray.is_initialized():
        if shared is None and asked not in ((None, None), _connection):
            raise ResourceError(
                f"resources.ray_address={asked[0]} and resources.ray_num_cpus={asked[1]} cannot be "
                f"used: this process is connected to Ray already. Leave both null to use that, or "
                f"call ray.shutdown() before."
            )
        return ray
    _require_answer(address)
    auth_mode = os.environ.get(AUTH_MODE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        termination = signal.getsignal(signal.SIGTERM)
        _is_starting_ray = True
        try:
            ray.init(
                address=address,
                num_cpus=None if address else resources.ray_num_cpus,
                include_dashboard=None if address else False,
                namespace=NAMESPACE,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        except (ConnectionError, ValueError) as error:
            raise ResourceError(
                f"resources.ray_address={resources.ray_address}: no Ray cluster answers there "
                f"({error}). Use null for a local one."
            ) from error
        except OSError as error:
            raise ResourceError(
                f"Ray cannot start, as it keeps a token in the home folder, and that cannot be "
                f"written ({error}). Set HOME to a folder that can, or resources.num_workers=0."
            ) from error
        finally:
            _is_starting_ray = False
            # A local ray.init leaves this behind, and it would change later connections.
            _auth_mode = os.environ.get(AUTH_MODE)
            if auth_mode is None:
                os.environ.pop(AUTH_MODE, None)
            # Ray's own handler would end the process without a checkpoint.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, termination)
    _connection = asked
    return ray


def _leave_process_group() -> None:
    if _is_starting_ray:
        os.setpgid(0, 0)


# A signal to the whole group of this process (a lost terminal, the end of a job) would end its Ray
# too, which the last checkpoint needs.
os.register_at_fork(after_in_child=_leave_process_group)


def reserved_place(ray: Any) -> Any:
    """Where workers are put: in the placement group of the trial, or wherever there is room."""
    name = os.environ.get(PLACEMENT_GROUP)
    if name is None:
        return None
    return ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
        ray.util.get_placement_group(name)
    )


def environ_to_share(ray: Any) -> dict[str, str]:
    """What the environment of another process needs to be connected to the same Ray."""
    environ = {SHARED_RAY: str(ray.get_runtime_context().gcs_address)}
    return environ if _auth_mode is None else {**environ, AUTH_MODE: _auth_mode}


def _require_answer(address: str | None) -> None:
    """Refuse in seconds an address where nobody answers; ray.init would try for minutes.

    Raises ResourceError.
    """
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if not (host and port.isdigit()):
        return
    problems = [f"no answer within {ANSWER_TIMEOUT_S:g} s"]

    def connect() -> None:
        try:
            socket.create_connection((host, int(port)), timeout=ANSWER_TIMEOUT_S).close()
            problems.clear()
        except (OSError, OverflowError) as error:
            problems[0] = str(error)

    # In a thread, as looking a name up cannot be given a time limit.
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(ANSWER_TIMEOUT_S)
    if problems:
        raise ResourceError(
            f"resources.ray_address={address}: no Ray cluster answers there ({problems[0]}). Use "
            f"null for a local one."
        )


def check_capacity(ray: Any, num_workers: int, num_shards: int, resources: Resources) -> None:
    """Refuse at once what the cluster could never give. Raises ResourceError."""
    total = ray.cluster_resources()
    shards = (
        f"{num_shards} replay shards (algo.num_replay_buffer_shards) and " if num_shards else ""
    )
    cpus_of_shards = num_shards * resources.num_cpus_per_replay_shard
    asked = {
        "CPU": num_workers * resources.num_cpus_per_worker + cpus_of_shards,
        "GPU": 0 if resources.fake_gpus else num_workers * resources.num_gpus_per_worker,
        **{
            name: num_workers * amount
            for name, amount in resources.custom_resources_per_worker.items()
        },
    }
    for name, amount in asked.items():
        if amount > total.get(name, 0.0):
            raise ResourceError(
                f"{shards}{num_workers} workers (resources.num_workers and evaluation.num_workers) "
                f"need {amount:g} {name} in all; this Ray cluster has {total.get(name, 0.0):g}. "
                f"Take fewer, or less for each (resources.num_cpus_per_worker may be a fraction)."
            )
