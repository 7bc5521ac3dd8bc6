"""Topics over real sockets: clients that are cut again and again, and a million topics."""

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

from tests.daemon_process import DaemonProcess

ROOT = Path(__file__).parent.parent.parent

PUBLICATIONS = 10_000
BATCH = 100

# How long anything may take that is not to take long, in seconds.
PATIENCE = 60.0

# A publication as a client has it: its id and its data.
Heard = tuple[str, str | bytes]


class Node:
    """A daemon, and the addresses of its two doors."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.public = urlsplit(daemon.url).netloc
        self.control = urlsplit(
            daemon.wait_for(r"control port listening on (http://\S+)")[1]
        ).netloc

    def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """Ask at the control port; gives the JSON of the answer."""
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
        """Publish many at once; gives their ids."""
        body = json.dumps({"publications": publications}).encode()
        return [one["id"] for one in self.ask("POST", "/publish", body)["published"]]

    @property
    def memory(self) -> float:
        """What the process holds in memory, in MiB."""
        status = Path(f"/proc/{self.daemon.pid}/status").read_text()
        return next(
            int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS:")
        )


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Give a function that runs a daemon with options."""
    daemons: list[DaemonProcess] = []

    def start(*args: str) -> Node:
        control = ("--control", "tcp:0:interface=127.0.0.1")
        daemon = DaemonProcess([*control, *args], directory=tmp_path, patience=PATIENCE)
        daemons.append(daemon.__enter__())
        return Node(daemon)

    yield start
    for daemon in daemons:
        daemon.stop()


def by_websocket(node: Node, topic: str, after: str) -> Iterator[Heard]:
    """Listen with pushd.v1."""
    url = f"ws://{node.public}/topics/{topic}?after={after}"
    options: Any = {"subprotocols": ["pushd.v1"], "max_size": None, "open_timeout": PATIENCE}
    with connect(url, proxy=None, **options) as websocket:
        first = json.loads(websocket.recv(PATIENCE))
        assert first == {"subscribed": topic, "id": after, "recovered": True}
        try:
            while True:
                yield _heard(json.loads(websocket.recv(PATIENCE)))
        finally:
            # No Close: as if the cable was cut.
            websocket.socket.shutdown(socket.SHUT_RDWR)


def by_raw_websocket(node: Node, topic: str, after: str) -> Iterator[Heard]:
    """Listen without a subprotocol; ids can be counted as long as the first is known."""
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


def by_events(node: Node, topic: str, after: str) -> Iterator[Heard]:
    """Listen to Server-Sent Events, over a plain socket that is reset at the end."""
    host, _, port = node.public.rpartition(":")
    with socket.create_connection((host, int(port)), PATIENCE) as connection:
        # Closing is a reset, whatever was still to be read.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # HTTP/1.0, for which the stream comes as it is.
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


def by_long_poll(node: Node, topic: str, after: str) -> Iterator[Heard]:
    """Ask again and again."""
    connection = HTTPConnection(node.public, timeout=PATIENCE)
    try:
        while True:
            connection.request("GET", f"/topics/{topic}?after={after}&wait=25")
            answer = connection.getresponse()
            said = json.loads(answer.read())
            assert (answer.status, said["recovered"]) == (200, True), said
            after = said["id"]
            for one in said["publications"]:
                yield _heard(one)
    finally:
        connection.close()


TRANSPORTS = (by_websocket, by_raw_websocket, by_events, by_long_poll)


@pytest.mark.parametrize("seed", range(3))
def test_cut_at_random(run: Callable[..., Node], seed: int) -> None:
    """A client that is cut again and again, and comes back by any transport, misses nothing."""
    node = run(f"--history-size={PUBLICATIONS}")
    chance = random.Random(seed)
    first = _first_id(node, "news")
    publisher = Thread(target=_publish_all, args=(node, chance.random()))
    publisher.start()
    heard: list[Heard] = []
    cuts = 0
    try:
        deadline = monotonic() + PATIENCE * 4
        while len(heard) < PUBLICATIONS:
            assert monotonic() < deadline, f"{len(heard)} after {cuts} cuts"
            after = heard[-1][0] if heard else first
            stream = chance.choice(TRANSPORTS)(node, "news", after)
            heard += islice(stream, min(chance.randint(0, 500), PUBLICATIONS - len(heard)))
            stream.close()  # type: ignore[attr-defined]
            cuts += 1
    finally:
        publisher.join(PATIENCE)
    epoch = first.partition(":")[0]
    assert [id for id, _ in heard] == [f"{epoch}:{n}" for n in range(1, PUBLICATIONS + 1)]
    assert [data for _, data in heard] == [_data(n) for n in range(PUBLICATIONS)]
    assert cuts > 20
    _wait_until(lambda: node.ask("GET", "/topics/news")["subscribers"] == {})


def test_slow_reader(run: Callable[..., Node]) -> None:
    """One that does not read is cut off; one that does has had everything meanwhile."""
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
        # 100 publications are kept, 10 MB of them; the rest is some MB of room at work.
        assert node.memory - before < 60
        reader.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("listen", TRANSPORTS)
def test_burst(run: Callable[..., Node], listen: Callable[..., Iterator[Heard]]) -> None:
    """More than may be unsent, published in one go, does not cut off one that reads."""
    node = run("--max-buffered=100000")
    first = _first_id(node, "news")
    reader = listen(node, "news", first)
    for go in range(3):
        data = [f"{go} {number} {'x' * 30_000}" for number in range(30)]
        node.publish([{"topic": "news", "data": one} for one in data])
        # The first go is history; by the others the reader is here already.
        assert [heard for _, heard in islice(reader, len(data))] == data
    reader.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("listen", TRANSPORTS[:3])
def test_large_batch(run: Callable[..., Node], listen: Callable[..., Iterator[Heard]]) -> None:
    """A batch of eight times what may be unsent comes as a whole, however the reader lags."""
    node = run("--history-size=1000")
    reader = listen(node, "news", _first_id(node, "news"))
    data = [f"{number} {'x' * 8000}" for number in range(1000)]
    node.publish([{"topic": "news", "data": "first"}])
    assert next(reader)[1] == "first"
    publisher = Thread(
        target=node.publish, args=([{"topic": "news", "data": one} for one in data],)
    )
    publisher.start()
    heard = [one for _, one in islice(reader, len(data))]
    publisher.join(PATIENCE)
    assert heard == data
    reader.close()  # type: ignore[attr-defined]


def test_topics_used_once(run: Callable[..., Node]) -> None:
    """Topics that are used once leave no memory behind."""
    node = run("--history-ttl=1")

    def use(name: str, rounds: int) -> float:
        # In rounds, so that the most that are here at a time do not depend on the machine.
        for turn in range(rounds):
            for batch in range(20):
                node.publish(
                    [
                        {"topic": f"{name}/{turn}/{batch}/{number}", "data": "x"}
                        for number in range(1000)
                    ]
                )
            _wait_until(lambda: node.ask("GET", "/topics")["topics"] == [])
        return node.memory

    # What Python takes for the many that are here at a time it keeps for the next ones.
    before = use("warm", 3)
    after = use("once", 10)
    # If each left but its name and its epoch, this would be 30 MiB.
    assert after - before < 15, (before, after)


def _publish_all(node: Node, haste: float) -> None:
    """Publish all, in batches, with pauses, so that readers are now behind and now ahead."""
    for start in range(0, PUBLICATIONS, BATCH):
        node.publish(
            [{"topic": "news", "data": _data(number)} for number in range(start, start + BATCH)]
        )
        sleep(0.02 * haste)


def _data(number: int) -> str:
    return f"publication {number} é"


def _first_id(node: Node, topic: str) -> str:
    """Ask where a topic begins, as one does who polls."""
    connection = HTTPConnection(node.public, timeout=PATIENCE)
    connection.request("GET", f"/topics/{topic}?wait=0")
    said = json.loads(connection.getresponse().read())
    connection.close()
    id = said["id"]
    assert isinstance(id, str)
    assert id.endswith(":0")
    return id


def _heard(one: dict[str, str]) -> Heard:
    return one["id"], b64decode(one["base64"]) if "base64" in one else one["data"]


def _read_event(stream: Any) -> dict[str, str]:
    """Read one event; a comment is none."""
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
