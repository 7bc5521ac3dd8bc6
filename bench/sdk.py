"""The workload of Centrifugo's SDKs: subscribers over that protocol, beside those over pushd.v1.

The load generator is in Python. Two daemons take turns, one for each protocol, so that what
disturbs one disturbs the other.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.crowd import Crowd, make_request
from bench.readings import scaled
from bench.rival import Start
from bench.secure import Client, receive, receive_frame
from bench.server import Server, Trouble
from bench.workload import Measure, Workload

_SUBSCRIBERS = 1000

# Publications before and during the measurement, each after all deliveries of the last.
_WARM, _TIMES = 10, 60

_TOPIC = "bench"


def run_sdk(server: Server, scale: float) -> Mapping[str, float]:
    """F1: subscribers of an SDK in JSON, one publication at a time; and as many over pushd.v1."""
    subscribers = scaled(_SUBSCRIBERS, scale)
    start = server.rival.start
    rival = replace(server.rival, start=lambda folder: _with_centrifuge(start(folder)))
    with ExitStack() as stack:
        sides = []
        for subscribe in (_subscribe_sdk, _subscribe_pushd):
            folder = Path(stack.enter_context(TemporaryDirectory()))
            side = _Side(stack.enter_context(Server(rival, folder)), subscribe)
            side.connect(subscribers, stack)
            sides.append(side)
        for number in range(_WARM + _TIMES):
            for side in sides[:: 1 if number % 2 else -1]:
                side.publish(number, measured=number >= _WARM)
        sdk, own = sides
        return {
            "f1.cpu": sdk.spent / _TIMES / subscribers,
            "f1.cpu-ratio": sdk.spent / own.spent,
            "f1.memory": sdk.memory / subscribers,
            "f1.memory-ratio": sdk.memory / own.memory,
        }


def _subscribe_sdk(port: int) -> socket.socket:
    """Connect as an SDK does, and subscribe to the topic."""
    headers = "Sec-WebSocket-Protocol: centrifuge-json\r\n"
    connection = Client(headers=headers).connect(port, "/connection/websocket")
    commands = ({"id": 1, "connect": {}}, {"id": 2, "subscribe": {"channel": _TOPIC}})
    text = "\n".join(map(json.dumps, commands)).encode()
    connection.sendall(bytes((0x81, 0x80 | len(text))) + bytes(4) + text)
    for kind in (b'"connect":', b'"subscribe":'):
        _expect(connection, kind)
    return connection


def _subscribe_pushd(port: int) -> socket.socket:
    """Connect over pushd.v1, to the topic."""
    headers = "Sec-WebSocket-Protocol: pushd.v1\r\n"
    connection = Client(headers=headers).connect(port, f"/topics/{_TOPIC}")
    _expect(connection, b'"subscribed":')
    return connection


def _expect(connection: socket.socket, text: bytes) -> None:
    frame = receive_frame(connection)
    if text not in frame:
        raise Trouble(f"unexpected frame {frame!r}")


@dataclass
class _Side:
    """A daemon, and the subscribers of one protocol."""

    server: Server
    subscribe: Callable[[int], socket.socket]
    #: KiB of memory that the subscribers take, and µs of CPU that the deliveries took.
    memory: float = 0
    spent: float = 0
    crowd: Sequence[socket.socket] = field(default_factory=list)

    def connect(self, subscribers: int, stack: ExitStack) -> None:
        """Connect the publisher and the subscribers."""
        server = self.server
        self.publisher = stack.enter_context(Crowd(server.control_port, 1))
        # What is made once does not count.
        stack.enter_context(self.subscribe(server.port))
        before = server.memory()
        self.crowd = [stack.enter_context(self.subscribe(server.port)) for _ in range(subscribers)]
        self.memory = server.memory() - before

    def publish(self, number: int, *, measured: bool) -> None:
        """Publish 128 bytes of JSON, and wait for all deliveries."""
        text = json.dumps({"number": f"{number:04}", "text": "x" * 98})
        assert len(text) == 128
        began = self.server.cpu()
        head = "Content-Type: application/json"
        request = make_request(f"POST /topics/{_TOPIC}", head, body=text.encode())
        self.publisher.send(request)
        self.publisher.take(1, lambda head, body: None)
        first = receive_frame(self.crowd[0])
        if b"%04d" % number not in first:
            raise Trouble(f"unexpected frame {first!r}")
        for connection in self.crowd[1:]:
            if receive(connection, len(first)) != first:
                raise Trouble("a subscriber has received something else")
        if measured:
            self.spent += self.server.cpu() - began


def _with_centrifuge(start: Start) -> Start:
    return replace(start, command=[*start.command, "--centrifuge", "on"])


SDK: tuple[Workload, ...] = (
    Workload(
        "f1",
        "1,000 subscribers of an SDK",
        run_sdk,
        (
            Measure("f1.cpu", "F1 1,000 subscribers of centrifuge, JSON: CPU per delivery", "µs"),
            Measure("f1.cpu-ratio", "F1 the same / over pushd.v1", "x", 1.5),
            Measure("f1.memory", "F1 memory per connection", "KiB"),
            Measure("f1.memory-ratio", "F1 the same / over pushd.v1", "x", 1.5),
        ),
        rivals=frozenset({"pushd"}),
        family="Clients of Centrifugo",
    ),
)
