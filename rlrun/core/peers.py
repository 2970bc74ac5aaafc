"""Processes that learn in step with each other: what each one asks of all of them together.

Every peer calls the same verbs in the same order; a call waits until all have made it.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal

import numpy as np
import psutil
import torch

from rlrun.core.errors import PeerLostError

Backend = Literal["gloo", "nccl"]

JOIN_TIMEOUT_S = 60.0
"""How long the first peer waits for the others to come, all of which are alive by then."""


class Peers:
    """One process that learns alone: the mean over all is its own."""

    rank: int = 0
    size: int = 1

    def average(self, vector: torch.Tensor, weight: float) -> None:
        """Put the mean over all peers, each by its weight, into `vector` in every one of them."""

    def spread(self, tensor: torch.Tensor) -> None:
        """Put the first peer's numbers into `tensor`, in every one of them."""

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        """numbers [K] -> those of all peers by rank, [size, K], float64."""
        return np.asarray(numbers, np.float64)[None]

    def leave(self) -> None:
        """End the connections; peers that wait for this one fail at once."""


class DistributedPeers(Peers):
    """Peers in processes of their own, connected by torch.distributed.

    A process has one group at a time. All verbs raise PeerLostError if another peer is gone, or
    has not come within `timeout_s`.
    """

    def __init__(
        self,
        store: Any,
        rank: int,
        size: int,
        backend: Backend,
        device: torch.device,
        timeout_s: float,
    ) -> None:
        import torch.distributed as dist

        self.rank = rank
        self.size = size
        self._timeout_s = timeout_s
        # Numbers travel from where the backend can take them.
        self._device = device if backend == "nccl" else torch.device("cpu")
        with self._alert():
            dist.init_process_group(
                backend,
                store=store,
                rank=rank,
                world_size=size,
                timeout=timedelta(seconds=timeout_s),
            )

    def average(self, vector: torch.Tensor, weight: float) -> None:
        import torch.distributed as dist

        # One message with the weight behind the vector: two would take twice the time.
        packed = torch.cat([vector * weight, vector.new_tensor([weight])])
        with self._alert():
            dist.all_reduce(packed)
        torch.div(packed[:-1], packed[-1], out=vector)

    def spread(self, tensor: torch.Tensor) -> None:
        import torch.distributed as dist

        with self._alert():
            dist.broadcast(tensor, src=0)

    def gather(self, numbers: np.ndarray) -> np.ndarray:
        import torch.distributed as dist

        mine = torch.as_tensor(np.asarray(numbers, np.float64), device=self._device)
        found = [torch.empty_like(mine) for _ in range(self.size)]
        with self._alert():
            dist.all_gather(found, mine)
        return torch.stack(found).cpu().numpy()

    def leave(self) -> None:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()

    @contextmanager
    def _alert(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise PeerLostError(
                f"Worker {self.rank + 1} lost a worker that it learns with, which has ended, or "
                f"said nothing for {self._timeout_s:g} s."
            ) from error


def open_store() -> tuple[Any, str, int]:
    """Where peers find each other: the store, which the first of them holds, and the host and port
    at which it is reached."""
    import torch.distributed as dist

    host = node_address()
    store = dist.TCPStore(
        host, 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=JOIN_TIMEOUT_S)
    )
    return store, host, store.port


def join(
    store: Any,
    address: tuple[str, int],
    rank: int,
    size: int,
    *,
    backend: Backend,
    device: torch.device,
    timeout_s: float,
) -> DistributedPeers:
    """Become the peer `rank` of `size` that meet at `address`: that of `store`, which only the
    first has (None in the others). Raises PeerLostError if they do not all come."""
    import torch.distributed as dist

    try:
        if store is None:
            store = dist.TCPStore(
                *address, is_master=False, timeout=timedelta(seconds=JOIN_TIMEOUT_S)
            )
        # Without a name it would take the address of this host's name, which may be the loopback's.
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            os.environ.setdefault(name, _interface_toward(*address))
    except RuntimeError as error:
        raise PeerLostError(
            f"Worker {rank + 1} cannot reach the first one at {address[0]}:{address[1]}, where all "
            f"that learn together meet: {error}"
        ) from error
    return DistributedPeers(store, rank, size, backend, device, timeout_s)


def node_address() -> str:
    """This machine's address on its network; no packet is sent to find it."""
    return _address_toward("192.0.2.1", 9)


def _address_toward(host: str, port: int) -> str:
    """The address of this machine from which packets to `host` leave."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((host, port))
        except OSError:
            return "127.0.0.1"
        return str(probe.getsockname()[0])


def _interface_toward(host: str, port: int) -> str:
    """The network interface by which packets to `host` leave."""
    address = _address_toward(host, port)
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            return name
    raise RuntimeError(f"no network interface has the address {address}")
