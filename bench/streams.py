"""The workloads of event streams, and of clients that all come back at once.

Nchan has no ids that are known beforehand: those who come back to it ask for all that it keeps.

The load generator is in Python and in this process: only the server's CPU time is counted. It
checks that each client gets each publication once, in its order.
"""

from __future__ import annotations

import json
import re
import select
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from statistics import quantiles

from bench.readings import Readings, scaled
from bench.server import Server, Trouble
from bench.waiting import await_events
from bench.workload import Measure, Workload

# The filling of a publication of 128 bytes, behind its number and a blank.
_FILLING = b"x" * 119

# Publications that those who come back have missed, and the seconds in which they come.
MISSED = 50
_STORM = 1.0

# The interval of publications to those who are there meanwhile, and how many these are.
_LIVE_INTERVAL = 0.01
_LIVE = 20

# How long anything may take, in seconds.
_PATIENCE = 60

_STREAM = b"Accept: text/event-stream\r\n"
_WEBSOCKET = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: pushd.v1\r\n"
)


def payload(number: int) -> bytes:
    """Return a publication."""
    return b"%08d %b" % (number, _FILLING)


class Publisher:
    """Posts publications over one connection, and waits for the answers."""

    def __init__(self, port: int, path: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=_PATIENCE)
        self._path = path.encode()

    def publish(self, numbers: Sequence[int]) -> bytes:
        """Publish these, all in one segment; return the answers."""
        self.send([payload(number) for number in numbers])
        return self._receive(len(numbers))

    def publish_batch(self, path: str, topic: str, numbers: Sequence[int]) -> None:
        """Publish these in one request."""
        batch = [{"topic": topic, "data": payload(number).decode()} for number in numbers]
        self._post(path.encode(), [json.dumps({"publications": batch}).encode()])
        self._receive(1)

    def send(self, bodies: Sequence[bytes]) -> None:
        """Post publications."""
        self._post(self._path, bodies)

    def is_answered(self) -> bool:
        """Return whether there is an answer, and read it."""
        answered = bool(select.select([self._socket], [], [], 0)[0])
        if answered:
            self._receive(1)
        return answered

    def _post(self, path: bytes, bodies: Sequence[bytes]) -> None:
        head = b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
        self._socket.sendall(b"".join(head % (path, len(one), one) for one in bodies))

    def _receive(self, count: int) -> bytes:
        received = b""
        while received.count(b"HTTP/1.1 20") < count:
            data = self._socket.recv(1 << 16)
            if not data:
                raise Trouble(f"publishing failed: {received[:200]!r}")
            received += data
        return received

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()


class Client:
    """A subscriber, and the number of the last publication that it has received."""

    def __init__(self, connection: socket.socket, request: bytes) -> None:
        self.socket = connection
        #: What it sends once it is connected.
        self.request = request
        self.last = 0
        #: Whether anything has come, such as the head of the response.
        self.is_open = False
        self._rest = b""

    def read(self) -> None:
        """Read what has arrived. Raises Trouble unless it is what comes next."""
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        if not data:
            raise Trouble("the server closed a connection")
        self.is_open = True
        data = self._rest + data
        place = 0
        while (end := data.find(_FILLING, place)) >= 0:
            if not data.startswith(payload(self.last + 1), max(0, end - 9)):
                raise Trouble(f"got {data[max(0, end - 9) : end]!r} after {self.last}")
            self.last += 1
            place = end + len(_FILLING)
        self._rest = data[place:][-256:]


class Crowd:
    """Clients, and what tells which of them have something to read."""

    def __init__(self) -> None:
        self.clients: dict[int, Client] = {}
        self._poll = select.epoll()

    def connect(self, port: int, request: bytes, *, source: int = 1) -> None:
        """Add a client: a connection that sends a request as soon as it is open."""
        connection = socket.socket()
        connection.bind((f"127.0.0.{source}", 0))
        connection.setblocking(False)
        with suppress(BlockingIOError):
            connection.connect(("127.0.0.1", port))
        self.clients[connection.fileno()] = Client(connection, request)
        self._poll.register(connection.fileno(), select.EPOLLOUT)

    def read(self, timeout: float = 0) -> list[Client]:
        """Read what has arrived, and return the clients for which something has."""
        found = []
        for descriptor, event in await_events(self._poll.poll, timeout):
            client = self.clients[descriptor]
            if event & select.EPOLLOUT:
                client.socket.send(client.request)
                self._poll.modify(descriptor, select.EPOLLIN)
            else:
                client.read()
                found.append(client)
        return found

    def wait(self, last: int = 0) -> None:
        """Wait until all clients have an answer, and everything up to a number."""
        missing = {one for one in self.clients.values() if not one.is_open or one.last < last}
        end = time.monotonic() + _PATIENCE
        while missing:
            missing -= {one for one in self.read(1) if one.last >= last}
            if time.monotonic() > end:
                raise Trouble(f"{len(missing)} clients did not get {last}")

    def close(self) -> None:
        """Disconnect all."""
        for client in self.clients.values():
            client.socket.close()
        self.clients.clear()
        self._poll.close()


def make_request(path: str, headers: bytes) -> bytes:
    """Return the request of a subscriber."""
    return b"GET %b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (path.encode(), headers)


def run_one_by_one(server: Server, scale: float) -> Mapping[str, float]:
    """S1: publications to event streams, each after all have received the last."""
    return {"s1.cpu": run_events(server, scaled(500, scale), burst=1, times=80)["delivery"]}


def run_bursts(server: Server, scale: float) -> Mapping[str, float]:
    """S2: the same in bursts of eight."""
    return {"s2.cpu": run_events(server, scaled(500, scale), burst=8, times=20)["delivery"]}


def run_events(
    server: Server, streams: int, *, burst: int, times: int, warm: int = 10
) -> Mapping[str, float]:
    """Publish to event streams: CPU per delivery in µs, memory per stream in KiB."""
    seen, crowd = Readings(server), Crowd()
    paths = server.rival.paths
    publisher = Publisher(server.control_port, paths["announce"])
    seen.look("empty")
    try:
        for number in range(streams):
            crowd.connect(
                server.port,
                make_request(paths["events"], _STREAM),
                source=1 + number % 8,
            )
        crowd.wait()
        seen.look("connected")
        last = 0
        for time_ in range(warm + times):
            if time_ == warm:
                seen.look("start")
            numbers = range(last + 1, last + burst + 1)
            if burst > 1 and paths["announce-batch"]:
                publisher.publish_batch(paths["announce-batch"], "bench", numbers)
            else:
                publisher.publish(numbers)
            last += burst
            crowd.wait(last)
        seen.look("end")
    finally:
        crowd.close()
        publisher.close()
    return {
        "delivery": seen.cpu("start", "end") / (streams * times * burst),
        "memory": seen.memory("empty", "connected") / streams,
    }


def run_storm(server: Server, scale: float) -> Mapping[str, float]:
    """R1: thousands of clients come back within a second, over WebSocket and as event streams."""
    found: dict[str, float] = {}
    count, paths = scaled(5000, scale), server.rival.paths
    publisher = Publisher(server.control_port, paths["announce"])
    publisher.publish([1])
    answer = publisher.publish(range(2, MISSED + 1))
    publisher.close()
    # The ids of pushd count from 1.
    epoch = re.search(rb'"id": ?"(\w+):', answer)
    path = paths["events"] if epoch is None else f"{paths['events']}?after={epoch[1].decode()}:0"
    for kind, headers in (("websocket", _WEBSOCKET), ("sse", _STREAM)):
        request, seen = make_request(path, headers), Readings(server)
        come_back(server, request, max(1, count // 16))
        seen.look("start")
        come_back(server, request, count)
        seen.look("end")
        live = Live(server)
        try:
            took = come_back(server, request, count, live)
        finally:
            live.close()
        found[f"r1.{kind}"] = seen.cpu("start", "end") / count
        found[f"r1.{kind}.took"] = took
        found[f"r1.{kind}.late"] = 1000 * quantiles(live.delays, n=100)[-1]
    return found


class Live:
    """Event streams of another topic that is published to meanwhile; how late that arrives."""

    def __init__(self, server: Server) -> None:
        self._crowd = Crowd()
        for _ in range(_LIVE):
            self._crowd.connect(server.port, make_request(server.rival.paths["live"], _STREAM))
        self._publisher = Publisher(server.control_port, server.rival.paths["announce-live"])
        self._crowd.wait()
        self._sent: list[float] = []
        #: The time from each post to each receipt, in seconds.
        self.delays: list[float] = []

    def step(self) -> None:
        """Publish if it is time to and the last one was answered, and read what has arrived."""
        now = time.monotonic()
        if not self._sent or (
            now >= self._sent[-1] + _LIVE_INTERVAL and self._publisher.is_answered()
        ):
            self._sent.append(now)
            self._publisher.send([payload(len(self._sent))])
        self._read(0)

    def finish(self) -> None:
        """Wait until all has arrived."""
        end = time.monotonic() + _PATIENCE
        while len(self.delays) < _LIVE * len(self._sent):
            self._read(0.01)
            if time.monotonic() > end:
                raise Trouble("live publications did not arrive")

    def close(self) -> None:
        """Disconnect."""
        self._crowd.close()
        self._publisher.close()

    def _read(self, timeout: float) -> None:
        before = {client: client.last for client in self._crowd.clients.values()}
        for client in self._crowd.read(timeout):
            now = time.monotonic()
            self.delays += [now - sent for sent in self._sent[before[client] : client.last]]


def come_back(server: Server, request: bytes, count: int, live: Live | None = None) -> float:
    """Let clients come back; return the seconds until the last has all that it missed."""
    crowd, begun, back = Crowd(), time.monotonic(), 0
    try:
        while back < count:
            seconds = time.monotonic() - begun
            if seconds > _PATIENCE:
                raise Trouble(f"{count - back} clients did not come back")
            due = min(count, int(count * seconds / _STORM))
            for number in range(len(crowd.clients), min(due, len(crowd.clients) + 8)):
                crowd.connect(server.port, request, source=1 + number % 8)
            waits = 0.001 if due == len(crowd.clients) else 0
            back += sum(client.last == MISSED for client in crowd.read(waits))
            if live is not None:
                live.step()
        took = time.monotonic() - begun
        if live is not None:
            live.finish()
        return took
    finally:
        crowd.close()


_RIVALS = frozenset({"pushd", "nchan", "aiohttp"})

STREAMS: tuple[Workload, ...] = (
    Workload(
        "s1",
        "500 event streams, one by one",
        run_one_by_one,
        (Measure("s1.cpu", "S1 500 event streams: CPU per delivery", "µs", 8, ((1, "nchan"),)),),
        rivals=_RIVALS,
        family="Event streams",
    ),
    Workload(
        "s2",
        "500 event streams, in bursts",
        run_bursts,
        (Measure("s2.cpu", "S2 in bursts of 8: CPU per delivery", "µs", 1.5),),
        rivals=_RIVALS,
        family="Event streams",
    ),
    Workload(
        "r1",
        "5,000 clients come back, 50 publications missed",
        run_storm,
        tuple(
            Measure(f"r1.{kind}{key}", f"R1 {title}, {text}", unit, most)
            for kind, title in (("websocket", "WebSocket"), ("sse", "event stream"))
            for key, text, unit, most in (
                ("", "5,000 come back: CPU per client", "µs", None),
                (".took", "until the last is live", "s", None),
                (".late", "live pushes meanwhile, 99th percentile", "ms", 50),
            )
        ),
        rivals=frozenset({"pushd", "nchan"}),
        family="Event streams",
        slow=True,
    ),
)
