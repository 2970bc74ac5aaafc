"""Trials with Ray: their workers on one that they share, or all of them on a cluster."""

from __future__ import annotations

import logging
import os
import queue
import secrets
import selectors
import signal
import socket
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import Any

from rlrun.core.resources import Resources
from rlrun.sweep.channel import Channel, ChannelClosedError, Message
from rlrun.sweep.executor import Executor, Heard
from rlrun.sweep.fork_server import ORPHAN_GRACE_S
from rlrun.sweep.local_executor import LocalExecutor
from rlrun.sweep.packing import Place, Room
from rlrun.sweep.trial import TrialResources
from rlrun.sweep.trial_process import Start, write_into
from rlrun.workers import ray_connection

WARN_AFTER_S = 30.0
"""How long Ray may take to reserve what it has free before the user is told."""

LOOK_INTERVAL_S = 0.2
"""Time between two looks at whether tasks have ended."""

TOKEN_BYTES = 16

logger = logging.getLogger("rlrun")


class SharedRayExecutor(LocalExecutor):
    """Trials of this machine; the workers of each have a placement group of their own in a Ray that
    all of them share, as starting one takes seconds. Trials are forked, and join it."""

    def __init__(self, num_cpus: int) -> None:
        super().__init__()
        self._ray = ray_connection.connect(Resources(ray_num_cpus=num_cpus))
        self._environ = ray_connection.environ_to_share(self._ray)
        self._groups: dict[int, Any] = {}

    def start(self, start: Start, place: Place) -> None:
        if place.resources.needs_ray:
            name = f"{start.number}_{secrets.token_hex(4)}"
            bundles = _bundles(place.resources)
            if bundles:
                self._groups[start.number] = _reserve(self._ray, bundles, name)
                start.environ[ray_connection.PLACEMENT_GROUP] = name
            start.environ.update(self._environ)
        super().start(start, place)

    def hear(self, timeout_s: float) -> list[Heard]:
        heard = super().hear(timeout_s)
        for each in heard:
            if each.message["kind"] == "ended" and each.number in self._groups:
                # With it go workers that a killed trial has left.
                self._ray.util.remove_placement_group(self._groups.pop(each.number))
        return heard

    def close(self) -> None:
        super().close()
        self._ray.shutdown()


class ClusterExecutor(Executor):
    """Trials as Ray tasks of a cluster, each in a placement group with its workers; the folder of
    the sweep has to be the same on all machines."""

    def __init__(self, resources: Resources) -> None:
        self._ray = ray_connection.connect(resources)
        self._resources = resources
        self._token = secrets.token_hex(TOKEN_BYTES)
        host = self._ray.util.get_node_ip_address()
        self._server = socket.create_server((host, 0))
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ, None)
        self._tasks: dict[int, Any] = {}
        self._groups: dict[int, Any] = {}
        self._channels: dict[int, Channel] = {}
        self._unknown: list[Channel] = []
        self._interrupted: set[int] = set()
        self._warn_at: dict[int, float] = {}
        """When to say that a trial has not begun yet."""

    def room(self) -> Room:
        """What the whole cluster has."""
        total = dict(self._ray.cluster_resources())
        gpus = [str(index) for index in range(int(total.pop("GPU", 0)))]
        cpus = total.pop("CPU", 0.0)
        custom = {name: amount for name, amount in total.items() if ":" not in name}
        return Room(cpus, gpus, custom)

    def start(self, start: Start, place: Place) -> None:
        need = place.resources
        of_driver = {"CPU": need.driver_cpus, "GPU": 0.0}
        if not self._resources.fake_gpus:
            of_driver["GPU"] = need.driver_gpus
        group = _reserve(self._ray, [of_driver, *_bundles(need)], f"rlrun_{secrets.token_hex(4)}")
        strategy = self._ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy(
            group, placement_group_bundle_index=0, placement_group_capture_child_tasks=True
        )
        task = self._ray.remote(
            num_cpus=of_driver["CPU"],
            num_gpus=of_driver["GPU"],
            max_calls=1,
            max_retries=0,
            scheduling_strategy=strategy,
        )(_run_trial)
        self._groups[start.number] = group
        self._warn_at[start.number] = time.monotonic() + WARN_AFTER_S
        self._tasks[start.number] = task.remote(
            replace(start, environ={}).to_message(),
            self._server.getsockname(),
            self._token,
            ray_connection.environ_to_share(self._ray)[ray_connection.SHARED_RAY],
            (os.getcwd(), list(sys.path)),
        )

    def hear(self, timeout_s: float) -> list[Heard]:
        heard: list[Heard] = []
        deadline = time.monotonic() + timeout_s
        while not heard:
            wait_s = min(LOOK_INTERVAL_S, max(0.0, deadline - time.monotonic()))
            for key, _ in self._selector.select(wait_s):
                if key.data is None:
                    self._accept()
                else:
                    heard += self._hear_channel(key.data)
            heard += self._ended()
            self._warn_of_those_that_wait()
            if time.monotonic() >= deadline:
                break
        return heard

    def answer(self, number: int, message: Message) -> None:
        with suppress(ChannelClosedError, KeyError):
            self._channels[number].send(message)

    def interrupt(self, number: int) -> None:
        if number in self._channels:
            self.answer(number, {"interrupt": True})
        else:
            self._interrupted.add(number)  # It has not come up yet.

    def kill(self, number: int) -> None:
        if number in self._tasks:
            self._ray.cancel(self._tasks[number], force=True)

    def close(self) -> None:
        for number in list(self._tasks):
            self.kill(number)
        for group in self._groups.values():
            self._ray.util.remove_placement_group(group)
        for channel in (*self._channels.values(), *self._unknown):
            channel.close()
        self._selector.close()
        self._server.close()
        self._ray.shutdown()

    def _accept(self) -> None:
        connection, _ = self._server.accept()
        channel = Channel(connection)
        self._unknown.append(channel)
        self._selector.register(channel, selectors.EVENT_READ, channel)

    def _hear_channel(self, channel: Channel) -> list[Heard]:
        messages = channel.take()
        if channel in self._unknown and messages:
            self._unknown.remove(channel)
            hello = messages.pop(0)
            if hello.get("token") == self._token:
                self._channels[hello["number"]] = channel
                self._warn_at.pop(hello["number"], None)
                if hello["number"] in self._interrupted:
                    channel.send({"interrupt": True})
            else:
                channel.is_open = False  # A stranger.
        number = next((n for n, each in self._channels.items() if each is channel), None)
        if not channel.is_open:
            self._selector.unregister(channel)
            channel.close()
            if number is not None:
                del self._channels[number]
        return [] if number is None else [Heard(number, message) for message in messages]

    def _ended(self) -> list[Heard]:
        if not self._tasks:
            return []
        refs = list(self._tasks.values())
        done, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
        heard: list[Heard] = []
        for number in [n for n, ref in self._tasks.items() if ref in done]:
            while (channel := self._channels.get(number)) is not None:
                heard += self._hear_channel(channel)  # What it said before it ended.
            self._warn_at.pop(number, None)
            status = self._status_of(self._tasks.pop(number))
            self._ray.util.remove_placement_group(self._groups.pop(number))
            heard.append(Heard(number, {"kind": "ended", "status": status}))
        return heard

    def _warn_of_those_that_wait(self) -> None:
        for number, warn_at in list(self._warn_at.items()):
            if time.monotonic() > warn_at and not self._groups[number].wait(0):
                del self._warn_at[number]
                logger.warning(
                    "Trial %d waits for Ray, which has not reserved %s yet: its machines have this "
                    "only in parts, or others use it. See `ray status`.",
                    number,
                    self._groups[number].bundle_specs,
                )

    def _status_of(self, task: Any) -> int:
        try:
            return int(self._ray.get(task))
        except self._ray.exceptions.RayTaskError:
            return 1
        except self._ray.exceptions.RayError:
            return -signal.SIGKILL


def _bundles(need: TrialResources) -> list[dict[str, float]]:
    """What workers ask for, as Ray takes it: without nothings."""
    bundles = [{k: v for k, v in bundle.items() if v} for bundle in need.bundles]
    return [bundle for bundle in bundles if bundle]


def _reserve(ray: Any, bundles: list[dict[str, float]], name: str) -> Any:
    """A placement group: what is to run in it waits until Ray has room for all of it."""
    return ray.util.placement_group(
        [{k: v for k, v in bundle.items() if v} for bundle in bundles], name=name
    )


def _run_trial(
    message: Message,
    address: tuple[str, int],
    token: str,
    cluster: str,
    place: tuple[str, list[str]],
) -> int:
    """A trial, in a Ray worker's process; returns its exit status."""
    directory, import_path = place
    os.chdir(directory)
    sys.path.extend(path for path in import_path if path not in sys.path)
    start = Start(**message)
    write_into(start)
    sys.argv = ["rlrun"]
    os.environ[ray_connection.SHARED_RAY] = cluster
    channel = Channel(socket.create_connection(address))
    channel.send({"token": token, "number": start.number})
    # What runs a trial stands above this module, and is found by its name.
    status: int = import_module("rlrun.train").run_trial(start, _Line(channel))
    return status


class _Line(Channel):
    """The trial's end of a connection over which its driver may interrupt it, too."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._answers: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def send(self, message: Message) -> None:
        self._channel.send(message)

    def receive(self) -> Message:
        answer = self._answers.get()
        if answer is None:
            raise ChannelClosedError("The driver has gone.")
        return answer

    def _listen(self) -> None:
        try:
            while True:
                message = self._channel.receive()
                if message.get("interrupt"):
                    os.kill(os.getpid(), signal.SIGTERM)
                else:
                    self._answers.put(message)
        except ChannelClosedError:
            # Without a driver: it ends with a checkpoint, or, if that takes too long, without.
            self._answers.put(None)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(ORPHAN_GRACE_S)
            os._exit(1)
