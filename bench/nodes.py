"""The workload of two nodes: what a publication costs that goes through Redis to a subscriber.

Redis and both nodes are started here. The same is measured with the runner's server, whose topics
are in memory, in turns: what Redis adds is the difference, whatever the machine does meanwhile.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.readings import scaled
from bench.rival import Rival, Start
from bench.scaling import PATIENCE, Program, open_subscriber, wait_until_ready
from bench.server import Server, Trouble
from bench.workload import Measure, Workload

_SIZE = 128
# A text frame of that size: a length above 125 takes two more bytes (RFC 6455 §5.2).
_HEAD = b"\x81\x7e\x00\x80"

# How many times each is measured, and publications of each time.
_TURNS, _TIMES, _WARM = 10, 100, 200


def run_nodes(server: Server, scale: float) -> Mapping[str, float]:
    """X1: publish at one node, one by one; each publication is delivered by the other."""
    if shutil.which("redis-server") is None:
        raise Trouble("redis-server is not installed: apt-get install redis-server")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="pushd-")))
        path = folder / "redis.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", f"{path}", "--save", ""]
        redis = Program([*command, "--dir", f"{folder}"], "eady to accept", folder)
        stack.enter_context(redis)
        nodes = [
            stack.enter_context(Server(_with_broker(server.rival, f"node{n}", path), folder))
            for n in range(2)
        ]
        alone = stack.enter_context(Listener(server, server))
        through = stack.enter_context(Listener(*nodes))
        spent = {"x1.cpu": 0.0, "x1.memory": 0.0, "x1.redis": 0.0}
        times = scaled(_TIMES, scale)
        for one in (alone, through):
            one.publish(scaled(_WARM, scale))
        for _ in range(_TURNS):
            before = server.cpu()
            alone.publish(times)
            spent["x1.memory"] += server.cpu() - before
            before, redis_before = sum(node.cpu() for node in nodes), redis.cpu
            through.publish(times)
            spent["x1.cpu"] += sum(node.cpu() for node in nodes) - before
            spent["x1.redis"] += redis.cpu - redis_before
    return {key: value / (_TURNS * times) for key, value in spent.items()}


def _with_broker(rival: Rival, name: str, path: Path) -> Rival:
    """Return a node of a pushd that shares its topics through a Redis."""

    def start(folder: Path) -> Start:
        alone = rival.start(folder)
        return replace(alone, command=[*alone.command, "--broker", f"unix://{path}"])

    return replace(rival, name=name, start=start)


class Listener:
    """A publisher at one server, and a subscriber at another, for a ``with`` block."""

    def __init__(self, publish: Server, subscribe: Server) -> None:
        self._control = HTTPConnection("127.0.0.1", publish.control_port, timeout=PATIENCE)
        self._other = HTTPConnection("127.0.0.1", subscribe.control_port, timeout=PATIENCE)
        self._port = subscribe.port
        self._published = 0

    def __enter__(self) -> Listener:
        for control in (self._control, self._other):
            wait_until_ready(control)
        # A subscription may begin after its 101; one from a known id misses nothing.
        self._control.request("GET", "/last-id?topic=bench")
        last = json.loads(self._control.getresponse().read())["id"]
        self._subscriber: socket.socket = open_subscriber(self._port, last)
        return self

    def __exit__(self, *_: object) -> None:
        self._subscriber.close()
        for control in (self._control, self._other):
            control.close()

    def publish(self, times: int) -> None:
        """Publish some times, each time after the last was answered and delivered."""
        for _ in range(times):
            self._published += 1
            data = b"%0*d" % (_SIZE, self._published)
            self._control.request("POST", "/topics/bench", data)
            response = self._control.getresponse()
            text = response.read()
            if response.status != 200:
                raise Trouble(f"a publication was answered {response.status}: {text!r}")
            frame = self._subscriber.recv(len(_HEAD) + _SIZE, socket.MSG_WAITALL)
            if frame != _HEAD + data:
                raise Trouble(f"publication {self._published} was delivered as {frame!r}")


NODES: tuple[Workload, ...] = (
    Workload(
        "x1",
        "two nodes over Redis",
        run_nodes,
        (
            Measure("x1.cpu", "X1 published at one node, delivered by the other: CPU", "µs", 150),
            Measure("x1.memory", "X1 the same with one process, in memory: CPU", "µs"),
            Measure("x1.redis", "X1 CPU of Redis itself, per publication", "µs"),
        ),
        rivals=frozenset({"pushd"}),
        family="Two nodes",
    ),
)
