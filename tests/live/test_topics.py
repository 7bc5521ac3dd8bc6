"""Topics over real sockets: clients that are cut repeatedly, slow readers, many topics."""

from __future__ import annotations

import json
import random
import socket
import struct
from base64 import b64decode
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from itertools import islice
from pathlib import Path
from threading import Thread
from time import monotonic, sleep
from typing import Any
from urllib.parse import urlsplit

import pytest
from websockets.sync.client import connect

from tests.support.daemon_process import DaemonProcess

ROOT = Path(__file__).parent.parent.parent

PUBLICATIONS = 10_000
BATCH = 100

# Timeout of single steps, in seconds.
PATIENCE = 60.0

# A publication as a client receives it: its id and its data.
Received = tuple[str, str | bytes]


class Node:
    """A daemon, and the addresses of its two ports."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.public = urlsplit(daemon.url).netloc
        self.control = urlsplit(
            daemon.wait_for(r"control port listening on (http://\S+)")[1]
        ).netloc

    def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """Send a request to the control port, and return the JSON of the answer."""
        connection = HTTPConnection(self.control, timeout=PATIENCE)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            said = answer.read()
            assert answer.status == 200, (answer.status, said)
            return json.loads(said)
        finally:
            connection.close()

    def publish(self, publications: list[dict[str, str]]) -> list[str]:
        """Publish many in one request, and return their ids."""
        body = json.dumps({"publications": publications}).encode()
        return [one["id"] for one in self.ask("POST", "/publish", body)["published"]]

    @property
    def memory(self) -> float:
        """Return the resident memory of the process, in MiB."""
        status = Path(f"/proc/{self.daemon.pid}/status").read_text()
        return next(
            int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:")
        )


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Return a function that runs a daemon with options."""
    daemons: list[DaemonProcess] = []

    def start(*args: str) -> Node:
        control = ("--control", "tcp:0:interface=127.0.0.1")
        daemon = DaemonProcess([*control, *args], directory=tmp_path, patience=PATIENCE)
        daemons.append(daemon.__enter__())
        return Node(daemon)

    yield start
    for daemon in daemons:
        daemon.stop()


def by_websocket(node: Node, topic: str, after: str) -> Iterator[Received]:
    """Subscribe with pushd.v1."""
    url = f"ws://{node.public}/topics/{topic}?after={after}"
    options: Any = {"subprotocols": ["pushd.v1"], "max_size": None, "open_timeout": PATIENCE}
    with connect(url, proxy=None, **options) as websocket:
        first = json.loads(websocket.recv(PATIENCE))
        assert first == {"subscribed": topic, "id": after, "recovered": True}
        try:
            while True:
                yield _received(json.loads(websocket.recv(PATIENCE)))
        finally:
            # No closing handshake, as if the cable was cut.
            websocket.socket.shutdown(socket.SHUT_RDWR)


def by_raw_websocket(node: Node, topic: str, after: str) -> Iterator[Received]:
    """Subscribe without a subprotocol, and count the ids from the first one."""
    epoch, _, offset = after.partition(":")
    url = f"ws://{node.public}/topics/{topic}?after={after}"
    with connect(url, proxy=None, max_size=None, open_timeout=PATIENCE) as websocket:
        try:
            number = int(offset)
            while True:
                number += 1
                yield f"{epoch}:{number}", websocket.recv(PATIENCE)
        finally:
            websocket.socket.shutdown(socket.SHUT_RDWR)


def by_events(node: Node, topic: str, after: str) -> Iterator[Received]:
    """Subscribe with Server-Sent Events, over a socket that is reset at the end."""
    host, _, port = node.public.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        # Closing the socket sends a reset, even with unread data.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # HTTP/1.0, so that the stream is not chunked.
        connection.sendall(
            f"GET /topics/{topic} HTTP/1.0\r\nAccept: text/event-stream\r\n"
            f"Last-Event-ID: {after}\r\n\r\n".encode()
        )
        with connection.makefile("rb") as stream:
            assert stream.readline().split()[1] == b"200"
            while stream.readline().strip():
                pass
            first = _read_event(stream)
            assert first["event"] == "subscribed"
            assert json.loads(first["data"]) == {
                "subscribed": topic,
                "id": after,
                "recovered": True,
            }
            while True:
                event = _read_event(stream)
                binary = event.get("event") == "base64"
                yield event["id"], b64decode(event["data"]) if binary else event["data"]


def by_long_poll(node: Node, topic: str, after: str) -> Iterator[Received]:
    """Subscribe with consecutive polls."""
    connection = HTTPConnection(node.public, timeout=PATIENCE)
    try:
        while True:
            connection.request("GET", f"/topics/{topic}?after={after}&wait=25")
            answer = connection.getresponse()
            said = json.loads(answer.read())
            assert (answer.status, said["recovered"]) == (200, True), said
            after = said["id"]
            for one in said["publications"]:
                yield _received(one)
    finally:
        connection.close()


TRANSPORTS = (by_websocket, by_raw_websocket, by_events, by_long_poll)


def test_topics_used_once(run: Callable[..., Node]) -> None:
    """Topics that are used once leave no memory."""
    node = run("--history-ttl=1")

    def use(name: str, rounds: int) -> float:
        # In rounds, so that the peak number of topics does not depend on the machine.
        for round in range(rounds):
            for batch in range(20):
                node.publish(
                    [
                        {"topic": f"{name}/{round}/{batch}/{number}", "data": "x"}
                        for number in range(1000)
                    ]
                )
            _wait_until(lambda: node.ask("GET", "/topics")["topics"] == [])
        return node.memory

    # Python keeps the memory of the peak for later objects.
    before = use("warm", 3)
    after = use("once", 10)
    # If each topic left only its name and epoch, this would be 30 MiB.
    assert after - before < 15, (before, after)


@pytest.mark.parametrize("seed", range(3))
def test_cut_at_random(run: Callable[..., Node], seed: int) -> None:
    """A client that is cut repeatedly and resumes over any transport misses nothing."""
    node = run(f"--history-size={PUBLICATIONS}")
    chance = random.Random(seed)
    first = _first_id(node, "news")
    publisher = Thread(target=_publish_all, args=(node, chance.random()))
    publisher.start()
    received: list[Received] = []
    cuts = 0
    try:
        deadline = monotonic() + PATIENCE * 4
        while len(received) < PUBLICATIONS:
            assert monotonic() < deadline, f"{len(received)} after {cuts} cuts"
            after = received[-1][0] if received else first
            stream = chance.choice(TRANSPORTS)(node, "news", after)
            received += islice(stream, min(chance.randint(0, 500), PUBLICATIONS - len(received)))
            stream.close()  # type: ignore[attr-defined]
            cuts += 1
    finally:
        publisher.join(PATIENCE)
    epoch = first.partition(":")[0]
    assert [id for id, _ in received] == [f"{epoch}:{n}" for n in range(1, PUBLICATIONS + 1)]
    assert [data for _, data in received] == [_data(n) for n in range(PUBLICATIONS)]
    assert cuts > 20
    _wait_until(lambda: node.ask("GET", "/topics/news")["subscribers"] == {})


def test_slow_reader(run: Callable[..., Node]) -> None:
    """A subscriber that does not read is cut off; one that reads receives everything."""
    node = run("--max-buffered=1000000")
    first = _first_id(node, "news")
    host, _, port = node.public.rpartition(":")
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect((host, int(port)))
        slow.sendall(b"GET /topics/news HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n")
        _wait_until(lambda: node.ask("GET", "/topics/news")["subscribers"] == {"sse": 1})
        before = node.memory
        reader = by_websocket(node, "news", first)
        for number in range(200):
            node.publish([{"topic": "news", "data": f"{number} {'x' * 100_000}"}])
            assert str(next(reader)[1]).startswith(f"{number} ")
        _wait_until(lambda: node.ask("GET", "/topics/news")["subscribers"] == {"websocket": 1})
        # The history keeps 100 publications of 10 MB in all; the rest is a few MB of buffers.
        assert node.memory - before < 60
        reader.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("listen", TRANSPORTS)
def test_burst(run: Callable[..., Node], listen: Callable[..., Iterator[Received]]) -> None:
    """A burst larger than --max-buffered does not cut off a subscriber that reads."""
    node = run("--max-buffered=100000")
    first = _first_id(node, "news")
    reader = listen(node, "news", first)
    for go in range(3):
        data = [f"{go} {number} {'x' * 30_000}" for number in range(30)]
        node.publish([{"topic": "news", "data": one} for one in data])
        # The first burst is read from the history; during the others the reader is live.
        assert [received for _, received in islice(reader, len(data))] == data
    reader.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("listen", TRANSPORTS[:3])
def test_large_batch(run: Callable[..., Node], listen: Callable[..., Iterator[Received]]) -> None:
    """A batch of eight times --max-buffered arrives completely, even at a slow reader."""
    node = run("--history-size=1000")
    reader = listen(node, "news", _first_id(node, "news"))
    data = [f"{number} {'x' * 8000}" for number in range(1000)]
    node.publish([{"topic": "news", "data": "first"}])
    assert next(reader)[1] == "first"
    publisher = Thread(
        target=node.publish, args=([{"topic": "news", "data": one} for one in data],)
    )
    publisher.start()
    received = [one for _, one in islice(reader, len(data))]
    publisher.join(PATIENCE)
    assert received == data
    reader.close()  # type: ignore[attr-defined]


def _publish_all(node: Node, haste: float) -> None:
    """Publish everything in batches with pauses, so that readers are sometimes behind."""
    for start in range(0, PUBLICATIONS, BATCH):
        node.publish(
            [{"topic": "news", "data": _data(number)} for number in range(start, start + BATCH)]
        )
        sleep(0.02 * haste)


def _data(number: int) -> str:
    return f"publication {number} é"


def _first_id(node: Node, topic: str) -> str:
    """Poll once, to learn the topic's current id."""
    connection = HTTPConnection(node.public, timeout=PATIENCE)
    connection.request("GET", f"/topics/{topic}?wait=0")
    said = json.loads(connection.getresponse().read())
    connection.close()
    id = said["id"]
    assert isinstance(id, str)
    assert id.endswith(":0")
    return id


def _received(one: dict[str, str]) -> Received:
    return one["id"], b64decode(one["base64"]) if "base64" in one else one["data"]


def _read_event(stream: Any) -> dict[str, str]:
    """Read one event, and skip comments."""
    fields: dict[str, str] = {}
    while True:
        line = stream.readline().decode()
        assert line, "the stream broke off"
        name, _, value = line.rstrip("\n").partition(": ")
        if name and not line.startswith(":"):
            fields[name] = value
        elif not name and fields:
            return fields


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + PATIENCE
    while not condition():
        assert monotonic() < deadline
        sleep(0.1)
