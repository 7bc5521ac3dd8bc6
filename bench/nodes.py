"""The workload of two nodes: what a publication costs that goes through Redis to a subscriber.

Redis and both nodes are started here. The same is measured with the runner's server, whose topics
are in memory, in turns: what Redis adds is the difference, whatever the machine does meanwhile.
"""

from __future__ import annotations

import json
import shutil
import socket
from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from http.client import HTTPConnection
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.crowd import Crowd, make_request
from bench.readings import scaled
from bench.rival import Rival, Start
from bench.scaling import PATIENCE, Program, open_subscriber, wait_until_ready
from bench.server import Server, Trouble
from bench.workload import Measure, Workload

_SIZE = 128
# A text frame of that size: a length above 125 takes two more bytes (RFC 6455 §5.2).
_HEAD = b"\x81\x7e\x00\x80"

# Publishers that publish at the same time.
_TOGETHER = 10

# How many times each is measured, and publications of each time.
_TURNS, _TIMES, _WARM = 10, 100, 200


def run_nodes(server: Server, scale: float) -> Mapping[str, float]:
    """X1: publish at one node; each publication is delivered by the other.

    First one by one, so that each process sleeps until another one wakes it, and then by ten
    publishers.
    """
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
        spent: dict[str, float] = defaultdict(float)
        # At least as many as are published together.
        times = max(_TOGETHER, scaled(_TIMES, scale))
        ways = (("", Listener.publish), (".many", Listener.publish_together))
        for one, (_, publish) in product((alone, through), ways):
            publish(one, max(_TOGETHER, scaled(_WARM, scale)))
        for _, (way, publish) in product(range(_TURNS), ways):
            before = server.cpu()
            publish(alone, times)
            spent[f"x1.memory{way}"] += server.cpu() - before
            before, redis_before = sum(node.cpu() for node in nodes), redis.cpu
            publish(through, times)
            spent[f"x1.cpu{way}"] += sum(node.cpu() for node in nodes) - before
            spent[f"x1.redis{way}"] += redis.cpu - redis_before
    return {key: value / (_TURNS * times) for key, value in spent.items()}


def _with_broker(rival: Rival, name: str, path: Path) -> Rival:
    """Return a node of a pushd that shares its topics through a Redis."""

    def start(folder: Path) -> Start:
        alone = rival.start(folder)
        return replace(alone, command=[*alone.command, "--broker", f"unix://{path}"])

    return replace(rival, name=name, start=start)


class Listener:
    """Publishers at one server, and a subscriber at another, for a ``with`` block."""

    def __init__(self, publish: Server, subscribe: Server) -> None:
        self._crowd = Crowd(publish.control_port, _TOGETHER, sleeps=True)
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
        self._crowd.close()
        for control in (self._control, self._other):
            control.close()

    def publish(self, times: int) -> None:
        """Publish some times, each time after the last was answered and delivered."""
        for _ in range(times):
            data = self._make()
            self._control.request("POST", "/topics/bench", data)
            response = self._control.getresponse()
            text = response.read()
            if response.status != 200:
                raise Trouble(f"a publication was answered {response.status}: {text!r}")
            frame = self._receive()
            if frame != data:
                raise Trouble(f"publication {self._published} was delivered as {frame!r}")

    def publish_together(self, times: int) -> None:
        """Publish some times, ten or more, ten at a time: each again after it was answered."""
        made: list[bytes] = []

        def make() -> bytes:
            made.append(self._make())
            return make_request("POST /topics/bench", body=made[-1])

        def again(head: bytes, body: bytes) -> bytes | None:
            return make() if len(made) < times else None

        self._crowd.send_each(make)
        self._crowd.take(times, again)
        if sorted(self._receive() for _ in made) != made:
            raise Trouble("a publication was lost, repeated or changed")

    def _make(self) -> bytes:
        """Return the data of the next publication."""
        self._published += 1
        return b"%0*d" % (_SIZE, self._published)

    def _receive(self) -> bytes:
        """Return the data of a publication that was delivered."""
        frame = self._subscriber.recv(len(_HEAD) + _SIZE, socket.MSG_WAITALL)
        if not frame.startswith(_HEAD):
            raise Trouble(f"the subscriber got {frame!r}")
        return frame.removeprefix(_HEAD)


NODES: tuple[Workload, ...] = (
    Workload(
        "x1",
        "two nodes over Redis",
        run_nodes,
        (
            Measure("x1.cpu", "X1 published at one node, delivered by the other: CPU", "µs"),
            Measure("x1.memory", "X1 the same with one process, in memory: CPU", "µs"),
            Measure("x1.redis", "X1 CPU of Redis itself, per publication", "µs"),
            Measure("x1.cpu.many", "X1 ten at a time: CPU of both nodes", "µs", 150),
            Measure("x1.memory.many", "X1 ten at a time, in memory: CPU", "µs"),
            Measure("x1.redis.many", "X1 ten at a time: CPU of Redis itself", "µs"),
        ),
        rivals=frozenset({"pushd"}),
        family="Two nodes",
    ),
)
